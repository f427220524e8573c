"""Events of the cluster: what happened, and to whom, told to people with kubectl. Nobody who tells something waits for that.

An Event has its name from what happened, so that all replicas meet in one and add up how often. It is written a moment after the
first time, and its count then at longer and longer intervals. What waits is bounded; what finds no place is counted, and lost.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from heapq import heappop, heappush
from itertools import count, islice
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from broker.kube.connection import Away, Refused
from broker.kube.writing import CONFLICT, NOT_FOUND, PASSING, Writing, micro_time
from broker.names import GROUP
from broker.objects.reading import as_mapping

WAITING: Final = 1_000  # Events that have something to say
WAITING_OF_ONE: Final = 250  # of them, beside objects of one namespace: its many agents leave room for the others'
RESTING: Final = 2_000  # those that were written, so that the next time needs no look
NOTE_BYTES: Final = 1_000  # the API server takes 1,024
TRIES: Final = 5  # others write the same Event
SAID: Final = 256  # refusals that we remember to have logged
API: Final = "events.k8s.io/v1"
_NAME_CHARS: Final = 200

log = logging.getLogger(__name__)


class Regarding(NamedTuple):
    """The object that an Event stands beside, in `kubectl describe`. Of a Namespace, `namespace` is its name too."""

    api: str
    kind: str
    namespace: str
    name: str
    uid: str = ""


class Happening(NamedTuple):
    """What happened.

    reason: one word in CamelCase.
    about: what tells it from others with the same reason; the same again is the same Event.
    note: what it is, and what to do. Of an Event that is there already it does not change.
    once: it does not happen again, and whoever says it too says the same.
    """

    regarding: Regarding
    reason: str
    about: str
    note: str
    action: str
    once: bool = False

    @property
    def key(self) -> tuple[Regarding, str, str]:
        return self.regarding, self.reason, self.about

    @property
    def name(self) -> str:
        """The same for every replica."""
        digest = sha256("\0".join((*self.regarding, self.reason, self.about)).encode()).hexdigest()[:16]
        return f"{self.regarding.name[:_NAME_CHARS].rstrip('-.')}.{digest}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait for what, in seconds.

    first_s: before something is written that was not before, so that a burst is one write.
    again_s: from one count of an Event to the next: the first time, and at most; each is twice the one before.
    write_s: between two writes.
    away_s: when the API server is away; longer each time.
    """

    first_s: float = 1.0
    again_s: tuple[float, float] = (10.0, 600.0)
    write_s: float = 0.2
    away_s: tuple[float, float] = (0.5, 30.0)


PACE: Final = Pace()


class _Found(NamedTuple):
    """An Event as the API server had it."""

    version: str
    times: int


@dataclass(slots=True, eq=False)
class _Told:
    happening: Happening
    first_s: float
    count: int = 0  # that are not written yet
    last_s: float = 0.0
    writes: int = 0
    not_before_s: float = 0.0
    found: _Found | None = None


