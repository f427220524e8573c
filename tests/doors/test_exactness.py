"""What a count and a cut-off are to an unmodified SDK, with the whole product between it and the provider."""

import asyncio

import openai
import pytest
from support.fake_provider import FakeProvider, chunk, sse_head
from support.objects_yaml import access, routing
from support.provider_words import CHAT, CHAT_EVENTS, MESSAGE_EVENTS, USAGE_TOKENS
from support.stack import AGENT, stack

PROSE = "The broker counts what a prompt costs, and holds it before anything is sent to a provider.\n" * 40


def quota(limit: int, **more: str) -> str:
    extra = "".join(f", {name}: {value}" for name, value in more.items())
    return f"[{{name: hourly, tokens: {limit}, per: Hour{extra}}}]"


def endless(seen):
    """Goes on for as long as somebody listens, whatever limit it was given."""
    first, word = (MESSAGE_EVENTS[:2], MESSAGE_EVENTS[2]) if seen.target.endswith("/messages") else ((), CHAT_EVENTS[0])
    return (sse_head(), *map(chunk, first), *[chunk(word.replace(b'"hi"', b'" hi"'))] * 5000, asyncio.Event())


async def ask_chat(it, **more):
    messages = [{"role": "user", "content": "hello"}]
    got = await it.openai(AGENT).chat.completions.create(model="gpt", messages=messages, max_tokens=50, stream=True, **more)
    chunks = [one async for one in got]
    words = sum(bool(one.choices and one.choices[0].delta.content) for one in chunks)
    return words, [one.choices[0].finish_reason for one in chunks if one.choices][-1]


async def ask_messages(it):
    messages = [{"role": "user", "content": "hello"}]
    async with it.anthropic(AGENT).messages.stream(model="claude", messages=messages, max_tokens=50) as got:
        message = await got.get_final_message()
    return message.content[0].text.count(" hi"), message.stop_reason


@pytest.mark.parametrize(("ask", "end"), [(ask_chat, "length"), (ask_messages, "max_tokens")], ids=["openai", "anthropic"])
async def test_a_stream_that_passes_its_ceiling_ends_in_its_dialect_and_the_provider_stops(tmp_path, ask, end):
    async with FakeProvider(script=endless) as provider:
        objects = routing(provider.port) + access(quotas=quota(100_000, cutOff="true"))
        async with stack(tmp_path, objects) as it:
            words, reason = await ask(it)
            (line,) = await it.audited(1)
            async with asyncio.timeout(5):
                await provider.left.wait()
    assert (words, reason) == (50 * 2, end)  # a server of one's own: twice the count
    assert (line["code"], line["status"], line["estimated"], line["output_tokens"]) == ("cut_off", 200, True, 50)
    assert line["held_tokens"] == line["input_tokens"] + 50


async def test_a_long_prompt_is_counted_where_its_bytes_are_too_many(tmp_path):
    messages = [{"role": "user", "content": PROSE}]
    async with FakeProvider(CHAT) as provider, stack(tmp_path, routing(provider.port) + access(quotas=quota(3200))) as it:
        got = await it.openai(AGENT).chat.completions.create(model="gpt", messages=messages, max_tokens=50)
        (line,) = await it.audited(1)
    assert got.usage.total_tokens == USAGE_TOKENS
    assert len(PROSE) // 2 < line["held_tokens"] <= 3200 < len(PROSE)


async def test_a_long_prompt_is_refused_by_its_bytes_where_the_quota_is_strict(tmp_path):
    messages = [{"role": "user", "content": PROSE}]
    objects = access(quotas=quota(3200, strict="true"))
    async with FakeProvider(CHAT) as provider, stack(tmp_path, routing(provider.port) + objects) as it:
        with pytest.raises(openai.BadRequestError) as refusal:
            await it.openai(AGENT).chat.completions.create(model="gpt", messages=messages, max_tokens=50)
    assert refusal.value.code == "exceeds_quota"
    assert provider.seen == []
