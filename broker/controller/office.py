"""Where the leader works: it watches the objects, the quota store and the trust bundles, and has written down what follows."""

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from broker import policy
from broker.config import BundleConfigMap, ControllerSettings
from broker.controller.bundles import Listed, with_bundle
from broker.controller.consumption import Consumption, consumption
from broker.controller.desired import Status
from broker.controller.scribe import Name, News, Scribe, Seen
from broker.errors import Unavailable
from broker.kube.connection import Connection
from broker.kube.essence import essence
from broker.kube.holdings import Room
from broker.kube.source import KINDS, Cluster, Scope
from broker.kube.watching import Collection, Fields, Reading, Reflector
from broker.kube.writing import Writing
from broker.names import API_VERSION
from broker.objects import Resources
from broker.objects.reading import as_mapping
from broker.policy.status import ObjectStatus
from broker.quota import Ledger, Tally
from broker.quota import Reading as Count

log = logging.getLogger(__name__)

COUNT_S: Final = 15.0  # between two looks at what was used
EXPIRY_S: Final = 60.0  # between two looks at which certificate authorities have expired


class Desk:
    """scribe.Desk at the API server."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing

    async def write_status(self, name: Name, uid: str, status: Status) -> Seen:
        return _seen(await self._writing.apply_status(name.kind, KINDS[name.kind], name[1:], uid, status))[1]


class Office:
    """Everything that a leader watches is watched anew when leading begins, and by nobody when it ends.

    Args:
        settings: what the operator said.
        operator: the same as policy has it.
        connection: the API server.
        ledger: the quota store; None = statuses say nothing of usage.
    """

    def __init__(self, settings: ControllerSettings, operator: policy.Settings, connection: Connection, ledger: Ledger | None) -> None:
        self._connection = connection
        self._writing = Writing(connection)
        self._ledger = ledger
        self._operator = operator
        self._scope = Scope.of(settings.namespace, settings.shared_model_namespaces, settings.namespaces)
        self._scribe = Scribe(Desk(self._writing), self._news, time.monotonic, time.time, random.SystemRandom().random)
        self._cluster: Cluster | None = None
        self._statuses: Sequence[Reflector[tuple[Name, Seen]]] = ()
        self._seen: Mapping[Name, Seen] | None = None
        self._resources = Resources()
        self._snapshot = policy.build(self._resources, operator)
        self._places = settings.trust_bundle_configmap
        self._bundles: Sequence[tuple[BundleConfigMap, Reflector[Fields]]] = ()
        self._told: Mapping[Name, ObjectStatus] = {}
        self._counted: tuple[Sequence[Tally], Sequence[Count], float] | None = None
        self._used: Mapping[str, Consumption] | None = None
        self._store_trouble = ""

    async def lead(self) -> None:
        """For ever: keep every status as it should be."""
        cluster = self._cluster = Cluster(self._connection, self._scope)
        self._statuses = [
            Reflector(self._connection, Collection(API_VERSION, kind, plural, namespace), STATUSES, self._status_changed)
            for namespace in self._scope.lists
            for kind, plural in KINDS.items()
        ]
        self._bundles = [
            (
                place,
                Reflector(self._connection, Collection("v1", "ConfigMap", "configmaps", place.namespace, place.name), BUNDLES, self._tell),
            )
            for place in self._places
        ]
        self._status_changed()
        try:
            async with asyncio.TaskGroup() as group:
                for each in self._statuses:
                    group.create_task(each.run())
                for _, bundle in self._bundles:
                    group.create_task(bundle.run())
                group.create_task(self._follow(cluster))
                group.create_task(self._look_at_the_clock())
                group.create_task(self._count())
                group.create_task(self._scribe.keep())
        finally:
            self._cluster, self._statuses, self._bundles = None, (), ()
            self._told, self._counted, self._used = {}, None, None

    def why_not_ready(self) -> list[str]:
        return self._cluster.why_not_ready() if self._cluster else []

    def figures(self) -> Iterable[tuple[str, str, str, float]]:
        """Name, kind, meaning and value."""
        yield "status_writes", "counter", "Statuses written", self._scribe.writes
        yield "status_refused", "counter", "Statuses that the API server refused to take", self._scribe.failures
        yield "objects", "gauge", "Objects whose status this controller keeps; 0 unless it leads", len(self._told)

    async def _follow(self, cluster: Cluster) -> None:
        async for resources in cluster.changes():
            self._resources, self._snapshot = resources, policy.build(resources, self._operator, self._snapshot)
            self._use()
            self._tell()

    async def _count(self) -> None:
        """Ask the quota store what was used. While it is away the figures stay as they are."""
        ledger = self._ledger
        while ledger is not None:
            try:
                self._counted = await ledger.tallies(), await ledger.readings(), time.time()
            except Unavailable as away:
                self._counted = None
                if not self._store_trouble:
                    log.warning("quota_store_away", extra={"reason": str(away)})
                self._store_trouble = str(away)
            else:
                self._store_trouble = ""
            self._use()
            self._scribe.wake()
            await asyncio.sleep(COUNT_S)

    async def _look_at_the_clock(self) -> None:
        """A certificate authority expires without anybody changing anything."""
        while self._bundles:
            await asyncio.sleep(EXPIRY_S)
            self._tell()

    def _use(self) -> None:
        self._used = None if self._counted is None else consumption(self._snapshot, *self._counted)

    def _tell(self) -> None:
        """Work out anew what each object is told. Of a namespace that is not read yet, or may not be, nobody can say anything."""
        unknown, own, now_s = self._snapshot.readiness.unknown, self._operator.namespace, time.time()
        specs = {one.about.ref: one.spec for one in self._resources.access}
        listed = [_listed(place, reflector) for place, reflector in self._bundles]
        self._told = {
            Name(about.kind, about.namespace or "", about.name): with_bundle(one, specs.get(about.ref), listed, now_s)
            for one in self._snapshot.statuses
            if (about := one.about).kind in KINDS and not unknown(own) and not unknown(about.namespace or "")
        }
        self._scribe.wake()

    def _status_changed(self) -> None:
        self._seen = None
        self._scribe.wake()

    def _news(self) -> News:
        if self._seen is None:
            self._seen = dict(one for each in self._statuses for one in each.objects)
        return News(self._told, self._used, self._seen)


def _status_of(raw: Fields) -> Fields:
    metadata = as_mapping(raw.get("metadata")) or {}
    return {
        "kind": raw.get("kind"),
        "metadata": {name: metadata.get(name) for name in ("namespace", "name", "resourceVersion")},
        "status": raw.get("status"),
    }


def _seen(raw: Fields) -> tuple[Name, Seen]:
    metadata = as_mapping(raw.get("metadata")) or {}
    name = Name(str(raw.get("kind")), str(metadata.get("namespace")), str(metadata.get("name")))
    return name, Seen(str(metadata.get("resourceVersion")), as_mapping(raw.get("status")) or {})


def _listed(place: BundleConfigMap, reflector: Reflector[Fields]) -> Listed:
    """A look that came to nothing leaves what was known, but for a refusal."""
    fields = reflector.objects[0] if reflector.objects else None
    looked = reflector.synced or bool(reflector.refusal)
    return Listed(place.trust_domain, place.namespace, place.name, looked, fields, reflector.refusal)


BUNDLES: Final[Reading[Fields]] = Reading(essence, dict)
STATUSES: Final[Reading[tuple[Name, Seen]]] = Reading(_status_of, _seen, Room(size=256 << 20))  # they are our own words, and bounded
