"""What gRPC adds to HTTP/2: a prefix before each message, and a status at the end. Pure.

Source: gRPC over HTTP2, "Length-Prefixed-Message"; gRPC status codes.
"""

from collections.abc import Iterator
from typing import Final

MESSAGE_BYTES: Final = 4 << 20  # gRPC's own default; a bundle of fifty CAs is about 30 KB
PREFIX_BYTES: Final = 5

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE = 0, 1, 2, 3, 7, 8, 12, 14
STATUS_NAMES: Final = {
    OK: "OK", CANCELLED: "CANCELLED", UNKNOWN: "UNKNOWN", INVALID_ARGUMENT: "INVALID_ARGUMENT", PERMISSION_DENIED: "PERMISSION_DENIED",
    RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED", UNIMPLEMENTED: "UNIMPLEMENTED", UNAVAILABLE: "UNAVAILABLE",
}  # fmt: skip


class BadFrame(ValueError):
    """The stream cannot be read on: what follows this is not known to be the beginning of a message."""


def frame(message: bytes) -> bytes:
    """Put gRPC's prefix before a message: not compressed, its length."""
    return b"\0" + len(message).to_bytes(4) + message


class Frames:
    """gRPC's framing, read: one byte "compressed", four bytes length, the message; cut anywhere by DATA frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give the messages that are complete now.

        Raises:
            BadFrame: a message is compressed, or too large: judged by its announcement, before it is kept.
        """
        self._buffer += data
        while len(self._buffer) >= PREFIX_BYTES:
            size = int.from_bytes(self._buffer[1:PREFIX_BYTES])
            if self._buffer[0]:  # no grpc-accept-encoding was offered
                raise BadFrame("compressed message")
            if size > MESSAGE_BYTES:
                raise BadFrame(f"message of {size} bytes")
            if len(self._buffer) < PREFIX_BYTES + size:
                return
            message = bytes(self._buffer[PREFIX_BYTES : PREFIX_BYTES + size])
            del self._buffer[: PREFIX_BYTES + size]
            yield message
