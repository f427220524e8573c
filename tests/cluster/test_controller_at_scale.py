"""What 500 policies of 20 subjects cost a controller, and how long a change waits for its status among them. Measured, not judged."""

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.cluster.control_plane import ControlPlane
from support.cluster.controllers import Controllers, eventually
from support.fake_apiserver import access, routing
from support.objects_in_cluster import define

from broker.names import API_VERSION

POLICIES, SUBJECTS, CHANGES = 500, 20, 10
PATIENCE_S = 60.0


class Policies:
    """The AIAccessPolicies of a namespace, on one connection of an administrator."""

    def __init__(self, cluster: ControlPlane, namespace: str) -> None:
        (user,) = yaml.safe_load(cluster.kubeconfig().read_text())["users"]
        context = ssl.create_default_context(cafile=str(cluster.ca))
        context.load_cert_chain(user["user"]["client-certificate"], user["user"]["client-key"])
        self._connection = http.client.HTTPSConnection(cluster.url.removeprefix("https://"), context=context, timeout=PATIENCE_S)
        self._path = f"/apis/{API_VERSION}/namespaces/{namespace}/aiaccesspolicies"

    def ask(self, method: str = "GET", name: str = "", body: Any = None) -> dict[str, Any]:
        media = "application/merge-patch+json" if method == "PATCH" else "application/json"
        path = f"{self._path}/{name}" if name else self._path
        self._connection.request(method, path, None if body is None else json.dumps(body), {"content-type": media})
        answer = self._connection.getresponse()
        said = json.loads(answer.read())
        assert answer.status < 300, said
        return said

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def policies(cluster: ControlPlane, namespace: str) -> Iterator[Policies]:
    define(cluster)
    it = Policies(cluster, namespace)
    yield it
    it.close()


@pytest.fixture
def controllers(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Controllers]:
    them = Controllers(cluster, namespace, tmp_path)
    yield them
    for server in them.servers:
        server.kill()


def told(policy: dict[str, Any]) -> bool:
    """Everything of this generation."""
    status = policy.get("status", {})
    types = {one["type"]: one["status"] for one in status.get("conditions", ())}
    return status.get("observedGeneration") == policy["metadata"]["generation"] and types.get("Programmed") == "True"


def memory_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def test_500_policies_of_20_subjects(
    controllers: Controllers, policies: Policies, namespace: str, cluster: ControlPlane, figures: list[str]
):
    cluster.kubectl(namespace=namespace).apply([routing(namespace=namespace, models=("gpt-4o", "small"))])
    idle, _ = controllers.start()
    cluster.kubectl(namespace=namespace)("wait", "--for=condition=Programmed", "airoutingpolicy/routing", "--timeout=60s")
    assert idle.child is not None
    before = memory_bytes(idle.child.pid)
    idle.stop()
    for number in range(POLICIES):
        subjects = [{"spiffeID": f"spiffe://example.org/ns/{namespace}/sa/agent-{number}-{each}"} for each in range(SUBJECTS)]
        policies.ask("POST", body=access(f"policy-{number}", namespace, subjects=subjects))
    began_s = time.monotonic()
    server, _ = controllers.start(wait=False)
    eventually(lambda: all(map(told, policies.ask()["items"])))
    all_s = time.monotonic() - began_s
    delays_s = [changed(policies, number) for number in range(CHANGES)]
    assert server.child is not None
    grown = memory_bytes(server.child.pid) - before
    assert len(policies.ask()["items"]) == POLICIES
    figures.append(
        f"controller, {POLICIES} policies of {SUBJECTS} subjects: all told {all_s:.1f} s after its start, a change after "
        f"{min(delays_s) * 1e3:.0f} to {max(delays_s) * 1e3:.0f} ms, memory grew by {grown / 1e6:.1f} MB"
    )


def changed(policies: Policies, number: int) -> float:
    """How long until the status is about what was just written."""
    name = f"policy-{number}"
    began_s = time.monotonic()
    policies.ask("PATCH", name, {"spec": {"models": ["gpt-4o", "small"]}})
    while not told(policies.ask(name=name)):
        assert time.monotonic() - began_s < PATIENCE_S
        time.sleep(0.005)
    return time.monotonic() - began_s
