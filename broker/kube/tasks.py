"""The tasks of one run: started when they are needed, ended when they are not, and none outlives it."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress


class Tasks:
    """Work that goes on beside ours. A task that fails calls `wake`: whoever is woken finds out by `check`."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._running.discard(task)
        else:
            self._wake()

    def check(self) -> None:
        """Raises what a task ended with."""
        for task in self._running:
            if task.done():
                task.result()

    async def cancel(self) -> None:
        running = tuple(self._running)
        for task in running:
            task.cancel()
        for task in running:
            with suppress(asyncio.CancelledError, Exception):  # what it ended with is in `check`
                await task
