"""Writes each object's status when it has to say something else: conditions at once, figures every half minute, and never in a storm.

What is to be written is worked out anew before each write, so there is no queue of old news: at most one write an object waits.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from broker.controller.consumption import NOTHING, Consumption
from broker.controller.desired import Status, desired, differs, left_over, without_counts, words
from broker.kube.connection import Away, Refused
from broker.kube.writing import PASSING
from broker.policy.status import ObjectStatus
from broker.turns import in_turn

COUNTS_S: Final = 30.0  # between two writes of figures that changed
SETTLING_S: Final = 1.0  # between two writes of anything else
FIGHT_S: Final = 30.0  # before we say again what somebody else has overwritten
TOGETHER: Final = 4  # writes under way at a time
WRITE_EVERY_S: Final = 0.04  # 25 a second, as client-go allows itself about
BATCH: Final = 50  # writes between two looks at what is to be written
REFUSED_S: Final = (5.0, 300.0)  # an object whose status was refused waits, longer each time
AWAY_S: Final = (0.5, 30.0)  # as long nobody is asked when the API server is away, longer each time
ANOTHER: Final = frozenset((404, 409, 410))  # answers that mean: not the object that you saw
SAID: Final = 256  # refusals that we remember to have logged

log = logging.getLogger(__name__)


class Name(NamedTuple):
    """Which object."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Seen(NamedTuple):
    """An object as the API server had it: the version of the object, and its status."""

    version: str
    status: Status


@dataclass(frozen=True, slots=True)
class News:
    """What there is to say.

    statuses: what the broker makes of each object, by the object.
    used: under each policy, by `namespace/name`; None = not known now.
    seen: every object that is there now.
    """

    statuses: Mapping[Name, ObjectStatus] = field(default_factory=dict[Name, ObjectStatus])
    used: Mapping[str, Consumption] | None = None
    seen: Mapping[Name, Seen] = field(default_factory=dict[Name, Seen])


class Desk(Protocol):
    """Where statuses are written."""

    async def write_status(self, name: Name, uid: str, status: Status) -> Seen:
        """Write our part of a status, and say what it is then.

        Raises:
            Away: the API server did not answer, or not so that one understands it.
            Refused: it said no.
        """
        ...


@dataclass(slots=True)
class _Entry:
    """What we know of one object's status.

    said: what we wrote last, in words.
    based_on: the version that the watch showed when we wrote; as long as it shows that one, `written` is newer.
    """

    uid: str = ""
    said: Status | None = None
    written: Seen | None = None
    based_on: str = ""
    written_s: float = float("-inf")
    not_before_s: float = float("-inf")
    refusals: int = 0


class _Task(NamedTuple):
    name: Name
    uid: str
    status: Status
    version: str


