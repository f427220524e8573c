"""The quota store that an operator named, by the kind of its URL."""

import time
from pathlib import Path
from typing import Protocol

from broker.config import ConfigError
from broker.ledger.database import CannotOpen
from broker.ledger.memory import MemoryLedger
from broker.ledger.sqlite import SqliteLedger
from broker.quota import Ledger


class StoreSettings(Protocol):
    """The switches --quota-store, --quota-deadline, --quota-prefix and --allow-insecure-quota-store."""

    @property
    def quota_store(self) -> str: ...
    @property
    def quota_deadline(self) -> float: ...
    @property
    def quota_prefix(self) -> str: ...
    @property
    def allow_insecure_quota_store(self) -> bool: ...


async def open_ledger(settings: StoreSettings) -> Ledger:
    """Open it.

    Raises:
        ConfigError: nobody knows this kind of store, or it cannot be used.
    """
    url = settings.quota_store
    if url == "memory:":
        return MemoryLedger(time.time)
    try:
        if url.startswith("sqlite:///"):
            return await SqliteLedger.open(Path(url.removeprefix("sqlite://")), time.time, settings.quota_deadline)
        if url.startswith("redis"):
            from broker.ledger.redis import RedisLedger  # noqa: PLC0415  who keeps quotas elsewhere needs none of it

            return await RedisLedger.open(
                url, settings.quota_prefix, deadline_s=settings.quota_deadline, allow_insecure=settings.allow_insecure_quota_store
            )
    except CannotOpen as error:
        raise ConfigError(f"--quota-store: {error}") from error
    raise ConfigError("--quota-store is neither rediss://…, sqlite:///PATH nor memory: (docs/quotas.md)")
