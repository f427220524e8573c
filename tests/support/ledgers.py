"""The stores that must all keep the same contract, each opened by name in a folder of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from broker.ledger.memory import MemoryLedger
from broker.ledger.sqlite import SqliteLedger
from broker.quota import Ledger

PATIENCE_S: Final = 30.0  # a test machine's disk may be slower than a broker may be
STORES: Final = ("memory", "sqlite")


async def open_ledger(store: str, folder: Path, clock: Callable[[], float]) -> Ledger:
    if store == "memory":
        return MemoryLedger(clock)
    return await SqliteLedger.open(folder / "quota.db", clock, PATIENCE_S)


async def used(ledger: Ledger) -> dict[str, int]:
    """What stands on each counter, by the quota's name in it."""
    return {reading.counter.split("/")[3]: reading.used for reading in await ledger.readings()}
