"""Quotas of one name in several policies: which count, which make way, and what a wrong one of them leads to."""

from dataclasses import fields, replace

import pytest
from support.worlds import AGENT, access, condition, routing, status, who, world

from broker.errors import Forbidden
from broker.grant import Budget, Grant, Per, Unit
from broker.objects.access import QuotaSpec
from broker.policy import explain, oversights
from broker.policy.rules import Ceiling

OTHER = "spiffe://example.org/ns/team1/sa/other"
EVERYBODY = ""
DOMAIN = "mtls: {trustDomain: example.org}"
WHOLE = "subjects: [{spiffeIDPrefix: 'spiffe://example.org/'}]"
PREFIX = "subjects: [{spiffeIDPrefix: 'spiffe://example.org/ns/team1/'}]"
LONGER = "subjects: [{spiffeIDPrefix: 'spiffe://example.org/ns/team1/sa/'}]"
EXACT = f"subjects: [{{spiffeID: '{AGENT}'}}]"
ACCOUNT = "subjects: [{serviceAccount: {name: agent, namespace: team1, trustDomain: example.org}}]"
ORDER = (EVERYBODY, DOMAIN, PREFIX, LONGER, EXACT)


def quota(limit: int, *more: str, name: str = "daily") -> str:
    return "{" + ", ".join((f"name: {name}", f"tokens: {limit}", "per: Day", *more)) + "}"


def policy(name: str, names: str, *quotas: str, action: str = "Limit", extra: str = "") -> str:
    fields = [f"action: {action}", f"quotas: [{', '.join(quotas)}]", *([names] if names else []), *([extra] if extra else [])]
    return access(name, spec=f"{{{', '.join(fields)}}}")


def granted(*policies: str, spiffe_id: str = AGENT, model: str = "team1/gpt") -> Grant | None:
    snapshot = world(routing(models=("gpt", "big")), access("allow", spec=f"{{{DOMAIN}}}"), *policies)
    try:
        return snapshot.decide(who(spiffe_id), model)
    except Forbidden:
        return None


def limits(*policies: str, spiffe_id: str = AGENT, model: str = "team1/gpt") -> list[int]:
    grant = granted(*policies, spiffe_id=spiffe_id, model=model)
    assert grant is not None
    return [budget.limit for budget in grant.budgets]


def warnings(*policies: str) -> list[tuple[str, str, str]]:
    snapshot = world(routing(models=("gpt", "big")), *policies)
    return [(one.policy.name, one.path, one.message) for one in oversights(snapshot.rules)]


def test_a_limit_grants_nothing():
    snapshot = world(routing(), policy("a", EVERYBODY, quota(5)))
    with pytest.raises(Forbidden):
        snapshot.decide(who(), "gpt")
    assert snapshot.visible_models(who()) == ()


@pytest.mark.parametrize("extra", ["", "unknown: 1"])
def test_a_stranger_stays_one_whom_no_policy_names(extra: str):
    snapshot = world(routing(), access(), policy("a", EVERYBODY, quota(5), extra=extra))
    assert snapshot.names_identity(who(OTHER)) == ()
    assert [ref.name for ref in snapshot.names_identity(who())] == ["access"]


def test_a_limit_counts_for_whom_an_allow_grants_and_is_no_granting_policy():
    grant = granted(policy("everybody", EVERYBODY, quota(5)), spiffe_id=OTHER)
    assert [budget.counter for budget in grant.budgets] == [f"{{team1}}/AIAccessPolicy/everybody/daily/total_tokens/day/identity/{OTHER}"]
    assert [ref.name for ref in grant.policies] == ["allow", "everybody"]
    assert [ref.name for ref in grant.granting] == ["allow"]
    assert grant.max_stream_s == 3600


def test_a_limit_without_subjects_names_every_trust_domain():
    far = "spiffe://partner.example/x"
    snapshot = world(
        routing(), access("allow", spec=f"{{subjects: [{{spiffeID: '{far}'}}], models: ['*']}}"), policy("a", EVERYBODY, quota(5))
    )
    assert [budget.limit for budget in snapshot.decide(who(far), "team1/gpt").budgets] == [5]


