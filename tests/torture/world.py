"""The processes of one seed: four brokers, three local gateways, one Redis that keeps what it is told. All can be killed."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2 as httpx
from support.ports import free_port
from support.processes import Deployment, Process, deployment
from support.redis_server import RedisServer, redis_server

from .plan import AGENTS, BROKERS, PRICES, Event, Plan
from .provider import Provider

KEY: Final = "sk-canary-torture"
SETTLED_S: Final = 30.0
STREAM_S: Final = 60  # the policy's maxStreamDuration; what a crash leaves expires a minute later
DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")  # with less it may answer what it has not yet written
MEMORY: Final = Path("/dev/shm")  # noqa: S108  a disk that is never slow; what the kernel has outlives the process
RESOURCES: Final = """
apiVersion: v1
kind: Secret
metadata: {{name: key, namespace: team1, annotations: {{aiaccess.dev/hosts: "http://127.0.0.1:{port}"}}}}
stringData: {{api-key: "${{env:PROVIDER_KEY}}"}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: team1}}
spec:
  providers:
  - {{name: here, schema: OpenAI, endpoint: "http://127.0.0.1:{port}/v1", credentials: {{type: APIKey, secretRef: {{name: key}}}}}}
  models: [{{name: gpt, backends: [{backends}]}}]
  defaultFailover: {{retryOn: [503, ConnectFailure, Reset], maxRetries: 1, backoff: {{base: 10ms, max: 50ms}}}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: team1}}
spec:
  subjects: [{subjects}]
  models: [gpt]
  maxStreamDuration: {stream_s}s
  quotas:
{quotas}
"""


@dataclass
class World:
    """lost_s: since when (monotonic) a store that had lost counts was back."""

    it: Deployment
    plan: Plan
    store: RedisServer
    brokers: list[Process] = field(default_factory=list)
    ports: list[tuple[int, int]] = field(default_factory=lambda: [(free_port(), free_port()) for _ in range(BROKERS)])
    lost_s: float = float("inf")
    _turns: list[asyncio.Lock] = field(default_factory=lambda: [asyncio.Lock() for _ in range(BROKERS)])

    @property
    def urls(self) -> list[str]:
        return [self.it.url(agent) for agent in AGENTS]

    @property
    def audits(self) -> list[Path]:
        return [self.it.folder / f"audit-{number}.jsonl" for number in range(BROKERS)]

    def logs(self) -> str:
        return "".join(process.log.read_text(errors="replace") for process in self.it.processes if process.name.startswith("broker"))

    async def start(self) -> None:
        self.brokers = await asyncio.gather(*map(self._serve, range(BROKERS)))
        await asyncio.gather(*(self.it.gateway(agent, brokers=[port for port, _ in self.ports]) for agent in AGENTS))
        async with httpx.AsyncClient() as client, asyncio.timeout(SETTLED_S):
            for url in self.urls:
                while (await client.get(f"{url}/v1/models")).status_code != 200:
                    await asyncio.sleep(0.05)

    async def disturb(self) -> None:
        """All events of the plan, each at its time or, when the one before took longer, after it."""
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for event in self.plan.events:
                await asyncio.sleep(max(0.0, began_s + event.at_s - time.monotonic()))
                for number in event.brokers:
                    group.create_task(self._kill(number, event.for_s))
                if event.deed != "kill":
                    await self._do_to_store(event)

    async def until_settled(self) -> None:
        """Until no broker has an exchange in flight, nor a settlement that the store has not confirmed."""
        names = ("aiaccess_exchanges_in_flight", "aiaccess_settle_queue_length")
        async with asyncio.timeout(SETTLED_S):
            for _, admin in self.ports:
                while any([await _figure(admin, name) for name in names]):
                    await asyncio.sleep(0.1)

    async def stop(self) -> list[int]:
        """An orderly end of all brokers. Their exit codes."""
        return await asyncio.gather(*(broker.stop() for broker in self.brokers))

    async def _serve(self, number: int) -> Process:
        port, admin = self.ports[number]
        more = ("--allow-insecure-quota-store", "true", "--quota-deadline", "500ms")
        command = await self.it._broker(port, admin, f"audit-{number}", ("-m", "broker"), self.store.url, more)
        process = await self.it.spawn(f"broker-{number}", command, self.it.environ)
        await self.it.until_ready(process, port, admin)
        return process

    async def _kill(self, number: int, for_s: float) -> None:
        async with self._turns[number]:
            await self.brokers[number].kill()
            await asyncio.sleep(for_s)
            self.brokers[number] = await self._serve(number)

    async def _do_to_store(self, event: Event) -> None:
        if event.deed == "save":
            with self.store.client() as client:
                await asyncio.to_thread(client.save)
            return
        if event.deed == "pause":
            self.store.pause()
            await asyncio.sleep(event.for_s)
            self.store.go_on()
            return
        self.store.kill()
        await asyncio.sleep(event.for_s)
        await asyncio.to_thread(self.store.start)
        if event.deed == "lose":
            self.lost_s = time.monotonic()


async def _figure(admin: int, name: str) -> float:
    async with httpx.AsyncClient() as client:
        lines = (await client.get(f"http://127.0.0.1:{admin}/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def _backend(model: str, priority: int) -> str:
    read, written, request = PRICES[model]
    price = f'inputPerMillionTokens: "{read}", outputPerMillionTokens: "{written}", perRequest: "{request}"'
    return f"{{provider: here, model: {model}, priority: {priority}, price: {{{price}}}}}"


@asynccontextmanager
async def world(folder: Path, plan: Plan, provider: Provider) -> AsyncIterator[World]:
    """Started, and everything that is left of it stopped at the end."""
    quotas = "\n".join(f"  - {quota.yaml(strict=plan.kind != 'counted')}" for quota in plan.quotas)
    subjects = ", ".join(f'{{spiffeID: "{agent}"}}' for agent in AGENTS)
    backends = ", ".join(_backend(model, priority) for priority, model in enumerate(plan.backends))
    resources = RESOURCES.format(port=provider.port, subjects=subjects, stream_s=STREAM_S, quotas=quotas, backends=backends)
    kept = () if plan.kind == "lossy" else DURABLE
    with (
        tempfile.TemporaryDirectory(prefix="torture", dir=MEMORY if MEMORY.is_dir() else folder) as of_store,
        redis_server(Path(of_store), *kept) as store,
    ):
        async with deployment(folder, resources, {"PROVIDER_KEY": KEY}) as it:
            made = World(it, plan, store)
            await made.start()
            yield made
