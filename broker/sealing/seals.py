"""What an id becomes on its way to a caller, and what it opens to when that caller brings it back. Pure.

A sealed id is `PREFIX_TEXT`. TEXT is base64url, without padding, of

    version (1 byte, 1) | id of the key (4 bytes) | AES-256-SIV (RFC 5297): tag (16 bytes), ciphertext

The plaintext is the home of the state and the raw id (a MessagePack array of six texts); associated data are, each for itself,
PURPOSE, the owner's SPIFFE ID, the kind and PREFIX. PREFIX is that of the raw id where it is a few lower-case letters, since programs
look at it (`resp_`, `msg_`), else `id`.

It is deterministic on purpose: the same id looks the same in each event of a stream, at each replica and at each later retrieval, and
programs compare ids. What that shows, that two sealed ids are equal, their only reader knows already.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from broker.sealing.keys import KEY_ID_BYTES, Key

VERSION: Final = b"\x01"
PURPOSE: Final = b"aiaccess.dev/sealed-id/v1"
RAW_ID_CHARS: Final = 512
SEALED_CHARS: Final = 2048
OTHER_PREFIX: Final = "id"

_RAW_ID: Final = re.compile(rf"(?!\.+\Z)[!-.0-~]{{1,{RAW_ID_CHARS}}}")  # goes into a path: no slash, not only dots
_PREFIX: Final = re.compile(r"([a-z]{1,16})[_-]")
_SEALED: Final = re.compile(r"([a-z]{1,16})_([A-Za-z0-9_-]+)")
_HEAD_BYTES: Final = len(VERSION) + KEY_ID_BYTES


class Kind(StrEnum):
    """What an id names. One that was sealed as one kind does not open as another."""

    RESPONSE = "response"
    ITEM = "item"
    CONTAINER = "container"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Home:
    """Where kept state is, and what was asked there.

    namespace, model: of the virtual model.
    provider: namespace/name.
    endpoint: its URL at that time: scheme, host, port and path. A provider object that points elsewhere today is another account.
    real_model: the provider's own name of the model.
    """

    namespace: str
    model: str
    provider: str
    endpoint: str
    real_model: str


class NotYours(Exception):
    """This is no id that we sealed for this caller as this kind. It never says which of that it is not."""


class Unsealable(ValueError):
    """A provider's id, with its home, that cannot be sealed: see `Seals.seal`."""


class Seals:
    """Seals ids with the first of some keys, and opens what any of them sealed."""

    __slots__ = ("_ring",)

    def __init__(self, keys: Sequence[Key]) -> None:
        self.replace(keys)

    def __repr__(self) -> str:
        return f"Seals({', '.join(id_.hex() for id_ in self._ring[1])})"

    def replace(self, keys: Sequence[Key]) -> None:
        """From the next call on these are the keys. Raises ValueError when there are none."""
        if not keys:
            raise ValueError("no key to seal with")
        self._ring = keys[0], {key.id: key for key in keys}

    def seal(self, owner: str, kind: Kind, home: Home, raw: str) -> str:
        """The id that the owner gets instead of the raw one.

        owner: the SPIFFE ID of who made the state.

        Raises:
            ValueError: nobody owns it, which is a defect of ours.
            Unsealable: the raw id is not 1 to RAW_ID_CHARS visible ASCII characters, without a slash and not only dots, or the sealed
                one would have more than SEALED_CHARS.
        """
        if not owner:
            raise ValueError("an id without an owner is never sealed")
        if not _RAW_ID.fullmatch(raw):
            raise Unsealable("the provider's id has characters, or a length, that ids do not have")
        found = _PREFIX.match(raw)
        prefix = found[1] if found else OTHER_PREFIX
        plaintext = _ENCODER.encode((home.namespace, home.model, home.provider, home.endpoint, home.real_model, raw))
        key, _ = self._ring
        secret = key.encrypt(plaintext, _associated(owner, kind, prefix))
        sealed = f"{prefix}_{_text(VERSION + key.id + secret)}"
        if len(sealed) > SEALED_CHARS:
            raise Unsealable(f"the sealed id would have {len(sealed)} characters; {SEALED_CHARS} are allowed")
        return sealed

    def open(self, owner: str, kind: Kind, sealed: str) -> tuple[Home, str]:
        """Where the state is, and the provider's id of it.

        Raises:
            ValueError: nobody asks, which is a defect of ours.
            NotYours: it is not one that this owner was given as this kind, or its key is gone.
        """
        if not owner:
            raise ValueError("an id without an owner is never opened")
        plaintext = self._plaintext(owner, kind, sealed)
        if plaintext is None:
            raise NotYours
        *home, raw = _DECODER.decode(plaintext)
        return Home(*home), raw

    def _plaintext(self, owner: str, kind: Kind, sealed: str) -> bytes | None:
        found = _SEALED.fullmatch(sealed) if len(sealed) <= SEALED_CHARS else None
        if found is None:
            return None
        prefix, text = found.groups()
        blob = _bytes(text)
        key = self._ring[1].get(blob[len(VERSION) : _HEAD_BYTES])
        if key is None or not blob.startswith(VERSION):
            return None
        return key.decrypt(blob[_HEAD_BYTES:], _associated(owner, kind, prefix))


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(tuple[str, str, str, str, str, str])


def _associated(owner: str, kind: Kind, prefix: str) -> list[bytes]:
    return [PURPOSE, owner.encode(), kind.encode(), prefix.encode()]


def _text(blob: bytes) -> str:
    return urlsafe_b64encode(blob).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    """Nothing, unless it is the only text of these bytes: else an id could be altered and still open."""
    try:
        blob = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""
    return blob if _text(blob) == text else b""
