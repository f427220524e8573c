"""What SQLite adds to the contract: a file that remembers, refuses what is not ours, and says no in time."""

import asyncio
import sqlite3

import pytest
from support.asks import ask, requests, tokens, width
from support.clock import Clock
from support.ledgers import PATIENCE_S, used

from broker.chat import Usage
from broker.errors import QuotaExhausted, Unavailable
from broker.ledger.sqlite import SqliteLedger
from broker.quota import Expired


@pytest.fixture
def path(tmp_path):
    return tmp_path / "quota.db"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def ledger(path, clock):
    opened = await SqliteLedger.open(path, clock, PATIENCE_S)
    yield opened
    await opened.close()


async def test_a_restart_forgets_neither_counts_nor_holds_nor_leases_nor_tallies(path, clock):
    first = await SqliteLedger.open(path, clock, PATIENCE_S)
    await first.hold(ask(tokens(1_000), width(3), hold_id="open", expires_s=100))
    await first.hold(ask(tokens(1_000), hold_id="settled"))
    await first.settle("settled", Usage(10, 10))
    before = await first.readings(), await first.tallies()
    await first.close()

    second = await SqliteLedger.open(path, clock, PATIENCE_S)
    assert (await second.readings(), await second.tallies()) == before
    assert await second.settle("open", Usage(50, 0)) == 0
    assert await used(second) == {"hourly": 70}
    await second.close()


async def test_what_a_dead_process_held_expires_as_spent_after_a_restart(path, clock):
    first = await SqliteLedger.open(path, clock, PATIENCE_S)
    await first.hold(ask(tokens(1_000), hold_id="lost", expires_s=100))
    await first.close()
    clock.move(100)
    second = await SqliteLedger.open(path, clock, PATIENCE_S)
    assert await second.expire() == (Expired("lost", ask().identity, 200),)
    assert await used(second) == {"hourly": 200}
    await second.close()


async def test_time_does_not_go_back_across_a_restart_and_a_file_from_the_future_is_reported(path, clock, caplog):
    clock.move(3600)
    first = await SqliteLedger.open(path, clock, PATIENCE_S)
    await first.hold(ask(tokens(200)))
    await first.close()
    clock.move(-3600)
    second = await SqliteLedger.open(path, clock, PATIENCE_S)
    with pytest.raises(QuotaExhausted):
        await second.hold(ask(tokens(200)))
    assert [record.message for record in caplog.records] == ["quota_store_ahead_of_clock"]
    await second.close()


async def test_a_commit_is_on_the_disk_when_it_is_answered(ledger):
    mode, synchronous = await ledger._loop.run_in_executor(
        ledger._writer, lambda: [ledger._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    )
    assert (mode, synchronous) == ("wal", 2)


async def test_what_arrives_in_one_turn_is_one_transaction(ledger, path):
    watcher = sqlite3.connect(path, isolation_level=None)
    before = watcher.execute("PRAGMA data_version").fetchone()[0]
    await asyncio.gather(*(ledger.hold(ask(tokens(10**6))) for _ in range(50)))
    assert watcher.execute("PRAGMA data_version").fetchone()[0] == before + 1
    watcher.close()


async def test_damage_while_it_runs_is_unavailable_and_said_once(ledger, path, caplog):
    with sqlite3.connect(path) as vandal:
        vandal.execute("DROP TABLE counters")
    vandal.close()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await ledger.hold(ask(tokens(1_000)))
    with pytest.raises(Unavailable):
        await ledger.readings()
    assert [record.message for record in caplog.records] == ["quota_store_failed"]


async def test_a_full_disk_is_unavailable_and_later_is_not(ledger, caplog):
    def limit(pages: int) -> None:
        ledger._database.execute(f"PRAGMA max_page_count = {pages}")

    await ledger._loop.run_in_executor(ledger._writer, limit, 1)
    with pytest.raises(Unavailable):
        await asyncio.gather(*(ledger.hold(ask(tokens(10**6, name=f"quota-{number}"))) for number in range(100)))
    assert await ledger.readings() == ()
    await ledger._loop.run_in_executor(ledger._writer, limit, 10_000)
    await ledger.hold(ask(tokens(1_000)))
    assert await used(ledger) == {"hourly": 200}
    assert [record.message for record in caplog.records] == ["quota_store_failed", "quota_store_back"]


async def test_a_lock_that_another_process_keeps_is_unavailable_in_time_and_changes_nothing(path, clock):
    ledger = await SqliteLedger.open(path, clock, deadline_s=0.05)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        await ledger.hold(ask(tokens(1_000)))
    assert await ledger.readings() == ()  # and reading does not wait for the lock
    blocker.execute("ROLLBACK")
    blocker.close()
    await ledger.close()

    patient = await SqliteLedger.open(path, clock, PATIENCE_S)
    await patient.hold(ask(tokens(1_000)))
    assert await used(patient) == {"hourly": 200}
    await patient.close()


async def test_a_hold_whose_answer_came_too_late_can_be_voided(ledger, path):
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    holding = asyncio.get_running_loop().create_task(ledger.hold(ask(tokens(1_000), hold_id="late")))
    await asyncio.sleep(0)
    holding.cancel()
    await asyncio.wait([holding])
    blocker.execute("ROLLBACK")
    blocker.close()
    await ledger.void("late")
    assert await used(ledger) in ({}, {"hourly": 0})
    assert await ledger.open_holds() == 0


async def test_more_questions_than_the_queue_takes_are_refused_at_once(ledger, monkeypatch):
    monkeypatch.setattr("broker.ledger.sqlite._WAITING", 10)
    answers = await asyncio.gather(*(ledger.hold(ask(requests(100))) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(answer, Unavailable) for answer in answers) == 2
    assert await used(ledger) == {"pace": 10}


async def test_closing_answers_what_was_asked_and_nothing_later(ledger):
    holding = asyncio.get_running_loop().create_task(ledger.hold(ask(tokens(1_000))))
    await asyncio.sleep(0)
    await ledger.close()
    assert (await holding).granted_output == 100
    for late in (ledger.hold(ask(tokens(1_000))), ledger.readings()):
        with pytest.raises(Unavailable):
            await late


async def test_two_ledgers_on_one_file_share_everything(ledger, path, clock):
    other = await SqliteLedger.open(path, clock, PATIENCE_S)
    await ledger.hold(ask(tokens(350), width(2), hold_id="here"))
    assert (await other.hold(ask(tokens(350), width(2)))).granted_output == 50
    await other.settle("here", Usage(0, 0))
    assert await used(ledger) == {"hourly": 150, "width": 1}
    await other.close()
