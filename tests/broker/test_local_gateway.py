import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_workload_api import FakeWorkloadApi
from support.ports import closed_port, free_port
from support.raw_http import PATIENT, Door, send, statuses, until
from support.spiffe_ca import SpiffeCa, trusting, update

from broker import local_gateway
from broker.config import Address
from broker.http1.server import Request
from broker.local_gateway import Gateway, GatewaySettings
from broker.names import PLACEHOLDER_KEY

BROKER, AGENT = "spiffe://a.test/ns/inference-broker/sa/broker", "spiffe://a.test/ns/team1/sa/agent"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:%d\r\nContent-Type: application/json\r\n"
MESSAGES = CHAT.replace(b"chat/completions", b"messages")


@pytest.fixture(scope="module")
def ca():
    return SpiffeCa("a.test")


@pytest.fixture(scope="module")
def agent(ca):
    return ca.issue(AGENT)


@contextlib.asynccontextmanager
async def broker_door(ca, handler=None, *, spiffe_id=BROKER, trusted=None, limits=PATIENT):
    """A broker as far as the network can tell: mutual TLS, and whatever handler the test wants."""
    trust = trusting(ca.issue(spiffe_id), *(trusted or (ca,)))
    opened = Door(limits=limits, **({"handler": handler} if handler else {}))
    await opened.open(trust.server_context())
    try:
        yield opened
    finally:
        await opened.server.drain(0)


@contextlib.asynccontextmanager
async def gateway(*ports, updates=(), broker_id=BROKER, **settings):
    """A local gateway in front of brokers on these ports."""
    made = Gateway(
        GatewaySettings(
            tuple(Address("127.0.0.1", port) for port in ports), broker_spiffe_id=broker_id, endpoint="unix:///nowhere", port=0, **settings
        )
    )
    for one in updates:
        made._update(one)
    made.port = await made.open()
    try:
        yield made
    finally:
        await made.close(0)


def request(made, head=CHAT, body=b'{"model":"m"}', extra=b""):
    return (head % made.port) + extra + b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)


def error_of(got):
    """The parsed body of a refusal and its lower-case head."""
    head, _, body = got.partition(b"\r\n\r\n")
    return json.loads(body), head.lower()


async def test_a_request_reaches_the_broker_and_its_answer_the_agent(ca, agent):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        got = await send(made.port, request(made, body=b'{"model":"m","x":1}'))
        assert statuses(got) == [200]
        assert got.endswith(b'{"model":"m","x":1}')
        (seen,) = broker.requests
        assert (seen.method, seen.path, seen.body) == ("POST", "/v1/chat/completions", b'{"model":"m","x":1}')
        assert seen.tls.version() == "TLSv1.3"
        assert seen.tls.peer.identity.spiffe_id == AGENT


async def test_connections_to_the_broker_are_kept(ca, agent):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        for _ in range(5):
            await send(made.port, request(made))
        assert (made._pool.opened, made._pool.reused) == (1, 4)


async def test_a_chunked_body_goes_on_as_one(ca, agent):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        raw = CHAT % made.port + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n1\r\n \r\n0\r\nX: y\r\n\r\n"
        assert statuses(await send(made.port, raw)) == [200]
        assert broker.requests[0].body == b"{} "


async def test_only_listed_headers_leave_the_pod(ca, agent):
    extra = (
        b"Authorization: Bearer sk-live\r\nX-Api-Key: sk-live\r\nApi-Key: sk-live\r\nX-Goog-Api-Key: sk-live\r\nCookie: a=b\r\n"
        b"X-Forwarded-Client-Cert: URI=spiffe://a.test/admin\r\nForwarded: for=1\r\nX-Aiaccess-Exchange: 1\r\nX-Team-Secret: 1\r\n"
        b"Proxy-Authorization: Basic eA==\r\nOpenAI-Organization: org-1\r\nKeep-Alive: 5\r\n"
        b"Anthropic-Beta: b1\r\nOpenAI-Beta: b2\r\nTraceparent: 00-1\r\nX-Stainless-Lang: python\r\nUser-Agent: sdk\r\nAccept: */*\r\n"
    )
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        assert statuses(await send(made.port, request(made, extra=extra))) == [200]
        assert {name for name, _ in broker.requests[0].headers} == {
            b"host", b"content-type", b"content-length",
            b"anthropic-beta", b"openai-beta", b"traceparent", b"x-stainless-lang", b"user-agent", b"accept",
        }  # fmt: skip


