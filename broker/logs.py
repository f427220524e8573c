"""Logs: one line per event, JSON for machines, text on a terminal; no line can be forged, and no live credential gets out.

The message of a record is the name of the event, its facts come in `extra`. What is taken out here is the last resort: rooms
put no secret into a message, an exception text or a fact to begin with.
"""

import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, TextIO, cast

from broker.cells import plain

REDACTED: Final = "[redacted]"
SHORTEST_SECRET: Final = 6  # taking out shorter ones would shred every line and hide little
_OURS: Final = re.compile(r"[a-z][a-z_]*").fullmatch
_PLAIN: Final = re.compile(r"[!#-&(-\[\]-~]*").fullmatch  # visible ASCII without quotes and backslash: nothing escapes it
STYLES: Final = ("auto", "json", "text")
STANDARD: Final = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))

Secrets = Callable[[], Iterable[str]]


def configure(stream: TextIO, secrets: Secrets, level: str = "info", style: str = "auto") -> None:
    """Send every log of this process, warnings and uncaught exceptions to the stream. Called once, by the command line.

    secrets: the credential values that live now; asked for each line, because they change.
    style: `json`, `text`, or `auto`: text on a terminal.

    Raises:
        ValueError: there is no such level or style.
    """
    if style not in STYLES:
        raise ValueError(f"{style!r} is none of {', '.join(STYLES)}")
    handler = _Handler(stream)
    handler.setFormatter(Text(secrets) if style == "text" or (style == "auto" and stream.isatty()) else Json(secrets))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(capture=True)
    warnings.simplefilter("default")
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def listening(role: str, identity: str, doors: Mapping[str, str]) -> None:
    """Say, in the one line of a start, what listens where and as whom."""
    logging.getLogger("broker").info("listening", extra={"role": role, "identity": identity or "(no SVID yet)", **doors})


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's own name
        """Say that a line could not be formatted, without the line: what broke the formatting may hold anything."""
        self.stream.write(f"a log line of {record.name} at {record.filename}:{record.lineno} could not be written\n")


class _Redacting(logging.Formatter):
    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def clean(self, value: object) -> str:
        """The text without the live credentials, as they are, and as JSON and Python would escape them."""
        text = str(value)
        for secret in self._secrets():
            if len(secret) >= SHORTEST_SECRET:
                for form in _forms(secret):
                    text = text.replace(form, REDACTED)
        return text

    def event(self, record: logging.LogRecord) -> str:
        """The name of the event is our own word: whoever keeps it as a key in a Secret takes it out of nobody's log."""
        return record.getMessage() if not record.args and _OURS(str(record.msg)) else self.clean(record.getMessage())

    def facts(self, record: logging.LogRecord) -> dict[str, object]:
        facts = {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info and record.exc_info[0]:
            facts["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            facts["stack"] = record.stack_info
        return facts


class Json(_Redacting):
    """One JSON object a line: time, level, logger, event, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        event = self.event(record)
        line: dict[str, object] = {"time": _moment(record), "level": record.levelname.lower(), "logger": record.name, "event": event}
        for name, value in self.facts(record).items():
            line[f"{name}_" if name in line else name] = self._fact(value)
        return json.dumps(line).replace("\x7f", "\\u007f")  # ASCII only: what steers a terminal is escaped too

    def _fact(self, value: object) -> object:
        """Numbers and lists as they are, all else as text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self._fact(one) for one in cast("Sequence[object]", value)]
        return self.clean(value)


class Text(_Redacting):
    """For eyes: `11:45:00 WARNING policy_rejected policy=team1/x`, a traceback indented below."""

    def format(self, record: logging.LogRecord) -> str:
        facts = self.facts(record)
        below = "".join(f"\n    {self._safe(line)}" for key in ("traceback", "stack") for line in str(facts.pop(key, "")).splitlines())
        said = "".join(f" {name}={self._safe(_in_words(value))}" for name, value in facts.items())
        return f"{_moment(record)[11:19]} {record.levelname:<7} {plain(self.event(record))}{said}{below}"

    def _safe(self, value: object) -> str:
        return plain(self.clean(value))


def _forms(secret: str) -> set[str]:
    """As it is, and as JSON and Python would escape it. There may be thousands, and each line is looked through for all of them."""
    return {secret} if _PLAIN(secret) else {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]}


def _in_words(value: object) -> object:
    """Lists as people write them."""
    return ", ".join(map(str, cast("Sequence[object]", value))) if isinstance(value, list | tuple) else value


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, KeyboardInterrupt):
        logging.getLogger("broker").critical("uncaught", exc_info=(kind, error, trace))
