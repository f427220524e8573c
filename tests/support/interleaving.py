"""Many callers against one quota, each with a fate of its own, and a provider that keeps its own ledger of what it billed."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

from broker.chat import Usage
from broker.errors import BrokerError
from broker.grant import Budget
from broker.quota import Ledger

from .asks import ask

PROMPT, WANTED = 100, 100

Fate = Literal["answered", "hung_up", "crashed", "never_sent"]


@dataclass(frozen=True)
class Plan:
    """What becomes of one caller: how many turns of the loop it waits before each step, and what the model wants to say."""

    waits: tuple[int, int, int]
    fate: Fate
    words: int


plans = st.lists(
    st.builds(
        Plan,
        st.tuples(*[st.integers(min_value=0, max_value=3)] * 3),
        st.sampled_from(["answered", "hung_up", "crashed", "never_sent"]),
        st.integers(min_value=0, max_value=2 * WANTED),
    ),
    min_size=20,
    max_size=64,
)


class Provider:
    """Obeys its output limit, and bills what it said whether the caller still listens or not."""

    def __init__(self, limit_tokens: int) -> None:
        self.limit_tokens = limit_tokens
        self.billed_tokens = 0

    def answer(self, output_limit: int, words: int) -> Usage:
        usage = Usage(PROMPT, min(output_limit, words))
        self.billed_tokens += usage.input_tokens + usage.output_tokens
        assert self.billed_tokens <= self.limit_tokens, "the quota was passed"
        return usage


async def call_all(ledger: Ledger, budget: Budget, fates: list[Plan]) -> Provider:
    """Every caller at once.

    Raises:
        AssertionError: the provider billed more than the budget allows.
    """
    provider = Provider(budget.limit)
    await asyncio.gather(*(_call(ledger, budget, plan, provider) for plan in fates))
    return provider


async def _call(ledger: Ledger, budget: Budget, plan: Plan, provider: Provider) -> None:
    await _turns(plan.waits[0])
    try:
        held = await ledger.hold(ask(budget, prompt=PROMPT, wanted=WANTED))
    except BrokerError:
        return
    await _turns(plan.waits[1])
    if plan.fate == "never_sent":
        await ledger.void(held.hold_id)
        return
    usage = provider.answer(held.granted_output, plan.words)
    await _turns(plan.waits[2])
    if plan.fate != "crashed":
        await ledger.settle(held.hold_id, usage if plan.fate == "answered" else None)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
