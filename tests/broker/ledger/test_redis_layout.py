"""What one version of the scripts wrote the next one reads, or leaves alone: docs/quotas.md, "Several versions"."""

import struct

import msgspec
import pytest
from support.asks import AGENT, ask, tokens, width
from support.clock import Clock
from support.ledgers import steered
from support.redis_server import PREFIX, redis_server

from broker.chat import Usage
from broker.errors import Unavailable
from broker.ledger.redis import RedisLedger
from broker.quota import Tally

TEAM = f"{PREFIX}{{team1}}"
HOURLY, WIDTH = tokens(1_000), width(2)
HOUR = 1_794_916_800  # of the clock's start
HOLD = (
    b"\x9a\xc2\xd9.%b\xb4team1/weather-agentsdd\x01\xcf\x00\x06`w\xc6\x076\x00\x91\x94\xb2hour/2026-11-17T12\xd9n%b\xa1t\xcc\xc8\x91\xd9h%b\x00"
    % (AGENT.encode(), HOURLY.counter.encode(), WIDTH.counter.encode())
)
TALLY = struct.pack("<dIQIIQ", HOUR * 1e6, HOUR // 3600, 15, 1, 0, 0) + msgspec.msgpack.encode([HOUR // 3600 % 128 - 1, 7, 2, 3, 0])


@pytest.fixture
def server(tmp_path):
    with redis_server(tmp_path) as started:
        yield started


def write_as_layout_1(server) -> None:
    """One hold of 200 tokens with a lease, as the first version of the scripts kept it, and a tally of two hours.

    When this is not read any more, the layout is another: give it another number in redis_scripts, and say in docs/quotas.md what an operator does.
    """
    us = HOUR * 1_000_000
    with server.client() as client:
        client.hset(TEAM, mapping={"epoch": "e", "run": client.info("server")["run_id"], "clock": us, "layout": 1})
        client.hset(f"{TEAM}/hour/2026-11-17T12", HOURLY.counter, 200)
        client.zadd(f"{TEAM}/windows", {"hour/2026-11-17T12": us + 3600_000_000})
        client.hset(f"{TEAM}/holds", "one", HOLD)
        client.zadd(f"{TEAM}/open", {"one": us + 600_000_000})
        client.zadd(f"{TEAM}/leases/{WIDTH.counter}", {"one": us + 30_000_000})
        client.sadd(f"{TEAM}/widths", WIDTH.counter)
        client.hset(f"{TEAM}/tallies", f"team1/weather-agents {AGENT}", TALLY)
        client.hset(f"{PREFIX}{{-}}", mapping={"epoch": "e", "run": client.info("server")["run_id"], "clock": us, "layout": 1})
        client.sadd(f"{PREFIX}{{-}}/namespaces", "team1")


async def test_what_layout_1_holds_is_read_as_it_was_meant(server):
    write_as_layout_1(server)
    ledger = await steered(PREFIX, Clock(), server)
    assert {reading.counter: reading.used for reading in await ledger.readings()} == {HOURLY.counter: 200, WIDTH.counter: 1}
    assert await ledger.tallies() == (Tally("team1/weather-agents", AGENT, 15 + 7, 1 + 2, 3, HOUR),)
    await ledger.settle("one", Usage(10, 5))
    assert {reading.counter: reading.used for reading in await ledger.readings()} == {HOURLY.counter: 15}
    assert await ledger.open_holds() == 0
    await ledger.close()


@pytest.fixture
async def ledger(server):
    opened = await RedisLedger.open(server.url, allow_insecure=True)
    yield opened
    await opened.close()


def others(caplog) -> list[str]:
    return [record.namespace for record in caplog.records if record.message == "quota_store_other_layout"]


@pytest.mark.parametrize("layout", [b"2", b"", None], ids=["newer", "empty", "of before layouts had numbers"])
async def test_what_another_version_wrote_is_refused_untouched_and_said_once(server, ledger, caplog, layout):
    with server.client() as client:
        client.hset(TEAM, mapping={"epoch": "e", "run": "r", "clock": 1} | ({} if layout is None else {"layout": layout}))
        before = client.hgetall(TEAM)
        for _ in range(3):
            with pytest.raises(Unavailable, match="another version"):
                await ledger.hold(ask(HOURLY))
        assert client.hgetall(TEAM) == before
    assert others(caplog) == ["team1"]


async def test_a_broker_stops_counting_where_another_version_began_anew(server, ledger):
    await ledger.hold(ask(HOURLY))
    with server.client() as client:
        client.delete(*client.keys(f"{TEAM}*"))
        client.hset(TEAM, mapping={"epoch": "another", "run": "r", "clock": 1, "layout": 2})
    with pytest.raises(Unavailable, match="another version"):
        await ledger.hold(ask(HOURLY))


async def test_other_namespaces_are_counted_on(server, ledger):
    with server.client() as client:
        client.hset(f"{PREFIX}{{team2}}", mapping={"epoch": "e", "run": "r", "clock": 1, "layout": 2})
        client.sadd(f"{PREFIX}{{-}}/namespaces", "team2")
    assert (await ledger.hold(ask(HOURLY))).granted_output == 100
    assert await ledger.expire() == ()


async def test_reports_leave_out_what_another_version_wrote(server, ledger):
    await ledger.hold(ask(HOURLY, hold_id="one"))
    await ledger.settle("one", Usage(10, 5))
    with server.client() as client:
        client.hset(TEAM, "layout", 2)
        client.hset(f"{TEAM}/tallies", f"team1/weather-agents {AGENT}", b"?")
    assert (await ledger.tallies(), await ledger.readings(), await ledger.open_holds()) == ((), (), 0)
