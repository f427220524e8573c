"""Usage and text of OpenAI's legacy completions, whose usage is reported as that of chats.

Source: developers.openai.com/api/reference/completions.
"""

from collections.abc import Hashable, Iterator
from typing import Final

import msgspec

from broker.tallies.openai_chat import ChatTally


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    text: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None


_CHUNK: Final = msgspec.json.Decoder(_Chunk)


class CompletionsTally(ChatTally):
    """Usage of one answer.

    echoes: the answers begin with their prompts, and nobody can tell where they end: then no text is shown to a gauge, which would
        take prompts for output.
    """

    __slots__ = ("_echoes",)

    KIND = "text_completion"

    def __init__(self, *, asked_usage: bool, echoes: bool) -> None:
        super().__init__(asked_usage=asked_usage)
        self._echoes = echoes

    def generated(self, data: bytes) -> Iterator[tuple[Hashable, str]]:
        for text, piece in super().generated(data):
            if text == "unread" and not self._echoes:
                yield text, piece
        if self._echoes:
            return
        try:
            chunk = _CHUNK.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # the end of the stream, or what was shown as unread
        for choice in chunk.choices or ():
            if choice.text:
                yield choice.index, choice.text

    def cut(self, choice: int) -> dict[str, object]:
        return {"index": choice, "text": "", "logprobs": None, "finish_reason": "length"}
