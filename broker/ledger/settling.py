"""Settlements outlive a store that is away, and exchanges that are cancelled: they are sent from here, and repeated until they arrived."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple

from broker.chat import Usage
from broker.errors import Unavailable
from broker.grant import PolicyRef
from broker.quota import Ledger

log = logging.getLogger(__name__)

_BOUND: Final = 10_000
_TOGETHER: Final = 64  # repeated at once: SQLite and Redis take them in one go
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0


class _Ending(NamedTuple):
    """How one hold ended. `usage` and what it costs say nothing when it is void."""

    hold_id: str
    usage: Usage | None
    is_void: bool
    cost_microusd: int | None = None
    is_bounded: bool = True


class Settler:
    """Ends holds without making an exchange wait, raise or lose its settlement when it is cancelled.

    What is asked goes to the ledger in this order, before any hold of a later turn of the loop: a caller whose answer is complete finds its
    CONCURRENT lease free. What the ledger could not take waits and is repeated; it is idempotent there, so in doubt it is repeated.

    Attributes:
        excess_tokens: charged over what was held, since the start.
        dropped: endings that found the queue full, or were left at the end. Their holds expire as spent: never too little is charged.
    """

    def __init__(self, ledger: Ledger, bound: int = _BOUND) -> None:
        self.excess_tokens = 0
        self.dropped = 0
        self._ledger = ledger
        self._bound = bound
        self._sending: set[asyncio.Task[None]] = set()
        self._waiting: deque[_Ending] = deque()
        self._repeating: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Endings that the ledger has not confirmed yet."""
        return len(self._sending) + len(self._waiting)

    def settle(self, hold_id: str, usage: Usage | None, cost_microusd: int | None = None, *, bounded: bool = True) -> None:
        """As Ledger.settle. `bounded`: as the demand said; what had no bound does not pass it."""
        self._accept(_Ending(hold_id, usage, is_void=False, cost_microusd=cost_microusd, is_bounded=bounded))

    def void(self, hold_id: str) -> None:
        """As Ledger.void."""
        self._accept(_Ending(hold_id, None, is_void=True))

    def deny(self, policies: Iterable[PolicyRef], identity: str) -> None:
        """As Ledger.deny, but lost when the ledger is away: a figure, not a ceiling."""
        if self.waiting < self._bound:
            self._start(self._count_denial(tuple(policies), identity))

    async def drain(self, deadline_s: float) -> int:
        """At shutdown, when nobody settles any more: give what waits its last chance.

        Returns:
            How many endings are left; their holds expire as spent.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while tasks := self._tasks():
                    await asyncio.wait(tasks)
        for task in (tasks := self._tasks()):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if left := self.waiting:
            self.dropped += left
            log.error("settlements_lost", extra={"count": left})
        return left

    def _tasks(self) -> set[asyncio.Task[None]]:
        repeating = self._repeating
        return self._sending if repeating is None or repeating.done() else {*self._sending, repeating}

    def _accept(self, ending: _Ending) -> None:
        if self.waiting < self._bound:
            self._start(self._send(ending))
            return
        if not self.dropped:
            log.error("settlement_queue_full", extra={"bound": self._bound})
        self.dropped += 1

    def _start(self, sending: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, ending: _Ending) -> None:
        try:
            await self._end(ending)
        except Unavailable:
            self._waiting.append(ending)
            if self._repeating is None or self._repeating.done():
                self._repeating = asyncio.get_running_loop().create_task(self._repeat())
        except asyncio.CancelledError:
            self._waiting.append(ending)
            raise

    async def _repeat(self) -> None:
        """Until nothing waits. An ending leaves the queue when the ledger has it, so that a cancelled repetition loses none."""
        pause_s = _FIRST_PAUSE_S
        while self._waiting:
            await asyncio.sleep(pause_s)
            batch = list(islice(self._waiting, _TOGETHER))
            arrived = await asyncio.gather(*map(self._arrives, batch))
            for ending, is_there in zip(batch, arrived, strict=True):
                self._waiting.popleft()
                if not is_there:
                    self._waiting.append(ending)
            pause_s = 0.0 if any(arrived) else min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    async def _arrives(self, ending: _Ending) -> bool:
        try:
            await self._end(ending)
        except Unavailable:
            return False
        return True

    async def _end(self, ending: _Ending) -> None:
        if ending.is_void:
            await self._ledger.void(ending.hold_id)
            return
        excess = await self._ledger.settle(ending.hold_id, ending.usage, ending.cost_microusd)
        if excess and ending.is_bounded:
            self.excess_tokens += excess
            log.error("usage_over_hold", extra={"hold_id": ending.hold_id, "tokens": excess})

    async def _count_denial(self, policies: tuple[PolicyRef, ...], identity: str) -> None:
        with suppress(Unavailable):
            await self._ledger.deny(policies, identity)
