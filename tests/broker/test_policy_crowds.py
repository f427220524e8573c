"""However many policies somebody writes about one identity, nobody else pays for it."""

import pytest
from support.worlds import AGENT, access, routing, status, who, world

from broker.errors import Forbidden
from broker.policy.building import MODELS
from broker.policy.explanation import explain
from broker.policy.rules import POLICIES, QUOTAS, Ceiling
from broker.policy.snapshot import COUNTING

ME = f"subjects: [{{spiffeID: '{AGENT}'}}]"
EVERYBODY = "mtls: {trustDomain: example.org}"


def policies(count: int, spec: str = f"{ME}, models: ['*']", namespace: str = "team1") -> list[str]:
    return [access(f"p{number:04}", namespace, f"{{{spec}}}") for number in range(count)]


def quotas(count: int) -> str:
    return f"{ME}, models: ['*'], quotas: [{', '.join(f'{{name: q{n}, tokens: 1000, per: Day}}' for n in range(count))}]"


def test_as_many_policies_as_may_be_about_an_identity_and_a_model_grant_it():
    assert len(world(routing(), *policies(POLICIES)).decide(who(), "gpt").policies) == POLICIES


def test_a_policy_more_grants_nothing_and_is_explained():
    snapshot = world(routing(), *policies(POLICIES + 1))
    with pytest.raises(Forbidden):
        snapshot.decide(who(), "gpt")
    assert snapshot.visible_models(who()) == ()
    assert explain(snapshot, who(), "gpt").reason.startswith(f"{POLICIES + 1} AIAccessPolicies are about this identity and model")


def test_policies_about_other_models_are_not_among_them():
    others = policies(POLICIES, f"{ME}, models: [other]")
    assert world(routing(models=("gpt", "other")), *others, access()).decide(who(), "gpt").policies


def test_a_quota_more_than_may_count_grants_nothing_and_is_explained():
    enough = policies(QUOTAS // 16, quotas(16))
    assert len(world(routing(), *enough).decide(who(), "gpt").budgets) == QUOTAS
    snapshot = world(routing(), *enough, access("one-more", spec=f"{{{quotas(1)}}}"))
    with pytest.raises(Forbidden):
        snapshot.decide(who(), "gpt")
    assert explain(snapshot, who(), "gpt").reason.startswith(f"{QUOTAS + 1} quotas are about this identity and model")


def test_a_refusal_is_counted_under_so_many_policies_and_of_each_namespace_under_one():
    many = policies(2 * COUNTING, f"{EVERYBODY}, models: ['*']", namespace="aa-many")
    snapshot = world(*many, access("mine", "team1"), access("also", "zz-last", f"{{{ME}, models: ['*']}}"))
    counting = snapshot.names_identity(who())
    assert len(counting) == COUNTING
    assert [(one.namespace, one.name) for one in counting][:3] == [("aa-many", "p0000"), ("team1", "mine"), ("zz-last", "also")]


def test_a_list_of_models_works_out_no_quota_but_those_in_money(monkeypatch):
    worked_out = []
    plain = Ceiling.budget
    monkeypatch.setattr(Ceiling, "budget", lambda self, spiffe_id: worked_out.append(self.quota.name) or plain(self, spiffe_id))
    money = f"{ME}, models: ['*'], quotas: [{{name: money, usd: '5', per: Day}}]"
    snapshot = world(routing(), *policies(4, quotas(16)), access("money", spec=f"{{{money}}}"))
    snapshot.visible_models(who())
    assert set(worked_out) <= {"money"}


def test_an_object_that_would_make_a_model_too_many_offers_none_and_keeps_its_names():
    older = [routing(f"r{number}", models=[f"m{number}-{n}" for n in range(250)]) for number in range(MODELS // 250)]
    snapshot = world(*older, routing("zz-late", models=["late"]), access())
    assert snapshot.decide(who(), "m0-0").backends
    assert len(snapshot.visible_models(who())) == MODELS
    with pytest.raises(Forbidden):
        snapshot.decide(who(), "late")
    (told,) = status(snapshot, "zz-late").about.faults
    assert f"more than {MODELS} models" in str(told)
    assert snapshot.offers["team1", "late"].taken


def test_what_is_remembered_is_bounded_by_how_large_it_is(monkeypatch):
    monkeypatch.setattr("broker.policy.snapshot.REMEMBERED", 20)
    snapshot = world(routing(models=[f"m{n}" for n in range(9)]), *policies(1, quotas(9)))
    for number in range(9):
        snapshot.decide(who(), f"m{number}")
        snapshot.visible_models(who(f"{AGENT}{number}"))
    assert len(snapshot._grants) <= 2


def test_whom_rules_name_is_remembered_within_bounds(monkeypatch):
    monkeypatch.setattr("broker.policy.rules.REMEMBERED", 4)
    monkeypatch.setattr("broker.policy.snapshot.REMEMBERED", 2 * COUNTING)
    snapshot = world(*policies(1, f"{EVERYBODY}, models: ['*']"))
    for _ in range(2):
        for number in range(9):
            assert [one.name for one in snapshot.names_identity(who(f"{AGENT}{number}"))] == ["p0000"]
    assert len(snapshot.rules._named) <= 2
    assert len(snapshot._counting) <= 2
