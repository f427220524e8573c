"""A Redis that lost what was counted is found out, and no quota is forgotten in silence: docs/quotas.md, "When Redis loses counts"."""

import asyncio
import shutil
from datetime import UTC, datetime

import pytest
from support.asks import ask, requests, tokens, width
from support.clock import Clock
from support.ledgers import steered, used
from support.redis_server import PREFIX, redis_server

from broker.adjustment import Adjustment
from broker.chat import Usage
from broker.errors import QuotaExhausted, Unavailable
from broker.grant import Per
from broker.ledger.redis import RedisLedger

TEAM = f"{PREFIX}{{team1}}"
MENDED_S = 20.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
MONTHLY = tokens(1_000, Per.MONTH)


@pytest.fixture
def server(tmp_path):
    with redis_server(tmp_path, *DURABLE) as started:
        yield started


@pytest.fixture
async def ledger(server):
    opened = await RedisLedger.open(server.url, allow_insecure=True)
    yield opened
    await opened.close()


async def refusal_of(ledger, *budgets) -> str:
    with pytest.raises(Unavailable) as refused:
        await ledger.hold(ask(*budgets))
    return str(refused.value)


async def until_it_answers(ledger) -> None:
    """Until what comes of a hold has nothing to do with who is there."""
    async with asyncio.timeout(MENDED_S):
        while True:
            try:
                await ledger.hold(ask(requests(10**6, shadow=True)))
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                return


def roll_back(server, saved) -> None:
    """Start again from what was saved before, as a replica that had not received the rest would."""
    server.kill()
    shutil.rmtree(server.folder / "appendonlydir")
    shutil.copytree(saved, server.folder / "appendonlydir")
    server.start()


def save(server, tmp_path):
    return shutil.copytree(server.folder / "appendonlydir", tmp_path / "saved")


async def test_a_fresh_store_begins_to_count_and_says_so(ledger, caplog):
    caplog.set_level("INFO", "broker.ledger.redis_places")
    assert (await ledger.hold(ask(MONTHLY))).granted_output == 100
    begun = [record.namespace for record in caplog.records if record.message == "quota_counts_begin"]
    assert begun == ["team1"]


async def test_a_restart_that_loses_nothing_counts_on(server, monkeypatch):
    monkeypatch.setattr("broker.ledger.redis_scripts.QUIET_S", 0.2)
    ledger = await RedisLedger.open(server.url, allow_insecure=True)
    await ledger.hold(ask(MONTHLY))
    server.kill()
    server.start()
    await until_it_answers(ledger)
    with pytest.raises(QuotaExhausted):
        for _ in range(10):
            await ledger.hold(ask(MONTHLY, least=100))
    assert (await used(ledger))["hourly"] == 1_000
    await ledger.close()


async def test_after_another_server_took_over_nothing_is_held_for_a_while(server, monkeypatch):
    monkeypatch.setattr("broker.ledger.redis_scripts.QUIET_S", 3600.0)
    ledger = await RedisLedger.open(server.url, allow_insecure=True)
    await ledger.hold(ask(MONTHLY))
    server.kill()
    server.start()
    async with asyncio.timeout(MENDED_S):
        while "just come back" not in await refusal_of(ledger, MONTHLY):
            await asyncio.sleep(0.02)
    await ledger.close()


@pytest.mark.parametrize("command", ["FLUSHALL", f"DEL {TEAM}"])
async def test_a_store_that_was_emptied_while_it_ran_refuses_what_it_cannot_know(server, ledger, caplog, command):
    await ledger.hold(ask(MONTHLY))
    with server.client() as client:
        client.execute_command(*command.split())
    assert "lost counts" in await refusal_of(ledger, MONTHLY)
    assert "lost counts" in await refusal_of(ledger, width(8))
    assert [record.message for record in caplog.records].count("quota_counts_lost") >= 1
    assert (await ledger.hold(ask(tokens(1_000, Per.MONTH, shadow=True)))).granted_output == 100


def delete_the_month(server) -> str:
    with server.client() as client:
        (key,) = client.keys(f"{TEAM}/month/*")
        client.delete(key)
    return key.decode().removeprefix(f"{TEAM}/")


def losses(caplog) -> list[str]:
    """The windows that were said to be gone, or nothing where the whole store was."""
    return [getattr(record, "window", "") for record in caplog.records if record.message == "quota_counts_lost"]


async def test_a_window_that_somebody_deleted_is_refused_until_its_end_and_said_once_with_what_to_do(server, ledger, caplog):
    for _ in range(5):
        await ledger.hold(ask(MONTHLY))
    month = delete_the_month(server)
    for _ in range(3):
        assert "lost counts" in await refusal_of(ledger, MONTHLY)
    assert losses(caplog) == [month]
    assert f"HDEL '{TEAM}' lost" in caplog.records[-1].todo


async def test_a_deleted_window_stays_lost_where_a_quota_that_refuses_nobody_counts_on_in_it(server, ledger):
    shadow = tokens(1_000, Per.MONTH, shadow=True)
    await ledger.hold(ask(MONTHLY))
    delete_the_month(server)
    assert (await ledger.hold(ask(shadow))).granted_output == 100
    assert "lost counts" in await refusal_of(ledger, MONTHLY)


async def test_several_windows_that_are_gone_at_once_are_all_found(server, ledger):
    every = [tokens(1_000, per, shadow=True) for per in Per]
    await ledger.hold(ask(*every))
    with server.client() as client:
        client.delete(*client.keys(f"{TEAM}/*/2*"))
    assert (await ledger.hold(ask(*every))).granted_output == 100
    assert {reading.used for reading in await ledger.readings()} == {200}


