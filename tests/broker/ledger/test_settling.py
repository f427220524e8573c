"""Settlements arrive: at once, after an outage, or their hold expires as spent and somebody is told."""

import asyncio
import logging

import pytest
from support.asks import ask, money, requests, tokens, width
from support.clock import Clock
from support.ledgers import used

from broker.chat import Usage
from broker.errors import Unavailable
from broker.ledger.memory import MemoryLedger
from broker.ledger.settling import Settler
from broker.money import Rates
from broker.quota import Held


class Shaky(MemoryLedger):
    """A memory ledger that is away for the next `away` endings; with `loses` it answers so, but has done it."""

    def __init__(self, *, away: int = 0, loses: bool = False) -> None:
        super().__init__(Clock())
        self.away = away
        self.loses = loses

    def _is_away(self) -> bool:
        self.away -= 1
        return self.away >= 0

    async def settle(self, hold_id, usage, cost_microusd=None):
        if self._is_away():
            if self.loses:
                await super().settle(hold_id, usage, cost_microusd)
            raise Unavailable("away")
        return await super().settle(hold_id, usage, cost_microusd)

    async def void(self, hold_id):
        if self._is_away():
            raise Unavailable("away")
        await super().void(hold_id)

    async def deny(self, policies, identity):
        if self._is_away():
            raise Unavailable("away")
        await super().deny(policies, identity)


async def test_what_is_settled_is_in_the_ledger_before_a_later_turn_holds():
    ledger = Shaky()
    settler = Settler(ledger)
    await ledger.hold(ask(width(1), hold_id="one"))

    async def next_request() -> Held:
        return await ledger.hold(ask(width(1)))

    settler.settle("one", Usage(1, 1))
    assert (await asyncio.get_running_loop().create_task(next_request())).leased


@pytest.mark.parametrize("loses", [False, True], ids=["before", "after"])
async def test_settlements_that_fail_before_or_after_the_store_did_them_are_repeated_and_charge_once(loses):
    ledger = Shaky(away=3, loses=loses)
    settler = Settler(ledger)
    for hold_id in ("a", "b"):
        await ledger.hold(ask(tokens(10_000), hold_id=hold_id))
        settler.settle(hold_id, Usage(10, 5))
    assert await settler.drain(10) == 0
    assert await used(ledger) == {"hourly": 30}
    assert (settler.waiting, settler.dropped) == (0, 0)


async def test_voids_that_fail_are_repeated():
    ledger = Shaky(away=2)
    settler = Settler(ledger)
    await ledger.hold(ask(requests(10), hold_id="a"))
    settler.void("a")
    assert await settler.drain(10) == 0
    assert await used(ledger) == {"pace": 0}


async def test_what_finds_the_queue_full_is_dropped_said_once_and_stays_charged(caplog):
    ledger = Shaky(away=10**6)
    settler = Settler(ledger, bound=2)
    for hold_id in "abcd":
        await ledger.hold(ask(tokens(10_000), hold_id=hold_id))
        settler.settle(hold_id, Usage(0, 0))
    assert settler.dropped == 2
    ledger.away = 0
    assert await settler.drain(10) == 0
    assert await used(ledger) == {"hourly": 400}
    assert [record.message for record in caplog.records] == ["settlement_queue_full"]


async def test_what_the_deadline_of_a_shutdown_leaves_is_counted_and_said(caplog):
    ledger = Shaky(away=10**6)
    settler = Settler(ledger)
    settler.settle("a", Usage(0, 0))
    settler.void("b")
    assert await settler.drain(0.0) == 2
    assert settler.dropped == 2
    assert [record.message for record in caplog.records] == ["settlements_lost"]


async def test_a_shutdown_without_anything_to_do_is_over_at_once():
    assert await Settler(Shaky()).drain(0.0) == 0


async def test_usage_over_the_hold_is_alarmed(caplog):
    ledger = Shaky()
    settler = Settler(ledger)
    await ledger.hold(ask(tokens(10_000), prompt=100, wanted=100, hold_id="a"))
    settler.settle("a", Usage(120, 100))
    await settler.drain(10)
    assert settler.excess_tokens == 20
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.ERROR, "usage_over_hold")]


async def test_what_had_no_bound_is_charged_and_alarms_nobody(caplog):
    ledger = Shaky()
    settler = Settler(ledger)
    await ledger.hold(ask(tokens(10_000, shadow=True), prompt=0, least=0, wanted=0, hold_id="a"))
    settler.settle("a", Usage(120, 100), bounded=False)
    await settler.drain(10)
    assert [reading.used for reading in await ledger.readings()] == [220]
    assert (settler.excess_tokens, caplog.records) == (0, [])


async def test_denials_are_counted_and_lost_without_a_sound_when_the_store_is_away():
    ledger = Shaky(away=1)
    settler = Settler(ledger)
    denied = ask()
    settler.deny(denied.policies, denied.identity)
    settler.deny(denied.policies, denied.identity)
    assert await settler.drain(10) == 0
    assert [tally.denied for tally in await ledger.tallies()] == [1]


@pytest.mark.parametrize("away", [0, 2])
async def test_what_it_cost_arrives_with_the_usage_however_often_it_is_sent(away):
    ledger = Shaky(away=away)
    settler = Settler(ledger)
    await ledger.hold(ask(money(1_000), hold_id="one", rates=Rates(1_000_000, 1_000_000, 0)))
    settler.settle("one", Usage(10, 5), 15)
    assert await settler.drain(10) == 0
    assert await used(ledger) == {"money": 15}
