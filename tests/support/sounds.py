"""Sounds in base64, as callers send them: silence in whatever way a format has for it."""

import base64
import struct


def in_base64(*parts: bytes) -> str:
    return base64.b64encode(b"".join(parts)).decode()


def wave(
    seconds: float, rate: int = 8000, *, tag: int = 1, channels: int = 1, bits: int = 8, before: bytes = b"", more: bytes = b""
) -> str:
    """A WAVE file. `before`: chunks in front of the format. `more`: what the format says behind its first sixteen bytes."""
    block = channels * bits // 8
    data = bytes(int(rate * block * seconds))
    said = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits) + more
    chunks = before + struct.pack("<4sI", b"fmt ", len(said)) + said + struct.pack("<4sI", b"data", len(data)) + data
    return in_base64(struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WAVE"), chunks)


def id3(size: int) -> bytes:
    """A tag that says that so many bytes of it follow."""
    return b"ID3\x04\x00\x00" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


MP3_FRAME = b"\xff\xf3\x18\xc4" + bytes(68)  # MPEG 2, layer III, 8 kbit/s, 24 kHz