async def test_passthrough_forwards_a_credential_but_never_the_placeholder(ca, agent):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)], passthrough=True) as made:
        key = PLACEHOLDER_KEY.encode()
        await send(made.port, request(made, extra=b"Authorization: Bearer sk-own\r\nX-Api-Key: %b\r\n" % key))
        await send(made.port, request(made, extra=b"Authorization: Bearer %b\r\nX-Goog-Api-Key: g-own\r\n" % key))
        first, second = (dict(seen.headers) for seen in broker.requests)
        assert first[b"authorization"] == b"Bearer sk-own"
        assert b"x-api-key" not in first
        assert b"authorization" not in second
        assert second[b"x-goog-api-key"] == b"g-own"


@pytest.mark.parametrize(
    ("query", "kept"),
    [("beta=true", "beta=true"), ("key=sk", ""), ("b=1&key=sk&a=b", "b=1&a=b"), ("k%65y=sk", ""), ("KEY=sk", ""), ("access_token=x", "")],
)
async def test_keys_in_the_query_stay_in_the_pod(ca, agent, query, kept):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        await send(made.port, request(made).replace(b"completions HTTP", b"completions?%b HTTP" % query.encode()))
        assert broker.requests[0].query == kept


async def test_passthrough_leaves_a_key_in_the_query_but_not_the_placeholder(ca, agent):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)], passthrough=True) as made:
        for query in (b"key=own&a=b", b"key=%b&a=b" % PLACEHOLDER_KEY.encode()):
            await send(made.port, request(made).replace(b"completions HTTP", b"completions?%b HTTP" % query))
        assert [seen.query for seen in broker.requests] == ["key=own&a=b", "a=b"]


async def test_hop_by_hop_headers_and_cookies_of_an_answer_end_here(ca, agent):
    async def handler(request, reply):
        reply.whole(200, [(b"set-cookie", b"a=b"), (b"x-ratelimit-limit-tokens", b"5"), (b"keep-alive", b"timeout=5")], b"{}")

    async with broker_door(ca, handler) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        got = (await send(made.port, request(made))).lower()
        assert b"x-ratelimit-limit-tokens: 5\r\n" in got
        assert b"cookie" not in got
        assert b"keep-alive" not in got


async def test_a_stream_passes_piece_by_piece(ca, agent):
    go = asyncio.Event()

    async def handler(request, reply):
        reply.begin(200, [(b"content-type", b"text/event-stream")])
        reply.write(b"data: 1\n\n")
        await go.wait()
        reply.write(b"data: 2\n\n")
        reply.end()

    async with broker_door(ca, handler) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(request(made))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert await reader.readexactly(14) == b"9\r\ndata: 1\n\n\r\n"  # before the second was written
        go.set()
        assert await reader.read() == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
        writer.close()


def breaking_off(after, content_type=b"text/event-stream"):
    """A handler that writes these pieces and is gone."""

    async def handler(request, reply):
        reply.begin(200, [(b"content-type", content_type), (b"x-aiaccess-exchange", b"e1")])
        await reply.room()
        for piece in after:
            reply.write(piece)
            await reply.room()
            await asyncio.sleep(0.02)
        reply.cut()

    return handler


@pytest.mark.parametrize(
    ("after", "content_type"),
    [
        ([b"data: 1\n\n", b"data: 2"], b"text/event-stream"),
        ([b"data: 1\n\n", b"data: 2\n"], b"text/event-stream"),
        ([b"data: 1\n\n"], b"text/csv"),
    ],
    ids=["within an event", "before its empty line", "no event stream"],
)
async def test_a_cut_answer_is_cut_for_the_agent_too(ca, agent, after, content_type):
    async with broker_door(ca, breaking_off(after, content_type)) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        got = await send(made.port, request(made))
        assert b"data: 1" in got
        assert b"broker_unavailable" not in got
        assert b"0\r\n\r\n" not in got