def test_a_limit_covers_its_own_namespace_even_in_the_brokers():
    grant = granted(policy("a", EVERYBODY, quota(5)).replace("namespace: team1", "namespace: broker-system"))
    assert grant.budgets == ()
    assert [ref.name for ref in grant.policies] == ["allow"]


@pytest.mark.parametrize(("wide", "narrow"), [(ORDER[m], ORDER[n]) for n in range(len(ORDER)) for m in range(n)])
def test_a_narrower_quota_overrides_an_overridable_one(wide: str, narrow: str):
    assert limits(policy("a", wide, quota(5, "overridable: true")), policy("b", narrow, quota(9))) == [9]


@pytest.mark.parametrize(("wide", "narrow"), [(ORDER[n], ORDER[m]) for n in range(len(ORDER)) for m in range(n + 1)])
def test_a_wider_or_equally_wide_quota_overrides_nothing(wide: str, narrow: str):
    assert limits(policy("a", wide, quota(5, "overridable: true")), policy("b", narrow, quota(9))) == [5, 9]


def test_a_service_account_is_as_narrow_as_its_id_and_a_whole_trust_domain_as_wide_as_its_prefix():
    assert limits(policy("a", ACCOUNT, quota(5, "overridable: true")), policy("b", EXACT, quota(9))) == [5, 9]
    assert limits(policy("a", DOMAIN, quota(5, "overridable: true")), policy("b", WHOLE, quota(9))) == [5, 9]


def test_of_several_subjects_the_closest_counts_for_each_caller():
    both = f"subjects: [{{spiffeIDPrefix: 'spiffe://example.org/ns/team1/'}}, {{spiffeID: '{AGENT}'}}]"
    team = policy("a", PREFIX, quota(5, "overridable: true"))
    assert limits(team, policy("b", both, quota(9))) == [9]
    assert limits(team, policy("b", both, quota(9)), spiffe_id=OTHER) == [5, 9]


def test_a_subject_that_names_somebody_whose_name_is_shorter_brings_nobody_closer():
    somebody_else = f"subjects: [{{spiffeIDPrefix: 'spiffe://example.org/ns/'}}, {{spiffeID: '{AGENT[:-1]}'}}]"
    assert limits(policy("a", PREFIX, quota(5, "overridable: true")), policy("b", somebody_else, quota(9))) == [5, 9]


@pytest.mark.parametrize("action", ["Limit", "Allow"])
def test_an_allow_overrides_as_a_limit_does(action: str):
    narrow = policy("b", EXACT, quota(9), action=action, extra="models: ['*']")
    assert limits(policy("a", EVERYBODY, quota(5, "overridable: true")), narrow) == [9]


def test_an_exception_is_one_for_whom_it_names():
    assert limits(policy("a", EVERYBODY, quota(5, "overridable: true")), policy("b", EXACT, quota(9)), spiffe_id=OTHER) == [5]


def test_without_overridable_both_count():
    assert limits(policy("a", EVERYBODY, quota(5)), policy("b", EXACT, quota(9, "overridable: true"))) == [5, 9]


@pytest.mark.parametrize("limit", [1, 5])
def test_a_quota_that_allows_no_more_tightens(limit: int):
    assert limits(policy("a", EVERYBODY, quota(5, "overridable: true")), policy("b", EXACT, quota(limit))) == [5, limit]


def test_a_chain_is_judged_pair_by_pair():
    default, exception = policy("a", EVERYBODY, quota(5, "overridable: true")), policy("c", EXACT, quota(9))
    assert limits(default, policy("b", PREFIX, quota(3)), exception) == [3, 9]
    assert limits(default, policy("b", PREFIX, quota(3, "overridable: true")), exception) == [9]
    assert limits(default, policy("b", PREFIX, quota(20)), exception) == [20, 9]
    assert limits(policy("a", EVERYBODY, quota(5)), policy("b", PREFIX, quota(3, "overridable: true")), exception) == [5, 9]


