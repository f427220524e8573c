import random

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from spiffe._proto import workload_pb2
from support.fake_workload_api import message
from support.spiffe_ca import SpiffeCa, update, x509_svid

from broker.svids import BUNDLES, CERTIFICATES, BadUpdate, Update, X509Svid, decode, fields, split_der


def sequence(content):
    size = len(content)
    head = bytes([size]) if size < 128 else bytes([0x80 | 2]) + size.to_bytes(2)
    return b"\x30" + head + content


sequences = st.binary(max_size=300).map(sequence)
ids = st.text(min_size=1, max_size=30)
svids = st.builds(
    X509Svid,
    spiffe_id=ids,
    chain=st.lists(sequences, min_size=1, max_size=3).map(tuple),
    key=st.binary(min_size=1, max_size=50),
    bundle=st.lists(sequences, min_size=1, max_size=3).map(tuple),
    hint=st.just(""),
)
updates = st.builds(
    Update,
    svids=st.lists(svids, min_size=1, max_size=3).map(tuple),
    federated=st.dictionaries(ids, st.lists(sequences, max_size=2).map(tuple), max_size=3),
)


@pytest.fixture(scope="module")
def real():
    a, b = SpiffeCa("a.test"), SpiffeCa("b.test")
    return update(a.intermediate().issue("spiffe://a.test/w"), a, SpiffeCa("a.test"), federated={"b.test": [b]})


def test_a_real_response_is_read(real):
    assert decode(message(real).SerializeToString()) == real


@given(updates)
def test_whatever_protobuf_writes_is_read_as_it_was_meant(wanted):
    assert decode(message(wanted).SerializeToString()) == wanted


@given(updates, st.integers(1, 2**29 - 1).filter(lambda n: n > 10 and not 19000 <= n <= 19999), st.binary(max_size=20))
def test_fields_of_a_later_version_are_passed_over(wanted, number, value):
    def varint(n):
        return (bytes([n & 0x7F | 0x80]) + varint(n >> 7)) if n > 0x7F else bytes([n])

    later = varint(number << 3 | 2) + varint(len(value)) + value + varint(number << 3) + b"\x96\x01" + varint(number << 3 | 1) + bytes(8)
    assert decode(later + message(wanted).SerializeToString() + varint(number << 3 | 5) + bytes(4)) == wanted


@pytest.mark.parametrize("field", ["spiffe_id", "x509_svid", "x509_svid_key", "bundle"])
def test_a_mandatory_field_that_is_empty_is_named(real, field):
    response = message(real)
    response.svids[0].ClearField(field)
    with pytest.raises(BadUpdate, match=f"mandatory fields are empty: {field}$"):
        decode(response.SerializeToString())


def test_a_message_without_an_identity_is_bad(real):
    response = message(real)
    del response.svids[:]
    with pytest.raises(BadUpdate, match="0 SVIDs"):
        decode(response.SerializeToString())


def test_of_two_svids_with_the_same_hint_the_first_counts():
    ca = SpiffeCa("a.test")
    first, second, third, fourth = (
        x509_svid(ca.issue(f"spiffe://a.test/{name}"), ca, hint=hint) for name, hint in (("1", "h"), ("2", "h"), ("3", ""), ("4", ""))
    )
    got = decode(message(Update((first, second, third, fourth), {})).SerializeToString())
    assert [svid.spiffe_id[-1] for svid in got.svids] == ["1", "3", "4"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: setattr(r.svids[0], "hint", "h" * 1025), "string too long"),
        (lambda r: setattr(r.svids[0], "spiffe_id", "s" * 2049), "string too long"),
        (lambda r: setattr(r.svids[0], "x509_svid", sequence(b"") * (CERTIFICATES + 1)), "not a concatenation"),
        (lambda r: [r.federated_bundles.update({f"spiffe://d{n}": b""}) for n in range(BUNDLES + 1)], "1026 federated"),
        (lambda r: setattr(r.svids[0], "x509_svid", b"\x31\x00"), "not a concatenation"),
        (lambda r: setattr(r.svids[0], "bundle", sequence(b"x") + b"\x30"), "not a concatenation"),
        (lambda r: setattr(r.svids[0], "bundle", b"\x30\x80\x00\x00"), "bad DER length"),
        (lambda r: setattr(r.svids[0], "bundle", b"\x30\x85\x00\x00\x00\x00\x00"), "bad DER length"),
        (lambda r: setattr(r.svids[0], "bundle", b"\x30\x82\x01"), "cut off"),
        (lambda r: setattr(r.svids[0], "bundle", sequence(b"xyz")[:-1]), "cut off"),
    ],
)
def test_what_is_out_of_bounds_is_bad(real, change, reason):
    response = message(real)
    change(response)
    with pytest.raises(BadUpdate, match=reason):
        decode(response.SerializeToString())


