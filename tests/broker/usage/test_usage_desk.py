"""Granting more, and resetting: what is changed, what is refused, and what the audit log says of it."""

import asyncio
import errno
import os

import pytest
from support.asks import ask
from support.audit_logs import verify
from support.ledgers import STORES
from support.usage_world import OBJECTS, OTHER, STRANGER, usage_world
from support.worlds import AGENT

from broker.errors import BadRequest, QuotaExhausted, Unavailable
from broker.usage import desk as room
from broker.usage.desk import Order
from broker.usage.report import Wanted

HOURLY = "team1/agents/hourly"


@pytest.fixture(params=STORES)
async def it(request, tmp_path):
    async with usage_world(request.param, tmp_path) as found:
        yield found


@pytest.fixture
async def small(tmp_path):
    async with usage_world("memory", tmp_path) as found:
        yield found


def order(**more) -> Order:
    return Order(**{"reason": "the demo on Friday", **more})


async def test_a_grant_lets_an_identity_go_on_and_says_before_and_after(it):
    await it.spend(AGENT, 1000)
    with pytest.raises(QuotaExhausted):
        await it.spend(AGENT, 100)
    granted = await it.desk.grant(order(quota=HOURLY, identity=AGENT, amount="500"), "uid:0")
    (change,) = granted.changes
    assert (change.quota, change.identity, change.limit, change.window) == (HOURLY, AGENT, 1000, "2026-11-17T12")
    assert (change.used_before, change.used_after, change.credit_before, change.credit_after) == (1000, 1000, 0, 500)
    await it.spend(AGENT, 500)
    with pytest.raises(QuotaExhausted):
        await it.spend(AGENT, 1)


async def test_each_change_is_a_line_of_the_audit_log_in_its_chain(it):
    await it.spend(AGENT, 300)
    await it.desk.grant(order(quota=HOURLY, identity=AGENT, amount="500"), "spiffe://example.org/admin")
    await it.desk.reset(order(quota=HOURLY, identity=AGENT), "uid:0")
    first, second = it.lines()
    kept = ("who", "action", "outcome", "window", "reason", "used_before", "used_after", "credit_before", "credit_after")
    assert [first[name] for name in kept] == [
        "spiffe://example.org/admin",
        "grant",
        "done",
        "2026-11-17T12",
        "the demo on Friday",
        300,
        300,
        0,
        500,
    ]
    assert [second[name] for name in kept] == ["uid:0", "reset", "done", "2026-11-17T12", "the demo on Friday", 300, 0, 500, 500]
    assert first["counter"] == second["counter"] == next(one.counter for one in it.budgets() if "/hourly/" in one.counter)
    assert verify(str(it.file)).faults == ()


async def test_a_dry_run_says_the_same_changes_nothing_and_is_not_written_down(it):
    await it.spend(AGENT, 300)
    before = await it.desk.report(Wanted())
    tried = await it.desk.grant(order(quota=HOURLY, identity=AGENT, amount="500", dry_run=True), "uid:0")
    cleared = await it.desk.reset(order(identity=AGENT, dry_run=True), "uid:0")
    assert await it.desk.report(Wanted()) == before
    assert it.lines() == []
    assert tried.dry_run
    assert tried.changes == (await it.desk.grant(order(quota=HOURLY, identity=AGENT, amount="500"), "uid:0")).changes
    assert {one.quota: (one.used_before, one.used_after) for one in cleared.changes} == {HOURLY: (300, 0), "team1/agents/pace": (1, 0)}


async def test_a_shared_quota_is_granted_to_all_together(it):
    await it.desk.grant(order(quota="team1/agents/team", amount="100"), "uid:0")
    await it.desk.grant(order(quota="team1/routing/gpt", amount="-50"), "uid:0")
    report = {one.quota: (one.credit, one.left) for one in (await it.desk.report(Wanted())).counters}
    assert report == {"team1/agents/team": (100, 4100), "team1/routing/gpt": (-50, 4950)}


