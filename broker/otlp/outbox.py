"""A bounded queue with a thread of its own behind it, which hands batches to an exporter. Whoever puts never waits."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Exporter(Generic[Item]):
    """Where batches go.

    signal: `traces` or `metrics`.
    send: sends a batch, however long that takes, and says whether it arrived; when it does not, the batch is dropped. On the thread.
    stop: ends what is still tried, and the connections; called from the event loop, at the end.
    why: what the log says of a batch that did not arrive; no text that anybody else wrote.
    """

    signal: str
    send: Callable[[Sequence[Item]], bool]
    stop: Callable[[], None]
    why: Callable[[], str]


class Outbox(Generic[Item]):
    """Whoever puts, and closes, is on the event loop.

    delay_s: a batch that is not full waits so long for more.
    sent: items that arrived.
    """

    def __init__(self, exporter: Exporter[Item], *, size: int, batch: int, delay_s: float) -> None:
        self._exporter = exporter
        self._signal: Final = exporter.signal
        self._size, self._batch, self._delay_s = size, batch, delay_s
        self._queue: deque[Item] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._left = False  # nobody waits for the thread any more: it says nothing
        self._away = False
        self._fault = ""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self.sent = 0
        self._full = 0  # counted on the loop
        self._failed = 0  # counted on the thread
        # A daemon: an exporter that hangs does not keep the process
        self._thread = threading.Thread(target=self._run, name=f"otlp-{exporter.signal}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Items that never will."""
        return self._full + self._failed

    def put(self, item: Item) -> bool:
        """False = there is no room for it: it is dropped."""
        if len(self._queue) >= self._size or self._closing:
            self._full += 1
            return False
        self._queue.append(item)
        if len(self._queue) >= self._batch and not self._wake.is_set():
            self._wake.set()
        return True

    async def close(self, deadline_s: float) -> None:
        """Send what is there, as far as that is done in time. What is not counts as dropped."""
        self._closing = True
        self._wake.set()
        try:
            async with asyncio.timeout(deadline_s):
                await self._ended.wait()
        except TimeoutError:
            self._left = True
            self._full += len(self._queue)
            log.warning("otlp_not_flushed", extra={"signal": self._signal, "dropped": self.dropped})
        self._exporter.stop()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._delay_s)
            self._wake.clear()
            self._send()
        self._send()
        with suppress(RuntimeError):  # the loop ended before us
            self._loop.call_soon_threadsafe(self._ended.set)

    def _send(self) -> None:
        """At least one batch, and then those that are full; when closing, all of them."""
        while self._queue and not self._left:
            batch = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
            self._note(len(batch), arrived=self._try(batch))
            if len(self._queue) < self._batch and not self._closing:
                return

    def _try(self, batch: Sequence[Item]) -> bool:
        self._fault = ""
        try:
            return self._exporter.send(batch)
        except Exception as fault:  # noqa: BLE001  whatever it is, telemetry is no reason to end
            self._fault = type(fault).__name__
            return False

    def _note(self, count: int, *, arrived: bool) -> None:
        """Count, and say once when the collector goes away, and once when it is back."""
        if arrived:
            self.sent += count
        else:
            self._failed += count
        if arrived is self._away and not self._left:
            self._away = not arrived
            if arrived:
                log.info("otlp_back", extra={"signal": self._signal, "dropped": self.dropped})
            else:
                log.warning("otlp_away", extra={"signal": self._signal, "why": self._fault or self._exporter.why()})
