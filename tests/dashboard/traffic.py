"""A small company's afternoon in a few minutes: two brokers, five agents, three provider accounts that have their troubles."""

import asyncio
import contextlib
import json
import math
import random
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
from support.fake_provider import LAST_CHUNK, Answer, FakeProvider, Seen, chunk, json_answer, sse_head
from support.otlp_receiver import Receiver
from support.processes import Deployment, deployment

KEY = "sk-canary-dashboard"
SVID_TTL_S = 60.0
OBJECTS = """
apiVersion: v1
kind: Secret
metadata: {{name: keys, namespace: platform, annotations: {{aiaccess.dev/hosts: "{hosts}"}}}}
stringData: {{api-key: "${{env:PROVIDER_KEY}}"}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: platform}}
spec:
  providers:
  - {{name: openai, schema: OpenAI, endpoint: "http://127.0.0.1:{openai}/v1", {key}}}
  - {{name: mistral, schema: Mistral, endpoint: "http://127.0.0.1:{mistral}", {key}}}
  - {{name: anthropic, schema: Anthropic, endpoint: "http://127.0.0.1:{anthropic}", {key}}}
  models:
  - name: large
    backends: [{{provider: openai, model: gpt-real}}, {{provider: mistral, model: mistral-real, priority: 1}}]
    defaultOutputTokens: 600
  - {{name: small, backends: [{{provider: mistral, model: mistral-small-real}}], defaultOutputTokens: 600}}
  - {{name: claude, backends: [{{provider: anthropic, model: claude-real}}], defaultOutputTokens: 600}}
  - {{name: frontier, backends: [{{provider: openai, model: gpt-real}}]}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: everybody, namespace: platform}}
spec:
  subjects: [{{spiffeIDPrefix: "spiffe://example.org/"}}]
  models: [large, small, claude]
  quotas: [{{name: monthly, tokens: {most}, per: Month}}]
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: interns, namespace: platform}}
spec:
  subjects: [{{spiffeIDPrefix: "spiffe://example.org/ns/interns/"}}]
  models: [small]
  quotas: [{{name: allowance, tokens: {few}, per: Month}}]
"""
CREDENTIALS = "credentials: {type: APIKey, secretRef: {name: keys}}, timeouts: {firstByte: 5s, idle: 5s}"
DICE = random.Random(7)  # noqa: S311  the same afternoon each time, as far as processes allow


@dataclass(frozen=True)
class Agent:
    """Who asks for what. calls_per_s: on average; it swings by half."""

    name: str
    models: tuple[str, ...]
    calls_per_s: float
    prompt_words: int

    @property
    def spiffe_id(self) -> str:
        namespace, _, account = self.name.partition("/")
        return f"spiffe://example.org/ns/{namespace}/sa/{account}"


AGENTS = (
    Agent("support/chat", ("claude", "claude", "large"), 4.0, 300),
    Agent("support/triage", ("small",), 3.0, 80),
    Agent("research/reader", ("large", "large", "claude"), 1.6, 1800),
    Agent("interns/notebook", ("small", "frontier"), 1.2, 60),
    Agent("build/reviewer", ("large",), 1.5, 700),
)


@dataclass
class Provider:
    """An account at a provider: mostly well, ill for a while, and slower the more it is asked to write.

    ill: from which to which second after the beginning it answers 503, most of the time.
    """

    ill: tuple[float, float]
    median_s: float
    began_s: float = field(default_factory=time.monotonic)

    def script(self, seen: Seen) -> Answer:
        asked = json.loads(seen.body)
        age_s = time.monotonic() - self.began_s
        if self.ill[0] <= age_s <= self.ill[1] and DICE.random() < 0.9:
            return (_after(0.02), *json_answer(b'{"error":{"message":"overloaded"}}', 503))
        if DICE.random() < 0.01:
            return json_answer(b'{"error":{"message":"slow down"}}', 429, [(b"retry-after", b"2")])
        wrote = min(DICE.randint(40, 500), _most(asked))
        read = sum(len(str(message["content"])) for message in asked["messages"]) // 4
        first_s = self.median_s * math.exp(DICE.gauss(0, 0.5))
        if seen.target.endswith("/messages"):
            return (_after(first_s + wrote / 900), *json_answer(_message(read, wrote)))
        if not asked.get("stream"):
            return (_after(first_s + wrote / 900), *json_answer(_completion(read, wrote)))
        pieces = (step for number in range(6) for step in (chunk(_event(number, 0, 0)), _after(wrote / 5400)))
        return (_after(first_s), sse_head(), *pieces, chunk(_event(6, read, wrote)), chunk(b"data: [DONE]\n\n"), LAST_CHUNK)


def _most(asked: dict[str, int]) -> int:
    """What the request lets a provider write: quotas may have left less than the agent wanted."""
    return asked.get("max_tokens") or asked["max_completion_tokens"]


