"""What a quota of money makes of a model: which backends are asked, who is refused, and who is told why."""

import pytest
from support.worlds import AGENT, access, condition, routing, status, who, world

from broker.errors import Forbidden
from broker.grant import Unit
from broker.money import PICO, Price
from broker.policy import Snapshot, explain

PRICE = "{inputPerMillionTokens: '2.50', outputPerMillionTokens: '10'}"
FREE = "{inputPerMillionTokens: '0', outputPerMillionTokens: '0'}"
MONEY = f"{{subjects: [{{spiffeID: '{AGENT}'}}], models: ['*'], quotas: [{{name: money, usd: '5.00', per: Day}}]}}"
LIMIT = "{action: Limit, quotas: [{name: money, usd: '5.00', per: Day}]}"
SHADOW = MONEY.replace("quotas", "mode: Shadow, quotas")


def offered(*backends: str, price: str = "", name: str = "gpt", schemas: str = "OpenAI OpenAI") -> str:
    """One model with these backends of providers p0, p1, …; each `backends` is the price of one, or nothing."""
    kinds = schemas.split()
    providers = ", ".join(f"{{name: p{n}, schema: {kinds[n]}}}" for n in range(len(backends)))
    listed = ", ".join(f"{{provider: p{n}, model: real{f', price: {one}' if one else ''}}}" for n, one in enumerate(backends))
    own = f", price: {price}" if price else ""
    return f"""---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: team1}}
spec:
  providers: [{providers}]
  models: [{{name: {name}, backends: [{listed}]{own}}}]
"""


def granted(snapshot: Snapshot):
    return snapshot.decide(who(), "gpt")


def prices(snapshot: Snapshot) -> list[Price | None]:
    return [backend.price for backend in granted(snapshot).backends]


def test_a_price_is_read_to_the_pico_dollar_and_what_it_leaves_open_costs_as_input_or_nothing():
    whole = (
        "{inputPerMillionTokens: '2.50', outputPerMillionTokens: '0.000001', cachedInputPerMillionTokens: '1.25', "
        "cacheWritePerMillionTokens: '3.125', perRequest: '0.01'}"
    )
    assert prices(world(offered(whole), access())) == [Price(2_500_000, 1, 1_250_000, 3_125_000, 10_000 * PICO)]
    assert prices(world(offered(PRICE), access())) == [Price(2_500_000, 10_000_000, 2_500_000, 2_500_000, 0)]


def test_a_backends_own_price_stands_in_place_of_the_models_as_a_whole():
    half = "{inputPerMillionTokens: '1'}"
    assert prices(world(offered(PRICE, "", half, price=FREE, schemas="OpenAI OpenAI OpenAI"), access())) == [
        Price(2_500_000, 10_000_000, 2_500_000, 2_500_000),
        Price(0, 0, 0, 0),
        None,
    ]


@pytest.mark.parametrize(
    "incomplete",
    ["{inputPerMillionTokens: '1'}", "{outputPerMillionTokens: '1'}", "{perRequest: '1'}", "{cachedInputPerMillionTokens: '1'}"],
)
def test_a_price_that_leaves_input_or_output_open_is_none_and_the_owner_is_told(incomplete):
    snapshot = world(offered("", price=incomplete), access())
    assert prices(snapshot) == [None]
    ((path, text),) = status(snapshot, "routing").notices
    assert path == "spec.models[0].price"
    assert '"0" for what is free' in text
    assert [path for path, _ in status(world(offered(incomplete, price=PRICE)), "routing").notices] == ["spec.models[0].backends[0].price"]


def test_a_quota_of_dollars_is_a_budget_of_micro_dollars():
    (budget,) = granted(world(offered("", price=PRICE), access(spec=MONEY))).budgets
    assert (budget.unit, budget.limit, budget.amount) == (Unit.USD, 5_000_000, "5.00 USD")
    assert budget.counter == f"{{team1}}/AIAccessPolicy/access/money/usd/day/identity/{AGENT}"


@pytest.mark.parametrize("objects", [[access(spec=MONEY)], [access(), access("limit", spec=LIMIT)]], ids=["Allow", "Limit"])
def test_a_model_without_a_price_is_refused_to_whom_money_limits(objects):
    snapshot = world(offered(""), *objects)
    with pytest.raises(Forbidden, match="this model has no price") as refusal:
        granted(snapshot)
    assert "access" not in str(refusal.value)
    assert "limit/" not in str(refusal.value)
    assert refusal.value.code == "forbidden"
    assert snapshot.visible_models(who()) == ()
    assert granted(world(offered("", price=FREE), *objects)).backends


def test_a_quota_of_dollars_for_other_models_refuses_nothing():
    spec = MONEY.replace("per: Day", "per: Day, models: [other]")
    assert granted(world(offered(""), access(spec=spec))).budgets == ()


def test_a_limit_refuses_only_whom_it_names():
    limit = access("limit", spec=LIMIT.replace("quotas", "subjects: [{spiffeIDPrefix: 'spiffe://example.org/ns/other/'}], quotas"))
    assert granted(world(offered(""), access(), limit)).backends


def test_a_price_counts_whether_or_not_its_backend_is_ready():
    away = offered(PRICE, "", schemas="Gemini OpenAI")
    assert granted(world(away, access(spec=MONEY))).backends == ()
    assert world(away, access(spec=MONEY)).visible_models(who()) == ()
    assert explain(world(away, access(spec=MONEY)), who(), "gpt").code == "no_backend"


