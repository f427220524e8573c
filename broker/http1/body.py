"""Request bodies as they arrive: bytes in, one body out. Pure, and indifferent to how the bytes were cut on their way."""

import re
from typing import Final

from broker.errors import BadRequest, TooLarge

LINE_BYTES: Final = 256  # a chunk's size with its extension; nobody we know sends one
TRAILER_BYTES: Final = 4096  # all of them together; dropped
# Chunks of a few bytes are work for us and none for their sender: so many may be, then they must hold this much on average
FREE_CHUNKS: Final = 1024
CHUNK_BYTES: Final = 64

_LINE_BYTES: Final = {"size": LINE_BYTES, "end": 0, "trailer": TRAILER_BYTES}

# RFC 9112 §7.1: chunk-size [ chunk-ext ]; sixteen leading zeros are nobody's honest number
_size = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t -~]*)?\Z").match
_plain = re.compile(rb"[\t -~]*\Z").match
_trailer = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\Z").match


class Sized:
    """A body whose length was announced."""

    __slots__ = ("_kept", "_last", "_left", "held")

    def __init__(self, length: int) -> None:
        self._left = length
        self._kept = bytearray()  # one, since a list of pieces of a byte or two would be many times the body
        self._last = b""
        self.held = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take what belongs to the body. None = more is to come, else what came after it."""
        if len(data) < self._left:
            self._left -= len(data)
            self.held += len(data)
            self._kept += data
            return None
        self._last = data[: self._left]
        self.held += self._left
        rest = data[self._left :]
        self._left = 0
        return rest

    def whole(self) -> bytes:
        """All of it. Ask once."""
        if not self._kept:
            return self._last
        self._kept += self._last
        return bytes(self._kept)


class Chunked:
    """A chunked body, decoded strictly: lines end with CRLF, extensions and trailers are bounded and dropped."""

    __slots__ = ("_ahead", "_chunks", "_kept", "_left", "_limit", "_state", "_trailer_bytes", "held")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept = bytearray()
        self._ahead = b""  # the beginning of a line
        self._chunks = 0
        self._left = 0  # of this chunk
        self._state = "size"
        self._trailer_bytes = 0
        self.held = 0

    def feed(self, data: bytes) -> bytes | None:
        """As Sized.feed.

        Raises:
            BadRequest: not well-formed.
            TooLarge: more than limit_bytes.
        """
        at = 0
        while at < len(data):
            if self._state == "data":
                at = self._take_data(data, at)
                continue
            line, at = self._line(data, at)
            if line is None:
                return None
            if self._state == "size":
                self._begin(line)
            elif self._state == "end":
                self._state = "size"
            elif not line:
                return data[at:]
            else:
                self._drop_trailer(line)
        return None

    def whole(self) -> bytes:
        return bytes(self._kept)

    def _take_data(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self._kept += piece
        self.held += len(piece)
        self._left -= len(piece)
        if not self._left:
            self._state = "end"
        return at + len(piece)

    def _line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """The next line without its CRLF, or None when its end is still to come, and where to go on."""
        limit = _LINE_BYTES[self._state]
        end = data.find(b"\n", at, at + limit + 2)
        line = self._ahead + (data[at : at + limit + 2] if end < 0 else data[at : end + 1])
        if len(line) > limit + 2 or (end < 0 and len(line) > limit + 1) or not _plain(line.removesuffix(b"\n").removesuffix(b"\r")):
            raise BadRequest("The body's chunks are not well-formed.")
        if end < 0:
            self._ahead = line
            return None, len(data)
        if not line.endswith(b"\r\n"):
            raise BadRequest("A line of the body's chunks ends with a bare LF.")
        self._ahead = b""
        return line[:-2], end + 1

    def _begin(self, line: bytes) -> None:
        size = _size(line)
        if not size:
            raise BadRequest("The size of a chunk of the body is not well-formed.")
        self._left = int(size[1], 16)
        if self.held + self._left > self._limit:
            raise TooLarge(f"The body is larger than {self._limit} bytes.")
        self._chunks += 1
        if self._chunks > FREE_CHUNKS and self.held < self._chunks * CHUNK_BYTES:
            raise BadRequest(f"The body comes in too many small chunks. Send chunks of {CHUNK_BYTES} bytes or more, or a Content-Length.")
        self._state = "data" if self._left else "trailer"

    def _drop_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > TRAILER_BYTES or not _trailer(line):
            raise BadRequest("The trailers after the body are not well-formed, or too many.")
