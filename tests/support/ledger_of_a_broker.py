"""A broker's ledger in a process of its own, with a clock of its own. On each line of its input it holds once, and says what came of it.

python ledger_of_a_broker.py STORE LIMIT month|hour
"""

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.asks import ask, tokens
from support.ledgers import PATIENCE_S

from broker.errors import BrokerError
from broker.grant import Per
from broker.ledger.redis import RedisLedger
from broker.ledger.sqlite import SqliteLedger
from broker.quota import Ledger


async def opened(store: str) -> Ledger:
    if store.startswith("redis:"):
        return await RedisLedger.open(store, deadline_s=PATIENCE_S, allow_insecure=True)
    return await SqliteLedger.open(Path(store), time.time, PATIENCE_S)


async def main(store: str, limit: str, per: str) -> None:
    ledger = await opened(store)
    while await asyncio.to_thread(sys.stdin.readline):
        try:
            held = await ledger.hold(ask(tokens(int(limit), Per(per)), least=100, hold_id=f"{time.monotonic_ns()}-{sys.argv[1]}"))
        except BrokerError as refusal:
            said = refusal.code
        else:
            said = f"{held.tokens.remaining} {held.tokens.reset_s:.0f}"
        sys.stdout.write(f"{time.time():.0f} {said}\n")
        sys.stdout.flush()
    await ledger.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
