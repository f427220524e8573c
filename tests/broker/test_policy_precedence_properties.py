"""What must hold of quotas of one name, whatever policies there are."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.worlds import AGENT, SETTINGS, access, documents, routing, who, world

from broker.errors import Forbidden
from broker.grant import Budget, Grant
from broker.objects import collect, read_document
from broker.policy import Snapshot, build, explain, oversights

# Each names a part of those before it. One identity is named by all of them, one by all but the last, and so on.
NAMES = (
    "",
    "mtls: {trustDomain: example.org}",
    "subjects: [{spiffeIDPrefix: 'spiffe://example.org/ns/team1/'}]",
    "subjects: [{spiffeIDPrefix: 'spiffe://example.org/ns/team1/sa/'}]",
    f"subjects: [{{spiffeID: '{AGENT}'}}]",
)
IDENTITIES = (
    "spiffe://other.org/x",
    "spiffe://example.org/ns/team2/sa/agent",
    "spiffe://example.org/ns/team1/x",
    "spiffe://example.org/ns/team1/sa/other",
    AGENT,
)
SHAPES = ("per: Day", "per: Hour", "per: Day, scope: Policy")
# Whoever there is may call both models, so that the quotas alone are in question.
ALLOWED = access(
    "allow", spec=f"{{subjects: [{', '.join(f'{{spiffeID: {chr(34)}{one}{chr(34)}}}' for one in IDENTITIES)}], models: ['*']}}"
)


@dataclass(frozen=True)
class Quota:
    name: str
    limit: int
    shape: str
    overridable: bool


@dataclass(frozen=True)
class Written:
    """A policy, and how narrow it is: its place in NAMES."""

    narrow: int
    action: str
    shadow: bool
    wrong: bool
    models: str
    quotas: tuple[Quota, ...]

    def text(self, name: str) -> str:
        quotas = ", ".join(
            f"{{name: {one.name}, tokens: {one.limit}, {one.shape}, overridable: {str(one.overridable).lower()}}}" for one in self.quotas
        )
        fields = [f"action: {self.action}", f"mode: {'Shadow' if self.shadow else 'Enforce'}", f"quotas: [{quotas}]"]
        fields += [NAMES[self.narrow]] * bool(NAMES[self.narrow]) + ["unknown: 1"] * self.wrong + [f"models: [{self.models}]"]
        return access(name, spec=f"{{{', '.join(fields)}}}")


NEVER = st.sampled_from([False])
SOMETIMES = st.booleans()


def written(overridable: st.SearchStrategy[bool] = SOMETIMES, wrong: st.SearchStrategy[bool] = NEVER) -> st.SearchStrategy[Written]:
    quotas = st.lists(
        st.builds(Quota, st.sampled_from(["daily", "pace"]), st.integers(1, 4), st.sampled_from(SHAPES), overridable),
        min_size=1,
        max_size=2,
        unique_by=lambda one: one.name,
    ).map(tuple)
    models = st.sampled_from(["'*'", "'*'", "gpt"])
    limits = st.builds(Written, st.integers(0, 4), st.just("Limit"), st.booleans(), wrong, models, quotas)
    allows = st.builds(Written, st.integers(1, 4), st.just("Allow"), st.booleans(), wrong, models, quotas)
    return limits | allows


def texts(given_ones: list[Written]) -> list[str]:
    return [routing(models=("gpt", "big")), ALLOWED, *(one.text(f"p{number}") for number, one in enumerate(given_ones))]


def grant(snapshot: Snapshot, spiffe_id: str, model: str) -> Grant | None:
    try:
        return snapshot.decide(who(spiffe_id), f"team1/{model}")
    except Forbidden:
        return None


def budgets(given_ones: list[Written], spiffe_id: str, model: str) -> set[Budget] | None:
    decided = grant(world(*texts(given_ones)), spiffe_id, model)
    return None if decided is None else set(decided.budgets)


def counter(budget: Budget) -> tuple[int, str]:
    """Which policy and which quota a budget is of."""
    _, _, policy, quota, *_ = budget.counter.split("/")
    return int(policy.removeprefix("p")), quota


identities = st.sampled_from(IDENTITIES)
models = st.sampled_from(["gpt", "big"])


@given(st.lists(written(NEVER), max_size=4), written(wrong=SOMETIMES), identities, models)
def test_where_nothing_is_overridable_a_policy_more_leaves_every_quota_in_force(
    given_ones: list[Written], more: Written, spiffe_id: str, model: str
):
    before, after = budgets(given_ones, spiffe_id, model), budgets([*given_ones, more], spiffe_id, model)
    assert before is not None
    assert after is None or before <= after


def junked(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """Every value within, replaced by what is right nowhere."""
    yield path, {"junk": 1}
    if isinstance(value, dict):
        for name, one in value.items():
            yield from ((where, {**value, name: mangled}) for where, mangled in junked(one, (*path, name)))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from ((where, [*value[:index], mangled, *value[index + 1 :]]) for where, mangled in junked(one, (*path, index)))


LIMIT = {
    "apiVersion": "aiaccess.dev/v1alpha1",
    "kind": "AIAccessPolicy",
    "metadata": {"name": "default", "namespace": "team1"},
    "spec": {
        "action": "Limit",
        "mode": "Enforce",
        "mtls": {"trustDomain": "example.org"},
        "subjects": [{"spiffeID": AGENT}, {"serviceAccount": {"name": "agent", "namespace": "team1", "trustDomain": "example.org"}}],
        "models": ["gpt"],
        "quotas": [{"name": "daily", "tokens": 5, "per": "Day", "scope": "Identity", "models": ["gpt"], "overridable": True}],
    },
}
# What makes it a Limit of ours at all, without which nobody can know that it was one.
ESSENCE = {(), ("kind",), ("spec",)}


@pytest.mark.parametrize(("path", "mangled"), [one for one in junked(LIMIT, ()) if one[0] not in ESSENCE])
def test_a_limit_with_any_one_value_mangled_refuses_whom_it_named(path: tuple[str | int, ...], mangled: object):
    read = [*documents(routing()), *documents(ALLOWED), read_document(mangled)]
    assert grant(build(collect(read), SETTINGS), AGENT, "gpt") is None, path
    whole = build(collect([*read[:-1], read_document(LIMIT)]), SETTINGS)
    assert [one.limit for one in whole.decide(who(), "gpt").budgets] == [5]


@given(st.lists(written(), max_size=4), written(wrong=SOMETIMES), identities, models)
def test_a_policy_more_takes_only_overridable_quotas_out_of_force_and_puts_a_narrower_one_in_their_place(
    given_ones: list[Written], more: Written, spiffe_id: str, model: str
):
    before, after = budgets(given_ones, spiffe_id, model), budgets([*given_ones, more], spiffe_id, model)
    assert before is not None
    for gone in before - (after or before):
        place, name = counter(gone)
        (wide,) = [one for one in given_ones[place].quotas if one.name == name]
        (narrow,) = [one for one in more.quotas if one.name == name]
        assert wide.overridable
        assert (narrow.shape, narrow.limit > wide.limit, more.narrow > given_ones[place].narrow) == (wide.shape, True, True)
        assert not more.wrong
        assert given_ones[place].shadow or not more.shadow


@given(st.lists(written(), max_size=5), identities, models)
def test_the_tightest_quota_that_is_not_overridable_is_never_exceeded(given_ones: list[Written], spiffe_id: str, model: str):
    named = IDENTITIES.index(spiffe_id)
    firm = {
        (number, quota.name)
        for number, one in enumerate(given_ones)
        if one.narrow <= named and one.models in ("'*'", model)
        for quota in one.quotas
        if not quota.overridable
    }
    in_force = budgets(given_ones, spiffe_id, model)
    assert in_force is not None
    assert firm <= {counter(one) for one in in_force}


@given(st.lists(written(), max_size=5), identities, models)
def test_what_is_in_force_is_what_the_rule_says_quota_by_quota(given_ones: list[Written], spiffe_id: str, model: str):
    named = IDENTITIES.index(spiffe_id)
    met = [
        (number, one, quota)
        for number, one in enumerate(given_ones)
        if one.narrow <= named and one.models in ("'*'", model)
        for quota in one.quotas
    ]

    def makes_way(wide: Written, its: Quota) -> bool:
        return any(
            its.overridable
            and (quota.name, quota.shape) == (its.name, its.shape)
            and quota.limit > its.limit
            and one.narrow > wide.narrow
            and (wide.shadow or not one.shadow)
            for _, one, quota in met
        )

    expected = {(number, quota.name) for number, one, quota in met if not makes_way(one, quota)}
    in_force = budgets(given_ones, spiffe_id, model)
    assert in_force is not None
    assert {counter(one) for one in in_force} == expected


@given(st.lists(written(wrong=SOMETIMES), max_size=5), identities, models, st.randoms(use_true_random=False))
def test_the_order_of_files_changes_neither_the_quotas_nor_what_is_said_of_them(
    given_ones: list[Written], spiffe_id: str, model: str, random
):
    read = [document for number, text in enumerate(texts(given_ones)) for document in documents(text, f"{number}.yaml")]
    first = build(collect(read), SETTINGS)
    random.shuffle(read)
    second = build(collect(read), SETTINGS)
    assert grant(first, spiffe_id, model) == grant(second, spiffe_id, model)
    assert explain(first, who(spiffe_id), f"team1/{model}") == explain(second, who(spiffe_id), f"team1/{model}")
    assert list(oversights(first.rules)) == list(oversights(second.rules))


@given(st.lists(written(wrong=SOMETIMES), max_size=5), identities, models)
def test_an_explanation_says_of_every_quota_whether_it_counts(given_ones: list[Written], spiffe_id: str, model: str):
    snapshot = world(*texts(given_ones))
    decided = grant(snapshot, spiffe_id, model)
    standings = explain(snapshot, who(spiffe_id), f"team1/{model}").standings
    assert tuple(one.budget for one in standings if not one.overridden_by) == (decided.budgets if decided else ())


@given(st.lists(written().filter(lambda one: not one.shadow), max_size=5))
def test_the_check_warns_of_every_exception_that_an_explanation_calls_vain(given_ones: list[Written]):
    snapshot = world(*texts(given_ones))
    warned = {(one.policy.name, one.path) for one in oversights(snapshot.rules)}
    for spiffe_id in IDENTITIES:
        for one in explain(snapshot, who(spiffe_id), "team1/gpt").standings:
            policy, name = counter(one.budget)
            (place,) = [number for number, quota in enumerate(given_ones[policy].quotas) if quota.name == name]
            vain = any(note.startswith("has no effect above") for note in one.notes)
            assert not vain or (one.policy.name, f"spec.quotas[{place}]") in warned
