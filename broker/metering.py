"""What the provider billed, read out of an answer while it passes. One stream meter for every dialect of server-sent events. Pure.

A figure never goes down: a later event that says less than an earlier one does not give tokens back, since nobody can know
which of the two the provider bills. What is no whole number from 0 to 2^31-1 counts as not reported, and a report with one such
figure as none.
"""

import codecs
from collections.abc import Hashable, Iterable, Mapping
from typing import Final, Protocol

import msgspec
from msgspec import Raw

from broker import sse
from broker.body import COUNT_MAX
from broker.chat import Usage
from broker.errors import ProviderUnavailable

TEXTS_MAX: Final = 256  # of one gauged stream; no API has half as many choices, or blocks
MEMBER_BYTES: Final = 64 << 10  # no report of usage is larger; what is, is not looked into
_SLICE_BYTES: Final = 64 << 10
_VALUE: Final = msgspec.json.Decoder()
_ABSENT: Final = Raw(b"")
_OPAQUE: Final = True
_JSON: Final = b"application/json"
# What a text may be to the caller: never a page that a browser would run
_TEXTS: Final = {
    b"text/plain": b"text/plain; charset=utf-8",
    b"text/vtt": b"text/vtt; charset=utf-8",
    b"application/x-subrip": b"application/x-subrip; charset=utf-8",
    _JSON: _JSON,
}


class _Looked(msgspec.Struct, gc=False):
    """The members of answers and events that any tally looks at.

    All others are skipped over, not built: 64 MiB of `[],` would be 1.5 GB of lists, and seconds in which nobody else is served.
    """

    type: Raw = _ABSENT
    status: Raw = _ABSENT
    usage: Raw = _ABSENT
    error: Raw = _ABSENT
    choices: Raw = _ABSENT
    message: Raw = _ABSENT


_LOOKED: Final = msgspec.json.Decoder(_Looked)


class Tally(Protocol):
    """A dialect's reading of its own answers and events."""

    @property
    def usage(self) -> Usage | None: ...
    @property
    def done(self) -> bool: ...
    @property
    def failed(self) -> bool: ...

    def is_plain(self, events: bytes) -> bool:
        """These whole events certainly say nothing that `event` must see."""
        ...

    def answer(self, value: Mapping[str, object]) -> None:
        """A complete answer that was not streamed."""
        ...

    def event(self, data: bytes) -> bool:
        """The data of one event. False = the caller did not ask for it."""
        ...

    def generated(self, data: bytes) -> Iterable[tuple[Hashable, str]]:
        """What of an event the model wrote, each piece with the text that it continues. Asked of every event of a gauged stream."""
        ...

    def last_words(self, usage: Usage) -> bytes:
        """The events that end a gauged stream as if the model had reached its output limit."""
        ...


class Gauge(Protocol):
    """Watches one stream that must not pass its hold.

    hold: what was held for it.
    """

    @property
    def hold(self) -> Usage: ...

    def passes(self, text: Hashable, piece: str) -> bool:
        """With this piece of a text, more was written than was held for."""
        ...


class CutOff(Exception):
    """A gauged stream has passed its hold.

    events: what the caller still gets: the events before, and the end as its dialect says it.
    """

    def __init__(self, events: bytes) -> None:
        super().__init__("the stream passed what was held for it")
        self.events: Final = events


