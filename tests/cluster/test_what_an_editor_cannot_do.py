"""A user with the role `edit` in one namespace, against the whole product: each attempt to reach beyond it comes to nothing.

The real API server judges what may be written, by the chart's roles; a real broker, with the rights that the chart gives it, judges
what was written. No webhook: what it would refuse at once must be refused by the broker too.
"""

import asyncio
import base64
import contextlib
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from support.chart import render
from support.cluster.control_plane import ControlPlane
from support.cluster.kubectl import Kubectl, KubectlFailed
from support.fake_provider import FakeProvider, json_answer
from support.objects_in_cluster import define
from support.processes import Deployment, deployment
from support.spiffe_ca import SpiffeCa, presenting

from broker.names import API_VERSION, GROUP

PATIENCE_S = 30.0
TEAM_KEY, NEIGHBOUR_KEY = "sk-canary-of-the-team", "sk-canary-of-the-neighbour"
ANSWER = (
    b'{"id": "1", "object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}'
)
KINDS = ["airoutingpolicies", "aiaccesspolicies", "aiproviders"]

Fields = dict[str, Any]


@dataclass
class Scene:
    """Two namespaces with an account, a model `gpt-4o` and an agent each. In `team` the editor is at home."""

    cluster: ControlPlane
    admin: Kubectl
    editor: Kubectl
    own: str
    team: str
    neighbour: str
    good: FakeProvider
    evil: FakeProvider
    running: Deployment

    def agent(self, namespace: str) -> str:
        return f"spiffe://example.org/ns/{namespace}/sa/agent"

    def endpoint(self, provider: FakeProvider) -> str:
        return f"http://127.0.0.1:{provider.port}/v1"

    def routing(self, name: str, *, models: Sequence[str], secret: Mapping[str, str] | None = None, endpoint: str = "") -> Fields:
        """What an editor writes: by default a way to the evil provider."""
        credentials: Fields = {"type": "APIKey", "secretRef": dict(secret)} if secret else {"type": "None"}
        provider = {"name": "evil", "schema": "OpenAI", "endpoint": endpoint or self.endpoint(self.evil), "credentials": credentials}
        rows = [{"name": model, "backends": [{"provider": "evil", "model": "m"}]} for model in models]
        return _object("AIRoutingPolicy", name, self.team, {"providers": [provider], "models": rows})

    async def ask(self, namespace: str, model: str) -> httpx.Response:
        body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "a secret plan"}]}
        async with httpx.AsyncClient(base_url=self.running.url(self.agent(namespace)), timeout=20) as caller:
            return await caller.post("/v1/chat/completions", json=body)

    async def until_asked(self, namespace: str, model: str, status: int) -> httpx.Response:
        ends_s = time.monotonic() + PATIENCE_S
        while (answer := await self.ask(namespace, model)).status_code != status:
            assert time.monotonic() < ends_s, f"{answer.status_code}: {answer.text}"
            await asyncio.sleep(0.05)
        return answer

    async def until_read(self) -> None:
        """The broker has read whatever was written so far: a model that is offered now, by somebody else's hand, is listed."""
        mark = f"mark-{secrets.token_hex(4)}"
        free = {"name": "free", "schema": "OpenAI", "endpoint": self.endpoint(self.good), "credentials": {"type": "None"}}
        spec = {"providers": [free], "models": [{"name": mark, "backends": [{"provider": "free", "model": "m"}]}]}
        self.admin.apply([_object("AIRoutingPolicy", mark, self.team, spec)])
        await self.until_asked(self.team, mark, 200)
        self.good.seen.clear()

    def stolen(self) -> list[str]:
        """What the evil provider has seen of keys."""
        return [value.decode() for seen in self.evil.seen for _, value in seen.headers if b"sk-canary" in value]


def put(kubectl: Kubectl, objects: Sequence[Fields], *words: str) -> None:
    """Apply each in the namespace that it names."""
    for made in objects:
        kubectl.within(made["metadata"]["namespace"]).apply([made], *words)


