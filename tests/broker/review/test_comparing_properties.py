"""`broker diff` reports a class of identities when, and only when, some decision about its identities changed."""

from hypothesis import event, example, given
from hypothesis import strategies as st
from support.edited_worlds import IDENTITIES, NAMES, decided, settings, within, world, worlds
from support.worlds import SETTINGS, access, routing

from broker.policy import Settings
from broker.review.classes import classes
from broker.review.comparing import Change, Kind, compare


def about(change: Change, spiffe_id: str) -> bool:
    return within(spiffe_id, change.identities.name) and not any(within(spiffe_id, one.identities.name) for one in change.without)


def under(change: Change, name: str) -> bool:
    return name in change.names if change.names else name in (change.model, change.model.partition("/")[2])


@given(worlds(), settings)
def test_what_is_decided_otherwise_is_reported_and_what_is_reported_is_decided_otherwise(
    given_ones: tuple[list[str], list[str]], operator: Settings
):
    old, new = (world(texts, operator) for texts in given_ones)
    changes = compare(old, new)
    event(f"changes: {min(len(changes), 3)}")
    for spiffe_id in IDENTITIES:
        told = [one for one in changes if about(one, spiffe_id)]
        for name in NAMES:
            before, after = decided(old, spiffe_id, name), decided(new, spiffe_id, name)
            if before != after:
                event("a decision changed")
                models = {f"{one.namespace}/{one.model}" for one in (before, after) if one}
                assert {one.model for one in told if under(one, name)} >= models
        for one in told:
            event("a report is about somebody")
            name = one.names[0] if one.names else one.model
            before, after = decided(old, spiffe_id, name), decided(new, spiffe_id, name)
            assert before != after
            led_there = [found is not None and f"{found.namespace}/{found.model}" == one.model for found in (before, after)]
            assert led_there == [one.kind is not Kind.GAINS, one.kind is not Kind.LOSES]


@given(worlds(), settings)
def test_every_identity_belongs_to_exactly_one_class(given_ones: tuple[list[str], list[str]], operator: Settings):
    found = classes(world(texts, operator) for texts in given_ones)
    for spiffe_id in IDENTITIES:
        around = [one for one in found if within(spiffe_id, one.name)]
        assert len([one for one in around if not any(other.parent == one.name for other in around)]) == 1
        assert {one.parent for one in around} - {None} <= {one.name for one in around}


@given(worlds())
def test_the_same_objects_change_nothing_in_whatever_order(given_ones: tuple[list[str], list[str]]):
    old, _ = given_ones
    assert compare(world(old, SETTINGS), world(old[::-1], SETTINGS)) == ()


ALLOW = access(spec="{subjects: [{spiffeIDPrefix: 'spiffe://a.org/'}], models: [gpt], quotas: [{name: day, tokens: 5, per: Day}]}")


@given(st.integers(1, 9), st.integers(1, 9))
@example(5, 5)
def test_a_quota_gives_more_when_and_only_when_it_grows(before: int, after: int):
    old, new = (world([routing(), ALLOW.replace("tokens: 5", f"tokens: {limit}")], SETTINGS) for limit in (before, after))
    assert [one.gives_more for one in compare(old, new)] == ([] if before == after else [after > before])
