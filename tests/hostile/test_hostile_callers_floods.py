"""Callers that are slow, many, or deaf: each is let go in bounded time, costs bounded memory, and keeps nobody else out.

The deadlines are those of tests/support/brisk.py.
"""

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

import pytest
from support.fake_provider import chunk, sse_head
from support.hostile_requests import GET, HEAD, ask, at
from support.hostile_run import CONNECTIONS, GATEWAY_CONNECTIONS
from support.raw_http import send, statuses

PATIENCE_S = 20.0
HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
LIMITS = {"broker": CONNECTIONS, "gateway": GATEWAY_CONNECTIONS}
MIB = 1 << 20

both = pytest.mark.parametrize("door", ["broker", "gateway"])


class Crowd:
    """Many callers of one door, gone at the end."""

    def __init__(self, doors, door):
        self._doors = doors
        self._door = door
        self.callers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for _, writer in self.callers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def come(self, count: int, first_words: bytes = b"", *, plain: bool = False) -> None:
        """So many more callers; plain = without TLS, whatever the door wants."""
        for _ in range(count):
            tls = None if plain else self._doors.tls(self._door)
            name = "" if tls else None
            caller = await asyncio.open_connection("127.0.0.1", self._doors.port(self._door), ssl=tls, server_hostname=name)
            caller[1].write(first_words)
            self.callers.append(caller)

    async def said(self, number: int = -1) -> bytes:
        """All that one of them is told until its connection ends."""
        got = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while data := await self.callers[number][0].read(65536):
                    got += data
        return got


async def good(doors, door) -> None:
    """An honest caller, on a connection of its own, is served."""
    got = await doors.send(door, at(ask("openai", b"gpt"), doors.port(door)))
    assert statuses(got) == [200]


def descriptors(doors, door) -> int:
    return sum(1 for _ in Path(f"/proc/{(doors.broker if door == 'broker' else doors.gateway).pid}/fd").iterdir())


async def usual(doors, door) -> int:
    """How many descriptors this process has open once an honest caller has been served: its pools are warm then."""
    await good(doors, door)
    count, before = descriptors(doors, door), 0
    while count != before:  # what is being closed is not usual
        await asyncio.sleep(0.15)
        count, before = descriptors(doors, door), count
    return count


async def settled(doors, door, before: int) -> None:
    """Wait until this process has no more descriptors open than before."""
    async with asyncio.timeout(PATIENCE_S):
        while descriptors(doors, door) > before:
            await asyncio.sleep(0.05)


# -- slow at every stage
SLOW: dict[str, tuple[bytes, bytes, list[int]]] = {  # at once, then a byte now and then; what it is told
    "silence": (b"", b"", []),
    "a request line in drops": (b"", b"GET /v1/models?" + b"a" * 400, [408]),
    "headers in drops": (b"GET /v1/models HTTP/1.1\r\nHost: @\r\n", b"X: y\r\n" * 80, [408]),
    "half a head, then silence": (b"GET /v1/models HTTP/1.1\r\nHost: @\r\nX:", b"", [408]),
    "a body in drops": (HEAD + b"Content-Length: 1000\r\n\r\n", b"{" * 900, [408]),
    "a body that does not begin": (HEAD + b"Content-Length: 1000\r\n\r\n", b"", [408]),
    "chunks in drops": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n" * 80, [408]),
    "a chunk's size in drops": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"a" * 240, [408]),
    "trailers in drops": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 80, [408]),
    "silence after 100 Continue": (HEAD + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", b"", [100, 408]),
    "silence after an answer": (GET + b"\r\n", b"", [200]),
    "a second request in drops": (GET + b"\r\n", GET[:40] + b"a" * 300, [200, 408]),
}
UNDER_TLS: dict[str, tuple[bytes, bytes]] = {
    "TCP alone": (b"", b""),
    "half a hello": (HALF_A_HELLO, b""),
    "a hello in drops": (HALF_A_HELLO, b"\0" * 400),
    "a record's head": (b"\x16\x03", b""),
}


async def told(doors, door, at_once: bytes, drops: bytes, *, plain: bool = False) -> bytes:
    """What a slow caller gets until the door ends it."""
    async with Crowd(doors, door) as crowd:
        await crowd.come(1, at(at_once, doors.port(door)), plain=plain)
        _, writer = crowd.callers[0]

        async def drip() -> None:
            await asyncio.sleep(0.5 if at_once.startswith(GET) else 0)  # until the answer has come
            for byte in drops:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)

        dripping = asyncio.get_running_loop().create_task(drip())
        try:
            return await crowd.said()
        finally:
            dripping.cancel()


