"""Durations, sizes, ages and moments, as people write them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import measures
from broker.measures import Kept

NOON = datetime(2026, 11, 17, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("30d", NOON - timedelta(days=30)),
        ("12h", NOON - timedelta(hours=12)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T08:00:00Z", datetime(2026, 11, 1, 8, tzinfo=UTC)),
        ("2026-11-01T08:00:00+02:00", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_day_a_time_or_an_age(text, at):
    assert measures.moment(text, NOON) == at


@pytest.mark.parametrize("text", ["", "x", "-1d", "2026-13-01", "12", "1w", "999999d"])
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(ValueError, match=r"is no day|longer ago"):
        measures.moment(text, NOON)


@pytest.mark.parametrize(("text", "age_s"), [("30d", 2_592_000), ("12h", 43_200), ("1.5s", 1.5)])
def test_an_age_is_days_or_a_duration(text, age_s):
    assert measures.age(text) == age_s


@pytest.mark.parametrize("text", ["", "0d", "0s", "-1d", "d", "1.5d", "1w", "١d"])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(ValueError, match="is no age such as"):
        measures.age(text)


def test_what_is_kept_is_a_number_of_it_or_an_age():
    assert (measures.kept("7"), measures.kept("90d")) == (Kept(number=7), Kept(age_s=90 * 86_400))


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "99999999", "forever", "0d"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(ValueError, match="neither a number above 0 nor an age"):
        measures.kept(text)


def test_a_certificate_lives_a_second_at_least():
    assert measures.lifetime("1s") == 1.0
    with pytest.raises(ValueError, match=r"0\.9s is less than 1s"):
        measures.lifetime("0.9s")


def test_a_word_is_one_of_those_in_whatever_case():
    read = measures.one_of("info", "warning")
    assert (read("info"), read("WARNING")) == ("info", "warning")
    with pytest.raises(ValueError, match="'loud' is none of info, warning"):
        read("loud")


READERS = (measures.duration, measures.size, measures.age, measures.kept, lambda said: measures.moment(said, NOON))


@given(st.text(max_size=12), st.sampled_from(READERS))
def test_any_text_is_a_measure_or_is_named_in_a_value_error(text, read):
    try:
        read(text)
    except ValueError as wrong:
        said = str(wrong)
    else:
        said = repr(text)
    assert repr(text) in said
