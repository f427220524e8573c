"""Every store against a naive ledger that keeps all that ever happened and adds it up anew each time it is asked."""

import asyncio
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from support.asks import ask, money, requests, tokens, width
from support.clock import Clock
from support.ledgers import STORES, open_ledger

from broker.chat import Usage
from broker.errors import BrokerError, ConcurrencyFull, ExceedsQuota, QuotaExhausted, Unavailable
from broker.grant import Budget, Per, Unit
from broker.ledger.holds import LATE_S, VOID_S
from broker.money import Rates
from broker.quota import LEASE_S, Ask, window

HOURLY, OUTPUT = tokens(2_000), tokens(900, Per.MINUTE, unit=Unit.OUTPUT_TOKENS, name="out")
INPUT, PACE, SLOTS = tokens(1_500, Per.DAY, unit=Unit.INPUT_TOKENS, name="in"), requests(4), width(2)
SHADOW = tokens(300, Per.MINUTE, name="shadow", shadow=True)
DOLLARS, WOULD_BE = money(2_500), money(400, Per.MINUTE, name="would-be", shadow=True)
BUDGETS = (HOURLY, OUTPUT, INPUT, PACE, SLOTS, SHADOW, DOLLARS, WOULD_BE)
PRICES = (None, Rates(0, 0, 0), Rates(1_000_000, 3_000_000, 0), Rates(333_333, 1_500_001, 10_000_000))
NO_PRICE = 10**15

amounts = st.integers(min_value=0, max_value=700)
usages = st.one_of(st.none(), st.builds(Usage, amounts, amounts))


def price(rates: Rates | None, prompt: int, output: int) -> int:
    """By fractions, rounded up once."""
    return ceil(Fraction(rates.input * prompt + rates.output * output + rates.request, 10**6)) if rates else NO_PRICE


def bound(asked: Ask, output: int) -> dict[Unit, int]:
    prompt = asked.demand.prompt_bound
    return costs(prompt, output, 1, price(asked.rates, prompt, output))


def costs(input_tokens: int, output_tokens: int, counted: int, microusd: int) -> dict[Unit, int]:
    return {
        Unit.USD: microusd,
        Unit.INPUT_TOKENS: input_tokens,
        Unit.OUTPUT_TOKENS: output_tokens,
        Unit.TOTAL_TOKENS: input_tokens + output_tokens,
        Unit.REQUESTS: counted,
    }


@dataclass
class Held:
    """All that is known of one hold. `charged` is what it costs as far as is known."""

    ask: Ask
    at: float
    granted: int
    charged: dict[Unit, int]
    alive_until: float
    ended: str = ""  # settled, voided, spent, late


class Naive:
    """The exact ledger: slow, and short enough to be seen to be right."""

    def __init__(self) -> None:
        self.holds: dict[str, Held] = {}
        self.voids: dict[str, float] = {}

    def used(self, budget: Budget, now: float) -> int:
        held = [hold for hold in self.holds.values() if budget in hold.ask.budgets]
        if budget.per is None:
            return sum(not hold.ended and hold.alive_until > now for hold in held)
        current = window(budget.per, now)
        return sum(hold.charged[budget.unit] for hold in held if window(budget.per, hold.at) == current)

    def fits(self, asked: Ask, output: int, now: float, *, empty: bool = False, tokens_only: bool = False) -> bool:
        needs = {**bound(asked, output), Unit.CONCURRENT: 0 if tokens_only else 1}
        for budget in asked.budgets:
            need = needs[budget.unit]
            if need and not budget.shadow and need + (0 if empty else self.used(budget, now)) > budget.limit:
                return False
        return True

    def hold(self, asked: Ask, now: float) -> int | type[BrokerError]:
        """The granted output, or the refusal."""
        least = min(asked.demand.min_output, asked.demand.wanted_output)
        if not self.fits(asked, least, now, empty=True):
            return ExceedsQuota
        if not self.fits(asked, least, now):
            return ConcurrencyFull if self.fits(asked, least, now, tokens_only=True) else QuotaExhausted
        granted = max(output for output in range(least, asked.demand.wanted_output + 1) if self.fits(asked, output, now))
        self.holds[asked.hold_id] = Held(asked, now, granted, bound(asked, granted), now + LEASE_S)
        return granted

    def settle(self, hold_id: str, usage: Usage | None, microusd: int | None) -> int:
        hold = self.holds.get(hold_id)
        if hold is None or hold.ended not in ("", "spent") or (hold.ended and usage is None):
            return 0
        over = 0
        if usage is not None:
            over = max(0, usage.input_tokens - hold.ask.demand.prompt_bound) + max(0, usage.output_tokens - hold.granted)
            unknown = bound(hold.ask, hold.granted)[Unit.USD] if hold.ask.rates else 0
            used = costs(usage.input_tokens, usage.output_tokens, 1, unknown if microusd is None else microusd)
            hold.charged = {unit: max(hold.charged[unit], used[unit]) for unit in used} if hold.ended else used
        hold.ended = "late" if hold.ended else "settled"
        return over

    def void(self, hold_id: str, now: float) -> None:
        hold = self.holds.get(hold_id)
        if hold is None:
            self.voids.setdefault(hold_id, now)
        elif not hold.ended:
            hold.charged, hold.ended = costs(0, 0, 0, 0), "voided"

    def expire(self, now: float) -> set[str]:
        overdue = {hold_id for hold_id, hold in self.holds.items() if not hold.ended and hold.at + hold.ask.expires_s <= now}
        for hold_id in overdue:
            self.holds[hold_id].ended = "spent"
        return overdue


