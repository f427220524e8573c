"""What an exchange may cost is held, and what it cost is charged: by the price of the backend that answered, and never twice."""

import asyncio
from dataclasses import replace
from unittest.mock import Mock

from support.asks import ask
from support.hallway import ANSWER, COUNTER, CUT, FIRST, POLICY, STREAMED, Caller, Got, World, exchange, grant, walk

from broker.dialects import anthropic_messages
from broker.errors import ProviderUnavailable, Unavailable
from broker.grant import Budget, Failover, Per, Unit
from broker.money import PICO, Price
from broker.pipeline import serve
from broker.quota import Tally
from broker.upstream import Failed

CHEAP = Price(1_000_000, 2_000_000, 500_000, 1_250_000)  # a micro-dollar and two for a token
DEAR = Price(3_000_000, 9_000_000, 3_000_000, 3_000_000, request=50 * PICO)
MONEY = Budget("{team1}/AIAccessPolicy/p/money/usd/day/identity/a", Unit.USD, 100_000, Per.DAY)
CHEAP_ONE = replace(FIRST, price=CHEAP)
DEAR_ONE = replace(FIRST, model="gpt-dear", priority=1, price=DEAR)
RETRY_ALL = Failover(frozenset({429, 503}), frozenset({"ConnectFailure", "Reset"}), 2, 0.0, 0.0)
AWAY = Failed("ConnectFailure", ProviderUnavailable("away"))
PROMPT = exchange().dialect.read(exchange().body).demand(1, None).prompt_bound
HOLD = 3 * PROMPT + 9 * 20 + 50  # at the dearest of the two


def world(*got, backends=(CHEAP_ONE, DEAR_ONE), money=MONEY):
    hallway = World(*got)
    hallway.decision = grant(backends=backends, more_budgets=(money,), failover=RETRY_ALL)
    return hallway


async def counted(hallway) -> int:
    await hallway.house.settler.drain(1)
    return {reading.counter: reading.used for reading in await hallway.ledger.readings()}.get(MONEY.counter, 0)


async def cost(hallway) -> int | None:
    """What audit says, once it was seen to be what the quota and the tally say."""
    (line,) = hallway.lines
    charged = await counted(hallway)
    tallies = await hallway.ledger.tallies()
    assert sum(tally.cost_microusd for tally in tallies) == charged == (line.cost_microusd or 0)
    return line.cost_microusd


async def test_an_answer_costs_what_its_own_backend_bills_and_the_hold_was_at_the_dearest():
    hallway = world()
    await walk(hallway)
    assert await cost(hallway) == 3 * 1 + 4 * 2


async def test_while_it_runs_the_dearest_price_of_all_backends_is_held():
    gate = asyncio.Event()
    hallway = world(Got(gate, ANSWER))
    task = asyncio.create_task(serve(exchange(), hallway.house, Caller()))
    while "send" not in hallway.steps:
        await asyncio.sleep(0)
    held = {reading.counter: reading.used for reading in await hallway.ledger.readings()}[MONEY.counter]
    gate.set()
    await task
    assert held == HOLD


async def test_cached_prompt_tokens_cost_what_they_are_billed_at():
    report = b'{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":6}}}'
    hallway = world(Got(report))
    await walk(hallway)
    assert await cost(hallway) == 4 * 1 + 6 // 2 + 4 * 2


async def test_a_connection_that_failed_costs_nothing_and_the_next_backend_its_own_price():
    hallway = world(AWAY, Got(ANSWER))
    await walk(hallway)
    assert await cost(hallway) == 3 * 3 + 4 * 9 + 50
    assert hallway.steps.count("hold") == 1  # at the dearer price already


async def test_an_attempt_that_may_be_billed_costs_its_hold_and_the_retry_takes_a_new_one():
    hallway = world(CUT, Got(ANSWER))
    await walk(hallway)
    assert hallway.steps.count("hold") == 2
    assert await cost(hallway) == HOLD + 3 * 3 + 4 * 9 + 50


async def test_no_money_for_a_new_hold_is_no_retry():
    least = HOLD - 4 * 9  # of 16 tokens
    hallway = world(CUT, Got(ANSWER), money=replace(MONEY, limit=HOLD + least - 1))
    caller = await walk(hallway)
    assert (caller.status, hallway.steps.count("send")) == (502, 1)
    assert await cost(hallway) == HOLD
    hallway = world(CUT, Got(ANSWER), money=replace(MONEY, limit=HOLD + least))
    assert (await walk(hallway)).status == 200


async def test_an_answer_of_429_from_everybody_costs_nothing():
    hallway = world(Got(b"{}", status=429))
    assert (await walk(hallway)).status == 429
    assert await cost(hallway) == 0


async def test_what_failed_complete_costs_nothing_though_requests_have_a_price_of_their_own():
    hallway = world(Got(b"{}", status=503), backends=(DEAR_ONE,))
    await walk(hallway)
    assert await cost(hallway) == 0


async def test_an_answer_of_no_tokens_still_costs_its_request():
    hallway = world(Got(b'{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}'), backends=(DEAR_ONE,))
    await walk(hallway)
    assert await cost(hallway) == 50


async def test_without_usage_the_hold_is_spent_at_the_dearest_price():
    hallway = world(Got(b'{"choices":[]}'))
    await walk(hallway)
    assert await cost(hallway) == HOLD
    assert hallway.lines[0].estimated


