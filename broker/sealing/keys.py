"""The keys that seal ids, and the text of the file that has them. Pure; a key's bytes are in no repr and no error.

The file has one key a line: base64 of 64 random bytes (AES-256-SIV takes two keys of 32). The first one seals, all of them open, so that
a new key can be known to every replica before one seals with it. Lines that begin with `#`, and empty ones, say nothing.
"""

import binascii
from base64 import b64decode
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

KEY_BYTES: Final = 64
KEY_ID_BYTES: Final = 4
KEYS: Final = 8
MAKE_ONE: Final = "openssl rand -base64 64 | tr -d '\\n'"
# 64 random bytes have 57 different values or so; fewer than 32 by chance once in 10^15
DISTINCT_BYTES: Final = 32


class BadKeys(ValueError):
    """What is wrong with the keys, on which line, and what to do; never a part of a key."""


class Key:
    """One key, ready for use.

    id: tells apart the keys of one file; shown in each sealed id.
    """

    __slots__ = ("_siv", "id")

    def __init__(self, secret: bytes) -> None:
        """Raises BadKeys: these are not 64 bytes, or not random ones."""
        if len(secret) != KEY_BYTES:
            raise BadKeys(f"has {len(secret)} bytes; a key has {KEY_BYTES}")
        if len(set(secret)) < DISTINCT_BYTES:
            raise BadKeys("is not random: most of its bytes repeat")
        self.id = sha256(secret).digest()[:KEY_ID_BYTES]
        self._siv = AESSIV(secret)

    def __repr__(self) -> str:
        return f"Key({self.id.hex()})"

    def encrypt(self, plaintext: bytes, associated: list[bytes]) -> bytes:
        return self._siv.encrypt(plaintext, associated)

    def decrypt(self, sealed: bytes, associated: list[bytes]) -> bytes | None:
        """What was sealed; None when it was not sealed so, with this key."""
        try:
            return self._siv.decrypt(sealed, associated)
        except InvalidTag:
            return None


def parse_keys(text: bytes) -> tuple[Key, ...]:
    """The keys of a file, in its order.

    Raises:
        BadKeys: there is none, one is unfit, or there are too many; says on which line, and what to do.
    """
    keys: dict[bytes, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        written = line.strip()
        if not written or written.startswith(b"#"):
            continue
        try:
            key = Key(_decode(written))
        except BadKeys as wrong:
            raise BadKeys(f"line {number} {wrong}; make a key with: {MAKE_ONE}") from None
        if key.id in keys:
            raise BadKeys(f"line {number} is a key that is there already; take one of them out")
        if len(keys) == KEYS:
            raise BadKeys(f"line {number} is one key too many, {KEYS} are allowed; take out old ones, whose ids nobody needs any more")
        keys[key.id] = key
    if not keys:
        raise BadKeys(f"there is no key in it; make one with: {MAKE_ONE}")
    return tuple(keys.values())


def _decode(written: bytes) -> bytes:
    try:
        return b64decode(written, validate=True)
    except binascii.Error:
        raise BadKeys("is not base64") from None
