"""What every store of quotas must do alike."""

import asyncio

import pytest
from support.asks import AGENT, POLICY, ask, money, requests, tokens, width
from support.ledgers import used

from broker.chat import Usage
from broker.errors import ConcurrencyFull, ExceedsQuota, QuotaExhausted, Unavailable
from broker.grant import Per, PolicyRef, Unit
from broker.ledger.holds import VOID_S
from broker.money import Rates
from broker.quota import LEASE_S, Allowance, Expired, Reading, Tally

RATES = Rates(1_000_000, 2_000_000, 5_000_000)  # a micro-dollar and two for a token, five for a request


async def test_a_hold_counts_its_bound_at_once_and_says_what_is_left(ledger):
    held = await ledger.hold(ask(tokens(1_000), requests(60), prompt=100, wanted=200, hold_id="one"))
    assert (held.hold_id, held.granted_output, held.leased, held.would_refuse) == ("one", 200, False, ())
    assert held.tokens == Allowance(1_000, 700, 3600)
    assert held.requests == Allowance(60, 59, 60)
    assert await used(ledger) == {"hourly": 300, "pace": 1}
    assert await ledger.open_holds() == 1


async def test_settling_gives_back_what_was_not_used(ledger):
    held = await ledger.hold(ask(tokens(1_000), requests(60), prompt=100, wanted=200))
    assert await ledger.settle(held.hold_id, Usage(80, 30)) == 0
    assert await used(ledger) == {"hourly": 110, "pace": 1}
    assert await ledger.open_holds() == 0


async def test_each_unit_is_settled_by_its_own_part_of_the_usage(ledger):
    budgets = tokens(1_000, unit=Unit.INPUT_TOKENS, name="in"), tokens(1_000, unit=Unit.OUTPUT_TOKENS, name="out"), tokens(1_000)
    held = await ledger.hold(ask(*budgets, prompt=100, wanted=200))
    assert await used(ledger) == {"in": 100, "out": 200, "hourly": 300}
    await ledger.settle(held.hold_id, Usage(80, 30))
    assert await used(ledger) == {"in": 80, "out": 30, "hourly": 110}


async def test_settling_without_usage_spends_the_whole_hold(ledger):
    held = await ledger.hold(ask(tokens(1_000)))
    assert await ledger.settle(held.hold_id, None) == 0
    assert await used(ledger) == {"hourly": 200}
    assert await ledger.open_holds() == 0


async def test_usage_over_the_hold_is_charged_and_returned(ledger):
    held = await ledger.hold(ask(tokens(1_000), prompt=100, wanted=100))
    assert await ledger.settle(held.hold_id, Usage(150, 110)) == 60
    assert await used(ledger) == {"hourly": 260}


async def test_voiding_gives_everything_back_the_request_included(ledger):
    held = await ledger.hold(ask(tokens(1_000), requests(60), width(2)))
    await ledger.void(held.hold_id)
    assert {name: count for name, count in (await used(ledger)).items() if count} == {}
    assert await ledger.open_holds() == 0
    assert await ledger.tallies() == ()


@pytest.mark.parametrize("again", ["settle", "spend", "void"])
@pytest.mark.parametrize("first", ["settle", "spend", "void"])
async def test_the_first_of_settle_and_void_counts_and_repeats_change_nothing(ledger, first, again):
    async def finish(how: str) -> None:
        await (ledger.void("one") if how == "void" else ledger.settle("one", Usage(10, 10) if how == "settle" else None, 17))

    await ledger.hold(ask(tokens(1_000), money(1_000), rates=RATES, hold_id="one"))
    await finish(first)
    before = await used(ledger)
    await finish(again)
    assert await used(ledger) == before


async def test_settling_an_unknown_id_changes_nothing(ledger):
    assert await ledger.settle("never-held", Usage(10, 10)) == 0
    assert await ledger.readings() == ()
    assert await ledger.tallies() == ()


async def test_a_hold_that_comes_after_its_void_is_refused(ledger):
    await ledger.void("late")
    with pytest.raises(Unavailable):
        await ledger.hold(ask(tokens(1_000), hold_id="late"))
    assert await ledger.readings() == ()


async def test_ids_that_were_voided_are_forgotten_in_their_time_however_many_there_are(ledger, clock):
    ids = [f"void-{number}" for number in range(450)]  # more than one step of a sweep takes
    await ledger.hold(ask(tokens(1_000), expires_s=10 * VOID_S))  # the namespace is in use
    for hold_id in ids:
        await ledger.void(hold_id)
    clock.move(VOID_S + 1)
    await ledger.expire()
    assert {(await ledger.hold(ask(hold_id=hold_id))).hold_id for hold_id in ids} == set(ids)


async def test_a_hold_that_comes_after_its_void_is_refused_among_others_too(ledger):
    await ledger.hold(ask(tokens(1_000)))
    await ledger.void("late")
    with pytest.raises(Unavailable):
        await ledger.hold(ask(tokens(1_000), hold_id="late"))
    assert await used(ledger) == {"hourly": 200}


