"""The walk of examples/02-kubernetes, from an empty namespace to an answer, a bill, and a refusal: real API server, real SPIRE, real Redis."""

import base64
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from support.cluster.control_plane import ControlPlane
from support.cluster.installation import EXAMPLE, KEY, Installation, here, readme
from support.cluster.servers import Server
from support.cluster.spire import Spire, Workload
from support.processes import ROOT

PATIENCE_S = 60.0
AGENT = "spiffe://example.org/ns/team1/sa/weather-agent"
ANSWER = "Name a cloud , in one word ."
MISSPELT = """
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {name: planners, namespace: team1}
spec:
  subjects:
  - serviceAccount: {name: planner, namespace: team1, trustDomain: example.org}
  models: [gpt-4o-mimi]
"""
# What README.md shows of kubectl: what it prints here is compared with it
_SHOWN = re.search(
    r"\$ kubectl get aiaccesspolicy -A\n(.*?)\n\n\$ kubectl describe [^\n]*\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL
)
assert _SHOWN
README_TABLE = _SHOWN[1].splitlines()
README_DESCRIBE = [" ".join(line.split()) for line in _SHOWN[2].splitlines() if "…" not in line]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def installed(cluster: ControlPlane, spire: Spire, state: Path) -> Iterator[Installation]:
    folder = state / "walk"
    folder.mkdir()
    with Installation.running(folder, cluster, spire) as it:
        yield it


@dataclass
class Walk:
    """What an administrator does, and the one Pod that comes of it.

    Attributes:
        pod: as it came back.
    """

    it: Installation
    workload: Workload
    pod: dict[str, Any]

    @property
    def sidecar(self) -> dict[str, Any]:
        return self.pod["spec"]["initContainers"][0]

    @property
    def environ(self) -> dict[str, str]:
        """The variables of the agent's container."""
        (agent,) = self.pod["spec"]["containers"]
        return {one["name"]: one["value"] for one in agent["env"]}

    def start_gateway(self) -> None:
        """Run the sidecar as its container says; the CSI volume would have brought the socket."""
        assert {one["name"] for one in self.sidecar["env"]} == {"SPIFFE_ENDPOINT_SOCKET"}
        environ = {**self.it.environ, "SPIFFE_ENDPOINT_SOCKET": self.it.spire.endpoint}
        command = [*here(self.sidecar["command"]), *self.sidecar["args"]]
        probe = [*here(self.sidecar["startupProbe"]["exec"]["command"])]
        self.it.begin("gateway", command, environ, self.workload, lambda: succeeds(probe)).until_ready()

    def start_agent(self, ready: Callable[[], bool]) -> Server:
        """The script of the ConfigMap under the user of the Pod, with the variables of its container and no others of ours."""
        script = self.it.folder / "agent.py"
        script.write_text(self.it.kubectl.json("get", "configmap", "weather-agent")["data"]["agent.py"])
        user = Workload("", self.pod["spec"]["securityContext"]["runAsUser"] if self.workload.uid else None)
        return self.it.begin("agent", [*here(["python"]), str(script)], self.environ, user, ready)

    def audited(self, before: int = 0) -> list[Mapping[str, Any]]:
        """What the broker wrote of this agent's exchanges, without so many of the first."""
        return [line for line in self.it.audit() if line["spiffe_id"] == self.workload.spiffe_id][before:]

    def ask(self, model: str = "gpt-4o-mini") -> int:
        """One question as the SDK sends it; the status."""
        question = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
        headers = {"authorization": f"Bearer {self.environ['OPENAI_API_KEY']}"}
        return httpx.post(f"{self.environ['OPENAI_BASE_URL']}/chat/completions", json=question, headers=headers, timeout=30).status_code


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def eventually(what: Callable[[], Any], why: Callable[[], object] = str) -> Any:
    """What it returns when that is true of it."""
    ends_s = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < ends_s, why()
        time.sleep(0.05)
    return found


@pytest.fixture
def walk(installed: Installation) -> Iterator[Walk]:
    """Step 3 of the README, and the Pod that comes of it; then its gateway runs."""
    kubectl = installed.kubectl
    for words in readme("3. Label, grant, run"):
        file = Path(words[-1])
        changed = file.is_file() and installed.example(str(file.relative_to(EXAMPLE)))
        kubectl.apply(changed) if changed and changed != file.read_text() else kubectl(*words)
    (pod,) = eventually(lambda: kubectl.json("get", "pods", "-l", "app=weather-agent")["items"], lambda: kubectl("get", "events"))
    it = Walk(installed, installed.spire.workload(AGENT), pod)
    it.start_gateway()
    yield it
    for name in {"gateway", "agent"} & installed.servers.keys():
        installed.end(name)
    installed.clear()


def test_the_pod_of_an_unchanged_deployment_comes_back_with_variables_and_the_gateway_first(walk):
    assert [one["name"] for one in walk.pod["spec"]["initContainers"]] == ["aiaccess-gateway"]
    assert walk.sidecar["restartPolicy"] == "Always"
    base = f"http://127.0.0.1:{walk.it.gateway_port}"
    wanted = {"OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_KEY": "aiaccess-placeholder", "ANTHROPIC_BASE_URL": base}
    assert walk.environ.items() >= wanted.items()
    assert walk.environ["PYTHONPATH"]  # what its author set is still there
    assert f"--broker=127.0.0.1:{walk.it.broker_port}" in walk.sidecar["args"]
    assert f"--broker-spiffe-id={walk.it.broker_id}" in walk.sidecar["args"]
    mounts = {one["name"]: [mount["name"] for mount in one["volumeMounts"]] for one in (walk.sidecar, *walk.pod["spec"]["containers"])}
    assert mounts == {"aiaccess-gateway": ["aiaccess-spiffe", "aiaccess-no-token"], "agent": ["agent"]}