def test_of_a_model_that_is_partly_priced_only_the_priced_backends_are_asked():
    routed = offered(PRICE, "", schemas="OpenAI Anthropic")
    grant = granted(world(routed, access(spec=MONEY)))
    assert [backend.provider.name for backend in grant.backends] == ["p0"]
    assert "openai_responses" in grant.configured
    assert "anthropic_messages" not in grant.configured
    (visible,) = world(routed, access(spec=MONEY)).visible_models(who())
    assert visible.kinds == ("OpenAI",)
    assert len(granted(world(routed, access())).backends) == 2


def test_a_weightless_backend_with_a_price_is_no_price():
    routed = offered(PRICE, "").replace(f"model: real, price: {PRICE}", f"model: real, weight: 0, price: {PRICE}")
    with pytest.raises(Forbidden, match="no price"):
        granted(world(routed, access(spec=MONEY)))


def test_a_shadow_quota_of_dollars_takes_nothing_away_and_records_that_it_would_have():
    wholly = granted(world(offered(""), access(spec=SHADOW)))
    assert (len(wholly.backends), wholly.budgets, wholly.would_refuse) == (1, (), ("forbidden",))
    partly = granted(world(offered(PRICE, ""), access(spec=SHADOW)))
    assert (len(partly.backends), partly.budgets, partly.would_refuse) == (2, (), ())
    priced = granted(world(offered("", price=PRICE), access(spec=SHADOW)))
    assert [budget.unit for budget in priced.budgets] == [Unit.USD]


def test_a_shadow_beside_an_enforcing_quota_is_counted_where_that_one_is():
    both = granted(world(offered(PRICE, ""), access(spec=MONEY), access("shadow", spec=SHADOW)))
    assert ([budget.shadow for budget in both.budgets], len(both.backends)) == ([False, True], 1)


@pytest.mark.parametrize("spec", [MONEY, LIMIT, SHADOW], ids=["Allow", "Limit", "Shadow"])
def test_the_policy_is_told_which_models_have_no_price(spec):
    told = condition(world(offered(""), access(spec=spec)), "access", "ModelsResolved")
    assert (told.status, told.reason, told.path) == ("False", "PriceUnknown", "spec.quotas[0].usd")
    assert "no price is known of gpt" in told.message
    assert ("count nothing there" in told.message) is (spec == SHADOW)
    assert condition(world(offered("", price=PRICE), access(spec=spec)), "access", "ModelsResolved").status == "True"


def test_a_model_that_is_not_there_is_said_before_one_without_a_price():
    spec = MONEY.replace("['*']", "[gpt, none]")
    told = condition(world(offered(""), access(spec=spec)), "access", "ModelsResolved")
    assert (told.reason, told.path) == ("ModelNotFound", "spec.models")
    assert "none" in told.message
    assert "no price is known of gpt" in told.message


def test_backends_without_a_price_are_a_notice_at_the_quota():
    snapshot = world(offered(PRICE, ""), access(spec=MONEY))
    assert condition(snapshot, "access", "ModelsResolved").status == "True"
    ((path, text),) = status(snapshot, "access").notices
    assert path == "spec.quotas[0].usd"
    assert "some backends of model gpt have no price" in text


def test_who_bills_cache_writes_and_has_no_price_for_them_is_a_notice():
    ((path, text),) = status(world(offered("", price=PRICE, schemas="Anthropic")), "routing").notices
    assert (path, "cacheWritePerMillionTokens" in text) == ("spec.models[0]", True)
    assert status(world(offered("", price=PRICE)), "routing").notices == ()
    assert status(world(offered("", price=FREE, schemas="Anthropic")), "routing").notices == ()


def test_an_administrator_is_told_which_policy_wants_a_price():
    why = explain(world(offered(""), access(), access("limit", spec=LIMIT)), who(), "gpt")
    assert why.code == "forbidden"
    assert "AIAccessPolicy team1/limit limits it in US dollars, and the model has no price" in why.reason
    assert "AIRoutingPolicy team1/routing" in why.reason


def test_a_deny_is_said_before_a_missing_price():
    deny = access("deny", spec="{action: Deny, mtls: {trustDomain: example.org}}")
    assert "team1/deny denies it" in explain(world(offered(""), access(spec=MONEY), deny), who(), "gpt").reason


def test_exceptions_from_a_quota_of_dollars_are_compared_as_dollars():
    wide = access("wide", spec=LIMIT.replace("per: Day", "per: Day, overridable: true"))
    narrow = access("narrow", spec=MONEY.replace("5.00", "12.5"))
    why = explain(world(offered("", price=PRICE), wide, narrow), who(), "gpt")
    assert [budget.amount for budget in why.budgets] == ["12.50 USD"]
    assert [one.overridden_by for one in why.standings if one.overridden_by] == [("team1/narrow (12.50 USD)",)]
    assert any("overrides the 5.00 USD of team1/wide" in note for one in why.standings for note in one.notes)


def test_a_routing_object_that_is_rejected_has_no_models_to_price():
    rejected = routing(extra="  unknown: 1")
    assert condition(world(rejected, access(spec=MONEY)), "access", "ModelsResolved").status == "True"
