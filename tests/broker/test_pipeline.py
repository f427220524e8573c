"""The hallway with small rooms: the order of the steps, and what is settled and written down when a step ends it."""

import asyncio
from types import SimpleNamespace

import pytest
from support.hallway import AGENT, ANSWER, BODY, CUT, FIRST, PROVIDER, STREAMED, Caller, Got, World, exchange, grant, walk

from broker.chat import Usage
from broker.errors import Forbidden, NoBackend, ProviderUnavailable, TooSlow, Unavailable
from broker.grant import Backend, Budget, Failover, Per, Unit
from broker.pipeline import decide_again, end_overdue, serve
from broker.upstream import Failed


async def test_the_steps_come_in_the_one_order():
    world = World()
    caller = await walk(world)
    assert world.steps == ["identify", "audit ready", "decide", "hold", "send"]
    assert (caller.status, caller.body) == (200, ANSWER)
    assert [line.code for line in world.lines] == ["answered"]
    assert await world.spent() == 7


async def test_a_trace_that_cannot_begin_is_a_defect_of_ours_with_an_audit_line():
    def fail(*_):
        raise RuntimeError

    world = World(trace=fail)
    caller = await walk(world)
    assert (caller.status, [line.code for line in world.lines], world.steps) == (500, ["internal"], [])
    assert world.house.exchanges == set()


async def test_nothing_is_parsed_for_somebody_who_is_nobody():
    world = World()
    world.refuse_identity = True
    caller = await walk(world, exchange(b"no json"))
    assert (caller.status, world.steps, world.lines[0].code) == (401, ["identify"], "unidentified")
    assert (b"connection", b"close") in caller.headers


async def test_who_is_refused_what_is_told():
    told = []
    world = World(on_refusal=lambda identity, code, model: told.append((identity.spiffe_id, code, model)))
    world.decision = Forbidden("no")
    await walk(world)
    await walk(world, exchange(b"no json"))
    assert told == [(AGENT.spiffe_id, "forbidden", "gpt"), (AGENT.spiffe_id, "bad_request", "")]


async def test_nobody_is_told_of_an_answer_nor_of_somebody_who_is_nobody():
    told = []
    world = World(on_refusal=lambda *refusal: told.append(refusal))
    await walk(world)
    world.refuse_identity = True
    await walk(world)
    assert told == []


async def test_what_is_not_granted_holds_and_sends_nothing():
    world = World()
    world.decision = Forbidden("no")
    caller = await walk(world)
    assert (caller.status, world.steps[-1]) == (403, "decide")
    assert await world.spent() == 0


@pytest.mark.parametrize("why", [NoBackend("no key"), ProviderUnavailable("not there")])
async def test_a_request_of_which_nothing_was_sent_gives_the_whole_hold_back(why):
    world = World(Failed("ConnectFailure", why))
    assert (await walk(world)).status == why.status
    assert await world.spent() == 0
    assert world.lines[0].estimated is False


async def test_an_answer_that_breaks_off_spends_the_whole_hold():
    world = World(Got(ANSWER[:10], CUT))
    assert (await walk(world)).status == 502
    line = world.lines[0]
    assert await world.spent() == line.held_tokens > 20
    assert line.estimated


async def test_an_answer_without_usage_spends_the_whole_hold():
    world = World(Got(b'{"choices":[]}'))
    assert (await walk(world)).status == 200
    assert await world.spent() == world.lines[0].held_tokens
    assert world.lines[0].estimated


async def test_a_complete_refusal_of_the_provider_costs_no_tokens():
    world = World(Got(b"{}", status=500))
    assert (await walk(world)).status == 502
    assert await world.spent() == 0
    assert world.lines[0].estimated is False


async def test_a_late_failure_is_said_in_the_stream():
    world = World(Got(b'data: {"choices":[{}]}\n\n', CUT, stream=True))
    caller = await walk(world, exchange(STREAMED))
    assert caller.status == 200
    assert b"provider_unavailable" in caller.body
    assert caller.ended
    assert world.lines[0].code == "provider_unavailable"


async def leave(world, body=BODY):
    """Begin an exchange, and hang up as soon as the provider has it."""
    task = asyncio.create_task(serve(exchange(body), world.house, Caller()))
    while "send" not in world.steps:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


