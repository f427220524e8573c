"""What every store of quotas must do alike with money."""

import pytest
from support.asks import ask, money, tokens
from support.ledgers import used

from broker.chat import Usage
from broker.errors import ExceedsQuota, QuotaExhausted
from broker.money import MOST_MICROUSD, Rates

RATES = Rates(1_000_000, 2_000_000, 5_000_000)  # a micro-dollar and two for a token, five for a request


async def test_a_hold_counts_what_it_costs_at_most_and_a_settlement_what_it_cost(ledger):
    held = await ledger.hold(ask(money(1_000), prompt=100, wanted=200, rates=RATES))
    assert held.granted_output == 200
    assert await used(ledger) == {"money": 505}
    assert await ledger.settle(held.hold_id, Usage(80, 30), 77) == 0
    assert await used(ledger) == {"money": 77}


async def test_the_output_is_clamped_to_what_the_money_left_pays_for(ledger):
    await ledger.hold(ask(money(600), prompt=100, wanted=100, rates=RATES))
    held = await ledger.hold(ask(money(600), prompt=100, wanted=100, rates=RATES))
    assert held.granted_output == 95
    assert await used(ledger) == {"money": 600}
    with pytest.raises(QuotaExhausted):
        await ledger.hold(ask(money(600), prompt=1, least=0, wanted=0, rates=RATES))


async def test_money_and_tokens_are_held_together_or_not_at_all(ledger):
    with pytest.raises(ExceedsQuota):
        await ledger.hold(ask(tokens(1_000), money(136), prompt=100, least=16, rates=RATES))
    assert await ledger.readings() == ()
    await ledger.hold(ask(tokens(1_000), money(137), prompt=100, least=16, rates=RATES))
    assert await used(ledger) == {"hourly": 116, "money": 137}


@pytest.mark.parametrize(("usage", "microusd", "expected"), [(None, 3, 305), (Usage(10, 10), None, 305), (Usage(0, 0), 0, 0)])
async def test_of_money_the_hold_is_spent_where_nobody_knows_what_it_cost(ledger, usage, microusd, expected):
    held = await ledger.hold(ask(money(1_000), prompt=100, wanted=100, rates=RATES))
    await ledger.settle(held.hold_id, usage, microusd)
    assert await used(ledger) == {"money": expected}
    assert [tally.cost_microusd for tally in await ledger.tallies()] == [expected]


async def test_more_money_than_was_held_is_charged(ledger):
    held = await ledger.hold(ask(money(400), prompt=100, wanted=100, rates=RATES))
    await ledger.settle(held.hold_id, Usage(100, 100), 1_000)
    assert await used(ledger) == {"money": 1_000}


async def test_voiding_gives_money_back(ledger):
    held = await ledger.hold(ask(money(400), prompt=100, wanted=100, rates=RATES))
    await ledger.void(held.hold_id)
    assert (await used(ledger)).get("money", 0) == 0
    assert await ledger.tallies() == ()


async def test_money_expires_as_spent_and_a_late_settlement_adds_only_what_was_more(ledger, clock):
    for hold_id in ("less", "more", "unknown"):
        await ledger.hold(ask(money(10_000), prompt=100, wanted=100, hold_id=hold_id, expires_s=100, rates=RATES))
    clock.move(100)
    assert {(one.hold_id, one.cost_microusd) for one in await ledger.expire()} == {("less", 305), ("more", 305), ("unknown", 305)}
    await ledger.settle("less", Usage(1, 1), 3)
    await ledger.settle("more", Usage(150, 100), 355)
    await ledger.settle("unknown", Usage(100, 100), None)
    assert await used(ledger) == {"money": 965}
    assert [(tally.tokens, tally.cost_microusd) for tally in await ledger.tallies()] == [(650, 965)]


async def test_what_an_exchange_cost_is_tallied_without_any_quota_of_money(ledger, clock):
    for usage, microusd in ((Usage(10, 5), 25), (None, None)):
        held = await ledger.hold(ask(tokens(10_000), prompt=100, wanted=100, rates=RATES))
        await ledger.settle(held.hold_id, usage, microusd)
        clock.move(3600)
    without = await ledger.hold(ask(tokens(10_000)))
    await ledger.settle(without.hold_id, Usage(1, 1), None)
    assert [(tally.tokens, tally.cost_microusd) for tally in await ledger.tallies()] == [(217, 330)]


async def test_the_cheapest_price_is_held_and_the_dearest_is_refused_to_the_last_digit(ledger):
    cheapest = await ledger.hold(ask(money(1_000), prompt=1, wanted=10**6, rates=Rates(0, 1, 0)))
    assert cheapest.granted_output == 10**6
    assert await used(ledger) == {"money": 1}
    almost, most = money(MOST_MICROUSD - 2, name="almost"), money(MOST_MICROUSD - 1, name="most")
    dearest = Rates(MOST_MICROUSD - 1, 0, 0)
    with pytest.raises(ExceedsQuota):
        await ledger.hold(ask(most, prompt=10**7, least=0, wanted=0, rates=dearest))
    with pytest.raises(ExceedsQuota):
        await ledger.hold(ask(almost, prompt=10**6, least=0, wanted=0, rates=dearest))
    held = await ledger.hold(ask(most, prompt=10**6, least=0, wanted=0, rates=dearest))
    assert (await used(ledger))["most"] == MOST_MICROUSD - 1
    await ledger.settle(held.hold_id, Usage(10**6, 0), MOST_MICROUSD - 3)
    assert (await used(ledger))["most"] == MOST_MICROUSD - 3


async def test_a_refusal_says_what_prompt_would_have_fitted_and_its_id_can_be_asked_again(ledger):
    """The second question, with a counted prompt, has the id of the first."""
    budgets = tokens(150), money(1_000)
    with pytest.raises(ExceedsQuota) as refusal:
        await ledger.hold(ask(*budgets, prompt=500, least=20, wanted=50, rates=RATES, hold_id="one"))
    room = refusal.value.prompt_room
    assert room == 130
    assert (await ledger.hold(ask(*budgets, prompt=room, least=20, wanted=50, rates=RATES, hold_id="one"))).granted_output == 20
    with pytest.raises(QuotaExhausted) as refusal:
        await ledger.hold(ask(money(1_000), prompt=810, least=10, wanted=50, rates=RATES, hold_id="two"))
    room = refusal.value.prompt_room
    assert room == 1_000 - 175 - 5 - 20
    assert (await ledger.hold(ask(money(1_000), prompt=room - 10, least=10, wanted=50, rates=RATES, hold_id="two"))).granted_output == 15
    await ledger.void("two")
    assert {name: count for name, count in (await used(ledger)).items() if count} == {"hourly": 150, "money": 175}


async def test_what_has_no_price_is_refused_by_money_and_recorded_by_a_shadow_of_it(ledger):
    with pytest.raises(ExceedsQuota):
        await ledger.hold(ask(money(MOST_MICROUSD - 1)))
    held = await ledger.hold(ask(money(1_000, shadow=True)))
    assert held.would_refuse == ("exceeds_quota",)
    await ledger.settle(held.hold_id, Usage(1, 1), None)
    assert [tally.cost_microusd for tally in await ledger.tallies()] == [0]
