"""What a connection must not carry over to the next exchange, and what an answer may hold besides its body."""

import asyncio
import contextlib
import socket
import ssl
import tracemalloc
from dataclasses import replace

import pytest
from support.raw_http import until
from support.web_ca import web_server_context

from broker.http1.client import ClientLimits, Lost, Malformed, Pool, TooBig

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITS = ClientLimits(sweep_s=0.02)
MIB = 1 << 20


@contextlib.asynccontextmanager
async def listening(serve, *, limits=LIMITS, tls=None, trust=None):
    """A pool to a server whose connections are handled by `serve(reader, writer)`."""

    async def handle(reader, writer):
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]

    async def dial(factory):
        host = "localhost" if trust else None
        await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", port, ssl=trust, server_hostname=host)

    pool = Pool(dial, limits)
    try:
        yield pool
    finally:
        await pool.close()
        server.close()
        await server.wait_closed()


async def connected(where, *, send_buffer):
    there = socket.socket()
    there.setblocking(False)  # noqa: FBT003  the socket's own signature
    there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    await asyncio.get_running_loop().sock_connect(there, where)
    return there


async def ask(pool, body=b"{}", **deadlines):
    usual = {"connect_s": 5.0, "first_byte_s": 5.0, "idle_s": 5.0}
    return await pool.send(HEAD % len(body), body, **(usual | deadlines))


async def read_request(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2].partition(b"\r\n")[0]))


async def until_read():
    """Until what was written has been read by the other side, which lives in this loop: one turn to hear of it, one to read."""
    for _ in range(3):
        await asyncio.sleep(0)


# -- what comes around a body
ENDLESS = {
    "status line": (b"HTTP/1.1 200 ", b"O" * 65536),
    "name of a header": (b"HTTP/1.1 200 OK\r\n", b"x" * 65536),
    "value of a header": (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 65536),
    "header of an interim answer": (b"HTTP/1.1 103 Early Hints\r\nx: ", b"y" * 65536),
    "extension of a chunk": (CHUNKED + b"5;", b"z" * 65536),
    "trailer": (CHUNKED + b"0\r\nx: ", b"y" * 65536),
    "empty lines before an answer": (b"", b"\r\n" * 32768),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_a_line_without_end_is_neither_kept_nor_listened_to(what):
    begin, more = ENDLESS[what]
    written = 0

    async def serve(reader, writer):
        nonlocal written
        await read_request(reader)
        writer.write(begin)
        while True:
            writer.write(more)
            await writer.drain()
            written += len(more)

    async with listening(serve) as pool:
        tracemalloc.start()
        try:
            with pytest.raises((TooBig, Malformed)):
                await (await ask(pool)).whole(100)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8 * MIB
        assert written < 64 * MIB
        assert not pool.busy


async def test_a_stream_of_small_chunks_may_have_as_much_around_its_body_as_it_needs():
    pieces = [b"1;%b\r\n" % (b"e" * 1000), b"x\r\n"] * 200

    async def serve(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED)
        for piece in pieces:
            writer.write(piece)
            await until_read()
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with listening(serve) as pool:
        assert await (await ask(pool)).whole(1000) == b"x" * 200


async def test_what_is_around_the_bodies_of_many_answers_is_not_added_up():
    async def serve(reader, writer):
        while True:
            await read_request(reader)
            writer.write(CHUNKED)
            await until_read()
            writer.write(b"0\r\n\r\n")

    async with listening(serve, limits=replace(LIMITS, head_bytes=100)) as pool:
        for _ in range(10):
            assert await (await ask(pool)).whole(10) == b""
        assert pool.opened == 1


async def test_a_body_in_pieces_of_a_byte_takes_no_more_than_a_body():
    size = 20_000

    async def serve(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * size))
        for _ in range(size):
            writer.write(b"xy")
            await asyncio.sleep(0)
        await reader.read()

    async with listening(serve) as pool:
        assert await (await ask(pool)).whole(2 * size) == b"xy" * size


