"""SIGTERM with real processes: readiness off, streams end or are told why not, what was spent is counted, and the process goes."""

import asyncio
import contextlib
import signal
import socket
import sqlite3
import time

import anthropic
import openai
import pytest
from support.fake_provider import LAST_CHUNK, Answer, Seen, chunk, sse_head
from support.provider_words import CHAT, CHAT_EVENTS, MESSAGE, MESSAGE_EVENTS, USAGE_TOKENS
from support.raw_http import until
from support.under_load import OUTPUT, UnderLoad, exit_code, under_load

STREAMS = 200
DRAIN_S = 3
SMALL_S = 6  # beyond the drain: last words, last settlements, a machine that others use too


class Talk:
    """Streams whose question says "ends" end when `go` is set; "stays" never does."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.never = asyncio.Event()

    def __call__(self, seen: Seen) -> Answer:
        is_chat = seen.target.endswith("/chat/completions")
        if b'"stream":true' not in seen.body.replace(b" ", b""):
            return CHAT if is_chat else MESSAGE
        events = CHAT_EVENTS if is_chat else MESSAGE_EVENTS
        begins = 1 if is_chat else 3
        wait = self.go if b"ends" in seen.body else self.never
        return (sse_head(), *map(chunk, events[:begins]), wait, *map(chunk, events[begins:]), LAST_CHUNK)


async def chat_stream(it: UnderLoad, text: str) -> str:
    """The text of a stream to its end, or the code of the error that ended it."""
    got = ""
    try:
        async for piece in await it.chat.chat.completions.create(**it.question(text), stream=True):
            got += "".join(choice.delta.content or "" for choice in piece.choices)
    except openai.APIError as error:
        return f"{got}|{error.code}"
    return got


async def message_stream(it: UnderLoad, text: str) -> str:
    got = ""
    try:
        async for event in await it.messages.messages.create(**it.question(text, "claude"), stream=True):
            if event.type == "content_block_delta":
                got += event.delta.text
    except anthropic.APIStatusError as error:
        return f"{got}|{error.body['error']['code']}"
    return got


async def test_200_open_streams_end_or_are_told_and_everything_is_counted_once(tmp_path):
    talk = Talk()
    async with under_load(tmp_path, talk, "--drain", f"{DRAIN_S}s") as it:
        asking = [
            asyncio.create_task((chat_stream if number % 2 else message_stream)(it, "ends" if number < STREAMS // 2 else "stays"))
            for number in range(STREAMS)
        ]
        await it.provider.requests(STREAMS, timeout_s=30)
        began = time.monotonic()
        it.broker.child.terminate()
        async with asyncio.timeout(DRAIN_S):
            while await it.it.readiness() != 503:
                await asyncio.sleep(0.01)
        with pytest.raises(openai.InternalServerError) as refused:
            await it.chat.chat.completions.create(**it.question("new"))
        assert refused.value.code == "broker_unavailable"
        assert refused.value.response.headers["x-should-retry"] == "true"
        talk.go.set()
        ended = await asyncio.gather(*asking)
        assert ended == ["hi"] * (STREAMS // 2) + ["hi|busy"] * (STREAMS // 2)
        assert await exit_code(it.broker, DRAIN_S + SMALL_S) == 0
        assert time.monotonic() - began >= DRAIN_S

        lines = [line for line in it.it.audit() if line["code"] != "listed"]
        assert sorted(line["code"] for line in lines) == ["answered"] * (STREAMS // 2) + ["busy"] * (STREAMS // 2)
        charged = {"answered": 0, "busy": 0}
        for line in lines:
            charged[line["code"]] += line["input_tokens"] + line["output_tokens"]
        assert charged["answered"] == USAGE_TOKENS * STREAMS // 2
        assert charged["busy"] == sum(line["held_tokens"] for line in lines if line["code"] == "busy")
        assert await it.used_tokens() == sum(charged.values())
        assert await it.open_holds() == 0
        assert "settlements_lost" not in it.broker.output()


async def test_a_request_that_was_under_way_at_sigterm_is_told_busy(tmp_path):
    async with under_load(tmp_path, Talk(), "--drain", "2s") as it:
        stream = asyncio.create_task(chat_stream(it, "stays"))
        await it.provider.requests(1)
        reader, writer = await it.connect()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: broker\r\n")
        await writer.drain()
        # the head must have been read before the signal: the answer to another connection, opened later, says so
        other_reader, other = await it.connect()
        other.write(b"GET /v1/models HTTP/1.1\r\nHost: broker\r\n\r\n")
        await other_reader.readuntil(b"\r\n\r\n")
        it.broker.child.terminate()
        async with asyncio.timeout(10):
            while await it.it.readiness() != 503:
                await asyncio.sleep(0.01)
        await asyncio.wait_for(other_reader.read(), 10)  # until the idle are ended, what was on its way is still answered
        writer.write(b"Content-Length: 0\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), 10)
        assert got.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"busy"' in got
        assert b"retry-after: 1\r\n" in got
        assert b"x-should-retry: true\r\n" in got
        assert await stream == "hi|busy"
        assert await exit_code(it.broker, 2 + SMALL_S) == 0
        for one in (writer, other):
            one.transport.abort()


async def test_a_second_replica_takes_over_without_an_error(tmp_path):
    async with under_load(tmp_path, Talk(), "--drain", "1s", replicas=2) as it:
        for _ in range(4):
            await it.chat.chat.completions.create(**it.question("before"))
        it.broker.child.terminate()
        for number in range(40):
            got = await it.chat.chat.completions.create(**it.question(f"during {number}"))
            assert got.choices[0].message.content == "hi"
            said = await it.messages.messages.create(**it.question(f"during {number}", "claude"))
            assert said.content[0].text == "hi"
        assert await exit_code(it.broker, 1 + SMALL_S) == 0
        async with asyncio.timeout(10):
            while await it.open_holds():  # the last answer's settlement follows it
                await asyncio.sleep(0.02)
        assert await it.used_tokens() == USAGE_TOKENS * 84


async def test_with_nothing_to_do_it_goes_at_once(tmp_path):
    async with under_load(tmp_path, Talk(), "--drain", "60s") as it:
        await it.chat.chat.completions.create(**it.question("before"))
        it.broker.child.terminate()
        assert await exit_code(it.broker, SMALL_S) == 0
        it.gateway.child.terminate()
        assert await exit_code(it.gateway, SMALL_S) == 0


@pytest.mark.parametrize("second", ["terminate", "interrupt"])
@pytest.mark.parametrize("who", ["broker", "gateway"])
async def test_a_second_signal_ends_it_at_once(tmp_path, who, second):
    async with under_load(tmp_path, Talk(), "--drain", "60s") as it:
        stream = asyncio.create_task(chat_stream(it, "stays"))
        await it.provider.requests(1)
        process = it.broker if who == "broker" else it.gateway
        process.child.terminate()
        if who == "broker":
            async with asyncio.timeout(10):
                while await it.it.readiness() != 503:
                    await asyncio.sleep(0.01)
        else:
            await until(lambda: not listens(it.it.gateway_ports.values()))
        assert process.child.returncode is None
        process.child.send_signal(signal.SIGTERM if second == "terminate" else signal.SIGINT)
        assert await exit_code(process, SMALL_S) != 0
        with contextlib.suppress(Exception):  # a cut is all that it can hear
            await stream


def listens(ports) -> bool:
    for port in ports:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
    return True


async def test_a_quota_store_that_is_locked_holds_nobody_up(tmp_path):
    talk = Talk()
    async with under_load(tmp_path, talk, "--drain", "1s", "--quota-deadline", "250ms") as it:
        streams = [asyncio.create_task(chat_stream(it, text)) for text in ("ends", "stays")]
        await it.provider.requests(2)
        lock = sqlite3.connect(it.it.store, isolation_level=None)
        try:
            lock.execute("BEGIN IMMEDIATE")
            talk.go.set()
            assert await streams[0] == "hi"
            it.broker.child.terminate()
            assert await streams[1] == "hi|busy"
            assert await exit_code(it.broker, 1 + SMALL_S) == 0
        finally:
            lock.execute("ROLLBACK")
            lock.close()
        assert "settlements_lost" in it.broker.output()
        held = [line["held_tokens"] for line in it.it.audit() if line["code"] != "listed"]
        assert await it.used_tokens() == sum(held)  # nothing was given back: never too little is charged
        assert [line["code"] for line in it.it.audit() if line["code"] != "listed"] == ["answered", "busy"]
        assert sum(held) > OUTPUT * 2
