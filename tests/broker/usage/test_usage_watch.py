"""Warnings: at 80 and 100 percent, once each, of what is spent for good."""

import json
import logging

import pytest
from support.asks import ask, requests, tokens, width
from support.clock import Clock
from support.ledgers import STORES, open_ledger

from broker.adjustment import Adjustment
from broker.chat import Usage
from broker.errors import BrokerError, ConcurrencyFull, QuotaExhausted, Unavailable
from broker.grant import Per
from broker.telemetry import Telemetry
from broker.usage import watch as room
from broker.usage.watch import Watch, Watched, tell

HOURLY = tokens(1_000)
MINE = (HOURLY,)


class Scene:
    def __init__(self, ledger, clock):
        self.clock, self.raw = clock, ledger
        self.ledger = Watched(ledger)
        self.said = []
        self.watch = Watch(self.ledger, self.said.append, clock)

    def move(self, seconds):
        self.clock.move(seconds)
        assert self.raw.hold  # a store whose clock is steered learns the time when it is asked

    async def spend(self, count, *budgets, held=None):
        """Held is more than is spent, as usual."""
        got = await self.ledger.hold(ask(*(budgets or MINE), prompt=count, least=0, wanted=max(0, (held or count) - count)))
        await self.ledger.settle(got.hold_id, Usage(count, 0))

    async def look(self):
        """What is said at this look."""
        self.said.clear()
        await self.watch.look()
        return [(one.budget.counter.split("/")[3], one.percent, one.used) for one in self.said]


@pytest.fixture(params=STORES)
async def it(request, tmp_path):
    clock = Clock()
    ledger = await open_ledger(request.param, tmp_path, clock)
    yield Scene(ledger, clock)
    await ledger.close()


@pytest.fixture
async def quick(tmp_path):
    clock = Clock()
    ledger = await open_ledger("memory", tmp_path, clock)
    return Scene(ledger, clock)


async def test_each_threshold_is_said_once_in_a_window(it):
    await it.spend(799)
    assert await it.look() == []
    await it.spend(1)
    assert await it.look() == [("hourly", 80, 800)]
    await it.spend(100)
    assert await it.look() == []
    await it.spend(100)
    assert await it.look() == [("hourly", 100, 1000)]
    with pytest.raises(QuotaExhausted):
        await it.spend(1)
    assert await it.look() == []


async def test_the_next_window_is_warned_of_anew(it):
    await it.spend(1000)
    assert await it.look() == [("hourly", 80, 1000), ("hourly", 100, 1000)]
    it.move(3600)
    await it.spend(850)
    assert await it.look() == [("hourly", 80, 850)]


async def test_what_runs_is_not_spent_until_it_is(it):
    held = await it.ledger.hold(ask(*MINE, prompt=100, wanted=900))
    assert await it.look() == []
    await it.ledger.settle(held.hold_id, Usage(100, 800))
    assert await it.look() == [("hourly", 80, 900)], "though nobody asked since"


async def test_what_is_given_back_was_never_warned_of(it):
    for _ in range(5):
        await it.spend(10, held=1000 - 50)
        assert await it.look() == []


async def test_a_quota_that_refuses_is_used_up_also_when_a_little_is_left(it):
    await it.spend(950)
    with pytest.raises(QuotaExhausted):
        await it.spend(100)
    assert await it.look() == [("hourly", 80, 950), ("hourly", 100, 950)]


async def test_a_refusal_because_of_what_runs_uses_nothing_up(it):
    await it.ledger.hold(ask(*MINE, prompt=100, wanted=900))
    with pytest.raises(QuotaExhausted):
        await it.spend(100)
    assert await it.look() == []


async def test_of_several_quotas_the_one_that_is_full_is_named(it):
    budgets = (HOURLY, requests(2), tokens(10_000, Per.DAY, name="daily"), width(1))
    await it.spend(100, *budgets)
    await it.spend(100, *budgets)
    assert await it.look() == [("pace", 80, 2), ("pace", 100, 2)]


