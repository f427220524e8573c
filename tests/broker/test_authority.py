import random
import time

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from broker.authority import CA_TTL_S, Authority
from broker.errors import Unidentified
from broker.identity import InvalidSpiffeId
from broker.svids import Update, X509Svid
from broker.truststate import TrustState, bundles_of

WORKLOAD = "spiffe://a.test/ns/team1/sa/agent"
NOW = float(int(time.time()))


def state(authority, issued):
    svid = X509Svid(issued.spiffe_id, issued.chain, issued.key, authority.bundle, "")
    return TrustState(svid, bundles_of(Update((svid,), {}), {}))


def test_what_it_issues_is_an_svid_that_we_accept():
    authority = Authority("a.test", NOW, svid_ttl_s=60)
    issued = authority.issue(WORKLOAD, NOW)
    peer = state(authority, issued).verify(issued.chain, NOW)
    assert peer.identity.spiffe_id == WORKLOAD
    assert (peer.not_before, peer.not_after) == (NOW - 10, NOW + 60)
    assert issued.renew_s == NOW + 30


def test_an_svid_never_outlives_the_authority_that_signed_it():
    issued = Authority("a.test", NOW, svid_ttl_s=CA_TTL_S * 3).issue(WORKLOAD, NOW + 100)
    assert issued.not_after == NOW + CA_TTL_S


@pytest.mark.parametrize("name", ["", "A.test", "a.test/x", "a.test\n", "a b"])
def test_what_is_no_trust_domain_is_refused(name):
    if name == "a.test/x":  # an ID with a path: its trust domain is meant
        assert Authority(name, NOW, svid_ttl_s=60).trust_domain == "a.test"
    else:
        with pytest.raises(InvalidSpiffeId):
            Authority(name, NOW, svid_ttl_s=60)


@pytest.mark.parametrize(
    ("spiffe_id", "reason"),
    [
        ("spiffe://b.test/w", "no workload of"),
        ("spiffe://a.test", "no workload of"),
        ("spiffe://a.test/", "slash"),
        ("https://a.test/w", "starts with"),
        ("", "starts with"),
    ],
)
def test_it_issues_only_for_workloads_of_its_trust_domain(spiffe_id, reason):
    with pytest.raises(ValueError, match=reason):
        Authority("a.test", NOW, svid_ttl_s=60).issue(spiffe_id, NOW)


def test_a_new_ca_is_known_before_it_signs_and_the_old_one_as_long_as_its_svids_live():
    authority = Authority("a.test", NOW, svid_ttl_s=8)
    (first,) = authority.bundle
    old = authority.issue(WORKLOAD, NOW)
    authority.rotate(NOW + 1)
    assert len(authority.bundle) == 2
    assert _signer(authority, authority.issue(WORKLOAD, NOW + 2.9)) == first  # until 10.9
    assert authority.due_s(NOW + 2.9) == NOW + 3
    new = authority.issue(WORKLOAD, NOW + 3)
    assert _signer(authority, new) == authority.bundle[1]
    assert not authority.advance(NOW + 10.9)
    state(authority, new).verify(old.chain, NOW + 8)
    assert authority.due_s(NOW + 10) == NOW + 10.9
    assert authority.advance(NOW + 11)
    assert len(authority.bundle) == 1
    assert first not in authority.bundle
    with pytest.raises(Unidentified):
        state(authority, new).verify(old.chain, NOW + 5)


def _signer(authority, issued):
    leaf = x509.load_der_x509_certificate(issued.chain[0])
    for ca in authority.bundle:
        try:
            leaf.verify_directly_issued_by(x509.load_der_x509_certificate(ca))
        except Exception:  # noqa: BLE001, S112  whatever it is, this is not the one
            continue
        return ca
    return None


def test_a_rotation_under_way_is_not_overtaken():
    authority = Authority("a.test", NOW, svid_ttl_s=8)
    for step in range(5):
        authority.rotate(NOW + step / 10)
    assert len(authority.bundle) == 2


def test_it_rotates_by_itself_when_it_is_time():
    authority = Authority("a.test", NOW, svid_ttl_s=8, rotate_ca_every_s=20)
    assert not authority.advance(NOW + 19.9)
    assert authority.due_s(NOW + 19.9) == NOW + 20
    assert authority.advance(NOW + 20)
    assert len(authority.bundle) == 2


@given(st.lists(st.tuples(st.floats(0.1, 15), st.booleans()), max_size=25))
def test_whatever_happens_every_living_svid_stands_on_the_bundle_and_the_bundle_stays_small(steps):
    authority, now, alive = Authority("a.test", NOW, svid_ttl_s=10, rotate_ca_every_s=40), NOW, []
    for pause, rotates in steps:
        now += pause
        if rotates:
            authority.rotate(now)
        authority.advance(now)
        alive = [issued for issued in alive if issued.not_after >= now] + [authority.issue(WORKLOAD, now)]
        assert all(_signer(authority, issued) for issued in alive)
        assert len(authority.bundle) <= 7
        assert authority.due_s(now) >= now


@given(st.integers(0, 2**32), st.floats(8, 60))
def test_two_workloads_that_hear_late_of_every_rotation_still_believe_each_other(seed, svid_ttl_s):
    """Late by less than the preparation, each by its own delay; what they believe is what stood in the last message they heard."""
    dice = random.Random(seed)  # noqa: S311  repeatable
    authority = Authority("a.test", NOW, svid_ttl_s=svid_ttl_s, rotate_ca_every_s=svid_ttl_s * 2)
    late_s = min(5.0, svid_ttl_s / 4) * 0.99
    names = (WORKLOAD, "spiffe://a.test/broker")
    issued = {name: authority.issue(name, NOW) for name in names}
    sent = {name: [(NOW, state(authority, issued[name]))] for name in names}
    heard = {name: sent[name].pop()[1] for name in names}
    now = NOW
    for _ in range(40):
        now += dice.uniform(0.05, svid_ttl_s / 8)
        moved = authority.advance(now)
        for name in names:
            if renew := now >= issued[name].renew_s:
                issued[name] = authority.issue(name, now)
            if renew or moved:
                sent[name].append((now, state(authority, issued[name])))
            while sent[name] and (sent[name][0][0] <= now - late_s or dice.random() < 0.2):
                heard[name] = sent[name].pop(0)[1]
        for name, peer in (names, names[::-1]):
            assert heard[name].verify(heard[peer].svid.chain, now).identity.spiffe_id == peer
