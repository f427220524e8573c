"""How long a sound can be at most, told from its first bytes: by those that a decoder goes by too. Pure.

Source: RFC 2361 and Microsoft's mmreg.h (WAVE), ID3v2.4 §3.1, ISO/IEC 11172-3 §2.4.1.3 (MPEG frames).
"""

import base64
import binascii
import struct
from typing import Final

LEAST_RATE: Final = 1000  # bytes a second: the lowest rate of MP3, 8 kbit/s; telephones' WAVE has eight times that

_LOOKED_AT: Final = 1024  # bytes; `fmt ` stands among the first chunks
_CHUNK: Final = struct.Struct("<4sI")
_FORMAT: Final = struct.Struct("<HHIIHH")  # tag, channels, samples a second, bytes a second, block, bits of a sample
_EXTENSIBLE: Final = 0xFFFE  # the tag stands further behind
_SUB_FORMAT: Final = slice(24, 26)
_UNPACKED: Final = frozenset({1, 3, 6, 7})  # PCM, floating point, A-law, mu-law: so many bytes for each sample, whatever is heard
_ID3_BYTES: Final = 10
_FREE, _BAD = 0, 15  # indices of bit rates that say none


def keeps_rate(sound: str) -> bool:
    """This sound, in base64, has certainly LEAST_RATE or more. Anything else may pack hours of silence into nothing."""
    first = _bytes_at(sound, 0)
    if first[:4] == b"RIFF" and first[8:12] == b"WAVE":
        return _wave_keeps_rate(first)
    if first[:3] == b"ID3" and len(first) >= _ID3_BYTES:
        size = 0
        for seven_bits in first[6:_ID3_BYTES]:
            size = size << 7 | seven_bits & 0x7F
        return _is_mp3(_bytes_at(sound, _ID3_BYTES + size))
    return _is_mp3(first)


def _bytes_at(sound: str, at: int) -> bytes:
    """Some bytes from there on; none of what is no base64."""
    begin = at // 3 * 4
    piece = sound[begin : begin + _LOOKED_AT // 3 * 4]
    try:
        return base64.b64decode(piece[: len(piece) // 4 * 4], validate=True)[at % 3 :]
    except (binascii.Error, ValueError):
        return b""


def _wave_keeps_rate(first: bytes) -> bool:
    at = 12
    while at + _CHUNK.size <= len(first):
        name, size = _CHUNK.unpack_from(first, at)
        at += _CHUNK.size
        if name == b"fmt ":
            return size >= _FORMAT.size and len(first) >= at + size and _format_keeps_rate(first[at : at + size])
        at += size + size % 2
    return False


def _format_keeps_rate(said: bytes) -> bool:
    """By samples and their size: decoders do not look at the bytes a second."""
    tag, channels, samples, _, block, bits = _FORMAT.unpack_from(said)
    if tag == _EXTENSIBLE:
        tag = int.from_bytes(said[_SUB_FORMAT], "little")
    return tag in _UNPACKED and samples * min(block, channels * bits // 8) >= LEAST_RATE


def _is_mp3(first: bytes) -> bool:
    """A frame of layer III that says its bit rate."""
    if len(first) < 3 or first[0] != 0xFF or first[1] & 0xE6 != 0xE2:  # noqa: PLR2004  eleven bits of sync, then version and layer
        return False
    return first[2] >> 4 not in (_FREE, _BAD)
