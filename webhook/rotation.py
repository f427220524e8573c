"""What our own authority and certificate should be at a time, and how they lie in a Secret. Pure.

An authority is followed by the next one in three steps, each of which any replica may take, and which leave API servers time:

1. the next one is made and published beside the one in use, and signs nothing yet;
2. OVERLAP later it signs the certificate that all replicas serve from then on; the one before it stays published,
3. until every certificate that it ever signed has ended.
"""

import base64
import binascii
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509

from broker.objects.reading import as_mapping
from webhook.authority import LEAF_LIFE, Pair, new_authority, new_leaf

AUTHORITY_BEFORE: Final = dt.timedelta(days=30)  # so long before an authority ends its successor is made
LEAF_BEFORE: Final = LEAF_LIFE / 2
UNTOLD: Final = dt.timedelta(minutes=1)  # who could not publish the next authority for longer puts off what it signs
OVERLAP: Final = dt.timedelta(minutes=10)  # a published authority is known to every API server by then: they watch, and hear in seconds

_AUTHORITY, _LEAF, _NEXT = ("ca.crt", "ca.key"), ("tls.crt", "tls.key"), ("next-ca.crt", "next-ca.key")
_NEXT_FROM: Final = "next-from"
_PREVIOUS: Final = "previous-ca.crt"
_PREVIOUS_UNTIL: Final = "previous-until"


@dataclass(frozen=True, slots=True)
class Holding:
    """What the replicas share.

    next_from: when `next` takes over; None without one.
    previous: certificates of earlier authorities, PEM, published until `previous_until`.
    """

    authority: Pair
    leaf: Pair
    next: Pair | None = None
    next_from: dt.datetime | None = None
    previous: bytes = b""
    previous_until: dt.datetime | None = None

    @property
    def published(self) -> bytes:
        """Whom the API server is to trust, PEM."""
        return b"".join((self.authority.certificate, self.next.certificate if self.next else b"", self.previous))


def first(names: Sequence[str], now: dt.datetime) -> Holding:
    authority = new_authority(now)
    return Holding(authority, new_leaf(authority, names, now))


def following(it: Holding, names: Sequence[str], now: dt.datetime) -> Holding:
    """What it should be by now; itself when nothing is due.

    names: DNS names and addresses that the API server may ask at.
    """
    if it.previous_until is not None and it.previous_until <= now:
        it = replace(it, previous=b"", previous_until=None)
    if it.next is not None and it.next_from is not None and it.next.ends > now and min(it.next_from, it.authority.ends) <= now:
        leaf, before = new_leaf(it.next, names, now), it.authority.certificate + it.previous
        it = Holding(it.next, leaf, previous=before, previous_until=now + LEAF_LIFE)
    if it.authority.ends <= now:
        return first(names, now)
    if it.next is None and it.authority.ends - now < AUTHORITY_BEFORE:
        it = with_next(it, now)
    if _is_due(it, names, now):
        it = replace(it, leaf=new_leaf(it.authority, names, now))
    return it


def with_next(it: Holding, now: dt.datetime) -> Holding:
    return it if it.next is not None else replace(it, next=new_authority(now), next_from=now + OVERLAP)


def put_off(it: Holding, now: dt.datetime) -> Holding:
    """When `next` was not published in time: OVERLAP counts from now. Itself when it still may be."""
    if it.next is None or it.next_from is None or it.next_from - now >= OVERLAP - UNTOLD:
        return it
    return replace(it, next_from=now + OVERLAP)


def _is_due(it: Holding, names: Sequence[str], now: dt.datetime) -> bool:
    if it.leaf.names() != tuple(names) or not it.leaf.signed_by(it.authority.certificate):
        return True
    return it.leaf.ends < min(now + LEAF_BEFORE, it.authority.ends)


def write(it: Holding) -> dict[str, str]:
    """As `data` of a Secret."""
    fields: dict[str, bytes] = {}
    for (certificate, key), pair in ((_AUTHORITY, it.authority), (_LEAF, it.leaf), (_NEXT, it.next)):
        fields |= {certificate: pair.certificate, key: pair.key} if pair else {}
    if it.next_from is not None:
        fields[_NEXT_FROM] = _text(it.next_from)
    if it.previous_until is not None:
        fields |= {_PREVIOUS: it.previous, _PREVIOUS_UNTIL: _text(it.previous_until)}
    return {name: base64.b64encode(value).decode("ascii") for name, value in fields.items()}


def read(data: object) -> Holding:
    """From `data` of a Secret. Raises ValueError when it is none of ours, without a word of what is in it."""
    try:
        fields = _decoded(as_mapping(data) or {})
        following_from, previous_until = fields.get(_NEXT_FROM), fields.get(_PREVIOUS_UNTIL)
        it = Holding(
            authority=_pair(fields, _AUTHORITY),
            leaf=_pair(fields, _LEAF),
            next=_pair(fields, _NEXT) if following_from else None,
            next_from=_time(following_from) if following_from else None,
            previous=_certificates(fields[_PREVIOUS]) if previous_until else b"",
            previous_until=_time(previous_until) if previous_until else None,
        )
        it.leaf.names()
    except (KeyError, TypeError, ValueError, binascii.Error, x509.ExtensionNotFound) as wrong:
        raise ValueError("it does not hold an authority and a certificate") from wrong
    return it


def _decoded(data: Mapping[str, object]) -> dict[str, bytes]:
    return {name: base64.b64decode(value, validate=True) for name, value in data.items() if isinstance(value, str)}


def _pair(fields: Mapping[str, bytes], names: tuple[str, str]) -> Pair:
    """Raises KeyError or ValueError unless they are a certificate and its key."""
    pair = Pair(fields[names[0]], fields[names[1]])
    pair.check()
    return pair


def _certificates(text: bytes) -> bytes:
    """The same. Raises ValueError when it is anything else: an API server would refuse what is published with it."""
    x509.load_pem_x509_certificates(text)
    return text


def _text(time: dt.datetime) -> bytes:
    return time.astimezone(dt.UTC).isoformat(timespec="seconds").encode()


def _time(text: bytes) -> dt.datetime:
    time = dt.datetime.fromisoformat(text.decode("ascii"))
    if time.tzinfo is None:
        raise ValueError("a time without its offset")
    return time