async def test_an_id_that_is_held_is_not_held_twice(ledger):
    await ledger.hold(ask(tokens(1_000), hold_id="one"))
    with pytest.raises(Unavailable):
        await ledger.hold(ask(tokens(1_000), hold_id="one"))
    assert await used(ledger) == {"hourly": 200}


@pytest.mark.parametrize(
    ("budgets", "refusal"),
    [
        ((tokens(150, Per.DAY, name="daily"),), ExceedsQuota),
        ((requests(1),), QuotaExhausted),
        ((width(1),), ConcurrencyFull),
    ],
)
async def test_a_refusal_of_one_budget_holds_nothing_of_the_others(ledger, budgets, refusal):
    await ledger.hold(ask(requests(1), width(1), prompt=0, least=0, wanted=0))
    before = await ledger.readings()
    with pytest.raises(refusal):
        await ledger.hold(ask(tokens(1_000), *budgets, prompt=100, least=100))
    assert await ledger.readings() == before
    assert await ledger.open_holds() == 1


async def test_the_output_is_clamped_to_what_is_left_and_only_that_is_held(ledger):
    await ledger.hold(ask(tokens(350)))
    held = await ledger.hold(ask(tokens(350)))
    assert held.granted_output == 50
    assert await used(ledger) == {"hourly": 350}


async def test_a_window_that_is_over_gives_a_new_one_the_whole_limit(ledger, clock):
    await ledger.hold(ask(tokens(200)))
    with pytest.raises(QuotaExhausted) as refusal:
        await ledger.hold(ask(tokens(200)))
    clock.move(refusal.value.retry_after_s)
    assert (await ledger.hold(ask(tokens(200)))).granted_output == 100


async def test_settling_after_the_window_ended_does_not_touch_the_new_window(ledger, clock):
    old = await ledger.hold(ask(tokens(1_000)))
    clock.move(3600)
    await ledger.hold(ask(tokens(1_000)))
    await ledger.settle(old.hold_id, Usage(0, 0))
    assert await used(ledger) == {"hourly": 200}


async def test_settling_into_a_forgotten_window_does_not_bring_it_back(ledger, clock):
    old = await ledger.hold(ask(tokens(1_000), expires_s=7200))
    clock.move(3600)
    await ledger.expire()
    await ledger.settle(old.hold_id, Usage(500, 500))
    assert await ledger.readings() == ()


async def test_time_does_not_go_back(ledger, clock):
    clock.move(3600)
    await ledger.hold(ask(tokens(200)))
    clock.move(-3600)
    with pytest.raises(QuotaExhausted):
        await ledger.hold(ask(tokens(200)))


async def test_a_changed_limit_keeps_the_count(ledger):
    await ledger.hold(ask(tokens(1_000)))
    with pytest.raises(QuotaExhausted):
        await ledger.hold(ask(tokens(250)))
    assert (await ledger.hold(ask(tokens(2_000)))).tokens == Allowance(2_000, 1_600, 3600)


async def test_shadow_budgets_are_counted_beyond_their_limit(ledger):
    held = await ledger.hold(ask(tokens(110, shadow=True), requests(1, shadow=True), width(1, shadow=True)))
    assert (held.granted_output, held.would_refuse, held.tokens) == (100, ("exceeds_quota",), None)
    held = await ledger.hold(ask(requests(1, shadow=True), width(1, shadow=True)))
    assert held.would_refuse == ("quota_exhausted", "concurrency_full")
    assert await used(ledger) == {"hourly": 200, "pace": 2, "width": 2}


@pytest.mark.parametrize("finish", [lambda ledger: ledger.void("a"), lambda ledger: ledger.settle("a", None)], ids=["void", "settle"])
async def test_a_lease_is_free_again_when_its_exchange_is_over(ledger, finish):
    assert (await ledger.hold(ask(width(1), hold_id="a"))).leased
    with pytest.raises(ConcurrencyFull):
        await ledger.hold(ask(width(1)))
    await finish(ledger)
    assert (await ledger.hold(ask(width(1)))).leased


async def test_a_lease_that_nobody_renews_is_gone_after_its_time_while_the_hold_stays(ledger, clock):
    await ledger.hold(ask(width(1), tokens(1_000)))
    clock.move(LEASE_S)
    assert (await ledger.hold(ask(width(1)))).leased
    assert await ledger.open_holds() == 2


async def test_a_renewed_lease_lives_on(ledger, clock):
    held = await ledger.hold(ask(width(1)))
    clock.move(LEASE_S - 1)
    await ledger.renew([held.hold_id, "never-held"])
    clock.move(LEASE_S - 1)
    with pytest.raises(ConcurrencyFull):
        await ledger.hold(ask(width(1)))


