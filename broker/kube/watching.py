"""List, watch, and list again: what is there now, and how long ago the API server last gave a sign of life.

The official client's own watch dies of a dropped connection, and its informer asks a failing server without a pause. A deleted
policy that lives on in a cache is access that nobody granted, so this is written out: what is gone from a list is gone, a
watch that cannot go on is a new list, and even a good one is checked against a list from time to time.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Generic, TypeVar

import msgspec

from broker.kube.connection import Away, Connection, Refused, TooLarge, cleaned
from broker.kube.decoding import Event, Lines, Page, Unreadable, read_event, read_object, read_page, read_status
from broker.kube.holdings import ROOM, Holdings, Kept, Key, Room
from broker.objects.reading import as_mapping

log = logging.getLogger(__name__)

PAGE_OBJECTS: Final = 250
PAGE_BYTES: Final = 32 << 20
OBJECTS: Final = 100_000

GONE: Final = 410
FORBIDDEN: Final = 403
BUSY: Final = (429, 503)

_T = TypeVar("_T")
Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Collection:
    """What is watched: the objects of one kind, of a namespace or of all of them (None), or the one of a name."""

    api: str
    kind: str
    plural: str
    namespace: str | None
    name: str | None = None

    @property
    def path(self) -> str:
        root = "/api" if self.api == "v1" else "/apis"
        within = f"/namespaces/{self.namespace}" if self.namespace is not None else ""
        return f"{root}/{self.api}{within}/{self.plural}"

    @property
    def selector(self) -> dict[str, str]:
        """Of the one object: RBAC's resourceNames are honoured for it."""
        return {} if self.name is None else {"fieldSelector": f"metadata.name={self.name}"}

    def __str__(self) -> str:
        where = "every namespace" if self.namespace is None else f"namespace {self.namespace}"
        return f"{self.plural}{f' {self.name}' if self.name is not None else ''} of {where}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait for what, in seconds.

    watch_s: a watch is asked to end after about so long; then it goes on from where it was.
    list_s: after a watch the server is asked for everything again when the last list is older, whatever the watch said.
    pause_max_s: short, because a revoked policy waits for it once the API server is back. While the server says 403, forbidden_s.
    steady_s: what lived this long was good: the pauses start anew.
    forbidden_s: an API server that starts says 403 before it has read its own rules; for so long that takes nothing away.
    """

    watch_s: float = 300.0
    list_s: float = 900.0
    pause_min_s: float = 0.2
    pause_max_s: float = 3.0
    steady_s: float = 5.0
    forbidden_s: float = 30.0


PACE: Final = Pace()


@dataclass(frozen=True, slots=True)
class Reading(Generic[_T]):
    """What is made of an object.

    counts: the part of it that matters; a change elsewhere is none.
    read: that part into what is kept.
    room: for how much of a namespace.
    """

    counts: Callable[[Fields], Fields]
    read: Callable[[Fields], _T]
    room: Room = ROOM


class Reflector(Generic[_T]):
    """The objects of a collection, as far as is known. `run` keeps them up to date, for ever.

    on_change: called when an object came, went or changed in what counts, and when what is known of the collection itself did.
    refusal: why the collection may not be read, as the API server says it; "" otherwise.
    trouble: what keeps it from being read now; "" while all is well.
    synced: its objects are known, or were.
    """

    def __init__(
        self, connection: Connection, what: Collection, reading: Reading[_T], on_change: Callable[[], None], pace: Pace = PACE
    ) -> None:
        self.what = what
        self.synced = False
        self.refusal = ""
        self.trouble = ""
        self._connection = connection
        self._reading = reading
        self._on_change = on_change
        self._pace = pace
        self._random = random.SystemRandom()
        self._held: Holdings[_T] = Holdings(reading.room)
        self._version = ""
        self._page_objects = PAGE_OBJECTS
        self._alive_s = self._began_s = time.monotonic()
        self._listed_s = self._forbidden_s = 0.0

    @property
    def objects(self) -> list[_T]:
        return list(self._held.values)

    @property
    def crowded(self) -> frozenset[str]:
        """Namespaces that have more than there is room for; none of their objects is known."""
        return self._held.crowded

    @property
    def stale_s(self) -> float:
        """Seconds since the API server last said something about the collection, be it that nothing has changed."""
        return time.monotonic() - self._alive_s

    async def run(self) -> None:
        failures = 0
        while True:
            self._began_s = time.monotonic()
            wait_s = 0.0
            try:
                if not self._version or time.monotonic() - self._listed_s > self._pace.list_s:
                    await self._list()
                await self._watch()
            except Refused as refused:
                self._note(str(refused))
                self._heed(refused)
                wait_s = refused.retry_after_s
            except Unreadable as broken:
                self._note(str(broken))
                self._version = ""
            except (Away, TooLarge) as away:
                self._note(str(away))
            steady = time.monotonic() - self._began_s >= self._pace.steady_s
            failures = (1 if self.trouble else 0) if steady else failures + 1
            if failures:
                await asyncio.sleep(max(wait_s, self._pause_s(failures)))

    def _pause_s(self, failures: int) -> float:
        most_s = self._pace.forbidden_s if self.refusal else self._pace.pause_max_s  # an object names what we may not read a hundred times
        longest_s: float = min(most_s, self._pace.pause_min_s * 2 ** min(failures - 1, 16))
        return longest_s * self._random.uniform(0.5, 1)

    def _note(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("kubernetes_trouble", extra={"about": str(self.what), "reason": trouble})
            self.trouble = trouble

    def _heed(self, refused: Refused) -> None:
        """What a refusal means for what is known. Only a 403 that lasts takes anything away."""
        if refused.status != FORBIDDEN:
            self._forbidden_s = 0.0
            if refused.status not in BUSY:
                self._version = ""  # 410 above all: the version is too old; or it is from another life of the server
            return
        now_s = time.monotonic()
        self._forbidden_s = self._forbidden_s or now_s
        if self.synced and now_s - self._forbidden_s < self._pace.forbidden_s:
            return
        self._version, self.synced, known = "", False, self.refusal
        self._held = Holdings(self._reading.room)
        self.refusal = str(refused)
        if self.refusal != known:
            self._on_change()

    def _alive(self) -> None:
        self._alive_s = time.monotonic()
        if self.trouble:
            log.info("kubernetes_trouble_over", extra={"about": str(self.what)})
        self.trouble = ""
        self._forbidden_s = 0.0

    async def _list(self) -> None:
        """Everything anew. What is not in the list is not there."""
        found: Holdings[_T] = Holdings(self._reading.room)
        more = version = ""
        while True:
            page = await self._page(more)
            for raw in page.items or ():
                key, kept = self._made(raw, found.crowded)
                if kept is not None:
                    found.put(key, kept)
                await asyncio.sleep(0)  # to read an object may take long: others have a turn after each
            if len(found) > OBJECTS:
                raise Unreadable(f"there are more than {OBJECTS} {self.what}; limit them with a ResourceQuota (count/{self.what.plural}…)")
            version = page.metadata.version
            more = page.metadata.more
            if not more:
                break
        if not version:
            raise Unreadable("a list has no resourceVersion")
        changed = not self.synced or self.refusal or not found.same_as(self._held)
        crowded = self._held.crowded
        self._held, self._version, self.synced, self.refusal = found, version, True, ""
        self._say_crowded(crowded)
        self._listed_s = time.monotonic()
        self._alive()
        if changed:
            self._on_change()

    async def _page(self, more: str) -> Page:
        """One page. When it is too large for us, a smaller one is asked for, from then on."""
        while True:
            query = {"limit": str(self._page_objects), **({"continue": more} if more else {}), **self.what.selector}
            try:
                return read_page(await self._connection.get(self.what.path, query, PAGE_BYTES))
            except TooLarge:
                if self._page_objects == 1:
                    raise
                self._page_objects = max(1, self._page_objects // 4)

    async def _watch(self) -> None:
        """Follow the changes until the server ends the watch, which is how all of them end.

        Raises:
            Refused, Away, Unreadable: it ended before its time.
        """
        longest_s = self._pace.watch_s * self._random.uniform(0.8, 1.2)
        query = {
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, round(longest_s))),
            **self.what.selector,
        }
        lines = Lines()
        async with self._connection.watch(self.what.path, query, longest_s + self._pace.watch_s) as chunks:
            self._alive()
            async for chunk in chunks:
                for line in lines.feed(chunk):
                    self._apply(read_event(line))
                    self._alive()
                    await asyncio.sleep(0)  # as in a list

    def _apply(self, event: Event) -> None:
        if event.type == "ERROR":
            code, message = read_status(event.object)
            raise Refused(code or GONE, cleaned(f"{code} {message}"))
        if event.type == "BOOKMARK":
            self._version = read_object(event.object, _version)
            return
        if event.type not in ("ADDED", "MODIFIED", "DELETED"):
            raise Unreadable("a watch has an event that is neither ADDED, MODIFIED, DELETED, BOOKMARK nor ERROR")
        crowded = self._held.crowded
        key, kept = self._made(event.object, crowded)
        changed = self._held.drop(key) if event.type == "DELETED" else kept is not None and self._held.put(key, kept)
        self._version = read_object(event.object, _version)
        self._say_crowded(crowded)
        if changed:
            self._on_change()

    def _say_crowded(self, before: frozenset[str]) -> None:
        for namespace in sorted(self._held.crowded - before):
            log.error("namespace_crowded", extra={"about": str(self.what), "namespace": namespace, "room": str(self._reading.room)})

    def _made(self, raw: msgspec.Raw, crowded: frozenset[str]) -> tuple[Key, Kept[_T] | None]:
        """What is kept of an object; None in a crowded namespace."""

        def make(fields: Fields) -> tuple[Key, Kept[_T] | None]:
            metadata = as_mapping(fields.get("metadata")) or {}
            key = str(metadata.get("namespace", "")), str(metadata.get("name", ""))
            if key[0] in crowded:
                return key, None
            counts = self._reading.counts({"apiVersion": self.what.api, "kind": self.what.kind, **fields})
            written = msgspec.json.encode(counts, order="deterministic")
            digest = sha256(written).digest()
            kept = self._held.get(key)
            if kept is not None and kept.digest == digest:
                return key, kept
            return key, Kept(digest, len(written), self._reading.read(counts))

        return read_object(raw, make)


def _version(fields: Fields) -> str:
    """Where a watch goes on after this event.

    Raises:
        Unreadable: it does not say.
    """
    version = (as_mapping(fields.get("metadata")) or {}).get("resourceVersion")
    if not isinstance(version, str) or not version:
        raise Unreadable("an event has no resourceVersion")
    return version
