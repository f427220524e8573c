"""The torture's own books pair as many as can be paired."""

from hypothesis import given
from hypothesis import strategies as st
from torture.pairs import Pairs


def most(edges: set[tuple[int, int]]) -> int:
    """The size of the largest set of pairs, tried one by one."""
    if not edges:
        return 0
    one, other = min(edges)
    without = {edge for edge in edges if edge != (one, other)}
    return max(most(without), 1 + most({edge for edge in without if edge[0] != one and edge[1] != other}))


@given(
    st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=10),
    st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=4),
)
def test_as_many_as_possible_are_paired_and_nobody_who_had_a_partner_is_left_alone(certain, further):
    pairs = Pairs()
    for edge in sorted(certain):
        pairs.add(*edge)
    pairs.pair(range(5), [1, 3])
    first = pairs.found()
    assert len(first) == most(certain)
    for edge in sorted(further):
        pairs.add(*edge)
    pairs.pair(range(5), [1, 3])
    found = pairs.found()
    assert len(found) == len({one for one, _ in found}) == len({other for _, other in found}) == most(certain | further)
    assert set(found) <= certain | further
    assert {one for one, _ in first} <= {one for one, _ in found}
    assert {other for _, other in first} <= {other for _, other in found}


@given(st.integers(0, 4))
def test_who_must_have_a_partner_gets_it_before_who_may(must):
    pairs = Pairs()
    for other in range(5):
        pairs.add(0, other)
    pairs.pair([0], [must])
    assert pairs.found() == [(0, must)]