@pytest.mark.parametrize("after", [[b"data: 1\n\n"], [b"data: 1\n", b"\n"], []], ids=["an event", "in two pieces", "the head alone"])
async def test_a_stream_that_breaks_off_between_two_events_ends_with_the_reason(ca, agent, after):
    async with broker_door(ca, breaking_off(after)) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        got = await send(made.port, request(made))
        last = json.loads(got.rpartition(b"data: ")[2].partition(b"\n\n")[0])
        assert last["error"]["code"] == "broker_unavailable"
        assert got.endswith(b"\n\n\r\n0\r\n\r\n")
        assert b"event: error" in await send(made.port, request(made, MESSAGES))  # Anthropic's shape


async def test_a_gateway_that_is_stopped_ends_streams_in_the_agents_dialect(ca, agent):
    async def handler(request, reply):
        reply.begin(200, [(b"content-type", b"text/event-stream")])
        reply.write(b"data: 1\n\n")
        await reply.room()
        await asyncio.Event().wait()

    async with broker_door(ca, handler) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        asking = asyncio.get_running_loop().create_task(send(made.port, request(made)))
        await until(lambda: broker.requests)
        await until(lambda: made._pool.busy)
        await made.close(0.05)
        got = await asking
        assert b'"busy"' in got
        assert got.endswith(b"0\r\n\r\n")


async def test_a_gateway_that_is_stopped_answers_who_still_waits(ca, agent):
    async def handler(request, reply):
        await asyncio.Event().wait()

    async with broker_door(ca, handler) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        asking = asyncio.get_running_loop().create_task(send(made.port, request(made)))
        await until(lambda: broker.requests)
        await made.close(0.05)
        body, head = error_of(await asking)
        assert body["error"]["code"] == "busy"
        assert b"x-should-retry: true" in head


async def test_an_agent_that_hangs_up_is_heard_by_the_broker_at_once(ca, agent):
    began = asyncio.Event()

    async def handler(request, reply):
        began.set()
        await asyncio.Event().wait()

    async with broker_door(ca, handler) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        _, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(request(made))
        await began.wait()
        writer.transport.abort()
        await asyncio.wait_for(broker.ended.wait(), 5)
        assert broker.cancelled


async def test_an_agent_that_hangs_up_on_a_stuck_stream_is_heard_by_the_broker_at_once(ca, agent):
    async def handler(request, reply):
        reply.begin(200, [(b"content-type", b"text/event-stream")])
        while True:
            reply.write(b"x" * 65536)
            await reply.room()

    async with broker_door(ca, handler) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        _, writer = await asyncio.open_connection("127.0.0.1", made.port, limit=1024)
        writer.write(request(made))
        writer.transport.pause_reading()
        await until(lambda: any(connection.full for connection in made._server._connections))
        writer.transport.abort()
        await asyncio.wait_for(broker.ended.wait(), 5)
        assert broker.cancelled


async def test_a_slow_agent_slows_the_broker_down(ca, agent):
    written = 0
    stalled = asyncio.Event()

    async def handler(request, reply):
        nonlocal written
        reply.begin(200, [(b"content-type", b"text/event-stream")])
        loop = asyncio.get_running_loop()
        timer = None
        while written < 64 << 20:
            reply.write(b"x" * 65536)
            written += 65536
            if timer:
                timer.cancel()
            timer = loop.call_later(0.5, stalled.set)
            await reply.room()

    async with broker_door(ca, handler) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port, limit=1024)
        writer.write(request(made))
        await asyncio.wait_for(stalled.wait(), 20)
        assert written < 32 << 20  # what fits in the kernels' and our own buffers
        before = written
        for _ in range(200):
            await reader.readexactly(65536)
        await asyncio.sleep(0)
        assert written > before
        writer.transport.abort()


async def test_a_broker_of_another_spiffe_id_gets_no_byte(ca, agent):
    async with (
        broker_door(ca, spiffe_id="spiffe://a.test/ns/evil/sa/broker") as impostor,
        gateway(impostor.port, updates=[update(agent, ca)]) as made,
    ):
        body, head = error_of(await send(made.port, request(made)))
        assert body["error"]["code"] == "broker_unavailable"
        assert "spiffe://a.test/ns/evil/sa/broker" in body["error"]["message"]
        assert BROKER in body["error"]["message"]
        assert b" 503 " in head
        assert b"x-aiaccess-source: gateway" in head
        assert impostor.requests == []
        assert impostor.server.connections == 0


