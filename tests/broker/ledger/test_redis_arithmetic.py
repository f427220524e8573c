"""The Lua decides as quota.grant does, whatever is asked and whatever stands on the counters."""

import asyncio
import secrets

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.asks import AGENT, POLICY, ask, money, requests, tokens, width
from support.clock import Clock
from support.ledgers import steered

from broker.chat import Usage
from broker.errors import BrokerError
from broker.grant import Per, Unit
from broker.ledger.memory import MemoryLedger
from broker.money import Rates
from broker.quota import grant

amounts = st.integers(min_value=0, max_value=200)
limits = st.integers(min_value=1, max_value=400)
budgets = st.tuples(
    st.sampled_from([Unit.TOTAL_TOKENS, Unit.INPUT_TOKENS, Unit.OUTPUT_TOKENS]), limits, st.sampled_from(Per), st.booleans()
)


# Prices and amounts up to the largest that can be written, with those on both sides of what Lua's numbers hold exactly
pico = st.one_of(st.integers(0, 10), st.integers(0, 10**9), st.integers(0, 10**15 - 1), st.just(999_999))
prices = st.none() | st.builds(Rates, pico, pico, pico)
dollars = st.one_of(st.integers(1, 10**4), st.integers(1, 10**15 - 1))
tokens_asked = st.one_of(st.integers(0, 200), st.integers(0, 2**31 - 1), st.integers(0, 128 * (2**31 - 1)))


def as_budgets(drawn, pace, slots):
    found = [tokens(limit, per, unit=unit, name=f"q{n}", shadow=shadow) for n, (unit, limit, per, shadow) in enumerate(drawn)]
    return (*found, *([requests(pace)] if pace else []), *([width(slots)] if slots else []))


async def decide(one, standing, now):
    return grant(one, standing, now)


async def said_by(ledger, one):
    held = await ledger.hold(one)
    return held.granted_output, held.tokens, held.requests, held.would_refuse


async def outcome(answer):
    """What was granted, or how it was refused."""
    try:
        return await answer
    except BrokerError as refusal:
        return type(refusal), str(refusal), refusal.retry_after_s


@settings(max_examples=150)
@given(
    drawn=st.lists(budgets, max_size=4),
    pace=st.integers(min_value=0, max_value=3),
    slots=st.integers(min_value=0, max_value=3),
    asked=st.lists(st.tuples(amounts, amounts, amounts, st.integers(min_value=0, max_value=1)), min_size=1, max_size=6),
)
def test_a_series_of_asks_is_answered_as_the_one_decision_says(drawn, pace, slots, asked):
    chosen = as_budgets(drawn, pace, slots)

    async def run() -> None:
        clock = Clock()
        ledger = await steered(f"{secrets.token_hex(8)}/", clock)
        try:
            for prompt, least, wanted, counted in asked:
                one = ask(*chosen, prompt=prompt, least=least, wanted=wanted, counted=counted)
                standing = {reading.counter: reading.used for reading in await ledger.readings()}
                expected = await outcome(decide(one, [standing.get(budget.counter, 0) for budget in chosen], clock()))
                assert await outcome(said_by(ledger, one)) == expected
        finally:
            await ledger.close()

    asyncio.run(run())


MANY = 128 * (2**31 - 1)


# In plain numbers of Lua the first would be held a micro-dollar too cheap, and the quotients of the others be one token wrong
@example(limits=[(10**15 - 1, False)], asked=[(Rates(0, 670_041, 466_246), 0, 0, 44_418_849_116, 0)])
@example(limits=[(936_622_893_123_180, False)], asked=[(Rates(0, 10_112_730_746, 702_603), 0, 0, MANY, 0)])
@example(limits=[(399_885_856_112_340, False)], asked=[(Rates(0, 4_382_214_789, 968_787), 0, 0, MANY, 0)])
@settings(max_examples=300)
@given(
    limits=st.lists(st.tuples(dollars, st.booleans()), min_size=1, max_size=3),
    asked=st.lists(st.tuples(prices, st.integers(0, 2**25), tokens_asked, tokens_asked, amounts), min_size=1, max_size=6),
)
def test_money_is_granted_to_the_last_token_as_the_one_decision_says(limits, asked):
    chosen = tuple(money(limit, name=f"m{n}", shadow=shadow) for n, (limit, shadow) in enumerate(limits))

    async def run() -> None:
        clock = Clock()
        ledger = await steered(f"{secrets.token_hex(8)}/", clock)
        try:
            for rates, prompt, least, wanted, left in asked:
                one = ask(*chosen, prompt=prompt, least=least, wanted=wanted, rates=rates)
                standing = {reading.counter: reading.used for reading in await ledger.readings()}
                expected = await outcome(decide(one, [standing.get(budget.counter, 0) for budget in chosen], clock()))
                assert await outcome(said_by(ledger, one)) == expected
                after = {reading.counter: reading.used for reading in await ledger.readings()}
                if isinstance(expected[0], int):
                    bound = one.bound(expected[0]).microusd
                    assert [after[budget.counter] for budget in chosen] == [standing.get(budget.counter, 0) + bound for budget in chosen]
                    await ledger.settle(one.hold_id, Usage(0, 0), min(bound, left))
        finally:
            await ledger.close()

    asyncio.run(run())


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 3), st.integers(20, 30), st.integers(100, 300)),
            st.booleans(),
            st.integers(0, 2**31 - 1),
            st.integers(0, 2**31 - 1),
            st.integers(0, 10**12),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_a_days_tally_is_the_same_as_in_memory_however_large_its_figures_and_however_long_nothing_was_done(steps):
    async def run() -> None:
        clock = Clock()
        redis, memory = await steered(f"{secrets.token_hex(8)}/", clock), MemoryLedger(clock)
        for number, (hours, is_denied, read, written, cost) in enumerate(steps):
            clock.move(3600 * hours)
            assert await redis.tallies() == await memory.tallies()
            for ledger in (redis, memory):
                if is_denied:
                    await ledger.deny((POLICY,), AGENT)
                else:
                    await ledger.hold(ask(hold_id=str(number), prompt=0, wanted=0))
                    await ledger.settle(str(number), Usage(read, written), cost)
            assert await redis.tallies() == await memory.tallies()
        await redis.close()

    asyncio.run(run())