async def test_a_slow_caller_is_told_and_let_go(doors, tally):
    """All of them at a time, at both doors, and honest ones among them."""

    async def one(door: str, name: str) -> None:
        at_once, drops, expected = SLOW[name]
        with tally.tried("slowness", at=door):
            got = await told(doors, door, at_once, drops)
            assert statuses(got) == expected, name
            assert (b'"too_slow"' in got) == (408 in expected), name

    async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
        for door in LIMITS:
            for name in SLOW:
                group.create_task(one(door, name))
            group.create_task(good(doors, door))


async def test_a_slow_handshake_is_ended(doors, tally):
    async def one(at_once: bytes, drops: bytes) -> None:
        with tally.tried("slowness", at="broker"):
            assert await told(doors, "broker", at_once, drops, plain=True) == b""

    async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
        for at_once, drops in UNDER_TLS.values():
            group.create_task(one(at_once, drops))
        group.create_task(good(doors, "broker"))


# -- many
@pytest.mark.parametrize("first_words", [b"", HALF_A_HELLO], ids=["silent", "half a hello"])
async def test_half_open_handshakes_are_bounded_and_keep_nobody_out(doors, tally, first_words):
    before = await usual(doors, "broker")
    async with Crowd(doors, "broker") as crowd:
        with tally.tried("floods", at="broker"):
            await crowd.come(400, first_words, plain=True)
            await good(doors, "broker")
            assert descriptors(doors, "broker") <= before + 256 + 4
            assert await crowd.said(0) == b""  # the oldest has made room
    await settled(doors, "broker", before)


@both
async def test_connections_that_ask_for_nothing_keep_nobody_out(doors, tally, door):
    before = await usual(doors, door)
    async with Crowd(doors, door) as crowd:
        with tally.tried("floods", at=door):
            await crowd.come(LIMITS[door] + 20)
            await good(doors, door)
            assert descriptors(doors, door) <= before + LIMITS[door] + 4
    await settled(doors, door, before)


@both
async def test_half_heads_keep_nobody_out(doors, tally, door):
    """30 KB each, which is just not too much."""
    before = await usual(doors, door)
    async with Crowd(doors, door) as crowd:
        with tally.tried("floods", at=door):
            await crowd.come(LIMITS[door] + 20, at(GET, doors.port(door)) + (b"X: " + b"y" * 997 + b"\r\n") * 30)
            await good(doors, door)
    await settled(doors, door, before)


async def at_both_doors(test) -> None:
    async with asyncio.TaskGroup() as group:
        for door in LIMITS:
            group.create_task(test(door))


async def test_when_every_connection_is_busy_the_next_caller_is_told_so(doors, tally):
    async def flood(door: str) -> None:
        before = await usual(doors, door)
        async with Crowd(doors, door) as crowd:
            with tally.tried("floods", at=door):
                # a few more than there are places: the first take those of what is idle, as connections are that others keep
                await crowd.come(LIMITS[door] + 5, at(HEAD, doors.port(door)) + b"Content-Length: 9\r\n\r\n{")
                await asyncio.sleep(0.1)
                got = await doors.send(door, at(ask("openai", b"gpt"), doors.port(door)))
                assert statuses(got) == [503]
                assert b'"busy"' in got
                assert b"retry-after: 1\r\n" in got
                said = [statuses(await crowd.said(number)) for number in range(len(crowd.callers))]
                assert said.count([408]) == LIMITS[door]
        await settled(doors, door, before)

    await at_both_doors(flood)
    for door in LIMITS:
        await good(doors, door)


async def test_handshakes_by_the_hundred_keep_nobody_out(doors, tally):
    """Each complete, and gone at once."""
    before = await usual(doors, "broker")

    async def come_and_go() -> None:
        for _ in range(10):
            _, writer = await asyncio.open_connection("127.0.0.1", doors.broker_port, ssl=doors.agent, server_hostname="")
            writer.transport.abort()

    with tally.tried("floods", at="broker"):
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(come_and_go())
            group.create_task(good(doors, "broker"))
    await settled(doors, "broker", before)


