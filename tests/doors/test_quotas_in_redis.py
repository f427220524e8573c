"""The whole product with its quotas in a real Redis: counted there, refused when it is away, and back by itself."""

import asyncio

import openai
import pytest
from support.fake_provider import FakeProvider
from support.objects_yaml import access, routing
from support.provider_words import CHAT, USAGE_TOKENS
from support.redis_server import redis_server
from support.stack import AGENT, stack

QUOTAS = "[{name: hourly, tokens: 100000, per: Hour}, {name: pace, requests: 3, per: Month}]"


async def ask(it) -> str:
    try:
        await it.openai(AGENT).chat.completions.create(model="gpt", messages=[{"role": "user", "content": "hello"}])
    except openai.APIStatusError as refused:
        return str(refused.body["code"])
    return "answered"


@pytest.mark.timeout(60)
async def test_an_agent_is_counted_in_redis_refused_without_it_and_served_when_it_is_back(tmp_path):
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as redis:
        settings = {"quota_store": f"{redis.url}/0", "allow_insecure_quota_store": True}
        async with FakeProvider(CHAT) as provider, stack(tmp_path, routing(provider.port) + access(quotas=QUOTAS), **settings) as it:
            assert [await ask(it) for _ in range(2)] == ["answered", "answered"]
            with redis.client() as client:
                windows = [client.hgetall(key) for key in client.scan_iter("aiaccess/{team1}/*/*") if client.type(key) == b"hash"]
                assert b"%d" % (2 * USAGE_TOKENS) in {count for window in windows for count in window.values()}
            redis.kill()
            assert await ask(it) == "unavailable"
            redis.start()
            async with asyncio.timeout(30):
                while (got := await ask(it)) == "unavailable":
                    await asyncio.sleep(0.2)
            assert got == "answered"
            assert await ask(it) == "quota_exhausted", "what was counted before is still there"
