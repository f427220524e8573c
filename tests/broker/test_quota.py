"""The arithmetic of quotas: windows, the decision, what headers say."""

from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.asks import ask, money, requests, tokens, width

from broker.errors import ConcurrencyFull, ExceedsQuota, QuotaExhausted
from broker.grant import Budget, Per, Unit
from broker.money import Rates
from broker.quota import Allowance, Spending, grant, reset_text, uncountable, window


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = at("2026-11-17T12:00:00")

moments = st.floats(min_value=0, max_value=at("2199-12-31T23:59:59"), allow_nan=False)
amounts = st.integers(min_value=0, max_value=2_000)
limits = st.integers(min_value=1, max_value=5_000)
rates = st.builds(Rates, *[st.sampled_from([0, 1, 999_999, 1_000_000, 2_500_000])] * 3)


@pytest.mark.parametrize(
    ("per", "label", "ends_at"),
    [
        (Per.MINUTE, "2026-12-31T23:59", "2027-01-01T00:00:00"),
        (Per.HOUR, "2026-12-31T23", "2027-01-01T00:00:00"),
        (Per.DAY, "2026-12-31", "2027-01-01T00:00:00"),
        (Per.MONTH, "2026-12", "2027-01-01T00:00:00"),
    ],
)
def test_at_the_last_second_of_a_year_every_window_ends_with_it(per, label, ends_at):
    assert window(per, at("2026-12-31T23:59:59")) == (label, at(ends_at))


def test_february_of_a_leap_year_has_29_days():
    assert window(Per.MONTH, at("2028-02-10T10:00:00")) == ("2028-02", at("2028-03-01T00:00:00"))


@given(moments, st.sampled_from(Per))
def test_a_moment_lies_in_its_window_and_the_end_of_a_window_in_the_next(now, per):
    label, ends_at = window(per, now)
    assert now < ends_at
    assert window(per, ends_at - 0.001).label == label
    assert window(per, ends_at).label != label


@pytest.mark.parametrize(
    ("unit", "expected"),
    [(Unit.INPUT_TOKENS, 7), (Unit.OUTPUT_TOKENS, 5), (Unit.TOTAL_TOKENS, 12), (Unit.REQUESTS, 3), (Unit.USD, 9), (Unit.CONCURRENT, 1)],
)
def test_each_unit_counts_its_own_part(unit, expected):
    assert Spending(7, 5, 3, 9).of(unit) == expected


def test_what_is_wanted_is_granted_where_it_fits():
    assert grant(ask(tokens(200), prompt=100, wanted=100), [0], NOON).granted_output == 100


def test_the_output_is_clamped_to_what_the_tightest_budget_leaves():
    budgets = tokens(200), tokens(70, unit=Unit.OUTPUT_TOKENS)
    assert grant(ask(*budgets, prompt=100, wanted=100), [20, 0], NOON).granted_output == 70
    assert grant(ask(*budgets, prompt=100, wanted=100), [50, 0], NOON).granted_output == 50


def test_less_than_the_least_output_is_a_refusal_until_the_window_ends():
    with pytest.raises(QuotaExhausted) as refusal:
        grant(ask(tokens(200), prompt=100, least=16), [85], NOON + 60)
    assert refusal.value.retry_after_s == 3540
    assert "59m0s" in str(refusal.value)


def test_exactly_the_least_output_is_granted():
    assert grant(ask(tokens(200), prompt=100, least=16), [84], NOON).granted_output == 16


def test_a_caller_who_wants_less_than_the_least_gets_what_he_wants():
    assert grant(ask(tokens(103), prompt=100, least=16, wanted=3), [0], NOON).granted_output == 3


def test_what_would_not_fit_an_empty_window_exceeds_the_quota():
    with pytest.raises(ExceedsQuota):
        grant(ask(tokens(115), prompt=100, least=16), [0], NOON)


def test_never_is_said_before_not_now():
    with pytest.raises(ExceedsQuota):
        grant(ask(requests(1), tokens(50, Per.DAY), prompt=100), [1, 0], NOON)


def test_the_wait_is_the_longest_of_those_used_up():
    with pytest.raises(QuotaExhausted) as refusal:
        grant(ask(requests(1), tokens(500), tokens(5000, Per.DAY, name="daily")), [1, 500, 0], NOON + 30)
    assert refusal.value.retry_after_s == 3570


def test_a_full_width_is_said_only_when_nothing_else_says_no():
    with pytest.raises(ConcurrencyFull) as refusal:
        grant(ask(width(2), requests(5)), [2, 4], NOON)
    assert refusal.value.retry_after_s == 1
    with pytest.raises(QuotaExhausted):
        grant(ask(width(2), requests(5)), [2, 5], NOON)


