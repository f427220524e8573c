"""The webhook and a real API server: Pods that come back with their gateway, objects that are refused, certificates that change."""

import base64
import datetime as dt
import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.admission import env_of
from support.cluster.control_plane import ControlPlane
from support.cluster.kubectl import Kubectl, KubectlFailed
from support.cluster.webhooks import Creation, Webhooks, init_containers
from support.objects_in_cluster import define

PATIENCE_S = 60.0
KINDS = ("mutatingwebhookconfiguration", "validatingwebhookconfiguration")
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"

ROUTING = """
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {name: routing}
spec:
  providers: [{name: ollama, schema: OpenAI, endpoint: "https://llm.example.com/v1"}]
  models: [{name: gpt-4o, backends: [{provider: ollama}]}]
"""
ACCESS = """
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {name: agents}
spec:
  subjects: [{spiffeID: "spiffe://example.org/ns/team1/sa/agent"}]
  models: [gpt-4o]
"""
BROKEN = ACCESS + "  maxTokens: 100\n"


@pytest.fixture(scope="module")
def webhooks(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhooks]:
    """Two replicas, with a certificate of their own."""
    define(cluster)
    with Webhooks.installed(cluster, tmp_path_factory.mktemp("webhooks"), f"inference-broker-{secrets.token_hex(4)}") as it:
        yield it


@pytest.fixture
def team(webhooks: Webhooks, namespace: str, kubectl: Kubectl) -> Kubectl:
    """kubectl in a namespace whose Pods get a gateway from now on."""
    kubectl("label", "namespace", namespace, "aiaccess.dev/inject=enabled")
    eventually(lambda: init_containers(created(kubectl, pod("probe"), "--dry-run=server")) == ["aiaccess-gateway"])
    return kubectl


def pod(name: str = "agent", annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, **({"annotations": annotations} if annotations else {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "agent", "image": "agent:1"}], **spec},
    }


def created(kubectl: Kubectl, thing: dict[str, Any], *words: str) -> dict[str, Any]:
    return kubectl.json("create", "-f", "-", *words, stdin=json.dumps(thing))


def eventually(what: Callable[[], Any]) -> Any:
    """What it returns when that is true of it. A refusal is none."""
    ends_s, last = time.monotonic() + PATIENCE_S, "nothing"
    while time.monotonic() < ends_s:
        try:
            if found := what():
                return found
        except KubectlFailed as no:
            last = str(no)
        time.sleep(0.1)
    raise AssertionError(f"not within {PATIENCE_S:g} s; last came {last}")


def test_the_pod_of_a_deployment_comes_back_with_its_variables_and_the_gateway_first(team: Kubectl, webhooks: Webhooks):
    labels = {"app": "weather"}
    init = [{"name": "migrate", "image": "agent:1"}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "agent", "image": "agent:1"}], "initContainers": init}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    team.apply([{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "weather"}, "spec": spec}])
    (made,) = eventually(lambda: team.json("get", "pods", "-l", "app=weather")["items"])
    assert init_containers(made) == ["aiaccess-gateway", "migrate"]
    gateway = made["spec"]["initContainers"][0]
    assert gateway["image"] == webhooks.switch("--gateway-image")
    assert gateway["restartPolicy"] == "Always"
    assert f"--broker={webhooks.name}.{webhooks.name}.svc:8443" in gateway["args"]
    for container in ("agent", "migrate"):
        env = env_of(made, container)
        assert env["OPENAI_BASE_URL"] == "http://127.0.0.1:4180/v1"
        assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4180"
        assert env["OPENAI_API_KEY"] == "aiaccess-placeholder"
    note = json.loads(made["metadata"]["annotations"]["aiaccess.dev/injected"])
    assert note["port"] == 4180


def test_the_service_account_plugin_mounts_its_token_into_the_agent_and_not_into_the_gateway(team: Kubectl):
    made = created(team, pod(serviceAccountName="default"))
    (agent,), (gateway,) = made["spec"]["containers"], made["spec"]["initContainers"]
    there = {one["mountPath"]: one["name"] for one in agent["volumeMounts"]}
    assert there[TOKEN_FOLDER].startswith("kube-api-access-")
    here = {one["mountPath"]: one["name"] for one in gateway["volumeMounts"]}
    assert here == {"/spiffe-workload-api": "aiaccess-spiffe", TOKEN_FOLDER: "aiaccess-no-token"}
    assert next(one for one in made["spec"]["volumes"] if one["name"] == "aiaccess-no-token") == {
        "name": "aiaccess-no-token",
        "emptyDir": {},
    }


def test_a_pod_that_opts_out_is_left_alone(team: Kubectl):
    made = created(team, pod(annotations={"aiaccess.dev/inject": "false"}))
    assert init_containers(made) == []
    assert env_of(made, "agent") == {}


