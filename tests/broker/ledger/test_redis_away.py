"""Redis killed, stopped in its tracks, slow, full or forgetful of scripts: everybody is told no in time, and it mends by itself."""

import asyncio

import pytest
from support.asks import ask, requests, tokens
from support.redis_server import PREFIX, redis_server

from broker.chat import Usage
from broker.errors import Unavailable
from broker.ledger.redis import RedisLedger
from broker.ledger.settling import Settler
from broker.quota import Ledger

MENDED_S = 20.0
KEEPING = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def server(tmp_path):
    with redis_server(tmp_path, *KEEPING) as started:
        yield started


@pytest.fixture
async def ledger(server):
    opened = await RedisLedger.open(server.url, allow_insecure=True)
    yield opened
    await opened.close()


async def until_it_holds(ledger: Ledger, *budgets) -> None:
    """Asked as callers do, each time with another id."""
    async with asyncio.timeout(MENDED_S):
        while True:
            try:
                await ledger.hold(ask(*budgets, prompt=0, least=0, wanted=0))
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                return


def is_refused_at_once(ledger: Ledger) -> bool:
    """Without waiting for anything: the first step of the question is its last."""
    question = ledger.hold(ask(tokens(1_000)))
    try:
        question.send(None)
    except Unavailable:
        return True
    question.close()
    return False


def charged(server, unit: str) -> int:
    """What stands on the counters of this unit, as somebody else reads it."""
    with server.client() as client:
        return sum(int(client.hget(key, field)) for key in client.keys(f"{PREFIX}{{team1}}/hour/*") for field in client.hkeys(key))


async def test_a_killed_server_is_unavailable_at_once_said_once_and_is_back_by_itself(server, ledger, caplog):
    await ledger.hold(ask(tokens(1_000)))
    server.kill()
    with pytest.raises(Unavailable):
        await ledger.hold(ask(tokens(1_000)))
    assert all(is_refused_at_once(ledger) for _ in range(20))
    server.start()
    await until_it_holds(ledger)
    said = [record.message for record in caplog.records]
    assert said == ["quota_store_failed", "quota_store_back"]


async def test_a_server_that_answers_nothing_is_unavailable_within_the_deadline_and_then_at_once(server, ledger):
    await ledger.hold(ask(tokens(1_000)))
    server.pause()
    assert not is_refused_at_once(ledger)
    async with asyncio.timeout(5):  # the deadline is 0.25 s; a busy machine may be late with it
        with pytest.raises(Unavailable):
            await ledger.hold(ask(tokens(1_000)))
    assert all(is_refused_at_once(ledger) for _ in range(10))
    server.go_on()
    await until_it_holds(ledger)


async def test_every_question_that_waits_for_a_silent_server_is_refused_by_one_deadline(server, ledger):
    await ledger.hold(ask(tokens(1_000)))
    server.pause()
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(ledger.hold(ask(tokens(10**6))) for _ in range(64)), return_exceptions=True)
    server.go_on()
    assert [type(answer) for answer in answers] == [Unavailable] * 64


async def test_holds_whose_answers_were_lost_are_voided_when_it_is_back(server, ledger):
    await until_it_holds(ledger, requests(100))
    settler = Settler(ledger)
    server.pause()
    lost = [ask(tokens(10**6), hold_id=f"lost-{number}") for number in range(20)]
    answers = await asyncio.gather(*(ledger.hold(one) for one in lost), return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    for one in lost:
        settler.void(one.hold_id)
    server.go_on()
    assert await settler.drain(MENDED_S) == 0
    assert charged(server, "total_tokens") == 0
    assert await ledger.open_holds() == 1


async def test_settlements_wait_for_it_and_charge_once(server, ledger):
    for number in range(5):
        await ledger.hold(ask(tokens(10**6), hold_id=f"h{number}"))
    settler = Settler(ledger)
    server.kill()
    for number in range(5):
        settler.settle(f"h{number}", Usage(10, 5))
    await asyncio.sleep(0.1)
    server.start()
    assert await settler.drain(MENDED_S) == 0
    assert charged(server, "total_tokens") == 75
    assert await ledger.open_holds() == 0


async def test_a_server_that_is_away_at_the_start_is_waited_for(tmp_path, caplog):
    with redis_server(tmp_path) as server:
        server.kill()
        ledger = await RedisLedger.open(server.url, allow_insecure=True)
        with pytest.raises(Unavailable):
            await ledger.hold(ask(tokens(1_000)))
        server.start()
        await until_it_holds(ledger)
        await ledger.close()
    assert [record.message for record in caplog.records] == ["quota_store_failed", "quota_store_back"]


async def test_scripts_that_were_forgotten_are_taught_again_without_a_refusal(server, ledger):
    await ledger.hold(ask(tokens(1_000), hold_id="one"))
    with server.client() as client:
        client.script_flush()
    await asyncio.gather(*(ledger.hold(ask(tokens(10**6))) for _ in range(20)))
    with server.client() as client:
        client.script_flush()
    assert await ledger.settle("one", Usage(10, 5)) == 0
    assert charged(server, "total_tokens") == 20 * 200 + 15


async def test_a_server_without_memory_left_refuses_and_holds_nothing_in_part(server, ledger, caplog):
    await ledger.hold(ask(tokens(1_000), hold_id="one"))
    with server.client() as client:
        client.config_set("maxmemory", 1)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await ledger.hold(ask(tokens(1_000), hold_id="two"))
        client.config_set("maxmemory", 0)
    assert [record.message for record in caplog.records] == ["quota_store_refused"]
    assert charged(server, "total_tokens") == 200
    assert await ledger.open_holds() == 1
    await ledger.hold(ask(tokens(1_000), hold_id="two"))


async def test_more_questions_than_would_be_answered_in_time_are_refused_at_once(server, ledger, monkeypatch):
    await ledger.hold(ask(requests(1_000)))
    monkeypatch.setattr("broker.ledger.redis_wire.WAITING", 10)
    answers = await asyncio.gather(*(ledger.hold(ask(requests(1_000))) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(answer, Unavailable) for answer in answers) == 2
    assert await ledger.open_holds() == 11


async def test_a_caller_that_leaves_disturbs_nobody(server, ledger):
    await ledger.hold(ask(tokens(10**6)))
    tasks = [asyncio.get_running_loop().create_task(ledger.hold(ask(tokens(10**6), hold_id=f"h{number}"))) for number in range(6)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [answer.hold_id for answer in done[1::2]] == ["h1", "h3", "h5"]
    for number in (0, 2, 4):
        await ledger.void(f"h{number}")
    assert await ledger.open_holds() == 4


async def test_closing_answers_what_was_asked_and_nothing_later(server, ledger):
    await ledger.hold(ask(tokens(10**6)))
    holding = asyncio.get_running_loop().create_task(ledger.hold(ask(tokens(10**6))))
    await asyncio.sleep(0)
    await ledger.close()
    assert (await holding).granted_output == 100
    for late in (ledger.hold(ask(tokens(1_000))), ledger.readings()):
        with pytest.raises(Unavailable):
            await late