async def test_a_caller_that_leaves_pays_the_hold_and_ends_the_providers_work():
    world = World(Got(asyncio.Event()))
    await leave(world)
    assert world.got.closed
    assert [(line.code, line.estimated) for line in world.lines] == [("caller_left", True)]
    assert await world.spent() == world.lines[0].held_tokens


async def test_reading_on_learns_what_a_leaver_cost():
    gate = asyncio.Event()
    world = World(Got(gate, ANSWER), read_on_s=5)
    asyncio.get_running_loop().call_later(0.02, gate.set)
    await leave(world)
    assert [(line.code, line.estimated, line.output_tokens) for line in world.lines] == [("caller_left", False, 4)]
    assert await world.spent() == 7


async def test_reading_on_has_an_end():
    world = World(Got(asyncio.Event()), read_on_s=0.01)
    await leave(world)
    assert world.got.closed
    assert world.lines[0].estimated


async def test_a_hold_whose_answer_was_lost_is_voided():
    world = World()
    world.house.ledger = SimpleNamespace(hold=world.lose)  # the store took it, we never heard
    world.ledger_hold = world.ledger.hold

    caller = await walk(world)
    assert caller.status == 503
    assert await world.spent() == 0


async def lose(self, ask):
    await self.ledger.hold(ask)
    raise Unavailable("no answer in time")


World.lose = lose


async def test_an_exchange_that_lost_its_grant_is_ended_and_told():
    world = World(Got(b'data: {"choices":[{}]}\n\n', asyncio.Event(), stream=True))
    caller = Caller()
    task = asyncio.create_task(serve(exchange(STREAMED), world.house, caller))
    while not caller.begun:
        await asyncio.sleep(0)
    decide_again(world.house)
    assert not task.cancelling()
    world.decision = Forbidden("no more")
    decide_again(world.house)
    await task
    assert b"forbidden" in caller.body
    assert world.got.closed
    assert [line.code for line in world.lines] == ["forbidden"]
    assert await world.spent() == world.lines[0].held_tokens


async def test_the_longest_duration_ends_an_exchange_whatever_it_waits_for():
    world = World(Got(asyncio.Event()))
    caller = Caller()
    task = asyncio.create_task(serve(exchange(), world.house, caller))
    while "send" not in world.steps:
        await asyncio.sleep(0)
    world.clock = 100.0 + 3599
    end_overdue(world.house)
    assert not task.cancelling()
    world.clock = 100.0 + 3601
    end_overdue(world.house)
    await task
    assert (caller.status, world.lines[0].code) == (TooSlow.status, "too_slow")


async def test_the_first_cause_of_an_end_is_the_one_in_audit():
    world = World(Got(asyncio.Event()))
    x = exchange()
    task = asyncio.create_task(serve(x, world.house, Caller()))
    while "send" not in world.steps:
        await asyncio.sleep(0)
    x.end(TooSlow("first"))
    x.end(Forbidden("second"))
    await task
    assert world.lines[0].code == "too_slow"


async def test_a_draining_house_takes_nothing_new():
    world = World(draining=True)
    assert (await walk(world)).status == 503
    assert "decide" not in world.steps


async def test_a_provider_that_bills_more_than_was_held_is_charged_for_it():
    world = World(Got(b'{"usage":{"prompt_tokens":3,"completion_tokens":5000}}'))
    await walk(world)
    assert await world.spent() == 5003
    assert world.lines[0].output_tokens == 5000


def test_a_fact_that_is_read_too_early_is_loud():
    with pytest.raises(AttributeError):
        _ = exchange().grant
    assert exchange().record(101.0).code == ""
    assert exchange().charged() is None
    assert Usage(1, 2).cached_tokens == 0


# -- failover: what docs/failover.md says about holds and charges; what the SDKs see is in tests/doors/test_failover.py

SECOND = Backend(PROVIDER, "gpt-second", priority=1)
RESET = Failover(causes=frozenset({"ConnectFailure", "Reset"}))


def two(**more):
    return grant(failover=more.pop("failover", Failover()), backends=(FIRST, SECOND), **more)