async def test_who_hangs_up_pays_the_hold():
    gate = asyncio.Event()
    hallway = world(Got(b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n', gate, stream=True))
    caller = Caller()
    task = asyncio.create_task(serve(exchange(STREAMED), hallway.house, caller))
    while not caller.body:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    naive = 0  # the price of what was reported by then
    assert await cost(hallway) == hallway.lines[0].input_tokens * 3 + 20 * 9 + 50 > naive


async def test_the_output_is_clamped_to_what_the_money_pays_for():
    hallway = world(money=replace(MONEY, limit=0), backends=(CHEAP_ONE,))
    assert (await walk(hallway)).status == 400
    prompt = -(-PROMPT * 5 // 4)  # all of it may be written to the cache
    sent = []

    async def send(provider, path, headers, body, trace):
        sent.append(body)
        return Got(ANSWER)

    hallway = world(money=replace(MONEY, limit=prompt + 2 * 17), backends=(CHEAP_ONE,))
    hallway.house.upstream.send = send
    assert (await walk(hallway)).status == 200
    assert b'"max_tokens":17' in sent[0]
    assert hallway.lines[0].held_tokens == PROMPT + 17


async def test_what_nobody_knows_the_price_of_has_none_in_audit():
    hallway = World()
    await walk(hallway)
    assert hallway.lines[0].cost_microusd is None


async def test_a_price_is_tallied_without_any_quota_of_money():
    hallway = World()
    hallway.decision = grant(backends=(CHEAP_ONE,))
    await walk(hallway)
    await hallway.house.settler.drain(1)
    assert await hallway.ledger.tallies() == (Tally(str(POLICY), "spiffe://example.org/ns/team1/sa/agent", 7, 1, 0, 1_000_000.0, 11),)
    assert hallway.lines[0].cost_microusd == 11


async def test_of_a_mixed_model_the_backend_that_has_a_price_is_charged_at_it():
    hallway = World()
    hallway.decision = grant(backends=(CHEAP_ONE, replace(DEAR_ONE, price=None)))
    await walk(hallway)
    await hallway.house.settler.drain(1)
    assert [tally.cost_microusd for tally in await hallway.ledger.tallies()] == [11]


async def test_a_backend_without_a_price_spends_no_money_unseen():
    """Policy lets it not come to this; should it, the quota refuses."""
    hallway = world(backends=(CHEAP_ONE, replace(DEAR_ONE, price=None)))
    assert (await walk(hallway)).status == 400
    assert "send" not in hallway.steps


async def test_a_refusal_costs_nothing():
    hallway = world(money=replace(MONEY, limit=1))
    assert (await walk(hallway)).status == 400
    assert hallway.lines[0].cost_microusd == 0
    assert await counted(hallway) == 0


async def test_a_refusal_leaves_nothing_behind_in_the_store():
    """Voiding what was never held would be remembered for minutes, and in Redis in every namespace."""
    hallway = World()
    asked = hallway.house.settler.void = Mock()
    hallway.decision = grant(limit=10)
    assert [(await walk(hallway)).status for _ in range(3)] == [400, 400, 400]
    asked.assert_not_called()


async def test_a_lease_that_is_refused_leaves_nothing_behind_either():
    hallway = World()
    asked = hallway.house.settler.void = Mock()
    full = Budget("{team1}/policy/p/width/concurrent/-/identity/a", Unit.CONCURRENT, 1, None)
    hallway.decision = grant(more_budgets=(full,))
    await hallway.ledger.hold(ask(full))
    assert (await walk(hallway)).status == 429
    asked.assert_not_called()


async def test_a_billed_attempt_is_not_given_back_by_a_caller_that_leaves_while_the_store_was_away():
    hallway = World(CUT)
    hallway.decision = grant(failover=Failover(causes=frozenset({"Reset"}), backoff_base_s=30, backoff_max_s=30))
    settle, away = hallway.ledger.settle, [Unavailable("away")]

    async def settle_later(*of):
        if away:
            raise away.pop()
        return await settle(*of)

    hallway.ledger.settle = settle_later
    task = asyncio.create_task(serve(exchange(), hallway.house, Caller()))
    while not hallway.house.settler.waiting or away:  # the settlement of the first attempt has failed once, and waits
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await hallway.house.settler.drain(5)
    assert {one.counter: one.used for one in await hallway.ledger.readings()}[COUNTER] == hallway.lines[0].held_tokens


FAST = b'{"model":"gpt","messages":[{"role":"user","content":"hi"}],"max_tokens":20,"speed":"fast"}'


def asked_fast(*budgets):
    """A service that costs more than any object says."""
    hallway = World(Got(b'{"usage":{"input_tokens":3,"output_tokens":4}}'))
    claude = replace(FIRST, provider=replace(FIRST.provider, kind="Anthropic"), price=CHEAP)
    hallway.decision = grant(backends=(claude,), more_budgets=budgets)
    x = exchange(FAST)
    x.path, x.dialect = "/v1/messages", anthropic_messages
    return hallway, x


async def test_a_service_of_another_price_passes_no_quota_of_money():
    hallway, x = asked_fast(MONEY)
    caller = await walk(hallway, x)
    assert (caller.status, hallway.lines[0].code) == (400, "exceeds_quota")
    assert b"ask without it" in caller.body
    assert "send" not in hallway.steps


async def test_where_no_money_is_counted_or_only_in_shadow_it_is_as_any_other():
    hallway, x = asked_fast()
    assert (await walk(hallway, x)).status == 200
    hallway, x = asked_fast(replace(MONEY, shadow=True))
    assert (await walk(hallway, x)).status == 200
    assert hallway.lines[0].would_refuse == ("exceeds_quota",)