@pytest.mark.parametrize("length", [4 * MIB, 8 * MIB], ids=["beyond the limit", "cut"])
async def test_a_failure_that_is_kept_does_not_keep_the_body(length):
    async def serve(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        for _ in range(64):
            writer.write(bytes(65536))
            await writer.drain()
        if length == 4 * MIB:
            await reader.read()

    async with listening(serve) as pool:
        tracemalloc.start()
        try:
            with pytest.raises((TooBig, Lost)) as kept:
                await (await ask(pool)).whole(length - 1)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert isinstance(kept.value, TooBig if length == 4 * MIB else Lost)
        assert held < MIB


# -- what is known of an idle connection
async def test_a_connection_whose_end_has_arrived_is_not_used_though_the_loop_has_not_read_it():
    """The window in which the other side's close waits in the kernel: an agent need not pay for it."""
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        while True:
            await read_request(reader)
            writer.write(OK)

    async with listening(serve) as pool:
        await (await ask(pool)).whole(10)
        connections[0].get_extra_info("socket").shutdown(socket.SHUT_WR)
        answer = await ask(pool)  # not one turn of the loop in between
        assert await answer.whole(10) == b"hi"
        assert len(connections) == 2
        await until(lambda: len(pool._connections) == 1)


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one():
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        number = len(connections)
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)

    async with listening(serve) as pool:
        assert await (await ask(pool)).whole(10) == b"1"
        forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
        socket.socket.send(connections[0].get_extra_info("socket")._sock, forged)
        assert await (await ask(pool)).whole(10) == b"2"
        await until(lambda: len(pool._connections) == 1)


async def test_a_tls_connection_whose_end_has_arrived_is_not_used():
    """And session tickets, which come unasked after the handshake, are no reason to give a connection up."""
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        while True:
            await read_request(reader)
            writer.write(OK)

    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    async with listening(serve, tls=web_server_context("localhost"), trust=anybody) as pool:
        for _ in range(3):
            await (await ask(pool)).whole(10)
        assert len(connections) == 1
        connections[0].get_extra_info("socket").shutdown(socket.SHUT_WR)
        assert await (await ask(pool)).whole(10) == b"hi"
        assert len(connections) == 2


async def test_a_close_that_crosses_the_request_is_a_loss_and_not_asked_again():
    """Whether the other side acted on it, nobody knows: it is not for this room to ask twice."""
    requests = []

    async def serve(reader, writer):
        requests.append(await read_request(reader))
        writer.write(OK)
        requests.append(await read_request(reader))

    async with listening(serve) as pool:
        await (await ask(pool)).whole(10)
        with pytest.raises(Lost) as caught:
            await ask(pool)
        assert (caught.value.first, caught.value.begun) == (False, False)
        assert len(requests) == 2


# -- what ends a connection's use
async def test_a_connection_that_was_answered_before_it_took_the_request_is_not_used_again():
    """The request is small enough for one write, and yet not all out when the answer is complete."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # and it reads no more than the head
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)  # noqa: FBT003  the socket's own signature

        async def dial(factory):
            await loop.create_connection(factory, sock=await connected(listener.getsockname(), send_buffer=4096))

        pool = Pool(dial, replace(LIMITS, buffer_bytes=1024))
        with contextlib.ExitStack() as opened:
            for _ in range(2):
                asking = loop.create_task(ask(pool, b"x" * 60_000))
                async with asyncio.timeout(5):
                    there, _ = await loop.sock_accept(listener)  # each time a new one
                opened.enter_context(there)
                assert (await loop.sock_recv(there, 20)).startswith(b"POST ")
                await until(lambda: any(connection.full for connection in pool._connections))
                await loop.sock_sendall(there, OK)
                assert await (await asking).whole(10) == b"hi"
            await pool.close()


async def test_an_answer_that_was_waited_for_by_a_slow_caller_leaves_a_connection_that_hears():
    """Reading stops while the caller is slow, and goes on once he has fetched: before the answer is complete, and so before the pool has it."""
    size = 4 * MIB
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            writer.write(bytes(size))
            await writer.drain()

    async with listening(serve) as pool:
        answer = await ask(pool)
        (connection,) = pool._connections
        await until(lambda: connection._paused)
        assert len(await answer.whole(size)) == size
        assert (connection._paused, pool._idle) == (False, [connection])
        connections[0].close()
        await until(lambda: not pool._connections)
