"""`broker controller` against a real API server: what kubectl shows of the objects, and who of several controllers writes it."""

import asyncio
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.asks import ask
from support.cluster.control_plane import ControlPlane
from support.cluster.controllers import Controllers, eventually, get
from support.cluster.kubectl import Kubectl
from support.objects_in_cluster import define

from broker.chat import Usage
from broker.grant import Budget, Per, PolicyRef, Unit
from broker.ledger.sqlite import SqliteLedger

PATIENCE_S = 60.0
AGENT = "spiffe://example.org/ns/team1/sa/weather-agent"
OTHER = "spiffe://example.org/ns/team1/sa/planner"

ROUTING = """
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {name: routing}
spec:
  providers: [{name: ollama, schema: OpenAI, endpoint: "https://llm.example.com/v1"}]
  models: [{name: gpt-4o, backends: [{provider: ollama}]}, {name: small, backends: [{provider: ollama}]}]
"""
ACCESS = f"""
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: weather-agents}}
spec:
  subjects: [{{spiffeID: "{AGENT}"}}, {{spiffeID: "{OTHER}"}}]
  models: [gpt-4o, small]
  quotas: [{{name: hourly, tokens: 1000, per: Hour}}, {{name: width, concurrent: 4}}]
"""
BROKEN = """
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {name: broken}
spec:
  subjects: [{spiffeID: "spiffe://example.org/ns/team1/sa/weather-agent"}]
  models: [gpt-4o]
  maxTokens: 100
"""


@pytest.fixture(scope="module", autouse=True)
def kinds(cluster: ControlPlane) -> None:
    define(cluster)


@pytest.fixture
def controllers(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Controllers]:
    them = Controllers(cluster, namespace, tmp_path)
    yield them
    for server in them.servers:
        server.kill()


def leads(url: str) -> bool:
    return "aiaccess_controller_leader 1.0" in get(f"{url}/metrics")


def test_kubectl_wait_works_and_every_object_is_told_its_generation(controllers: Controllers, kubectl: Kubectl):
    controllers.start()
    kubectl.apply(ROUTING + "---" + ACCESS)
    kubectl("wait", "--for=condition=Programmed", "aiaccesspolicy/weather-agents", "airoutingpolicy/routing", "--timeout=60s")
    found = kubectl.json("get", "aiaccesspolicy", "weather-agents")
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"] == 1
    assert {one["type"]: one["status"] for one in found["status"]["conditions"]} == {
        "Accepted": "True",
        "BundleReady": "True",
        "ModelsResolved": "True",
        "Programmed": "True",
    }
    kubectl.apply(ACCESS.replace("gpt-4o, small", "gpt-4o, absent"))
    kubectl("wait", "--for=condition=ModelsResolved=False", "aiaccesspolicy/weather-agents", "--timeout=60s")
    assert kubectl.json("get", "aiaccesspolicy", "weather-agents")["status"]["observedGeneration"] == 2


def test_an_object_that_is_wrong_says_in_describe_where_and_what_to_do(controllers: Controllers, kubectl: Kubectl):
    controllers.start()
    kubectl("create", "--validate=false", "-f", "-", stdin=ROUTING + "---" + BROKEN)
    kubectl("wait", "--for=condition=Accepted=False", "aiaccesspolicy/broken", "--timeout=60s")
    said = " ".join(kubectl("describe", "aiaccesspolicy", "broken").split())
    assert "spec.maxTokens: is not a field" in said
    assert "Reason: UnknownField Status: False Type: Accepted" in said


def used(folder: Path, namespace: str) -> str:
    """Traffic of two identities in a store that a controller then reads: 40 tokens in 2 requests, 3 refusals. Its URL."""
    file = folder / "quota.sqlite"

    async def traffic() -> None:
        ledger = await SqliteLedger.open(file, time.time, 5.0)
        policy = PolicyRef(namespace, "weather-agents", "uid/1")
        for identity, tokens in ((AGENT, 30), (OTHER, 10)):
            counter = f"{{{namespace}}}/AIAccessPolicy/weather-agents/hourly/total_tokens/hour/identity/{identity}"
            held = await ledger.hold(ask(Budget(counter, Unit.TOTAL_TOKENS, 1000, Per.HOUR), identity=identity, policies=(policy,)))
            await ledger.settle(held.hold_id, Usage(tokens - 1, 1))
        for _ in range(3):
            await ledger.deny((policy,), OTHER)
        await ledger.close()

    asyncio.run(traffic())
    return f"sqlite://{file}"


