"""A model of the protocol on a bad network: questions come late or never, endings twice and in any order, answers are lost, brokers
crash. Whatever happens, the provider never bills more than the quota, and in the end the store has charged what was billed, or held.
"""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from support.asks import ask, money, tokens, width
from support.clock import Clock
from support.ledgers import STORES, open_ledger, used

from broker.chat import Usage
from broker.errors import BrokerError
from broker.grant import Per
from broker.ledger.holds import VOID_S
from broker.money import Price, dearest
from broker.quota import Ask

PROMPT, WANTED, EXPIRES_S = 100, 100, 100.0
QUOTA = tokens(10 * (PROMPT + WANTED), Per.MONTH, name="ceiling")
SLOTS = width(6)
# Two backends of one model: either may answer, so each hold is priced at the dearer one
PRICES = (Price(1_000_000, 4_000_000, 100_000, 1_250_000, 5_000_000), Price(300_001, 999_999, 300_001, 300_001))
RATES = dearest(PRICES)
DOLLARS = money(8 * RATES.microusd(PROMPT, WANTED), Per.MONTH, name="dollars")


@dataclass(eq=False)
class Exchange:
    """What its broker knows of it (state, granted), and what is true (charged: nothing as long as the store holds nothing)."""

    ask: Ask
    state: Literal["asking", "held", "ended", "given up", "crashed"] = "asking"
    granted: int = 0
    charged: int | None = None
    charged_microusd: int = 0
    expires_at: float = 0.0
    is_over: bool = False
    voided_at: float | None = None


@dataclass(frozen=True)
class Ending:
    """Is sent again until it is answered; `usage` None = nobody knows."""

    exchange: Exchange
    is_void: bool
    usage: Usage | None = None
    microusd: int | None = None