async def test_a_reset_of_a_quota_clears_everybodys_count_and_leaves_what_is_held(it):
    await it.spend(AGENT, 300)
    await it.spend(OTHER, 200)
    running = await it.ledger.hold(ask(*it.budgets(), prompt=50, wanted=50, identity=AGENT))
    done = await it.desk.reset(order(quota=HOURLY), "uid:0")
    assert {one.identity: (one.used_before, one.used_after, one.held) for one in done.changes} == {
        AGENT: (400, 100, 100),
        OTHER: (200, 0, 0),
    }
    await it.ledger.settle(running.hold_id, None)
    report = {(one.quota, one.identity): one.used for one in (await it.desk.report(Wanted())).counters}
    assert report[HOURLY, AGENT] == 100
    assert report[HOURLY, OTHER] == 0
    assert report["team1/agents/team", ""] == 600


async def test_a_reset_of_an_identity_clears_its_counts_and_no_shared_one(it):
    await it.spend(AGENT, 300)
    await it.spend(OTHER, 200)
    await it.desk.reset(order(identity=AGENT), "uid:0")
    report = {(one.quota, one.identity): one.used for one in (await it.desk.report(Wanted())).counters}
    assert report == {
        (HOURLY, AGENT): 0,
        (HOURLY, OTHER): 200,
        ("team1/agents/pace", AGENT): 0,
        ("team1/agents/pace", OTHER): 1,
        ("team1/agents/team", ""): 500,
        ("team1/routing/gpt", ""): 500,
    }


