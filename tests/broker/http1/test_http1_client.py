import asyncio
import contextlib
import itertools
import socket
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ports import closed_port
from support.raw_http import PATIENT, Door, until
from support.spiffe_ca import SpiffeCa, trusting

from broker.http1.client import ClientLimits, Lost, Malformed, NotSent, Pool, TooBig, TooLate

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
QUICK = ClientLimits(sweep_s=0.02, pool_idle_s=0.2)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Origin:
    """A server that answers each request of a connection with the next of the scripted bytes; b"" closes, None waits for ever."""

    def __init__(self, *script):
        self.script = list(script)
        self.connections = 0
        self.received = b""
        self.ended = asyncio.Event()

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.received += head + await reader.readexactly(length)
                for part in self.script.pop(0):
                    if part is None:
                        await reader.read()
                        return
                    if isinstance(part, float):
                        await asyncio.sleep(part)
                        continue
                    if not part:
                        return
                    writer.write(part)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, IndexError, asyncio.CancelledError):
            pass
        finally:
            self.ended.set()
            writer.transport.abort()


@contextlib.asynccontextmanager
async def origin(*script, limits=QUICK, fit=None):
    """(the origin, a pool to it)"""
    made = Origin(*script)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = Pool(lambda factory: asyncio.get_running_loop().create_connection(factory, "127.0.0.1", port), limits, fit=fit)
    try:
        yield made, pool
    finally:
        await pool.close()
        server.close()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def own_server(handler, limits=PATIENT):
    door = await Door(limits=limits, handler=handler).open()
    pool = Pool(lambda factory: asyncio.get_running_loop().create_connection(factory, "127.0.0.1", door.port), QUICK)
    try:
        yield door, pool
    finally:
        await pool.close()
        await door.server.drain(0)


async def ask(pool, body=b"{}", **deadlines):
    usual = {"connect_s": 5.0, "first_byte_s": 5.0, "idle_s": 5.0}
    return await pool.send(HEAD % len(body), body, **(usual | deadlines))


# -- reuse
async def test_one_connection_serves_many_requests():
    async with origin(*[[OK]] * 20) as (server, pool):
        for _ in range(20):
            answer = await ask(pool)
            assert (answer.status, await answer.whole(10)) == (200, b"hi")
        assert server.connections == 1
        assert (pool.opened, pool.reused) == (1, 19)
        assert not pool.busy


@pytest.mark.parametrize("large", [0, 1, 64 << 10, (64 << 10) + 1, 3 << 20])
async def test_a_body_in_pieces_arrives_as_one(large):
    pieces = [b"before", memoryview(b"x" * large), b"", memoryview(b"after")]
    whole = b"".join(pieces)
    async with origin([OK], [OK]) as (server, pool):
        for _ in range(2):
            answer = await pool.send(HEAD % len(whole), pieces, connect_s=5.0, first_byte_s=5.0, idle_s=5.0)
            assert await answer.whole(10) == b"hi"
        assert server.connections == 1
        assert server.received == (HEAD % len(whole) + whole) * 2


async def test_streams_are_reused_too():
    stream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    async with origin([stream], [OK]) as (server, pool):
        assert await (await ask(pool)).whole(10) == b"hi"
        assert await (await ask(pool)).whole(10) == b"hi"
        assert server.connections == 1


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        OK + OK,
        OK + b"junk",
        OK + b"\0",
    ],
    ids=["close", "HTTP/1.0", "a second answer", "junk after the answer", "a NUL after the answer"],
)
async def test_a_connection_that_saw_anything_unusual_is_not_used_again(first):
    async with origin([first], [OK]) as (server, pool):
        assert await (await ask(pool)).whole(10) == b"hi"
        assert await (await ask(pool)).whole(10) == b"hi"
        assert server.connections == 2


async def test_bytes_that_nobody_asked_for_end_an_idle_connection():
    async with origin([OK, 0.05, b"HTTP/1.1 200 OK\r\n"], [OK]) as (server, pool):
        await (await ask(pool)).whole(10)
        await asyncio.wait_for(server.ended.wait(), 5)
        await (await ask(pool)).whole(10)
        assert server.connections == 2


async def test_a_connection_that_the_other_side_closed_is_not_used_again():
    async with origin([OK, b""], [OK]) as (server, pool):
        await (await ask(pool)).whole(10)
        await server.ended.wait()
        await until(lambda: not pool._connections)
        await (await ask(pool)).whole(10)
        assert server.connections == 2


async def test_an_idle_connection_is_closed_in_time():
    async with origin([OK], [OK]) as (server, pool):
        await (await ask(pool)).whole(10)
        await asyncio.wait_for(server.ended.wait(), 5)
        await (await ask(pool)).whole(10)
        assert server.connections == 2


