"""The Lua decides as quota.grant does, whatever is asked and whatever stands on the counters."""

import asyncio
import secrets

from hypothesis import given, settings
from hypothesis import strategies as st
from support.asks import ask, requests, tokens, width
from support.clock import Clock
from support.ledgers import steered

from broker.errors import BrokerError
from broker.grant import Per, Unit
from broker.quota import grant

amounts = st.integers(min_value=0, max_value=200)
limits = st.integers(min_value=1, max_value=400)
budgets = st.tuples(
    st.sampled_from([Unit.TOTAL_TOKENS, Unit.INPUT_TOKENS, Unit.OUTPUT_TOKENS]), limits, st.sampled_from(Per), st.booleans()
)


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
