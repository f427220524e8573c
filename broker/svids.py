"""The messages of the SPIFFE Workload API that carry X509-SVIDs, by the byte. Pure.

Protobuf by hand: six fields do not need its runtime. Certificates are left as DER: whoever uses them parses and judges them, and
so can discard a bad update as a whole.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

FETCH_X509_SVID: Final = "/SpiffeWorkloadAPI/FetchX509SVID"
FETCH_X509_BUNDLES: Final = "/SpiffeWorkloadAPI/FetchX509Bundles"

SOCKET_PATH_BYTES: Final = 107  # sockaddr_un, less its final NUL
CERTIFICATES: Final = 256  # in one chain or bundle
BUNDLES: Final = 1024


class BadUpdate(ValueError):
    """A message that cannot come into force. Report it, discard it, keep the last good one. Source: Workload API §4.5."""


@dataclass(frozen=True, slots=True, repr=False)  # no repr: it holds a private key
class X509Svid:
    """One identity of this workload. Everything DER; `key` is PKCS#8, `bundle` the CA certificates of its own trust domain."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    key: bytes
    bundle: tuple[bytes, ...]
    hint: str


@dataclass(frozen=True, slots=True, repr=False)
class Update:
    """One message, complete in itself: what an earlier one had and this one lacks has been withdrawn.

    svids: the first is the default identity.
    federated: "spiffe://other.example" to the CA certificates of that trust domain, DER.
    """

    svids: tuple[X509Svid, ...]
    federated: dict[str, tuple[bytes, ...]]


def decode(message: bytes) -> Update:
    """Read an X509SVIDResponse.

    Raises:
        BadUpdate: it is not well-formed, or a mandatory field is empty.

    Source: Workload API §4, §5.2.1, §8 (of equal hints the first one counts).
    """
    svids: list[X509Svid] = []
    federated: dict[str, tuple[bytes, ...]] = {}
    for number, value in fields(message):
        if number == 1:
            svid = _svid(value)
            if not (svid.hint and any(known.hint == svid.hint for known in svids)):
                svids.append(svid)
        elif number == 3:  # noqa: PLR2004  federated_bundles, a map: a repeated message of key = 1, value = 2
            entry = dict(fields(value))
            federated[_text(entry.get(1, b""), 2048)] = split_der(entry.get(2, b""))
    if not svids or len(svids) > BUNDLES or len(federated) > BUNDLES:
        raise BadUpdate(f"{len(svids)} SVIDs, {len(federated)} federated bundles")
    return Update(tuple(svids), federated)


def _svid(message: bytes) -> X509Svid:
    found = dict(fields(message))  # of a repeated singular field the last one counts
    missing = [name for number, name in ((1, "spiffe_id"), (2, "x509_svid"), (3, "x509_svid_key"), (4, "bundle")) if not found.get(number)]
    if missing:
        raise BadUpdate(f"mandatory fields are empty: {', '.join(missing)}")
    return X509Svid(_text(found[1], 2048), split_der(found[2]), found[3], split_der(found[4]), _text(found.get(5, b""), 1024))


def _text(raw: bytes, limit_bytes: int) -> str:
    if len(raw) > limit_bytes:
        raise BadUpdate("string too long")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadUpdate("string is not UTF-8") from None


def encode(update: Update) -> bytes:
    """Write an X509SVIDResponse."""
    svids = (
        _field(1, svid.spiffe_id.encode())
        + _field(2, b"".join(svid.chain))
        + _field(3, svid.key)
        + _field(4, b"".join(svid.bundle))
        + _field(5, svid.hint.encode())
        for svid in update.svids
    )
    return b"".join(_field(1, svid) for svid in svids) + _map(3, update.federated)


def encode_bundles(bundles: Mapping[str, tuple[bytes, ...]]) -> bytes:
    """Write an X509BundlesResponse: "spiffe://example.org" to the CA certificates of that trust domain."""
    return _map(2, bundles)


def _map(number: int, bundles: Mapping[str, tuple[bytes, ...]]) -> bytes:
    return b"".join(_field(number, _field(1, name.encode()) + _field(2, b"".join(bundle))) for name, bundle in bundles.items())


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field; nothing for an empty value, as proto3 has it."""
    size, length = len(value), bytearray()
    while size > 0x7F:  # noqa: PLR2004  seven bits a byte
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((number << 3 | 2, *length, size)) + value if value else b""


def split_der(blob: bytes) -> tuple[bytes, ...]:
    """Cut concatenated DER SEQUENCEs apart. Strict: every byte belongs to exactly one."""
    parts: list[bytes] = []
    at = 0
    while at < len(blob):
        if blob[at] != 0x30 or at + 2 > len(blob) or len(parts) == CERTIFICATES:  # noqa: PLR2004  SEQUENCE
            raise BadUpdate("not a concatenation of DER certificates")
        size, head = blob[at + 1], 2
        if size & 0x80:
            more = size & 0x7F
            if not 1 <= more <= 4:  # noqa: PLR2004  bytes
                raise BadUpdate("bad DER length")
            size, head = int.from_bytes(blob[at + 2 : at + 2 + more]), 2 + more
        end = at + head + size
        if end > len(blob):
            raise BadUpdate("DER certificate is cut off")
        parts.append(blob[at:end])
        at = end
    return tuple(parts)


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message; those of other types are skipped, as protobuf asks."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if not 0 < tag >> 3 < 1 << 29:
            raise BadUpdate("bad field number")
        kind = tag & 7
        if kind == 2:  # noqa: PLR2004  length-delimited
            size, at = _varint(message, at)
            if at + size > len(message):
                raise BadUpdate("field is cut off")
            yield tag >> 3, message[at : at + size]
            at += size
        elif kind == 0:
            _, at = _varint(message, at)
        elif kind in {1, 5}:
            at += 8 if kind == 1 else 4
        else:
            raise BadUpdate(f"wire type {kind}")
    if at != len(message):
        raise BadUpdate("message is cut off")


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(buffer[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:  # noqa: PLR2004  the last one
            return value, at + place + 1
    raise BadUpdate("bad varint")
