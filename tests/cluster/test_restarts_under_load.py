"""The control plane, the controller and the webhook go and come back while agents ask fifty times a second: not one answer is lost."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest
from support.cluster.control_plane import ControlPlane
from support.cluster.installation import KEY, TEAMS, Installation
from support.cluster.kubectl import Kubectl, KubectlFailed
from support.cluster.product import status
from support.cluster.spire import Spire, Workload
from support.cluster.steady_load import SteadyLoad

from broker.names import PLACEHOLDER_KEY

AGENT = "spiffe://example.org/ns/team1/sa/agent"
PATIENCE_S = 60.0
pytestmark = pytest.mark.timeout(300)

# `late` is offered, but a policy and a Secret have to change before it can be called
CALLED, LATE = "team1/gpt", "team1/late"
OBJECTS = """
apiVersion: v1
kind: Secret
metadata: {{name: openai, namespace: team1, annotations: {{aiaccess.dev/hosts: "{host}"}}}}
stringData: {{api-key: {key}, late-key: {late_key}}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: team1}}
spec:
  providers:
  - {{name: it, schema: OpenAI, endpoint: "{host}/v1", credentials: {{type: APIKey, secretRef: {{name: openai}}}}}}
  - {{name: later, schema: OpenAI, endpoint: "{host}/v1", credentials: {{type: APIKey, secretRef: {{name: openai, key: late-key}}}}}}
  models:
  - {{name: gpt, backends: [{{provider: it}}]}}
  - {{name: late, backends: [{{provider: later}}]}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: team1}}
spec:
  subjects: [{{spiffeID: {agent}}}]
  models: [{models}]
  quotas: [{{name: ceiling, tokens: 1000000000, per: Month}}]
"""
BEFORE = {"models": "gpt", "late_key": "sk-not-yet"}
AFTER = {"models": "gpt, late", "late_key": KEY}


@dataclass
class Stage:
    """The product as it is installed, and an agent's gateway."""

    it: Installation
    agent: Workload

    @property
    def kubectl(self) -> Kubectl:
        return self.it.kubectl

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.it.gateway_port}"

    def objects(self, state: dict[str, str]) -> str:
        return OBJECTS.format(host=f"http://127.0.0.1:{self.it.provider_port}", key=KEY, agent=self.agent.spiffe_id, **state)

    def start_gateway(self) -> None:
        broker = ("--broker", f"127.0.0.1:{self.it.broker_port}", "--broker-spiffe-id", self.it.broker_id)
        switches = ("--port", str(self.it.gateway_port), "--spiffe-endpoint-socket", self.it.spire.endpoint, *broker)
        command = [sys.executable, "-m", "broker", "gateway", *switches]
        self.it.begin("gateway", command, self.it.environ, self.agent, lambda: status(f"{self.url}/v1/models") in {200, 403}).until_ready()

    def ask(self, model: str) -> int:
        question = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
        headers = {"authorization": f"Bearer {PLACEHOLDER_KEY}"}
        return httpx.post(f"{self.url}/v1/chat/completions", json=question, headers=headers, timeout=30).status_code

    def applied(self, state: dict[str, str]) -> bool:
        """Whether the API server took it; after it was away it takes some time until it does."""
        try:
            self.kubectl.apply(self.objects(state))
        except KubectlFailed:
            return False
        return True

    @contextmanager
    def load(self, folder: Path, title: str, figures: list[str]) -> Iterator[SteadyLoad]:
        with SteadyLoad.running(folder, self.url, CALLED, self.it.environ) as load:
            yield load
        figures.append(f"{title}: {load.figures()}")


@pytest.fixture(scope="module")
def installed(cluster: ControlPlane, spire: Spire, state: Path) -> Iterator[Stage]:
    folder = state / "restarts"
    folder.mkdir()
    with Installation.running(folder, cluster, spire) as it:
        stage = Stage(it, spire.workload(AGENT))
        it.kubectl("label", "namespace", TEAMS[0], "aiaccess.dev/inject=enabled")
        stage.start_gateway()
        yield stage
        it.clear()


@pytest.fixture
def stage(installed: Stage) -> Stage:
    """Everything as it was, and heard of."""
    until(lambda: installed.applied(BEFORE))
    until(lambda: (installed.ask(CALLED), installed.ask(LATE)) == (200, 403))
    return installed


def until(so: Callable[[], bool]) -> float:
    """Wait for it; how long that took, in seconds."""
    began_s = time.monotonic()
    while not so():
        assert time.monotonic() - began_s < PATIENCE_S
        time.sleep(0.05)
    return time.monotonic() - began_s


def signal_name(*, crash: bool) -> str:
    return "SIGKILL" if crash else "SIGTERM"


restarted = pytest.mark.parametrize("crash", [False, True], ids=["told-to-go", "killed"])


@restarted
@pytest.mark.parametrize("name", ["apiserver", "etcd"])
def test_a_restart_of_the_control_plane_loses_no_request(stage, cluster, tmp_path, figures, name, crash):
    server = getattr(cluster, name)
    title = f"restart of {server.name}, {signal_name(crash=crash)}"
    with stage.load(tmp_path, title, figures) as load:
        server.restart(crash=crash)
        cluster.until_it_serves()
        until(lambda: stage.applied(AFTER))
        took_s = until(lambda: stage.ask(LATE) == 200)
    assert load.failures() == {}
    figures.append(f"{title}: what was applied then was in force after {took_s * 1e3:.0f} ms")


def test_what_changes_while_the_api_server_is_away_is_late_and_nothing_else(stage, cluster, tmp_path, figures):
    title = "kube-apiserver away, while another one takes changes"
    with cluster.another_apiserver() as other, stage.load(tmp_path, title, figures) as load:
        cluster.apiserver.stop()
        try:
            stage.kubectl("--server", other, "apply", "-f", "-", stdin=stage.objects(AFTER))
            load.more(2)
            assert stage.ask(LATE) == 403
        finally:
            cluster.apiserver.start()
        took_s = until(lambda: stage.ask(LATE) == 200)
    assert load.failures() == {}
    figures.append(f"{title}: policy and Secret were in force {took_s:.1f} s after the broker's own was back")


@restarted
def test_a_restart_of_the_controller_loses_no_request_and_statuses_go_on(stage, tmp_path, figures, crash):
    def told() -> bool:
        policy = stage.kubectl.json("get", "aiaccesspolicy", "agents")
        return policy.get("status", {}).get("observedGeneration") == policy["metadata"]["generation"]

    until(told)
    title = f"restart of the controller, {signal_name(crash=crash)}"
    with stage.load(tmp_path, title, figures) as load:
        stage.it.servers["controller"].restart(crash=crash)
        assert stage.applied(AFTER)
        took_s = until(told)
    assert load.failures() == {}
    figures.append(f"{title}: a status was right {took_s:.1f} s after it was back")


@restarted
def test_a_restart_of_the_webhook_loses_no_request_and_pods_get_their_gateway_again(stage, tmp_path, figures, crash):
    def gateways() -> int:
        made = stage.kubectl("run", "asker", "--image=agent:1", "--dry-run=server", "-o", "json")
        return [one["name"] for one in json.loads(made)["spec"]["initContainers"]].count("aiaccess-gateway")

    assert gateways() == 1
    with stage.load(tmp_path, f"restart of the webhook, {signal_name(crash=crash)}", figures) as load:
        stage.it.servers["webhook"].restart(crash=crash)
        assert gateways() == 1
    assert load.failures() == {}
