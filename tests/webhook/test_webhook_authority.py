"""The webhook's own authority."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from webhook import authority

NOW = dt.datetime(2026, 11, 21, 12, 0, tzinfo=dt.UTC)
NAMES = ("webhook.inference-broker.svc", "webhook.inference-broker.svc.cluster.local")


def parsed(pair):
    return x509.load_pem_x509_certificate(pair.certificate)


@pytest.mark.parametrize("name", NAMES)
def test_its_certificates_are_valid_to_a_strict_verifier(name):
    ca = authority.new_authority(NOW)
    leaf = authority.new_leaf(ca, NAMES, NOW)
    verifier = PolicyBuilder().store(Store([parsed(ca)])).time(NOW).build_server_verifier(x509.DNSName(name))
    assert verifier.verify(parsed(leaf), [])


def test_a_ca_lives_ninety_days_and_a_leaf_no_longer_than_seven():
    ca = authority.new_authority(NOW)
    leaf = authority.new_leaf(ca, NAMES, NOW)
    assert ca.ends - NOW == dt.timedelta(days=90)
    assert leaf.ends - NOW == dt.timedelta(days=7)
    assert leaf.begins < NOW


def test_a_leaf_never_outlives_its_ca():
    ca = authority.new_authority(NOW)
    assert authority.new_leaf(ca, NAMES, NOW + dt.timedelta(days=88)).ends == ca.ends


def test_addresses_and_names_are_both_served():
    assert authority.new_leaf(authority.new_authority(NOW), ("a.svc", "127.0.0.1", "::1"), NOW).names() == ("a.svc", "127.0.0.1", "::1")


def test_who_signed_a_leaf_can_be_told():
    ca, other = authority.new_authority(NOW), authority.new_authority(NOW + dt.timedelta(seconds=1))
    leaf = authority.new_leaf(ca, NAMES, NOW)
    assert leaf.signed_by(ca.certificate)
    assert not leaf.signed_by(other.certificate)


def test_two_authorities_have_two_names():
    """A client with both in its bundle finds the right one by its name."""
    assert parsed(authority.new_authority(NOW)).subject != parsed(authority.new_authority(NOW + dt.timedelta(microseconds=1))).subject


def test_the_key_is_in_no_repr():
    assert "PRIVATE" not in repr(authority.new_authority(NOW))
