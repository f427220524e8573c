"""The words of an attempt as attributes of its span: redacted first, then cut to a bounded size. Runs on the exporter's thread."""

from collections.abc import Sequence
from typing import Final

import msgspec

from broker import genai
from broker.otlp import messages
from broker.otlp.messages import Message, Part
from broker.otlp.redaction import Clean
from broker.overheard import Words

TEXT_LETTERS: Final = 16_384  # of each attribute
OVERLAP: Final = 4096  # read beyond that, since what is redacted gets shorter
PART_LETTERS: Final = 32  # what a part costs beside its text, so that their number is bounded too
CUT: Final = "[cut]"
UNKNOWN: Final = "unknown"

Value = str | bool


def attributes(words: Words, dialect: str, clean: Clean, *, streaming: bool) -> dict[str, Value]:
    """What the span says of them."""
    asked = messages.asked(dialect, words.asked)
    answered = messages.answered(dialect, b"".join(words.answered), streaming=streaming)
    found: dict[str, Value] = {}
    pages = _Page(clean), _Page(clean), _Page(clean)
    written = {
        genai.SYSTEM_INSTRUCTIONS: pages[0].parts(asked.instructions),
        genai.INPUT_MESSAGES: pages[1].messages(asked.messages, ended=False),
        genai.OUTPUT_MESSAGES: pages[2].messages(answered, ended=True),
    }
    found |= {name: msgspec.json.encode(said).decode() for name, said in written.items() if said}
    if words.cut or any(page.cut for page in pages):
        found[genai.CONTENT_CUT] = True
    return found


class _Page:
    """One attribute: so much room, and the last words matter most."""

    def __init__(self, clean: Clean) -> None:
        self._clean = clean
        self._room = TEXT_LETTERS
        self.cut = False

    def messages(self, said: Sequence[Message], *, ended: bool) -> list[dict[str, object]]:
        """Those that have a part, in their order. `ended`: each says why it did."""
        found: list[dict[str, object]] = []
        for message in reversed(said):
            parts = self.parts(message.parts)
            if parts:
                one: dict[str, object] = {"role": self._word(message.role) or UNKNOWN, "parts": parts}
                found.append(one | {"finish_reason": self._word(message.end) or UNKNOWN} if ended else one)
        return found[::-1]

    def parts(self, said: Sequence[Part]) -> list[Part]:
        found = [part for part in map(self._part, reversed(said)) if part is not None]
        return found[::-1]

    def _part(self, part: Part) -> Part | None:
        self._room -= PART_LETTERS
        if self._room <= 0:
            self.cut = True
            return None
        return {field: (self._word(value) or UNKNOWN) if field == "type" else self._text(value) for field, value in part.items()}

    def _word(self, word: str) -> str:
        """A kind, a role: a caller may write anything there."""
        return self._clean(word) if len(word) <= PART_LETTERS else ""

    def _text(self, text: str) -> str:
        most = max(0, self._room)
        part, cut = _whole_words(text, most + OVERLAP)
        part = self._clean(part)
        if len(part) > most:
            part, cut = part[:most], True
        self._room -= len(part)
        self.cut = self.cut or cut
        return f"{part}{CUT}" if cut else part


def _whole_words(text: str, most: int) -> tuple[str, bool]:
    """So much of it at most, and no beginning of a word whose end nobody would see: half a key has no shape."""
    if len(text) <= most:
        return text, False
    part = text[:most]
    words = part.rsplit(maxsplit=1)
    return part[: part.rindex(words[1])] if len(words) > 1 else "", True
