"""Audit files, line by line, in bounded memory: for who adds up, who shows and who verifies."""

from collections.abc import Iterator
from typing import IO, NamedTuple

from broker.audit import lines


class Raw(NamedTuple):
    """One line as it stands, with its line end; b"" when it is longer than any of ours. `number` counts from 1."""

    number: int
    bytes: bytes


def lines_of(file: IO[bytes]) -> Iterator[Raw]:
    number, most = 0, lines.LINE_BYTES
    while raw := file.readline(most + 1):
        number += 1
        whole = raw
        while len(raw) > most and not raw.endswith(b"\n"):
            raw = file.readline(most + 1)
            whole = b""
        yield Raw(number, whole)
