"""Server-sent events: bytes in any pieces to whole events, and back to their data. Pure.

Source: WHATWG HTML, "Server-sent events", 9.2.5 and 9.2.6: lines end with CRLF, LF or CR; an empty line ends an event; a
line that starts with a colon is a comment; one space after the colon of a field is not part of its value.
"""

import re
from typing import Final

from broker.errors import ProviderUnavailable

EVENT_BYTES: Final = 1 << 20  # of one event; the largest ones seen carry a web page's text

_EVENT_END: Final = re.compile(rb"(?:\r\n|\r(?!\n)|\n)(?:\r\n|\r(?!\n)|\n)+")
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BOM: Final = b"\xef\xbb\xbf"


class Buffer:
    """Holds back what is not a whole event yet."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    def take(self, piece: bytes) -> bytes:
        """All events that are whole by now, as they came.

        Raises:
            ProviderUnavailable: one event is larger than EVENT_BYTES.
        """
        if not self._held and piece.endswith(b"\n\n"):
            return piece
        held = self._held
        looked = max(0, len(held) - 3)  # an end may have begun in what is held: at most CRLF CR
        held += piece
        cut = held.rfind(b"\n\n", looked) + 2
        if cut == 1 or b"\r" in piece:
            cut = max((end.end() for end in _EVENT_END.finditer(held, looked)), default=0)
        if len(held) - cut > EVENT_BYTES:
            raise ProviderUnavailable("the provider sent an event that is too large; ask again, or without stream")
        whole = bytes(held[:cut])
        del held[:cut]
        return whole

    def rest(self) -> bytes:
        """What was never ended."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


def split(events: bytes) -> list[bytes]:
    """Whole events, one by one; each with the empty line that ends it. Joined they are what was given."""
    cuts = [*(end.end() for end in _EVENT_END.finditer(events)), len(events)]
    return [events[start:end] for start, end in zip([0, *cuts[:-1]], cuts, strict=True) if start != end]


def data(event: bytes) -> bytes:
    """The data of one event; several lines of it are joined by LF; b"" when it has none (a comment)."""
    lines: list[bytes] = []
    for line in _LINE_END.split(event.lstrip(b"\r\n").removeprefix(_BOM)):
        if line.startswith(b"data:"):
            lines.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines)


def name(event: bytes) -> bytes:
    """The name of one event: what its last `event` field says; b"" when it has none."""
    found = b""
    for line in _LINE_END.split(event.lstrip(b"\r\n").removeprefix(_BOM)):
        if line.startswith(b"event:"):
            found = line[7:] if line[6:7] == b" " else line[6:]
    return found
