"""Holds in one SQLite file, for one node: restarts forget nothing, and several processes may share it.

All that arrives while the file is busy, at least what arrives in one turn of the loop, is one transaction on a thread of its
own: one fsync for all. When the file cannot be written in time, everybody is told Unavailable: unknown means no.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from broker.adjustment import Adjustment, Balance, Look
from broker.chat import Usage
from broker.errors import BrokerError, Unavailable
from broker.grant import PolicyRef
from broker.ledger.book import Book
from broker.ledger.database import Database
from broker.quota import Ask, Expired, Held, Reading, Tally

log = logging.getLogger(__name__)

_DEADLINE_S: Final = 0.25
_DISK_S: Final = 1.0  # more than the deadline for the lock: what a commit may take while the disk is busy with others
_READING_DEADLINE_S: Final = 5.0  # reports read whole tables, beside the holds
_WAITING: Final = 4096  # questions waiting for the file; more than that would not be answered in time
_AHEAD_S: Final = 60.0  # a file that is further ahead of the clock than this was written under a wrong one

_T = TypeVar("_T")


class _Question(Protocol):
    """What the two threads hand to each other: asked on the ledger's, answered on the loop's."""

    def ask(self, book: Book, now: float) -> None: ...
    def answer(self) -> None: ...
    def fail(self, problem: Unavailable) -> None: ...
    def is_answered(self) -> bool: ...


class _Asked(Generic[_T]):
    """One call, and the future that its caller awaits."""

    __slots__ = ("_call", "_refusal", "_result", "future")

    def __init__(self, call: Callable[[Book, float], _T], future: asyncio.Future[_T]) -> None:
        self._call = call
        self._refusal: BrokerError | None = None
        self._result: _T
        self.future = future

    def ask(self, book: Book, now: float) -> None:
        try:
            self._result = self._call(book, now)
        except BrokerError as refusal:
            self._refusal = refusal

    def answer(self) -> None:
        if self.future.done():
            return
        if self._refusal is None:
            self.future.set_result(self._result)
        else:
            self.future.set_exception(self._refusal)

    def fail(self, problem: Unavailable) -> None:
        if not self.future.done():
            self.future.set_exception(problem)

    def is_answered(self) -> bool:
        return self.future.done()


class _Batch:
    """What is asked of the file in one transaction."""

    __slots__ = ("lapse", "questions")

    def __init__(self) -> None:
        self.questions: list[_Question] = []
        self.lapse: asyncio.TimerHandle | None = None


class SqliteLedger:
    """quota.Ledger on one file. Belongs to the event loop that opened it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        """Only `open` makes one."""
        self._loop = loop
        self._deadline_s = deadline_s + _DISK_S
        self._writer = ThreadPoolExecutor(1, "ledger")
        self._reader = ThreadPoolExecutor(1, "ledger-reader")
        self._database: Database
        self._book: Book
        self._reading: Database
        self._arrived = _Batch()
        self._transaction: asyncio.Future[None] | None = None
        self._is_failing = False
        self._is_closed = False

    @classmethod
    async def open(cls, path: Path, clock: Callable[[], float], deadline_s: float = _DEADLINE_S) -> "SqliteLedger":
        """Create or open the file.

        Args:
            path: of the file; its directory must be there.
            clock: Unix time. It may step back, the ledger's time does not.
            deadline_s: after which a question is Unavailable because another process keeps the write lock; because of a slow disk it
                is after _DISK_S more.

        Raises:
            CannotOpen: with what to do about it, for the operator.
        """
        loop = asyncio.get_running_loop()
        ledger = cls(loop, deadline_s)
        try:
            ledger._database = await loop.run_in_executor(ledger._writer, Database.open, path, clock, deadline_s)
            ledger._book = Book(ledger._database)
            ledger._reading = await loop.run_in_executor(ledger._reader, Database.open_reader, path, clock)
            now = await loop.run_in_executor(ledger._reader, ledger._reading.now)
        except BaseException:
            ledger._writer.shutdown(wait=False)
            ledger._reader.shutdown(wait=False)
            raise
        if now > clock() + _AHEAD_S:
            log.warning("quota_store_ahead_of_clock", extra={"path": str(path), "ahead_s": round(now - clock())})
        return ledger

    async def hold(self, ask: Ask) -> Held:
        return await self._ask(lambda book, now: book.hold(ask, now))

    async def settle(self, hold_id: str, usage: Usage | None, cost_microusd: int | None = None) -> int:
        return await self._ask(lambda book, now: book.settle(hold_id, usage, cost_microusd, now))

    async def void(self, hold_id: str) -> None:
        await self._ask(lambda book, now: book.void(hold_id, now))

    async def renew(self, hold_ids: Iterable[str]) -> None:
        held = tuple(hold_ids)
        await self._ask(lambda book, now: book.renew(held, now))

    async def deny(self, policies: Iterable[PolicyRef], identity: str) -> None:
        named = tuple(policies)
        await self._ask(lambda book, now: book.deny(named, identity, now))

    async def expire(self) -> tuple[Expired, ...]:
        return await self._ask(lambda book, now: book.expire(now))

    async def tallies(self) -> tuple[Tally, ...]:
        return await self._read(Book.tallies)

    async def readings(self) -> tuple[Reading, ...]:
        return await self._read(Book.readings)

    async def open_holds(self) -> int:
        return await self._read(Book.open_holds)

    async def balances(self, looks: Sequence[Look]) -> tuple[Balance, ...]:
        return await self._read(lambda book, now: book.balances(looks, now))

    async def adjust(self, change: Adjustment) -> tuple[Balance, Balance]:
        return await self._ask(lambda book, now: book.adjust(change, now))

    async def close(self) -> None:
        """Answer what was asked, then close the file. Whatever is asked later is Unavailable."""
        if self._is_closed:
            return
        self._is_closed = True
        self._write()
        while self._transaction is not None:
            await asyncio.wait([self._transaction])
        await self._loop.run_in_executor(self._reader, self._reading.close)
        await self._loop.run_in_executor(self._writer, self._database.close)
        self._reader.shutdown()
        self._writer.shutdown()

    async def _ask(self, call: Callable[[Book, float], _T]) -> _T:
        batch = self._arrived
        if self._is_closed or len(batch.questions) >= _WAITING:
            raise _away()
        if not batch.questions:
            self._loop.call_soon(self._write)
            batch.lapse = self._loop.call_later(self._deadline_s, self._give_up, batch)
        asked: _Asked[_T] = _Asked(call, self._loop.create_future())
        batch.questions.append(asked)
        return await asked.future

    def _write(self) -> None:
        """Hand all that has arrived to the ledger's thread, unless it is at work: then at the end of that."""
        batch = self._arrived
        if self._transaction is not None or not batch.questions:
            return
        self._arrived = _Batch()
        self._transaction = self._loop.run_in_executor(self._writer, self._transact, batch)
        self._transaction.add_done_callback(lambda done: self._answer(batch, done))

    def _transact(self, batch: _Batch) -> None:
        with self._book.transaction() as now:
            for question in batch.questions:
                if not question.is_answered():
                    question.ask(self._book, now)

    def _answer(self, batch: _Batch, done: asyncio.Future[None]) -> None:
        self._transaction = None
        if batch.lapse is not None:
            batch.lapse.cancel()
        problem = done.exception()
        for question in batch.questions:
            if problem is None:
                question.answer()
            else:
                question.fail(_away())
        self._report(problem)
        self._write()

    def _give_up(self, batch: _Batch) -> None:
        """The file has not answered in time. What of this batch is being written may still be written: callers void or repeat."""
        for question in batch.questions:
            question.fail(_away())
        if batch is self._arrived:
            self._arrived = _Batch()
        self._report(TimeoutError(f"no answer within {self._deadline_s} s"))

    def _report(self, problem: BaseException | None) -> None:
        """Once when the file begins to fail, once when it is back: a line for each request would be a second outage."""
        if problem is not None and not self._is_failing:
            log.error("quota_store_failed", exc_info=problem)
        elif problem is None and self._is_failing:
            log.warning("quota_store_back")
        self._is_failing = problem is not None

    async def _read(self, call: Callable[[Book, float], _T]) -> _T:
        """Ask the second connection, which does not wait for the holds nor they for it."""

        def read() -> _T:
            return call(Book(self._reading), self._reading.now())

        if self._is_closed:
            raise _away()
        try:
            async with asyncio.timeout(_READING_DEADLINE_S):
                return await self._loop.run_in_executor(self._reader, read)
        except (TimeoutError, sqlite3.Error) as problem:
            raise _away() from problem


def _away() -> Unavailable:
    return Unavailable("The quota store does not answer: try again.", retry_after_s=1.0)