class BadNetwork(RuleBasedStateMachine):
    store = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.all: list[Exchange] = []
        self.questions: list[Exchange] = []  # whose holds are on their way to the store
        self.sent: list[Ending] = []
        self.billed = 0
        self.billed_microusd = 0
        opened = [self.runner.run(open_ledger(self.store, Path(self.folder.name), self.clock)) for _ in range(2)]
        self.brokers = opened[:1] * 2 if self.store == "memory" else opened

    def teardown(self) -> None:
        """Everything arrives at last, and what nobody settled expires."""
        try:
            for ending in self.sent:
                self.arrive(ending, self.brokers[0])
            self.time_passes(EXPIRES_S)
            self.sweep(1)
            held = [one.charged for one in self.all if one.charged is not None]
            assert self.counted() == sum(held)
            assert self.counted("dollars") == sum(one.charged_microusd for one in self.all)
            assert self.runner.run(self.brokers[0].open_holds()) == 0
            assert "width" not in self.runner.run(used(self.brokers[0]))
        finally:
            for broker in set(self.brokers):
                self.runner.run(broker.close())
            self.runner.close()
            self.folder.cleanup()

    def counted(self, name: str = "ceiling") -> int:
        return self.runner.run(used(self.brokers[1])).get(name, 0)

    def are(self, *states: str) -> list[Exchange]:
        """Exchanges whose brokers think so. One that is held ends before its hold expires: its deadlines lie before that."""
        return [one for one in self.all if one.state in states and (one.state != "held" or self.clock.now < one.expires_at)]

    @initialize()
    def begin_with_some(self) -> None:
        for _ in range(4):
            self.begin()

    @rule()
    def begin(self) -> None:
        """The hold is asked once; it arrives later, if at all."""
        exchange = Exchange(ask(QUOTA, SLOTS, DOLLARS, prompt=PROMPT, wanted=WANTED, expires_s=EXPIRES_S, rates=RATES))
        self.all.append(exchange)
        self.questions.append(exchange)

    @precondition(lambda self: self.questions)
    @rule(data=st.data(), broker=st.integers(0, 1), is_answer_lost=st.booleans())
    def hold_arrives(self, data, broker, is_answer_lost) -> None:
        """Now, however late."""
        exchange = data.draw(st.sampled_from(self.questions))
        self.questions.remove(exchange)
        try:
            held = self.runner.run(self.brokers[broker].hold(exchange.ask))
        except BrokerError:
            if exchange.state == "asking" and not is_answer_lost:
                exchange.state = "ended"
            return
        assert exchange.voided_at is None or self.clock.now >= exchange.voided_at + VOID_S, "held after its void"
        exchange.charged = PROMPT + held.granted_output
        exchange.charged_microusd = RATES.microusd(PROMPT, held.granted_output)
        exchange.expires_at = self.clock.now + EXPIRES_S
        if exchange.state == "asking" and not is_answer_lost:
            exchange.state, exchange.granted = "held", held.granted_output

    @precondition(lambda self: self.are("asking"))
    @rule(data=st.data())
    def give_up_waiting_for_the_answer(self, data) -> None:
        exchange = data.draw(st.sampled_from(self.are("asking")))
        exchange.state = "given up"
        self.sent.append(Ending(exchange, is_void=True))

    @precondition(lambda self: self.are("held"))
    @rule(
        data=st.data(),
        words=st.integers(0, 2 * WANTED),
        price=st.sampled_from(PRICES),
        fate=st.sampled_from(["answered", "hung up", "never sent"]),
    )
    def end(self, data, words, price, fate) -> None:
        exchange = data.draw(st.sampled_from(self.are("held")))
        exchange.state = "ended"
        if fate == "never sent":
            self.sent.append(Ending(exchange, is_void=True))
            return
        usage, microusd = self.bill(exchange, words, price)
        is_known = fate == "answered"
        self.sent.append(Ending(exchange, is_void=False, usage=usage if is_known else None, microusd=microusd if is_known else None))

    @precondition(lambda self: self.are("asking", "held"))
    @rule(data=st.data(), words=st.integers(0, 2 * WANTED), price=st.sampled_from(PRICES))
    def crash(self, data, words, price) -> None:
        exchange = data.draw(st.sampled_from(self.are("asking", "held")))
        if exchange.state == "held":
            self.bill(exchange, words, price)
        exchange.state = "crashed"

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), broker=st.integers(0, 1))
    def ending_arrives(self, data, broker) -> None:
        """Not for the last time: its answer may have been lost."""
        self.arrive(data.draw(st.sampled_from(self.sent)), self.brokers[broker])

    @rule(seconds=st.sampled_from([1, 20, 29, 50]))
    def time_passes(self, seconds) -> None:
        self.clock.move(seconds)

    @rule(broker=st.integers(0, 1))
    def sweep(self, broker) -> None:
        overdue = {one.ask.hold_id for one in self.all if one.charged is not None and not one.is_over and one.expires_at <= self.clock.now}
        assert {one.hold_id for one in self.runner.run(self.brokers[broker].expire())} == overdue
        for one in self.all:
            one.is_over = one.is_over or one.ask.hold_id in overdue

    @invariant()
    def what_is_billed_is_counted(self) -> None:
        assert self.billed <= QUOTA.limit
        assert self.billed <= self.counted() <= QUOTA.limit
        assert self.billed_microusd <= self.counted("dollars") <= DOLLARS.limit

    def bill(self, exchange: Exchange, words: int, price: Price) -> tuple[Usage, int]:
        """A part of the prompt is cached, another one written to the cache."""
        usage = Usage(PROMPT, min(exchange.granted, words), words % PROMPT // 2, PROMPT // 3)
        microusd = price.cost(usage)
        self.billed += usage.input_tokens + usage.output_tokens
        self.billed_microusd += microusd
        return usage, microusd

    def arrive(self, ending: Ending, broker) -> None:
        exchange = ending.exchange
        if ending.is_void:
            self.runner.run(broker.void(exchange.ask.hold_id))
        else:
            assert self.runner.run(broker.settle(exchange.ask.hold_id, ending.usage, ending.microusd)) == 0
        if exchange.charged is None:
            if ending.is_void and exchange.voided_at is None:
                exchange.voided_at = self.clock.now
        elif not exchange.is_over:
            exchange.is_over = True
            if ending.is_void:
                exchange.charged = exchange.charged_microusd = 0
            elif ending.usage is not None:
                exchange.charged = ending.usage.input_tokens + ending.usage.output_tokens
                exchange.charged_microusd = ending.microusd or 0


@pytest.mark.parametrize("store", STORES)
def test_on_a_bad_network_nothing_is_billed_uncounted_and_nothing_counted_twice(store):
    machine = type(f"BadNetwork_{store}", (BadNetwork,), {"store": store})
    examples = 150 if store == "memory" else 60
    quick = [Phase.explicit, Phase.reuse, Phase.generate]  # a smaller failure would take minutes to find
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=50, deadline=None, phases=quick))
