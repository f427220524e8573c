"""Whole numbers only: nothing is rounded down, nothing vanishes, nothing is larger than a store can count."""

from decimal import ROUND_CEILING, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.chat import Usage
from broker.money import MOST_MICROUSD, Price, Rates, dearest, dollars, read_microusd

written = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,6})?", fullmatch=True)
counts = st.integers(0, 2**31 - 1)


@pytest.mark.parametrize(
    ("text", "microusd"),
    [("0", 0), ("5.00", 5_000_000), ("2.5", 2_500_000), ("0.000001", 1), ("000000007", 7_000_000), ("999999999.999999", 10**15 - 1)],
)
def test_dollars_are_read_to_the_last_digit(text, microusd):
    assert read_microusd(text) == microusd


@given(written)
def test_every_amount_that_can_be_written_is_read_exactly_and_lies_below_the_most(text):
    assert Decimal(read_microusd(text)) == Decimal(text) * 10**6
    assert read_microusd(text) < MOST_MICROUSD


@given(st.integers(0, 10**15))
def test_what_is_shown_is_what_is_meant(microusd):
    assert read_microusd(dollars(microusd)) == microusd


@pytest.mark.parametrize(("microusd", "text"), [(0, "0.00"), (5_000_000, "5.00"), (1, "0.000001"), (1_250_000, "1.25"), (125_000, "0.125")])
def test_amounts_have_two_decimals_and_no_more_than_they_need(microusd, text):
    assert dollars(microusd) == text


def test_the_cheapest_price_that_can_be_written_does_not_vanish():
    each = read_microusd("0.000001")
    price = Price(each, each, each, each)
    assert price.cost(Usage(10**6, 0)) == 1
    assert price.cost(Usage(10**6, 1)) == 2
    assert price.cost(Usage(1, 0)) == 1


@given(st.lists(written, min_size=5, max_size=5), counts, counts, st.data())
def test_an_answer_costs_the_sum_of_its_parts_rounded_up_once(texts, plain, output, data):
    cached, stored = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 10**6))
    price = Price(*map(read_microusd, texts))
    per_million = zip((plain, output, cached, stored), map(Decimal, texts), strict=False)
    exact = sum((count * each for count, each in per_million), Decimal(price.request) / 10**6)
    expected = min(MOST_MICROUSD, int(exact.to_integral_value(ROUND_CEILING)))
    assert price.cost(Usage(plain + cached + stored, output, cached, stored)) == expected


@given(st.lists(st.lists(written, min_size=5, max_size=5), min_size=1, max_size=4), counts, counts, st.data())
def test_no_backend_bills_more_than_the_dearest_rates_however_much_was_cached(listed, prompt, output, data):
    prices = [Price(*map(read_microusd, texts)) for texts in listed]
    rates = dearest(prices)
    cached = data.draw(st.integers(0, prompt))
    stored = data.draw(st.integers(0, prompt - cached))
    assert all(price.cost(Usage(prompt, output, cached, stored)) <= rates.microusd(prompt, output) for price in prices)


def test_one_backend_without_a_price_leaves_no_bound():
    price = Price(1, 1, 1, 1)
    assert dearest([price, price]) == Rates(1, 1, 0)
    assert dearest([price, None]) is None
    assert dearest([]) is None


@given(st.builds(Rates, *[st.integers(0, 10**9)] * 3), st.integers(0, 10**12), st.integers(0, 10**7))
def test_an_amount_pays_for_so_many_tokens_and_not_for_one_more(rates, microusd, beside):
    for paid_for, costs in (
        (rates.output_for(microusd, beside), lambda tokens: rates.microusd(beside, tokens)),
        (rates.input_for(microusd, beside), lambda tokens: rates.microusd(tokens, beside)),
    ):
        if paid_for is None:
            assert costs(0) == costs(10**9)
            continue
        assert paid_for < 0 or costs(paid_for) <= microusd
        assert costs(max(0, paid_for + 1)) > microusd


@given(written)
def test_what_is_dearer_than_every_limit_stays_a_number_that_every_store_can_count(text):
    rates = Rates(read_microusd("999999999"), 0, 0)
    assert rates.microusd(2**31, 0) == MOST_MICROUSD > read_microusd(text)