async def test_a_credit_moves_the_thresholds(it):
    await it.ledger.adjust(Adjustment(HOURLY.counter, Per.HOUR, credit=1000))
    await it.spend(1000)
    assert await it.look() == []
    await it.spend(600)
    assert await it.look() == [("hourly", 80, 1600)]


async def test_a_credit_below_nothing_moves_them_down(it):
    await it.ledger.adjust(Adjustment(HOURLY.counter, Per.HOUR, credit=-500))
    await it.spend(400)
    assert await it.look() == [("hourly", 80, 400)]


async def test_a_quota_in_shadow_and_one_of_width_warn_of_nothing(it):
    await it.ledger.hold(ask(width(1)))
    with pytest.raises(ConcurrencyFull):
        await it.ledger.hold(ask(width(1)))
    await it.spend(1000, tokens(1000, shadow=True))
    assert await it.look() == []


async def test_while_the_store_is_away_nothing_is_forgotten(quick, monkeypatch):
    await quick.spend(900)

    async def away(_looks):
        raise Unavailable("away")

    real = quick.ledger.balances
    quick.ledger.balances = away
    with pytest.raises(Unavailable):
        await quick.watch.look()
    quick.ledger.balances = real
    assert await quick.look() == [("hourly", 80, 900)]


async def test_a_quiet_quota_is_not_looked_at_again(quick):
    asked = []
    real = quick.ledger.balances

    async def balances(looks):
        asked.extend(looks)
        return await real(looks)

    quick.ledger.balances = balances
    await quick.spend(900)
    await quick.look()
    await quick.look()
    assert len(asked) == 1


async def test_memory_is_bounded_whoever_asks(quick, monkeypatch):
    monkeypatch.setattr(room, "REMEMBERED", 10)
    for number in range(50):
        await quick.spend(900, tokens(1000, name=f"n{number}"))
        if number % 5 == 4:
            await quick.look()
    assert len(quick.watch._said) <= 10
    assert len(quick.watch._open) <= 10
    for number in range(50):
        await quick.spend(900, tokens(1000, name=f"m{number}"))
    assert len(quick.ledger._asked) == 10
    for number in range(50):
        with pytest.raises(BrokerError):
            await quick.spend(900, tokens(1000, name=f"m{number}"))
    assert len(quick.ledger._refused) == 10


async def test_whoever_is_watched_is_a_ledger_like_any_other(quick):
    held = await quick.ledger.hold(ask(*MINE))
    assert await quick.ledger.open_holds() == 1
    await quick.ledger.void(held.hold_id)
    assert await quick.ledger.open_holds() == 0
    await quick.ledger.close()


async def test_the_log_says_whose_it_is_and_the_metrics_do_not(tmp_path, caplog):
    from prometheus_client import generate_latest
    from support.usage_world import usage_world
    from support.worlds import AGENT

    telemetry = Telemetry("test")
    async with usage_world("memory", tmp_path) as world:
        world.ledger = watched = Watched(world.ledger)
        await world.spend(AGENT, 900)
        with caplog.at_level(logging.WARNING):
            await Watch(watched, tell(telemetry)).look()
    (record,) = [one for one in caplog.records if one.getMessage() == "quota_warning"]
    facts = {
        name: getattr(record, name) for name in ("percent", "quota", "identity", "counts", "used", "limit", "credit", "window", "reset_s")
    }
    assert facts == {
        "percent": 80,
        "quota": "team1/agents/hourly",
        "identity": AGENT,
        "counts": "total_tokens",
        "used": 900,
        "limit": 1000,
        "credit": 0,
        "window": "2026-11-17T12",
        "reset_s": 3600,
    }
    assert json.dumps(facts)
    text = generate_latest(telemetry.registry).decode()
    assert 'aiaccess_quota_warnings_total{namespace="team1",policy="agents",quota="hourly",threshold="80"} 1.0' in text
    assert "spiffe://" not in text
