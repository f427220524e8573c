"""Quotas in US dollars with unmodified SDKs and the whole product between them and two providers of different price."""

import asyncio
import math

import openai
import pytest
from support.fake_provider import FakeProvider, chunk, json_answer, sse_head
from support.provider_words import CHAT, CHAT_EVENTS
from support.redis_server import redis_server
from support.stack import AGENT, stack

PROSE = "The broker counts what a prompt costs, and holds it before anything is sent to a provider.\n" * 40
CHEAP = "{inputPerMillionTokens: '1', outputPerMillionTokens: '2'}"
DEAR = "{inputPerMillionTokens: '30', outputPerMillionTokens: '90', perRequest: '0.001'}"
CHEAP_ANSWER = 5 * 1 + 2 * 2  # micro-dollars: CHAT reports five tokens in and two out
DEAR_ANSWER = 5 * 30 + 2 * 90 + 1_000


def objects(*ports: int, prices: tuple[str, ...], usd: str, extra: str = "") -> str:
    """One model with a backend for each port, asked in that order."""
    providers = "".join(f"\n  - {{name: p{n}, schema: OpenAI, endpoint: 'http://127.0.0.1:{port}/v1'}}" for n, port in enumerate(ports))
    backends = ", ".join(
        f"{{provider: p{n}, model: real, priority: {n}{f', price: {price}' if price else ''}}}" for n, price in enumerate(prices)
    )
    return f"""
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: team1}}
spec:
  providers:{providers}
  models:
  - name: gpt
    backends: [{backends}]
    failover: {{retryOn: [503, ConnectFailure, Reset], backoff: {{base: 1ms, max: 10ms}}}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: team1}}
spec:
  subjects: [{{spiffeID: "{AGENT}"}}]
  models: [gpt]
  quotas: [{{name: money, usd: "{usd}", per: Day{extra}}}]
"""


async def chat(it, content: str = "hello", **more):
    messages = [{"role": "user", "content": content}]
    return await it.openai(AGENT).chat.completions.create(**{"model": "gpt", "messages": messages, "max_tokens": 50, **more})


@pytest.mark.parametrize(
    ("first", "billed_holds"), [(json_answer(b"{}", 503), 0), (("reset",), 1)], ids=["503 costs nothing", "a reset costs its hold"]
)
async def test_a_failover_is_charged_at_the_price_of_the_backend_that_answered(tmp_path, first, billed_holds):
    async with FakeProvider(first) as cheap, FakeProvider(CHAT) as dear:
        text = objects(cheap.port, dear.port, prices=(CHEAP, DEAR), usd="1.00")
        async with stack(tmp_path, text) as it:
            await chat(it)
            (line,) = await it.audited(1)
    prompt = (line["held_tokens"] - 50 * (billed_holds + 1)) // (billed_holds + 1)
    hold = prompt * 30 + 50 * 90 + 1_000  # at the dearer price, whoever was asked
    assert line["cost_microusd"] == billed_holds * hold + DEAR_ANSWER
    assert (line["provider"], line["attempts"], line["estimated"]) == ("p1", 2, bool(billed_holds))


async def test_without_a_failure_the_first_backends_price_is_charged_and_the_dearer_one_held(tmp_path):
    """The money is enough for a hold at the cheap price, which a failover would turn into a dear answer."""
    async with FakeProvider(CHAT) as cheap, FakeProvider(CHAT) as dear:
        async with stack(tmp_path, objects(cheap.port, dear.port, prices=(CHEAP, DEAR), usd="1.00")) as it:
            await chat(it)
            (line,) = await it.audited(1)
            assert line["cost_microusd"] == CHEAP_ANSWER
        naive = (line["held_tokens"] - 50) + 50 * 2
        async with stack(tmp_path, objects(cheap.port, dear.port, prices=(CHEAP, DEAR), usd=f"{naive / 10**6:.6f}")) as it:
            with pytest.raises(openai.BadRequestError) as refusal:
                await chat(it)
    assert refusal.value.code == "exceeds_quota"
    assert (len(cheap.seen), len(dear.seen)) == (1, 0)