@pytest.mark.parametrize(
    "other",
    [
        "{name: daily, tokens: 9, per: Hour}",
        "{name: daily, tokens: 9, per: Day, scope: Policy}",
        "{name: daily, tokens: 9, per: Day, tokenCountMode: OutputToken}",
        "{name: daily, requests: 9, per: Day}",
        "{name: daily, concurrent: 9}",
        "{name: dayly, tokens: 9, per: Day}",
    ],
)
def test_what_counts_something_else_overrides_nothing(other: str):
    assert limits(policy("a", EVERYBODY, quota(5, "overridable: true")), policy("b", EXACT, other)) == [5, 9]


@pytest.mark.parametrize("unit", ["requests: {}, per: Hour", "concurrent: {}", "tokens: {}, per: Month, scope: Policy"])
def test_every_unit_can_be_overridden(unit: str):
    def of(limit: int, more: str = "") -> str:
        return f"{{name: q, {unit.format(limit)}{more}}}"

    assert limits(policy("a", EVERYBODY, of(5, ", overridable: true")), policy("b", EXACT, of(9))) == [9]


def test_an_exception_for_some_models_is_none_for_the_others():
    default = policy("a", EVERYBODY, quota(5, "overridable: true"))
    for exception in (policy("b", EXACT, quota(9), extra="models: [big]"), policy("b", EXACT, quota(9, "models: [big]"))):
        assert limits(default, exception) == [5]
        assert limits(default, exception, model="team1/big") == [9]


@pytest.mark.parametrize(("wide", "narrow", "counted"), [("", "Shadow", [5, 9]), ("Shadow", "", [9]), ("Shadow", "Shadow", [9])])
def test_a_shadow_quota_takes_the_place_of_no_enforcing_one(wide: str, narrow: str, counted: list[int]):
    def mode(name: str) -> str:
        return f"mode: {name or 'Enforce'}"

    assert (
        limits(policy("a", EVERYBODY, quota(5, "overridable: true"), extra=mode(wide)), policy("b", EXACT, quota(9), extra=mode(narrow)))
        == counted
    )


def test_no_exception_lifts_a_deny():
    deny = access("deny", spec=f"{{{DOMAIN}, action: Deny}}")
    assert granted(deny, policy("a", EVERYBODY, quota(5, "overridable: true")), policy("b", EXACT, quota(9))) is None


@pytest.mark.parametrize("wrong", ["unknown: 1", "mode: Enfroce", "features: [Files]", "models: 7"])
def test_a_wrong_default_refuses_everybody_the_models_of_its_namespace(wrong: str):
    default = policy("a", EVERYBODY, quota(5), extra=wrong)
    assert granted(default) is None
    assert granted(default, policy("b", EXACT, quota(9))) is None
    assert granted(default.replace("namespace: team1", "namespace: team2")) is not None
    assert granted(default.replace("namespace: team1", "namespace: broker-system")) is not None
    assert granted(default.replace("namespace: team1", "namespace: Not_One")) is None


@pytest.mark.parametrize("quotas", ["", "{name: daily, tokens: 5}", "{name: daily, tokns: 5, per: Day}"])
def test_a_default_whose_quotas_cannot_be_known_refuses(quotas: str):
    assert granted(access("a", spec=f"{{action: Limit, quotas: [{quotas}]}}")) is None


def test_a_default_without_its_quotas_or_with_a_misspelt_action_refuses():
    assert granted(access("a", spec="{action: Limit}")) is None
    assert granted(access("a", spec=f"{{action: Limt, quotas: [{quota(5)}]}}")) is None


def test_a_wrong_limit_refuses_only_whom_it_names_where_that_can_be_read():
    wrong = policy("b", EXACT, quota(9), extra="unknown: 1")
    default = policy("a", EVERYBODY, quota(5, "overridable: true"))
    assert granted(default, wrong) is None
    assert limits(default, wrong, spiffe_id=OTHER) == [5]


def test_a_wrong_allow_overrides_nothing():
    wrong = policy("b", EXACT, quota(9), action="Allow", extra="unknown: 1")
    assert limits(policy("a", EVERYBODY, quota(5, "overridable: true")), wrong) == [5]


def test_a_wrong_shadow_limit_is_recorded_and_refuses_nothing():
    grant = granted(policy("a", EVERYBODY, quota(5), extra="mode: Shadow, unknown: 1"))
    assert (grant.budgets, grant.would_refuse) == ((), ("forbidden",))


