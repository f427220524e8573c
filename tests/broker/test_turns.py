"""Nobody's many keep out anybody else's few."""

from hypothesis import given
from hypothesis import strategies as st

from broker.turns import in_turn


def test_each_owner_comes_once_before_any_comes_again():
    assert in_turn(["a1", "a2", "a3", "b1", "c1", "c2"], lambda item: item[0]) == ["a1", "b1", "c1", "a2", "c2", "a3"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers())), st.integers(0, 20))
def test_wherever_one_cuts_nobody_has_two_more_than_somebody_who_waits(items: list[tuple[str, int]], cut: int):
    order = in_turn(items, lambda item: item[0])
    assert sorted(order) == sorted(items)
    had, waits = [owner for owner, _ in order[:cut]], {owner for owner, _ in order[cut:]}
    assert all(had.count(other) <= had.count(owner) + 1 for owner in waits for other in set(had))
    for owner in "abc":
        assert [item for item in order if item[0] == owner] == [item for item in items if item[0] == owner]
