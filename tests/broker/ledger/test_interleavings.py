"""Whatever the order and the fate of callers, the provider's own ledger never passes the quota; a check before an add lets it."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from support.asks import tokens
from support.clock import Clock
from support.interleaving import PROMPT, WANTED, Plan, call_all, plans
from support.ledgers import STORES, open_ledger

from broker.errors import QuotaExhausted
from broker.quota import Held

TEN_REQUESTS = tokens(10 * (PROMPT + WANTED))


class CheckThenAdd:
    """The store that one would write first: it looks, and adds when the answer is back. It must not pass."""

    def __init__(self) -> None:
        self.used = 0

    async def hold(self, ask):
        used = self.used
        await asyncio.sleep(0)
        if used + PROMPT + WANTED > ask.budgets[0].limit:
            raise QuotaExhausted("used up")
        self.used += PROMPT + WANTED
        return Held(ask.hold_id, WANTED, None, None, leased=False)

    async def settle(self, hold_id, usage):
        self.used += 0 if usage is None else usage.input_tokens + usage.output_tokens - PROMPT - WANTED

    async def void(self, hold_id):
        self.used -= PROMPT + WANTED

    async def close(self) -> None:
        """Nothing to close."""


def holds_under_every_interleaving(open_store, examples):
    @settings(max_examples=examples, deadline=None, phases=[Phase.generate])
    @given(plans)
    def check(fates):
        async def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                ledger = await open_store(Path(folder))
                try:
                    await call_all(ledger, TEN_REQUESTS, fates)
                finally:
                    await ledger.close()

        asyncio.run(run())

    check()


@pytest.mark.parametrize("store", STORES)
def test_the_provider_never_bills_more_than_the_quota(store):
    holds_under_every_interleaving(lambda folder: open_ledger(store, folder, Clock()), 100 if store == "memory" else 30)


def test_a_store_that_checks_and_then_adds_fails_the_same_property():
    async def naive(_folder):
        return CheckThenAdd()

    with pytest.raises(AssertionError, match="the quota was passed"):
        holds_under_every_interleaving(naive, 100)


@pytest.mark.parametrize("store", STORES)
async def test_when_all_say_all_they_may_the_quota_is_spent_to_the_last_token(store, tmp_path):
    ledger = await open_ledger(store, tmp_path, Clock())
    provider = await call_all(ledger, TEN_REQUESTS, [Plan((0, 0, 0), "answered", WANTED)] * 64)
    assert provider.billed_tokens == TEN_REQUESTS.limit
    await ledger.close()