def test_the_same_limit_twice_refuses():
    assert granted(policy("a", EVERYBODY, quota(5)), policy("a", EVERYBODY, quota(5))) is None


def test_a_limits_status_says_whom_it_names_and_what_a_wrong_one_does():
    snapshot = world(routing(), policy("a", EVERYBODY, quota(5)), policy("b", EVERYBODY, quota(5), extra="unknown: 1"))
    assert status(snapshot, "a").subject_summary == "*"
    assert condition(snapshot, "a", "Accepted").status == "True"
    assert "nobody whom it limits is granted anything" in condition(snapshot, "b", "Programmed").message


def test_an_explanation_says_what_each_quota_does_to_the_wider_ones():
    snapshot = world(
        routing(),
        access("allow", spec=f"{{{DOMAIN}}}"),
        policy("a", EVERYBODY, quota(5, "overridable: true"), quota(7, name="alone")),
        policy("b", PREFIX, quota(3)),
        policy("c", LONGER, quota(9), extra="mode: Shadow"),
        policy("d", EXACT, quota(8)),
        policy("e", EXACT, "{name: daily, requests: 2, per: Day}"),
    )
    told = [(one.policy.name, one.names, one.overridden_by, one.notes) for one in explain(snapshot, who(), "gpt").standings]
    same = "of a policy that is neither wider nor narrower: both count"
    assert told == [
        ("a", "every identity", ("team1/d (8)",), ()),
        ("a", "", (), ()),
        ("b", "spiffe://example.org/ns/team1/*", (), ()),
        (
            "c",
            "spiffe://example.org/ns/team1/sa/*",
            (),
            ("has no effect above the 3 of team1/b, which is not overridable: both count",),
        ),
        (
            "d",
            "this identity alone",
            (),
            (
                "overrides the 5 of team1/a, which is overridable",
                "has no effect above the 3 of team1/b, which is not overridable: both count",
                "is no looser than the 9 of team1/c: both count",
                f"the 2 of team1/e is {same}",
            ),
        ),
        (
            "e",
            "this identity alone",
            (),
            (
                "counts something else than the 3 of team1/b: both count",
                "counts something else than the 9 of team1/c: both count",
                f"the 8 of team1/d is {same}",
            ),
        ),
    ]


@pytest.mark.parametrize(
    ("narrow", "told"),
    [
        (policy("b", EXACT, quota(9), extra="mode: Shadow"), "would override the 5 of team1/a, were it not Shadow: both count"),
        (policy("b", EXACT, quota(4)), "is no looser than the 5 of team1/a: both count"),
        (policy("b", EXACT, "{name: daily, concurrent: 9}"), "counts something else than the 5 of team1/a: both count"),
    ],
)
def test_an_explanation_says_why_an_overridable_quota_still_counts(narrow: str, told: str):
    snapshot = world(routing(), access("allow", spec=f"{{{DOMAIN}}}"), policy("a", EVERYBODY, quota(5, "overridable: true")), narrow)
    assert [(one.policy.name, one.notes) for one in explain(snapshot, who(), "gpt").standings] == [("a", ()), ("b", (told,))]


def test_an_explanation_blames_the_wrong_limit():
    snapshot = world(routing(), access(), policy("a", EVERYBODY, quota(5), extra="unknown: 1"))
    why = explain(snapshot, who(), "gpt")
    assert why.reason == "AIAccessPolicy team1/a limits it and is rejected: mend it; until its quotas are known nothing is granted"
    assert [(one.action, one.effect) for one in why.rules] == [
        ("Limit", "is rejected, and refuses, since its quotas cannot be known"),
        ("Allow", "allows"),
    ]


def test_a_looser_exception_from_what_is_not_overridable_is_an_oversight():
    ((name, path, message),) = warnings(policy("a", EVERYBODY, quota(5)), policy("b", EXACT, quota(1, name="x"), quota(9)))
    assert (name, path) == ("b", "spec.quotas[1]")
    assert message == (
        "has no effect above 5, the same quota of AIAccessPolicy team1/a, which is not overridable: both count; "
        f"write `overridable: true` at that quota, or take this one away (for {AGENT})"
    )


