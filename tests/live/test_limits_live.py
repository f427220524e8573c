"""The limits of a replica with real processes: what is beyond them is told `busy`, and everybody else is served as before."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import openai
import pytest
from support.fake_provider import LAST_CHUNK, Answer, Seen, chunk, sse_head
from support.provider_words import CHAT, CHAT_EVENTS
from support.under_load import AGENT, UnderLoad, under_load

MIB = 1 << 20
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: broker\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
STREAMS = 200
SLOW_READERS = 8
OFFERED_BYTES = 64 * MIB  # to each slow reader
PIECE = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
    % (b"x" * 16000)
)


def answered(_seen: Seen) -> Answer:
    return CHAT


@asynccontextmanager
async def half_sent(it: UnderLoad, count: int, size: int) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """So many requests whose bodies of `size` bytes lack their last one."""
    made = []
    for _ in range(count):
        reader, writer = await it.connect()
        writer.write(HEAD % size)
        writer.write(b" " * (size - 1))
        await writer.drain()
        made.append((reader, writer))
    try:
        yield made
    finally:
        for _, writer in made:
            writer.transport.abort()


async def test_bodies_in_flight_are_bounded_and_small_requests_still_fit(tmp_path):
    async with under_load(tmp_path, answered, "--max-body", "2MiB", "--max-bodies", "4MiB") as it:
        large = it.question("x" * MIB)
        async with half_sent(it, 2, 2 * MIB - 65536) as held:
            async with asyncio.timeout(20):
                while True:  # until both bodies are in the broker's memory, which nobody announces
                    try:
                        await it.chat.chat.completions.create(**large)
                    except openai.InternalServerError as error:
                        refused = error
                        break
            assert refused.code == "busy"
            assert refused.response.headers["retry-after"] == "1"
            assert refused.response.headers["x-should-retry"] == "true"
            assert refused.response.headers["x-aiaccess-source"] == "broker"
            small = await it.chat.chat.completions.create(**it.question("small"))
            assert small.choices[0].message.content == "hi"
            patient = it.chat.with_options(max_retries=5)
            asking = asyncio.create_task(patient.chat.completions.create(**large))
            for reader, writer in held:
                writer.write(b" ")
                assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")  # spaces are no JSON
        assert (await asking).choices[0].message.content == "hi"


class Open:
    """Streams that begin, and end when `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    def __call__(self, seen: Seen) -> Answer:
        if b'"stream":true' not in seen.body:
            return CHAT
        return (sse_head(), chunk(CHAT_EVENTS[0]), self.go, *map(chunk, CHAT_EVENTS[1:]), LAST_CHUNK)


async def read(it: UnderLoad) -> str:
    stream = await it.chat.chat.completions.create(**it.question("stream"), stream=True)
    return "".join([choice.delta.content or "" async for piece in stream for choice in piece.choices])


async def test_connections_beyond_the_limit_are_told_busy_and_get_in_when_one_is_free(tmp_path):
    talk = Open()
    async with under_load(tmp_path, talk, "--max-connections", "4") as it:
        streams = [asyncio.create_task(read(it)) for _ in range(4)]
        await it.provider.requests(4)
        with pytest.raises(openai.InternalServerError) as refused:
            await it.chat.chat.completions.create(**it.question("one more"))
        assert refused.value.code == "busy"
        assert refused.value.response.headers["retry-after"] == "1"
        talk.go.set()
        assert await asyncio.gather(*streams) == ["hi"] * 4
        got = await it.chat.chat.completions.create(**it.question("one more"))
        assert got.choices[0].message.content == "hi"


async def test_many_open_streams_cost_little_and_all_end(tmp_path):
    talk = Open()
    async with under_load(tmp_path, talk) as it:
        before = [process.pss_bytes() for process in (it.broker, it.gateway)]
        streams = [asyncio.create_task(read(it)) for _ in range(STREAMS)]
        await it.provider.requests(STREAMS, timeout_s=30)
        assert await it.it.metric("aiaccess_exchanges_in_flight") == STREAMS
        after = [process.pss_bytes() for process in (it.broker, it.gateway)]
        assert all(b - a < STREAMS * MIB // 2 for a, b in zip(before, after, strict=True))
        talk.go.set()
        assert await asyncio.gather(*streams) == ["hi"] * STREAMS
        async with asyncio.timeout(10):
            while await it.it.metric("aiaccess_exchanges_in_flight"):
                await asyncio.sleep(0.02)


class Flood:
    """Offers each stream more than any buffer holds. `taken` is what the network has accepted of it so far."""

    def __init__(self) -> None:
        self.taken = 0

    def __call__(self, _seen: Seen) -> Iterator[bytes]:
        yield sse_head()
        for _ in range(OFFERED_BYTES // len(PIECE)):
            yield chunk(PIECE)
            self.taken += len(PIECE)
        yield chunk(b"data: [DONE]\n\n") + LAST_CHUNK

    async def stands_still(self) -> int:
        """Wait until nothing more is taken."""
        async with asyncio.timeout(40):
            while True:
                before = self.taken
                await asyncio.sleep(0.7)
                if self.taken == before > 0:
                    return before


async def test_slow_readers_slow_the_provider_down_and_cost_no_memory(tmp_path):
    flood = Flood()
    async with under_load(tmp_path, flood) as it, AsyncExitStack() as reading:
        before = [process.pss_bytes() for process in (it.broker, it.gateway)]
        body = {**it.question("flood"), "stream": True}
        streams = [
            await reading.enter_async_context(it.http.stream("POST", "/v1/chat/completions", json=body)) for _ in range(SLOW_READERS)
        ]
        taken = await flood.stands_still()
        after = [process.pss_bytes() for process in (it.broker, it.gateway)]
        assert taken < SLOW_READERS * OFFERED_BYTES / 2
        assert all(b - a < SLOW_READERS * MIB * 3 // 2 for a, b in zip(before, after, strict=True))
        got = 0
        async for piece in streams[0].aiter_raw():
            got += len(piece)
            if got > taken // SLOW_READERS + 8 * MIB:  # more than was on its way
                break
        assert flood.taken > taken  # and the provider went on


async def test_the_others_are_served_while_readers_are_slow(tmp_path):
    flood = Flood()

    def script(seen: Seen) -> Answer | Iterator[bytes]:
        return flood(seen) if b'"stream":true' in seen.body else CHAT

    async with under_load(tmp_path, script) as it, AsyncExitStack() as reading:
        body = {**it.question("flood"), "stream": True}
        for _ in range(4):
            await reading.enter_async_context(it.http.stream("POST", "/v1/chat/completions", json=body))
        await flood.stands_still()
        for _ in range(20):
            got = await it.chat.chat.completions.create(**it.question("small"))
            assert got.choices[0].message.content == "hi"
        assert {line["spiffe_id"] for line in it.it.audit()} == {AGENT}