@pytest.mark.parametrize(
    "raw",
    [
        b"\x0a",  # a length is missing
        b"\x0a\x05abc",  # cut off
        b"\x0b\x0c",  # a group
        b"\x0e",  # no such wire type
        b"\x02\x00",  # field number 0
        b"\x09\x00",  # eight bytes announced, one there
        b"\x80" * 11,  # a varint without an end
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a field number beyond all bounds
    ],
)
def test_what_is_not_protobuf_is_bad(raw):
    with pytest.raises(BadUpdate):
        list(fields(raw))


def test_a_string_that_is_not_utf_8_is_bad():
    with pytest.raises(BadUpdate, match="UTF-8"):
        decode(b"\x0a\x0f\x0a\x02\xff\xfe\x12\x02\x30\x00\x1a\x01k\x22\x02\x30\x00")


@given(st.lists(sequences, max_size=5))
def test_certificates_are_cut_where_they_were_joined(parts):
    assert split_der(b"".join(parts)) == tuple(parts)


@given(st.binary(max_size=60))
def test_no_bytes_are_lost_in_cutting(blob):
    try:
        parts = split_der(blob)
    except BadUpdate:
        return
    assert b"".join(parts) == blob


def reference(raw):
    """What protobuf's own runtime makes of it, with our rules for what counts, or None."""
    try:
        response = workload_pb2.X509SVIDResponse.FromString(raw)
        svids, hints = [], set()
        for svid in response.svids:
            if not all((svid.spiffe_id, svid.x509_svid, svid.x509_svid_key, svid.bundle)):
                return None
            if svid.hint and svid.hint in hints:
                continue
            hints.add(svid.hint)
            svids.append(X509Svid(svid.spiffe_id, split_der(svid.x509_svid), svid.x509_svid_key, split_der(svid.bundle), svid.hint))
        federated = {name: split_der(bundle) for name, bundle in response.federated_bundles.items()}
    except (DecodeError, BadUpdate):
        return None
    return Update(tuple(svids), federated) if svids else None


def trusted(update):
    """Of a map entry with a field damaged into an unknown one, protobuf's runtime keeps nothing; we keep what trusts nobody."""
    return update.svids, {name: bundle for name, bundle in update.federated.items() if name and bundle}


def test_no_damage_makes_us_read_what_protobuf_does_not(real):
    """Twenty thousand damaged messages: refuse what protobuf refuses, and never read other values than it does."""
    dice = random.Random(11)  # noqa: S311  repeatable
    original = message(real).SerializeToString()
    lenient = [0, 0]
    for _ in range(20000):
        raw = bytearray(original)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(raw))
            match dice.randrange(3):
                case 0:
                    raw[at] = dice.randrange(256)
                case 1:
                    del raw[at : at + dice.randint(1, 4)]
                case _:
                    raw[at:at] = dice.randbytes(dice.randint(1, 4))
        wanted = reference(bytes(raw))
        try:
            got = decode(bytes(raw))
        except BadUpdate:
            got = None
        lenient[0] += got is not None and wanted is None
        lenient[1] += got is not None and wanted is not None and trusted(got) != trusted(wanted)
    assert lenient == [0, 0]
