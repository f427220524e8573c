"""Which object an Event stands beside, and what it says: names out of objects, what to do, and nothing that a caller wrote."""

import pytest
from support.stored_objects import snapshot_of
from support.worlds import AGENT, access, routing, who

from broker import errors
from broker.adjustment import Balance
from broker.grant import Budget, Per, Unit
from broker.herald import REFUSALS, Herald
from broker.kube.events import NOTE_BYTES, Happening, Regarding, clipped
from broker.kube.source import Scope
from broker.policy import Settings
from broker.usage.watch import Warned

SETTINGS = Settings(namespace="broker-system", trust_domain="example.org", shared_namespaces=("shared",))
STRANGER = "spiffe://example.org/ns/team1/sa/stranger"
NAMESPACE = "Namespace"


def heard(*texts: str, settings: Settings = SETTINGS, scope: Scope | None = None) -> tuple[Herald, list[Happening]]:
    snapshot = snapshot_of(*texts, settings=settings)
    told: list[Happening] = []
    return Herald(told.append, lambda: snapshot, scope or Scope("broker-system", frozenset({"team1", "shared"}))), told


def refused(*texts: str, identity: str = AGENT, code: str = "forbidden", model: str = "gpt", scope: Scope | None = None) -> Happening:
    herald, told = heard(*texts, scope=scope)
    herald.refused(who(identity), code, model)
    (one,) = told
    return one


def policy(name: str, namespace: str = "team1", *subjects: str, **spec: str) -> str:
    named = ", ".join(f"{{spiffeID: '{one}'}}" for one in subjects or (AGENT,))
    rest = "".join(f", {field}: {value}" for field, value in ({"models": "['*']"} | spec).items())
    return access(name, namespace, f"{{subjects: [{named}]{rest}}}")


def test_a_refusal_stands_beside_the_policy_that_names_the_identity():
    one = refused(routing(), policy("agents", models="[other]"))
    assert one.regarding == Regarding("aiaccess.dev/v1alpha1", "AIAccessPolicy", "team1", "agents", "uid-1")
    assert (one.reason, one.about) == ("Forbidden", AGENT)
    assert one.note.startswith(f"{AGENT} was refused the model team1/gpt: no policy grants it")


def test_of_several_policies_the_one_that_denies_this_model_is_shown():
    deny = policy("zz-cut-off", action="Deny", models="[gpt]")
    one = refused(routing(models=("gpt", "small")), policy("agents"), policy("aa-other", action="Deny", models="[small]"), deny)
    assert one.regarding.name == "zz-cut-off"


def test_a_deny_in_shadow_is_not_blamed():
    one = refused(routing(), policy("aa", action="Deny", mode="Shadow", models="[gpt]"), policy("zz-deny", action="Deny", models="[gpt]"))
    assert one.regarding.name == "zz-deny"


def test_a_deny_of_the_operator_is_shown_in_the_operators_namespace():
    one = refused(routing(), policy("agents"), policy("everywhere", "broker-system", action="Deny"))
    assert (one.regarding.namespace, one.regarding.name) == ("broker-system", "everywhere")


def test_a_used_up_quota_is_shown_beside_a_policy_that_has_quotas():
    quotas = "[{name: hourly, tokens: 5, per: Hour}]"
    one = refused(routing(), policy("aa-plain"), policy("zz-quotas", quotas=quotas), code="quota_exhausted")
    assert (one.regarding.name, one.reason) == ("zz-quotas", "QuotaExhausted")


@pytest.mark.parametrize(
    ("identity", "namespace"),
    [
        (STRANGER, "team1"),
        ("spiffe://example.org/ns/team9/sa/a", "broker-system"),
        ("spiffe://example.org/a", "broker-system"),
        ("spiffe://partner.test/ns/team1/sa/stranger", "broker-system"),
    ],
    ids=["its own", "one that is not read", "none", "of another trust domain"],
)
def test_whom_no_policy_names_is_told_of_beside_a_namespace(identity: str, namespace: str):
    assert refused(routing(), policy("agents"), identity=identity).regarding == Regarding("v1", NAMESPACE, namespace, namespace)


def test_where_all_namespaces_are_read_each_hears_of_its_own():
    one = refused(routing(), identity="spiffe://example.org/ns/team9/sa/a", scope=Scope("broker-system", None))
    assert one.regarding.name == "team9"


def test_a_limit_names_nobody():
    limit = access("cap", spec="{action: Limit, quotas: [{name: hourly, tokens: 50, per: Hour}]}")
    assert refused(routing(), limit, identity=STRANGER, model="absent").regarding.kind == NAMESPACE


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("model", ["sk-canary", "a prompt\nof sk-canary", "team1/sk-canary", "sk-canary" * 5000])
def test_nothing_that_the_caller_wrote_is_in_an_event(code: str, model: str):
    one = refused(routing(), policy("agents"), code=code, model=model)
    assert f"{AGENT} was refused a model: " in one.note
    assert "sk-canary" not in f"{one}{one.name}"


