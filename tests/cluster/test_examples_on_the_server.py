"""The other examples of examples/02-kubernetes, applied as they stand: a second team, the kagenti proposal, and a partner in a trust
domain of its own, whose agents come with SVIDs of a second SPIRE.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml
from support.cluster.control_plane import ControlPlane
from support.cluster.installation import EXAMPLE, Installation
from support.cluster.spire import Spire, Workload
from support.ports import free_port

PATIENCE_S = 60.0
FILES = sorted(file for file in EXAMPLE.rglob("*.yaml") if file.name != "values.yaml")
OF_SPIRE = {
    "ClusterFederatedTrustDomain",
    "ClusterSPIFFEID",
}  # kinds of SPIRE's controller manager, which is not here: nothing else is left out
WEATHER_AGENT = "spiffe://example.org/ns/team1/sa/weather-agent"
AGENTS = ("research/sa/trial-agent", "research/sa/other-agent", "sales/sa/agent")  # of the partner
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def installed(cluster: ControlPlane, spire: Spire, state: Path) -> Iterator[Installation]:
    folder = state / "examples"
    folder.mkdir()
    with Installation.running(folder, cluster, spire) as it:
        yield it


@pytest.fixture
def it(installed: Installation) -> Iterator[Installation]:
    yield installed
    installed.clear()


def eventually(what: Callable[[], Any], why: Callable[[], object] = str) -> Any:
    ends_s = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < ends_s, why()
        time.sleep(0.05)
    return found


def broker(it: Installation, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command of the broker that reads this cluster with an administrator's rights."""
    where = ("--resources", "kubernetes", "--kubeconfig", str(it.cluster.kubeconfig()), "--namespaces", "team1,team2")
    return subprocess.run([sys.executable, "-m", "broker", *words, *where], capture_output=True, text=True, timeout=60, check=False)


def verdict(it: Installation, identity: str, model: str) -> str:
    done = broker(it, "explain", "--identity", identity, "--model", model)
    return {0: "granted", 3: "refused"}[done.returncode]


def conditions(it: Installation, kind: str, name: str, namespace: str) -> dict[str, tuple[str, str]]:
    status = it.cluster.kubectl(namespace=namespace).json("get", kind, name)["status"]
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(EXAMPLE)))
def test_the_api_server_and_the_webhook_take_every_file_as_it_stands(it, file):
    made = list(yaml.safe_load_all(file.read_text()))
    ours = [one for one in made if one["kind"] not in OF_SPIRE]
    namespace = made[0]["metadata"].get("namespace", "default")
    said = it.cluster.kubectl(namespace=namespace).apply(ours, "--dry-run=server") if ours else ""
    assert said.count("(server dry run)") == len(ours)
    assert ours or file.parent.name == "partner"


def test_a_second_team_has_models_of_its_own_and_grants_one_to_a_guest(it):
    team2 = it.cluster.kubectl(namespace="team2")
    team2.apply(EXAMPLE / "team2")
    for kind, name in (("aiaccesspolicy", "everybody"), ("aiaccesspolicy", "guests"), ("airoutingpolicy", "routing")):
        team2("wait", "--for=condition=Programmed", f"{kind}/{name}", "--timeout=60s")
        eventually(lambda kind=kind, name=name: {status for status, _ in conditions(it, kind, name, "team2").values()} == {"True"})
    done = broker(it, "check")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    asked = {
        (WEATHER_AGENT, "team2/claude-haiku"): "granted",
        (WEATHER_AGENT, "claude-haiku"): "refused",
        ("spiffe://example.org/ns/team1/sa/planner", "team2/claude-haiku"): "refused",
        ("spiffe://example.org/ns/team2/sa/anybody", "claude-haiku"): "granted",
        ("spiffe://elsewhere.example/ns/team2/sa/anybody", "team2/claude-haiku"): "refused",
    }
    assert {one: verdict(it, *one) for one in asked} == asked


