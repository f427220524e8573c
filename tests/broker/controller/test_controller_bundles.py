"""What is said of the trust bundle that a policy names."""

import base64
import datetime as dt
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from support.stored_objects import resources_of, stored
from support.worlds import SETTINGS

from broker.controller.bundles import Listed, with_bundle
from broker.policy import build
from broker.policy.status import Condition

NOON = dt.datetime(2026, 11, 17, 12, tzinfo=dt.UTC)
POLICY = """
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {name: a, namespace: team1}
spec: {mtls: {trustDomain: example.org, trustBundleConfigMap: {name: spire-bundle, namespace: spire-system}}}
"""


def authority(ends: dt.datetime) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    return made.serial_number(1).not_valid_before(NOON - dt.timedelta(days=9)).not_valid_after(ends).sign(key, hashes.SHA256())


VALID, LONGER = authority(NOON + dt.timedelta(hours=1)), authority(NOON + dt.timedelta(days=30))
EXPIRED = authority(NOON - dt.timedelta(seconds=1))


def jwks(*certificates: x509.Certificate) -> str:
    keys: list[dict[str, Any]] = [
        {"use": "x509-svid", "kty": "EC", "x5c": [base64.b64encode(one.public_bytes(serialization.Encoding.DER)).decode()]}
        for one in certificates
    ]
    return json.dumps({"spiffe_sequence": 1, "keys": [*keys, {"use": "jwt-svid", "kid": "x"}]})


def pem(*certificates: x509.Certificate) -> str:
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in certificates)


def told(*listed: Listed, policy: str = POLICY) -> Condition:
    resources = resources_of(stored(policy))
    (status,) = build(resources, SETTINGS).statuses
    (policy_object,) = resources.access
    found = with_bundle(status, policy_object.spec, listed, NOON.timestamp())
    (condition,) = [one for one in found.conditions if one.type == "BundleReady"]
    return condition


def of(text: str | None, key: str = "bundle.spiffe", trust_domain: str = "example.org", **fields: Any) -> Listed:
    found = {"fields": {"data": {key: text}}, **fields} if text is not None else fields
    return Listed(trust_domain, "spire-system", "spire-bundle", looked=True, **found)


@pytest.mark.parametrize("form", [jwks, pem])
def test_authorities_that_are_valid_are_counted_and_those_that_expired_are_skipped(form):
    assert told(of(form(VALID, LONGER))).message.endswith("has 2 CA certificates of example.org; the last ends 2026-12-17")
    found = told(of(form(EXPIRED, VALID)))
    assert (found.status, found.reason) == ("True", "BundleReady")
    assert "has 1 CA certificate of example.org; 1 that expired is skipped" in found.message


@pytest.mark.parametrize(
    ("listed", "verdict", "words"),
    [
        (Listed("example.org", "spire-system", "spire-bundle"), ("Unknown", "Pending"), "has not been read yet"),
        (of(None), ("False", "BundleNotFound"), "is not there"),
        (of(jwks(VALID), key="other"), ("False", "BundleNotFound"), "has no key bundle.spiffe; its keys: other"),
        (of(None, fields={}), ("False", "BundleNotFound"), "its keys: none"),
        (of(jwks()), ("False", "BundleEmpty"), "no CA certificate of example.org"),
        (of(jwks(EXPIRED)), ("False", "BundleEmpty"), "1 that expired is skipped"),
        (of("nonsense"), ("False", "BundleParseError"), "neither"),
        (of("{"), ("False", "BundleParseError"), "neither"),
        (of(" "), ("False", "BundleEmpty"), "no CA certificate"),
        (of(None, trouble="403 forbidden"), ("Unknown", "NotPermitted"), "get, list and watch of it"),
        (
            of(jwks(VALID), trust_domain="other.org"),
            ("Unknown", "NotPermitted"),
            "--trust-bundle-configmap example.org=spire-system/spire-bundle",
        ),
    ],
)
def test_what_is_wrong_with_a_bundle_is_said_with_what_to_do(listed: Listed, verdict: tuple[str, str], words: str):
    found = told(listed)
    assert (found.status, found.reason) == verdict
    assert words in found.message
    assert found.path == "spec.mtls.trustBundleConfigMap"


def test_a_policy_is_not_read_for_where_the_operator_listed_nothing():
    assert told().reason == "NotPermitted"
    elsewhere = Listed("example.org", "team1", "spire-bundle", looked=True, fields={"data": {"bundle.spiffe": jwks(VALID)}})
    assert told(elsewhere).reason == "NotPermitted"


@pytest.mark.parametrize(
    "spec",
    [
        "{mtls: {trustDomain: example.org}}",
        "{mtls: {trustDomain: example.org, trustBundleConfigMap: {name: spire-bundle, namespace: spire-system}}, x: 1}",
    ],
)
def test_a_policy_that_names_no_bundle_or_is_rejected_is_told_what_it_was(spec: str):
    policy = POLICY.partition("spec:")[0] + f"spec: {spec}\n"
    assert told(of(jwks(VALID)), policy=policy) == told(policy=policy)


@given(
    st.text()
    | st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["keys", "use", "x5c"]), x)).map(
        json.dumps
    )
)
def test_nothing_that_stands_in_a_configmap_is_more_than_a_verdict(text: str):
    found = told(of(text))
    assert found.reason in ("BundleEmpty", "BundleParseError")


@pytest.mark.parametrize("fields", [{"data": None}, {"data": []}, {"data": {"bundle.spiffe": 1}}, {"data": {"bundle.spiffe": None}}])
def test_a_configmap_of_another_shape_has_no_such_key(fields: dict[str, Any]):
    assert told(of(None, fields=fields)).reason == "BundleNotFound"
