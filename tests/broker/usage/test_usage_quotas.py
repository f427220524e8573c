"""Counters' names and the quotas behind them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.usage_world import OBJECTS
from support.worlds import AGENT, who, world

from broker.grant import Per, Unit
from broker.usage.quotas import Catalogue, Named, near, parse


def test_every_counter_of_a_grant_leads_back_to_its_quota():
    snapshot = world(*OBJECTS)
    catalogue = Catalogue(snapshot)
    found = {}
    for budget in snapshot.decide(who(), "gpt").budgets:
        named = parse(budget.counter)
        quota = catalogue.of(named)
        found[named.title] = (quota.budget.limit, quota.each, named.identity, named.unit, named.per)
        assert quota.budget.counter + named.identity == budget.counter
    assert found == {
        "team1/agents/hourly": (1000, True, AGENT, Unit.TOTAL_TOKENS, Per.HOUR),
        "team1/agents/team": (4000, False, "", Unit.TOTAL_TOKENS, Per.DAY),
        "team1/agents/pace": (60, True, AGENT, Unit.REQUESTS, Per.MINUTE),
        "team1/agents/width": (8, True, AGENT, Unit.CONCURRENT, None),
        "team1/routing/gpt": (5000, False, "", Unit.TOTAL_TOKENS, Per.HOUR),
    }


def test_a_quota_that_says_something_else_by_now_is_another():
    counter = next(one.counter for one in world(*OBJECTS).decide(who(), "gpt").budgets if "hourly" in one.counter)
    changed = Catalogue(world(*(text.replace("tokens: 1000, per: Hour", "tokens: 1000, per: Day") for text in OBJECTS)))
    assert changed.of(parse(counter)) is None
    raised = Catalogue(world(*(text.replace("tokens: 1000", "tokens: 2000") for text in OBJECTS)))
    assert raised.of(parse(counter)).budget.limit == 2000


names = st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True)
models = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,40}", fullmatch=True)


@given(names, names, models, st.sampled_from(list(Unit)), st.sampled_from([*Per, None]), st.sampled_from(["", AGENT]))
def test_a_name_that_was_put_together_comes_apart_into_the_same(namespace, policy, quota, unit, per, identity):
    named = Named(namespace, "AIRoutingPolicy", policy, quota, unit, per, identity)
    assert parse(named.beginning + identity) == named


@pytest.mark.parametrize(
    "text", ["", "x", "{team1}/policy", "+{team1}/AIAccessPolicy/a/b/requests/hour/identity/x", "{a}/K/p/q/pounds/hour/policy/-"]
)
def test_what_is_no_counter_of_ours_is_none(text):
    assert parse(text) is None


@given(st.text())
def test_no_text_is_too_strange_to_be_looked_at(text):
    named = parse(text)
    assert named is None or text.startswith(f"{{{named.namespace}}}/")


def test_near_names_are_offered_and_far_ones_are_not():
    known = ["team1/agents/hourly", "team1/agents/team", "team2/agents/hourly", "other/thing/else"]
    assert near("team1/agents/hourl", known).startswith("; near it: team1/agents/hourly, ")
    assert near("hourly", known) == "; near it: team1/agents/hourly, team2/agents/hourly"
    assert near("zzzzzz", known) == ""