@pytest.mark.parametrize("others", [(), (policy("agents"),)], ids=["beside its namespace", "beside its policy"])
def test_no_event_of_ones_own_tells_whether_another_team_has_a_model_of_a_name(others: tuple[str, ...]):
    theirs = routing("theirs", "team2", models=("secret-plan",))
    told = {refused(theirs, *others, model=model).note for model in ("team2/secret-plan", "team2/guess")}
    assert len(told) == 1
    assert "secret-plan" not in told.pop()


def test_beside_the_other_teams_own_policy_its_model_is_named():
    theirs = routing("theirs", "team2", models=("big",)), policy("cut-off", "team2", action="Deny")
    one = refused(*theirs, model="team2/big")
    assert (one.regarding.namespace, one.regarding.name) == ("team2", "cut-off")
    assert "the model team2/big" in one.note


def test_a_model_of_the_shared_namespace_is_named_as_it_is():
    one = refused(routing(namespace="shared", models=("big",)), policy("agents"), model="big")
    assert "the model shared/big" in one.note


@pytest.mark.parametrize(
    "code", ["bad_request", "too_large", "busy", "internal", "unavailable", "provider_timeout", "provider_rate_limited"]
)
def test_what_nobody_with_kubectl_can_mend_is_no_event(code: str):
    herald, told = heard(routing(), policy("agents"))
    herald.refused(who(), code, "gpt")
    assert told == []


def test_every_refusal_that_is_told_exists_and_says_what_to_do():
    assert {one.code for one in errors.BrokerError.__subclasses__()} >= set(REFUSALS)
    for code in REFUSALS:
        note = refused(routing(), policy("agents"), identity=f"spiffe://example.org/{'a' * 1900}", code=code).note
        assert clipped(note) == note
        assert len(note.encode()) < NOTE_BYTES


def counter(named: str, kind: str = "AIAccessPolicy", whose: str = f"identity/{AGENT}") -> Budget:
    return Budget(f"{{team1}}/{kind}/{named}/total_tokens/hour/{whose}", Unit.TOTAL_TOKENS, 1000, Per.HOUR)


def warned(budget: Budget, percent: int = 80, window: str = "2026-11-21T12") -> Warned:
    return Warned(budget, Balance(budget.counter, window, 850, 50, 0, 600.0), percent)


QUOTAS = "[{name: hourly, tokens: 1000, per: Hour}]"


def test_a_quota_that_is_nearly_used_up_is_told_once_beside_its_policy():
    herald, told = heard(routing(), policy("agents", quotas=QUOTAS))
    herald.warned(warned(counter("agents/hourly")))
    (one,) = told
    assert (one.regarding.kind, one.regarding.name, one.regarding.uid, one.reason, one.once) == (
        "AIAccessPolicy",
        "agents",
        "uid-1",
        "QuotaNearlyUsedUp",
        True,
    )
    assert one.note.startswith(
        f"{AGENT} used 800 of 1000 total tokens of the quota hourly in the hour 2026-11-21T12 (UTC), which ends in 10m0s."
    )


def test_each_threshold_and_each_window_is_an_event_of_its_own():
    herald, told = heard(routing(), policy("agents", quotas=QUOTAS))
    for percent, window in ((80, "2026-11-21T12"), (100, "2026-11-21T12"), (80, "2026-11-21T13")):
        herald.warned(warned(counter("agents/hourly"), percent, window))
    assert len({one.name for one in told}) == 3
    assert told[1].reason == "QuotaUsedUp"


def test_a_models_own_limit_is_told_beside_its_routing_policy():
    limited = routing().replace("backends:", "rateLimit: {tokensPerHour: 1000}, backends:")
    herald, told = heard(limited)
    herald.warned(warned(counter("routing/gpt", "AIRoutingPolicy", "policy/-")))
    (one,) = told
    assert (one.regarding.kind, one.regarding.name, one.regarding.uid) == ("AIRoutingPolicy", "routing", "uid-0")
    assert one.note.startswith("All callers together used 800")


@pytest.mark.parametrize("budget", [counter("gone/hourly"), Budget("nonsense", Unit.TOTAL_TOKENS, 1, Per.HOUR)], ids=["gone", "no name"])
def test_a_quota_whose_object_has_gone_is_told_nowhere(budget: Budget):
    herald, told = heard(routing())
    herald.warned(warned(budget))
    assert told == []