def _object(kind: str, name: str, namespace: str, spec: Fields) -> Fields:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def _at_home(namespace: str, key: str, endpoint: str) -> list[Fields]:
    """The objects of a namespace as its administrator wrote them."""
    host = endpoint.removesuffix("/v1")
    metadata = {"name": "openai", "namespace": namespace, "annotations": {"aiaccess.dev/hosts": host}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"api-key": base64.b64encode(key.encode()).decode()}}
    credentials = {"type": "APIKey", "secretRef": {"name": "openai"}}
    provider = {"name": "openai", "schema": "OpenAI", "endpoint": endpoint, "credentials": credentials}
    offer = {"name": "gpt-4o", "backends": [{"provider": "openai"}]}
    subjects = [{"spiffeIDPrefix": f"spiffe://example.org/ns/{namespace}/"}]
    return [
        secret,
        _object("AIRoutingPolicy", "routing", namespace, {"providers": [provider], "models": [offer]}),
        _object("AIAccessPolicy", "agents", namespace, {"subjects": subjects, "models": ["*"]}),
    ]


def _rights(own: str, namespace: str) -> list[Fields]:
    """What the chart gives the broker's account in a namespace."""
    group = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [GROUP], "resources": KINDS, "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]},
    ]
    metadata = {"name": "broker", "namespace": namespace}
    account = {"kind": "ServiceAccount", "name": "broker", "namespace": own}
    ref = {"apiGroup": group, "kind": "Role", "name": "broker"}
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": ref, "subjects": [account]},
    ]


def _roles_of_people() -> list[Fields]:
    """The chart's ClusterRoles that become part of admin, edit and view."""
    return [
        made
        for made in render()
        if made["kind"] == "ClusterRole" and any("aggregate-to" in label for label in made["metadata"].get("labels", {}))
    ]


@pytest.fixture(scope="module", autouse=True)
def kinds(cluster: ControlPlane) -> None:
    define(cluster)
    cluster.kubectl().apply(_roles_of_people())


@pytest.fixture
async def scene(cluster: ControlPlane, tmp_path: Path) -> AsyncIterator[Scene]:
    mark = secrets.token_hex(3)
    own, team, neighbour = f"broker-{mark}", f"team-{mark}", f"neighbour-{mark}"
    admin = cluster.kubectl(namespace=team)
    for namespace in (own, team, neighbour):
        cluster.create_namespace(namespace)
        put(admin, _rights(own, namespace))
    admin("create", "serviceaccount", "broker", "-n", own)
    admin("create", "rolebinding", "editor", "--clusterrole=edit", f"--user=editor-{mark}")
    editor = cluster.kubectl(cluster.kubeconfig(f"editor-{mark}"), team)
    async with FakeProvider(json_answer(ANSWER)) as good, FakeProvider(json_answer(ANSWER)) as evil, deployment(tmp_path, "", {}) as it:
        found = Scene(cluster, admin, editor, own, team, neighbour, good, evil, it)
        put(admin, _at_home(team, TEAM_KEY, found.endpoint(good)))
        put(admin, _at_home(neighbour, NEIGHBOUR_KEY, found.endpoint(good)))
        config = cluster.service_account_kubeconfig(own, "broker")
        await it.serve(
            *("--resources", "kubernetes", "--kubeconfig", str(config), "--namespace", own, "--namespaces", f"{team},{neighbour}")
        )
        for namespace in (team, neighbour):
            await it.gateway(found.agent(namespace))
            await found.until_asked(namespace, "gpt-4o", 200)
        await until_edit_is_whole(editor)
        good.seen.clear()
        yield found
    admin("delete", "namespace", own, team, neighbour, "--wait=false")


async def until_edit_is_whole(editor: Kubectl) -> None:
    """Until the controller manager has put the chart's part into the role `edit`."""
    ends_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            editor("auth", "can-i", "create", f"airoutingpolicies.{GROUP}")
        except KubectlFailed:
            assert time.monotonic() < ends_s
            await asyncio.sleep(0.1)
        else:
            return


