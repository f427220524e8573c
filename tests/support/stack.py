"""The whole product in one event loop: issuer, broker and one local gateway a workload, with real mutual TLS between them.

async with stack(tmp_path, RESOURCES, [AGENT]) as it:
    await it.openai(AGENT).chat.completions.create(...)
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from broker import dev
from broker.config import Address, BrokerSettings, Workload

AGENT = "spiffe://example.org/ns/team1/sa/agent"
OTHER = "spiffe://example.org/ns/team1/sa/other"
STRANGER = "spiffe://example.org/ns/elsewhere/sa/nobody"
CANARY = "sk-canary-4f1e0c7a9b2d"
START_S = 20.0


@dataclass
class Stack:
    """What runs. Clients made here retry nothing, so that one call is one exchange."""

    state: Path
    resources: Path
    ports: Mapping[str, int]
    broker_port: int
    admin_port: int
    speakers: dict[tuple[str, str], AsyncOpenAI | AsyncAnthropic] = field(default_factory=dict)
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def environment(self, spiffe_id: str) -> dict[str, str]:
        return dev.environment_of(self.state, spiffe_id)

    def openai(self, spiffe_id: str) -> AsyncOpenAI:
        known = self.speakers.get(("openai", spiffe_id))
        if isinstance(known, AsyncOpenAI):
            return known
        env = self.environment(spiffe_id)
        client = AsyncOpenAI(base_url=env["OPENAI_BASE_URL"], api_key=env["OPENAI_API_KEY"], max_retries=0, timeout=20)
        self.speakers["openai", spiffe_id] = client
        return client

    def anthropic(self, spiffe_id: str) -> AsyncAnthropic:
        known = self.speakers.get(("anthropic", spiffe_id))
        if isinstance(known, AsyncAnthropic):
            return known
        env = self.environment(spiffe_id)
        client = AsyncAnthropic(base_url=env["ANTHROPIC_BASE_URL"], api_key=env["ANTHROPIC_API_KEY"], max_retries=0, timeout=20)
        self.speakers["anthropic", spiffe_id] = client
        return client

    def http(self, spiffe_id: str) -> httpx.AsyncClient:
        """A plain client with the key of the run."""
        env = self.environment(spiffe_id)
        base = env["OPENAI_BASE_URL"].removesuffix("/v1")
        client = httpx.AsyncClient(base_url=base, headers={"authorization": f"Bearer {env['OPENAI_API_KEY']}"}, timeout=20)
        self.clients.append(client)
        return client

    async def metrics(self) -> str:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://127.0.0.1:{self.admin_port}/metrics")).text

    def audit(self) -> list[dict[str, object]]:
        """The exchanges in the audit log so far."""
        lines = (self.state / "audit.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["kind"] == "exchange"]

    async def audited(self, count: int) -> list[dict[str, object]]:
        """The audit log once it has so many exchanges: a line is written at the end of its exchange's last turn of the loop."""
        async with asyncio.timeout(10):
            while len(lines := self.audit()) < count:
                await asyncio.sleep(0.01)
        return lines

    def write(self, resources: str) -> None:
        """Replace the objects in one step."""
        new = self.resources.parent / "new.yaml.part"
        new.write_text(resources)
        new.replace(self.resources)


@asynccontextmanager
async def stack(
    tmp_path: Path,
    resources: str,
    workloads: Sequence[str] = (AGENT,),
    *,
    environ: Mapping[str, str] | None = None,
    svid_ttl_s: float = 3600.0,
    **settings: object,
) -> AsyncIterator[Stack]:
    """Run everything in fresh state. `settings` are BrokerSettings' own fields."""
    folder = tmp_path / "resources"
    folder.mkdir(exist_ok=True)
    file = folder / "objects.yaml"
    file.write_text(resources)
    state = tmp_path / "state"

    def broker_settings(endpoint: str) -> BrokerSettings:
        values = {
            "resources": folder,
            "spiffe_endpoint_socket": endpoint,
            "listen": Address("127.0.0.1", 0),
            "admin": Address("127.0.0.1", 0),
            "audit": str(state / "audit.jsonl"),
            "quota_store": f"sqlite://{state}/quota.sqlite",
            "quota_deadline": 5.0,  # a busy machine is no fault of the store
            "namespace": "inference-broker",
            "allow_hosts": ("127.0.0.1",),
            "plain_http_hosts": ("127.0.0.1",),
            "drain": 5.0,
            "environ": {"KEY": CANARY, **(environ or {})},
            **settings,
        }
        return BrokerSettings(**values)  # type: ignore[arg-type]

    stop = asyncio.Event()
    up: asyncio.Future[tuple[object, Mapping[str, int]]] = asyncio.get_running_loop().create_future()
    wanted = dev.DevSettings(
        state=state,
        workloads=tuple(Workload(spiffe_id, 0) for spiffe_id in workloads),
        svid_ttl_s=svid_ttl_s,
        rotate_ca_every_s=86400.0,
        broker=broker_settings,
    )
    running = asyncio.create_task(dev.run(wanted, stop, lambda started, ports: up.set_result((started, ports))))
    try:
        await asyncio.wait((running, up), timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        started, ports = up.result()
        it = Stack(state, file, ports, started.port, started.admin_port)  # type: ignore[attr-defined]
        try:
            yield it
        finally:
            for speaker in it.speakers.values():
                await speaker.close()
            for client in it.clients:
                await client.aclose()
    finally:
        stop.set()
        await running