async def test_an_unbilled_failure_is_followed_by_the_next_backend_under_the_same_hold():
    world = World(Got(b"{}", status=503), Got(ANSWER))
    world.decision = two()
    caller = await walk(world)
    assert (caller.status, caller.body) == (200, ANSWER)
    assert world.steps[-3:] == ["hold", "send", "send"]
    line = world.lines[0]
    assert (line.attempts, line.provider_model, line.code, line.estimated) == (2, "gpt-second", "answered", False)
    assert await world.spent() == 7


async def test_an_attempt_that_may_have_been_billed_is_spent_and_the_next_has_a_hold_of_its_own():
    world = World(CUT, Got(ANSWER))
    world.decision = two(failover=RESET)
    caller = await walk(world)
    assert caller.status == 200
    assert world.steps[-4:] == ["hold", "send", "hold", "send"]
    line = world.lines[0]
    first_hold = line.held_tokens // 2
    assert (line.attempts, line.estimated) == (2, True)
    assert line.input_tokens + line.output_tokens == first_hold + 7
    assert await world.spent() == first_hold + 7


async def test_without_room_for_a_second_hold_there_is_no_second_attempt():
    one = World()
    await walk(one)
    hold = one.lines[0].held_tokens
    world = World(CUT, Got(ANSWER))
    world.decision = two(failover=RESET, limit=hold * 3 // 2)
    caller = await walk(world)
    assert caller.status == 502
    assert world.steps.count("send") == 1
    line = world.lines[0]
    assert (line.code, line.attempts) == ("provider_unavailable", 1)
    assert await world.spent() == line.held_tokens == line.input_tokens + line.output_tokens


async def test_a_request_counts_once_whatever_its_attempts():
    requests = Budget("{team1}/policy/p/pace/requests/hour/identity/a", Unit.REQUESTS, 1, Per.HOUR)
    world = World(CUT, Got(ANSWER))
    world.decision = two(failover=RESET, more_budgets=(requests,))
    assert (await walk(world)).status == 200
    await world.house.settler.drain(1)
    assert {reading.used for reading in await world.ledger.readings() if reading.counter == requests.counter} == {1}


async def test_an_attempt_that_reached_nobody_does_not_hide_that_an_earlier_one_did():
    world = World(Got(b"{}", status=503), Failed("ConnectFailure", ProviderUnavailable("not there")))
    requests = Budget("{team1}/policy/p/pace/requests/hour/identity/a", Unit.REQUESTS, 5, Per.HOUR)
    world.decision = two(failover=Failover(max_retries=1), more_budgets=(requests,))
    assert (await walk(world)).status == 502
    await world.house.settler.drain(1)
    assert {reading.used for reading in await world.ledger.readings() if reading.counter == requests.counter} == {1}
    assert await world.spent() == 0


async def test_nobody_else_is_asked_once_something_has_gone_to_the_caller():
    world = World(Got(b'data: {"choices":[{}]}\n\n', CUT, stream=True), Got(ANSWER, stream=True))
    world.decision = two(failover=RESET)
    caller = await walk(world, exchange(STREAMED))
    assert world.steps.count("send") == 1
    assert b"provider_unavailable" in caller.body


async def test_a_stream_of_which_nothing_came_but_its_head_is_asked_of_the_next():
    world = World(Got(CUT, stream=True), Got(b"data: [DONE]\n\n", stream=True))
    world.decision = two(failover=RESET)
    caller = await walk(world, exchange(STREAMED))
    assert (caller.status, world.steps.count("send")) == (200, 2)
    assert b"provider_unavailable" not in caller.body


async def test_what_is_the_callers_to_mend_goes_on_as_the_provider_said_it():
    world = World(Got(b'{"error":"your fault"}', status=422))
    world.decision = two()
    caller = await walk(world)
    assert (caller.status, caller.body, world.steps.count("send")) == (422, b'{"error":"your fault"}', 1)


async def test_a_caller_that_leaves_between_two_attempts_has_spent_what_may_have_been_billed():
    world = World(CUT)
    world.decision = grant(failover=Failover(causes=frozenset({"Reset"}), backoff_base_s=30, backoff_max_s=30))
    await leave(world)
    assert [(line.code, line.attempts, line.estimated) for line in world.lines] == [("caller_left", 1, True)]
    assert await world.spent() == world.lines[0].held_tokens