def test_a_dry_run_shows_the_same_and_stores_nothing(team: Kubectl):
    shown = created(team, pod(), "--dry-run=server")
    assert init_containers(shown) == ["aiaccess-gateway"]
    assert team.json("get", "pods")["items"] == []


def test_a_pod_on_its_nodes_network_is_refused_with_what_to_do(team: Kubectl):
    said = team.refusal("create", "-f", "-", stdin=json.dumps(pod(hostNetwork=True)))
    assert 'admission webhook "pods.aiaccess.dev" denied the request: a Pod with hostNetwork shares its node\'s loopback' in said
    assert 'aiaccess.dev/inject: "false"' in said
    assert init_containers(created(team, pod(annotations={"aiaccess.dev/inject": "false"}, hostNetwork=True))) == []


def test_a_namespace_without_the_label_is_untouched(team: Kubectl, cluster: ControlPlane):
    other = f"{team.namespace}-other"
    cluster.create_namespace(other)
    made = created(team.within(other), pod())
    assert init_containers(made) == []
    team("delete", "namespace", other, "--wait=false")


def test_the_profile_restricted_takes_an_injected_pod_that_it_takes_without(team: Kubectl):
    team("label", "namespace", team.namespace, "pod-security.kubernetes.io/enforce=restricted")
    strict = {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "agent",
                "image": "agent:1",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    assert init_containers(created(team, pod() | {"spec": strict})) == ["aiaccess-gateway"]
    assert "violates PodSecurity" in team.refusal("create", "-f", "-", stdin=json.dumps(pod("lax")))


# -- our own objects


def test_kubectl_prints_what_is_wrong_with_an_object_and_nothing_is_stored(team: Kubectl):
    eventually(lambda: "spec.maxTokens" in team.refusal("create", "--validate=false", "--dry-run=server", "-f", "-", stdin=BROKEN))
    said = team.refusal("create", "--validate=false", "-f", "-", stdin=BROKEN)
    assert 'admission webhook "objects.aiaccess.dev" denied the request: spec.maxTokens: is not a field of aiaccess.dev/v1alpha1' in said
    assert "objects.aiaccess.dev" in team.refusal("apply", "--validate=false", "-f", "-", stdin=BROKEN)
    assert team.json("get", "aiaccesspolicies")["items"] == []


def warnings(kubectl: Kubectl, text: str) -> str:
    """What kubectl says beside its answer; with --warnings-as-errors it fails for it."""
    return kubectl.refusal("apply", "--warnings-as-errors", "-f", "-", stdin=text)


def test_kubectl_prints_a_warning_while_a_model_is_not_offered_and_none_afterwards(team: Kubectl):
    assert "Warning: spec.models: no AIRoutingPolicy of this namespace offers gpt-4o" in warnings(team, ACCESS)
    team("delete", "aiaccesspolicy", "agents")
    team.apply(ROUTING)
    team.apply(ACCESS, "--warnings-as-errors")


def test_a_name_that_the_server_makes_is_judged_too(team: Kubectl):
    team.apply(ROUTING)
    text = ACCESS.replace("name: agents", "generateName: agents-")
    assert team("create", "-f", "-", "-o", "name", stdin=text).startswith("aiaccesspolicy.aiaccess.dev/agents-")


def test_an_object_that_is_wrong_can_be_labelled_and_deleted_and_changed_into_a_right_one_alone(team: Kubectl, webhooks: Webhooks):
    team("delete", "validatingwebhookconfiguration", webhooks.name)
    finalizer = BROKEN.replace("{name: agents}", "{name: agents, finalizers: [example.org/hold]}")
    eventually(lambda: team("create", "--validate=false", "-f", "-", stdin=finalizer))
    team.apply(ROUTING)
    webhooks.tell()
    trusted(webhooks, KINDS[1])
    eventually(
        lambda: (
            "maxTokens" in team.refusal("create", "--validate=false", "--dry-run=server", "-f", "-", stdin=BROKEN.replace("agents", "x"))
        )
    )
    patch = ("patch", "aiaccesspolicy", "agents", "--type=merge", "-p")
    team("label", "aiaccesspolicy", "agents", "seen=yes")
    assert "maxTokens" in team.refusal(*patch, '{"spec": {"maxTokens": 50}}')
    team(*patch, '{"status": {"observedGeneration": 1}}', "--subresource=status")
    team("delete", "aiaccesspolicy", "agents", "--wait=false")
    team(*patch, '{"metadata": {"finalizers": null}}')
    eventually(lambda: not team.json("get", "aiaccesspolicies")["items"])
    team("create", "--validate=false", "-f", "-", stdin=ACCESS)


# -- the certificate


def trusted(webhooks: Webhooks, kind: str) -> list[str]:
    """The caBundle of each webhook of a configuration, once all have one."""

    def found() -> list[str]:
        made = webhooks.cluster.kubectl().json("get", kind, webhooks.name)
        bundles = [one["clientConfig"].get("caBundle", "") for one in made["webhooks"]]
        return [base64.b64decode(one).decode() for one in bundles] if all(bundles) else []

    return eventually(found)


def secret(webhooks: Webhooks) -> dict[str, str]:
    found = webhooks.cluster.kubectl(namespace=webhooks.name).json("get", "secret", webhooks.secret)
    return {name: base64.b64decode(text).decode() for name, text in found.get("data", {}).items()}


def test_the_authority_rotates_while_pods_are_created_and_none_fails(webhooks: Webhooks, team: Kubectl, figures: list[str]):
    """An emptied Secret begins the steps of ordinary days; the test brings the second one forward."""
    kubectl, before = webhooks.cluster.kubectl(namespace=webhooks.name), secret(webhooks)
    with Creation(webhooks.cluster, team.namespace).going_on() as creation:
        creation.until(20)
        served = webhooks.serial_numbers()
        assert len(set(served)) == 1
        kubectl("patch", "secret", webhooks.secret, "--type=json", "-p", '[{"op": "remove", "path": "/data"}]')
        staged = eventually(lambda: ahead(webhooks))
        assert staged["ca.crt"] == before["ca.crt"]
        for kind in KINDS:
            eventually(lambda kind=kind: all(both(text, before["ca.crt"], staged["next-ca.crt"]) for text in trusted(webhooks, kind)))
        creation.until(40)
        assert webhooks.serial_numbers() == served
        now = base64.b64encode(dt.datetime.now(dt.UTC).isoformat(timespec="seconds").encode()).decode()
        kubectl("patch", "secret", webhooks.secret, "--type=merge", "-p", json.dumps({"data": {"next-from": now}}))
        eventually(lambda: not set(webhooks.serial_numbers()) & set(served))
        creation.until(60)
    assert creation.failures == []
    assert len(set(webhooks.serial_numbers())) == 1
    after = secret(webhooks)
    assert after["ca.crt"] == staged["next-ca.crt"]
    assert all(both(text, before["ca.crt"], after["ca.crt"]) for kind in KINDS for text in trusted(webhooks, kind))
    assert {tuple(init_containers(one)) for one in creation.pods} == {("aiaccess-gateway",)}
    figures.append(f"webhook: CA rotated under {len(creation.pods)} Pod creations, none failed")


def ahead(webhooks: Webhooks) -> dict[str, str]:
    found = secret(webhooks)
    return found if "next-ca.crt" in found else {}


def both(text: str, one: str, other: str) -> bool:
    return one in text and other in text


def test_a_bundle_that_somebody_wipes_comes_back(webhooks: Webhooks, team: Kubectl):
    texts = trusted(webhooks, KINDS[0])
    wipe = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
    webhooks.cluster.kubectl()("patch", KINDS[0], webhooks.name, "--type=json", "-p", json.dumps(wipe))
    assert trusted(webhooks, KINDS[0]) == texts
    eventually(lambda: created(team, pod("again"), "--dry-run=server"))


def test_what_its_service_account_may_do_is_no_more_than_the_document_says(webhooks: Webhooks, cluster: ControlPlane):
    kubectl = cluster.kubectl(cluster.service_account_kubeconfig(webhooks.name, webhooks.account), webhooks.name)
    assert "forbidden" in kubectl.refusal("get", "secrets")
    assert "forbidden" in kubectl.refusal("create", "secret", "generic", "another")
    assert "forbidden" in kubectl.refusal("get", "secret", "another")
    assert "forbidden" in kubectl.refusal("get", "aiaccesspolicies", "-A")
    assert "forbidden" in kubectl.refusal("get", KINDS[0])


def test_each_replica_is_restarted_while_pods_are_created_and_none_fails(webhooks: Webhooks, team: Kubectl, figures: list[str]):
    with Creation(webhooks.cluster, team.namespace).going_on() as creation:
        creation.until(20)
        for replica in tuple(webhooks.replicas):
            assert replica.stop() == 0
            creation.until(20)
            replica.start()
            creation.until(20)
    assert creation.failures == []
    assert {tuple(init_containers(one)) for one in creation.pods} == {("aiaccess-gateway",)}
    figures.append(f"webhook: both replicas restarted under {len(creation.pods)} Pod creations, none failed")


def test_while_no_webhook_answers_no_pod_is_created_but_those_that_opted_out_are(webhooks: Webhooks, team: Kubectl):
    for replica in webhooks.replicas:
        replica.kill()
    try:
        assert 'failed calling webhook "pods.aiaccess.dev"' in team.refusal("create", "-f", "-", stdin=json.dumps(pod()))
        assert init_containers(created(team, pod(annotations={"aiaccess.dev/inject": "false"}))) == []
        team.apply(ROUTING)  # the broker judges objects again
    finally:
        for replica in webhooks.replicas:
            replica.start()
    eventually(lambda: created(team, pod("again")))
