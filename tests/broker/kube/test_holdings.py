"""Each namespace has its room, and loses what it has when that is too much; nobody else notices."""

from hypothesis import given
from hypothesis import strategies as st

from broker.kube.holdings import Holdings, Kept, Room

ROOM = Room(objects=3, size=100)


def kept(text: str, size: int = 10) -> Kept[str]:
    return Kept(text.encode(), size, text)


def holding(*keys: tuple[str, str], size: int = 10) -> Holdings[str]:
    it = Holdings[str](ROOM)
    for key in keys:
        it.put(key, kept("/".join(key), size))
    return it


def test_an_object_more_than_the_room_takes_all_of_its_namespace_and_nothing_else():
    it = holding(("a", "1"), ("b", "1"), ("a", "2"), ("a", "3"))
    assert it.crowded == frozenset()
    assert it.put(("a", "4"), kept("a/4"))
    assert (it.crowded, list(it.values)) == ({"a"}, ["b/1"])


def test_a_byte_more_than_the_room_does_so_too():
    it = holding(("a", "1"), ("b", "1"), size=50)
    assert it.put(("a", "2"), kept("a/2", 50))
    assert it.crowded == frozenset()
    assert it.put(("a", "2"), kept("a/2 larger", 51))
    assert (it.crowded, list(it.values)) == ({"a"}, ["b/1"])


def test_what_happens_in_a_crowded_namespace_is_no_change():
    it = holding(*(("a", str(n)) for n in range(4)))
    assert not it.put(("a", "9"), kept("a/9"))
    assert not it.drop(("a", "1"))
    assert (len(it), it.crowded) == (0, {"a"})


def test_what_goes_makes_room_again():
    it = holding(("a", "1"), ("a", "2"), ("a", "3"))
    assert it.drop(("a", "1"))
    assert not it.drop(("a", "1"))
    assert it.put(("a", "4"), kept("a/4"))
    assert it.crowded == frozenset()


def test_the_same_again_is_no_change():
    it = holding(("a", "1"))
    assert not it.put(("a", "1"), kept("a/1"))
    assert it.put(("a", "1"), kept("another"))


def test_holdings_are_the_same_by_what_is_in_them_and_by_who_is_crowded():
    assert holding(("a", "1"), ("b", "1")).same_as(holding(("b", "1"), ("a", "1")))
    assert not holding(("a", "1")).same_as(holding(("a", "2")))
    assert not holding(*(("a", str(n)) for n in range(4))).same_as(holding())


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12345"), st.none() | st.integers(1, 60))))
def test_what_is_kept_never_exceeds_the_room_and_a_namespace_within_it_has_all_of_its_own(steps):
    it, there = Holdings[str](ROOM), dict[tuple[str, str], int]()
    ever_crowded = set[str]()
    for number, (namespace, name, size) in enumerate(steps):
        key = namespace, name
        if size is None:
            it.drop(key)
            there.pop(key, None)
        else:
            it.put(key, kept(f"{key}{number}", size))
            there[key] = size
        own = [other for other in there if other[0] == namespace]
        if len(own) > ROOM.objects or sum(there[other] for other in own) > ROOM.size:
            ever_crowded.add(namespace)
        assert it.crowded == ever_crowded
        assert set(it.digests) == {other for other in there if other[0] not in ever_crowded}
