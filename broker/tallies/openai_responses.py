"""Usage and text of OpenAI's responses.

Source: developers.openai.com/api/reference/responses (streaming events); event names and usage as openai-python types them.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Raw

from broker.chat import Usage
from broker.metering import MEMBER_BYTES, TEXTS_MAX, read_object
from broker.tallies.reported import Reported

# Tuples, since a provider may say anything in these places, also what no set can look for
_ENDS: Final = ("response.completed", "response.incomplete", "response.failed")
_BEGINS: Final = "response.created"
_UNENDED: Final = ("queued", "in_progress")
# What a model writes itself. A summary of its reasoning is written by another one, and billed as what it sums up.
_WRITTEN: Final = frozenset(
    {
        *("response.output_text.delta", "response.refusal.delta", "response.reasoning_text.delta"),
        *("response.function_call_arguments.delta", "response.custom_tool_call_input.delta", "response.mcp_call_arguments.delta"),
        *("response.code_interpreter_call_code.delta", "response.shell_call_command.delta"),
    }
)
_TEXT: Final = "response.output_text.delta"
_ABSENT: Final = Raw(b"")
_EMPTY: Final = Raw(b"{}")
_NONE: Final[tuple[()]] = ()
_VALUE: Final = msgspec.json.Decoder()


class _Reported(msgspec.Struct, gc=False):
    usage: Raw = _ABSENT


class _End(msgspec.Struct, gc=False):
    response: _Reported | None = None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    sequence_number: int = 0
    output_index: int = 0
    content_index: int = 0
    delta: Raw = _ABSENT
    item: Raw = _ABSENT
    response: Raw = _ABSENT


_END: Final = msgspec.json.Decoder(_End)
_EVENT: Final = msgspec.json.Decoder(_Event)
_PIECE: Final = msgspec.json.Decoder(str)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])


class _Item:
    """One item of the output as it grows: as its provider said it last, and the text that came since."""

    __slots__ = ("done", "said", "texts")

    def __init__(self, said: Raw) -> None:
        self.said = said
        self.done = False
        self.texts: dict[int, list[str]] = {}


class ResponsesTally:
    """Usage of one answer. Satisfies metering.Tally.

    It comes with the last event alone, whatever that says of how the response ended; an answer that is still being made in the
    background has none, whatever it says. One figure that cannot be spoils the report.
    """

    __slots__ = ("_items", "_number", "_reported", "_response", "done", "failed", "usage")

    def __init__(self) -> None:
        self._reported = Reported("input_tokens", "output_tokens")
        self._response: Raw = _EMPTY
        self._items: dict[int, _Item] = {}
        self._number = 0
        self.usage: Usage | None = None
        self.done = False
        self.failed = False

    def is_plain(self, events: bytes) -> bool:
        return b'"error"' not in events and not any(end in events for end in _ENDS_IN_BYTES)

    def answer(self, value: Mapping[str, object]) -> None:
        if value.get("status") not in _UNENDED:
            self._add(value.get("usage"))
        self.done = self.usage is not None

    def event(self, data: bytes) -> bool:
        if data.strip() == b"[DONE]":  # some servers end as they end chats
            return True
        value = read_object(data)
        kind = value.get("type")
        if kind in _ENDS:
            self._add(_usage_in(data))
            self.done = self.usage is not None
            self.failed = kind == "response.failed"
        elif kind == "error" or value.get("error"):
            self.failed = True
        return True

    def generated(self, data: bytes) -> Iterator[tuple[Hashable, str]]:
        if data.strip() == b"[DONE]":
            return
        try:
            event = _EVENT.decode(data)
            piece = _PIECE.decode(event.delta) if event.type in _WRITTEN and event.delta else ""
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield "unread", data.decode(errors="replace")  # whatever it is, it is not more than this
            return
        if piece:
            yield (event.output_index, event.content_index, event.type), piece
        self._follow(event, piece)  # after the gauge has let it pass: a piece that it stops does not reach the caller

    def last_words(self, usage: Usage) -> bytes:
        """The response as far as it came, incomplete as one that reached its output limit."""
        response: dict[str, object] = {
            **_members(self._response),
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [said for _, item in sorted(self._items.items()) if (said := _said(item)) is not None],
            "usage": {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.input_tokens + usage.output_tokens,
            },
        }
        end = {"type": "response.incomplete", "sequence_number": self._number + 1, "response": response}
        return b"event: response.incomplete\ndata: %b\n\n" % msgspec.json.encode(end)

    def _follow(self, event: _Event, piece: str) -> None:
        """Keep what the last words are made of."""
        self._number = event.sequence_number
        if event.type == _BEGINS and event.response:
            self._response = _as_text(event.response)
        elif event.type == "response.output_item.added" and event.item and len(self._items) < TEXTS_MAX:
            self._items[event.output_index] = _Item(_as_text(event.item))
        elif (item := self._items.get(event.output_index)) is None:
            return
        elif event.type == "response.output_item.done" and event.item:
            item.said, item.done = _as_text(event.item), True
            item.texts.clear()
        elif event.type == _TEXT and (event.content_index in item.texts or len(item.texts) < TEXTS_MAX):
            item.texts.setdefault(event.content_index, []).append(piece)

    def _add(self, reported: object) -> None:
        self._reported.add(reported)
        self.usage = self._reported.usage


_ENDS_IN_BYTES: Final = tuple(end.encode() for end in _ENDS)


def _usage_in(data: bytes) -> object:
    """The report in a last event, whose response repeats all that was written."""
    try:
        found = _END.decode(data).response
        raw = found.usage if found is not None else _ABSENT
        return _VALUE.decode(raw) if 0 < len(raw) <= MEMBER_BYTES else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _as_text(said: Raw) -> Raw:
    """What may be said again: a provider's bytes pass as they are, our own words are text."""
    try:
        bytes(said).decode()
    except UnicodeDecodeError:
        return _EMPTY
    return said


def _members(said: Raw) -> dict[str, Raw]:
    try:
        return _MEMBERS.decode(said)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _said(item: _Item) -> object:
    """A finished item as it came, a message as far as it came; half a call, or half a thought, is of no use to anybody."""
    if item.done:
        return item.said
    if not item.texts:
        return None
    texts = ["".join(pieces) for _, pieces in sorted(item.texts.items())]
    parts = [{"type": "output_text", "text": text, "annotations": _NONE, "logprobs": _NONE} for text in texts]
    return {**_members(item.said), "status": "incomplete", "content": parts}
