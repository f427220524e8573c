"""What `broker usage` is told, from every store."""

import pytest
from support.ledgers import STORES
from support.usage_world import OBJECTS, OTHER, usage_world
from support.worlds import AGENT

from broker.adjustment import Adjustment
from broker.grant import Per
from broker.usage import report as room
from broker.usage.report import Wanted


@pytest.fixture(params=STORES)
async def it(request, tmp_path):
    async with usage_world(request.param, tmp_path) as found:
        await found.spend(AGENT, 300, 100)
        await found.spend(OTHER, 50)
        yield found


def figures(report):
    return {(one.quota, one.identity): (one.used, one.limit, one.left) for one in report.counters}


async def test_every_counter_comes_with_its_limit_and_what_is_left(it):
    report = await it.desk.report(Wanted())
    assert figures(report) == {
        ("team1/agents/hourly", AGENT): (400, 1000, 600),
        ("team1/agents/hourly", OTHER): (50, 1000, 950),
        ("team1/agents/team", ""): (450, 4000, 3550),
        ("team1/agents/pace", AGENT): (1, 60, 59),
        ("team1/agents/pace", OTHER): (1, 60, 59),
        ("team1/routing/gpt", ""): (450, 5000, 4550),
    }
    assert {one.per: one.reset_s for one in report.counters} == {"hour": 3600, "day": 43200, "minute": 60}
    assert report.time == it.clock()
    assert report.left_out == 0


async def test_the_last_day_of_each_identity_comes_beside_it(it):
    report = await it.desk.report(Wanted())
    assert {(one.policy, one.identity, one.tokens, one.requests, one.denied) for one in report.days} == {
        ("team1/agents", AGENT, 400, 1, 0),
        ("team1/agents", OTHER, 50, 1, 0),
    }


async def test_running_exchanges_show_in_their_quota(it):
    from support.asks import ask

    await it.ledger.hold(ask(*it.budgets(), prompt=10, wanted=10, identity=AGENT))
    report = await it.desk.report(Wanted(identity=AGENT))
    assert figures(report)["team1/agents/width", AGENT] == (1, 8, 7)


async def test_a_credit_shows_and_adds_to_what_is_left(it):
    counter = next(one.counter for one in it.budgets() if "/hourly/" in one.counter)
    await it.ledger.adjust(Adjustment(counter, Per.HOUR, credit=500))
    (found,) = [one for one in (await it.desk.report(Wanted(identity=AGENT))).counters if one.counter == counter]
    assert (found.used, found.credit, found.limit, found.left) == (400, 500, 1000, 1100)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(identity=OTHER), {("team1/agents/hourly", OTHER), ("team1/agents/pace", OTHER)}),
        (Wanted(identity="spiffe://example.org/ns/team1/sa/o*"), {("team1/agents/hourly", OTHER), ("team1/agents/pace", OTHER)}),
        (Wanted(policy="team1/routing"), {("team1/routing/gpt", "")}),
        (Wanted(model="nothing"), set()),
        (Wanted(model="team2/gpt"), set()),
        (Wanted(policy="team1/routing", model="team1/gpt"), {("team1/routing/gpt", "")}),
        (
            Wanted(policy="team1/agents", identity="spiffe://*", model="gpt"),
            {(f"team1/agents/{q}", i) for q in ("hourly", "pace") for i in (AGENT, OTHER)},
        ),
    ],
)
async def test_filters_let_through_what_was_asked_for(it, wanted, expected):
    assert figures(await it.desk.report(wanted)).keys() == expected


async def test_since_leaves_out_who_was_not_served_since_and_keeps_what_is_shared(it):
    it.clock.move(30)
    since = it.clock()
    await it.spend(AGENT, 1)
    report = await it.desk.report(Wanted(since=since))
    assert {one.identity for one in report.counters} == {AGENT, ""}
    assert [one.identity for one in report.days] == [AGENT]


async def test_with_a_model_nothing_is_said_of_days_since_the_store_does_not_know_it(it):
    assert (await it.desk.report(Wanted(model="gpt"))).days == ()


async def test_beyond_the_bound_rows_are_counted_and_not_shown(it, monkeypatch):
    monkeypatch.setattr(room, "ROWS_MAX", 2)
    report = await it.desk.report(Wanted())
    assert (len(report.counters), len(report.days), report.left_out) == (2, 2, 4)


async def test_a_counter_whose_quota_is_gone_has_no_limit(tmp_path):
    async with usage_world("memory", tmp_path) as before:
        await before.spend(AGENT, 10)
        without = room.report(before.ledger, _without_hourly(), Wanted(identity=AGENT), 0)
        (found,) = [one for one in (await without).counters if one.quota == "team1/agents/hourly"]
        assert (found.used, found.limit, found.left, found.models) == (10, None, None, None)


def _without_hourly():
    from support.worlds import world

    return world(*(text.replace("  - {name: hourly, tokens: 1000, per: Hour}\n", "") for text in OBJECTS))
