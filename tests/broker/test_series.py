"""The sums of exchanges: every value falls into the bucket that holds it, and two sums together are the sum of both."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.chat import Usage
from broker.series import SECONDS, Histogram, Measure, Series

values = st.lists(st.floats(0, 4000, allow_nan=False), max_size=30)


@pytest.mark.parametrize("measure", Measure)
def test_bounds_rise(measure: Measure) -> None:
    assert all(low < high for low, high in pairwise(measure.bounds))


@given(values)
def test_every_value_is_in_the_first_bucket_that_holds_it(given_values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    for value in given_values:
        histogram.add(value)
    for bound, upto in zip(SECONDS, range(1, len(SECONDS) + 1), strict=True):
        assert sum(histogram.counts[:upto]) == sum(value <= bound for value in given_values)
    assert histogram.sum == pytest.approx(sum(given_values))


@given(values, values)
def test_two_merged_are_as_one_that_saw_everything(one: list[float], two: list[float]) -> None:
    first, second, both = (Histogram(SECONDS) for _ in range(3))
    for value in one:
        first.add(value)
        both.add(value)
    for value in two:
        second.add(value)
        both.add(value)
    first.merge(second)
    assert first.counts == both.counts
    assert first.sum == pytest.approx(both.sum)


def test_an_exchange_that_cost_nothing_is_timed_and_counted_alone() -> None:
    series = Series()
    series.add("forbidden", None, 0.1, None)
    assert series.codes == {"forbidden": 1}
    assert {measure.name + direction: sum(h.counts) for measure, direction, h in series.histograms()} == {
        "DURATION": 1, "FIRST_BYTE": 0, "TOKENSinput": 0, "TOKENSoutput": 0,
    }  # fmt: skip


def test_tokens_are_measured_by_request_as_well_as_summed() -> None:
    series = Series()
    series.add("answered", Usage(100, 20, 60), 0.2, 0.1)
    series.add("answered", Usage(1, 2, 0), 0.2, 0.1)
    assert series.tokens == [101, 22, 60]
    assert (series.input.sum, sum(series.input.counts)) == (101, 2)
