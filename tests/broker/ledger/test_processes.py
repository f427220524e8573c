"""Several processes on one SQLite file, one of them killed: the limit holds, counts survive, what it held expires as spent."""

import asyncio
import time

from support.ledger_workers import HOLD, work_until_the_quota_is_gone
from support.ledgers import PATIENCE_S

from broker.ledger.sqlite import SqliteLedger

LIMIT = 200_000  # for a thousand holds: the victim dies long before they are gone


async def test_four_processes_and_a_kill_never_pass_the_limit_and_forget_nothing(tmp_path):
    path = tmp_path / "quota.db"
    opening = "SqliteLedger.open(Path(where), lambda: 1_700_000_000.0, 5.0)"
    told = work_until_the_quota_is_gone(str(path), opening, f"tokens({LIMIT})")

    now = 1_700_000_000.0
    ledger = await SqliteLedger.open(path, lambda: now, PATIENCE_S)
    (reading,) = await ledger.readings()
    held = await ledger.open_holds()
    assert reading.used == held * HOLD == LIMIT
    assert len(set(told)) == len(told)
    assert len(told) <= held <= len(told) + 4  # the victim may have died between commits and saying so

    now += 3600
    expired = await ledger.expire()
    assert {hold.hold_id for hold in expired} >= set(told)
    assert sum(hold.tokens for hold in expired) == LIMIT
    await ledger.close()


async def test_processes_that_create_the_file_at_once_agree_on_it(tmp_path):
    for n in range(30):  # the race is lost about once in a hundred times
        path = tmp_path / f"quota-{n}.db"
        ledgers = await asyncio.gather(*(SqliteLedger.open(path, time.time, PATIENCE_S) for _ in range(8)))
        for ledger in ledgers:
            assert await ledger.open_holds() == 0
            await ledger.close()