def _after(seconds: float) -> asyncio.Event:
    """It is set when that much time has gone by since the request came."""
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, event.set)
    return event


def _completion(read: int, wrote: int) -> bytes:
    usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * wrote}}
    return json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "real", "choices": [choice], "usage": usage}).encode()


def _event(number: int, read: int, wrote: int) -> bytes:
    body: dict[str, object] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "real", "choices": []}
    if wrote:
        body["usage"] = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
    else:
        body["choices"] = [{"index": 0, "delta": {"content": f"word {number} "}}]
    return b"data: %b\n\n" % json.dumps(body).encode()


def _message(read: int, wrote: int) -> bytes:
    usage = {"input_tokens": read, "output_tokens": wrote}
    content = [{"type": "text", "text": "word " * wrote}]
    said = {"id": "m", "type": "message", "role": "assistant", "model": "real", "content": content, "stop_reason": "end_turn"}
    return json.dumps({**said, "stop_sequence": None, "usage": usage}).encode()


async def _call(client: httpx.AsyncClient, url: str, agent: Agent) -> None:
    model = DICE.choice(agent.models)
    words = max(5, round(agent.prompt_words * math.exp(DICE.gauss(0, 0.6))))
    body: dict[str, object] = {"model": f"platform/{model}", "max_tokens": 600, "messages": [{"role": "user", "content": "word " * words}]}
    path = "/v1/messages" if model == "claude" else "/v1/chat/completions"
    if model == "large" and DICE.random() < 0.7:
        body["stream"] = True
    with contextlib.suppress(httpx.HTTPError):
        await client.post(f"{url}{path}", json=body)


async def _live(client: httpx.AsyncClient, url: str, agent: Agent) -> None:
    """One agent: several calls at once, now more and now fewer."""
    phase = DICE.random() * 6.28
    async with asyncio.TaskGroup() as calls:
        while True:
            swing = 1 + 0.5 * math.sin(time.monotonic() / 13 + phase)
            await asyncio.sleep(DICE.expovariate(agent.calls_per_s * swing))
            calls.create_task(_call(client, url, agent))


async def _knock(port: int) -> None:
    """Strangers at the door: some without a certificate, some who do not even speak TLS."""
    nobody = ssl.create_default_context()
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    while True:
        await asyncio.sleep(DICE.expovariate(0.7))
        tls = nobody if DICE.random() < 0.6 else None
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
                writer.write(b"GET / HTTP/1.1\r\nhost: stranger\r\n\r\n")
                await reader.read()
                writer.transport.abort()


@asynccontextmanager
async def afternoon(folder: Path, seconds: float) -> AsyncIterator[tuple[int, ...]]:
    """Everything running, and busy as long as the block lasts; the admin ports of the brokers.

    seconds: how long that will be; when providers fall ill depends on it.
    """
    async with AsyncExitStack() as closing:
        openai = Provider((0.30 * seconds, 0.45 * seconds), 0.35)
        anthropic = Provider((0.62 * seconds, 0.74 * seconds), 0.5)
        mistral = Provider((seconds, seconds), 0.2)
        accounts = {"openai": openai, "anthropic": anthropic, "mistral": mistral}
        servers = {name: await closing.enter_async_context(FakeProvider(script=one.script)) for name, one in accounts.items()}
        ports = {name: server.port for name, server in servers.items()}
        hosts = ",".join(f"http://127.0.0.1:{port}" for port in ports.values())
        objects = OBJECTS.format(**ports, hosts=hosts, key=CREDENTIALS, most=round(3000 * seconds), few=round(110 * seconds))
        collector = await closing.enter_async_context(Receiver())
        environ = {"PROVIDER_KEY": KEY, **collector.environ(OTEL_METRIC_EXPORT_INTERVAL="5000")}
        it = await closing.enter_async_context(deployment(folder, objects, environ, svid_ttl_s=SVID_TTL_S))
        admins = await _start(it)
        client = await closing.enter_async_context(httpx.AsyncClient(timeout=20))
        busy = [_live(client, it.url(agent.spiffe_id), agent) for agent in AGENTS]
        tasks = [asyncio.get_running_loop().create_task(one) for one in (*busy, _knock(it.broker_port))]
        for one in accounts.values():
            one.began_s = time.monotonic()
        try:
            yield admins
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _start(it: Deployment) -> tuple[int, int]:
    """Two brokers on one store, and each agent's own gateway."""
    second = _second(it)
    await it.serve()
    admin, port = await second
    for number, agent in enumerate(AGENTS):
        ports = (it.broker_port, port)
        await it.gateway(agent.spiffe_id, brokers=ports if number % 2 else ports[::-1])
    return it.admin_port, admin


async def _second(it: Deployment) -> tuple[int, int]:
    process, port = await it.serve_another()
    return _admin_port(process.command), port


def _admin_port(command: tuple[str, ...]) -> int:
    return int(command[command.index("--admin") + 1].rpartition(":")[2])