async def test_another_namespaces_secret_is_used_by_no_object(scene: Scene):
    """The API server takes the field, since nothing is pruned; the broker refuses the whole object."""
    theirs = {"name": "openai", "namespace": scene.neighbour}
    provider = {"schema": "OpenAI", "endpoint": scene.endpoint(scene.evil), "credentials": {"type": "APIKey", "secretRef": theirs}}
    written = [
        scene.routing("theirs", models=["theirs"], secret=theirs),
        scene.routing("by-path", models=["by-path"], secret={"name": f"../{scene.neighbour}/openai"}),
        _object("AIProvider", "theirs", scene.team, provider),
    ]
    refused = 0
    for made in written:
        try:
            put(scene.editor, [made], "--validate=false")
        except KubectlFailed:
            refused += 1
    assert refused == 1, "a name with slashes is no name, says the schema"
    await scene.until_read()
    assert (await scene.ask(scene.team, "theirs")).status_code == 403
    assert scene.evil.seen == []


@pytest.mark.parametrize(
    "trick",
    [
        pytest.param("http://127.0.0.1:{evil}/v1", id="another-port"),
        pytest.param("http://localhost:{evil}/v1", id="another-name"),
        pytest.param("http://127.0.0.1:{good}@127.0.0.1:{evil}/v1", id="userinfo"),
        pytest.param("http://127.0.0.1:{evil}/v1?http://127.0.0.1:{good}", id="query"),
        pytest.param("http://127.0.0.1:{evil}#.127.0.0.1:{good}", id="fragment"),
    ],
)
async def test_the_namespaces_own_key_goes_to_no_host_that_its_secret_does_not_name(scene: Scene, trick: str):
    endpoint = trick.format(evil=scene.evil.port, good=scene.good.port)
    with contextlib.suppress(KubectlFailed):  # the schema refuses some at once
        put(scene.editor, [scene.routing("elsewhere", models=["elsewhere"], secret={"name": "openai"}, endpoint=endpoint)])
    await scene.until_read()
    assert (await scene.ask(scene.team, "elsewhere")).status_code in {403, 503}
    assert scene.stolen() == []
    assert scene.evil.seen == []


async def test_access_is_granted_by_nobody_who_may_only_edit(scene: Scene):
    """Not to the neighbour's model, not to their own: that is what an AIAccessPolicy is for, and its owner is the administrator."""
    stranger = [{"spiffeID": scene.agent("elsewhere")}]
    for namespace, models in ((scene.team, ["*"]), (scene.neighbour, ["gpt-4o"])):
        made = _object("AIAccessPolicy", "mine", namespace, {"subjects": stranger, "models": models})
        with pytest.raises(KubectlFailed, match="forbidden"):
            put(scene.editor, [made])
    assert (await scene.ask(scene.team, f"{scene.neighbour}/gpt-4o")).status_code == 403


async def test_a_model_by_the_neighbours_name_grants_nothing_of_the_neighbour(scene: Scene):
    """Their own agents reach their own provider by it; the neighbour's key stays where it is."""
    put(scene.editor, [scene.routing("posing", models=[f"{scene.neighbour}/gpt-4o"])])
    await scene.until_asked(scene.team, f"{scene.neighbour}/gpt-4o", 200)
    assert scene.stolen() == []
    assert scene.good.seen == []


async def test_no_prompt_of_the_neighbour_is_drawn_by_a_model_of_any_name(scene: Scene):
    names = ["gpt-4o-mini", f"{scene.neighbour}/gpt-4o", f"{scene.team}/gpt-4o"]
    put(scene.editor, [scene.routing("draw", models=names)])
    await scene.until_read()
    for model in ("gpt-4o", f"{scene.neighbour}/gpt-4o"):
        assert (await scene.ask(scene.neighbour, model)).status_code == 200
    for model in ("gpt-4o-mini", f"{scene.team}/gpt-4o"):
        assert (await scene.ask(scene.neighbour, model)).status_code == 403
    assert scene.evil.seen == []
    assert [seen.header(b"authorization") for seen in scene.good.seen] == [f"Bearer {NEIGHBOUR_KEY}".encode()] * 2


