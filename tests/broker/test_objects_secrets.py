"""Secrets: which keys there are, where their values come from, and that no value is ever shown."""

import pytest
from support.worlds import documents, secret

from broker.credentials import SecretRef
from broker.objects import ProviderObject, SecretObject, collect, read_document


def only(text: str, environment: dict[str, str] | None = None):
    (document,) = documents(text, environment=environment)
    return document


def provider(spec: str) -> str:
    return f"---\napiVersion: aiaccess.dev/v1alpha1\nkind: AIProvider\nmetadata: {{name: p, namespace: team1}}\nspec: {spec}\n"


def test_secret_values_come_from_text_base64_and_the_environment():
    text = """
apiVersion: v1
kind: Secret
metadata: {name: s}
type: Opaque
data: {a: c2stMQo=, b: ImJhZA, g: 7}
stringData: {c: "${env:KEY}", d: "x-${env:NO}", e: 7, f: "", "no key": x}
unknown: 1
"""
    document = only(text, {"KEY": "sk-2"})
    assert isinstance(document, SecretObject)
    assert document.keys == {"a", "c"}
    assert {ref: credential.reveal() for ref, credential in document.credentials.items()} == {
        SecretRef("default", "s", "a"): "sk-1",
        SecretRef("default", "s", "c"): "sk-2",
    }
    assert {fault.path for fault in document.about.faults} == {
        *("data.b", "data.g", "unknown"),
        *("stringData.d", "stringData.e", "stringData.f", "stringData.no key"),
    }
    assert "NO is not set" in next(fault.message for fault in document.about.faults if fault.path == "stringData.d")


def test_secrets_of_kubernetes_are_taken_as_they_stand():
    raw = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"}, "stringData": {"a": "${env:KEY}"}}
    document = read_document(raw)
    assert [credential.reveal() for credential in document.credentials.values()] == ["${env:KEY}"]


def test_no_value_of_a_secret_is_ever_shown():
    canary = "sk-canary-5150"
    text = secret(data=f"{{a: {canary}, b: '{canary} with spaces', c: [{canary}]}}")
    text += provider(f"{{schema: OpenAI, credentials: {{type: Inline, value: {canary}}}}}")
    text += provider(f"{{schema: {canary}, credentials: {{type: Inline, value: [{canary}], {canary}: 1}}}}").replace(
        "apiVersion", "---\napiVersion"
    )
    found = documents(text)
    shown = repr(found[:2]) + repr(collect(found[:2])) + "".join(str(fault) for one in found[:1] for fault in one.about.faults)
    assert canary not in shown
    inline = found[1]
    assert isinstance(inline, ProviderObject)
    assert [credential.reveal() for credential in inline.credentials.values()] == [canary]


@pytest.mark.parametrize(
    ("metadata", "path"),
    [
        ("7", "metadata"),
        ("{}", "metadata.name"),
        ("{name: 7}", "metadata.name"),
        ("{name: a, namespace: B}", "metadata.namespace"),
        ("{name: a, namespcae: b}", "metadata.namespcae"),
        ("{name: a, annotations: [b]}", "metadata.annotations"),
        ("{name: a, annotations: {aiaccess.dev/hosts: 443}}", "metadata.annotations.aiaccess.dev/hosts"),
    ],
)
def test_wrong_metadata_empties_a_secret(metadata: str, path: str):
    document = only(f"apiVersion: v1\nkind: Secret\nmetadata: {metadata}\nstringData: {{a: b}}\n")
    assert isinstance(document, SecretObject)
    assert path in {fault.path for fault in document.about.faults}
    assert (document.keys, document.credentials) == (frozenset(), {})


def test_a_secret_whose_data_is_no_mapping_has_no_keys():
    document = only("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: [b]\ndata: c\n")
    assert {fault.path for fault in document.about.faults} == {"data", "stringData"}


@pytest.mark.parametrize("data", ["{a: &x b, c: d}", "{a: b, a: c, c: d}", "{a: !t b, c: d}"])
def test_a_secret_that_is_not_plain_yaml_is_emptied(data: str):
    assert only(secret(data=data)).keys == frozenset()
    assert only(secret().replace("stringData", "data").replace("{api-key: sk-canary}", data)).keys == frozenset()


def test_an_overlong_value_is_no_key():
    assert only(secret(data=f"{{a: {'k' * 16385}}}")).keys == frozenset()
