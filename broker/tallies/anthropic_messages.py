"""Usage and text of Anthropic's messages.

Source: platform.claude.com/docs/en/build-with-claude/streaming; event names and usage as anthropic-python types them.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Final

import msgspec

from broker.chat import Usage
from broker.metering import TEXTS_MAX, as_object, count, read_object


class _Delta(msgspec.Struct, gc=False):
    """What a model writes. A signature and a citation are no output."""

    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None


_EVENT: Final = msgspec.json.Decoder(_Event)


class MessagesTally:
    """Usage of one answer. Satisfies metering.Tally.

    message_start says the input, message_delta the output so far and, sometimes, the input again: all of it cumulative.
    One figure that cannot be spoils the whole report.
    """

    __slots__ = ("_figures", "_open", "_spoilt", "done", "failed")

    FIGURES: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")

    def __init__(self) -> None:
        self._figures: dict[str, int] = {}
        self._open: dict[int, None] = {}
        self._spoilt = False
        self.done = False
        self.failed = False

    @property
    def usage(self) -> Usage | None:
        figures = self._figures
        if self._spoilt or "input_tokens" not in figures or "output_tokens" not in figures:
            return None
        cached = figures.get("cache_read_input_tokens", 0)
        written = figures.get("cache_creation_input_tokens", 0)
        return Usage(figures["input_tokens"] + written + cached, figures["output_tokens"], cached, written)

    def is_plain(self, events: bytes) -> bool:
        return b'"usage"' not in events and b"message_stop" not in events and b'"error"' not in events

    def answer(self, value: Mapping[str, object]) -> None:
        self._add(value.get("usage"), self.FIGURES)
        self.done = self.usage is not None

    def event(self, data: bytes) -> bool:
        value = read_object(data)
        kind = value.get("type")
        if kind == "message_start":
            self._add(as_object(value.get("message")).get("usage"), self.FIGURES[:3])  # its output count is a beginning
        elif kind == "message_delta":
            self._add(value.get("usage"), self.FIGURES)
        elif kind == "message_stop":
            self.done = self.usage is not None
        elif kind == "error":
            self.failed = True
        return True

    def generated(self, data: bytes) -> Iterator[tuple[Hashable, str]]:
        try:
            event = _EVENT.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield "unread", data.decode(errors="replace")  # whatever it is, it is not more than this
            return
        if event.type == "content_block_start" and len(self._open) < TEXTS_MAX:
            self._open[event.index] = None
        elif event.type == "content_block_stop":
            self._open.pop(event.index, None)
        elif event.type == "content_block_delta" and event.delta is not None:
            for piece in (event.delta.text, event.delta.thinking, event.delta.partial_json):
                if piece:
                    yield event.index, piece

    def last_words(self, usage: Usage) -> bytes:
        end = {"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": None}}
        return b"".join(
            [
                *(_event({"type": "content_block_stop", "index": index}) for index in self._open),
                _event({**end, "usage": {"output_tokens": usage.output_tokens}}),
                _event({"type": "message_stop"}),
            ]
        )

    def _add(self, value: object, names: tuple[str, ...]) -> None:
        usage = as_object(value)
        for name in names:
            if (reported := usage.get(name)) is None:
                continue
            figure = count(reported)
            if figure is None:
                self._spoilt = True
            else:
                self._figures[name] = max(figure, self._figures.get(name, 0))


def _event(value: Mapping[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(value["type"]).encode(), msgspec.json.encode(value))
