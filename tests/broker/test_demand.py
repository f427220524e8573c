import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from broker.body import OBJECTS_MAX
from broker.demand import Findings, Output, Template
from broker.errors import BadRequest

TOKENS = st.integers(1, 10**6)


@given(st.none() | TOKENS, st.integers(1, 128), st.integers(0, 10**5), TOKENS, st.none() | TOKENS)
def test_what_is_wanted_is_never_less_than_the_least_and_never_more_than_the_model_has(
    limit: int | None, choices: int, thinking: int, default: int, most: int | None
) -> None:
    output = Output(limit, choices, thinking)
    try:
        demand = output.demand(7, default, most)
    except BadRequest:
        assert most is not None
        assert most <= thinking
        return
    assert demand.prompt_bound == 7
    assert 1 <= demand.min_output <= demand.wanted_output
    assert demand.wanted_output % choices == 0
    share = demand.wanted_output // choices
    assert limit is None or share <= limit
    assert most is None or share <= most
    assert output.clamped(demand.wanted_output) == (share if limit is not None and share < limit else None)


@given(st.integers(0, 10**6), st.integers(0, 100), st.integers(0, 100))
def test_a_bound_grows_with_everything_that_was_found(body_bytes: int, messages: int, tools: int) -> None:
    template = Template(request=10, message=2, tool=3, tools=50, context_window=1000)
    found = Findings(messages=messages, tools=tools)
    plain = template.bound(body_bytes, found)
    assert plain >= body_bytes
    found.add_media(0, 5)
    found.add_passes(2)
    found.add_passes(1)
    assert template.bound(body_bytes, found) == plain + 5 + 2000


def test_media_is_taken_out_of_the_bytes() -> None:
    template = Template(request=10, message=2, tool=3, tools=50, context_window=1000)
    found = Findings()
    found.add_media(900, 70)
    assert template.bound(1000, found) == 100 + 10 + 70


def test_objects_are_counted_over_all_arrays() -> None:
    found = Findings(objects=OBJECTS_MAX - 2)
    assert len(found.split_each(Raw(b'[{"a":1},{"b":2}]'), "messages")) == 2
    with pytest.raises(BadRequest, match="messages, parts and tools"):
        found.split_each(Raw(b"[{}]"), "tools")
