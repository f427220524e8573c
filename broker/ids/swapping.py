"""JSON in, the same JSON with other ids out. What is not on the way to an id is not parsed, and passes byte for byte.

Ids are found by the names of the members that they stand in, never by their looks. Every object that is looked into is written anew
from unique members, so that a second member of the same name hides nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import Raw

from broker import body as bodies
from broker import sse
from broker.grant import Feature
from broker.sealing import Kind

Swap = Callable[[Kind, str, str], str]  # an id of this kind, which stands there, to the one that takes its place

PLACES_MAX: Final = 60_000  # objects and ids of one value: a fifth of a second
WRITTEN_BYTES: Final = 8 << 20  # of the ids that are put into one value: a sealed id may have a thousand times the bytes of its own
VALUES_MAX: Final = 200_000  # commas: as many members take 60 MiB to read, and a fifth of a second

_OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])
_ARRAY: Final = msgspec.json.Decoder(list[Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_OPENS_OBJECT, _OPENS_ARRAY, _OPENS_TEXT, _NULL = b'{["n'


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the ids of one kind of object stand, or of each object in an array.

    ids: members that are an id, or an array of them.
    below: members that have ids further in.
    text: what the value itself is where it is no object but a text; None = a text without an id.
    """

    ids: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    below: Mapping[str, "Shape"] = field(default_factory=dict[str, "Shape"])
    text: Kind | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where the ids of a dialect stand.

    answer: in whole answers of any of its routes. event: in the data of one event.
    keeps: answers are kept unless the request says otherwise.
    only_with: without one of these features nothing that is kept is named, whatever is granted; none = always.
    """

    request: Shape
    answer: Shape
    event: Shape
    keeps: bool = False
    only_with: frozenset[Feature] = frozenset()


class Unreadable(Exception):
    """What should be JSON with ids in it is not, or has too many. `str(error)` is where."""


def swap(text: bytes, shape: Shape, how: Swap) -> bytes:
    """A JSON object with each of its ids swapped.

    Raises:
        Unreadable: it is none, is not well-formed as far as it is looked into, or has something else in the place of an id; or looking
            into it would take too long.
    """
    value = text.strip()
    if not value.startswith(b"{") or (len(value) > VALUES_MAX and value.count(b",") > VALUES_MAX):
        raise Unreadable("")
    try:
        return _Swapping(how).object(value, shape, "")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable("") from None


def swap_event(event: bytes, shape: Shape, how: Swap) -> bytes:
    """One event with the ids in its data swapped. Of its other fields only its name goes on; of one without data, that it came.

    Raises:
        Unreadable: its data is no JSON object.
    """
    data = sse.data(event)
    if not data:
        return b":\n\n" if event.strip() else event
    if data.strip() == b"[DONE]":
        return b"data: [DONE]\n\n"
    if b"\n" in data:  # several lines of data: written anew in one
        data = _compact(data)
    written = swap(data, shape, how)
    name = sse.name(event)
    return b"event: %b\ndata: %b\n\n" % (name, written) if name else b"data: %b\n\n" % written


def _compact(data: bytes) -> bytes:
    try:
        return msgspec.json.format(data, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable("") from None


class _Swapping:
    """One walk through one value. How deep it goes is up to the shape, and never to the value."""

    __slots__ = ("_how", "_left", "_room_bytes")

    def __init__(self, how: Swap) -> None:
        self._how = how
        self._left = PLACES_MAX
        self._room_bytes = WRITTEN_BYTES

    def object(self, value: bytes | Raw, shape: Shape, at: str) -> bytes:
        self._count(at)
        members: dict[str, bytes | Raw] = {**_OBJECT.decode(value)}
        for name, kind in shape.ids.items():
            if name in members:
                members[name] = self._ids(members[name], kind, f"{at}.{name}" if at else name)
        for name, below in shape.below.items():
            if name in members:
                members[name] = self._below(members[name], below, f"{at}.{name}" if at else name)
        return bodies.join(members)

    def _below(self, value: bytes | Raw, shape: Shape, at: str) -> bytes | Raw:
        if memoryview(value)[0] == _OPENS_ARRAY:
            return b"[%b]" % b",".join([self._one(each, shape, at) for each in _ARRAY.decode(value)])
        return self._one(value, shape, at)

    def _one(self, value: bytes | Raw, shape: Shape, at: str) -> bytes | Raw:
        opens = memoryview(value)[0]
        if opens == _OPENS_ARRAY:
            raise Unreadable(at)  # an array in an array, where no id has its place, and which would not be looked into
        if opens == _OPENS_OBJECT:
            return self.object(value, shape, at)
        if opens == _OPENS_TEXT and shape.text is not None:
            return self._id(value, shape.text, at)
        return value

    def _ids(self, value: bytes | Raw, kind: Kind, at: str) -> bytes | Raw:
        if memoryview(value)[0] == _OPENS_ARRAY:
            return b"[%b]" % b",".join([self._id(each, kind, at) for each in _ARRAY.decode(value)])
        return self._id(value, kind, at)

    def _id(self, value: bytes | Raw, kind: Kind, at: str) -> bytes | Raw:
        opens = memoryview(value)[0]
        if opens == _NULL:
            return value
        if opens != _OPENS_TEXT:
            raise Unreadable(at)
        self._count(at)
        written = bodies.quote(self._how(kind, _TEXT.decode(value), at))
        self._room_bytes -= len(written)
        if self._room_bytes < 0:
            raise Unreadable(at)
        return written

    def _count(self, at: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise Unreadable(at)