async def test_a_broker_of_another_trust_domain_gets_no_byte(ca, agent):
    foreign = SpiffeCa("a.test")  # the same name, another key
    async with broker_door(foreign, trusted=(foreign, ca)) as impostor, gateway(impostor.port, updates=[update(agent, ca)]) as made:
        body, _ = error_of(await send(made.port, request(made)))
        assert body["error"]["code"] == "broker_unavailable"
        assert impostor.requests == []


async def test_a_broker_that_does_not_trust_us_is_guessed_from_its_close(ca):
    stranger = SpiffeCa("b.test")
    async with (
        broker_door(ca) as broker,
        gateway(broker.port, updates=[update(stranger.issue("spiffe://b.test/ns/x/sa/y"), stranger, federated={"a.test": [ca]})]) as made,
    ):
        body, _ = error_of(await send(made.port, request(made)))
        assert body["error"]["code"] == "broker_unavailable"
        assert "may not trust this pod's trust domain (b.test)" in body["error"]["message"]
        assert broker.requests == []


async def test_a_broker_that_ends_the_connection_much_later_is_not_suspected_of_that(ca, agent, monkeypatch):
    async def late(request, reply):
        await asyncio.sleep(0.1)
        reply.cut()

    monkeypatch.setattr(local_gateway, "SILENT_S", 0.05)
    async with broker_door(ca, late) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        body, _ = error_of(await send(made.port, request(made)))
        assert "trust domain" not in body["error"]["message"]
        assert "The broker did not answer" in body["error"]["message"]


async def test_when_the_broker_is_away_the_agent_is_told_in_its_own_dialect(ca, agent):
    with closed_port() as port:
        async with gateway(port, updates=[update(agent, ca)]) as made:
            body, head = error_of(await send(made.port, request(made)))
            assert body["error"]["code"] == "broker_unavailable"
            assert b"x-should-retry: true" in head
            assert b"retry-after: 1" in head
            body, head = error_of(await send(made.port, request(made, MESSAGES)))
            assert body["type"] == "error"  # Anthropic's shape
            assert b" 503 " in head


async def test_the_next_broker_takes_over_when_one_is_away(ca, agent):
    with closed_port() as before, closed_port() as after:
        async with broker_door(ca) as broker, gateway(before, broker.port, after, updates=[update(agent, ca)]) as made:
            for _ in range(3):
                assert statuses(await send(made.port, request(made))) == [200]
                made._pool.retire()


async def test_a_connection_to_the_broker_notices_a_machine_that_vanished(ca, agent):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        await send(made.port, request(made))
        (connection,) = made._pool._idle
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_a_broker_that_failed_is_not_asked_first_for_a_while(ca, agent, monkeypatch):
    monkeypatch.setattr(local_gateway, "CONNECT_S", 1.0)
    dials = []

    async def silent(reader, writer):
        dials.append(writer)

    hanging = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with broker_door(ca) as broker, gateway(hanging.sockets[0].getsockname()[1], broker.port, updates=[update(agent, ca)]) as made:
        for _ in range(4):
            assert statuses(await send(made.port, request(made), timeout_s=10)) == [200]
            made._pool.retire()
        assert len(dials) == 1
    for writer in dials:
        writer.transport.abort()
    hanging.close()


async def test_a_broker_that_answers_no_request_is_not_asked_first_after_the_agent_gave_up(ca, agent, monkeypatch):
    async def hang(request, reply):
        await asyncio.Event().wait()

    monkeypatch.setattr(local_gateway, "SILENT_S", 0.05)
    async with (
        broker_door(ca, hang) as hung,
        broker_door(ca) as broker,
        gateway(hung.port, broker.port, updates=[update(agent, ca)]) as made,
    ):
        while not hung.requests:
            with contextlib.suppress(TimeoutError):
                await send(made.port, request(made), timeout_s=0.3)
            made._pool.retire()
        for _ in range(4):
            assert statuses(await send(made.port, request(made))) == [200]
            made._pool.retire()
        assert len(hung.requests) == 1


