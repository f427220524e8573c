import asyncio
import socket
import ssl
from dataclasses import replace

import pytest
from support.raw_http import PATIENT, QUICK, answer, door, send, statuses, until
from support.spiffe_ca import SpiffeCa, trusting

from broker.errors import Unavailable
from broker.http1 import server as http1_server
from broker.http1.server import Limits

CLOSE = b"\r\nConnection: close\r\n\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def post(body, extra=b""):
    return POST + extra + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.fixture(scope="module")
def ca():
    return SpiffeCa("a.test")


@pytest.fixture
def tls(ca):
    """(a server's context, a client's)"""
    broker, agent = trusting(ca.issue("spiffe://a.test/broker"), ca), trusting(ca.issue("spiffe://a.test/agent"), ca)
    return broker.server_context(), agent.client_context(lambda _: True)


async def forever(request, reply):
    await asyncio.Event().wait()


# -- answers
async def test_a_connection_serves_one_request_after_the_other():
    async with door() as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        for n in range(3):
            writer.write(post(b"%d" % n))
            assert (await answer(reader))[2] == b"%d" % n
        assert d.server.connections == 1
        writer.close()


async def test_a_request_is_handed_over_in_its_parts():
    async with door() as d:
        head = post(b"{}", b"X-Y: z\r\nConnection: close\r\n").replace(b"/v1/x", b"/v1/messages?beta=true")
        await send(d.port, head)
        (request,) = d.requests
        assert (request.method, request.path, request.query) == ("POST", "/v1/messages", "beta=true")
        assert (request.body, request.tls) == (b"{}", None)
        assert request.header(b"x-y") == b"z"
        assert request.header(b"x-z") is None


async def test_connection_close_is_obeyed_and_said():
    async with door() as d:
        got = await send(d.port, GET.replace(b"\r\n\r\n", CLOSE))
        assert statuses(got) == [200]
        assert b"connection: close" in got


async def test_a_handler_can_end_the_connection_with_its_answer():
    async def handler(request, reply):
        reply.whole(401, [(b"connection", b"close")], b"")

    async with door(handler=handler) as d:
        got = await send(d.port, GET)
        assert got.count(b"connection: close\r\n") == 1


async def test_a_stream_is_chunked_and_the_head_goes_with_the_first_piece():
    async def handler(request, reply):
        reply.begin(200, [(b"content-type", b"text/event-stream")])
        reply.write(b"one")
        reply.write(b"")
        reply.write(b"two")
        reply.end()

    async with door(handler=handler) as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(GET)
        status, headers, body = await answer(reader)
        assert (status, body) == (200, b"onetwo")
        assert headers[b"transfer-encoding"] == b"chunked"
        writer.write(GET)  # and the connection goes on
        assert (await answer(reader))[2] == b"onetwo"
        writer.close()


async def test_an_announced_length_is_kept():
    async def handler(request, reply):
        reply.begin(200, [], length=6)
        reply.write(b"one")
        reply.write(b"two")
        reply.end()

    async with door(handler=handler) as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(GET + b"")
        status, headers, body = await answer(reader)
        assert (status, headers[b"content-length"], body) == (200, b"6", b"onetwo")
        writer.close()


@pytest.mark.parametrize("pieces", [[b"one"], [b"one", b"two!"]], ids=["shorter", "longer"])
async def test_an_answer_that_is_not_as_long_as_announced_is_cut(pieces, caplog):
    async def handler(request, reply):
        reply.begin(200, [], length=6)
        for piece in pieces:
            reply.write(piece)
        reply.end()

    async with door(handler=handler) as d:
        got = await send(d.port, GET)
        assert len(got.partition(b"\r\n\r\n")[2]) < 6
    assert [record.message for record in caplog.records] == ["handler_failed"]


