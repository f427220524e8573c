"""The operator's commands against the whole product: what agents used, a quota that is full, and how it is opened again."""

import asyncio
import hashlib
import json
from contextlib import redirect_stdout
from io import StringIO

import openai
import pytest
from support.fake_provider import FakeProvider
from support.objects_yaml import access, routing
from support.ports import free_port
from support.provider_words import CHAT
from support.stack import AGENT, stack

from broker import cli
from broker.config import Address

ADMIN = "spiffe://example.org/ns/ops/sa/admin"
BROKER = "spiffe://example.org/ns/inference-broker/sa/broker"
QUOTAS = "[{name: pace, requests: 5, per: Month}]"


async def usage(*argv: str) -> tuple[int, str]:
    with redirect_stdout(StringIO()) as out:
        code = await asyncio.to_thread(cli.main, ["usage", *argv])
    return code, out.getvalue()


async def ask(it):
    return await it.openai(AGENT).chat.completions.create(model="gpt", messages=[{"role": "user", "content": "hello"}], max_tokens=5)


async def fill(it):
    for _ in range(5):
        await ask(it)
    with pytest.raises(openai.RateLimitError):
        await ask(it)


async def test_a_full_quota_is_seen_warned_of_and_opened_again(tmp_path):
    socket = tmp_path / "a.sock"
    where = ("--admin-socket", str(socket))
    async with (
        FakeProvider(CHAT) as provider,
        stack(tmp_path, routing(provider.port) + access(quotas=QUOTAS), admin_socket=socket) as it,
    ):
        await fill(it)
        await it.audited(6)  # an answer is with its caller before it is counted
        code, said = await usage(*where, "-o", "json")
        assert code == 0
        counters = {one["quota"]: (one["used"], one["limit"], one["left"]) for one in json.loads(said)["counters"]}
        assert counters == {"team1/agents/pace": (5, 5, 0)}
        (day,) = json.loads(said)["days"]
        assert (day["identity"], day["requests"], day["denied"]) == (AGENT, 5, 1)
        reset = ("reset", "--identity", AGENT, "--reason", "again", "-o", "json")
        async with asyncio.timeout(10):
            while json.loads((await usage(*where, *reset, "--dry-run"))[1])["changes"][0]["held"]:
                await asyncio.sleep(0.02)  # an answer is with its caller before it is settled, and what is held stays counted
        assert (await usage(*where, *reset))[0] == 0
        await fill(it)
        reached = 'aiaccess_quota_warnings_total{namespace="team1",policy="agents",quota="pace",threshold="100"} 1.0'
        async with asyncio.timeout(30):
            while reached not in await it.metrics():
                await asyncio.sleep(0.1)
    assert not socket.exists()
    kinds = [json.loads(line)["kind"] for line in (it.state / "audit.jsonl").read_text().splitlines()]
    assert kinds.count("adjusted") == 1


async def test_a_listed_identity_grants_more_over_mutual_tls(tmp_path):
    port = free_port()
    settings = {"admin_mtls": Address("127.0.0.1", port), "admin_identities": (ADMIN,)}
    async with (
        FakeProvider(CHAT) as provider,
        stack(tmp_path, routing(provider.port) + access(quotas=QUOTAS), [AGENT, ADMIN], **settings) as it,
    ):
        await fill(it)
        endpoint = next(it.state.glob(f"w/{hashlib.sha256(ADMIN.encode()).hexdigest()[:16]}.sock"))
        where = ("--admin-url", f"https://127.0.0.1:{port}", "--broker-spiffe-id", BROKER, "--spiffe-endpoint-socket", f"unix://{endpoint}")
        order = ("--quota", "team1/agents/pace", "--identity", AGENT, "--amount", "1", "--reason", "one more")
        assert (await usage(*where, "grant", *order))[0] == 0
        await ask(it)
        with pytest.raises(openai.RateLimitError):
            await ask(it)
    (line,) = [one for one in map(json.loads, (it.state / "audit.jsonl").read_text().splitlines()) if one["kind"] == "adjusted"]
    assert (line["who"], line["credit_after"]) == (ADMIN, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"admin_mtls": Address("127.0.0.1", 0)},
        {"admin_identities": (ADMIN,)},
        {"admin_mtls": Address("127.0.0.1", 0), "admin_identities": ("admin",)},
    ],
)
async def test_a_door_that_nobody_or_anybody_could_enter_is_not_opened(tmp_path, settings):
    with pytest.raises(ExceptionGroup, match="unhandled errors") as ended:
        async with stack(tmp_path, routing(1), **settings):
            pass
    assert "--admin-identities" in str(ended.value.exceptions[0])
