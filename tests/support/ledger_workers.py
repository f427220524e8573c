"""Processes that hold as fast as they can on one store, one of them killed: for the two stores that several processes share."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

WORKERS: Final = 4
HOLD: Final = 200  # tokens of each

_WORKER: Final = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from support.asks import ask, tokens
from broker.errors import QuotaExhausted, Unavailable
from broker.grant import Per
from broker.ledger.redis import RedisLedger
from broker.ledger.settling import Settler
from broker.ledger.sqlite import SqliteLedger

async def caller(ledger, settler, name):
    number = 0
    while True:
        number += 1
        hold_id = f"{name}-{number}"
        try:
            await ledger.hold(ask(BUDGET, hold_id=hold_id, least=100, expires_s=3600))
        except QuotaExhausted:
            return
        except Unavailable:
            settler.void(hold_id)
            continue
        print(hold_id, flush=True)
        await asyncio.sleep(0.002)

async def main():
    where = sys.argv[1]
    ledger = await OPENING
    settler = Settler(ledger)
    await asyncio.gather(*(caller(ledger, settler, f"{sys.argv[3]}-{number}") for number in range(4)))
    assert await settler.drain(30) == 0
    await ledger.close()

asyncio.run(main())
"""


def work_until_the_quota_is_gone(where: str, opening: str, budget: str) -> list[str]:
    """Start all, kill the first after its fifth hold; the ids of all holds that somebody was told of.

    opening: Python that opens the ledger at `where`. budget: Python for the one quota that all share.
    """
    program = _WORKER.replace("OPENING", opening).replace("BUDGET", budget)
    tests = str(Path(__file__).parents[1])
    workers = [
        subprocess.Popen([sys.executable, "-c", program, where, tests, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(WORKERS)
    ]
    victim = workers[0]
    told = [victim.stdout.readline().strip() for _ in range(5)]
    victim.kill()
    for worker in workers:
        with worker.stdout as out:
            told += out.read().split()
        worker.wait(timeout=60)
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0, 0]
    return told