class Comparison(RuleBasedStateMachine):
    """Callers that repeat themselves, come late or never come back; the store and the naive ledger always say the same."""

    store = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.naive = Naive()
        self.now = self.clock.now
        self.ledger = self.open()
        self.other = self.ledger if self.store == "memory" else self.open()

    def open(self):
        return self.runner.run(open_ledger(self.store, Path(self.folder.name), self.clock))

    def teardown(self) -> None:
        self.runner.run(self.ledger.close())
        self.runner.run(self.other.close())
        self.runner.close()
        self.folder.cleanup()

    def any_id(self, data, *, never_held: bool = True) -> str:
        return data.draw(st.sampled_from([*self.naive.holds, *self.naive.voids, *(["nobody"] if never_held else [])]))

    @initialize()
    def begin(self) -> None:
        """Begin a little before an hour ends, so that windows change often."""
        self.time_passes(3600 - 150)

    @rule(seconds=st.sampled_from([-30, 0, 1, 11, 29, 30, 61, 130, 700]))
    def time_goes_or_jumps_back(self, seconds: int) -> None:
        self.time_passes(seconds)

    def time_passes(self, seconds: int) -> None:
        self.clock.move(seconds)
        self.runner.run(self.ledger.void("tick"))  # any write tells the store the time
        self.naive.void("tick", self.clock.now)
        self.now = max(self.now, self.clock.now)

    @rule(
        budgets=st.sets(st.sampled_from(BUDGETS)),
        demand=st.tuples(amounts, amounts, amounts),
        rates=st.sampled_from(PRICES),
        expires_s=st.sampled_from([20, 90, 400]),
    )
    def hold(self, budgets, demand, rates, expires_s) -> None:
        chosen = [budget for budget in BUDGETS if budget in budgets]
        prompt, least, wanted = demand
        asked = ask(*chosen, prompt=prompt, least=least, wanted=wanted, expires_s=expires_s, rates=rates)
        expected = self.naive.hold(asked, self.now)
        if isinstance(expected, int):
            assert self.runner.run(self.ledger.hold(asked)).granted_output == expected
        else:
            with pytest.raises(expected):
                self.runner.run(self.ledger.hold(asked))

    @precondition(lambda self: self.naive.holds)
    @rule(data=st.data())
    def hold_once_more(self, data) -> None:
        hold_id = self.any_id(data, never_held=False)
        hold = self.naive.holds.get(hold_id)
        known = hold is not None and (not hold.ended or (hold.ended == "spent" and self.now < hold.at + hold.ask.expires_s + LATE_S))
        if known or (hold is None and self.now < self.naive.voids[hold_id] + VOID_S):
            with pytest.raises(Unavailable):
                self.runner.run(self.ledger.hold(ask(hold_id=hold_id, prompt=1, least=0, wanted=0)))

    @rule(data=st.data(), usage=usages, microusd=st.none() | amounts)
    def settle(self, data, usage, microusd) -> None:
        hold_id = self.any_id(data)
        assert self.runner.run(self.ledger.settle(hold_id, usage, microusd)) == self.naive.settle(hold_id, usage, microusd)

    @rule(data=st.data())
    def void(self, data) -> None:
        hold_id = self.any_id(data)
        self.runner.run(self.ledger.void(hold_id))
        self.naive.void(hold_id, self.now)

    @rule(data=st.data())
    def renew(self, data) -> None:
        hold_id = self.any_id(data)
        self.runner.run(self.ledger.renew([hold_id]))
        if hold_id in self.naive.holds:
            self.naive.holds[hold_id].alive_until = self.now + LEASE_S

    @rule()
    def expire(self) -> None:
        expired = self.runner.run(self.ledger.expire())
        assert {hold.hold_id for hold in expired} == self.naive.expire(self.now)
        assert all(hold.tokens == self.naive.holds[hold.hold_id].charged[Unit.TOTAL_TOKENS] for hold in expired)

    @precondition(lambda self: self.store != "memory")
    @rule()
    def restart(self) -> None:
        self.runner.run(self.ledger.close())
        self.ledger = self.open()

    @precondition(lambda self: self.store != "memory")
    @rule()
    def go_on_in_another_process(self) -> None:
        self.ledger, self.other = self.other, self.ledger

    @invariant()
    def counts_are_the_same(self) -> None:
        readings = {reading.counter: reading.used for reading in self.runner.run(self.ledger.readings())}
        assert {budget.counter: readings.get(budget.counter, 0) for budget in BUDGETS} == {
            budget.counter: self.naive.used(budget, self.now) for budget in BUDGETS
        }
        assert self.runner.run(self.ledger.open_holds()) == sum(not hold.ended for hold in self.naive.holds.values())


@pytest.mark.parametrize("store", STORES)
def test_a_store_says_what_a_naive_ledger_says(store):
    comparison = type(f"Comparison_{store}", (Comparison,), {"store": store})
    examples = 100 if store == "memory" else 60
    run_state_machine_as_test(comparison, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None))