async def test_bodies_in_flight_are_bounded_together(doors, tally):
    async def flood(door: str) -> None:
        head = at(HEAD, doors.port(door)) + b"Content-Length: %d\r\n\r\n" % (32 * MIB)
        before = await usual(doors, door)
        async with Crowd(doors, door) as crowd:
            with tally.tried("floods", at=door):
                await crowd.come(2, head)
                for _ in range(31):
                    for _, writer in crowd.callers:
                        writer.write(b" " * MIB)
                        await writer.drain()
                await crowd.come(1, head + b" " * (4 * MIB))
                said = [await crowd.said(number) for number in range(3)]
                assert sorted(map(statuses, said)) == [[408], [408], [503]]  # whoever came last
                assert [b'"busy"' in got for got in said] == [statuses(got) == [503] for got in said]
        await settled(doors, door, before)

    await at_both_doors(flood)
    for door in LIMITS:
        await good(doors, door)


# -- deaf, half gone, gone
@pytest.fixture
def says(doors):
    """Set what the provider answers, for one test."""
    before = doors.provider._script

    def say(*steps):
        doors.provider._script = lambda _: steps

    yield say
    doors.provider._script = before


@both
async def test_who_does_not_read_a_large_answer_is_let_go(doors, tally, says, door):
    before = await usual(doors, door)
    says(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (24 * MIB) + b" " * (24 * MIB))
    with tally.tried("deafness", at=door):
        async with Crowd(doors, door) as crowd:
            await crowd.come(1)
            crowd.callers[0][1].transport.pause_reading()
            crowd.callers[0][1].write(at(ask("openai", b"gpt"), doors.port(door)))
            await doors.provider.requests(2)
            assert descriptors(doors, door) > before
            await settled(doors, door, before)
            crowd.callers[0][1].transport.resume_reading()
            assert len(await crowd.said()) < 24 * MIB


@both
async def test_who_does_not_read_a_stream_is_let_go_and_the_provider_stops(doors, tally, says, door):
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 60000)
    says(sse_head(), *[chunk(event)] * 2000)
    doors.provider.left.clear()
    with tally.tried("deafness", at=door):
        async with Crowd(doors, door) as crowd:
            await crowd.come(1)
            crowd.callers[0][1].transport.pause_reading()
            raw = ask("openai", b"gpt").replace(b'"max_tokens"', b'"stream":true,"max_tokens"').replace(b"Length: 75", b"Length: 89")
            crowd.callers[0][1].write(at(raw, doors.port(door)))
            await asyncio.wait_for(doors.provider.left.wait(), PATIENCE_S)


@both
@pytest.mark.parametrize("how", ["half-close", "reset"])
async def test_who_goes_in_the_middle_of_a_body_leaves_nothing_behind(doors, tally, door, how):
    """Three times 30 MB: were they kept, the budget for bodies would be spent."""
    before = await usual(doors, door)
    with tally.tried("departures", at=door, cases=3):
        for _ in range(3):
            async with Crowd(doors, door) as crowd:
                await crowd.come(1, at(HEAD, doors.port(door)) + b"Content-Length: %d\r\n\r\n" % (32 * MIB))
                _, writer = crowd.callers[0]
                for _ in range(30):
                    writer.write(b" " * MIB)
                    await writer.drain()
                if how == "half-close" and door == "gateway":
                    writer.write_eof()
                    assert statuses(await crowd.said()) == []
                elif how == "half-close":
                    writer.close()  # TLS has no half
                else:
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await settled(doors, door, before)
        await good(doors, door)


@both
async def test_who_goes_while_the_provider_thinks_makes_it_stop(doors, tally, says, door):
    says("hang")
    doors.provider.left.clear()
    with tally.tried("departures", at=door):
        async with Crowd(doors, door) as crowd:
            await crowd.come(1, at(ask("openai", b"gpt"), doors.port(door)))
            await doors.provider.requests(1)
            crowd.callers[0][1].close()
            await asyncio.wait_for(doors.provider.left.wait(), PATIENCE_S)


async def test_a_door_is_as_it_was_after_all_of_this(doors):
    for door in LIMITS:
        assert len(await send(doors.port(door), at(GET, doors.port(door)) + b"Connection: close\r\n\r\n", ssl=doors.tls(door))) > 0
