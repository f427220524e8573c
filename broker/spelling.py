"""How many bytes a text can have for a tokenizer, which may spell it out before it cuts it: "㍿" is one character or four. Pure.

A token of a byte-level vocabulary has at least one byte, of the text as the tokenizer spells it. Most take it as it is; Qwen's write it in
Unicode's normal form C, Claude's published one and most of those for embeddings in form KC, in which some characters are much longer.

Source: Unicode Standard Annex 15; how much longer is what Python's own tables say.
"""

import re
import unicodedata
from collections import Counter
from typing import Final

ESCAPE_BYTES: Final = 6  # \u and four digits
# Not ASCII, or escapes: so many fill the largest context windows, and to look at more would keep others waiting
LOOKED_AT_BYTES: Final = 4 << 20
CHARACTER_GROWTH: Final = 10  # bytes for each byte, at most (U+FDFA: 3 become 33)
ESCAPE_GROWTH: Final = 27  # bytes for each escape, at most (the same: 6 become 33)

_ASCII: Final = re.compile(rb"[\x00-\x7f]+")
_ESCAPE: Final = re.compile(rb"\\u([0-9a-fA-F]{4})")


def longest_bytes(body: bytes) -> int:
    """The bytes of a JSON body in UTF-8, spelt out: never fewer than it has.

    Escapes count as the bytes that they have in the body. Half a surrogate pair is never longer: both have twelve bytes, and no character
    beyond the first plane becomes more than that.
    """
    escapes = body.count(b"\\u")
    rest = b"" if body.isascii() else _ASCII.sub(b"", body)
    if escapes * ESCAPE_BYTES + len(rest) > LOOKED_AT_BYTES:
        return len(body) + ESCAPE_GROWTH * escapes + CHARACTER_GROWTH * len(rest)
    growth = 0
    if rest:
        growth += sum(many * _growth(one, len(one.encode())) for one, many in Counter(rest.decode()).items())
    if escapes:
        growth += sum(many * _growth(chr(int(digits, 16)), ESCAPE_BYTES) for digits, many in Counter(_ESCAPE.findall(body)).items())
    return len(body) + growth


def _growth(character: str, written_in: int) -> int:
    """By how many bytes it becomes longer than it is."""
    if unicodedata.is_normalized("NFKC", character) or unicodedata.category(character) == "Cs":
        return 0
    longest = max(len(unicodedata.normalize(form, character).encode()) for form in ("NFC", "NFKC"))
    return max(0, longest - written_in)