class Events:
    """The Events of one broker. `keep` writes them, for ever.

    written: writes that the API server took.
    dropped: happenings that no Event tells of.

    Args:
        writing: the API server.
        instance: who we are, of several replicas.
        random: from 0 to 1, so that several do not ask in step.
        now_s: a monotonic clock.
        wall_s: Unix time, for what people read.
        pace: how fast.
    """

    def __init__(
        self,
        writing: Writing,
        instance: str,
        random: Callable[[], float],
        now_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
        pace: Pace = PACE,
    ) -> None:
        self.written = 0
        self.dropped = 0
        self._writing = writing
        self._instance = instance
        self._random = random
        self._now_s = now_s
        self._wall_s = wall_s
        self._pace = pace
        self._waiting: dict[tuple[Regarding, str, str], _Told] = {}
        self._resting: dict[tuple[Regarding, str, str], _Told] = {}
        self._waits: Counter[str] = Counter()  # how many, by namespace
        self._due: list[tuple[float, int, _Told]] = []  # a heap
        self._numbers = count()
        self._awake = asyncio.Event()
        self._complained: set[tuple[str, int]] = set()

    def tell(self, happening: Happening) -> None:
        """It happened, just now."""
        key = happening.key
        told = self._waiting.get(key)
        if told is None:
            told = self._resting.get(key)
            if told is not None and happening.once:
                return
            whose = happening.regarding.namespace
            if len(self._waiting) >= WAITING or self._waits[whose] >= WAITING_OF_ONE:
                self.dropped += 1
                return
            self._waits[whose] += 1
            told = self._resting.pop(key, None) or _Told(happening, self._wall_s())
            self._waiting[key] = told
            self._enqueue(told, self._first_due_s(told))
        told.count += 1
        told.last_s = self._wall_s()

    async def keep(self) -> None:
        """For ever: write what is due, one after the other."""
        away = 0
        while True:
            told = await self._next()
            try:
                await self._tell(told)
            except (Away, Refused) as problem:
                away += 1
                if away == 1:
                    log.warning("events_not_written", extra={"problem": str(problem)})
                asked_s = problem.retry_after_s if isinstance(problem, Refused) else 0.0
                self._enqueue(told, self._now_s())
                await asyncio.sleep(max(asked_s, _longer(self._pace.away_s, away) * (0.5 + self._random() / 2)))
            else:
                away = 0
                await asyncio.sleep(self._pace.write_s)

    def _first_due_s(self, told: _Told) -> float:
        now_s = self._now_s()
        if now_s - told.not_before_s > self._pace.again_s[1]:
            told.writes = 0  # it was quiet for long
        return max(told.not_before_s, now_s + self._pace.first_s)

    def _enqueue(self, told: _Told, due_s: float) -> None:
        heappush(self._due, (due_s, next(self._numbers), told))
        self._awake.set()

    async def _next(self) -> _Told:
        """What is due, as soon as something is."""
        while True:
            self._awake.clear()
            wait_s = self._due[0][0] - self._now_s() if self._due else None
            if wait_s is not None and wait_s <= 0:
                return heappop(self._due)[2]
            try:
                async with asyncio.timeout(wait_s):
                    await self._awake.wait()
            except TimeoutError:
                pass

    async def _tell(self, told: _Told) -> None:
        """Write one. Raises Away, and Refused when it is to be tried again: then nothing of it is lost."""
        told.count, since = 0, told.count
        try:
            await self._write(told, since)
        except (Away, Refused) as problem:
            if isinstance(problem, Away) or problem.status in PASSING:
                told.count += since
                raise
            self._refused(told, since, problem)
        else:
            self.written += 1
            told.writes += 1
            told.not_before_s = self._now_s() + _longer(self._pace.again_s, told.writes)
        if told.count and not told.happening.once:
            self._enqueue(told, told.not_before_s)
        else:
            self._rest(told)

    def _rest(self, told: _Told) -> None:
        key = told.happening.key
        del self._waiting[key]
        self._waits[key[0].namespace] -= 1
        self._waits += Counter()  # without those that have nothing left
        if len(self._resting) >= RESTING:
            for old in list(islice(self._resting, RESTING // 10)):
                del self._resting[old]
        self._resting[key] = told

    async def _write(self, told: _Told, since: int) -> None:
        """Create the Event, or count further in the one that is there, whoever made it."""
        happening = told.happening
        collection = f"/apis/{API}/namespaces/{quote(happening.regarding.namespace, '')}/events"
        path = f"{collection}/{quote(happening.name, '')}"
        for _ in range(TRIES):
            found = told.found
            if found is not None and happening.once:
                return
            try:
                if found is None:
                    told.found = _found(await self._writing.create(collection, self._event(told, since)))
                else:
                    series = _series(found.times + since, told.last_s)
                    told.found = _found(await self._writing.merge(path, {"metadata": {"resourceVersion": found.version}, "series": series}))
            except Refused as no:
                if no.status == NOT_FOUND and found is not None:
                    told.found, told.first_s = None, told.last_s  # Events live an hour
                elif no.status == CONFLICT:
                    there = await self._writing.read(path)
                    told.found = None if there is None else _found(there)
                else:
                    raise
            else:
                return
        raise Away(f"others write the Event {happening.name} all the time")

    def _event(self, told: _Told, since: int) -> Mapping[str, object]:
        happening, about = told.happening, told.happening.regarding
        regarding = {"apiVersion": about.api, "kind": about.kind, "namespace": about.namespace, "name": about.name}
        event: dict[str, object] = {
            "apiVersion": API,
            "kind": "Event",
            "metadata": {"namespace": about.namespace, "name": happening.name},
            "eventTime": micro_time(told.first_s),
            "type": "Warning",
            "reason": happening.reason,
            "action": happening.action,
            "regarding": regarding | ({"uid": about.uid} if about.uid else {}),
            "note": clipped(happening.note),
            "reportingController": f"{GROUP}/broker",
            "reportingInstance": self._instance[:128],
        }
        return event if since == 1 or happening.once else {**event, "series": _series(since, told.last_s)}

    def _refused(self, told: _Told, since: int, no: Refused) -> None:
        """The API server will not have it: not now, and not soon."""
        self.dropped += since
        told.found = None
        told.not_before_s = self._now_s() + self._pace.again_s[1]
        about = told.happening.regarding.namespace, no.status
        if about not in self._complained and len(self._complained) < SAID:
            self._complained.add(about)
            log.error("event_refused", extra={"namespace": about[0], "problem": str(no)})


def clipped(text: str) -> str:
    """At most as many bytes as a note may have."""
    data = text.encode()
    return text if len(data) <= NOTE_BYTES else data[: NOTE_BYTES - 3].decode(errors="ignore") + "…"


def _series(times: int, last_s: float) -> Mapping[str, object]:
    return {"count": times, "lastObservedTime": micro_time(last_s)}


def _found(event: Mapping[str, Any]) -> _Found:
    metadata, series = as_mapping(event.get("metadata")) or {}, as_mapping(event.get("series")) or {}
    times = series.get("count")
    return _Found(str(metadata.get("resourceVersion")), times if isinstance(times, int) else 1)


def _longer(bounds: tuple[float, float], times: int) -> float:
    """Twice as long each time, up to a bound."""
    least, most = bounds
    return min(most, least * 2.0 ** min(times - 1, 16))
