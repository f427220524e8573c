"""The broker and a gateway as processes, before a provider in the test's loop: for what happens when much is under way at once.

async with under_load(tmp_path, talk) as it:
    await it.chat.chat.completions.create(**it.question("stay"), stream=True)
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anthropic
import httpx2 as httpx
import openai
from support.fake_provider import Answer, FakeProvider, Seen
from support.ledgers import PATIENCE_S
from support.processes import Deployment, Process, deployment

from broker import workload_api
from broker.ledger.sqlite import SqliteLedger
from broker.names import PLACEHOLDER_KEY
from broker.trust import Trust

AGENT = "spiffe://example.org/ns/team1/sa/agent"
KEY = "sk-canary-under-load"
LIMIT = 10**12
OUTPUT = 40

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
  - {{name: o, schema: OpenAI, endpoint: "http://127.0.0.1:{port}/v1", credentials: {{type: APIKey, secretRef: {{name: provider-key}}}}}}
  - {{name: a, schema: Anthropic, endpoint: "http://127.0.0.1:{port}/v1", credentials: {{type: APIKey, secretRef: {{name: provider-key}}}}}}
  models:
  - {{name: gpt, backends: [{{provider: o, model: gpt-real}}]}}
  - {{name: claude, backends: [{{provider: a, model: claude-real}}]}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: team1}}
spec:
  subjects: [{{spiffeID: {agent}}}]
  models: [gpt, claude]
  quotas: [{{name: ceiling, tokens: {limit}, per: Month}}]
"""


@dataclass
class UnderLoad:
    it: Deployment
    provider: FakeProvider
    broker: Process
    gateway: Process
    second_port: int
    chat: openai.AsyncOpenAI
    messages: anthropic.AsyncAnthropic
    http: httpx.AsyncClient

    def question(self, text: str, model: str = "gpt") -> dict[str, object]:
        return {"model": model, "max_tokens": OUTPUT, "messages": [{"role": "user", "content": text}]}

    async def used_tokens(self) -> int:
        """What stands on the quota's counter."""
        ledger = await SqliteLedger.open(self.it.store, time.time, PATIENCE_S)
        used = sum(reading.used for reading in await ledger.readings())
        await ledger.close()
        return used

    async def open_holds(self) -> int:
        ledger = await SqliteLedger.open(self.it.store, time.time, PATIENCE_S)
        count = await ledger.open_holds()
        await ledger.close()
        return count

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The agent's own mutual TLS to the broker, without a gateway."""
        trust, told = Trust(), asyncio.Event()
        endpoint = f"unix://{await self.it.issuer.serve(AGENT)}"

        def update(news) -> None:
            trust.apply(news)
            told.set()

        watching = asyncio.create_task(workload_api.watch(endpoint, update, trust.note))
        try:
            await told.wait()
            return await asyncio.open_connection(
                "127.0.0.1", self.it.broker_port, ssl=trust.client_context(lambda _: True), server_hostname=""
            )
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def exit_code(process: Process, within_s: float) -> int:
    async with asyncio.timeout(within_s):
        return await process.child.wait()


@asynccontextmanager
async def under_load(
    tmp_path: Path, script: Callable[[Seen], Answer], *switches: str, replicas: int = 1, retries: int = 0
) -> AsyncIterator[UnderLoad]:
    """switches: of `broker serve`. retries: of the SDKs."""
    async with FakeProvider(script=script) as provider:
        resources = RESOURCES.format(port=provider.port, agent=AGENT, limit=LIMIT)
        async with deployment(tmp_path, resources, {"PROVIDER_KEY": KEY}) as it:
            broker = await it.serve(*switches)
            second_port = (await it.serve_another(*switches))[1] if replicas > 1 else 0
            gateway = await it.gateway(AGENT, brokers=[it.broker_port, second_port] if second_port else ())
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            async with (
                httpx.AsyncClient(base_url=it.url(AGENT), limits=limits, timeout=60) as http,
                openai.AsyncOpenAI(base_url=f"{it.url(AGENT)}/v1", api_key=PLACEHOLDER_KEY, max_retries=retries, timeout=60) as chat,
                anthropic.AsyncAnthropic(base_url=it.url(AGENT), api_key=PLACEHOLDER_KEY, max_retries=retries, timeout=60) as messages,
            ):
                found = UnderLoad(it, provider, broker, gateway, second_port, chat, messages, http)
                async with asyncio.timeout(20):
                    while (await http.get("/v1/models")).status_code != 200:
                        await asyncio.sleep(0.02)
                yield found
