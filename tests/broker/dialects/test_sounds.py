"""What can be told from a sound's first bytes: whether it may pack hours into nothing."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sounds import MP3_FRAME, id3, in_base64, wave

from broker.judges.sounds import keeps_rate

EXTENSIBLE = struct.pack("<HHI", 22, 16, 4)
GUID = bytes(12) + b"\x00\x38\x9b\x71"


@pytest.mark.parametrize(
    "sound",
    [
        wave(1),
        wave(1, 16_000, channels=2, bits=16),
        wave(0.1, 44_100, tag=3, bits=32),
        wave(1, tag=7),
        wave(1, before=struct.pack("<4sI", b"JUNK", 5) + bytes(6)),
        wave(1, 48_000, tag=0xFFFE, bits=24, more=EXTENSIBLE + struct.pack("<H", 1) + GUID),
        in_base64(MP3_FRAME * 5),
        in_base64(b"\xff\xfb\x90\x44", bytes(400)),
        *(in_base64(id3(size), MP3_FRAME) for size in (0, 1, 2, 3, 128, 100_000)),
    ],
)
def test_what_people_record_keeps_its_rate(sound: str) -> None:
    assert keeps_rate(sound)


@pytest.mark.parametrize(
    "sound",
    [
        wave(3600, 1),
        wave(3600, 100),
        wave(600, 10, bits=16),
        wave(1, 8000, tag=0x55),  # MP3 within
        wave(1, 8000, tag=0x31, more=bytes(4)),  # GSM
        wave(1, 8000, tag=0xFFFE, more=EXTENSIBLE + struct.pack("<H", 0x55) + GUID),
        wave(1, 8000, tag=0xFFFE),
        wave(1, 8000, bits=0),
        wave(1, before=struct.pack("<4sI", b"LIST", 5000) + bytes(5000)),
        in_base64(b"RIFF\x00\x00\x00\x00WAVE"),
        in_base64(b"RIFF\x00\x00\x00\x00AVI ", bytes(400)),
        in_base64(id3(100), b"fLaC", bytes(400)),
        in_base64(id3(100)[:50]),
        in_base64(b"\xff\xf1\x50\x80", bytes(400)),  # AAC
        in_base64(b"\xff\xf3\x00\xc4", bytes(400)),  # a bit rate that nothing says
        in_base64(b"OggS", bytes(400)),
        "UklGR of a sound",
        "SUQz",
        "//",
        "",
        "ä",
    ],
)
def test_what_may_be_longer_than_its_bytes_say_does_not(sound: str) -> None:
    assert not keeps_rate(sound)


@given(st.one_of(st.text(), st.binary().map(in_base64), st.binary().map(lambda tail: in_base64(b"RIFF\x00\x00\x00\x00WAVEfmt ", tail))))
def test_no_bytes_are_a_defect_of_ours(sound: str) -> None:
    assert keeps_rate(sound) in (True, False)
