"""The values: closed, explained, and what no schema can say is said in a sentence."""

import json
import re
from typing import Any

import helm_python
import pytest
import yaml
from support.chart import CHART, LEAST, MOST, NAMESPACE, files, render

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALUES = (CHART / "values.yaml").read_text()


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(helm_python.HelmError) as refused:
        render(LEAST | values)
    return str(refused.value)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"trustDomain": ""}, "/trustDomain"),
        ({"trustDomain": "spiffe://example.org"}, "/trustDomain"),
        ({"namespaces": ["team1", "*"]}, "/namespaces"),
        ({"namespaces": ["Team1"]}, "/namespaces"),
        ({"secrets": {"team1": []}}, "/secrets/team1"),
        ({"secrets": {"team1": ["openai", "*"]}}, "/secrets/team1"),
        ({"trustBundleConfigMaps": {"partner.example": "partner-bundle"}}, "/trustBundleConfigMaps"),
        ({"quotaStore": {"url": "rediss://broker:a-password@redis.example:6379/0"}}, "/quotaStore/url"),
        ({"quotaStore": {"secretName": "a", "url": "sqlite:////tmp/q"}}, "/quotaStore/url"),
        ({"broker": {"replicas": 0}}, "/broker/replicas"),
        ({"broker": {"drainSeconds": "25s"}}, "/broker/drainSeconds"),
        ({"broker": {"maxBody": "32MB"}}, "/broker/maxBody"),
        ({"broker": {"auditFile": {"maxMiB": 0}}}, "/broker/auditFile/maxMiB"),
        ({"broker": {"auditFile": {"keep": "0"}}}, "/broker/auditFile/keep"),
        ({"broker": {"auditFile": {"maxAge": "1w"}}}, "/broker/auditFile/maxAge"),
        ({"broker": {"auditFile": {"claimName": "../a"}}}, "/broker/auditFile/claimName"),
        ({"sealing": {"secretName": "a", "secretKey": "../a"}}, "/sealing/secretKey"),
        ({"broker": {"usage": {"mtlsPort": 443}}}, "/broker/usage/mtlsPort"),
        ({"broker": {"usage": {"identities": ["*"]}}}, "/broker/usage/identities"),
        ({"webhook": {"timeoutSeconds": 31}}, "/webhook/timeoutSeconds"),
        ({"webhook": {"injection": {"failurePolicy": "Maybe"}}}, "/webhook/injection/failurePolicy"),
        ({"webhook": {"certificate": {"mode": "none"}}}, "/webhook/certificate/mode"),
        ({"gateway": {"port": 80}}, "/gateway/port"),
        ({"gateway": {"uid": 0}}, "/gateway/uid"),
        ({"gateway": {"image": "a b"}}, "/gateway/image"),
        ({"runAsUser": 0}, "/runAsUser"),
        ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    ],
    ids=json.dumps,
)
def test_a_value_out_of_its_bounds_is_refused_with_its_place(values: dict[str, Any], place: str):
    assert place in refusal(values)


def closed(schema: Any) -> bool:
    return schema.get("additionalProperties") is not None or "properties" not in schema


def test_a_value_that_nobody_knows_is_refused_wherever_it_stands():
    open_ones = [schema for schema in [SCHEMA, *SCHEMA["properties"].values(), *SCHEMA["definitions"].values()] if not closed(schema)]
    assert open_ones == []
    assert "replica" in refusal({"broker": {"replica": 3}})
    assert "trustDomian" in refusal({"trustDomian": "example.org"})


def test_the_schema_and_the_values_name_the_same():
    defaults = yaml.safe_load(VALUES)

    def differences(schema: Any, value: Any, path: str) -> list[str]:
        if "properties" not in schema or not isinstance(value, dict):
            return []
        told, there = set(schema["properties"]) - {"global"}, set(value)
        inner = [one for name in told & there for one in differences(schema["properties"][name], value[name], f"{path}.{name}")]
        optional = {".webhook.certificate.certManager.issuerRef"}
        return inner + ([f"{path}.{name}" for name in told ^ there] if path not in optional else [])

    assert differences(SCHEMA, defaults, "") == []


def test_every_value_is_explained_beside_it_or_above_it():
    lines = VALUES.splitlines()
    bare = []
    for number, line in enumerate(lines):
        key = re.match(r"( {0,2})([A-Za-z]+):", line)
        if key and "#" not in line and not lines[number - 1].strip().startswith("#"):
            bare.append(key[2])
    assert bare == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"quotaStore": {}}, "quotaStore: give secretName"),
        ({"quotaStore": {"secretName": "a", "url": "memory:"}}, "one of them"),
        ({"quotaStore": {"url": "memory:"}}, "broker.replicas 1"),
        ({"secrets": {"team3": ["a"]}}, "add team3 to namespaces"),
        ({"broker": {"auditFile": {"enabled": True, "keep": "90d"}}}, "give a number of files"),
        ({"broker": {"auditFile": {"enabled": True, "keep": ""}}}, "give a number of files"),
        ({"secrets": {NAMESPACE: ["*"]}}, "name each one"),
        ({"webhook": {"certificate": {"mode": "given", "given": {"secretName": "a"}}}}, "given.caBundle"),
    ],
    ids=json.dumps,
)
def test_values_that_do_not_go_together_are_refused_with_what_to_do(values: dict[str, Any], told: str):
    assert told in refusal(values)


def test_a_trial_without_redis_runs_one_broker_and_says_that_it_forgets():
    made = LEAST | {"quotaStore": {"url": "memory:"}, "broker": {"replicas": 1}}
    assert "forgotten when the broker restarts" in files(made)["NOTES.txt"]


def test_the_notes_say_who_the_broker_must_be_and_what_comes_next():
    notes = files(LEAST)["NOTES.txt"]
    assert "spiffe://example.org/ns/inference-broker/sa/inference-broker" in notes
    assert re.findall(r"^  [123]\. .*\n     (\w+) ", notes, re.MULTILINE) == ["kubectl", "kubectl", "kubectl"]
    assert "kubectl label namespace team1 aiaccess.dev/inject=enabled" in notes


@pytest.mark.parametrize("values", [LEAST, MOST], ids=["least", "most"])
def test_helm_finds_nothing_to_complain_of(values: dict[str, Any]):
    found = helm_python.lint(str(CHART), dict(values), strict=True, namespace=NAMESPACE)
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]