async def test_a_broker_that_cut_an_answer_is_not_asked_first_for_a_while(ca, agent):
    async with (
        broker_door(ca, lambda request, reply: cut(reply)) as bad,
        broker_door(ca) as broker,
        gateway(bad.port, broker.port, updates=[update(agent, ca)]) as made,
    ):
        while not bad.requests:
            await send(made.port, request(made))
            made._pool.retire()
        for _ in range(4):
            assert statuses(await send(made.port, request(made))) == [200]
            made._pool.retire()
        assert len(bad.requests) == 1


async def cut(reply):
    reply.cut()


async def test_without_an_svid_nothing_is_sent(ca):
    async with broker_door(ca) as broker, gateway(broker.port) as made:
        body, head = error_of(await send(made.port, request(made)))
        assert body["error"]["code"] == "no_svid"
        assert b" 503 " in head
        assert broker.server.connections == 0


async def test_a_withdrawn_svid_stops_the_next_request(ca, agent):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        assert statuses(await send(made.port, request(made))) == [200]
        made._update(None)
        body, _ = error_of(await send(made.port, request(made)))
        assert body["error"]["code"] == "no_svid"
        assert len(broker.requests) == 1


async def test_an_expired_svid_stops_the_next_request(ca):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(ca.issue(AGENT, begins_s=-60, ttl_s=-1), ca)]) as made:
        body, _ = error_of(await send(made.port, request(made)))
        assert body["error"]["code"] == "no_svid"
        assert broker.server.connections == 0


async def test_a_new_svid_means_new_connections(ca, agent):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        await send(made.port, request(made))
        made._update(update(ca.issue(AGENT), ca))
        await send(made.port, request(made))
        assert made._pool.opened == 2


async def test_a_broker_whose_svid_has_expired_is_not_used_again(ca, agent, monkeypatch):
    trust = trusting(ca.issue(BROKER, ttl_s=600), ca)
    broker = await Door().open(trust.server_context())
    async with gateway(broker.port, updates=[update(agent, ca)]) as made:
        await send(made.port, request(made))
        trust.apply(update(ca.issue(BROKER), ca))
        await send(made.port, request(made))
        assert made._pool.opened == 1  # it was still good
        later = time.time() + 1200
        monkeypatch.setattr(local_gateway, "time", SimpleNamespace(time=lambda: later))
        await send(made.port, request(made))
        assert (made._pool.opened, len(broker.requests)) == (2, 3)
    await broker.server.drain(0)


async def test_a_broker_whose_authority_was_withdrawn_is_not_used_again(ca, agent):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        await send(made.port, request(made))
        made._update(update(agent, SpiffeCa("a.test")))
        body, _ = error_of(await send(made.port, request(made)))
        assert body["error"]["code"] == "broker_unavailable"
        assert len(broker.requests) == 1


def refusing(times, source=b"broker", status=401):
    """A handler that refuses so many requests first."""
    left = [times]

    async def handler(request, reply):
        left[0] -= 1
        if left[0] >= 0:
            reply.whole(status, [(b"x-aiaccess-source", source)], b'{"error":{"code":"unidentified"}}')
        else:
            reply.whole(200, [], request.body)

    return handler


@pytest.mark.parametrize(
    ("handler", "status", "seen"),
    [
        (refusing(1), 200, 2),
        (refusing(2), 401, 2),  # once
        (refusing(1, source=b"provider"), 401, 1),
        (refusing(1, status=403), 403, 1),
        (refusing(1, status=503), 503, 1),
    ],
    ids=["stale session", "stale twice", "a provider's 401", "forbidden", "busy"],
)
async def test_only_the_brokers_own_401_is_replayed_and_once(ca, agent, handler, status, seen):
    async with broker_door(ca, handler) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        assert statuses(await send(made.port, request(made))) == [status]
        assert len(broker.requests) == seen
        assert {r.body for r in broker.requests} == {b'{"model":"m"}'}
        assert made._pool.opened == seen  # on a new connection