async def test_a_retired_connection_is_not_used_again_and_a_busy_one_ends_its_exchange():
    async with origin([OK[:-1], 0.1, OK[-1:]], [OK]) as (server, pool):
        busy = await ask(pool)
        pool.retire()
        assert await busy.whole(10) == b"hi"
        await (await ask(pool)).whole(10)
        assert server.connections == 2


async def test_an_idle_connection_whose_other_end_is_no_longer_believed_is_not_used():
    verdicts = [True, False]
    async with origin([OK], [OK], [OK], fit=lambda tls: verdicts.pop(0)) as (server, pool):
        for _ in range(3):
            await (await ask(pool)).whole(10)
        assert server.connections == 2


async def test_no_more_connections_are_kept_than_said():
    async with origin([OK], [OK], limits=replace(QUICK, idle_connections=1)) as (_, pool):
        first, second = await asyncio.gather(ask(pool), ask(pool))
        assert await first.whole(9) + await second.whole(9) == b"hihi"
        assert len(pool._idle) == 1


# -- what goes out
async def test_a_small_request_is_one_write():
    written = []
    async with origin([OK], [OK]) as (_, pool):
        await (await ask(pool)).whole(10)
        (connection,) = pool._idle
        write = connection._transport.write
        connection._transport.write = lambda data: (written.append(bytes(data)), write(data))
        await (await ask(pool, b"body")).whole(10)
    assert written == [HEAD % 4 + b"body"]


async def test_a_large_request_arrives_whole():
    async def handler(request, reply):
        reply.whole(200, [], b"%d" % len(request.body))

    async with own_server(handler) as (door, pool):
        for _ in range(2):
            answer = await ask(pool, bytes(10_000_000))
            assert await answer.whole(20) == b"10000000"
        assert door.requests[0].body == bytes(10_000_000)
        assert pool.opened == 1


async def test_an_early_answer_to_a_large_request_is_heard():
    async with own_server(None, limits=replace(PATIENT, body_bytes=1000)) as (_, pool):
        answer = await ask(pool, bytes(20_000_000))
        assert answer.status == 413
        await answer.whole(1000)
        assert not pool._idle


async def test_a_connection_whose_request_is_not_all_out_is_not_used_again():
    async def deaf(_, writer):
        await deaf_until.wait()
        writer.transport.abort()

    deaf_until = asyncio.Event()
    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1024)
    pool = Pool(lambda f: asyncio.get_running_loop().create_connection(f, *server.sockets[0].getsockname()), QUICK)
    asking = asyncio.get_running_loop().create_task(ask(pool, bytes(50_000_000)))
    await until(lambda: any(connection.full for connection in pool._connections))
    (connection,) = pool._connections
    connection.full = False  # there is room again, but the rest of the request has not been written yet
    pool.buffer[: len(OK)] = OK
    connection.buffer_updated(len(OK))
    assert await (await asking).whole(10) == b"hi"
    assert not pool._idle
    deaf_until.set()
    await pool.close()
    server.close()


# -- answers
async def test_interim_answers_are_skipped():
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    async with origin([interim + OK], [OK]) as (server, pool):
        answer = await ask(pool)
        assert (answer.status, answer.headers) == (200, [(b"content-length", b"2")])
        assert await answer.whole(10) == b"hi"
        await (await ask(pool)).whole(10)
        assert server.connections == 1


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body_need_no_length(status):
    async with origin([b"HTTP/1.1 %b\r\n\r\n" % status], [OK]) as (server, pool):
        assert await (await ask(pool)).whole(10) == b""
        await (await ask(pool)).whole(10)
        assert server.connections == 1


