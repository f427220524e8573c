"""Usage of texts made of sound.

Source: developers.openai.com/api/reference/audio (transcription object, streaming events), as openai-python types them; for compatible
servers, the documentation of vLLM, which streams as chats do.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Final

from broker.chat import Usage
from broker.metering import as_object, count, read_object

_END: Final = b"[DONE]"
_NO_TOKENS: Final = Usage(0, 0)


class AudioTally:
    """Usage of one answer. Satisfies metering.Tally.

    Sound that is billed by its duration takes no tokens. A stream's report comes with its last event alone.
    """

    __slots__ = ("done", "failed", "usage")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.done = False
        self.failed = False

    def is_plain(self, events: bytes) -> bool:
        return b'"usage"' not in events and b'"error"' not in events

    def answer(self, value: Mapping[str, object]) -> None:
        self._add(value.get("usage"))

    def event(self, data: bytes) -> bool:
        if data.strip() == _END:
            return True
        value = read_object(data)
        if value.get("error"):
            self.failed = True
        self._add(value.get("usage"))
        return True

    def generated(self, data: bytes) -> Iterable[tuple[Hashable, str]]:  # noqa: ARG002  no gauge watches it: nothing is held that it could pass
        return ()

    def last_words(self, usage: Usage) -> bytes:  # noqa: ARG002  it is not ended for its tokens
        return b""

    def _add(self, reported: object) -> None:
        said = as_object(reported)
        found = _NO_TOKENS if said.get("type") == "duration" else made(said)
        if found is None:
            return
        before = self.usage or _NO_TOKENS
        self.usage = Usage(max(found.input_tokens, before.input_tokens), max(found.output_tokens, before.output_tokens))
        self.done = True


def made(usage: Mapping[str, object]) -> Usage | None:
    """Tokens of a text made of sound, or of a picture; None where a figure is missing, or none.

    What the total has beyond both is input too: Mistral counts the sound's own tokens there alone.
    """
    prompt = count(usage.get("input_tokens", usage.get("prompt_tokens")))
    output = count(usage.get("output_tokens", usage.get("completion_tokens")))
    total = count(usage.get("total_tokens", 0))
    return None if prompt is None or output is None or total is None else Usage(max(prompt, total - output), output)
