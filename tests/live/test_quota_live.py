"""Promise 3 with real processes: 64 callers, hang-ups, kill -9 in the middle; the provider's own ledger never passes the quota."""

import asyncio
import contextlib
import random
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2 as httpx
from support.ledgers import PATIENCE_S
from support.ports import free_port
from support.processes import ROOT, Deployment, deployment

from broker.dialects import openai_chat
from broker.ledger.sqlite import SqliteLedger
from broker.quota import Expired

AGENT = "spiffe://example.org/ns/team1/sa/agent"
CALLERS = 64
OUTPUT = 40
QUESTION = "say 400 words sleep 0.04 between tokens"
KEY = "sk-canary-quota-live"

RESOURCES = """
apiVersion: v1
kind: Secret
metadata: {{name: provider-key, namespace: team1, annotations: {{aiaccess.dev/hosts: "http://127.0.0.1:{port}"}}}}
stringData: {{api-key: "${{env:PROVIDER_KEY}}"}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: team1}}
spec:
  providers:
  - {{name: here, schema: OpenAI, endpoint: "http://127.0.0.1:{port}/v1", credentials: {{type: APIKey, secretRef: {{name: provider-key}}}}}}
  models:
  - {{name: gpt, backends: [{{provider: here, model: gpt-real}}]}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: team1}}
spec:
  subjects: [{{spiffeID: {agent}}}]
  models: [gpt]
  quotas: [{{name: ceiling, tokens: {limit}, per: Month}}]
"""


def body(*, streaming: bool) -> dict[str, object]:
    return {"model": "gpt", "max_tokens": OUTPUT, "stream": streaming, "messages": [{"role": "user", "content": QUESTION}]}


def ten_requests() -> int:
    """Tokens that the quota needs so that exactly ten of these fit at once."""
    largest = httpx.Request("POST", "http://localhost", json=body(streaming=False)).content
    return 10 * (openai_chat.read(largest).demand(OUTPUT, None).prompt_bound + OUTPUT)


@dataclass
class World:
    it: Deployment
    provider: httpx.AsyncClient
    agent: httpx.AsyncClient
    limit_tokens: int

    @property
    def store(self) -> Path:
        return self.it.folder / "quota.sqlite"

    async def billed_tokens(self) -> int:
        ledger = (await self.provider.get("/ledger")).json()
        billed: int = ledger["input_tokens"] + ledger["output_tokens"]
        assert billed <= self.limit_tokens
        return billed

    async def until_answers_are_under_way(self, count: int) -> None:
        while (await self.provider.get("/ledger")).json()["open"] < count:
            await asyncio.sleep(0.01)


async def begin(patience: asyncio.Timeout, patience_s: float, event: str, _info: object) -> None:
    """Start a caller's patience with its request: the client leaves a socket open behind it when it is cancelled while it connects."""
    if event == "http11.send_request_headers.started":
        patience.reschedule(asyncio.get_running_loop().time() + patience_s)


async def insist(world: World, drawn: random.Random) -> None:
    """One caller: asks until it hears that the quota is used up; sometimes streams, sometimes hangs up in the middle."""
    while True:
        streaming, patience_s = drawn.random() < 0.5, drawn.choice([0.2, 0.8, 60.0])
        try:
            async with asyncio.timeout(None) as patience:
                trace = partial(begin, patience, patience_s)
                answer = await world.agent.post("/v1/chat/completions", json=body(streaming=streaming), extensions={"trace": trace})
        except (TimeoutError, httpx.HTTPError):
            continue
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "quota_exhausted"
            return
        assert answer.status_code in (200, 502, 503), answer.text
        if answer.status_code != 200:
            await asyncio.sleep(0.1)


async def watch(world: World) -> None:
    while True:
        await world.billed_tokens()
        await asyncio.sleep(0.05)


async def used_tokens(store: Path) -> int:
    ledger = await SqliteLedger.open(store, time.time, PATIENCE_S)
    used = sum(reading.used for reading in await ledger.readings())
    await ledger.close()
    return used


async def expire_all(store: Path) -> tuple[Expired, ...]:
    """What would expire if nobody came back for two hours."""
    ledger = await SqliteLedger.open(store, lambda: time.time() + 7200, PATIENCE_S)
    expired = await ledger.expire()
    await ledger.close()
    return expired


@contextlib.asynccontextmanager
async def running(tmp_path: Path):
    port, limit = free_port(), ten_requests()
    resources = RESOURCES.format(port=port, agent=AGENT, limit=limit)
    async with deployment(tmp_path, resources, {"PROVIDER_KEY": KEY}) as it:
        await it.spawn("provider", [sys.executable, str(ROOT / "examples/01-quickstart/provider.py"), str(port)], {"PROVIDER_KEY": KEY})
        await it.serve()
        await it.gateway(AGENT)
        limits = httpx.Limits(max_connections=CALLERS)
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as provider,
            httpx.AsyncClient(base_url=it.url(AGENT), limits=limits, timeout=60) as agent,
        ):
            yield World(it, provider, agent, limit)


async def test_64_callers_hang_ups_and_a_killed_broker_never_pass_the_quota(tmp_path):
    async with running(tmp_path) as world:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(world))
            callers = [group.create_task(insist(world, random.Random(seed))) for seed in range(CALLERS)]  # noqa: S311  dice, no secret
            await world.until_answers_are_under_way(3)
            broker = next(process for process in world.it.processes if process.name == "broker")
            await broker.kill()
            at_the_kill = await used_tokens(world.store)
            await world.it.serve()
            assert await used_tokens(world.store) >= at_the_kill > 0
            await asyncio.wait(callers)
            watching.cancel()

        billed = await world.billed_tokens()
        for process in world.it.processes:
            await process.stop()
        used = await used_tokens(world.store)
        lost = await expire_all(world.store)
    assert billed <= used <= world.limit_tokens
    assert world.limit_tokens - used < world.limit_tokens / 10  # all said no only when no further request fitted
    assert lost  # what was in flight at the kill is still charged, and named
    assert {hold.identity for hold in lost} == {AGENT}
    assert all(hold.tokens <= world.limit_tokens / 10 for hold in lost)
