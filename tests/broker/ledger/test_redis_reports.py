"""Reports of what Redis counted: in few round trips, and no look that takes too long is anything but "not now"."""

import asyncio

import pytest
from support.asks import ask, tokens
from support.redis_server import shared_server

from broker.errors import Unavailable
from broker.grant import PolicyRef
from broker.ledger import redis_reports
from broker.ledger.redis import RedisLedger
from broker.ledger.redis_wire import Wire


@pytest.fixture
async def ledger(tmp_path):
    opened = await RedisLedger.open(shared_server().url, f"{tmp_path.name}/", allow_insecure=True)
    yield opened
    await opened.close()


@pytest.mark.parametrize("report", ["tallies", "readings", "open_holds"])
async def test_a_look_that_takes_too_long_is_unavailable_and_nothing_worse(ledger, monkeypatch, report):
    """Whoever looks again and again waits for Unavailable alone: anything else would end the broker."""
    await ledger.hold(ask(tokens(1_000)))
    monkeypatch.setattr(redis_reports, "DEADLINE_S", 0)
    with pytest.raises(Unavailable):
        await getattr(ledger, report)()


async def test_the_open_holds_of_hundreds_of_namespaces_take_a_few_round_trips(ledger, monkeypatch):
    await asyncio.gather(*(ledger.hold(ask(policies=(PolicyRef(f"ns{number}", "p", "1"),))) for number in range(300)))
    turns = []
    flush = Wire._flush
    monkeypatch.setattr(Wire, "_flush", lambda wire: (turns.append(wire), flush(wire))[1])
    assert await ledger.open_holds() == 300
    assert len(turns) < 10
