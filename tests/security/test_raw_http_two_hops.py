"""Gateway and broker, one after the other: what is unusual never reaches the second, and what is plain reaches it as one request."""

import asyncio

import pytest
from support.hostile_requests import GOOD, LOCAL_REFUSED, REFUSED, at
from support.raw_http import Door, send, statuses
from support.spiffe_ca import SpiffeCa, trusting, update

from broker.config import Address
from broker.local_gateway import Gateway, GatewaySettings

BROKER, AGENT = "spiffe://a.test/ns/inference-broker/sa/broker", "spiffe://a.test/ns/team1/sa/agent"


@pytest.fixture
def ca():
    return SpiffeCa("a.test")


@pytest.fixture
async def hops(ca):
    """(the gateway's port, the broker behind it)"""
    broker = await Door().open(trusting(ca.issue(BROKER), ca).server_context())
    gateway = Gateway(GatewaySettings((Address("127.0.0.1", broker.port),), BROKER, "unix:///nowhere", port=0))
    gateway._update(update(ca.issue(AGENT), ca))
    yield await gateway.open(), broker
    await gateway.close(0)
    await broker.server.drain(0)


async def test_nothing_unusual_reaches_the_broker(hops):
    port, broker = hops
    for name, raw in {**{name: raw for name, (raw, _) in REFUSED.items()}, **LOCAL_REFUSED}.items():
        (status,) = statuses(await send(port, at(raw, port)))
        assert 400 <= status < 500, name
    assert broker.server.connections == 0


async def test_what_is_plain_reaches_the_broker_as_one_request_each(hops):
    port, broker = hops
    for name, raw in GOOD.items():
        got = await send(port, at(raw, port) + at(REFUSED["CL and TE"][0], port))
        assert statuses(got) == [200], name
    assert len(broker.requests) == len(GOOD)
    assert [bytes(request.body) for request in broker.requests if request.body] == [b"{}"] * (len(GOOD) - 3)


async def test_two_agents_on_one_broker_connection_never_see_each_others_answers(hops):
    port, broker = hops

    async def ask(n: int) -> None:
        body = b'{"n":%d}' % n
        head = b"POST /v1/x HTTP/1.1\r\nHost: @\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        got = await send(port, at(head % len(body), port) + body)
        assert got.endswith(b"\r\n\r\n" + body)

    for _ in range(10):
        await asyncio.gather(*(ask(n) for n in range(20)))
    assert len(broker.requests) == 200
