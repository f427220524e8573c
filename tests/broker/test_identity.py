import random
import string

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st
from support.spiffe_ca import Faults, SpiffeCa, key_usage

from broker.identity import Identity, InvalidSpiffeId, InvalidSvid, leaf_identity, parse_spiffe_id

TRUST_DOMAIN_CHARS = string.ascii_lowercase + string.digits + "._-"
PATH_CHARS = string.ascii_letters + string.digits + "._-"

segments = st.text(PATH_CHARS, min_size=1, max_size=20).filter(lambda s: s not in {".", ".."})
spiffe_ids = st.builds(
    lambda domain, path: f"spiffe://{domain}{''.join('/' + s for s in path)}",
    st.text(TRUST_DOMAIN_CHARS, min_size=1, max_size=60),
    st.lists(segments, max_size=6),
)


@pytest.mark.parametrize(
    ("text", "domain", "path"),
    [
        ("spiffe://trustdomain", "trustdomain", ""),
        ("spiffe://trustdomain/path", "trustdomain", "/path"),
        ("spiffe://trustdomain/path1/path2", "trustdomain", "/path1/path2"),
        ("spiffe://trustdomain/9eebccd2-12bf-40a6-b262-65fe0487d453", "trustdomain", "/9eebccd2-12bf-40a6-b262-65fe0487d453"),
        ("spiffe://10.2.3.4/w", "10.2.3.4", "/w"),
        ("spiffe://a_b-c.d/W_O-R.K", "a_b-c.d", "/W_O-R.K"),
        ("spiffe://td/...", "td", "/..."),
        ("spiffe://td/.a", "td", "/.a"),
        ("spiffe://td/a..", "td", "/a.."),
        ("spiffe://-", "-", ""),
    ],
)
def test_an_id_is_read_as_trust_domain_and_path(text, domain, path):
    assert parse_spiffe_id(text) == Identity(text, domain, path, "", "")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "starts with spiffe://"),
        ("spiffe", "starts with spiffe://"),
        ("spiffe:/td/path", "starts with spiffe://"),
        ("spiffe:td/path", "starts with spiffe://"),
        ("http://td/path", "starts with spiffe://"),
        ("SPIFFE://td/path", "starts with spiffe://"),
        ("Spiffe://td/path", "starts with spiffe://"),
        (" spiffe://td/path", "starts with spiffe://"),
        ("spiffe://", "trust domain is missing"),
        ("spiffe:///path", "trust domain is missing"),
        ("spiffe://TD/path", "lower-case"),
        ("spiffe://user@td/path", "lower-case"),
        ("spiffe://td:8080/path", "lower-case"),
        ("spiffe://[::1]/path", "lower-case"),
        ("spiffe://xn--%e2/path", "lower-case"),
        ("spiffe://td?q=1", "lower-case"),
        ("spiffe://td#f", "lower-case"),
        ("spiffe://trustdomain\n/path", "lower-case"),
        ("spiffe://trustdomain\n", "lower-case"),
        ("spiffe://\u212aelvin/path", "lower-case"),
        ("spiffe://dom\u0131/path", "lower-case"),
        ("spiffe://td\u0660/path", "lower-case"),
        ("spiffe://td/", "end with a slash"),
        ("spiffe://td/path/", "end with a slash"),
        ("spiffe://td//", "end with a slash"),
        ("spiffe://td//path", "empty segments"),
        ("spiffe://td/path//x", "empty segments"),
        ("spiffe://td/./x", "relative segments"),
        ("spiffe://td/.", "relative segments"),
        ("spiffe://td/..", "relative segments"),
        ("spiffe://td/x/../y", "relative segments"),
        ("spiffe://td/pa th", "consists of"),
        ("spiffe://td/path?q", "consists of"),
        ("spiffe://td/path#f", "consists of"),
        ("spiffe://td/path%20", "consists of"),
        ("spiffe://td/%2e%2e/x", "consists of"),
        ("spiffe://td/path\n", "consists of"),
        ("spiffe://td/path\x00", "consists of"),
        ("spiffe://td/path\\x", "consists of"),
        ("spiffe://td/p\u00e4th", "consists of"),
        ("spiffe://td/path\u0663", "consists of"),
        ("spiffe://td/" + "\ud800", "consists of"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_the_name_of_the_rule(text, rule):
    with pytest.raises(InvalidSpiffeId, match=rule):
        parse_spiffe_id(text)


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_passes_only_where_the_specification_lists_it(byte):
    char = chr(byte)
    for text, allowed in ((f"spiffe://t{char}d/path", TRUST_DOMAIN_CHARS + "/"), (f"spiffe://td/p{char}th", PATH_CHARS + "/")):
        if char in allowed:
            assert parse_spiffe_id(text).spiffe_id == text
        else:
            with pytest.raises(InvalidSpiffeId):
                parse_spiffe_id(text)


def test_2048_bytes_are_the_longest_id_and_255_the_longest_trust_domain():
    longest = "spiffe://" + "a" * 255 + "/" + "b" * (2048 - 9 - 255 - 1)
    assert len(longest) == 2048
    assert parse_spiffe_id(longest).trust_domain == "a" * 255
    with pytest.raises(InvalidSpiffeId, match="2048 bytes"):
        parse_spiffe_id(longest + "b")
    with pytest.raises(InvalidSpiffeId, match="255 bytes"):
        parse_spiffe_id("spiffe://" + "a" * 256 + "/b")


@pytest.mark.parametrize(
    ("path", "namespace", "account"),
    [
        ("/ns/team1/sa/weather-agent", "team1", "weather-agent"),
        ("/ns/team1/sa", "", ""),
        ("/ns/team1/sa/a/b", "", ""),
        ("/x/ns/team1/sa/a", "", ""),
        ("/NS/team1/sa/a", "", ""),
        ("/sa/a/ns/team1", "", ""),
    ],
)
def test_namespace_and_service_account_come_from_exactly_one_shape(path, namespace, account):
    identity = parse_spiffe_id("spiffe://example.org" + path)
    assert (identity.namespace, identity.service_account) == (namespace, account)


@given(spiffe_ids)
def test_whatever_is_an_id_is_read_back_unchanged(text):
    identity = parse_spiffe_id(text)
    assert f"spiffe://{identity.trust_domain}{identity.path}" == identity.spiffe_id == text


@given(st.text() | st.builds(lambda rest: "spiffe://" + rest, st.text()))
def test_no_text_gets_anything_but_an_identity_or_a_refusal_that_does_not_quote_it(text):
    try:
        identity = parse_spiffe_id(text)
    except InvalidSpiffeId as broken:
        rule = str(broken)
    else:
        rule = ""
        assert identity.spiffe_id == text
    assert rule.isprintable()
    assert rule.isascii()
    assert bool(rule) or (text.isprintable() and text.isascii())


@pytest.fixture(scope="module")
def ca():
    return SpiffeCa("a.test")


def test_a_leaf_as_spire_makes_it_names_its_workload(ca):
    assert leaf_identity(ca.issue("spiffe://a.test/w").chain[0]).spiffe_id == "spiffe://a.test/w"


@pytest.mark.parametrize(
    "faults",
    [
        Faults(dns=("w.a.test",)),
        Faults(san_critical=True, subject=()),
        Faults(is_ca=None),
        Faults(purposes=None),
        Faults(usage=key_usage("digital_signature", "key_encipherment", "key_agreement")),
        Faults(purposes=(*Faults().purposes, ExtendedKeyUsageOID.CODE_SIGNING)),
    ],
)
def test_what_the_specification_leaves_open_is_accepted(ca, faults):
    assert leaf_identity(ca.issue("spiffe://a.test/w", faults).chain[0]).path == "/w"


@pytest.mark.parametrize(
    ("faults", "rule"),
    [
        (Faults(san=False), "exactly one URI name, this one has 0"),
        (Faults(uris=(), dns=("a.test",)), "exactly one URI name, this one has 0"),
        (Faults(uris=("spiffe://a.test/w", "spiffe://a.test/v")), "exactly one URI name, this one has 2"),
        (Faults(uris=("spiffe://a.test/w", "https://a.test/w")), "exactly one URI name, this one has 2"),
        (Faults(uris=("https://a.test/w",)), "starts with spiffe://"),
        (Faults(uris=("spiffe://a.test",)), "has a path"),
        (Faults(uris=("spiffe://a.test/",)), "end with a slash"),
        (Faults(is_ca=True), "CA:TRUE"),
        (Faults(usage=None), "no key usage"),
        (Faults(usage_critical=False), "not critical"),
        (Faults(usage=key_usage("key_encipherment")), "lacks digitalSignature"),
        (Faults(usage=key_usage("digital_signature", "key_cert_sign")), "no keyCertSign"),
        (Faults(usage=key_usage("digital_signature", "crl_sign")), "no cRLSign"),
        (Faults(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), "lacks serverAuth or clientAuth"),
        (Faults(purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,)), "lacks serverAuth or clientAuth"),
        (Faults(purposes=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)), "lacks serverAuth or clientAuth"),
        (Faults(raw_uri=b"spiffe://a.test/w\n", uris=("spiffe://a.test/wx",)), "consists of"),
        (Faults(raw_uri=b"spiffe://a.test/\xff\xfe", uris=("spiffe://a.test/wx",)), "not well-formed"),
        (Faults(extra=((x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.19"), b"\x04\x01"), False),), is_ca=None), "not well-formed"),
    ],
)
def test_a_leaf_that_breaks_a_rule_is_refused_by_the_name_of_the_rule(ca, faults, rule):
    leaf = ca.issue("spiffe://a.test/w", faults).chain[0]
    with pytest.raises(InvalidSvid, match=rule):
        leaf_identity(leaf)


@pytest.mark.filterwarnings("ignore:Parsed a")
def test_no_damage_to_a_certificate_gets_past_the_two_refusals(ca):
    """Thousands of leaves with flipped bytes: a name, InvalidSvid, or (from the parser of the whole) ValueError. Nothing else."""
    dice = random.Random(4)  # noqa: S311  repeatable
    der = ca.issue("spiffe://a.test/w").chain_der[0]
    seen = set()
    for _ in range(4000):
        damaged = bytearray(der)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        try:
            leaf = x509.load_der_x509_certificate(bytes(damaged))
        except (ValueError, x509.InvalidVersion):
            continue
        try:
            seen.add(leaf_identity(leaf).spiffe_id[:9])
        except InvalidSvid:
            seen.add("refused")
    assert seen == {"spiffe://", "refused"}
