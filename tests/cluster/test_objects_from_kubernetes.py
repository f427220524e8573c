"""A real API server as the source of objects, asked with the rights that a broker needs and no more."""

import base64
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx2 as httpx
import pytest
from support.cluster.control_plane import ControlPlane
from support.fake_apiserver import PLURALS, access, routing
from support.fake_provider import FakeProvider, json_answer
from support.kube_world import agent, following
from support.objects_in_cluster import define
from support.processes import deployment
from support.raw_http import until

from broker import policy
from broker.kube.connection import Away, Connection, Refused, Sent
from broker.kube.source import KINDS, Cluster, Scope
from broker.names import API_VERSION, GROUP

FIRST_KEY, SECOND_KEY = "sk-canary-first", "sk-canary-second"
PATIENCE_S = 30.0
TIMEOUT = aiohttp.ClientTimeout(total=30)
ANSWER = (
    b'{"id": "1", "object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}'
)

Fields = Mapping[str, Any]


@pytest.fixture(scope="module", autouse=True)
def kinds(cluster: ControlPlane) -> None:
    define(cluster)


@dataclass
class Team:
    """An administrator of two namespaces of this test alone: the broker's and a team's, and the broker's service account."""

    cluster: ControlPlane
    admin: Connection
    own: str
    name: str

    @property
    def settings(self) -> policy.Settings:
        return policy.Settings(namespace=self.own, trust_domain="example.org")

    def kubeconfig(self) -> Path:
        return self.cluster.service_account_kubeconfig(self.own, "broker")

    async def connect(self) -> Connection:
        return await Connection.open(str(self.kubeconfig()), {})

    def allow(self, namespace: str, secret_names: Sequence[str] = ()) -> None:
        """A Role of the broker: our kinds, and these Secrets by name."""
        metadata = {"name": "broker", "namespace": namespace}
        rules: list[Fields] = [{"apiGroups": [GROUP], "resources": list(KINDS.values()), "verbs": ["list", "watch"]}]
        if secret_names:
            rules.append({"apiGroups": [""], "resources": ["secrets"], "resourceNames": list(secret_names), "verbs": ["list", "watch"]})
        group = "rbac.authorization.k8s.io"
        binding = {
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "broker"},
            "subjects": [{"kind": "ServiceAccount", "name": "broker", "namespace": self.own}],
        }
        self.cluster.kubectl(namespace=namespace).apply(
            [
                {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
                {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": metadata, **binding},
            ]
        )

    async def put(self, thing: Fields) -> None:
        """Create it, or apply it anew."""
        await self._send("PATCH", _path(thing) + "?fieldManager=test&force=true", "application/apply-patch+yaml", thing)

    async def delete(self, thing: Fields) -> None:
        await self._send("DELETE", _path(thing), "application/json", {})

    async def _send(self, method: str, path: str, media: str, fields: Fields) -> None:
        path, _, query = path.partition("?")
        sent = Sent(method, media, fields)
        async with self.admin.request(path, dict(pair.split("=") for pair in query.split("&") if pair), TIMEOUT, sent) as chunks:
            async for _ in chunks:
                pass


def _path(thing: Fields) -> str:
    root = "/api/v1" if thing["apiVersion"] == "v1" else f"/apis/{API_VERSION}"
    about = thing["metadata"]
    return f"{root}/namespaces/{about['namespace']}/{PLURALS[thing['kind']]}/{about['name']}"


def key(namespace: str, value: str, name: str = "openai", hosts: str = "api.openai.com") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "annotations": {"aiaccess.dev/hosts": hosts}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"api-key": base64.b64encode(value.encode()).decode()}}


@pytest.fixture
async def team(cluster: ControlPlane, namespace: str) -> AsyncIterator[Team]:
    own = f"broker-{secrets.token_hex(4)}"
    cluster.create_namespace(own)
    cluster.kubectl(namespace=own)("create", "serviceaccount", "broker")
    admin = await Connection.open(str(cluster.kubeconfig()), {})
    it = Team(cluster, admin, own, namespace)
    it.allow(own)
    yield it
    await admin.close()
    cluster.kubectl()("delete", "namespace", own, "--wait=false")


@pytest.fixture
async def connection(team: Team) -> AsyncIterator[Connection]:
    opened = await team.connect()
    yield opened
    await opened.close()