class Scribe:
    """All statuses of the objects in `news`, written by one leader.

    Args:
        desk: where to write.
        news: what there is to say, as it is now.
        now_s: a monotonic clock.
        wall_s: Unix time, for what people read.
        random: from 0 to 1, so that waits are not in step with those of others.
    """

    def __init__(
        self, desk: Desk, news: Callable[[], News], now_s: Callable[[], float], wall_s: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self._desk = desk
        self._news = news
        self._now_s = now_s
        self._wall_s = wall_s
        self._random = random
        self._entries: dict[Name, _Entry] = {}
        self._awake = asyncio.Event()
        self._away = 0
        self._complained: set[tuple[str, str, int]] = set()
        self.writes = 0
        self.failures = 0

    def wake(self) -> None:
        """There is something new to say."""
        self._awake.set()

    async def keep(self) -> None:
        """For ever: write what is to be written. To be run by the leader alone."""
        self._entries.clear()  # whoever led meanwhile has written
        while True:
            self._awake.clear()
            tasks, wait_s = self._due()
            if not tasks:
                await self._rest(wait_s)
                continue
            try:
                await self._write(tasks[:BATCH])
            except* (Away, Refused) as away:
                await self._pause(away)
            else:
                self._said_back()

    def _due(self) -> tuple[list[_Task], float]:
        """What is to be written now, conditions first; and when it is nothing, for how long.

        Each namespace in turn, and what was written longest ago first: one that changes all the time keeps no other from being told.
        """
        news, now_s = self._news(), self._now_s()
        for gone in self._entries.keys() - news.statuses.keys():
            del self._entries[gone]
        urgent: list[_Task] = []
        counts: list[_Task] = []
        wait_s = COUNTS_S
        for name, told in news.statuses.items():
            found = self._wanted(name, told, news)
            if found is None:
                continue
            task, is_urgent = found
            due_s = self._due_at(self._entries[name], task.status, urgent=is_urgent)
            if due_s > now_s:
                wait_s = min(wait_s, due_s - now_s)
            else:
                (urgent if is_urgent else counts).append(task)
        return self._in_order(urgent) + self._in_order(counts), wait_s

    def _in_order(self, tasks: list[_Task]) -> list[_Task]:
        tasks.sort(key=lambda task: self._entries[task.name].written_s)
        return in_turn(tasks, lambda task: task.name.namespace)

    def _wanted(self, name: Name, told: ObjectStatus, news: News) -> tuple[_Task, bool] | None:
        """What to write to one object, and whether that is more than figures; None when its status says all of it."""
        seen = news.seen.get(name)
        if seen is None:
            return None  # it has gone, and the snapshot will follow
        uid = told.about.version.rpartition("/")[0]
        entry = self._entries.get(name)
        if entry is None or entry.uid != uid:
            entry = self._entries[name] = _Entry(uid)
        latest = entry.written if entry.written is not None and entry.based_on == seen.version else seen
        used = None if news.used is None else news.used.get(f"{name.namespace}/{name.name}", NOTHING)
        wanted = desired(told, latest.status, self._wall_s(), used)
        urgent = differs(without_counts(wanted), latest.status) or (left_over(wanted, latest.status) and entry.said != words(wanted))
        if not urgent and not differs(wanted, latest.status):
            return None
        return _Task(name, uid, wanted, seen.version), urgent

    def _due_at(self, entry: _Entry, wanted: Status, *, urgent: bool) -> float:
        if not urgent:
            rest_s = COUNTS_S
        elif entry.said == words(wanted):
            rest_s = FIGHT_S
        else:
            rest_s = SETTLING_S
        return max(entry.written_s + rest_s, entry.not_before_s)

    async def _write(self, tasks: list[_Task]) -> None:
        """Write these, some at a time and no more than so many a second."""
        free = asyncio.Semaphore(TOGETHER)
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                await free.acquire()
                group.create_task(self._write_one(task, free))
                await asyncio.sleep(WRITE_EVERY_S)

    async def _write_one(self, task: _Task, free: asyncio.Semaphore) -> None:
        entry = self._entries[task.name]
        entry.written_s = self._now_s()
        try:
            entry.written = await self._desk.write_status(task.name, task.uid, task.status)
        except Refused as no:
            if no.status in PASSING:
                raise
            self._refused(task, entry, no)
        else:
            self.writes += 1
            entry.said, entry.based_on, entry.refusals = words(task.status), task.version, 0
        finally:
            free.release()

    def _refused(self, task: _Task, entry: _Entry, no: Refused) -> None:
        entry.refusals += 1
        entry.not_before_s = self._now_s() + _longer(REFUSED_S, entry.refusals, self._random())
        if no.status in ANOTHER:
            return  # it was deleted, or made anew; the watch says so in a moment
        self.failures += 1
        about = task.name.kind, task.name.namespace, no.status  # one line for a namespace in which we may not write
        if about not in self._complained and len(self._complained) < SAID:
            self._complained.add(about)
            log.error("status_refused", extra={"object": str(task.name), "problem": str(no)})

    async def _pause(self, away: BaseExceptionGroup[Away | Refused]) -> None:
        self._away += 1
        reasons = list(_reasons(away))
        if self._away == 1:
            log.warning("status_not_written", extra={"problem": str(reasons[0])})
        asked_s = max(reason.retry_after_s if isinstance(reason, Refused) else 0.0 for reason in reasons)
        await asyncio.sleep(max(_longer(AWAY_S, self._away, self._random()), asked_s))

    def _said_back(self) -> None:
        if self._away:
            log.info("status_written_again")
        self._away = 0

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        except TimeoutError:
            pass


def _longer(bounds: tuple[float, float], times: int, random: float) -> float:
    """Twice as long each time, up to a bound; between half of it and all of it."""
    least, most = bounds
    return min(most, least * 2.0 ** min(times - 1, 16)) * (0.5 + random / 2)


def _reasons(group: BaseExceptionGroup[Away | Refused]) -> Iterator[Away | Refused]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _reasons(one)
        else:
            yield one