@pytest.mark.parametrize(
    ("wide", "narrow", "told"),
    [
        ((DOMAIN, quota(5, "overridable: true")), (WHOLE, quota(9)), "neither is narrower"),
        ((EXACT, quota(5, "overridable: true")), (ACCOUNT, quota(9)), "neither is narrower"),
        ((EVERYBODY, quota(5, "overridable: true")), (EVERYBODY, quota(9)), "name every identity and neither"),
        ((PREFIX, quota(5, "overridable: true")), (EXACT, "{name: daily, tokens: 9, per: Hour}"), "does not count the same thing"),
        ((EVERYBODY, quota(5)), (DOMAIN, quota(9)), "(for spiffe://example.org/*)"),
        ((PREFIX, quota(5)), (LONGER, quota(9)), "(for spiffe://example.org/ns/team1/sa/*)"),
    ],
)
def test_an_exception_that_comes_to_nothing_is_an_oversight(wide: tuple[str, str], narrow: tuple[str, str], told: str):
    ((name, _, message),) = warnings(policy("a", *wide), policy("b", *narrow))
    assert name == "b"
    assert told in message


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (policy("a", EVERYBODY, quota(5, "overridable: true")), policy("b", EXACT, quota(9))),
        (policy("a", EVERYBODY, quota(5)), policy("b", EXACT, quota(4))),
        (policy("a", EVERYBODY, quota(5)), policy("b", EXACT, quota(9, name="other"))),
        (policy("a", EVERYBODY, quota(5)), policy("b", EXACT, quota(9)).replace("namespace: team1", "namespace: team2")),
        (policy("a", PREFIX, quota(5)), policy("b", "subjects: [{spiffeID: 'spiffe://example.org/ns/team2/sa/agent'}]", quota(9))),
        (policy("a", EVERYBODY, quota(5), extra="models: [gpt]"), policy("b", EXACT, quota(9), extra="models: [big]")),
        (policy("a", EVERYBODY, quota(5, "models: [gpt]")), policy("b", EXACT, quota(9, "models: [big]"))),
        (policy("a", EVERYBODY, quota(5), extra="mode: Shadow"), policy("b", EXACT, quota(9))),
        (policy("a", EVERYBODY, quota(5, "overridable: true")), policy("b", EXACT, quota(9), extra="mode: Shadow")),
        (policy("a", EVERYBODY, quota(5)), policy("b", EXACT, quota(9), action="Deny")),
        (policy("a", EVERYBODY, quota(5)), policy("b", EXACT, quota(9), extra="unknown: 1")),
        (policy("a", EVERYBODY, quota(5)), policy("b", EXACT, quota(9), extra="mtls: {trustDomain: other.org}")),
        (policy("a", EXACT, quota(5)), policy("b", EXACT, quota(9))),
        (policy("a", PREFIX, quota(5)), policy("b", PREFIX, quota(9))),
        (policy("a", EXACT, quota(5, "overridable: true", "models: [gpt]")), policy("b", EXACT, quota(9, "models: [big]"))),
        (policy("a", EVERYBODY, quota(5)), policy("b", EXACT, "{name: daily, tokens: 9, per: Hour}")),
    ],
)
def test_what_does_what_it_says_is_no_oversight(wide: str, narrow: str):
    assert warnings(wide, narrow) == []


def test_a_budget_of_one_identity_differs_from_the_pattern_in_its_counter_alone():
    switches = {one.name: True for one in fields(Budget) if one.default is False}
    pattern = Budget("{team1}/q/identity/", Unit.REQUESTS, 7, Per.MONTH, **switches)
    assert switches
    assert Ceiling(0, QuotaSpec(name="q", requests=7), None, pattern).budget(AGENT) == replace(
        pattern, counter=f"{{team1}}/q/identity/{AGENT}"
    )


def test_a_counter_keeps_its_name_whether_its_quota_is_overridable_or_not():
    def counters(*more: str) -> list[str]:
        return [budget.counter for budget in granted(policy("a", EVERYBODY, quota(5, *more))).budgets]

    assert counters() == counters("overridable: true")
