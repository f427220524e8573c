"""What an API server says, in bytes: pages of a list, and the events of a watch, one JSON object a line. Pure.

Whoever may write objects decides what is in them, so nothing here trusts a length or a depth.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec

from broker.objects.reading import as_mapping

LINE_BYTES: Final = 8 << 20  # etcd takes 1.5 MiB an object unless told otherwise
DEPTH: Final = 64
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)

_T = TypeVar("_T")


class Unreadable(Exception):
    """It is not what an API server says."""


class _ListMeta(msgspec.Struct):
    version: str = msgspec.field(default="", name="resourceVersion")
    more: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct):
    """One page of a list. `metadata.more` is the token of the next page; "" = this was the last."""

    metadata: _ListMeta
    items: tuple[msgspec.Raw, ...] | None = None


class Event(msgspec.Struct):
    """One event of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: msgspec.Raw


def read_page(data: bytes) -> Page:
    """Read one page.

    Raises:
        Unreadable: it is none.
    """
    return _decode(data, Page)


def read_event(line: bytes) -> Event:
    """Read one line of a watch.

    Raises:
        Unreadable: it is no event.
    """
    return _decode(line, Event)


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


def read_status(data: msgspec.Raw | bytes) -> tuple[int, str]:
    """Code and message of a Status, as far as it is one: (0, "") says nothing."""
    try:
        status = _decode(bytes(data), _Status)
    except Unreadable:
        return 0, ""
    return status.code, status.message


def read_object(raw: msgspec.Raw, make: Callable[[dict[str, object]], _T]) -> _T:
    """Make something of an object. Every field is there, known or not.

    Raises:
        Unreadable: it is no JSON object.
    """
    data = bytes(raw)
    try:
        return make(_fields(data))
    except RecursionError:
        return make(_fields(shallow(data)))


def _fields(data: bytes) -> dict[str, object]:
    fields = as_mapping(_decode(data, object))
    if fields is None:
        raise Unreadable("an object is no mapping")
    return dict(fields)


def _decode(data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        return msgspec.json.decode(shallow(data), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise Unreadable(f"what the API server sent cannot be read: {wrong}") from None


def shallow(data: bytes) -> bytes:
    """The same JSON with null for whatever lies deeper than DEPTH levels.

    No object of ours is a quarter as deep: where somebody nests a thousand levels, the field is one that nobody knows, and
    stays so; but it must not keep anybody else's objects from being read.
    """
    kept: list[bytes] = []
    depth = begin = 0
    for token in _TOKEN.finditer(data):
        mark = token.group()
        if mark in (b"{", b"["):
            depth += 1
            if depth == DEPTH + 1:
                kept += (data[begin : token.start()], b"null")
        elif mark in (b"}", b"]"):
            if depth == DEPTH + 1:
                begin = token.end()
            depth -= 1
    kept.append(data[begin:])
    return b"".join(kept)


class Lines:
    """Cuts a stream of bytes into lines, each of at most `most_bytes`."""

    def __init__(self, most_bytes: int = LINE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held = bytearray()
        self._looked = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Every line that is whole now; empty ones are left out.

        Raises:
            Unreadable: a line is too long.
        """
        self._held += chunk
        while (end := self._held.find(b"\n", self._looked)) >= 0:
            line = bytes(self._held[:end])
            del self._held[: end + 1]
            self._looked = 0
            if line:
                yield line
        self._looked = len(self._held)
        if self._looked > self._most_bytes:
            raise Unreadable(f"an event has more than {self._most_bytes} bytes")
