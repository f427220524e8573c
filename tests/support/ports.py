"""Ports of loopback for servers that must be told theirs before they start.

They lie below those that a kernel gives to outgoing connections: one of these may be taken in the moment between the question and the
server's start. None is given twice in one run, and runs side by side begin at different places.
"""

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

FIRST: Final = 10_000
COUNT: Final = 20_000
STEP: Final = 97  # coprime to COUNT, so that every port has its turn

_turns: Final = itertools.count(os.getpid() * 1009)


def free_port() -> int:
    """A port that nobody listens at now, and that this run has not given out before."""
    for turn in itertools.islice(_turns, COUNT):
        port = FIRST + turn * STEP % COUNT
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError(f"no port is free from {FIRST} to {FIRST + COUNT - 1}: end the servers that were left running")


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses every connection, and that nobody else can take meanwhile."""
    with socket.socket() as bound:  # without a listener
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
