"""What OpenTelemetry's SDK logs stays here: it writes a line for every batch, and quotes errors that may quote a header's value."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

LOGGER: Final = "opentelemetry"
HTTP_LOGGER: Final = "urllib3"
_PHRASES: Final = frozenset(status.phrase for status in HTTPStatus)


class Reasons(logging.Handler):
    """Remembers of the last line what is certainly no secret: a status, its usual words, and the kind of an error."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        said = record.args if isinstance(record.args, tuple) else ()
        self.last = ", ".join(filter(None, map(_known, said))) or self.last


def _known(part: object) -> str:
    if isinstance(part, Exception):
        return type(part).__name__
    return str(part) if type(part) is int or part in _PHRASES else ""


@contextmanager
def hushed() -> Generator[Reasons]:
    """No line of the SDK's, nor of the HTTP client's below it, reaches our log meanwhile."""
    reasons = Reasons()
    below = [logging.getLogger(name) for name in (LOGGER, HTTP_LOGGER)]
    before = [(each.propagate, each.level) for each in below]
    for each in below:
        each.propagate = False
        each.setLevel(logging.WARNING)
        each.addHandler(reasons)
    try:
        yield reasons
    finally:
        for each, (propagate, level) in zip(below, before, strict=True):
            each.removeHandler(reasons)
            each.propagate = propagate
            each.setLevel(level)
