"""The stores that must all keep the same contract, each opened by name in a folder of its own."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis

from broker.ledger.memory import MemoryLedger
from broker.ledger.redis import RedisLedger
from broker.ledger.redis_target import parse_target
from broker.ledger.sqlite import SqliteLedger
from broker.quota import Ledger

from .redis_server import RedisServer, shared_server

PATIENCE_S: Final = 30.0  # a test machine's disk may be slower than a broker may be
STORES: Final = ("memory", "sqlite", "redis")


async def open_ledger(store: str, folder: Path, clock: Callable[[], float]) -> Ledger:
    if store == "memory":
        return MemoryLedger(clock)
    if store == "redis":
        return await steered(hashlib.sha256(bytes(folder)).hexdigest()[:16] + "/", clock)
    return await SqliteLedger.open(folder / "quota.db", clock, PATIENCE_S)


async def steered(prefix: str, clock: Callable[[], float], server: RedisServer | None = None, url: str = "") -> Any:
    """A ledger in Redis whose time is this clock's: its scripts read the time from a key, where ours read the server's."""
    server = server or shared_server()
    time = f"(function() local us = call('HGET', '{prefix}{{clock}}', 'us') return {{math.floor(us / 1000000), us % 1000000}} end)()"
    ledger = await RedisLedger.open(url or server.url, prefix, deadline_s=PATIENCE_S, allow_insecure=True, time=time)
    return Steered(ledger, server.client(db=parse_target(url or server.url).database), f"{prefix}{{clock}}", clock)


class Steered:
    """Puts the clock's time where the scripts read it, before each question."""

    def __init__(self, ledger: RedisLedger, client: redis.Redis, key: str, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._client = client
        self._key = key
        self._clock = clock

    async def close(self) -> None:
        self._client.close()
        await self._ledger.close()

    def __getattr__(self, name: str) -> Any:
        self._client.hset(self._key, "us", int(self._clock() * 1_000_000))
        return getattr(self._ledger, name)


async def used(ledger: Ledger) -> dict[str, int]:
    """What stands on each counter, by the quota's name in it."""
    return {reading.counter.split("/")[3]: reading.used for reading in await ledger.readings()}
