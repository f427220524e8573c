"""Several processes on one SQLite file, one of them killed: the limit holds, counts survive, what it held expires as spent."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

from support.asks import tokens

from broker.ledger.sqlite import SqliteLedger

PROCESSES = 4
BUDGET = tokens(200 * 100)  # for a hundred holds of 200

WORKER = """
import asyncio, sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from support.asks import ask, tokens
from broker.errors import QuotaExhausted, Unavailable
from broker.ledger.sqlite import SqliteLedger

async def caller(ledger, name):
    number = 0
    while True:
        number += 1
        hold_id = f"{name}-{number}"
        try:
            await ledger.hold(ask(tokens(20000), hold_id=hold_id, least=100, expires_s=3600))
        except QuotaExhausted:
            return
        except Unavailable:
            await ledger.void(hold_id)
            continue
        print(hold_id, flush=True)
        await asyncio.sleep(0.002)

async def main():
    ledger = await SqliteLedger.open(Path(sys.argv[1]), lambda: 1_700_000_000.0)
    await asyncio.gather(*(caller(ledger, f"{sys.argv[3]}-{number}") for number in range(4)))
    await ledger.close()

asyncio.run(main())
"""


async def test_four_processes_and_a_kill_never_pass_the_limit_and_forget_nothing(tmp_path):
    path = tmp_path / "quota.db"
    support = str(Path(__file__).parents[2])
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, path, support, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(PROCESSES)
    ]
    victim = workers[0]
    told = [victim.stdout.readline().strip() for _ in range(5)]
    victim.send_signal(signal.SIGKILL)
    for worker in workers:
        told += worker.communicate(timeout=60)[0].split()
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0, 0]

    clock_s = 1_700_000_000.0
    ledger = await SqliteLedger.open(path, lambda: clock_s)
    (reading,) = await ledger.readings()
    held = await ledger.open_holds()
    assert reading.used == held * 200 == BUDGET.limit
    assert len(set(told)) == len(told)
    assert len(told) <= held <= len(told) + 4  # the victim may have died between a commit and saying so

    clock_s += 3600
    expired = await ledger.expire()
    assert {hold.hold_id for hold in expired} >= set(told)
    assert sum(hold.tokens for hold in expired) == BUDGET.limit
    await ledger.close()


async def test_processes_that_create_the_file_at_once_agree_on_it(tmp_path):
    path = tmp_path / "quota.db"
    ledgers = await asyncio.gather(*(SqliteLedger.open(path, time.time) for _ in range(8)))
    for ledger in ledgers:
        assert await ledger.open_holds() == 0
        await ledger.close()
