"""The objects of a cluster as Resources, as files.py has those of a folder: one list-watch for each kind and namespace.

Until the lists of a namespace are in, it is pending; one that may not be read is unreadable; both only for themselves. When the
API server is away, what was read last stays in force.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from broker.kube.connection import Connection
from broker.kube.essence import essence
from broker.kube.holdings import Room
from broker.kube.secrets import Secrets, referred
from broker.kube.tasks import Tasks
from broker.kube.watching import PACE, Collection, Pace, Reading, Reflector
from broker.names import API_VERSION
from broker.objects import Document, Resources, Stray, collect, read_document

KINDS: Final[Mapping[str, str]] = {
    "AIAccessPolicy": "aiaccesspolicies",
    "AIRoutingPolicy": "airoutingpolicies",
    "AIProvider": "aiproviders",
}
EVERY_NAMESPACE: Final = "*"

COALESCE_S: Final = 0.02
COALESCE_MAX_S: Final = 2.0  # as long a policy that is withdrawn waits at most, however much is written
LOOK_UP_S: Final = 0.3
LOOK_S: Final = 1.0
WORK_SHARE: Final = 4  # between two changes four times as long as the first took to come into force: a storm leaves time to serve


@dataclass(frozen=True, slots=True)
class Scope:
    """Which namespaces are read.

    own: the broker's; until it is known, nothing is.
    namespaces: those besides it; None = all there are.
    """

    own: str
    namespaces: frozenset[str] | None

    @classmethod
    def of(cls, own: str, shared: Iterable[str], listed: Iterable[str]) -> "Scope":
        """The broker's own namespace and those with shared models are always read."""
        named = frozenset(listed)
        return cls(own, None if EVERY_NAMESPACE in named else (named | {*shared}) - {own})

    @property
    def lists(self) -> tuple[str | None, ...]:
        return (None,) if self.namespaces is None else (self.own, *sorted(self.namespaces))


READING: Final[Reading[Document | Stray]] = Reading(essence, read_document)
# Hundreds of each kind in one namespace, and no more than a broker works out anew in a moment when one of them changes
ROOMS: Final[Mapping[str, Room]] = {
    "AIAccessPolicy": Room(2_000, 2 << 20),
    "AIRoutingPolicy": Room(2_000, 1 << 20),
    "AIProvider": Room(2_000, 1 << 20),
}


