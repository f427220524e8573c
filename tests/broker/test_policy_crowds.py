"""However many policies somebody writes about one identity, nobody else pays for it."""

import pytest
from support.worlds import AGENT, access, routing, who, world

from broker.errors import Forbidden
from broker.policy.explanation import explain
from broker.policy.rules import POLICIES, QUOTAS
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
