"""The verdict itself is tried through handshakes, in test_trust.py; here is what needs none."""

import base64
import json
import time

import pytest
from support.spiffe_ca import SpiffeCa, update, x509_svid

from broker.errors import Unidentified
from broker.svids import Update
from broker.truststate import TrustState, bundles_of, read_bundle


@pytest.fixture(scope="module")
def ca():
    return SpiffeCa("a.test")


def jwks(*keys):
    return json.dumps({"spiffe_sequence": 1, "spiffe_refresh_hint": 300, "keys": list(keys)}).encode()


def key(ca, **more):
    return {"kty": "EC", "crv": "P-256", "use": "x509-svid", "x5c": [base64.b64encode(ca.der).decode()], **more}


def test_a_pem_bundle_is_read_whole(ca):
    other = SpiffeCa("a.test")
    assert read_bundle(ca.pem + other.pem) == (ca.cert, other.cert)


def test_of_a_spiffe_bundle_the_x509_keys_count(ca):
    jwt = {"kty": "EC", "use": "jwt-svid", "kid": "k"}
    assert read_bundle(jwks(jwt, key(ca), {"kty": "?"})) == (ca.cert,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "PEM"),
        (b"no pem", "PEM"),
        (b"{", "neither PEM"),
        (b"{}", "neither PEM"),
        (b'{"keys": 1}', "neither PEM"),
        (jwks({"use": "x509-svid", "x5c": ["%%"]}), "neither PEM"),
        (jwks({"use": "x509-svid", "x5c": ["MAA="]}), "cannot be read"),
        (jwks(), "none"),
        (jwks({"use": "jwt-svid"}), "none"),
    ],
)
def test_what_is_no_bundle_is_an_error_and_not_an_empty_one(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_bundle(text)


def test_the_default_identity_has_the_last_word_on_its_domains_bundle(ca):
    other = SpiffeCa("a.test")
    first, second = x509_svid(ca.issue("spiffe://a.test/w"), ca), x509_svid(ca.issue("spiffe://a.test/v"), other)
    third = x509_svid(SpiffeCa("b.test").issue("spiffe://b.test/v"), other)
    found = bundles_of(Update((first, second, third), {"spiffe://a.test": (other.der,)}), {})
    assert found == {"a.test": (ca.cert,), "b.test": (other.cert,)}


def test_a_verdict_names_the_time_for_which_it_holds(ca):
    above = ca.intermediate(begins_s=-30, ttl_s=100)
    svid = above.issue("spiffe://a.test/w", begins_s=-60, ttl_s=200)
    new = update(svid, ca)
    state = TrustState(new.svids[0], bundles_of(new, {}))
    peer = state.verify(svid.chain_der, time.time())
    assert peer.not_before == above.cert.not_valid_before_utc.timestamp()
    assert peer.not_after == above.cert.not_valid_after_utc.timestamp()
    assert peer.chain == svid.chain_der


def test_an_empty_chain_is_nobody(ca):
    new = update(ca.issue("spiffe://a.test/w"), ca)
    with pytest.raises(Unidentified):
        TrustState(new.svids[0], bundles_of(new, {})).verify([], time.time())
