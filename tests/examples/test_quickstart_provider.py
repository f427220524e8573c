"""The bundled provider, asked by the vendors' SDKs: it must be as strict as a real one, or the examples prove nothing."""

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import anthropic
import openai
import pytest
from aiohttp import web

SCRIPT = Path(__file__).parents[2] / "examples" / "01-quickstart" / "provider.py"
KEY = "canary-of-the-provider"
SAY = [{"role": "user", "content": "say 5 words"}]


def load():
    spec = importlib.util.spec_from_file_location("quickstart_provider", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["quickstart_provider"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def url() -> AsyncIterator[str]:
    runner = web.AppRunner(load().application(KEY), handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def chat(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
async def messages(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0) as client:
        yield client


async def ledger(url: str) -> dict[str, object]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/ledger") as answer:
        return await answer.json()


async def until(url: str, name: str, value: object) -> None:
    """The ledger has seen it: it asks the provider itself, which gets its turn at every question."""
    async with asyncio.timeout(5):
        while (await ledger(url))[name] != value:
            pass


async def test_a_whole_chat_obeys_the_limit_and_bills_what_it_said(url: str, chat: openai.AsyncOpenAI) -> None:
    answer = await chat.chat.completions.create(model="m", messages=SAY, max_tokens=3, n=2)
    assert [len(choice.message.content.split()) for choice in answer.choices] == [3, 3]
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 6)
    billed = await ledger(url)
    assert (billed["requests"], billed["input_tokens"], billed["output_tokens"]) == (1, 3, 6)
    assert billed["credential_headers"] == {"authorization": 1}
    assert KEY not in str(billed)


@pytest.mark.parametrize("asked", [True, False])
async def test_a_chat_stream_reports_usage_only_when_asked(chat: openai.AsyncOpenAI, *, asked: bool) -> None:
    stream = await chat.chat.completions.create(model="m", messages=SAY, stream=True, stream_options={"include_usage": asked})
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "say 5 words say 5"
    assert [c.usage.completion_tokens for c in chunks if c.usage] == ([5] if asked else [])


async def test_a_message_whole_and_streamed_costs_the_same(url: str, messages: anthropic.AsyncAnthropic) -> None:
    whole = await messages.messages.create(model="m", max_tokens=4, messages=SAY)
    async with messages.messages.stream(model="m", max_tokens=4, messages=SAY) as stream:
        streamed = await stream.get_final_message()
    assert whole.content[0].text == streamed.content[0].text == "say 5 words say"
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (3, 4)
    assert (streamed.usage.input_tokens, streamed.usage.output_tokens) == (3, 4)
    assert (await ledger(url))["output_tokens"] == 8


async def test_a_wrong_key_is_refused_and_never_repeated(url: str) -> None:
    async with openai.AsyncOpenAI(api_key="wrong", base_url=f"{url}/v1", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="m", messages=SAY)
    async with anthropic.AsyncAnthropic(api_key="wrong", base_url=url, max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.create(model="m", max_tokens=4, messages=SAY)
    billed = await ledger(url)
    assert (billed["refused_keys"], billed["requests"]) == (2, 0)
    assert "wrong" not in str(billed)


async def test_two_credentials_are_one_too_many(url: str) -> None:
    headers = {"authorization": f"Bearer {KEY}", "x-api-key": KEY}
    async with aiohttp.ClientSession(headers=headers) as session:
        answer = await session.post(f"{url}/v1/chat/completions", json={"model": "m", "messages": SAY})
        assert answer.status == 401


async def test_it_fails_as_it_is_told(chat: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError):
        await chat.chat.completions.create(model="m", messages=[{"role": "user", "content": "fail with status 429"}])


async def test_it_breaks_off_as_it_is_told(chat: openai.AsyncOpenAI) -> None:
    order = [{"role": "user", "content": "say 9 words, break after 2 tokens"}]
    stream = await chat.chat.completions.create(model="m", messages=order, stream=True)
    with pytest.raises(openai.APIConnectionError):
        [chunk async for chunk in stream]


async def test_it_is_slow_as_it_is_told_and_sees_a_caller_leave(url: str, chat: openai.AsyncOpenAI) -> None:
    order = [{"role": "user", "content": "say 1000 words, sleep 0.05 between tokens"}]
    stream = await chat.chat.completions.create(model="m", messages=order, stream=True, max_tokens=1000)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    assert (await ledger(url))["open"] == 1
    await stream.close()
    await until(url, "open", 0)
    billed = await ledger(url)
    assert billed["hangups"] == 1
    assert billed["output_tokens"] < 1000


async def test_tokens_never_exceed_bytes(url: str, chat: openai.AsyncOpenAI) -> None:
    odd = "!?¿ ä ö\n\n... 12,5 - x"
    await chat.chat.completions.create(model="m", messages=[{"role": "user", "content": [{"type": "text", "text": odd}]}])
    assert 0 < (await ledger(url))["input_tokens"] <= len(odd.encode())


async def test_a_message_without_version_or_limit_is_refused(url: str) -> None:
    async with aiohttp.ClientSession(headers={"x-api-key": KEY}) as session:
        for body in ({"model": "m", "messages": SAY}, {"model": "m", "messages": SAY, "max_tokens": 5}):
            answer = await session.post(f"{url}/v1/messages", json=body)
            assert answer.status == 400
            assert (await answer.json())["type"] == "error"


async def test_the_script_says_where_it_listens_and_will_not_start_without_a_key() -> None:
    environment = {**os.environ, "PROVIDER_KEY": KEY}
    process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), "0", stdout=asyncio.subprocess.PIPE, env=environment)
    line = (await process.stdout.readline()).decode()
    assert line.startswith("listening on 127.0.0.1:")
    assert (await ledger(f"http://{line.split()[-1]}"))["requests"] == 0
    process.terminate()
    await process.wait()
    environment.pop("PROVIDER_KEY")
    process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), "0", stderr=asyncio.subprocess.PIPE, env=environment)
    _, said = await process.communicate()
    assert (process.returncode, b"usage: PROVIDER_KEY" in said) == (1, True)