@pytest.mark.parametrize("change", [{"credit": 500}, {"clears": True}], ids=["grant", "reset"])
async def test_an_adjustment_hides_no_deleted_window(server, ledger, change):
    await ledger.hold(ask(MONTHLY))
    delete_the_month(server)
    await ledger.adjust(Adjustment(MONTHLY.counter, Per.MONTH, **change))
    assert "lost counts" in await refusal_of(ledger, MONTHLY)


async def test_a_window_that_the_sweep_removed_is_no_loss(server, caplog):
    clock = Clock()
    ledger = await steered(PREFIX, clock, server)
    await ledger.hold(ask(requests(60)))
    clock.move(60)
    await ledger.expire()
    clock.move(-60)  # the namespace stays where it was
    assert (await ledger.hold(ask(requests(60)))).requests.remaining == 59
    assert losses(caplog) == []
    await ledger.close()


async def test_a_broker_that_starts_on_a_store_that_another_saw_emptied_refuses_too(server, ledger):
    await ledger.hold(ask(MONTHLY))
    with server.client() as client:
        client.flushall()
    newcomer = await RedisLedger.open(server.url, allow_insecure=True)
    await newcomer.hold(ask(MONTHLY))  # it cannot know
    await refusal_of(ledger, MONTHLY)  # but this one does, and says so
    assert "lost counts" in await refusal_of(newcomer, MONTHLY)
    await newcomer.close()


async def test_writes_that_a_failover_lost_are_found_by_who_was_told_of_them(server, ledger, tmp_path):
    await ledger.hold(ask(MONTHLY))
    saved = save(server, tmp_path)
    await ledger.hold(ask(MONTHLY))
    roll_back(server, saved)
    await until_it_answers(ledger)
    assert "lost counts" in await refusal_of(ledger, MONTHLY)


async def test_a_broker_that_knew_less_than_was_lost_learns_it_from_one_that_knew_more(server, ledger, tmp_path):
    idle = await RedisLedger.open(server.url, allow_insecure=True)
    await idle.hold(ask(MONTHLY))
    saved = save(server, tmp_path)
    await ledger.hold(ask(MONTHLY))
    roll_back(server, saved)
    await until_it_answers(idle)  # for the first two seconds nobody holds anything, and the other one speaks without being asked
    assert "lost counts" in await refusal_of(idle, MONTHLY)
    await idle.close()


async def test_a_server_that_takes_over_unseen_is_found_by_its_clock(server, ledger):
    await ledger.hold(ask(MONTHLY))
    with server.client() as client:
        client.hset(TEAM, "clock", int(client.hget(TEAM, "clock")) - 1)
    assert "lost counts" in await refusal_of(ledger, MONTHLY)


async def test_the_rule_is_that_a_window_that_began_after_the_loss_counts_again(server):
    clock = Clock()
    clock.move(600)
    ledger = await steered(PREFIX, clock, server)
    hourly, minutely, leased = tokens(1_000), requests(60), width(2)
    await ledger.hold(ask(hourly))
    with server.client() as client:
        client.flushall()
    with pytest.raises(Unavailable) as refused:
        await ledger.hold(ask(hourly, minutely))
    assert refused.value.retry_after_s == 3000
    clock.move(60)
    assert (await ledger.hold(ask(minutely))).requests.remaining == 59
    clock.move(540)
    with pytest.raises(Unavailable):
        await ledger.hold(ask(hourly))
    assert (await ledger.hold(ask(leased, expires_s=600))).leased
    clock.move(2400)
    assert (await ledger.hold(ask(hourly))).tokens.remaining == 800
    await ledger.close()


async def test_the_operator_says_go_on(server, ledger):
    await ledger.hold(ask(MONTHLY))
    with server.client() as client:
        client.flushall()
        await refusal_of(ledger, MONTHLY)
        client.hdel(TEAM, "lost")  # as docs/quotas.md says
    assert (await ledger.hold(ask(MONTHLY))).granted_output == 100


async def test_what_one_broker_has_said_is_not_a_new_loss_when_the_next_comes_with_it(server, ledger):
    late = await RedisLedger.open(server.url, allow_insecure=True)
    for one in (ledger, late):
        await one.hold(ask(MONTHLY))
    with server.client() as client:
        client.flushall()
        await refusal_of(ledger, MONTHLY)
        client.hdel(TEAM, "lost")
    assert (await late.hold(ask(MONTHLY))).granted_output == 100
    await late.close()


async def test_a_settlement_of_a_hold_that_was_lost_changes_nothing(server, ledger):
    await ledger.hold(ask(MONTHLY, hold_id="one"))
    with server.client() as client:
        client.flushall()
    assert await ledger.settle("one", Usage(500, 500)) == 0
    assert await used(ledger) == {}


async def test_time_is_the_servers_and_a_namespace_never_goes_back_in_it(server, ledger):
    """The server's clock was an hour ahead, and was put right."""
    await ledger.hold(ask(tokens(200)))
    ahead = int((datetime.now(UTC).timestamp() + 3600) * 1_000_000)
    with server.client() as client:
        client.hset(TEAM, "clock", ahead)
    held = await ledger.hold(ask(tokens(200)))
    assert held.tokens.reset_s == pytest.approx((3600_000_000 - ahead % 3600_000_000) / 1e6)
    with pytest.raises(QuotaExhausted):
        await ledger.hold(ask(tokens(200)))
