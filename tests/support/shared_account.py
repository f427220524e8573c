"""Three agents before one provider account that keeps everybody's responses, and what one of them leaves there for the others to want.

async with thieves(folder) as it:
    loot = await it.loot()
    await it.refused(THIEF, "GET", f"/v1/responses/{loot.sealed['response']}")
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.fake_provider import FakeProvider
from support.raw_http import send
from support.stack import AGENT, CANARY, Stack, stack
from support.stateful_provider import RAW_ID, Account

OWNER = AGENT
THIEF = "spiffe://example.org/ns/team1/sa/other"  # of the same policy
NEIGHBOUR = "spiffe://example.org/ns/team2/sa/agent"  # of another namespace, whose provider object has the same account
SECRET = "the owner's plans for Bremen"
EVERYTHING = "[Storage, Background, Files, HostedTools]"
TOOL = {
    "type": "function",
    "name": "get_weather",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
INTERPRETER = {"type": "code_interpreter", "container": {"type": "auto"}}
MCP = {"type": "mcp", "server_label": "x", "server_url": "https://x.example/sse"}


def secret_of(seed: int) -> bytes:
    return hashlib.sha512(b"a sealing key %d" % seed).digest()


def write_keys(file: Path, *seeds: int) -> Path:
    """A file of sealing keys as an operator makes it; the same seed is the same key."""
    part = file.with_suffix(".part")
    part.write_text("".join(f"{base64.b64encode(secret_of(seed)).decode()}\n" for seed in seeds))
    part.chmod(0o600)
    part.replace(file)
    return file


def team(
    namespace: str,
    port: int,
    subjects: tuple[str, ...],
    *,
    features: str = EVERYTHING,
    provider: str = "openai",
    models: str = "thinker, second, elsewhere",
    granted: str = '["*"]',
) -> str:
    """A namespace with the account's key, a model at it, another at a second provider object of the same account, and who may call them."""
    account = f"responses: true, endpoint: 'http://127.0.0.1:{port}/v1', credentials: {{type: APIKey, secretRef: {{name: key}}}}"
    at = {"thinker": (provider, "gpt-real"), "second": (provider, "gpt-second"), "elsewhere": ("twin", "gpt-real")}
    offered = "".join(
        f"  - {{name: {name}, backends: [{{provider: {at[name][0]}, model: {at[name][1]}}}], defaultOutputTokens: 50}}\n"
        for name in models.split(", ")
    )
    named = ", ".join(f'{{spiffeID: "{subject}"}}' for subject in subjects)
    return f"""---
apiVersion: v1
kind: Secret
metadata: {{name: key, namespace: {namespace}, annotations: {{aiaccess.dev/hosts: "http://127.0.0.1:{port}"}}}}
stringData: {{api-key: "${{env:KEY}}"}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: {namespace}}}
spec:
  providers:
  - {{name: {provider}, schema: OpenAI, {account}}}
  - {{name: twin, schema: OpenAI, {account}}}
  models:
{offered}---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: {namespace}}}
spec: {{subjects: [{named}], models: {granted}, features: {features}}}
"""


def both_teams(port: int) -> str:
    """The owner may call the models of both namespaces."""
    return team("team1", port, (OWNER, THIEF)) + team("team2", port, (NEIGHBOUR, OWNER))


@dataclass
class Loot:
    """Ids of one kind each, as the owner got them and as the account knows them: response, background, message, reasoning, call, approval,
    container, file."""

    sealed: dict[str, str] = field(default_factory=dict)
    raw: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """`message`: without the number of the exchange."""

    status: int
    code: str
    message: str
    param: str | None


@dataclass
class Thieves:
    it: Stack
    account: Account
    provider: FakeProvider

    async def loot(self, agent: str = OWNER, model: str = "thinker") -> Loot:
        """Have this agent leave one of everything at the provider."""
        create = self.it.openai(agent).responses.create
        loot = Loot()
        plain = await create(model=model, input=f"think: {SECRET}", store=True)
        called = await create(model=model, input="call get_weather", tools=[TOOL], store=True)
        computed = await create(model=model, input="compute", tools=[INTERPRETER], store=True)
        approved = await create(model=model, input="pay", tools=[MCP], store=True)
        later = await create(model=model, input=SECRET, background=True, store=True)
        thought, said = plain.output
        container, cited = computed.output[0], computed.output[-1].content[0].annotations[0]
        loot.sealed = {
            "response": plain.id,
            "background": later.id,
            "message": said.id,
            "reasoning": thought.id,
            "call": called.output[0].id,
            "approval": approved.output[0].id,
            "container": container.container_id,
            "file": cited.file_id,
        }
        first, second, third, fourth, fifth = [kept.done for kept in self.account.responses.values()][-5:]
        loot.raw = {
            "response": first["id"],
            "background": fifth["id"],
            "message": first["output"][1]["id"],
            "reasoning": first["output"][0]["id"],
            "call": second["output"][0]["id"],
            "approval": fourth["output"][0]["id"],
            "container": third["output"][0]["container_id"],
            "file": third["output"][-1]["content"][0]["annotations"][0]["file_id"],
        }
        return loot

    async def rewrite(self, objects: str) -> None:
        """Put other objects into force."""

        async def generation() -> str:
            lines = (await self.it.metrics()).splitlines()
            return next(line for line in lines if line.startswith("aiaccess_snapshot_generation "))

        before = await generation()
        self.it.write(objects)
        async with asyncio.timeout(10):
            while await generation() == before:
                await asyncio.sleep(0.02)

    async def ask(self, agent: str, method: str, target: str, body: Mapping[str, Any] | bytes = b"") -> tuple[int, bytes]:
        """The target as it stands, byte by byte: no client tidies it up."""
        return await ask(self.it, agent, method, target, body)

    async def refused(self, agent: str, method: str, target: str, body: Mapping[str, Any] | bytes = b"") -> Refusal:
        """Try it: it must be refused by the broker itself, and the provider must not hear of it."""
        seen, reached = len(self.provider.seen), len(self.account.reached)
        status, got = await self.ask(agent, method, target, body)
        assert 400 <= status < 500, got[:300]
        assert len(self.provider.seen) == seen, f"the provider was asked: {self.provider.seen[-1].target}"
        assert len(self.account.reached) == reached
        assert SECRET.encode() not in got
        error = json.loads(got)["error"]
        return Refusal(status, error["code"], error["message"].partition(" (exchange ")[0], error["param"])


async def ask(it: Stack, agent: str, method: str, target: str, body: Mapping[str, Any] | bytes = b"") -> tuple[int, bytes]:
    env = it.environment(agent)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    port = it.ports[agent]
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {env['OPENAI_API_KEY']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    got = await send(port, head.encode() + content, timeout_s=15)
    first, _, rest = got.partition(b"\r\n")
    return int(first.split(b" ")[1]), rest.partition(b"\r\n\r\n")[2]


def require_no_raw_id(shown: bytes) -> None:
    found = RAW_ID.search(shown)
    assert found is None, f"a raw id: {shown[max(0, found.start() - 80) : found.end() + 20]!r}"


@asynccontextmanager
async def thieves(folder: Path, objects: str = "") -> AsyncIterator[Thieves]:
    """`objects`: in place of those of `both_teams`; {port} is the account's."""
    account = Account(CANARY)
    keys = write_keys(folder / "sealing-keys", 1)
    async with FakeProvider(script=account.answer) as provider:
        text = objects.replace("{port}", str(provider.port)) or both_teams(provider.port)
        async with stack(folder, text, (OWNER, THIEF, NEIGHBOUR), sealing_keys=keys) as it:
            yield Thieves(it, account, provider)
