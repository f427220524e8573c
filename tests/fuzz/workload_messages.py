"""What comes from the Workload API's socket: gRPC's frames, the message in them, and the certificates in that."""

from fuzz.cuts import ways_to_cut
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from spiffe._proto.workload_pb2 import X509SVIDResponse

from broker.grpc import MESSAGE_BYTES, PREFIX_BYTES, BadFrame, Frames, frame
from broker.svids import CERTIFICATES, BadUpdate, Update, decode, encode, split_der

WORDS = (
    "spiffe://example.org/a",
    "\0\0\0\0\5",
    "\x0a",
    "\x12",
    "\x1a",
    "\x30\x03abc",
    "\x30\x82\1\0",
    "\x30\x80",
    "\1\0\0\0\0",
    "\0\xff\xff\xff\xff",
)


def check_der(data: bytes) -> None:
    try:
        parts = split_der(data)
    except BadUpdate:
        return
    assert b"".join(parts) == data, "a byte belongs to none, or to two"
    assert len(parts) <= CERTIFICATES
    for part in parts:
        assert split_der(part) == (part,)
        assert part[0] == 0x30
        assert content_bytes(part) == len(part), "a part's length is not what it says"


def content_bytes(part: bytes) -> int:
    """The whole length that a DER element announces (X.690 §8.1.3)."""
    if part[1] < 0x80:
        return 2 + part[1]
    more = part[1] - 0x80
    return 2 + more + sum(byte << 8 * place for place, byte in enumerate(reversed(part[2 : 2 + more])))


def check_message(data: bytes) -> None:
    try:
        update = decode(data)
    except BadUpdate:
        return
    again = decode(encode(update))
    assert again.svids == update.svids, "what is written again says something else"
    assert again.federated == {name: bundle for name, bundle in update.federated.items() if name or bundle}
    assert update.svids
    assert all(svid.spiffe_id and svid.chain and svid.key and svid.bundle for svid in update.svids)
    check_second_reader(data, update)


def check_second_reader(data: bytes, update: Update) -> None:
    other = X509SVIDResponse()
    try:
        other.ParseFromString(data)
    except DecodeError:
        raise AssertionError("protobuf's own reader refuses what we accept") from None
    hints: set[str] = set()
    svids = []
    for svid in other.svids:
        if svid.hint and svid.hint in hints:
            continue  # of equal hints the first one counts
        hints.add(svid.hint)
        svids.append((svid.spiffe_id, svid.x509_svid, svid.x509_svid_key, svid.bundle, svid.hint))
    assert [(one.spiffe_id, b"".join(one.chain), one.key, b"".join(one.bundle), one.hint) for one in update.svids] == svids
    bundles = {name: b"".join(bundle) for name, bundle in update.federated.items()}
    if not any(field.field_number == 3 for field in UnknownFieldSet(other)):  # it lays entries aside that have more than key and value
        assert dict(other.federated_bundles) == bundles


def check_frames(data: bytes) -> None:
    verdicts = [unframe(pieces) for pieces in ways_to_cut(data)]
    assert all(verdict == verdicts[0] for verdict in verdicts[1:]), "the messages depend on how the bytes were cut"
    messages, refused = verdicts[0]
    whole = b"".join(frame(message) for message in messages)
    assert data.startswith(whole), "a message has other bytes than came"
    rest = data[len(whole) :]
    if refused:
        assert rest[0] or int.from_bytes(rest[1:PREFIX_BYTES]) > MESSAGE_BYTES, "refused without a reason"
    elif len(rest) >= PREFIX_BYTES:
        assert not rest[0]
        assert int.from_bytes(rest[1:PREFIX_BYTES]) <= MESSAGE_BYTES, "waits for more than it would take"
        assert len(rest) < PREFIX_BYTES + int.from_bytes(rest[1:PREFIX_BYTES]), "a message that is whole is held back"


def unframe(pieces: list[bytes]) -> tuple[list[bytes], bool]:
    frames = Frames()
    messages: list[bytes] = []
    try:
        for piece in pieces:
            messages.extend(frames.feed(piece))
    except BadFrame:
        return messages, True
    return messages, False