MALFORMED = {
    "no length": b"HTTP/1.1 200 OK\r\n\r\nhi",
    "CL and TE": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "gzip alone": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
    "not HTTP": b"SSH-2.0-OpenSSH\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "endless interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 20,
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "a NUL": b"HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_an_answer_that_is_not_well_formed_is_refused(name):
    async with origin([MALFORMED[name], None]) as (server, pool):
        with pytest.raises(Malformed):
            await ask(pool)
        await asyncio.wait_for(server.ended.wait(), 5)
        assert not pool._idle


@pytest.mark.parametrize(
    "head",
    [b"X: " + b"a" * 70_000 + b"\r\n", b"X: 1\r\n" * 200, b"".join(b"X-%d: %b\r\n" % (n, b"a" * 500) for n in range(100))],
    ids=["one long header", "many headers", "many long headers"],
)
async def test_a_head_that_is_too_large_is_refused(head):
    async with origin([b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 0\r\n\r\n", None]) as (_, pool):
        with pytest.raises(TooBig):
            await ask(pool)


async def test_trailers_without_end_are_refused():
    async with origin([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: yyyyyyyyyy\r\n" * 10_000, None]) as (_, pool):
        with pytest.raises(TooBig):
            await (await ask(pool)).whole(100)


async def test_a_body_that_is_malformed_half_way_gives_what_came_and_then_says_so():
    async with origin([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", 0.05, b"nonsense\r\n"]) as (_, pool):
        answer = await ask(pool)
        assert await answer.piece() == b"hi"
        with pytest.raises(Malformed):
            await answer.piece()


async def test_a_whole_answer_has_a_bound():
    async with origin([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100]) as (_, pool):
        with pytest.raises(TooBig):
            await (await ask(pool)).whole(99)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 200), max_size=6), st.sampled_from([*MALFORMED.values(), OK, OK + OK]))
def test_any_cutting_of_an_answer_gives_the_same_verdict(cuts, raw):
    async def verdict(*pieces):
        async with origin([*[part for piece in pieces if piece for part in (piece, 0.0)], b""]) as (_, pool):
            try:
                return await (await ask(pool)).whole(1000)
            except (Malformed, Lost) as error:
                return type(error)

    async def scenario():
        edges = [0, *sorted(c for c in cuts if c < len(raw)), len(raw)]
        pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
        assert await verdict(*pieces) == await verdict(raw)

    asyncio.run(scenario())


# -- failures
async def test_a_port_where_nobody_listens_is_not_sent():
    with closed_port() as port:
        pool = Pool(lambda factory: asyncio.get_running_loop().create_connection(factory, "127.0.0.1", port))
        with pytest.raises(NotSent) as caught:
            await ask(pool)
    assert caught.value.stage == "connect"


async def test_a_name_that_does_not_resolve_is_not_sent():
    async def dial(factory):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(NotSent) as caught:
        await ask(Pool(dial))
    assert caught.value.stage == "name"


async def test_a_connection_that_takes_too_long_is_not_sent():
    async def dial(factory):
        await asyncio.Event().wait()

    with pytest.raises(NotSent) as caught:
        await ask(Pool(dial), connect_s=0.02)
    assert caught.value.stage == "timeout"


async def test_a_connection_that_came_too_late_is_not_left_behind():
    async with origin([OK]) as (server, pool):
        dial = pool._dial

        async def slow(factory):
            await dial(factory)
            await asyncio.Event().wait()

        pool._dial = slow
        with pytest.raises(NotSent):
            await ask(pool, connect_s=0.05)
        await asyncio.wait_for(server.ended.wait(), 5)
        assert not pool.busy


async def test_a_failed_handshake_is_not_sent():
    ca, other = SpiffeCa("a.test"), SpiffeCa("a.test")
    door = await Door().open(trusting(ca.issue("spiffe://a.test/broker"), ca).server_context())
    tls = trusting(other.issue("spiffe://a.test/agent"), other).client_context(lambda _: True)
    pool = Pool(lambda f: asyncio.get_running_loop().create_connection(f, "127.0.0.1", door.port, ssl=tls, server_hostname=""))
    with pytest.raises(NotSent) as caught:
        await ask(pool)
    assert caught.value.stage == "tls"
    await pool.close()
    await door.server.drain(0)


@pytest.mark.parametrize(("script", "begun"), [([b""], False), ([OK[:20], 0.05, b""], True), ([OK[:-1], 0.05, b""], True)])
async def test_a_connection_that_ends_early_is_lost_and_says_how_far_it_came(script, begun):
    async with origin(script) as (_, pool):
        with pytest.raises(Lost) as caught:
            await (await ask(pool)).whole(10)
        assert (caught.value.first, caught.value.begun) == (True, begun)


async def test_a_connection_that_served_before_is_not_the_first_to_be_lost():
    async with origin([OK], [b""]) as (_, pool):
        await (await ask(pool)).whole(10)
        with pytest.raises(Lost) as caught:
            await ask(pool)
        assert not caught.value.first


@pytest.mark.parametrize(
    "script", [[None], [OK[:10], None], [b"HTTP/1.1 100 Continue\r\n\r\n", None]], ids=["silence", "half a head", "interim"]
)
async def test_a_head_that_does_not_come_is_too_late(script):
    async with origin(script) as (server, pool):
        with pytest.raises(TooLate) as caught:
            await ask(pool, first_byte_s=0.05)
        assert caught.value.stage == "first_byte"
        await asyncio.wait_for(server.ended.wait(), 5)


async def test_a_body_that_stops_is_too_late():
    async with origin([OK[:-1], None]) as (server, pool):
        answer = await ask(pool, idle_s=0.05)
        assert await answer.piece() == b"h"
        with pytest.raises(TooLate) as caught:
            await answer.piece()
        assert caught.value.stage == "idle"
        await asyncio.wait_for(server.ended.wait(), 5)


async def test_a_body_that_keeps_coming_is_not_too_late():
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"] + [x for _ in range(10) for x in (0.05, b"x")]
    async with origin(pieces) as (_, pool):
        assert await (await ask(pool, idle_s=0.3, first_byte_s=0.2)).whole(10) == b"x" * 10


async def test_a_large_request_that_nobody_reads_is_too_late():
    async def deaf(reader, writer):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        writer.transport.abort()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1024)
    pool = Pool(lambda f: asyncio.get_running_loop().create_connection(f, *server.sockets[0].getsockname()), QUICK)
    with pytest.raises(TooLate):
        await ask(pool, bytes(50_000_000), first_byte_s=0.2)
    await pool.close()
    server.close()


# -- hang-ups and back-pressure
async def test_cancelling_while_the_answer_is_awaited_ends_the_connection():
    async with origin([None]) as (server, pool):
        task = asyncio.get_running_loop().create_task(ask(pool))
        await until(lambda: server.received)
        task.cancel()
        await asyncio.wait_for(server.ended.wait(), 5)
        assert task.cancelled() or task.cancelling()


async def test_cancelling_while_a_piece_is_awaited_ends_the_connection():
    async with origin([OK[:-1], None]) as (server, pool):
        answer = await ask(pool)
        await answer.piece()
        task = asyncio.get_running_loop().create_task(answer.piece())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait_for(server.ended.wait(), 5)


async def test_cancelling_too_late_does_not_end_somebody_elses_exchange():
    async with origin([OK], [OK], [OK]) as (server, pool):
        loop = asyncio.get_running_loop()
        await (await ask(pool)).whole(10)
        give_back, others = pool.give_back, []

        def give_back_and_cancel(connection, *, usable):
            give_back(connection, usable=usable)
            if not others:  # the answer is complete: another request takes the connection before the first one wakes
                others.append(loop.create_task(ask(pool)))
                first.cancel()

        pool.give_back = give_back_and_cancel
        first = loop.create_task(ask(pool))
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await (await asyncio.wait_for(others[0], 5)).whole(10) == b"hi"
        assert server.connections == 1


async def test_closing_an_answer_wakes_whoever_waits_for_it():
    async with origin([OK[:-1], None]) as (_, pool):
        answer = await ask(pool)
        await answer.piece()
        waiting = asyncio.get_running_loop().create_task(answer.piece())
        await asyncio.sleep(0)
        answer.close()
        with pytest.raises(Lost):
            await asyncio.wait_for(waiting, 5)


async def test_closing_an_answer_half_way_ends_the_connection_and_twice_does_no_harm():
    async with origin([OK[:-1], None], [OK]) as (server, pool):
        answer = await ask(pool)
        answer.close()
        answer.close()
        await asyncio.wait_for(server.ended.wait(), 5)
        await (await ask(pool)).whole(10)


async def test_closing_a_complete_answer_keeps_the_connection():
    async with origin([OK], [OK]) as (server, pool):
        for _ in range(2):
            answer = await ask(pool)
            await answer.whole(10)
            answer.close()
        assert server.connections == 1


async def test_what_the_caller_does_not_fetch_stays_with_the_other_side():
    written = 0

    async def handler(request, reply):
        nonlocal written
        reply.begin(200, [], length=64 << 20)
        for _ in range(1024):
            reply.write(bytes(65536))
            written += 65536
            await reply.room()
        reply.end()

    async with own_server(handler, limits=replace(PATIENT, write_s=30)) as (_, pool):
        answer = await ask(pool, idle_s=0.2)
        before = -1
        while written != before:
            before = written
            await asyncio.sleep(0.3)  # longer than idle_s: the caller's slowness is not the other side's
        assert written < 32 << 20
        assert len(await answer.whole(64 << 20)) == 64 << 20
        assert pool._idle  # and the connection hears again


async def test_a_closed_pool_opens_nothing_and_ends_what_runs():
    async with origin([OK[:-1], None], [OK]) as (server, pool):
        answer = await ask(pool)
        await pool.close()
        with pytest.raises(Lost):
            await answer.whole(10)
        with pytest.raises(NotSent):
            await ask(pool)
        assert server.connections == 1
