"""What every store must do alike when an operator looks at a counter, grants more on it, or clears it."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.asks import ask, requests, tokens, width
from support.clock import Clock
from support.ledgers import STORES, open_ledger, used

from broker.adjustment import Adjustment, Balance, Look
from broker.chat import Usage
from broker.errors import BrokerError, QuotaExhausted
from broker.grant import Per, Unit

HOURLY = tokens(1_000)
AT = "2026-11-17T12"


def credit(amount: int, counter: str = HOURLY.counter, per: Per = Per.HOUR) -> Adjustment:
    return Adjustment(counter, per, credit=amount)


def clear(counter: str = HOURLY.counter, per: Per = Per.HOUR) -> Adjustment:
    return Adjustment(counter, per, clears=True)


async def balance(ledger, budget=HOURLY) -> Balance:
    (found,) = await ledger.balances([Look(budget.counter, budget.per)])
    return found


async def test_a_counter_that_nobody_used_stands_at_nothing_and_looking_changes_nothing(ledger):
    assert await balance(ledger) == Balance(HOURLY.counter, AT, 0, 0, 0, 3600)
    assert await ledger.readings() == ()


async def test_a_look_says_what_is_spent_and_how_much_of_it_is_held(ledger, clock):
    one = await ledger.hold(ask(HOURLY, prompt=100, wanted=100))
    await ledger.hold(ask(HOURLY, prompt=100, wanted=200))
    await ledger.settle(one.hold_id, Usage(30, 20))
    clock.move(60)
    assert await balance(ledger) == Balance(HOURLY.counter, AT, 350, 300, 0, 3540)


async def test_looks_are_answered_in_their_order_also_across_windows_and_namespaces(ledger):
    day, pace = tokens(5_000, Per.DAY, name="daily"), requests(60)
    other = replace(HOURLY, counter=HOURLY.counter.replace("{team1}", "{team2}"))
    await ledger.hold(ask(HOURLY, day, pace))
    looks = [Look(one.counter, one.per) for one in (pace, other, day, HOURLY, pace)]
    assert [(one.counter, one.used) for one in await ledger.balances(looks)] == [
        *((pace.counter, 1), (other.counter, 0), (day.counter, 200), (HOURLY.counter, 200), (pace.counter, 1)),
    ]


async def test_below_its_floor_nobody_counts_what_is_held(ledger):
    await ledger.hold(ask(HOURLY))
    assert [one.held for one in await ledger.balances([Look(HOURLY.counter, Per.HOUR, 201)])] == [0]
    assert [one.held for one in await ledger.balances([Look(HOURLY.counter, Per.HOUR, 200)])] == [200]


async def test_a_credit_is_spent_beyond_the_limit_and_no_further(ledger):
    await ledger.settle((await ledger.hold(ask(HOURLY, prompt=900, wanted=100))).hold_id, Usage(900, 100))
    with pytest.raises(QuotaExhausted):
        await ledger.hold(ask(HOURLY, prompt=100, wanted=16))
    before, after = await ledger.adjust(credit(500))
    assert before == Balance(HOURLY.counter, AT, 1_000, 0, 0, 3600)
    assert after == replace(before, credit=500) == await balance(ledger)
    assert (await ledger.hold(ask(HOURLY, prompt=100, wanted=9_000))).granted_output == 400
    with pytest.raises(BrokerError):
        await ledger.hold(ask(HOURLY, prompt=1, wanted=1))
    assert await used(ledger) == {"hourly": 1_500}


async def test_a_credit_before_the_first_request_of_a_window_counts(ledger):
    await ledger.adjust(credit(500))
    assert (await ledger.hold(ask(HOURLY, prompt=100, wanted=9_000))).granted_output == 1_400
    (reading,) = await ledger.readings()
    assert (reading.counter, reading.used, reading.credit, reading.reset_s) == (HOURLY.counter, 1_500, 500, 3600)


async def test_a_credit_below_nothing_takes_from_the_limit(ledger):
    await ledger.adjust(credit(-600))
    assert (await ledger.hold(ask(HOURLY, prompt=100, wanted=9_000))).granted_output == 300
    assert await balance(ledger) == Balance(HOURLY.counter, AT, 400, 400, -600, 3600)


async def test_credits_add_up_and_taking_one_back_leaves_what_was(ledger):
    await ledger.hold(ask(HOURLY))
    before = await balance(ledger)
    await ledger.adjust(credit(500))
    assert (await ledger.adjust(credit(200)))[1].credit == 700
    assert (await ledger.adjust(credit(-700)))[1] == before == await balance(ledger)


async def test_a_credit_ends_with_its_window(ledger, clock):
    await ledger.adjust(credit(500))
    clock.move(3600)
    assert await balance(ledger) == Balance(HOURLY.counter, "2026-11-17T13", 0, 0, 0, 3600)
    assert (await ledger.hold(ask(HOURLY, prompt=100, wanted=9_000))).granted_output == 900
    await ledger.expire()
    assert [one.credit for one in await ledger.readings()] == [0]


async def test_a_cleared_counter_keeps_what_is_held_and_settles_to_what_is_used_from_then_on(ledger):
    done = await ledger.hold(ask(HOURLY, prompt=100, wanted=300))
    await ledger.settle(done.hold_id, Usage(100, 300))
    running = await ledger.hold(ask(HOURLY, prompt=100, wanted=200))
    before, after = await ledger.adjust(clear())
    assert (before.used, before.held) == (700, 300)
    assert (after.used, after.held) == (300, 300)
    assert await balance(ledger) == after
    await ledger.settle(running.hold_id, Usage(10, 5))
    assert await used(ledger) == {"hourly": 15}


@pytest.mark.parametrize("end", ["settle", "spend", "void", "expire", "late"])
async def test_whatever_ends_a_hold_after_a_clearing_the_counter_is_never_below_nothing(ledger, clock, end):
    running = await ledger.hold(ask(HOURLY, prompt=100, wanted=200, expires_s=30))
    await ledger.adjust(clear())
    if end in ("expire", "late"):
        clock.move(31)
        await ledger.expire()
    if end in ("settle", "late"):
        await ledger.settle(running.hold_id, Usage(0, 0))
    if end == "spend":
        await ledger.settle(running.hold_id, None)
    if end == "void":
        await ledger.void(running.hold_id)
    assert (await balance(ledger)).used == {"settle": 0, "void": 0}.get(end, 300)


async def test_a_clearing_after_an_expiry_forgets_that_too_and_a_late_settlement_adds_its_excess_alone(ledger, clock):
    late = await ledger.hold(ask(HOURLY, prompt=100, wanted=200, expires_s=30))
    clock.move(31)
    await ledger.expire()
    assert (await ledger.adjust(clear()))[1].used == 0
    await ledger.settle(late.hold_id, Usage(340, 10))
    assert (await balance(ledger)).used == 50


async def test_a_clearing_leaves_the_credit_and_other_counters_alone(ledger):
    pace = requests(60)
    await ledger.settle((await ledger.hold(ask(HOURLY, pace))).hold_id, Usage(50, 50))
    await ledger.adjust(credit(500))
    assert (await ledger.adjust(clear()))[1] == Balance(HOURLY.counter, AT, 0, 0, 500, 3600)
    assert await used(ledger) == {"hourly": 0, "pace": 1}


async def test_a_hold_of_a_window_before_does_not_count_as_held_in_this_one(ledger, clock):
    await ledger.hold(ask(HOURLY))
    clock.move(3600)
    await ledger.hold(ask(HOURLY, prompt=10, wanted=10))
    assert (await ledger.adjust(clear()))[1].used == 20


async def test_every_unit_is_cleared_by_its_own_part_of_what_is_held(ledger):
    out = tokens(1_000, unit=Unit.OUTPUT_TOKENS, name="out")
    await ledger.hold(ask(HOURLY, out, prompt=100, wanted=300))
    assert (await ledger.adjust(clear(out.counter)))[1].used == 300
    assert (await ledger.adjust(clear()))[1].used == 400


async def test_leases_stay_what_they_are(ledger):
    slots = width(2)
    await ledger.hold(ask(HOURLY, slots))
    await ledger.adjust(clear())
    assert await used(ledger) == {"hourly": 200, "width": 1}


async def test_adjustments_at_once_all_count(ledger):
    await asyncio.gather(
        *(ledger.adjust(credit(10)) for _ in range(50)), *(ledger.hold(ask(HOURLY, prompt=10, wanted=10)) for _ in range(20))
    )
    assert await balance(ledger) == Balance(HOURLY.counter, AT, 400, 400, 500, 3600)


STEPS = st.lists(
    st.sampled_from(["hold", "settle", "void", "spend", "credit", "uncredit", "clear", "expire", "late"]), min_size=3, max_size=25
)


@pytest.mark.parametrize("store", STORES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, data=st.data())
def test_in_any_order_spent_is_what_was_spent_since_the_last_clearing_and_the_ceiling_holds(store, tmp_path_factory, steps, data):
    """A book of our own says what must stand on the counter."""
    asyncio.run(_walk(store, tmp_path_factory.mktemp("walk"), steps, data))


async def _walk(store, folder, steps, data):
    clock = Clock()
    ledger = await open_ledger(store, folder, clock)
    running: dict[str, int] = {}
    expired: dict[str, int] = {}
    spent = credited = 0
    budget = tokens(1_000)
    try:
        for number, step in enumerate(steps):
            room = 1_000 + credited - spent - sum(running.values())
            if step == "hold":
                wanted = data.draw(st.integers(1, 600))
                try:
                    held = await ledger.hold(ask(budget, prompt=50, least=1, wanted=wanted, hold_id=f"h{number}", expires_s=60 + number))
                except BrokerError:
                    assert room < 51
                else:
                    running[held.hold_id] = 50 + held.granted_output
                    assert running[held.hold_id] <= room
            elif step in ("settle", "void", "spend") and running:
                hold_id = data.draw(st.sampled_from(sorted(running)))
                was = running.pop(hold_id)
                cost = {"settle": was // 2, "void": 0, "spend": was}[step]
                spent += cost
                await (ledger.void(hold_id) if step == "void" else ledger.settle(hold_id, Usage(0, cost) if step == "settle" else None))
            elif step in ("credit", "uncredit"):
                amount = data.draw(st.integers(1, 500)) * (1 if step == "credit" else -1)
                credited += amount
                assert (await ledger.adjust(credit(amount, budget.counter)))[1].credit == credited
            elif step == "clear":
                spent = 0
                assert (await ledger.adjust(clear(budget.counter)))[1].used == sum(running.values())
            elif step == "expire" and running:
                clock.move(120)
                await ledger.expire()
                spent += sum(running.values())
                expired.update(running)
                running.clear()
            elif step == "late" and expired:
                hold_id = data.draw(st.sampled_from(sorted(expired)))
                await ledger.settle(hold_id, Usage(0, max(0, expired.pop(hold_id) - 50)))
            found = await balance(ledger, budget)
            assert (found.used, found.held, found.credit) == (spent + sum(running.values()), sum(running.values()), credited)
    finally:
        await ledger.close()