async def test_a_bundle_in_a_config_map_of_theirs_is_no_trust_anchor(scene: Scene):
    """Even when an administrator's policy names it: anchors come from the Workload API and the operator's switches."""
    rogue = SpiffeCa("example.org")
    scene.editor("create", "configmap", "bundle", f"--from-literal=bundle.spiffe={rogue.pem.decode()}")
    mtls = {"trustDomain": "example.org", "trustBundleConfigMap": {"name": "bundle", "namespace": scene.team}}
    put(
        scene.admin,
        [
            _object(
                "AIAccessPolicy",
                "with-bundle",
                scene.team,
                {"mtls": mtls, "models": ["*"], "subjects": [{"spiffeID": scene.agent(scene.team)}]},
            )
        ],
    )
    await scene.until_read()
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await answer_to(scene.running.broker_port, presenting(rogue.issue(scene.agent(scene.team))))
    await scene.until_asked(scene.team, "gpt-4o", 200)


async def answer_to(port: int, context: ssl.SSLContext) -> bytes:
    """The first line that the broker says to a caller with this SVID."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: broker\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            return await reader.readuntil(b"\r\n")
    finally:
        writer.transport.abort()


async def test_a_deny_is_silenced_by_nothing_that_they_may_write(scene: Scene):
    subjects = [{"spiffeID": scene.agent(scene.team)}]
    put(scene.admin, [_object("AIAccessPolicy", "cut-off", scene.team, {"action": "Deny", "subjects": subjects})])
    await scene.until_asked(scene.team, "gpt-4o", 403)
    for words in (
        ("delete", "aiaccesspolicy", "cut-off"),
        ("patch", "aiaccesspolicy", "cut-off", "--type=merge", "-p", '{"spec":{"action":"Allow"}}'),
        ("patch", "aiaccesspolicy", "cut-off", "--subresource=status", "--type=merge", "-p", '{"status":{"conditions":[]}}'),
        ("delete", "namespace", scene.team),
        ("delete", "crd", f"aiaccesspolicies.{GROUP}"),
    ):
        assert "forbidden" in scene.editor.refusal(*words).lower()
    put(scene.editor, [scene.routing("again", models=["gpt-4o", "another"])])
    scene.editor("delete", "airoutingpolicy", "routing")
    put(scene.editor, [scene.routing("routing", models=["gpt-4o", f"{scene.team}/gpt-4o"])])
    await until_offered(scene, "again")
    for model in ("gpt-4o", "another", f"{scene.team}/gpt-4o"):
        assert (await scene.ask(scene.team, model)).status_code == 403
    assert scene.evil.seen == []


async def until_offered(scene: Scene, name: str) -> None:
    """Until the broker has read this object of theirs: an agent that is not cut off gets an answer by it."""
    other = "spiffe://example.org/ns/elsewhere/sa/agent"
    put(scene.admin, [_object("AIAccessPolicy", f"see-{name}", scene.team, {"subjects": [{"spiffeID": other}], "models": ["another"]})])
    await scene.running.gateway(other)
    body = {"model": f"{scene.team}/another", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
    ends_s = time.monotonic() + PATIENCE_S
    async with httpx.AsyncClient(base_url=scene.running.url(other), timeout=20) as caller:
        while (await caller.post("/v1/chat/completions", json=body)).status_code != 200:
            assert time.monotonic() < ends_s
            await asyncio.sleep(0.05)
    scene.evil.seen.clear()


async def test_a_heap_of_objects_of_theirs_holds_nobody_else_up(scene: Scene):
    """A megabyte and more of them: their own models are refused, since nobody knows all that may deny; the neighbour notices nothing."""
    heap = [scene.routing(f"heap-{number}", models=[f"heap-{number}-{n}" for n in range(256)]) for number in range(4)]
    for made in heap:
        for row in made["spec"]["models"]:
            row["backends"] = [{"provider": "evil", "model": f"{n}{'x' * 200}"} for n in range(5)]
    put(scene.editor, heap, "--server-side")
    told = await scene.until_asked(scene.team, "gpt-4o", 503)
    assert "too many" in told.text
    assert (await scene.ask(scene.neighbour, "gpt-4o")).status_code == 200
    deny = {"subjects": [{"spiffeID": scene.agent(scene.neighbour)}], "models": ["gpt-4o"], "action": "Deny"}
    put(scene.admin, [_object("AIAccessPolicy", "stop", scene.neighbour, deny)])
    await scene.until_asked(scene.neighbour, "gpt-4o", 403)
    assert scene.evil.seen == []
