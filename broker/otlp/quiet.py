"""What OpenTelemetry's SDK logs stays here: it writes a line for every batch, and quotes errors that may quote a header's value."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

LOGGER: Final = "opentelemetry"
HTTP_LOGGER: Final = "urllib3"


@contextmanager
def hushed() -> Generator[None]:
    """No line of the SDK's, nor of the HTTP client's below it, reaches our log meanwhile."""
    nothing = logging.NullHandler()
    below = [logging.getLogger(name) for name in (LOGGER, HTTP_LOGGER)]
    before = [(each.propagate, each.level) for each in below]
    for each in below:
        each.propagate = False
        each.setLevel(logging.WARNING)
        each.addHandler(nothing)
    try:
        yield
    finally:
        for each, (propagate, level) in zip(below, before, strict=True):
            each.removeHandler(nothing)
            each.propagate = propagate
            each.setLevel(level)