def test_the_agent_prints_an_answer_and_no_key_is_where_it_is(walk):
    billed, audited = walk.it.billed()["requests"], len(walk.audited())
    walk.start_agent(lambda: ANSWER in walk.it.servers["agent"].last_words()).until_ready()
    bill, line = walk.it.billed(), eventually(lambda: walk.audited(audited))[0]
    assert (bill["requests"], bill["refused_keys"]) == (billed + 1, 0)
    assert (line["code"], line["model"]) == ("answered", "gpt-4o-mini")
    assert [one["name"] for one in line["policies"]] == ["weather-agents"]
    told = walk.it.kubectl("get", "pods,replicasets,deployments,configmaps,events,ai", "-o", "json")
    assert "weather-agent" in told
    assert [key for key in (KEY, base64.b64encode(KEY.encode()).decode()) if key in told] == []
    assert [name for name, server in walk.it.servers.items() if KEY in server.log.read_text()] == []


def test_kubectl_get_shows_who_may_what_and_how_much_they_used(walk):
    kubectl = walk.it.kubectl
    kubectl("wait", "--for=condition=Programmed", "aiaccesspolicy/weather-agents", "airoutingpolicy/routing", "--timeout=60s")
    audited = len(walk.audited())
    assert [walk.ask(), walk.ask(), walk.ask("gpt-4o")] == [200, 200, 403]
    eventually(lambda: len(walk.audited(audited)) == 3)
    bill, refused = walk.it.billed(), sum(line["decision"] == "refused" for line in walk.audited())
    tokens = bill["input_tokens"] + bill["output_tokens"]

    def shown() -> dict[str, str]:
        head, *rows = kubectl("get", "aiaccesspolicy", "-A").splitlines()
        assert head.split() == README_TABLE[0].split()
        row = next(row for row in rows if row.split()[:2] == ["team1", "weather-agents"])
        return {name: row[found.start() :].split("  ")[0] for found in re.finditer(r"\S+", head) for name in [found[0]]}

    eventually(lambda: shown()["TOKENS-24H"] == str(tokens), shown)
    assert shown() | {"LAST-USED": "", "AGE": ""} == {
        "NAMESPACE": "team1",
        "NAME": "weather-agents",
        "SUBJECTS": walk.workload.spiffe_id.rpartition("/")[2],
        "MODELS": "gpt-4o-mini",
        "PROGRAMMED": "True",
        "IDENTITIES": "1",
        "TOKENS-24H": str(tokens),
        "DENIED-24H": str(refused),
        "LAST-USED": "",
        "AGE": "",
    }
    assert re.fullmatch(r"\d+[sm](\d+s)?", shown()["LAST-USED"])


def test_what_is_wrong_is_said_when_it_is_applied_and_by_kubectl_describe(walk):
    kubectl = walk.it.kubectl
    unknown = kubectl.refusal("apply", "-f", "-", stdin=MISSPELT.replace("models:", "maxTokens: 100\n  models:"))
    assert "spec.maxTokens: is not a field" in unknown
    warning = kubectl.refusal("apply", "--warnings-as-errors", "-f", "-", stdin=MISSPELT)  # it is applied all the same
    assert "Warning: spec.models: no AIRoutingPolicy of this namespace offers gpt-4o-mimi; " in warning
    kubectl("wait", "--for=condition=ModelsResolved=False", "aiaccesspolicy/planners", "--timeout=60s")
    told = [" ".join(line.split()) for line in kubectl("describe", "aiaccesspolicy", "planners").splitlines()]
    assert [line for line in README_DESCRIBE if line not in told] == []


def test_a_refusal_is_an_event_beside_the_policy_that_names_the_agent(walk):
    eventually(lambda: walk.ask("gpt-4o") == 403)

    def told() -> str:
        return " ".join(walk.it.kubectl("describe", "aiaccesspolicy", "weather-agents").split())

    eventually(lambda: f"{walk.workload.spiffe_id} was refused the model team1/gpt-4o" in told(), told)


def test_a_deleted_policy_refuses_at_once_and_its_agent_hears_why(walk, figures):
    eventually(lambda: walk.ask() == 200)
    *look, delete = readme("4. Look, and cut off")
    assert all("weather-agents" in walk.it.kubectl(*words) for words in look)
    assert delete[0] == "delete"
    with ThreadPoolExecutor(1) as pool:
        began_s = time.monotonic()
        deleted = pool.submit(walk.it.kubectl, *delete)
        eventually(lambda: walk.ask() == 403)
        took_s = time.monotonic() - began_s
        assert "deleted" in deleted.result()
    figures.append(f"the walk: agents are refused {took_s * 1e3:.0f} ms after `kubectl delete aiaccesspolicy` was typed")
    agent = walk.start_agent(lambda: True)
    assert agent.child is not None
    assert agent.child.wait(PATIENCE_S) != 0
    assert "openai.PermissionDeniedError: Error code: 403" in agent.last_words()
