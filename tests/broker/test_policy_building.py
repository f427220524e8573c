"""A snapshot that follows another is what it would be if there had been none before it, and leaves alone what nobody changed."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from support.edited_worlds import IDENTITIES, NAMES, policies, routings
from support.stored_objects import resources_of, stored
from support.worlds import SETTINGS, access, routing, secret, who

from broker.errors import Forbidden
from broker.grant import Grant
from broker.objects import Document, Stray, collect, read_document
from broker.policy import Snapshot, build


def read(*texts: str) -> list[Document | Stray]:
    return [read_document(one) for one in stored(*texts)]


def decided(snapshot: Snapshot, spiffe_id: str, model: str) -> Grant | str:
    try:
        return snapshot.decide(who(spiffe_id), model)
    except Forbidden as no:
        return str(no)


@settings(max_examples=40)
@given(
    st.lists(policies() | routings(), min_size=2, max_size=8, unique_by=lambda made: made[0]),
    st.lists(st.sets(st.integers(0, 7)), max_size=4),
)
def test_what_is_built_on_an_earlier_snapshot_is_what_is_built_on_none(made: list[tuple[str, str]], states: list[set[int]]):
    documents = read(*(text for _, text in made))
    after = build(collect([]), SETTINGS)
    for state in states:
        resources = collect([one for number, one in enumerate(documents) if number in state])
        after = build(resources, SETTINGS, after)
        alone = build(resources, SETTINGS)
        assert after.statuses == alone.statuses
        assert dict(after.offers) == dict(alone.offers)
        assert [str(rule.ref) for rule in after.rules.all] == [str(rule.ref) for rule in alone.rules.all]
        for spiffe_id in IDENTITIES[:4]:
            assert [decided(after, spiffe_id, name) for name in NAMES] == [decided(alone, spiffe_id, name) for name in NAMES]


def test_a_change_in_one_namespace_leaves_those_of_the_others_as_they_were():
    documents = read(routing(), access(), routing(namespace="team2"), access(namespace="team2"))
    before = build(collect(documents), SETTINGS)
    after = build(collect([*documents, *read(access("more", "team2"))]), SETTINGS, before)
    assert after.pieces["team1"] is before.pieces["team1"]
    assert after.pieces["team2"] is not before.pieces["team2"]
    assert len(after.rules.all) == len(before.rules.all) + 1


def test_a_secret_that_changed_is_a_change_of_its_namespace():
    keyed = routing().replace("schema: OpenAI}", "schema: OpenAI, credentials: {type: APIKey, secretRef: {name: keys}}}")
    documents = read(keyed, access())
    before = build(collect(documents), SETTINGS)
    assert not before.decide(who(), "gpt").backends
    after = build(collect([*documents, *read(secret(data="{api-key: sk-canary}"))]), SETTINGS, before)
    assert after.decide(who(), "gpt").backends


def test_what_has_gone_is_gone():
    documents = read(routing(), access(), routing(namespace="team2"))
    before = build(collect(documents), SETTINGS)
    after = build(collect(documents[:2]), SETTINGS, before)
    assert set(after.pieces) == {"team1"}
    assert ("team2", "gpt") not in after.offers


def test_other_settings_build_everything_anew():
    resources = resources_of(stored(routing(), access()))
    before = build(resources, SETTINGS)
    after = build(resources, replace(SETTINGS, namespace="team1"), before)
    assert after.pieces["team1"] is not before.pieces["team1"]