def test_input_budgets_count_the_prompt_only():
    assert grant(ask(tokens(100, unit=Unit.INPUT_TOKENS), prompt=100, wanted=9_999), [0], NOON).granted_output == 9_999
    with pytest.raises(QuotaExhausted):
        grant(ask(tokens(100, unit=Unit.INPUT_TOKENS), prompt=100), [1], NOON)


def test_a_request_that_takes_nothing_of_a_unit_is_not_refused_by_it():
    used_up = tokens(100), tokens(10, unit=Unit.OUTPUT_TOKENS, name="out"), requests(5)
    assert grant(ask(*used_up, prompt=0, least=0, wanted=0), [130, 11, 4], NOON).granted_output == 0


def test_a_further_attempt_of_an_exchange_needs_no_request():
    assert grant(ask(requests(1), counted=0), [1], NOON).granted_output == 100


def test_a_shrunk_limit_refuses_and_shows_nothing_below_zero():
    with pytest.raises(QuotaExhausted):
        grant(ask(tokens(300)), [1_000], NOON)
    verdict = grant(ask(tokens(300), prompt=0, least=0, wanted=0), [1_000], NOON)
    assert verdict.tokens == Allowance(300, 0, 3600)


def test_shadow_budgets_record_their_no_once_and_neither_refuse_clamp_nor_show():
    shadows = tokens(50, shadow=True), requests(1, shadow=True), tokens(10_000, Per.DAY, name="other", shadow=True), width(1, shadow=True)
    verdict = grant(ask(*shadows, tokens(120, name="day", shadow=True)), [0, 1, 9_950, 1, 80], NOON)
    assert verdict.granted_output == 100
    assert (verdict.tokens, verdict.requests) == (None, None)
    assert verdict.would_refuse == ("exceeds_quota", "quota_exhausted", "concurrency_full")


def test_headers_say_the_smallest_remaining_after_the_hold_per_unit():
    budgets = tokens(1_000), tokens(5_000, Per.DAY, unit=Unit.INPUT_TOKENS, name="in"), requests(60), width(8)
    verdict = grant(ask(*budgets, prompt=100, wanted=50), [0, 4_100, 12, 0], NOON + 20)
    assert verdict.tokens == Allowance(5_000, 800, 43_180)
    assert verdict.requests == Allowance(60, 47, 40)


@given(st.tuples(amounts, amounts, amounts), rates, st.lists(st.tuples(st.sampled_from(Unit), limits, amounts, st.booleans()), max_size=5))
def test_no_enforcing_budget_is_ever_passed_and_no_smaller_grant_was_necessary(demand, price, rows):
    prompt, least, wanted = demand
    budgets = [
        width(limit, shadow=shadow) if unit is Unit.CONCURRENT else tokens(limit, unit=unit, name=str(number), shadow=shadow)
        for number, (unit, limit, _, shadow) in enumerate(rows)
    ]
    used = [spent for _, _, spent, _ in rows]
    asked = ask(*budgets, prompt=prompt, least=least, wanted=wanted, rates=price)

    def fits(output: int) -> bool:
        takes = Spending(prompt, output, 1, price.microusd(prompt, output))
        needs = [(budget, spent, takes.of(budget.unit)) for budget, spent in zip(budgets, used, strict=True)]
        return all(budget.shadow or not need or spent + need <= budget.limit for budget, spent, need in needs)

    try:
        granted = grant(asked, used, NOON).granted_output
    except (ExceedsQuota, QuotaExhausted, ConcurrencyFull):
        assert not fits(min(least, wanted))
        return
    assert min(least, wanted) <= granted <= wanted
    assert fits(granted)
    assert granted == wanted or not fits(granted + 1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.2, "1s"), (45, "45s"), (360, "6m0s"), (359.5, "6m0s"), (3_600, "1h0m0s"), (90_061, "25h1m1s"), (-3, "0s")],
)
def test_resets_read_like_durations_rounded_up(seconds, text):
    assert reset_text(seconds) == text


budget_sizes = st.lists(st.tuples(st.sampled_from(Unit), st.integers(1, 3000), st.integers(0, 3000), st.booleans()), min_size=1, max_size=5)


@given(budget_sizes, st.integers(1, 3000), st.integers(1, 500), rates)
def test_a_refusal_says_the_longest_prompt_that_would_have_been_held(sizes, prompt, least, price):
    budgets = tuple(Budget(f"{{n}}/{n}", unit, limit, Per.HOUR, shadow) for n, (unit, limit, _, shadow) in enumerate(sizes))
    used = [spent for _, _, spent, _ in sizes]

    def refusal(prompt):
        try:
            grant(ask(*budgets, prompt=prompt, least=least, wanted=least, rates=price), used, NOON)
        except (ConcurrencyFull, ExceedsQuota, QuotaExhausted) as no:
            return no
        return None

    no = refusal(prompt)
    assume(no is not None)
    room = getattr(no, "prompt_room", None)
    if room is None:
        assert refusal(0) is not None
    elif room < 0:
        assert refusal(1) is not None
    else:
        assert room < prompt
        assert refusal(room) is None
        assert refusal(room + 1) is not None