@pytest.mark.parametrize(
    ("action", "wrong", "said"),
    [
        ("grant", {"quota": "team1/agents/hourl", "identity": AGENT, "amount": "1"}, "near it: team1/agents/hourly"),
        ("grant", {"quota": "team2/agents/hourly", "identity": AGENT, "amount": "1"}, "near it: team1/agents/hourly"),
        ("grant", {"quota": HOURLY, "amount": "1"}, "say whose with --identity"),
        ("grant", {"quota": "team1/agents/team", "identity": AGENT, "amount": "1"}, "leave --identity out"),
        ("grant", {"quota": HOURLY, "identity": STRANGER, "amount": "1"}, "does not count spiffe://example.org/ns/elsewhere/sa/nobody"),
        ("grant", {"quota": HOURLY, "identity": "weather-agent", "amount": "1"}, "is no SPIFFE ID"),
        ("grant", {"quota": "team1/agents/width", "identity": AGENT, "amount": "1"}, "cannot be adjusted"),
        ("grant", {"quota": HOURLY, "identity": AGENT, "amount": "1", "reason": " "}, "say why with --reason"),
        ("grant", {"quota": HOURLY, "identity": AGENT, "amount": "1", "reason": "x" * 501}, "at most 500"),
        *(
            ("grant", {"quota": HOURLY, "identity": AGENT, "amount": amount}, "--amount")
            for amount in ("", "0", "1.5", "nan", "inf", "-inf", "1e30", "1e999999999999999999", "many", "٣x", str((1 << 50) + 1))
        ),
        ("reset", {}, "say what to reset"),
        ("reset", {"quota": "team1/agents/hurly"}, "near it: team1/agents/hourly"),
        ("reset", {"quota": HOURLY, "identity": AGENT[:-1]}, f"nothing to reset; near it: {AGENT}"),
        ("reset", {"quota": "team1/agents/width"}, "nothing to reset"),
        ("reset", {"quota": HOURLY, "reason": ""}, "say why"),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_what_to_do_and_changes_nothing(small, action, wrong, said):
    await small.spend(AGENT, 10)
    before = await small.desk.report(Wanted())
    with pytest.raises(BadRequest) as refused:
        await getattr(small.desk, action)(order(**wrong), "uid:0")
    assert said in str(refused.value)
    assert await small.desk.report(Wanted()) == before
    assert small.lines() == []


async def test_two_quotas_of_one_title_must_be_told_apart(tmp_path):
    twins = (OBJECTS[0].replace("name: routing,", "name: agents,"), OBJECTS[1].replace("name: team,", "name: gpt,"))
    async with usage_world("memory", tmp_path, *twins) as it:
        with pytest.raises(BadRequest, match="AIAccessPolicy/team1/agents/gpt or AIRoutingPolicy/team1/agents/gpt"):
            await it.desk.grant(order(quota="team1/agents/gpt", amount="1"), "uid:0")
        granted = await it.desk.grant(order(quota="AIRoutingPolicy/team1/agents/gpt", amount="1"), "uid:0")
        assert granted.changes[0].limit == 5000


async def test_dollars_are_granted_in_dollars(tmp_path):
    priced = OBJECTS[0].replace("rateLimit:", 'price: {inputPerMillionTokens: "1", outputPerMillionTokens: "2"}, rateLimit:')
    objects = (priced, OBJECTS[1].replace("{name: width, concurrent: 8}", '{name: money, usd: "5.00", per: Day}'))
    async with usage_world("memory", tmp_path, *objects) as it:
        granted = await it.desk.grant(order(quota="team1/agents/money", identity=AGENT, amount="2.50"), "uid:0")
        assert (granted.changes[0].unit, granted.changes[0].limit, granted.changes[0].credit_after) == ("usd", 5_000_000, 2_500_000)
        with pytest.raises(BadRequest, match="6 digits"):
            await it.desk.grant(order(quota="team1/agents/money", identity=AGENT, amount="0.0000001"), "uid:0")


async def test_a_credit_beyond_all_measure_is_refused_also_in_two_parts(small):
    most = str(1 << 50)
    await small.desk.grant(order(quota=HOURLY, identity=AGENT, amount=most), "uid:0")
    with pytest.raises(BadRequest, match="beyond what any store can count"):
        await small.desk.grant(order(quota=HOURLY, identity=AGENT, amount=most), "uid:0")


async def test_too_many_counters_at_once_are_refused(small, monkeypatch):
    monkeypatch.setattr(room, "RESET_MAX", 1)
    await small.spend(AGENT, 1)
    await small.spend(OTHER, 1)
    with pytest.raises(BadRequest, match="say whose with --identity"):
        await small.desk.reset(order(quota=HOURLY), "uid:0")
    assert len((await small.desk.reset(order(quota=HOURLY, identity=AGENT), "uid:0")).changes) == 1


async def test_while_the_audit_log_cannot_be_written_nothing_is_changed(small, monkeypatch):
    await small.spend(AGENT, 10)
    before = await small.desk.report(Wanted())

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    small.audit.flush()
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(Unavailable, match="the counter was changed, but the audit log cannot be written"):
            await small.desk.grant(order(quota=HOURLY, identity=AGENT, amount="5"), "uid:0")
        for action, more in (("grant", {"amount": "7"}), ("reset", {})):
            with pytest.raises(Unavailable):
                await getattr(small.desk, action)(order(quota=HOURLY, identity=AGENT, **more), "uid:0")
        assert (await small.desk.report(Wanted())).counters[0].credit == 5
    (line,) = small.lines()  # the one that was changed when the disk was found to be full waits, and is written first
    assert (line["action"], line["credit_after"]) == ("grant", 5)
    assert before.counters[0].used == 10


@pytest.mark.parametrize("trouble", [Unavailable("the quota store does not answer"), asyncio.CancelledError()])
async def test_a_change_of_which_nobody_knows_is_written_down_as_such(small, monkeypatch, trouble):
    async def lost(_change):
        raise trouble

    monkeypatch.setattr(small.ledger, "adjust", lost)
    with pytest.raises(type(trouble)):
        await small.desk.grant(order(quota=HOURLY, identity=AGENT, amount="5"), "uid:0")
    (line,) = small.lines()
    assert (line["outcome"], line["credit_before"], line["credit_after"]) == ("unknown", 0, 5)


async def test_a_reset_that_stops_half_way_says_how_far_it_came(small, monkeypatch):
    await small.spend(AGENT, 1)
    await small.spend(OTHER, 1)
    adjust, calls = small.ledger.adjust, []

    async def once(change):
        calls.append(change)
        if len(calls) > 1:
            raise Unavailable("the quota store does not answer")
        return await adjust(change)

    monkeypatch.setattr(small.ledger, "adjust", once)
    with pytest.raises(Unavailable, match="1 of 2 counters were reset"):
        await small.desk.reset(order(quota=HOURLY), "uid:0")
    assert [line["outcome"] for line in small.lines()] == ["done", "unknown"]