def test_the_columns_of_kubectl_get_say_what_was_used(controllers: Controllers, kubectl: Kubectl, tmp_path: Path):
    kubectl.apply(ROUTING + "---" + ACCESS)
    controllers.start("--quota-store", used(tmp_path, controllers.namespace))
    eventually(lambda: "tokens24h" in kubectl.json("get", "aiaccesspolicy", "weather-agents").get("status", {}))
    head, row = kubectl("get", "aiaccesspolicy", "-A", "--field-selector", f"metadata.namespace={controllers.namespace}").splitlines()
    named = dict(zip(re.split(r"\s{2,}", head.strip()), re.split(r"\s{2,}", row.strip()), strict=True))
    assert named | {"LAST-USED": "", "AGE": ""} == {
        "NAMESPACE": controllers.namespace,
        "NAME": "weather-agents",
        "SUBJECTS": "weather-agent +1",
        "MODELS": "gpt-4o +1",
        "PROGRAMMED": "True",
        "IDENTITIES": "2",
        "TOKENS-24H": "40",
        "DENIED-24H": "3",
        "LAST-USED": "",
        "AGE": "",
    }
    assert re.fullmatch(r"\d+[sm]", named["LAST-USED"])
    usage = {one["identity"]: one for one in kubectl.json("get", "aiaccesspolicy", "weather-agents")["status"]["usage"]}
    hourly, width = usage[AGENT]["quotas"]
    assert (usage[AGENT]["tokens24h"], usage[OTHER]["denied24h"]) == (30, 3)
    assert (hourly["used"], hourly["limit"], width["used"], width["limit"]) == ("30", "1000", "0", "4")
    assert datetime.fromisoformat(hourly["resetTime"]) > datetime.now(UTC)


def test_conditions_of_others_are_left_as_they_are(controllers: Controllers, kubectl: Kubectl):
    kubectl.apply(ROUTING)
    theirs = {
        "type": "example.org/Scanned",
        "status": "True",
        "reason": "Clean",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    applied = {
        "apiVersion": "aiaccess.dev/v1alpha1",
        "kind": "AIRoutingPolicy",
        "metadata": {"name": "routing"},
        "status": {"conditions": [theirs]},
    }
    kubectl("apply", "--server-side", "--subresource=status", "--field-manager=scanner", "-f", "-", stdin=str(applied).replace("'", '"'))
    controllers.start()
    kubectl("wait", "--for=condition=Programmed", "airoutingpolicy/routing", "--timeout=60s")
    conditions = kubectl.json("get", "airoutingpolicy", "routing")["status"]["conditions"]
    assert theirs in conditions
    assert len(conditions) == 5


def test_the_bundle_that_a_policy_names_is_judged_where_the_operator_listed_it(controllers: Controllers, kubectl: Kubectl):
    place = f"{controllers.namespace}/spire-bundle"
    controllers.start("--trust-bundle-configmap", f"example.org={place}")
    named = f"trustBundleConfigMap: {{name: spire-bundle, namespace: {controllers.namespace}}}"
    kubectl.apply(ROUTING + "---" + ACCESS + f"  mtls: {{trustDomain: example.org, {named}}}\n")
    kubectl("wait", "--for=condition=BundleReady=False", "aiaccesspolicy/weather-agents", "--timeout=60s")
    kubectl("create", "configmap", "spire-bundle", f"--from-file=bundle.spiffe={controllers.cluster.ca}")
    kubectl("wait", "--for=condition=BundleReady=True", "aiaccesspolicy/weather-agents", "--timeout=60s")
    (said,) = [one for one in kubectl.json("get", "aap", "weather-agents")["status"]["conditions"] if one["type"] == "BundleReady"]
    assert f"the ConfigMap {place} has 1 CA certificate of example.org" in said["message"]


def test_of_two_controllers_one_leads_and_the_other_takes_over(controllers: Controllers, kubectl: Kubectl):
    one, first_url = controllers.start()
    eventually(lambda: leads(first_url))
    _, second_url = controllers.start()
    kubectl.apply(ROUTING)
    kubectl("wait", "--for=condition=Programmed", "airoutingpolicy/routing", "--timeout=60s")
    assert not leads(second_url)
    holder = kubectl.json("get", "lease", "broker-controller")["spec"]["holderIdentity"]
    began_s = time.monotonic()
    assert one.stop() == 0
    eventually(lambda: leads(second_url))
    assert time.monotonic() - began_s < 15  # the lease was given back, not waited for
    assert kubectl.json("get", "lease", "broker-controller")["spec"]["holderIdentity"] not in ("", holder)
    kubectl.apply(ACCESS)
    kubectl("wait", "--for=condition=Programmed", "aiaccesspolicy/weather-agents", "--timeout=60s")


def test_a_leader_that_is_killed_is_followed_when_its_lease_has_run_out(controllers: Controllers, kubectl: Kubectl):
    one, first_url = controllers.start()
    eventually(lambda: leads(first_url))
    _, second_url = controllers.start()
    one.kill()
    eventually(lambda: leads(second_url))
    assert kubectl.json("get", "lease", "broker-controller")["spec"]["leaseTransitions"] == 1


def test_an_api_server_that_comes_back_is_told_what_it_missed(controllers: Controllers, kubectl: Kubectl, cluster: ControlPlane):
    server, _ = controllers.start()
    kubectl.apply(ROUTING)
    kubectl("wait", "--for=condition=Programmed", "airoutingpolicy/routing", "--timeout=60s")
    cluster.apiserver.restart(crash=True)
    cluster.until_it_serves()
    kubectl.apply(ACCESS)
    kubectl("wait", "--for=condition=Programmed", "aiaccesspolicy/weather-agents", "--timeout=60s")
    assert server.child is not None
    assert server.child.poll() is None