@pytest.mark.parametrize(("shadow", "room"), [(False, None), (True, 83)])
def test_a_budget_that_takes_bytes_alone_leaves_no_room_for_a_count(shadow, room):
    strict = Budget("{n}/strict", Unit.INPUT_TOKENS, 10**6, Per.HOUR, shadow, strict=True)
    with pytest.raises(QuotaExhausted) as caught:
        grant(ask(tokens(120), strict, prompt=100, least=16, wanted=16), [21, 0], NOON)
    assert caught.value.prompt_room == room


# --- money


CHEAP = Rates(500_000, 2_000_000, 10_000_000)  # half a micro-dollar and two for a token, ten for a request


def test_money_clamps_the_output_to_what_is_left_of_it():
    assert grant(ask(money(150), prompt=100, wanted=100, rates=CHEAP), [0], NOON).granted_output == 45
    assert grant(ask(money(150), prompt=100, wanted=100, rates=CHEAP), [31], NOON).granted_output == 29


def test_of_tokens_and_money_the_tighter_one_clamps():
    for budgets, used in (((tokens(130), money(150)), [0, 0]), ((money(150), tokens(130)), [0, 0])):
        assert grant(ask(*budgets, prompt=100, wanted=100, rates=CHEAP), used, NOON).granted_output == 30


def test_money_that_does_not_pay_for_the_least_output_is_a_refusal():
    with pytest.raises(QuotaExhausted) as refusal:
        grant(ask(money(150), prompt=100, least=16, rates=CHEAP), [59], NOON)
    assert refusal.value.retry_after_s == 12 * 3600
    assert grant(ask(money(150), prompt=100, least=16, rates=CHEAP), [58], NOON).granted_output == 16
    with pytest.raises(ExceedsQuota):
        grant(ask(money(91), prompt=100, least=16, rates=CHEAP), [0], NOON)


def test_what_costs_nothing_fits_every_budget_of_money():
    assert grant(ask(money(0), prompt=10**6, wanted=10**6, rates=Rates(0, 0, 0)), [5], NOON).granted_output == 10**6


def test_what_nobody_knows_the_price_of_fits_no_budget_of_money():
    largest = money(999_999_999_999_999)
    with pytest.raises(ExceedsQuota) as refusal:
        grant(ask(largest, prompt=1, least=1, wanted=1), [0], NOON)
    assert refusal.value.prompt_room is None


def test_a_budget_of_money_does_not_show_in_the_headers_of_tokens():
    verdict = grant(ask(money(150), tokens(1_000), rates=CHEAP), [0, 0], NOON)
    assert verdict.tokens == Allowance(1_000, 855, 3600)
    assert grant(ask(money(150), rates=CHEAP), [0], NOON).tokens is None


EVERY_TOKEN = [tokens(10**9), tokens(10**9, unit=Unit.INPUT_TOKENS), tokens(10**9, unit=Unit.OUTPUT_TOKENS)]


@pytest.mark.parametrize("budget", EVERY_TOKEN, ids=lambda budget: budget.unit)
def test_what_nobody_can_bound_passes_no_budget_of_tokens_however_large(budget):
    with pytest.raises(ExceedsQuota, match="`requests`"):
        uncountable((requests(5), budget), Rates(0, 0, 0))


@pytest.mark.parametrize("rates", [None, Rates(1, 0, 5), Rates(0, 1, 5)], ids=["unknown", "input", "output"])
def test_what_nobody_can_bound_passes_no_budget_of_money_at_a_price_of_tokens(rates):
    with pytest.raises(ExceedsQuota, match="`perRequest`"):
        uncountable((money(10**9),), rates)


@pytest.mark.parametrize("budgets", [(), (requests(1), width(1)), (money(1),)], ids=["none", "requests", "money"])
def test_what_nobody_can_bound_passes_what_a_request_bounds(budgets):
    assert uncountable(budgets, Rates(0, 0, 40_000)) == ()


@pytest.mark.parametrize("budget", [tokens(1, shadow=True), money(1, shadow=True)], ids=["tokens", "money"])
def test_in_shadow_it_is_told_once_what_would_have_refused(budget):
    assert uncountable((budget, budget, requests(1)), Rates(1, 1, 0)) == ("exceeds_quota",)
