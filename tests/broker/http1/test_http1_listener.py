import asyncio
import asyncio.sslproto
import errno
import gc
import logging
import socket
from dataclasses import replace

import pytest
from support.raw_http import PATIENT, door, send, statuses, until
from support.spiffe_ca import SpiffeCa, trusting

from broker.http1 import listener
from broker.trust import Trust

GET = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.fixture(scope="module")
def ca():
    return SpiffeCa("a.test")


@pytest.fixture
def tls(ca):
    """(a server's context, a client's)"""
    broker, agent = trusting(ca.issue("spiffe://a.test/broker"), ca), trusting(ca.issue("spiffe://a.test/agent"), ca)
    return broker.server_context(), agent.client_context(lambda _: True)


async def half_open(d, count):
    """So many handshakes that have begun and do not go on, the oldest first."""
    connections = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", d.port)
        writer.write(HALF_A_HELLO)
        connections.append((reader, writer))
    return connections


async def is_ended(reader):
    """The other side ends this without a word."""
    try:
        return await asyncio.wait_for(reader.read(), 5) == b""
    except ConnectionResetError:
        return True


async def test_handshakes_under_way_are_bounded_and_the_oldest_makes_room(tls):
    async with door(ssl=tls[0], limits=replace(PATIENT, handshakes=3)) as d:
        held = await half_open(d, 3)
        await until(lambda: d.server.handshakes == 3)
        late = await half_open(d, 2)
        assert [await is_ended(reader) for reader, _ in held[:2]] == [True, True]
        assert d.server.handshakes == 3
        assert d.server.connections == 0
        for _, writer in (*held, *late):
            writer.close()


async def test_an_honest_caller_gets_in_while_others_fill_all_places(tls):
    async with door(ssl=tls[0], limits=replace(PATIENT, handshakes=3)) as d:
        flood = await half_open(d, 20)
        assert statuses(await send(d.port, GET, ssl=tls[1])) == [200]
        assert d.server.handshakes <= 3
        for _, writer in flood:
            writer.close()


async def test_a_handshake_that_has_ended_gives_its_place_back(tls):
    async with door(ssl=tls[0], limits=replace(PATIENT, handshakes=1)) as d:
        for _ in range(3):
            assert statuses(await send(d.port, GET, ssl=tls[1])) == [200]
            await send(d.port, b"GET / HTTP/1.1\r\n\r\n")  # no handshake at all
        await until(lambda: d.server.handshakes == 0)


async def test_handshakes_end_when_the_door_closes(tls):
    async with door(ssl=tls[0]) as d:
        ((reader, writer),) = await half_open(d, 1)
        await until(lambda: d.server.handshakes == 1)
        await d.server.drain(5)
        assert await is_ended(reader)
        assert d.server.handshakes == 0
        writer.close()


async def test_a_door_without_an_svid_leaves_no_socket_open(caplog):
    async with door(ssl=Trust().server_context()) as d:
        assert await send(d.port, HALF_A_HELLO) == b""
        assert d.server.handshakes == 0
    assert caplog.records == []


async def test_a_defect_in_a_handshake_is_logged_without_its_text(caplog, tls, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("secret")

    monkeypatch.setattr(type(tls[0]), "wrap_bio", broken)
    async with door(ssl=tls[0]) as d:
        assert await send(d.port, HALF_A_HELLO) == b""
    assert [(record.message, record.error) for record in caplog.records] == [("cannot_open", "RuntimeError")]


async def test_when_descriptors_run_out_it_pauses_and_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(listener, "PAUSE_S", 0.01)
    async with door() as d:
        (ours,) = d.server._listeners
        real = ours._sock

        class Exhausted:
            def __init__(self):
                self.left = 3

            def accept(self) -> tuple[socket.socket, object]:
                if self.left:
                    self.left -= 1
                    raise OSError(errno.EMFILE, "Too many open files")
                return real.accept()

            def __getattr__(self, name):
                return getattr(real, name)

        ours._sock = Exhausted()
        assert statuses(await send(d.port, GET)) == [200]
        ours._sock = real
    assert [record.reason for record in caplog.records if record.levelno == logging.ERROR] == ["EMFILE"] * 3


async def test_an_address_that_is_taken_is_said():
    async with door() as d:
        with pytest.raises(OSError, match="in use"):
            await d.server.listen("127.0.0.1", d.port)


def tls_protocols():
    return sum(isinstance(thing, asyncio.sslproto.SSLProtocol) for thing in gc.get_objects())


@pytest.mark.parametrize("how", ["refused", "evicted", "served"])
async def test_a_connection_that_has_ended_leaves_nothing_to_the_garbage_collector(tls, how):
    """It comes late, and each of them has 100 KB."""
    async with door(ssl=tls[0], limits=replace(PATIENT, handshakes=1 if how == "evicted" else 9)) as d:
        gc.collect()
        gc.disable()
        try:
            before = tls_protocols()
            if how == "served":
                _, writer = await asyncio.open_connection("127.0.0.1", d.port, ssl=tls[1], server_hostname="")
                await until(lambda: d.server.connections)
                writer.transport.abort()
                del writer
            else:
                for reader, writer in await half_open(d, 5):
                    if how == "refused":
                        writer.write(b"\0" * 600)
                    else:
                        writer.close()
                    assert await is_ended(reader)
                    writer.close()
            await until(lambda: not d.server.connections and not d.server.handshakes)
            ours = tls_protocols() - before - (how == "served")  # the caller's own is not what this is about
            assert ours <= 0
        finally:
            gc.enable()


async def test_no_address_means_all_of_them_whichever_ip_a_cluster_has():
    opened = listener.Listener(("", 0), asyncio.Protocol, PATIENT, None)
    try:
        for host in ("127.0.0.1", *(("::1",) if socket.has_dualstack_ipv6() else ())):
            _, writer = await asyncio.open_connection(host, opened.port)
            writer.close()
            await writer.wait_closed()
    finally:
        opened.close()
        await opened.opened()