def source(team: Team, connection: Connection, *more: str) -> Cluster:
    return Cluster(connection, Scope.of(team.own, (), (team.name, *more)))


async def test_a_deleted_policy_stops_granting(team, connection, figures):
    team.allow(team.name)
    await team.put(routing(namespace=team.name))
    async with following(source(team, connection), team.settings) as world:
        await until(lambda: world.ready, PATIENCE_S)
        delays_s = []
        for _ in range(5):
            await team.put(access("agents", namespace=team.name))
            await until(lambda: world.answer(team.name) == "granted", PATIENCE_S)
            await team.delete(access("agents", namespace=team.name))
            began_s = time.monotonic()
            await until(lambda: world.answer(team.name) == "forbidden", PATIENCE_S)
            delays_s.append(time.monotonic() - began_s)
    figures.append(f"a deleted policy refuses after {min(delays_s) * 1e3:.0f} to {max(delays_s) * 1e3:.0f} ms")


async def test_a_changed_secret_is_used_and_only_named_ones_may_be_read(team, connection):
    team.allow(team.name, ["openai"])
    await team.put(key(team.name, FIRST_KEY))
    await team.put(key(team.name, "sk-of-somebody-else", name="other"))
    await team.put(routing(namespace=team.name, secret="openai"))
    await team.put(routing("second", namespace=team.name, secret="other", models=("other-model",)))
    async with following(source(team, connection), team.settings) as world:
        await until(lambda: world.value(namespace=team.name) == FIRST_KEY, PATIENCE_S)
        await team.put(key(team.name, SECOND_KEY))
        await until(lambda: world.value(namespace=team.name) == SECOND_KEY, PATIENCE_S)
        told = [row.message for status in world.snapshot.statuses for row in status.providers if not row.ready]
        assert world.value("other", team.name) is None
    assert len(told) == 1
    assert "needs a Role" in told[0]


async def test_a_namespace_without_a_role_is_told_and_blocks_no_other_until_it_has_one(team, connection, namespace):
    other = f"other-{secrets.token_hex(4)}"
    team.cluster.create_namespace(other)
    team.allow(team.name)
    for name in (team.name, other):
        await team.put(routing(namespace=name))
        await team.put(access("agents", namespace=name))
    async with following(source(team, connection, other), team.settings) as world:
        await until(lambda: world.answer(team.name) == "granted" and other in world.resources.unreadable, PATIENCE_S)
        assert world.answer(other) == "unavailable"
        assert world.ready
        assert any("is forbidden" in remark and other in remark for remark in world.cluster.remarks())
        team.allow(other)
        await until(lambda: world.answer(other) == "granted", PATIENCE_S)
    team.cluster.kubectl()("delete", "namespace", other, "--wait=false")


@pytest.mark.parametrize("server", ["apiserver", "etcd"])
@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
async def test_a_restart_takes_nothing_away_and_what_changed_meanwhile_counts(team, connection, server, crash):
    team.allow(team.name)
    await team.put(routing(namespace=team.name))
    await team.put(access("agents", namespace=team.name))
    await team.put(access("stays", namespace=team.name, models=["other"]))
    async with following(source(team, connection), team.settings) as world:
        await until(lambda: world.answer(team.name) == "granted", PATIENCE_S)
        getattr(team.cluster, server).restart(crash=crash)
        team.cluster.until_it_serves()
        assert world.answer(team.name) == "granted"
        await until_written(lambda: team.delete(access("agents", namespace=team.name)))
        await until(lambda: world.answer(team.name) == "forbidden", PATIENCE_S)
        assert [one.about.name for one in world.resources.access] == ["stays"]
        await until(lambda: world.cluster.remarks() == [], PATIENCE_S)


async def until_written(write: Any) -> None:
    """A server that was away answers our first questions late; what is written is written once."""
    ends_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            await write()
        except (Away, Refused):
            if time.monotonic() > ends_s:
                raise
        else:
            return


async def test_a_field_that_nobody_knows_is_kept_by_the_server_and_refused_by_us_however_deep_it_is(team, connection):
    team.allow(team.name)
    kubectl = team.cluster.kubectl(namespace=team.name)
    for name, junk in (("flat", "true"), ("deep", "[" * 1_500 + "]" * 1_500)):
        text = json.dumps(access(name, namespace=team.name)).replace('"models"', f'"junk": {junk}, "models"')
        kubectl("create", "--validate=false", "-f", "-", stdin=text)
    await team.put(access("plain", namespace=team.name))
    async with following(source(team, connection), team.settings) as world:
        await until(lambda: len(world.resources.access) == 3, PATIENCE_S)
        faults = {one.about.name: [fault.path for fault in one.about.faults] for one in world.resources.access}
    assert faults == {"plain": [], "flat": ["spec.junk"], "deep": ["spec.junk"]}


