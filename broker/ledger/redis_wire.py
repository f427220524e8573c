"""One connection to a Redis: everything asked in one turn of the event loop leaves in one write, and answers come in order."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from hiredis import ProtocolError, Reader, ReplyError, pack_command  # pyright: ignore[reportUnknownVariableType]  its answer has no type

# One command as Redis reads it, written in C. (Its own annotation takes one argument alone.)
pack: Final = cast("Callable[[tuple[bytes | str | int, ...]], bytes]", pack_command)

Reply = int | bytes | list["Reply"] | ReplyError | None

WAITING: Final = 4096  # questions without an answer; more than that would not be answered in time


class Wire(asyncio.Protocol):
    """Nothing is ever asked twice here.

    When an answer is late, the connection is given up, and with it everything that waits for it: what was asked may still be done, and
    callers void or repeat it.

    Args:
        deadline_s: of each question, from the end of the turn of the loop that asked it.
        on_lost: called once, when the connection is over for whatever reason.

    Attributes:
        is_over: nothing can be asked any more.
    """

    def __init__(self, deadline_s: float, on_lost: Callable[["Wire", Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline_s = deadline_s
        self._on_lost = on_lost
        self._reader = Reader()
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._out: list[bytes] = []
        self._asked = 0
        self._answered = 0
        self._transport: asyncio.Transport
        self._problem: Exception | None = None
        self.is_over = False

    def ask(self, packed: bytes) -> asyncio.Future[Reply]:
        """Ask one question.

        Returns:
            The answer to come; it may be a ReplyError. Raises ConnectionError, TimeoutError or hiredis.ProtocolError when none comes.
        """
        answer: asyncio.Future[Reply] = self._loop.create_future()
        if self.is_over or len(self._waiting) >= WAITING:
            answer.set_exception(ConnectionError("the connection is over, or too much waits for it"))
            return answer
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        self._waiting.append(answer)
        return answer

    def give_up(self, problem: Exception) -> None:
        """Close it without waiting for anything."""
        if not self.is_over:
            self._problem = problem
            self._transport.abort()
            self.connection_lost(None)

    async def drain(self) -> None:
        """Wait until everything that was asked is answered, then close."""
        if self._waiting:
            await asyncio.wait([self._waiting[-1]], timeout=2 * self._deadline_s)
        self.give_up(ConnectionError("closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                self._answered += 1
                answer = waiting.popleft()
                if not answer.done():
                    answer.set_result(reply)
        except (ProtocolError, IndexError) as problem:
            self.give_up(ProtocolError(f"not an answer of Redis: {type(problem).__name__}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_over:
            return
        self.is_over = True
        problem = self._problem or exc or ConnectionError("closed by the other side")
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(problem)
        self._on_lost(self, problem)

    def _flush(self) -> None:
        if self.is_over:
            return
        self._asked += len(self._out)
        self._transport.write(b"".join(self._out))
        self._out.clear()
        self._loop.call_later(self._deadline_s, self._expect, self._asked)

    def _expect(self, asked: int) -> None:
        if self._answered < asked and not self.is_over:
            self.give_up(TimeoutError(f"no answer within {self._deadline_s} s"))
