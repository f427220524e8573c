"""What is remembered of a hold, and what its end changes."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from support.asks import AGENT, ask, money, requests, tokens, width
from support.clock import Clock

from broker.chat import Usage
from broker.grant import Per, Unit
from broker.ledger.holds import Charge, Hold, first_hour, hour_of, open_hold
from broker.money import Rates
from broker.quota import Spending

NOON = Clock().now
RATES = Rates(1_000_000, 3_500_000, 7_000_000)
amounts = st.integers(min_value=0, max_value=2**31 - 1)


def held(prompt: int = 100, granted: int = 50) -> Hold:
    budgets = tokens(10_000), tokens(10_000, Per.DAY, unit=Unit.OUTPUT_TOKENS, name="out"), requests(60), width(8), money(10_000)
    return open_hold(ask(*budgets, prompt=prompt, rates=RATES), granted, NOON)


def test_a_hold_remembers_each_charge_with_the_window_it_fell_in():
    hourly, out, pace, slots = tokens(1), tokens(1, Per.DAY, unit=Unit.OUTPUT_TOKENS, name="out"), requests(1), width(1)
    assert held() == Hold(
        identity=AGENT,
        policies=("team1/weather-agents",),
        charges=(
            Charge(hourly.counter, "2026-11-17T12", NOON + 3600, Unit.TOTAL_TOKENS, 150),
            Charge(out.counter, "2026-11-17", NOON + 12 * 3600, Unit.OUTPUT_TOKENS, 50),
            Charge(pace.counter, "2026-11-17T12:00", NOON + 60, Unit.REQUESTS, 1),
            Charge(money(1).counter, "2026-11-17", NOON + 12 * 3600, Unit.USD, 282),
        ),
        leases=(slots.counter,),
        prompt_bound=100,
        granted_output=50,
        requests=1,
        expires_at=NOON + 600,
        microusd=282,
    )


def test_a_hold_survives_being_written_down():
    assert msgspec.json.decode(msgspec.json.encode(held()), type=Hold) == held()


@given(amounts, amounts, amounts, amounts, st.none() | amounts)
def test_held_and_corrected_is_what_was_used(prompt, granted, input_tokens, output_tokens, microusd):
    hold = held(prompt, granted)
    spent = hold.spent(Usage(input_tokens, output_tokens), microusd)
    corrected = {charge.unit: charge.held for charge in hold.charges}
    for charge, change in hold.corrections(spent):
        corrected[charge.unit] += change
    assert corrected == {
        Unit.TOTAL_TOKENS: input_tokens + output_tokens,
        Unit.OUTPUT_TOKENS: output_tokens,
        Unit.REQUESTS: 1,
        Unit.USD: RATES.microusd(prompt, granted) if microusd is None else microusd,
    }


def test_a_hold_that_an_older_broker_wrote_down_cost_nothing():
    *older, _ = held()
    assert msgspec.json.decode(msgspec.json.encode(older), type=Hold).microusd == 0


def test_what_is_tallied_on_top_of_a_spent_hold_is_what_was_more():
    assert held(100, 50).beyond(Spending(130, 40, 1, 300)) == Spending(30, 0, 0, 18)
    assert held(100, 50).beyond(Spending(90, 60, 1, 100)) == Spending(0, 10, 0, 0)


def test_excess_counts_input_and_output_each_for_itself():
    assert held(100, 50).excess(Usage(90, 50)) == 0
    assert held(100, 50).excess(Usage(10, 60)) == 10
    assert held(100, 50).excess(Usage(130, 60)) == 40


def test_the_last_24_hours_are_24_buckets():
    assert hour_of(NOON) - first_hour(NOON) + 1 == 24
    assert hour_of(NOON + 3600) == hour_of(NOON) + 1
