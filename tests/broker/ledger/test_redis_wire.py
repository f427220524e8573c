"""One connection, seen from the other side: what arrives in one piece, what answers that are late, wrong or missing do."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from hiredis import ProtocolError, ReplyError

from broker.ledger.redis_wire import Wire, pack

PING = pack((b"PING",))


class Server(asyncio.Protocol):
    """Keeps the pieces that it reads, and answers what it is told to."""

    def __init__(self, answers: bytes) -> None:
        self.pieces: list[bytes] = []
        self.answers = answers
        self.is_over = asyncio.Event()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        self.transport.write(self.answers)

    def connection_lost(self, exc) -> None:
        self.is_over.set()


@asynccontextmanager
async def connected(answers: bytes, deadline_s: float = 30.0):
    """A wire to such a server; `lost` collects what it tells of its end."""
    server, lost = Server(answers), []
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    _, wire = await loop.create_connection(lambda: Wire(deadline_s, lambda _, problem: lost.append(problem)), "127.0.0.1", port)
    try:
        yield wire, server, lost
    finally:
        wire.give_up(ConnectionError("the test is over"))
        listening.close()
        await server.is_over.wait()
        await listening.wait_closed()


async def test_what_is_asked_in_one_turn_leaves_in_one_write_and_is_answered_in_order():
    async with connected(b"".join(b":%d\r\n" % number for number in range(50))) as (wire, server, _):
        assert await asyncio.gather(*(wire.ask(PING) for _ in range(50))) == list(range(50))
        assert server.pieces == [PING * 50]


async def test_an_error_is_an_answer():
    async with connected(b"-ERR no\r\n:1\r\n") as (wire, _, lost):
        first, second = await asyncio.gather(wire.ask(PING), wire.ask(PING))
        assert (type(first), str(first), second) == (ReplyError, "ERR no", 1)
        assert lost == []


async def test_an_answer_that_is_late_ends_the_connection_for_all_that_wait():
    async with connected(b":1\r\n", deadline_s=0.4) as (wire, _, lost):
        answers = await asyncio.gather(*(wire.ask(PING) for _ in range(3)), return_exceptions=True)
        assert [answers[0], *map(type, answers[1:])] == [1, TimeoutError, TimeoutError]
        assert [type(problem) for problem in lost] == [TimeoutError]
        with pytest.raises(ConnectionError):
            await wire.ask(PING)


async def test_answers_in_time_end_nothing_when_the_deadline_of_their_questions_comes():
    async with connected(b":1\r\n", deadline_s=0.4) as (wire, _, lost):
        assert await wire.ask(PING) == 1
        await asyncio.sleep(0.5)
        assert await wire.ask(PING) == 1
        assert lost == []


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b":1\r\n:2\r\n"], ids=["not Redis", "an answer to nobody"])
async def test_what_is_no_answer_ends_the_connection(garbage):
    async with connected(garbage) as (wire, _, lost):
        with pytest.raises((ProtocolError, ConnectionError)):
            await wire.ask(PING)
            await wire.ask(PING)
        assert [type(problem) for problem in lost] == [ProtocolError]


async def test_an_answer_that_nobody_waits_for_any_more_is_passed_over():
    async with connected(b":1\r\n:2\r\n") as (wire, _, _):
        gone, there = wire.ask(PING), wire.ask(PING)
        gone.cancel()
        assert await there == 2


async def test_draining_waits_for_the_last_answer():
    async with connected(b":1\r\n:2\r\n") as (wire, _, _):
        answers = wire.ask(PING), wire.ask(PING)
        await wire.drain()
        assert [answer.result() for answer in answers] == [1, 2]
