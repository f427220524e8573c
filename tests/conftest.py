"""What all tests share: tests/support/ is importable, hypothesis is bounded and repeatable, logging is as it was after each test, and
a Ctrl-C ends what they start.
"""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# A script that starts us with & or nohup lets us ignore it, and so would our children.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.register_profile("laptop", max_examples=100, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "laptop")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A broker that starts in a test's process takes all logs of it, at its own level; the next test must not see that."""
    root = logging.getLogger()
    handlers, level, hooks = list(root.handlers), root.level, (sys.excepthook, threading.excepthook)
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
