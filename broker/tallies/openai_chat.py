"""Usage and text of OpenAI's chat completions.

Source: developers.openai.com/api/reference/chat-completions (usage, streaming); docs.x.ai, "Consumption and rate limits", and Google's
OpenAI compatibility, for reasoning that is in the total alone.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Raw

from broker.chat import Usage
from broker.metering import TEXTS_MAX, as_object, read_object
from broker.tallies.reported import Reported

_END: Final = b"[DONE]"
_ABSENT: Final = Raw(b"null")


class _Function(msgspec.Struct, gc=False):
    arguments: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: int = 0
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    """What a model writes. Some servers say their reasoning under both names at once, so one of them counts."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    id: Raw = _ABSENT
    created: Raw = _ABSENT
    model: Raw = _ABSENT
    choices: list[_Choice] | None = None


_CHUNK: Final = msgspec.json.Decoder(_Chunk)


class ChatTally:
    """Usage of one answer. Satisfies metering.Tally.

    Final is what comes in a chunk without choices, or before `[DONE]`: servers that report along the way
    (continuous_usage_stats) do so in chunks with choices. One figure that cannot be spoils the whole report.
    """

    __slots__ = ("_asked_usage", "_chunk", "_open", "_reported", "done", "failed", "usage")

    KIND = "chat.completion.chunk"

    def __init__(self, *, asked_usage: bool) -> None:
        self._asked_usage = asked_usage
        self._reported = Reported("prompt_tokens", "completion_tokens")
        self._chunk = _Chunk()
        self._open: dict[int, bool] = {}
        self.usage: Usage | None = None
        self.done = False
        self.failed = False

    def is_plain(self, events: bytes) -> bool:
        return (
            (b'"usage"' not in events or events.count(b'"usage"') == events.count(b'"usage":null'))
            and _END not in events
            and b'"error"' not in events
        )

    def answer(self, value: Mapping[str, object]) -> None:
        self._add(value.get("usage"))
        self.done = self.usage is not None

    def event(self, data: bytes) -> bool:
        if data.strip() == _END:
            self.done = self.usage is not None
            return True
        value = read_object(data)
        if value.get("error"):
            self.failed = True
        usage = as_object(value.get("usage"))
        self._add(usage)
        if value.get("choices") != [] or not usage:
            return True
        self.done = self.usage is not None
        return self._asked_usage

    def generated(self, data: bytes) -> Iterator[tuple[Hashable, str]]:
        if data.strip() == _END:
            return
        try:
            chunk = self._chunk = _CHUNK.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield "unread", data.decode(errors="replace")  # whatever it is, it is not more than this
            return
        for choice in chunk.choices or ():
            if len(self._open) < TEXTS_MAX or choice.index in self._open:
                self._open[choice.index] = choice.finish_reason is None
            if choice.delta is not None:
                yield from _written(choice.index, choice.delta)

    def last_words(self, usage: Usage) -> bytes:
        last = self._chunk
        about = {"id": _as_text(last.id), "object": self.KIND, "created": _as_text(last.created), "model": _as_text(last.model)}
        cut = [self.cut(choice) for choice, is_open in self._open.items() if is_open]
        words = _event({**about, "choices": cut or [self.cut(0)]})
        if self._asked_usage:
            held = {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
            }
            words += _event({**about, "choices": [], "usage": held})
        return words + b"data: [DONE]\n\n"

    def cut(self, choice: int) -> dict[str, object]:
        """The last words of one answer."""
        return {"index": choice, "delta": {}, "logprobs": None, "finish_reason": "length"}

    def _add(self, reported: object) -> None:
        self._reported.add(reported)
        self.usage = self._reported.usage
        self.done = self.done and self.usage is not None  # a last word that was spoilt since is none


def _as_text(said: Raw) -> Raw:
    """What may be said again: a provider's bytes pass as they are, our own words are text."""
    try:
        bytes(said).decode()
    except UnicodeDecodeError:
        return _ABSENT
    return said


def _written(choice: int, delta: _Delta) -> Iterator[tuple[Hashable, str]]:
    for name, piece in (("content", delta.content), ("refusal", delta.refusal), ("reasoning", delta.reasoning_content or delta.reasoning)):
        if piece:
            yield (choice, name), piece
    for call in delta.tool_calls or ():
        if call.function is not None and call.function.arguments:
            yield (choice, call.index), call.function.arguments
    if delta.function_call is not None and delta.function_call.arguments:
        yield (choice, "call"), delta.function_call.arguments


def _event(value: Mapping[str, object]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)