def test_of_the_kagenti_proposal_ollama_works_and_the_rest_says_what_it_lacks(it):
    it.kubectl.apply(EXAMPLE / "kagenti")
    it.kubectl("wait", "--for=condition=Programmed", "aiaccesspolicy/team-access", "airoutingpolicy/team-routing", "--timeout=60s")
    assert conditions(it, "aiaccesspolicy", "team-access", "team1") == {
        "Accepted": ("True", "Accepted"),
        "BundleReady": ("Unknown", "NotPermitted"),  # the operator listed no such ConfigMap
        "ModelsResolved": ("True", "Resolved"),
        "Programmed": ("True", "Programmed"),
        "GatewayBound": ("Unknown", "NoRenderer"),
        "MTLSActive": ("Unknown", "NoRenderer"),
    }
    status = it.kubectl.json("get", "airoutingpolicy", "team-routing")["status"]
    assert {one["name"]: one["reason"] for one in status["providers"]} == {
        "ollama": "Ready",
        "openai": "CredentialSecretNotFound",
        "azure": "NotSupported",
        "bedrock": "NotSupported",
    }
    assert all("list and watch of the Secret openai-secret" in one["message"] for one in status["providers"] if one["name"] == "openai")
    done = broker(it, "check")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "objects: 2, errors: 0, warnings: 6")
    assert "AIRoutingPolicy team1/team-routing: warning: spec.providers[1]: provider openai is not ready" in done.stdout
    agent = "spiffe://localtest.me/ns/team1/sa/agent"
    asked = {(agent, "team1/qwen2.5:3b"): "granted", (agent, "team1/gpt-4o"): "refused", (WEATHER_AGENT, "qwen2.5:3b"): "refused"}
    assert {one: verdict(it, *one) for one in asked} == asked


@pytest.fixture
def partner(it: Installation, state: Path) -> Iterator[Spire]:
    """A SPIRE of another company; each of both believes the other."""
    folder = state / "partner"
    folder.mkdir()
    with Spire.started(folder, "partner.example") as other:
        other.believe(it.spire)
        it.spire.believe(other)
        yield other


def start_partners_gateway(it: Installation, workload: Workload, partner: Spire) -> Callable[[], int]:
    """A local gateway in the partner's cluster, and what asks there; the status."""
    name, port = f"gateway-of-{workload.spiffe_id.rpartition('/')[2]}", free_port()
    command = [
        *(sys.executable, "-m", "broker", "gateway", "--port", str(port), "--broker", f"127.0.0.1:{it.broker_port}"),
        *("--broker-spiffe-id", it.broker_id, "--spiffe-endpoint-socket", partner.endpoint),
    ]

    def ask() -> int:
        question = {"model": "team1/gpt-4o-mini", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
        return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=question, timeout=30).status_code

    def ready() -> bool:
        try:
            return ask() != 503
        except httpx.HTTPError:
            return False

    it.begin(name, command, it.environ, workload, ready).until_ready()
    return ask


def test_agents_of_a_federated_trust_domain_are_served_until_a_deny_cuts_one_off(it, partner, figures):
    for file in ("secret", "routing"):
        it.kubectl.apply(it.example(f"team1/{file}.yaml"))
    both = it.example("partner/access.yaml")
    allow, *_ = yaml.safe_load_all(both)
    it.kubectl.apply([allow])
    trial, *others = dict.fromkeys(partner.workload(f"spiffe://partner.example/ns/{name}") for name in AGENTS)
    ask = start_partners_gateway(it, trial, partner)
    eventually(lambda: ask() == 200, it.servers["broker"].last_words)
    asking = [start_partners_gateway(it, other, partner) for other in others]  # none, when we are not root
    assert [other() for other in asking] == [200, 403][: len(others)]
    it.kubectl.apply(both)
    began_s = time.monotonic()
    eventually(lambda: ask() == 403)
    figures.append(
        f"a Deny cuts an agent of a federated trust domain off {(time.monotonic() - began_s) * 1e3:.0f} ms after kubectl returned"
    )
    assert [other() for other in asking] == [200, 403][: len(others)]
    assert trial.spiffe_id in {line["spiffe_id"] for line in it.audit() if line["code"] == "answered"}
