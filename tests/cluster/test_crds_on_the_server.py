"""The API server and the typed parser take and refuse the same objects; and what nobody may lose is kept."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from msgspec import inspect
from support.cluster.control_plane import ControlPlane
from support.cluster.kubectl import Kubectl
from support.generated_objects import KINDS, specs, whole
from support.objects_in_cluster import ApiServer, define

from broker.objects import Stray, read_document
from broker.objects.reading import Fault, read
from broker.objects.status import AccessStatus, IdentityUse, QuotaUse

ROOT = Path(__file__).parents[2]
KAGENTI = sorted(ROOT.glob("tests/golden/kagenti/*.yaml"))
SUBJECTS = [{"spiffeID": "spiffe://example.org/ns/team1/sa/agent"}]


@pytest.fixture(scope="module")
def kinds(cluster: ControlPlane) -> ControlPlane:
    define(cluster)
    return cluster


@pytest.fixture(scope="module")
def server(kinds: ControlPlane) -> Iterator[ApiServer]:
    it = ApiServer(kinds)
    yield it
    it.close()


def faults(made: dict[str, Any]) -> tuple[Fault, ...]:
    read = read_document(made)
    assert not isinstance(read, Stray)
    return read.about.faults


def as_the_server_sees(made: Any, kind: inspect.Type) -> Any:
    """Without what no schema can see, and only whoever reads the object refuses: fields that nobody declared, and null."""
    match kind:
        case inspect.Metadata():
            return as_the_server_sees(made, kind.type)
        case inspect.UnionType():
            structured = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
            return as_the_server_sees(made, structured[0]) if len(structured) == 1 else made
        case inspect.StructType() if isinstance(made, dict):
            known = {field.encode_name: field.type for field in kind.fields}
            return {name: as_the_server_sees(one, known[name]) for name, one in made.items() if name in known and one is not None}
        case inspect.VarTupleType() if isinstance(made, list):
            return [as_the_server_sees(one, kind.item_type) for one in made]
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_and_the_parser_take_and_refuse_the_same_objects(server: ApiServer, kind: str):
    verdicts: Counter[bool] = Counter()

    @settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(specs(kind))
    def judged(spec: Any) -> None:
        made = whole(kind, spec, namespace="default")
        stored, refusal = server.would_store(made)
        verdicts[stored is not None] += 1
        if stored is None:
            assert faults(made), refusal
        else:
            seen = stored | {"spec": as_the_server_sees(stored["spec"], inspect.type_info(KINDS[kind]))}
            assert faults(seen) == ()

    judged()
    assert min(verdicts[True], verdicts[False]) >= 40, f"of {verdicts} too few of one kind to mean anything"


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_server_fills_in_means_what_its_absence_means(server: ApiServer, kind: str):
    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(specs(kind))
    def judged(spec: Any) -> None:
        made = whole(kind, spec, namespace="default")
        stored, _ = server.would_store(made)
        if stored is not None and not faults(made):
            assert read(KINDS[kind], stored["spec"], "spec") == read(KINDS[kind], spec, "spec")

    judged()


@pytest.mark.parametrize("example", KAGENTI, ids=lambda path: path.stem)
def test_the_objects_of_the_kagenti_proposal_are_taken(kubectl: Kubectl, kinds: ControlPlane, example: Path):
    text = example.read_text().replace("namespace: team1", f"namespace: {kubectl.namespace}")
    assert "created" in kubectl.apply(text, "--server-side=false")


def test_a_field_that_nobody_knows_is_kept_and_refused_by_the_parser(server: ApiServer):
    quota = {"name": "pace", "requests": 1, "per": "Day", "burst": 3}
    made = whole("AIAccessPolicy", {"subjects": SUBJECTS, "models": ["*"], "quotas": [quota], "onlyOnSundays": True}, namespace="default")
    stored, _ = server.would_store(made | {"quotas": [quota]})
    assert stored is not None
    assert {fault.path for fault in faults(stored)} == {"spec.quotas[0].burst", "spec.onlyOnSundays", "quotas"}


def test_null_does_not_come_to_mean_everybody(server: ApiServer):
    """Without `nullable` the server drops it, and absent subjects mean every identity of the trust domain."""
    made = whole("AIAccessPolicy", {"subjects": None, "models": ["*"], "mtls": {"trustDomain": "example.org"}}, namespace="default")
    stored, _ = server.would_store(made)
    assert stored is not None
    assert [fault.path for fault in faults(stored)] == ["spec.subjects"]


def test_subjects_that_are_left_empty_in_an_update_are_not_dropped(kubectl: Kubectl, kinds: ControlPlane):
    """`kubectl apply` takes `subjects:` with nothing behind it for a field to be removed, and so nobody would see the null."""
    spec = {"subjects": SUBJECTS, "models": ["*"], "mtls": {"trustDomain": "example.org"}}
    kubectl.apply([whole("AIAccessPolicy", spec, "agents", kubectl.namespace)])
    emptied = yaml.safe_dump(whole("AIAccessPolicy", {**spec, "subjects": None}, "agents", kubectl.namespace))
    said = kubectl.refusal("apply", "-f", "-", stdin=emptied)
    assert "spec: Invalid value" in said
    assert "an update that drops subjects would mean every identity; delete the object and create it anew" in said
    assert kubectl.json("get", "aap", "agents")["spec"]["subjects"] == SUBJECTS


def test_subjects_may_be_changed_and_added(kubectl: Kubectl, kinds: ControlPlane):
    everybody = {"models": ["*"], "mtls": {"trustDomain": "example.org"}}
    for subjects in ({}, {"subjects": SUBJECTS}, {"subjects": [{"spiffeIDPrefix": "spiffe://example.org/"}]}):
        assert "aiaccesspolicy" in kubectl.apply([whole("AIAccessPolicy", {**everybody, **subjects}, "agents", kubectl.namespace)])


def test_a_secret_of_another_namespace_cannot_be_named(server: ApiServer):
    credentials = {"type": "APIKey", "secretRef": {"name": "key", "namespace": "team2"}}
    stored, _ = server.would_store(whole("AIProvider", {"schema": "OpenAI", "credentials": credentials}, namespace="default"))
    assert stored is not None
    assert [fault.path for fault in faults(stored)] == ["spec.credentials.secretRef.namespace"]


@pytest.mark.parametrize(
    ("spec", "path", "told"),
    [
        ({"models": ["*"]}, "spec", "names nobody: give subjects, or mtls.trustDomain"),
        ({"subjects": SUBJECTS}, "spec", 'models is required with subjects: list models of this namespace, or "*"'),
        ({"subjects": [{}], "models": ["*"]}, "spec.subjects[0]", "names exactly one of spiffeID, spiffeIDPrefix, serviceAccount"),
        (
            {"subjects": [{"spiffeIDPrefix": "spiffe://example.org/ns/team"}], "models": ["*"]},
            "spec.subjects[0].spiffeIDPrefix",
            "must end with / : a prefix is whole path segments",
        ),
        (
            {"subjects": SUBJECTS, "models": ["*"], "quotas": [{"name": "a", "tokens": 1}]},
            "spec.quotas[0]",
            "per is required: Minute, Hour, Day or Month",
        ),
        (
            {"subjects": SUBJECTS, "models": ["*"], "quotas": [{"name": "a", "usd": "5", "per": "Day", "tokenCountMode": "InputToken"}]},
            "spec.quotas[0].tokenCountMode",
            "belongs to tokens; leave it out",
        ),
        (
            {"subjects": SUBJECTS, "models": ["*"], "quotas": [{"name": "a", "usd": "5,00", "per": "Day"}]},
            "spec.quotas[0].usd",
            "should match",
        ),
    ],
)
def test_a_refusal_says_where_and_what_to_do(server: ApiServer, spec: Any, path: str, told: str):
    stored, refusal = server.would_store(whole("AIAccessPolicy", spec, namespace="default"))
    assert stored is None
    assert f"{path}: Invalid value" in refusal
    assert told in refusal


def test_kubectl_explains_every_level(kubectl: Kubectl, kinds: ControlPlane):
    said = kubectl("explain", "aap.spec.quotas")
    assert "Tokens in a window. At least 1." in said
    assert "enum: Day, Hour, Minute, Month" in said
    assert "Name of the Secret, in the same namespace." in kubectl("explain", "arp.spec.providers.credentials.secretRef")
    assert "Why, and what to do about it, for people." in kubectl("explain", "aiprov.status.conditions")


def test_kubectl_get_shows_the_audit_at_a_glance(kubectl: Kubectl, kinds: ControlPlane):
    kubectl.apply([whole("AIAccessPolicy", {"subjects": SUBJECTS, "models": ["*"]}, "agents", kubectl.namespace)])
    condition = {
        "type": "Programmed",
        "status": "True",
        "reason": "Programmed",
        "message": "m",
        "lastTransitionTime": "2026-11-01T00:00:00Z",
    }
    status = {
        "subjectSummary": "agent",
        "modelSummary": "*",
        "identityCount": 1,
        "tokens24h": 42,
        "denied24h": 7,
        "conditions": [condition],
    }
    kubectl("patch", "aap", "agents", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    header, row = kubectl("get", "aap").splitlines()
    assert header.split() == ["NAME", "SUBJECTS", "MODELS", "PROGRAMMED", "IDENTITIES", "TOKENS-24H", "DENIED-24H", "LAST-USED", "AGE"]
    assert row.split()[:7] == ["agents", "agent", "*", "True", "1", "42", "7"]
    kubectl("wait", "--for=condition=Programmed", "aap/agents", "--timeout=5s")
    assert "ACTION" in kubectl("get", "ai", "-o", "wide")


def test_every_status_that_the_structs_can_say_can_be_written(kubectl: Kubectl, kinds: ControlPlane):
    use = QuotaUse(name="pace", unit="requests", used="1", limit="60", reset_time="2026-11-01T00:01:00Z")
    identity = IdentityUse(identity="spiffe://example.org/a", requests24h=1, quotas=(use,))
    status = AccessStatus(observed_generation=1, shadow_denied24h=0, last_used_time="2026-11-01T00:00:00Z", usage=(identity,))
    kubectl.apply([whole("AIAccessPolicy", {"subjects": SUBJECTS, "models": ["*"]}, "used", kubectl.namespace)])
    written = {name: one for name, one in json.loads(msgspec.json.encode(status)).items() if one is not None}
    kubectl("patch", "aap", "used", "--subresource=status", "--type=merge", "-p", json.dumps({"status": written}))
    assert kubectl.json("get", "aap", "used")["status"] == written