async def test_a_status_without_a_body_has_none():
    async def handler(request, reply):
        reply.whole(204, [], b"")

    async with door(handler=handler) as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(GET + GET.replace(b"GET", b"get"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 204 No Content\r\n")
        assert b"content-length" not in head
        assert b"transfer-encoding" not in head
        writer.close()


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb"])
async def test_a_line_break_in_a_header_never_goes_out(value, caplog):
    async def handler(request, reply):
        reply.whole(200, [(b"x", value)], b"")

    async with door(handler=handler) as d:
        got = await send(d.port, GET.replace(b"\r\n\r\n", CLOSE))
        assert statuses(got) == [500]
        assert b"set-cookie" not in got


async def test_a_handler_that_raises_is_answered_as_internal_and_its_text_is_not_logged(caplog):
    async def handler(request, reply):
        raise KeyError("sk-canary")

    async with door(handler=handler) as d:
        got = await send(d.port, GET.replace(b"\r\n\r\n", CLOSE))
    assert statuses(got) == [500]
    assert b"x-code: internal" in got
    (record,) = caplog.records
    assert (record.message, record.error) == ("handler_failed", "KeyError")
    assert "sk-canary" not in caplog.text + got.decode()


async def test_a_handler_that_answers_nothing_is_a_defect(caplog):
    async def handler(request, reply):
        return

    async with door(handler=handler) as d:
        assert statuses(await send(d.port, GET.replace(b"\r\n\r\n", CLOSE))) == [500]
    assert [record.message for record in caplog.records] == ["handler_failed"]


@pytest.mark.parametrize("fault", ["returns", "raises"])
async def test_a_handler_that_fails_within_an_answer_cuts_it(fault, caplog):
    async def handler(request, reply):
        reply.begin(200, [])
        reply.write(b"one")
        if fault == "raises":
            raise RuntimeError

    async with door(handler=handler) as d:
        got = await send(d.port, GET)
        assert b"one" in got
        assert b"0\r\n\r\n" not in got
    assert [record.message for record in caplog.records] == ["handler_failed"]


async def test_what_a_handler_does_after_its_answer_is_not_cancelled_by_the_peer():
    leave, done = asyncio.Event(), asyncio.Event()

    async def handler(request, reply):
        reply.whole(200, [], b"")
        await leave.wait()
        await asyncio.sleep(0)
        done.set()

    async with door(handler=handler) as d:
        await send(d.port, GET.replace(b"\r\n\r\n", CLOSE))
        await until(lambda: not d.server.connections)
        assert d.server.exchanges == 1
        leave.set()
        await asyncio.wait_for(done.wait(), 5)


async def test_a_handler_that_fails_after_its_answer_does_not_end_the_next_one(caplog):
    second = asyncio.Event()

    async def handler(request, reply):
        if request.body == b"1":
            reply.whole(200, [], b"1")
            await second.wait()
            raise RuntimeError
        second.set()
        await asyncio.sleep(0.02)
        reply.whole(200, [], b"2")

    async with door(handler=handler) as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        for body in (b"1", b"2"):
            writer.write(post(body))
            assert (await answer(reader))[2] == body
        writer.close()
    assert [record.message for record in caplog.records] == ["handler_failed"]


async def test_a_door_can_refuse_by_its_own_rules():
    def judge(head):
        raise Unavailable("not today", retry_after_s=3)

    async with door(judge=judge) as d:
        got = await send(d.port, post(b"x" * 100_000))
        assert statuses(got) == [503]
        assert got.endswith(b"/v1/x|not today")
        assert d.requests == []


# -- bodies
async def test_continue_is_said_when_the_head_has_passed_and_not_before():
    async with door() as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await answer(reader))[0] == 200
        writer.close()
        refused = await send(d.port, POST + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
        assert statuses(refused) == [413]


@pytest.mark.parametrize("framing", ["sized", "chunked"])
async def test_a_body_of_exactly_the_limit_passes_and_a_byte_more_does_not(framing):
    async with door(limits=replace(PATIENT, body_bytes=100_000)) as d:
        for size, status in ((100_000, 200), (100_001, 413)):
            body = b"x" * size
            if framing == "sized":
                raw = post(body, b"Connection: close\r\n")
            else:
                raw = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
            assert statuses(await send(d.port, raw)) == [status]
        assert [len(request.body) for request in d.requests] == [100_000]


async def test_a_refusal_is_read_whatever_the_peer_still_sends():
    async with door(limits=replace(PATIENT, body_bytes=1000)) as d:
        got = await send(d.port, post(b"x" * 5_000_000))
        assert statuses(got) == [413]


async def test_bodies_in_flight_are_bounded_together_and_counted_down_again():
    limits = replace(PATIENT, body_bytes=100_000, bodies_bytes=150_000)
    go = asyncio.Event()

    async def handler(request, reply):
        await go.wait()
        reply.whole(200, [], b"")

    async with door(limits=limits, handler=handler) as d:
        first = asyncio.get_running_loop().create_task(send(d.port, post(b"x" * 100_000, b"Connection: close\r\n")))
        await until(lambda: d.requests)
        got = await send(d.port, post(b"x" * 100_000))
        assert statuses(got) == [503]
        assert b"x-code: busy" in got
        go.set()
        assert statuses(await first) == [200]
        assert statuses(await send(d.port, post(b"x" * 100_000, b"Connection: close\r\n"))) == [200]
        assert d.server._bodies_bytes == 0


async def test_a_body_that_never_ends_is_given_back(ca):
    async with door(limits=replace(PATIENT, bodies_bytes=150_000)) as d:
        _, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(POST + b"Content-Length: 200\r\n\r\n" + b"x" * 100)
        await until(lambda: d.server._bodies_bytes == 100)
        writer.transport.abort()
        await until(lambda: not d.server.connections)
        assert d.server._bodies_bytes == 0


async def test_a_chunked_body_that_is_refused_half_way_is_given_back():
    async with door(limits=replace(PATIENT, body_bytes=1000)) as d:
        chunk = b"258\r\n%b\r\n" % (b"x" * 600)
        got = await send(d.port, POST + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk)
        assert statuses(got) == [413]
        assert d.server._bodies_bytes == 0


# -- pipelining and the end
async def test_a_pipelined_request_is_never_begun():
    async with door() as d:
        got = await send(d.port, post(b"1") + post(b"2") + GET)
        assert statuses(got) == [200]
        assert [request.body for request in d.requests] == [b"1"]


async def test_a_request_that_comes_while_another_is_answered_is_never_begun():
    go = asyncio.Event()

    async def handler(request, reply):
        await go.wait()
        reply.whole(200, [], b"")

    async with door(handler=handler) as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(GET)
        await until(lambda: d.requests)
        writer.write(GET)
        await asyncio.sleep(0.02)
        go.set()
        got = await reader.read()
        assert statuses(got) == [200]
        assert b"connection: close" in got
        assert len(d.requests) == 1
        writer.close()


async def test_a_peer_that_floods_during_an_exchange_is_cut_off():
    async with door(handler=forever) as d:
        await send(d.port, GET + b"x" * 1_000_000)
        await asyncio.wait_for(d.ended.wait(), 5)
        assert d.cancelled


@pytest.mark.parametrize("ending", ["abort", "close", "half-close"])
async def test_a_peer_that_has_gone_cancels_the_handler_at_once(ending):
    async with door(handler=forever) as d:
        _, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(GET)
        await until(lambda: d.requests)
        {"abort": writer.transport.abort, "close": writer.close, "half-close": writer.write_eof}[ending]()
        await asyncio.wait_for(d.ended.wait(), 5)
        assert d.cancelled
        writer.transport.abort()


@pytest.mark.parametrize("ending", ["abort", "half-close"])
async def test_a_peer_that_goes_while_its_answer_is_stuck_cancels_the_handler(ending):
    async def handler(request, reply):
        reply.begin(200, [])
        while True:
            reply.write(b"x" * 65536)
            await reply.room()

    async with door(handler=handler) as d:
        _, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(GET)
        writer.transport.pause_reading()
        await until(lambda: any(connection.full for connection in d.server._connections))
        {"abort": writer.transport.abort, "half-close": writer.write_eof}[ending]()
        await asyncio.wait_for(d.ended.wait(), 5)
        assert d.cancelled
        writer.transport.abort()


# -- deadlines
SLOW = {
    "nothing at all": [],
    "half a first line": [b"GET /v1"],
    "half a head": [b"GET /v1/models HTTP/1.1\r\nHost: a\r\n"],
    "half a body": [POST + b"Content-Length: 10\r\n\r\nabc"],
    "half a chunk": [POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"],
    "half a chunk size": [POST + b"Transfer-Encoding: chunked\r\n\r\n5"],
    "half a trailer": [POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y"],
}


@pytest.mark.parametrize("name", SLOW)
async def test_a_peer_that_stops_half_way_is_told_and_let_go(name):
    async with door(limits=QUICK) as d:
        got = await send(d.port, *SLOW[name])
        assert statuses(got) == ([408] if SLOW[name] else [])
        assert d.requests == []


@pytest.mark.parametrize(
    "raw",
    [GET, POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 900, POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" + b"y" * 900],
    ids=["head", "body", "chunk line"],
)
async def test_a_byte_now_and_then_extends_no_deadline(raw):
    async with door(limits=QUICK) as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)

        async def drip():
            for byte in raw:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)

        dripping = asyncio.get_running_loop().create_task(drip())
        assert statuses(await asyncio.wait_for(reader.read(), 5)) == [408]
        dripping.cancel()
        writer.transport.abort()
        assert d.requests == []


async def test_an_idle_connection_is_closed():
    async with door(limits=QUICK) as d:
        assert statuses(await send(d.port, GET)) == [200]  # send() returns when the door has closed


async def test_a_peer_that_never_reads_is_bounded_and_cut_off():
    written = 0

    async def handler(request, reply):
        nonlocal written
        reply.begin(200, [])
        while True:
            reply.write(b"x" * 65536)
            written += 65536
            await reply.room()

    async with door(limits=replace(QUICK, write_buffer_bytes=65536), handler=handler) as d:
        _, writer = await asyncio.open_connection("127.0.0.1", d.port, limit=1024)
        writer.transport.pause_reading()
        writer.write(GET)
        await asyncio.wait_for(d.ended.wait(), 10)
        assert d.cancelled
        assert written < 32 << 20  # what the kernel's buffers take
        writer.transport.abort()


async def test_an_exchange_that_goes_on_after_its_peer_does_not_wait_for_him():
    """As one does that is read on, to learn what it cost."""
    stuck, over = asyncio.Event(), asyncio.Event()
    going = []

    async def write(reply):
        reply.begin(200, [])
        while not reply.full:
            reply.write(b"x" * 65536)
        stuck.set()
        await reply.room()
        reply.write(b"more")
        over.set()

    async def handler(request, reply):
        going.append(asyncio.create_task(write(reply)))
        await asyncio.shield(going[0])

    async with door(handler=handler) as d:
        _, writer = await asyncio.open_connection("127.0.0.1", d.port, limit=1024)
        writer.transport.pause_reading()
        writer.write(GET)
        await asyncio.wait_for(stuck.wait(), 5)
        writer.transport.abort()
        try:
            await asyncio.wait_for(over.wait(), 5)
        finally:
            going[0].cancel()
            await asyncio.wait(going)


async def test_a_peer_that_never_reads_a_whole_answer_is_cut_off_too():
    async def handler(request, reply):
        reply.whole(200, [], b"x" * (16 << 20))

    async with door(limits=QUICK, handler=handler) as d:
        _, writer = await asyncio.open_connection("127.0.0.1", d.port, limit=1024)
        writer.transport.pause_reading()
        writer.write(GET)
        await until(lambda: d.requests and not d.server.connections, 10)
        writer.transport.abort()


async def test_a_peer_that_asks_on_without_reading_gets_no_second_answer():
    async def handler(request, reply):
        reply.whole(200, [], b"x" * (16 << 20))

    async with door(handler=handler) as d:
        _, writer = await asyncio.open_connection("127.0.0.1", d.port, limit=1024)
        writer.transport.pause_reading()
        writer.write(GET)
        await asyncio.wait_for(d.ended.wait(), 5)
        writer.write(GET)
        await asyncio.sleep(0.1)
        assert len(d.requests) == 1
        writer.transport.abort()


async def test_tls_that_is_never_begun_is_ended(tls):
    async with door(limits=QUICK, ssl=tls[0]) as d:
        assert await send(d.port) == b""
        assert await send(d.port, b"\x16\x03\x01") == b""
        assert d.server.connections == 0


# -- numbers
async def opened(d, count):
    """So many connections that ask for nothing, the oldest first."""
    connections = []
    for n in range(count):
        connections.append(await asyncio.open_connection("127.0.0.1", d.port))
        await until(lambda n=n: len(d.server._connections) > n)
    return connections


async def test_connections_beyond_the_cap_are_told_that_we_are_busy():
    async with door(limits=replace(PATIENT, connections=2), handler=forever) as d:
        kept = await opened(d, 2)
        for _, writer in kept:
            writer.write(GET)
        await until(lambda: len(d.requests) == 2)
        got = await send(d.port, GET)
        assert statuses(got) == [503]
        assert b"x-code: busy" in got
        assert (d.server.exchanges, len(d.requests)) == (2, 2)  # the others go on
        for _, writer in kept:
            writer.close()


async def test_at_the_cap_the_one_that_would_be_let_go_first_makes_room():
    async with door(limits=replace(PATIENT, connections=2)) as d:
        (oldest, first), (younger, second) = await opened(d, 2)
        assert statuses(await send(d.port, GET.replace(b"\r\n\r\n", CLOSE))) == [200]
        assert await oldest.read() == b""
        second.write(GET)
        assert (await answer(younger))[0] == 200
        first.close()
        second.close()


async def test_a_body_that_is_under_way_does_not_make_room():
    async with door(limits=replace(PATIENT, connections=1)) as d:
        ((reader, writer),) = await opened(d, 1)
        writer.write(post(b"{}")[:-1])
        await until(lambda: all(connection._body for connection in d.server._connections))
        assert statuses(await send(d.port, GET)) == [503]
        writer.write(b"}")
        assert (await answer(reader))[2] == b"{}"
        writer.close()


async def test_so_many_connections_may_be_ending_and_no_more():
    async with door(limits=replace(PATIENT, connections=1, handshakes=2, linger_s=30), handler=forever) as d:
        ((_, busy),) = await opened(d, 1)
        busy.write(GET)
        await until(lambda: d.requests)
        told = [await asyncio.open_connection("127.0.0.1", d.port) for _ in range(6)]
        assert [statuses(await reader.read()) for reader, _ in told] == [[503]] * 6  # and they linger, as none of them hangs up
        assert d.server.connections <= 4
        for _, writer in (*told, (None, busy)):
            writer.close()


async def test_connections_that_are_ending_keep_nobody_out():
    async with door(limits=replace(PATIENT, connections=1, linger_s=30)) as d:
        ((reader, writer),) = await opened(d, 1)
        writer.write(b"nonsense\r\n\r\n")
        assert statuses(await reader.read()) == [400]
        assert d.server.connections == 1
        assert statuses(await send(d.port, GET.replace(b"\r\n\r\n", CLOSE))) == [200]
        writer.close()


# -- TLS
async def test_over_tls_the_session_is_handed_over_and_refusals_arrive(tls):
    async with door(ssl=tls[0], limits=replace(PATIENT, body_bytes=1000)) as d:
        assert statuses(await send(d.port, GET.replace(b"\r\n\r\n", CLOSE), ssl=tls[1])) == [200]
        assert d.requests[0].tls.peer.identity.spiffe_id == "spiffe://a.test/agent"
        assert statuses(await send(d.port, post(b"x" * 500_000), ssl=tls[1])) == [413]
        assert statuses(await send(d.port, b"GET / HTTP/1.0\r\n\r\n", ssl=tls[1])) == [400]


async def test_over_tls_a_peer_that_has_gone_cancels_the_handler(tls):
    async with door(ssl=tls[0], handler=forever) as d:
        _, writer = await asyncio.open_connection("127.0.0.1", d.port, ssl=tls[1], server_hostname="")
        writer.write(GET)
        await until(lambda: d.requests)
        writer.close()
        await asyncio.wait_for(d.ended.wait(), 5)
        assert d.cancelled


async def test_over_tls_a_peer_that_never_reads_is_bounded(tls):
    written = 0

    async def handler(request, reply):
        nonlocal written
        reply.begin(200, [])
        while True:
            reply.write(b"x" * 65536)
            written += 65536
            await reply.room()

    async with door(limits=replace(QUICK, write_buffer_bytes=65536), handler=handler, ssl=tls[0]) as d:
        _, writer = await asyncio.open_connection("127.0.0.1", d.port, limit=1024, ssl=tls[1], server_hostname="")
        writer.transport.pause_reading()
        writer.write(GET)
        await asyncio.wait_for(d.ended.wait(), 10)
        assert d.cancelled
        assert written < 32 << 20
        writer.transport.abort()


async def test_a_tls_connection_has_a_small_read_buffer(tls):
    async with door(ssl=tls[0]) as d:
        _, writer = await asyncio.open_connection("127.0.0.1", d.port, ssl=tls[1], server_hostname="")
        await until(lambda: d.server.connections)
        (connection,) = d.server._connections
        assert len(connection._transport._ssl_protocol._ssl_buffer) == http1_server.TLS_READ_BYTES
        assert isinstance(connection.tls, ssl.SSLObject)
        writer.close()


# -- drain
async def test_draining_lets_exchanges_end_and_closes_the_idle():
    go = asyncio.Event()

    async def handler(request, reply):
        await go.wait()
        reply.whole(200, [], b"done")

    async with door(handler=handler) as d:
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", d.port)
        busy = asyncio.get_running_loop().create_task(send(d.port, GET))
        await until(lambda: d.requests and d.server.connections == 2)
        draining = asyncio.get_running_loop().create_task(d.server.drain(5))
        assert await asyncio.wait_for(idle_reader.read(), 5) == b""
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", d.port)
        go.set()
        got = await busy
        assert got.endswith(b"done")
        assert b"connection: close" in got
        await asyncio.wait_for(draining, 5)
        assert (d.server.connections, d.server.exchanges) == (0, 0)
        idle_writer.close()


async def test_one_that_leaves_answers_what_was_on_its_way_and_ends_each_connection_with_it():
    async with door() as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        await until(lambda: d.server.connections == 1)
        leaving = asyncio.get_running_loop().create_task(d.server.leave(5))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(GET)
        got = await asyncio.wait_for(reader.read(), 5)
        assert statuses(got) == [200]
        assert b"connection: close" in got
        await asyncio.wait_for(leaving, 5)
        assert d.server.connections == 0
        writer.close()


async def test_one_that_leaves_waits_for_handshakes_that_are_under_way(tls):
    async with door(ssl=tls[0]) as d:
        raw = socket.create_connection(("127.0.0.1", d.port))
        await until(lambda: d.server.handshakes == 1)
        leaving = asyncio.get_running_loop().create_task(d.server.leave(5))
        await asyncio.sleep(0)
        raw.setblocking(False)  # noqa: FBT003  its only parameter
        reader, writer = await asyncio.open_connection(sock=raw, ssl=tls[1], server_hostname="")
        writer.write(GET)
        assert statuses(await asyncio.wait_for(reader.read(), 5)) == [200]
        await asyncio.wait_for(leaving, 5)
        writer.close()


async def test_one_that_leaves_does_not_wait_for_ever_for_the_idle():
    async with door() as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        await until(lambda: d.server.connections == 1)
        await asyncio.wait_for(d.server.leave(0.01), 5)
        assert d.server.connections == 1
        await asyncio.wait_for(d.server.drain(0), 5)
        assert await reader.read() == b""
        writer.close()


async def test_draining_cancels_what_still_runs_at_the_deadline():
    async with door(handler=forever) as d:
        busy = asyncio.get_running_loop().create_task(send(d.port, GET))
        await until(lambda: d.requests)
        await asyncio.wait_for(d.server.drain(0.05), 5)
        assert d.cancelled
        assert statuses(await busy) == [503]
        assert (d.server.connections, d.server.exchanges) == (0, 0)


async def test_a_request_that_is_not_complete_when_we_drain_is_told_to_go_elsewhere():
    async with door(handler=forever) as d:
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(GET[:10])
        other = asyncio.get_running_loop().create_task(send(d.port, GET))
        await until(lambda: d.requests and d.server.connections == 2)
        await asyncio.sleep(0.02)
        draining = asyncio.get_running_loop().create_task(d.server.drain(0.3))
        await asyncio.sleep(0)
        writer.write(GET[10:])
        got = await reader.read()
        assert statuses(got) == [503]
        assert len(d.requests) == 1  # the other one
        await asyncio.gather(other, draining)
        writer.close()


def test_the_usual_limits_are_those_of_the_design():
    limits = Limits()
    assert (limits.body_bytes, limits.bodies_bytes) == (32 << 20, 64 << 20)
