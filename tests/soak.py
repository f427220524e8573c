# ruff: noqa: T201  a script that talks to people
"""Mixed traffic with faults for a while, and nothing may be left behind: `make soak MINUTES=10`.

One broker and one local gateway as processes, callers of all kinds, and a provider that misbehaves. Descriptors, tasks, memory and
open holds are read at rest before and after. Exit code 0 when none of them grew.
"""

import argparse
import asyncio
import contextlib
import random
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from support.fake_provider import Answer, FakeProvider, Seen, chunk, json_answer, sse_head
from support.processes import Deployment, Process, deployment
from support.provider_words import CHAT, CHAT_EVENTS, CHAT_STREAM

AGENT = "spiffe://example.org/ns/team1/sa/agent"
KEY = "sk-canary-soak"
WARM_UP_S = 30.0
REST_S = 45.0  # pools and keep-alives time out within
CALLERS = 24
DESCRIPTORS, TASKS, MEMORY_MIB = 2, 2, 12  # that much more afterwards is none of ours: allocators keep arenas

MODELS = ("well", "slow", "unwell", "resets", "stalls", "cuts", "junk", "dear", "bulky")
RESOURCES = """
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
  - name: here
    schema: OpenAI
    endpoint: http://127.0.0.1:{port}
    credentials: {{type: APIKey, secretRef: {{name: key}}}}
    timeouts: {{connect: 1s, firstByte: 1s, idle: 1s}}
  models: [{models}]
  defaultFailover: {{retryOn: [429, 503, ConnectFailure, Reset], maxRetries: 1, backoff: {{base: 10ms, max: 100ms}}}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: team1}}
spec:
  subjects: [{{spiffeID: "{agent}"}}]
  models: ["*"]
  quotas:
  - {{name: pool, tokens: 1000000000000, per: Month}}
  - {{name: width, concurrent: 1000}}
  - {{name: dear, requests: 1, per: Month, models: [dear]}}
"""


