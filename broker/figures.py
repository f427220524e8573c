"""What of the long-lived things Prometheus sees, beside what each exchange is counted by."""

import asyncio
import time
from collections.abc import Callable

from broker.house import House
from broker.sealing.keeping import KeyFile
from broker.telemetry import Figure, Telemetry
from broker.trust import Trust
from broker.world import World


def show(house: House, world: World, trust: Trust, open_holds: Callable[[], float]) -> None:
    """Of a house with all that it needs; open_holds: how many there were at the last look."""
    show = house.telemetry.show
    show(Figure.IN_FLIGHT, lambda: len(house.exchanges))
    show(Figure.HOLDS_OPEN, open_holds)
    show(Figure.LOOP_TASKS, lambda: len(asyncio.all_tasks()))
    show(Figure.SVID_EXPIRY, lambda: trust.expires or 0)
    show(Figure.SNAPSHOT_GENERATION, lambda: world.generation)
    show(Figure.SNAPSHOT_AGE, lambda: time.monotonic() - world.built_s)
    show(Figure.SETTLE_QUEUE, lambda: house.settler.waiting)
    show(Figure.SETTLE_DROPPED, lambda: house.settler.dropped)
    show(Figure.TOKENS_OVER_HOLD, lambda: house.settler.excess_tokens)
    show(Figure.AUDIT_FAILURES, lambda: house.audit.failures)
    show(Figure.AUDIT_LOST, lambda: house.audit.lost)
    show(Figure.AUDIT_SEQ, lambda: house.audit.head().seq)
    show(Figure.AUDIT_HASH, lambda: int(house.audit.head().hash[:13] or "0", 16))
    show(Figure.UPSTREAM_OPENED, lambda: house.upstream.opened)
    show(Figure.UPSTREAM_REUSED, lambda: house.upstream.reused)
    show(Figure.RETRIES, lambda: house.router.retries)
    show(Figure.BACKENDS_RESTING, lambda: house.router.resting)


def show_sealing_keys(telemetry: Telemetry, file: KeyFile) -> None:
    telemetry.show_each(Figure.SEALING_KEYS, ("key",), lambda: (((id_,), float(not place)) for place, id_ in enumerate(file.ids)))
    telemetry.show(Figure.SEALING_KEYS_STALE, lambda: bool(file.wrong))
