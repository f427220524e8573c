"""`broker serve --resources kubernetes` as a process, against an API server that comes late and goes away."""

import asyncio
import contextlib
import socket
import time

import httpx2 as httpx
import pytest
from support.fake_apiserver import FakeApiServer, access, api_server, routing
from support.fake_provider import FakeProvider, json_answer
from support.kube_world import agent
from support.processes import START_S, Deployment, deployment
from support.raw_http import until

ANSWER = (
    b'{"id": "1", "object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}'
)
BODY = {"model": "gpt-4o", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}


async def readyz(it: Deployment) -> tuple[int, str]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{it.admin_port}/readyz")
    return answer.status_code, answer.text


async def started(it: Deployment, server: FakeApiServer, *more: str) -> None:
    switches = ("--resources", "kubernetes", "--kubeconfig", server.kubeconfig(it.folder), "--namespaces", "team1", *more)
    await it.spawn("broker", await it._broker(it.broker_port, it.admin_port, "audit", ("-m", "broker"), None, switches))
    await until(lambda: listens(it.broker_port), START_S)
    await it.gateway(agent("team1"))


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


async def asking(it: Deployment, status: int) -> dict[str, object]:
    """Ask until the answer has this status; its body."""
    ends_s = time.monotonic() + START_S
    async with httpx.AsyncClient(base_url=it.url(agent("team1"))) as caller:
        while time.monotonic() < ends_s:
            answer = await caller.post("/v1/chat/completions", json=BODY)
            if answer.status_code == status:
                return answer.json()
    raise AssertionError(f"never {status}: {answer.status_code} {answer.text}\n{it.processes[0].output()}")


@pytest.fixture
async def provider():
    async with FakeProvider(json_answer(ANSWER)) as running:
        yield running


async def test_nothing_is_served_before_it_has_read_its_objects_and_all_of_it_when_the_server_has_gone(tmp_path, provider):
    async with api_server() as server, deployment(tmp_path, "", {}) as it:
        routed = routing()
        routed["spec"]["providers"][0]["endpoint"] = f"http://127.0.0.1:{provider.port}/v1"
        server.put(routed)
        server.put(access("agents"))
        server.refuse = lambda path, query: (503, {}) if "/inference-broker/aiaccesspolicies" in path else None
        await started(it, server)
        refused = await asking(it, 503)
        assert "unavailable" in str(refused)
        status, text = await readyz(it)
        assert status == 503
        assert "the aiaccesspolicies of namespace inference-broker" in text
        server.refuse = lambda path, query: None
        await asking(it, 200)
        assert await readyz(it) == (200, "ready\n")
        assert await it.metric("aiaccess_kubernetes_staleness_seconds") < 100
        await server.down()
        await asking(it, 200)
        async with asyncio.timeout(START_S):
            while "remark: nothing is heard of the airoutingpolicies of namespace team1 for" not in (await readyz(it))[1]:
                await asyncio.sleep(0.05)
        assert (await readyz(it))[0] == 200


async def test_a_deleted_policy_and_a_namespace_that_may_not_be_read(tmp_path, provider):
    async with api_server() as server, deployment(tmp_path, "", {}) as it:
        routed = routing()
        routed["spec"]["providers"][0]["endpoint"] = f"http://127.0.0.1:{provider.port}/v1"
        server.put(routed)
        server.put(access("agents"))
        server.refuse = lambda path, query: (403, {}) if "/team2/" in path else None
        await started(it, server, "--namespaces", "team1,team2")
        await asking(it, 200)
        status, text = await readyz(it)
        assert (status, text.count("remark: the ai"), "Role" in text) == (200, 3, True)
        server.delete("AIAccessPolicy", "team1", "agents")
        assert "forbidden" in str(await asking(it, 403))


async def test_it_ends_in_order_while_it_watches(tmp_path):
    async with api_server() as server, deployment(tmp_path, "", {}) as it:
        await started(it, server)
        await until(lambda: len(server.watches) == 6, 20)
        assert await it.processes[0].stop() == 0
        await until(lambda: not server.watches)


async def test_no_cluster_is_said_in_one_line(tmp_path):
    async with deployment(tmp_path, "", {}) as it:
        switches = ("--resources", "kubernetes", "--kubeconfig", str(tmp_path / "absent"))
        process = await it.spawn("broker", await it._broker(it.broker_port, it.admin_port, "audit", ("-m", "broker"), None, switches))
        with contextlib.suppress(TimeoutError):
            await process.child.wait()
        assert process.child.returncode == 1
        assert process.output().splitlines()[-1].startswith("broker: --kubeconfig: ")