def script(seen: Seen) -> Answer:
    """What each model's provider does."""
    streaming = b'"stream":true' in seen.body
    begun = (sse_head(), chunk(CHAT_EVENTS[0])) if streaming else (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{",)
    well: Answer = CHAT_STREAM if streaming else CHAT
    model = next(name for name in MODELS if b'"model":"%b"' % name.encode() in seen.body)
    answers: dict[str, Answer] = {
        "slow": (sse_head(), *(step for _ in range(20) for step in (chunk(CHAT_EVENTS[0]), asyncio.Event()))),
        "unwell": json_answer(b'{"error":{"message":"no"}}', 503),
        "resets": ("reset",),
        "stalls": (*begun, "hang"),
        "cuts": (*begun, "close"),
        "junk": (b"HTTP/1.1 200 OK\r\ncontent-length: nonsense\r\n\r\n" + b"x" * 1000, "close"),
        "bulky": (sse_head(), *(chunk(b"data: " + b"x" * 60_000 + b"\n\n") for _ in range(100)), b"0\r\n\r\n"),
    }
    if model not in ("slow", "bulky") and random.random() < 0.5:  # noqa: S311  else it soon rests, and is asked nothing
        return well
    return answers.get(model, well)


@dataclass(frozen=True)
class Rest:
    """What one process has while nobody asks it anything."""

    descriptors: int
    memory_mib: float
    tasks: int = 0
    holds: int = 0


def measured(process: Process) -> tuple[int, float]:
    folder = Path(f"/proc/{process.pid}")
    pss = next(line for line in (folder / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    return len(list((folder / "fd").iterdir())), int(pss.split()[1]) / 1024


class Soak:
    def __init__(self, it: Deployment, broker: Process, gateway: Process) -> None:
        self.it, self.broker, self.gateway = it, broker, gateway
        self.came = Counter[str]()
        self.port = it.gateway_ports[AGENT]

    async def load(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        kinds: list[Callable[[aiohttp.ClientSession], Awaitable[str]]] = [
            self.ask,
            self.ask,
            self.ask,
            self.ask,
            self.leave,
            self.never_read,
            self.babble,
        ]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session, asyncio.TaskGroup() as group:
            for n in range(CALLERS):
                group.create_task(self.repeat(kinds[n % len(kinds)], session, until_s))
            group.create_task(self.report(until_s))

    async def repeat(self, kind: Callable[[aiohttp.ClientSession], Awaitable[str]], session: aiohttp.ClientSession, until_s: float) -> None:
        while time.monotonic() < until_s:
            try:
                self.came[await kind(session)] += 1
            except (OSError, aiohttp.ClientError, TimeoutError) as error:
                self.came[type(error).__name__] += 1
            await asyncio.sleep(random.random() / 50)  # noqa: S311  chance, no secret

    def question(self, model: str = "") -> dict[str, object]:
        name = model or random.choice(MODELS)  # noqa: S311  chance, no secret
        text = "hello" * random.choice((1, 1, 1, 2000))  # noqa: S311  chance, no secret
        streaming = name in ("slow", "bulky") or random.random() < 0.5  # noqa: S311  half of them
        return {"model": name, "max_tokens": 20, "stream": streaming, "messages": [{"role": "user", "content": text}]}

    async def ask(self, session: aiohttp.ClientSession) -> str:
        async with session.post(f"{self.it.url(AGENT)}/v1/chat/completions", json=self.question()) as answer:
            await answer.read()
            return str(answer.status)

    async def leave(self, session: aiohttp.ClientSession) -> str:
        """Hang up: before the answer, or in the middle of it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.random() / 5):  # noqa: S311  chance, no secret
                async with session.post(f"{self.it.url(AGENT)}/v1/chat/completions", json=self.question("slow")) as answer:
                    await answer.content.readany()
                    await asyncio.sleep(1)
        return "left"

    async def never_read(self, _: aiohttp.ClientSession) -> str:
        """Ask for much, read nothing, go."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1024)
        body = b'{"model":"bulky","max_tokens":20,"stream":true,"messages":[{"role":"user","content":"hi"}]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        await writer.drain()
        await reader.read(1)
        await asyncio.sleep(random.random())  # noqa: S311  chance, no secret
        writer.transport.abort()
        return "never read"

    async def babble(self, _: aiohttp.ClientSession) -> str:
        """Bytes that are no request, at both doors; and a handshake that shows no certificate."""
        door = random.choice((self.port, self.it.broker_port))  # noqa: S311  chance, no secret
        if random.random() < 0.5 and door == self.it.broker_port:  # noqa: S311  half of them
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            reader, writer = await asyncio.open_connection("127.0.0.1", door, ssl=context)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", door)
        writer.write(random.choice((b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\nhost: evil\r\n\r\n", b"\r\n" * 9, random.randbytes(300))))  # noqa: S311  chance
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(0.2):
                await reader.read(1000)
        writer.transport.abort()
        return "babbled"

    async def report(self, until_s: float) -> None:
        while (left_s := until_s - time.monotonic()) > 0:
            (_, broker), (_, gateway) = measured(self.broker), measured(self.gateway)
            print(f"{left_s:5.0f} s to go, {self.came.total():7} calls, broker {broker:.0f} MiB, gateway {gateway:.0f} MiB", flush=True)
            await asyncio.sleep(min(30.0, max(0.1, left_s)))

    async def rest(self) -> tuple[Rest, Rest]:
        """What is left when nobody asks any more."""
        await asyncio.sleep(REST_S)
        holds, tasks = await self.it.metric("aiaccess_holds_open"), await self.it.metric("aiaccess_event_loop_tasks")
        return Rest(*measured(self.broker), int(tasks), int(holds)), Rest(*measured(self.gateway))


def grown(name: str, before: Rest, after: Rest) -> list[str]:
    print(f"{name} before: {before}\n{name} after:  {after}")
    found = []
    if after.descriptors > before.descriptors + DESCRIPTORS:
        found.append(f"{name}: descriptors grew")
    if after.tasks > before.tasks + TASKS:
        found.append(f"{name}: tasks grew")
    if after.memory_mib > before.memory_mib + MEMORY_MIB:
        found.append(f"{name}: memory grew")
    if after.holds:
        found.append(f"{name}: holds are still open")
    return found


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    seconds = parser.parse_args().minutes * 60
    async with AsyncExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="soak")))
        provider = await closing.enter_async_context(FakeProvider(script=script))
        models = ", ".join(f"{{name: {name}, backends: [{{provider: here}}], defaultOutputTokens: 20}}" for name in MODELS)
        resources = RESOURCES.format(port=provider.port, models=models, agent=AGENT)
        it = await closing.enter_async_context(deployment(folder, resources, {"PROVIDER_KEY": KEY}))
        soak = Soak(it, await it.serve(), await it.gateway(AGENT))
        await soak.load(WARM_UP_S)
        provider.seen.clear()
        before = await soak.rest()
        soak.came.clear()
        await soak.load(seconds)
        after = await soak.rest()
        print(", ".join(f"{times} x {kind}" for kind, times in soak.came.most_common()))
        found = [*grown("broker", before[0], after[0]), *grown("gateway", before[1], after[1])]
        for sentence in found:
            print(f"! {sentence}")
        return 1 if found or not soak.came["200"] else 0


if __name__ == "__main__":
    socket.setdefaulttimeout(20)
    sys.exit(asyncio.run(main()))