async def test_a_broker_that_ends_the_connection_after_the_request_is_not_asked_again(ca, agent):
    async def handler(request, reply):
        reply.cut()

    async with broker_door(ca, handler) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        body, _ = error_of(await send(made.port, request(made)))
        assert body["error"]["code"] == "broker_unavailable"
        assert len(broker.requests) == 1


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        (b"", 401),
        (b"Authorization: Bearer aiaccess-placeholder\r\n", 401),
        (b"Authorization: Bearer this-run\r\n", 200),
        (b"authorization: bearer this-run\r\n", 200),
        (b"Authorization: this-run\r\n", 200),
        (b"X-Api-Key: this-run\r\n", 200),
        (b"X-Api-Key: this-run2\r\n", 401),
    ],
)
async def test_a_gateway_that_demands_a_key_serves_nobody_else(ca, agent, extra, status):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)], demand_key="this-run") as made:
        got = await send(made.port, request(made, extra=extra))
        assert statuses(got) == [status]
        assert len(broker.requests) == (status == 200)
        assert b"this-run" not in got
        if status == 401:
            assert error_of(got)[0]["error"]["code"] == "unidentified"


async def test_a_page_that_rebinds_its_name_gets_nothing(ca, agent):
    async with broker_door(ca) as broker, gateway(broker.port, updates=[update(agent, ca)]) as made:
        for bad in (
            request(made).replace(b"Host: localhost", b"Host: evil.test"),
            request(made, extra=b"Origin: http://localhost\r\n"),
            request(made, extra=b"Sec-Fetch-Site: none\r\n"),
        ):
            body, head = error_of(await send(made.port, bad))
            assert body["error"]["code"] == "not_local"
            assert b"access-control" not in head
        assert broker.requests == []


async def test_it_listens_on_loopback_alone(ca):
    async with gateway(1) as made:
        (listener,) = made._server._listeners
        assert listener._sock.getsockname()[0] == "127.0.0.1"


async def test_run_follows_the_workload_api_and_drains(ca, agent, tmp_path):
    port, stop = free_port(), asyncio.Event()
    async with FakeWorkloadApi(tmp_path) as workload, broker_door(ca) as broker:
        settings = GatewaySettings((Address("127.0.0.1", broker.port),), BROKER, workload.endpoint, port, drain_s=1)
        running = asyncio.get_running_loop().create_task(local_gateway.run(settings, stop))
        await workload.called(1)
        await workload.push(update(agent, ca))
        raw = CHAT.replace(b"%d", b"%d" % port) + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"
        async with asyncio.timeout(5):
            while statuses(await send(port, raw)) != [200]:
                await asyncio.sleep(0.01)
        stop.set()
        await asyncio.wait_for(running, 5)
        with pytest.raises(ConnectionError):
            await send(port, raw)


@pytest.mark.parametrize("settings", [{"broker_id": "spiffe://a.test"}, {"broker_id": "https://a.test/x"}, {"endpoint": "unix://relative"}])
async def test_a_wrong_setting_keeps_it_from_starting(settings):
    given_ = {"broker_spiffe_id": settings.get("broker_id", BROKER), "endpoint": settings.get("endpoint", "unix:///nowhere")}
    with pytest.raises(ValueError):  # noqa: PT011  its text is tested where it is made
        await local_gateway.run(GatewaySettings((), port=0, **given_), asyncio.Event())


@given(st.lists(st.tuples(st.binary(max_size=20).map(bytes.lower), st.binary(max_size=30)), max_size=10))
def test_no_header_makes_a_second_credential_or_line(headers):
    async def scenario():
        made = Gateway(GatewaySettings((), BROKER, "unix:///nowhere"))
        clean = [(name, value) for name, value in headers if not set(name + value) & set(b"\r\n")]
        head = made._head(Request("POST", "/v1/messages", "", clean, b""))
        passing = sum(name in local_gateway._FORWARD or name.startswith(b"x-stainless-") for name, _ in clean)
        assert head.count(b"\r\n") == 4 + passing
        for name in local_gateway._CREDENTIALS:
            assert b"\r\n%b:" % name not in head

    asyncio.run(scenario())


def test_it_imports_neither_kubernetes_nor_redis_nor_opentelemetry_nor_the_pipeline():
    code = "import sys, broker.cli, broker.local_gateway; print(*sorted(m for m in sys.modules))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "broker.local_gateway" in loaded
    for banned in ("kubernetes", "redis", "opentelemetry", "aiohttp", "grpc", "sqlite3", "yaml", "prometheus_client",
                   "broker.pipeline", "broker.wiring", "broker.upstream", "broker.objects", "broker.policy"):  # fmt: skip
        assert banned not in loaded, banned
