"""Refusals and warnings as Events of a real API server: what people with kubectl see of them, from two brokers as from one."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from support.cluster.control_plane import ControlPlane
from support.cluster.kubectl import Kubectl
from support.fake_apiserver import access, routing
from support.fake_provider import FakeProvider, json_answer
from support.kube_world import agent
from support.objects_in_cluster import define
from support.processes import Deployment, deployment

PATIENCE_S = 60.0
CANARY = "sk-canary-of-a-caller"
ANSWER = (
    b'{"id": "1", "object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}'
)
RIGHTS = [
    {"apiGroups": ["aiaccess.dev"], "resources": ["aiaccesspolicies", "airoutingpolicies", "aiproviders"], "verbs": ["list", "watch"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "get", "patch"]},
]


@pytest.fixture(scope="module", autouse=True)
def kinds(cluster: ControlPlane) -> None:
    define(cluster)


@pytest.fixture
def kubeconfig(cluster: ControlPlane, kubectl: Kubectl) -> Path:
    """Of a service account that may do in the test's namespace what a broker must, and no more."""
    group = "rbac.authorization.k8s.io"
    about = {"name": "broker", "namespace": kubectl.namespace}
    kubectl("create", "serviceaccount", "broker")
    kubectl.apply(
        [
            {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": about, "rules": RIGHTS},
            {
                "apiVersion": f"{group}/v1",
                "kind": "RoleBinding",
                "metadata": about,
                "roleRef": {"apiGroup": group, "kind": "Role", "name": "broker"},
                "subjects": [{"kind": "ServiceAccount", "name": "broker", "namespace": kubectl.namespace}],
            },
        ]
    )
    return cluster.service_account_kubeconfig(kubectl.namespace, "broker")


def events(kubectl: Kubectl, reason: str) -> list[dict[str, Any]]:
    return [one for one in kubectl.json("get", "events.events.k8s.io")["items"] if one["reason"] == reason]


def times(found: list[dict[str, Any]]) -> list[int]:
    return [one.get("series", {"count": 1})["count"] for one in found]


async def eventually(what: Callable[[], Any]) -> Any:
    ends_s = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < ends_s
        await asyncio.sleep(0.3)
    return found


async def asker(it: Deployment, who: str, *, broker: int) -> Callable[[str], Awaitable[int]]:
    await it.gateway(who, brokers=(broker,))
    url = it.url(who)

    async def ask(model: str) -> int:
        body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": CANARY}]}
        async with httpx.AsyncClient(base_url=url) as caller:
            return (await caller.post("/v1/chat/completions", json=body)).status_code

    return ask


async def test_what_two_brokers_refuse_is_one_event_each_with_the_count_of_both(kubectl: Kubectl, kubeconfig: Path, tmp_path: Path):
    own = kubectl.namespace
    async with FakeProvider(json_answer(ANSWER)) as provider, deployment(tmp_path, "", {}) as it:
        routed = routing(namespace=own)
        routed["spec"]["providers"][0]["endpoint"] = f"http://127.0.0.1:{provider.port}/v1"
        quotas = [{"name": "pace", "requests": 4, "per": "Month"}]
        kubectl.apply([routed, access("agents", own, quotas=quotas)])
        switches = ("--resources", "kubernetes", "--kubeconfig", str(kubeconfig), "--namespace", own)
        await it.serve(*switches)
        _, second = await it.serve_another(*switches)
        first_broker = await asker(it, agent(own), broker=it.broker_port)
        second_broker = await asker(it, agent(own), broker=second)
        assert {await first_broker(f"{CANARY}-{number}") for number in range(20)} == {403}
        assert {await second_broker(CANARY) for _ in range(15)} == {403}
        await eventually(lambda: times(events(kubectl, "Forbidden")) == [35])
        stranger = await asker(it, agent(own).replace("/agent", "/stranger"), broker=second)
        assert await stranger("gpt-4o") == 403
        assert [await first_broker("gpt-4o") for _ in range(5)] == [200, 200, 200, 200, 429]
        await eventually(
            lambda: events(kubectl, "QuotaExhausted") and events(kubectl, "QuotaUsedUp") and len(events(kubectl, "Forbidden")) == 2
        )
        assert await it.metric("aiaccess_kubernetes_events_dropped_total") == 0
        assert await it.metric("aiaccess_kubernetes_events_written_total") >= 2
    said = " ".join(kubectl("describe", "aiaccesspolicy", "agents").split())
    assert "Warning Forbidden" in said
    assert "(x35 over " in said
    assert (
        f"{agent(own)} was refused a model: no policy grants it, or one denies it. `kubectl aiaccess explain SPIFFE_ID MODEL` says which"
        in said
    )
    assert "of 4 requests of the quota pace in the month" in said
    (alone,) = [one for one in events(kubectl, "Forbidden") if one["regarding"]["kind"] == "Namespace"]
    assert alone["regarding"]["name"] == own
    assert "/sa/stranger was refused the model" in alone["note"]
    assert CANARY not in json.dumps(kubectl.json("get", "events"))


async def test_a_broker_that_may_not_write_events_serves_as_ever_and_says_so(kubectl: Kubectl, kubeconfig: Path, tmp_path: Path):
    own = kubectl.namespace
    kubectl("patch", "role", "broker", "--type=json", "-p", '[{"op": "remove", "path": "/rules/1"}]')
    async with FakeProvider(json_answer(ANSWER)) as provider, deployment(tmp_path, "", {}) as it:
        routed = routing(namespace=own)
        routed["spec"]["providers"][0]["endpoint"] = f"http://127.0.0.1:{provider.port}/v1"
        kubectl.apply([routed, access("agents", own)])
        broker = await it.serve("--resources", "kubernetes", "--kubeconfig", str(kubeconfig), "--namespace", own)
        ask = await asker(it, agent(own), broker=it.broker_port)
        assert await ask("absent") == 403
        await eventually(lambda: "event_refused" in broker.output())
        assert await ask("gpt-4o") == 200
        assert await it.metric("aiaccess_kubernetes_events_dropped_total") == 1
    assert events(kubectl, "Forbidden") == []