class StreamMeter:
    """Carries bytes, and shows a Tally those events that it must see. Satisfies dialects.Meter."""

    __slots__ = ("_buffer", "_tally")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._buffer = sse.Buffer()

    @property
    def usage(self) -> Usage | None:
        return self._tally.usage

    @property
    def done(self) -> bool:
        return self._tally.done

    @property
    def failed(self) -> bool:
        return self._tally.failed

    def content_type(self, said: bytes) -> bytes:  # noqa: ARG002  that it is JSON is certain once it was read, whatever the provider called it
        """What a complete answer is to the caller. `said`: what the provider called it."""
        return _JSON

    def whole(self, body: bytes) -> Usage | None:
        if not body.isascii():
            _require_utf8(body)
        self._tally.answer(read_object(body))
        return self._tally.usage

    def stream(self, piece: bytes) -> bytes:
        events = self._buffer.take(piece)
        if not events or self._tally.is_plain(events):
            return events
        # Each on its own: what passes unread must not depend on which events came in one piece
        return b"".join([event for event in sse.split(events) if self._tally.is_plain(event) or self._is_kept(event)])

    def end(self) -> bytes:
        """An event that only lacks its empty line is passed on with one; half an event is a broken answer."""
        rest = self._buffer.rest()
        if not rest.strip():
            return rest  # the LF of a CRLF that was cut in two
        return rest + b"\n\n" if self._is_kept(rest) else b""

    def _is_kept(self, event: bytes) -> bool:
        data = sse.data(event)
        return not data or self._tally.event(data)


class GaugedMeter(StreamMeter):
    """Shows every piece of text to a gauge besides: reading each event costs, so it is made for streams with a ceiling alone."""

    __slots__ = ("_gauge",)

    def __init__(self, tally: Tally, gauge: Gauge) -> None:
        super().__init__(tally)
        self._gauge = gauge

    def stream(self, piece: bytes) -> bytes:
        kept: list[bytes] = []
        for event in sse.split(self._buffer.take(piece)):
            if not self._tally.done and self._passes(event):
                raise CutOff(b"".join(kept) + self._tally.last_words(self._gauge.hold))
            if self._tally.is_plain(event) or self._is_kept(event):
                kept.append(event)
        return b"".join(kept)

    def _passes(self, event: bytes) -> bool:
        data = sse.data(event)
        return bool(data) and any(self._gauge.passes(text, piece) for text, piece in self._tally.generated(data))


class TextMeter(StreamMeter):
    """For an answer that is a text and says nothing of usage. Of a type that no text has, nothing passes."""

    __slots__ = ()

    def content_type(self, said: bytes) -> bytes:
        found = _TEXTS.get(said.partition(b";")[0].strip().lower())
        if found is None:
            raise ProviderUnavailable("the provider answered a request for a text with something else; ask again, or for JSON")
        return found

    def whole(self, body: bytes) -> Usage | None:
        if not body.isascii():
            _require_utf8(body)
        return None


def meter(tally: Tally, gauge: Gauge | None) -> StreamMeter:
    return StreamMeter(tally) if gauge is None else GaugedMeter(tally, gauge)


def read_object(data: bytes) -> Mapping[str, object]:
    """An answer, or the data of an event: those of its members that tallies look at. One that is too large to be read is `True`.

    Raises:
        ProviderUnavailable: it is not a JSON object.
    """
    try:
        found = _LOOKED.decode(data)
        members: list[tuple[str, Raw]] = [(name, getattr(found, name)) for name in _Looked.__struct_fields__]
        return {name: _VALUE.decode(raw) if len(raw) <= MEMBER_BYTES else _OPAQUE for name, raw in members if raw}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _malformed() from None


def _require_utf8(body: bytes) -> None:
    """In slices: the text of a whole body would take up to four times its bytes."""
    reader = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(body), _SLICE_BYTES):
            reader.decode(body[at : at + _SLICE_BYTES])
        reader.decode(b"", final=True)
    except UnicodeDecodeError:
        raise _malformed() from None


def as_object(value: object) -> Mapping[str, object]:
    """An object, or an empty one for everything else."""
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]  JSON keys are strings


def count(value: object) -> int | None:
    """A reported figure, or None when it counts as not reported. `true` is no number."""
    if type(value) is int and 0 <= value <= COUNT_MAX:
        return value
    return None


def _malformed() -> ProviderUnavailable:
    return ProviderUnavailable("the provider's answer is not well-formed; ask again")
