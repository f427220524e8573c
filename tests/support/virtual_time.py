"""An event loop whose clock jumps to whatever is waited for: an hour of waiting takes a moment, and its order is always the same."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Jumping(selectors.DefaultSelector):
    """Waits for nothing: the time that the loop wanted to wait has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everybody waits for somebody else")
        self.now_s += max(timeout, 0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is what passed in it. For code that waits, and does no IO."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-6  # a nanosecond, the usual one, is lost in a float after a hundred days: nothing would ever be due

    def time(self) -> float:
        return self._jumping.now_s


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scenario)