async def test_a_lease_that_is_renewed_too_late_counts_again_since_its_exchange_is_still_there(ledger, clock):
    late = await ledger.hold(ask(width(2)))
    clock.move(LEASE_S + 1)
    await ledger.expire()
    await ledger.hold(ask(width(2)))
    await ledger.renew([late.hold_id])
    with pytest.raises(ConcurrencyFull):
        await ledger.hold(ask(width(2)))


async def test_renewing_a_settled_hold_does_not_bring_its_lease_back(ledger):
    held = await ledger.hold(ask(width(1)))
    await ledger.settle(held.hold_id, None)
    await ledger.renew([held.hold_id])
    assert await ledger.readings() == ()


async def test_what_nobody_settles_expires_as_spent_and_is_told_once(ledger, clock):
    await ledger.hold(ask(tokens(1_000), width(3), hold_id="lost", expires_s=100))
    await ledger.hold(ask(tokens(1_000), width(3), hold_id="alive", expires_s=200))
    clock.move(10)
    assert await ledger.expire() == ()
    clock.move(90)
    await ledger.renew(["alive", "lost"])
    assert await ledger.expire() == (Expired("lost", AGENT, 200),)
    assert await ledger.expire() == ()
    assert await used(ledger) == {"hourly": 400, "width": 1}
    assert await ledger.open_holds() == 1


async def test_a_settlement_after_expiry_adds_only_the_excess_and_only_once(ledger, clock):
    for hold_id in ("less", "more", "void"):
        await ledger.hold(ask(tokens(10_000), hold_id=hold_id, expires_s=100))
    clock.move(100)
    await ledger.expire()
    await ledger.void("void")
    assert await ledger.settle("less", Usage(1, 1)) == 0
    assert await ledger.settle("more", None) == 0
    assert await ledger.settle("more", Usage(150, 100)) == 50
    assert await ledger.settle("more", Usage(150, 100)) == 0
    assert await used(ledger) == {"hourly": 650}


async def test_an_expired_id_is_not_held_again(ledger, clock):
    await ledger.hold(ask(tokens(1_000), hold_id="one", expires_s=100))
    clock.move(100)
    await ledger.expire()
    with pytest.raises(Unavailable):
        await ledger.hold(ask(tokens(1_000), hold_id="one"))


async def test_tallies_add_up_what_each_identity_used_under_each_policy(ledger, clock):
    other = PolicyRef("team1", "all-of-team1", "uid/2")
    first = await ledger.hold(ask(policies=(POLICY, other)))
    await ledger.settle(first.hold_id, Usage(10, 5))
    clock.move(60)
    second = await ledger.hold(ask())
    await ledger.settle(second.hold_id, None)
    further = await ledger.hold(ask(counted=0))
    await ledger.settle(further.hold_id, Usage(1, 1))
    await ledger.deny([POLICY], "spiffe://example.org/ns/team1/sa/other")
    assert await ledger.tallies() == (
        Tally("team1/all-of-team1", AGENT, 15, 1, 0, clock.now - 60),
        Tally("team1/weather-agents", "spiffe://example.org/ns/team1/sa/other", 0, 0, 1, 0.0),
        Tally("team1/weather-agents", AGENT, 217, 2, 0, clock.now),
    )


async def test_tallies_count_expired_holds_as_spent_and_late_excess_on_top(ledger, clock):
    await ledger.hold(ask(hold_id="lost", expires_s=100))
    clock.move(100)
    await ledger.expire()
    await ledger.settle("lost", Usage(150, 100))
    assert await ledger.tallies() == (Tally("team1/weather-agents", AGENT, 250, 1, 0, clock.now),)


async def test_tallies_forget_an_hour_after_a_day(ledger, clock):
    held = await ledger.hold(ask())
    await ledger.settle(held.hold_id, None)
    clock.move(23 * 3600)
    await ledger.expire()
    assert len(await ledger.tallies()) == 1
    clock.move(3600)
    assert await ledger.tallies() == ()


async def test_readings_name_each_counter_without_its_window(ledger, clock):
    hourly, pace, slots = tokens(1_000), requests(60), width(2)
    clock.move(10)
    await ledger.hold(ask(hourly, pace, slots))
    expected = [Reading(hourly.counter, 200, 3590), Reading(pace.counter, 1, 50), Reading(slots.counter, 1, 0)]
    assert sorted(await ledger.readings(), key=lambda reading: -reading.reset_s) == expected
    clock.move(55)
    assert await ledger.readings() == (Reading(hourly.counter, 200, 3535),)


async def test_callers_at_once_never_get_more_than_the_limit(ledger):
    answers = await asyncio.gather(*(ledger.hold(ask(tokens(2_000), least=100)) for _ in range(64)), return_exceptions=True)
    assert sum(not isinstance(answer, QuotaExhausted) for answer in answers) == 10
    assert await used(ledger) == {"hourly": 2_000}