async def test_the_next_request_after_a_secret_has_changed_carries_the_new_key(team, tmp_path):
    """The whole product: objects in the cluster, a broker as a process, a local gateway, a provider that sees the key."""
    team.allow(team.name, ["openai"])
    async with FakeProvider(json_answer(ANSWER)) as provider, deployment(tmp_path, "", {}) as it:
        routed = routing(namespace=team.name, secret="openai")
        routed["spec"]["providers"][0]["endpoint"] = f"http://127.0.0.1:{provider.port}/v1"
        hosts = f"http://127.0.0.1:{provider.port}"
        await team.put(key(team.name, FIRST_KEY, hosts=hosts))
        await team.put(routed)
        await team.put(access("agents", namespace=team.name))
        switches = ("--resources", "kubernetes", "--kubeconfig", str(team.kubeconfig()), "--namespace", team.own, "--namespaces", team.name)
        await it.serve(*switches)
        await it.gateway(agent(team.name))
        async with httpx.AsyncClient(base_url=it.url(agent(team.name))) as caller:
            assert await ask(caller) == 200
            await team.put(key(team.name, SECOND_KEY, hosts=hosts))

            async def second() -> bool:
                assert await ask(caller) == 200
                return provider.seen[-1].header(b"authorization") == f"Bearer {SECOND_KEY}".encode()

            ends_s = time.monotonic() + PATIENCE_S
            while not await second():
                assert time.monotonic() < ends_s
            await team.delete(access("agents", namespace=team.name))
            ends_s = time.monotonic() + PATIENCE_S
            while await ask(caller) != 403:
                assert time.monotonic() < ends_s
        assert await it.metric("aiaccess_kubernetes_staleness_seconds") >= 0
        assert FIRST_KEY not in it.processes[0].output()
    assert provider.seen[0].header(b"authorization") == f"Bearer {FIRST_KEY}".encode()


async def ask(caller: httpx.AsyncClient) -> int:
    body = {"model": "gpt-4o", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
    return (await caller.post("/v1/chat/completions", json=body)).status_code


async def test_500_policies_of_20_subjects(team, tmp_path, figures):
    """Measured: what they cost a broker in memory, and how long a change takes among them."""
    team.allow(team.name)
    async with FakeProvider(json_answer(ANSWER)) as provider, deployment(tmp_path, "", {}) as it:
        routed = routing(namespace=team.name)
        routed["spec"]["providers"][0]["endpoint"] = f"http://127.0.0.1:{provider.port}/v1"
        await team.put(routed)
        switches = ("--resources", "kubernetes", "--kubeconfig", str(team.kubeconfig()), "--namespace", team.own, "--namespaces", team.name)
        broker = await it.serve(*switches)
        await it.gateway(agent(team.name))
        before = broker.pss_bytes()
        for number in range(500):
            subjects = [{"spiffeID": f"spiffe://example.org/ns/{team.name}/sa/agent-{number}-{n}"} for n in range(20)]
            await team.put(access(f"policy-{number}", namespace=team.name, subjects=subjects))
        async with httpx.AsyncClient(base_url=it.url(agent(team.name))) as caller:
            assert await ask(caller) == 403
            delays_s = []
            for _ in range(10):
                for write, wanted in ((team.put, 200), (team.delete, 403)):
                    await write(access("agents", namespace=team.name))
                    began_s = time.monotonic()
                    while await ask(caller) != wanted:
                        assert time.monotonic() - began_s < PATIENCE_S
                    delays_s.append(time.monotonic() - began_s)
        grown = broker.pss_bytes() - before
    delays_ms = sorted(delay * 1e3 for delay in delays_s)
    figures.append(
        f"500 policies of 20 subjects: of {len(delays_ms)} changes half are in force after {delays_ms[len(delays_ms) // 2]:.0f} ms, all after "
        f"{delays_ms[-1]:.0f} ms; memory grew by {grown / 1e6:.1f} MB (load {os.getloadavg()[0]:.1f})"
    )