class Cluster:
    """The objects of the namespaces in `scope`, and the Secrets that they refer to.

    max_stale_s: when nothing was heard of a namespace for so long, it is pending again; None = never.
    """

    def __init__(self, connection: Connection, scope: Scope, max_stale_s: float | None = None, pace: Pace = PACE) -> None:
        self._scope = scope
        self._max_stale_s = max_stale_s
        self._too_old: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._secrets = Secrets(connection, READING, self._changed.set, pace)
        self._lists = {
            namespace: tuple(
                Reflector(connection, Collection(API_VERSION, kind, plural, namespace), _reading(kind), self._changed.set, pace)
                for kind, plural in KINDS.items()
            )
            for namespace in scope.lists
        }

    def read(self) -> Resources:
        """What is known now; at the start that is nothing, and every namespace is pending."""
        pending, unreadable = self._unknown()
        self._too_old = self._old()
        return collect([*self._documents(), *self._secrets.documents], pending | self._too_old, unreadable)

    async def changes(self) -> AsyncGenerator[Resources]:
        """The objects after each change, for as long as one asks. Changes that come in one burst are one change."""
        tasks = Tasks(self._changed.set)
        try:
            for lists in self._lists.values():
                for each in lists:
                    tasks.start(each.run())
            not_before_s = 0.0
            while True:
                await self._news()
                await asyncio.sleep(max(COALESCE_S, not_before_s - time.monotonic()))
                self._changed.clear()
                tasks.check()
                self._secrets.want(referred(self._documents()), tasks)
                await self._look_up(tasks)
                began_s = time.monotonic()
                yield self.read()
                ended_s = time.monotonic()
                not_before_s = ended_s + min(COALESCE_MAX_S, WORK_SHARE * (ended_s - began_s))
        finally:
            await tasks.cancel()

    async def _news(self) -> None:
        """Until something has changed, or has become too old, or is so no longer."""
        while not self._changed.is_set() and (self._max_stale_s is None or self._old() == self._too_old):
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._max_stale_s is None else LOOK_S):
                    await self._changed.wait()

    async def _look_up(self, tasks: Tasks) -> None:
        """A moment for Secrets that are referred to for the first time: a model is not called unready because of an answer on its way."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_UP_S):
                while self._secrets.looking:
                    await self._changed.wait()
                    self._changed.clear()
                    self._secrets.want(referred(self._documents()), tasks)  # what changed may be another object, with another Secret

    def why_not_ready(self) -> list[str]:
        """What is missing before anything can be served: the broker's own namespace, where the cut-offs stand."""
        own = self._lists[self._own]
        if self._scope.own in self._too_old:
            return [f"{_why(each)}, which is longer than --max-staleness" for each in own if each.stale_s > (self._max_stale_s or 0)]
        crowded = [_crowded(each, self._scope.own) for each in own if self._scope.own in each.crowded]
        return [_why(each) for each in own if not each.synced] + crowded

    def remarks(self) -> list[str]:
        """What is wrong besides, and keeps no other namespace from being served."""
        lists = [each for lists in self._lists.values() for each in lists]
        others = (each for each in lists if each.synced or each.what.namespace != self._own)
        crowded = [_crowded(each, namespace) for each in lists for namespace in sorted(each.crowded - {self._scope.own})]
        return [_why(each) for each in others if each.trouble or not each.synced] + crowded

    def stale_s(self) -> dict[tuple[str, str], float]:
        """By kind and namespace: seconds since the API server last gave a sign of life of it."""
        ages = {(each.what.kind, namespace or EVERY_NAMESPACE): each.stale_s for namespace, lists in self._lists.items() for each in lists}
        return ages | {("Secret", namespace): age_s for namespace, age_s in self._secrets.stale_s().items()}

    @property
    def _own(self) -> str | None:
        return None if self._scope.namespaces is None else self._scope.own

    def _documents(self) -> list[Document | Stray]:
        """But of unreadable namespaces: a part of one may grant what the rest of it denies."""
        _, unreadable = self._unknown()
        return [
            one
            for lists in self._lists.values()
            if not any(each.refusal for each in lists)
            for each in lists
            for one in each.objects
            if isinstance(one, Stray) or one.about.namespace not in unreadable
        ]

    def _old(self) -> frozenset[str]:
        longest_s = self._max_stale_s
        if longest_s is None:
            return frozenset()
        return frozenset(name or self._scope.own for name, lists in self._lists.items() if any(each.stale_s > longest_s for each in lists))

    def _unknown(self) -> tuple[frozenset[str], frozenset[str]]:
        """Namespaces that are pending, and those that are unreadable."""
        pending: set[str] = set()
        unreadable: set[str] = set()
        for namespace, lists in self._lists.items():
            if any(each.refusal for each in lists):
                unreadable.add(namespace or self._scope.own)
            elif not all(each.synced for each in lists):
                pending.add(namespace or self._scope.own)
            unreadable.update(*(each.crowded for each in lists))
        return frozenset(pending), frozenset(unreadable)


def _reading(kind: str) -> Reading[Document | Stray]:
    return replace(READING, room=ROOMS[kind])


def _crowded(each: Reflector[Document | Stray], namespace: str) -> str:
    return (
        f"namespace {namespace} has more {each.what.plural} than brokers have room for ({ROOMS[each.what.kind]}), so none of its objects "
        f"is in force. When it has fewer they are, after the next list, which comes every {PACE.list_s / 60:.0f} minutes"
    )


def _why(each: Reflector[Document | Stray]) -> str:
    stale = f" for {each.stale_s:.0f} s" if each.synced else ""
    if each.refusal:
        return (
            f"the {each.what} may not be read: give the broker's service account a Role there with list and watch "
            f"(docs/kubernetes.md). The API server says: {each.refusal}"
        )
    what = "nothing is heard of" if each.synced else "not read yet:"
    return f"{what} the {each.what}{stale}{f': {each.trouble}' if each.trouble else ''}"