async def test_a_model_without_a_price_is_refused_and_nobody_is_asked(tmp_path):
    async with FakeProvider(CHAT) as provider, stack(tmp_path, objects(provider.port, prices=("",), usd="1.00")) as it:
        with pytest.raises(openai.PermissionDeniedError) as refusal:
            await chat(it)
        assert [model.id async for model in it.openai(AGENT).models.list()] == []
        it.write(objects(provider.port, prices=(CHEAP,), usd="1.00"))
        async with asyncio.timeout(10):
            while not [model.id async for model in it.openai(AGENT).models.list()]:
                await asyncio.sleep(0.05)
        await chat(it)
    assert refusal.value.code == "forbidden"
    assert "no price" in refusal.value.message
    assert "agents" not in refusal.value.message
    assert len(provider.seen) == 1


async def test_money_runs_out_after_as_many_answers_as_it_pays_for(tmp_path):
    free_prompt = "{inputPerMillionTokens: '0', outputPerMillionTokens: '1000'}"  # an answer of two tokens costs 2,000 micro-dollars
    async with FakeProvider(CHAT) as provider, stack(tmp_path, objects(provider.port, prices=(free_prompt,), usd="0.025")) as it:
        answered = 0
        with pytest.raises(openai.RateLimitError) as refusal:
            while True:
                await chat(it, max_tokens=16)
                answered += 1
        lines = await it.audited(answered + 1)
    assert refusal.value.code == "quota_exhausted"
    assert int(refusal.value.response.headers["retry-after"]) <= 86_400
    assert answered == 1 + math.floor((25_000 - 16_000) / 2_000)  # the last one still finds room for sixteen tokens
    assert sum(line["cost_microusd"] for line in lines) == answered * 2_000


def endless(_):
    """Goes on for as long as somebody listens, whatever limit it was given."""
    return (sse_head(), *[chunk(CHAT_EVENTS[0].replace(b'"hi"', b'" hi"'))] * 5000, asyncio.Event())


async def test_a_stream_ends_at_the_ceiling_that_the_money_sets(tmp_path):
    only_output = "{inputPerMillionTokens: '0', outputPerMillionTokens: '1000'}"
    async with FakeProvider(script=endless) as provider:
        text = objects(provider.port, prices=(only_output,), usd="0.03", extra=", cutOff: true")
        async with stack(tmp_path, text) as it:
            got = await chat(it, max_tokens=2_000, stream=True)
            chunks = [one async for one in got]
            (line,) = await it.audited(1)
            async with asyncio.timeout(5):
                await provider.left.wait()
    words = sum(bool(one.choices and one.choices[0].delta.content) for one in chunks)
    assert words == 30 * 2  # what 0.03 dollars pay for; a server of one's own: twice the count
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "length"
    assert (line["code"], line["output_tokens"], line["cost_microusd"], line["estimated"]) == ("cut_off", 30, 30_000, True)


@pytest.mark.parametrize("store", ["sqlite", "redis"])
@pytest.mark.timeout(60)
async def test_a_long_prompt_is_counted_where_its_bytes_cost_too_much(tmp_path, store):
    """The second question, with the count, has the id of the first, which the store refused."""
    usd = f"{3200 / 10**6:.6f}"  # of tokens at a micro-dollar each: less than the prompt has bytes
    price = "{inputPerMillionTokens: '1', outputPerMillionTokens: '1'}"
    with redis_server(tmp_path) as redis:
        settings = {"quota_store": f"{redis.url}/0", "allow_insecure_quota_store": True} if store == "redis" else {}
        async with FakeProvider(CHAT) as provider, stack(tmp_path, objects(provider.port, prices=(price,), usd=usd), **settings) as it:
            await chat(it, PROSE)
            (line,) = await it.audited(1)
    assert len(PROSE) // 2 < line["held_tokens"] <= 3200 < len(PROSE)
    assert line["cost_microusd"] == 7
