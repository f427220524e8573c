"""Trust bundles that the operator keeps in ConfigMaps (`--trust-bundle-configmap`), where SPIRE's server writes them.

Only ConfigMaps that the operator names: no object adds an anchor. One that is gone, or that nobody can read, costs its own trust
domain, whose workloads are then trusted no more; one that cannot be looked up, because the API server is away, costs nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from broker.config import BundleConfigMap
from broker.kube.connection import Connection
from broker.kube.essence import essence
from broker.kube.watching import PACE, Collection, Fields, Pace, Reading, Reflector
from broker.objects.reading import as_mapping
from broker.truststate import Bundle, read_bundle

log = logging.getLogger(__name__)

KEY: Final = "bundle.spiffe"
Data = dict[str, object]


def read_config_map(data: Data) -> Bundle:
    """The anchors of a trust domain: the key `bundle.spiffe`, or else the only key there is (SPIRE calls it bundle.crt).

    Raises:
        ValueError: there is no such key, or it holds no bundle.
    """
    if KEY not in data and len(data) != 1:
        raise ValueError(f"it has no key {KEY}, and not just one other; its keys are {', '.join(sorted(data)[:8]) or 'none'}")
    text = data.get(KEY, next(iter(data.values())))
    return read_bundle(text.encode() if isinstance(text, str) else b"")


class TrustBundles:
    """The bundles in these ConfigMaps.

    apply: told a trust domain and its anchors, at first and whenever they change; () = there are none.
    """

    def __init__(
        self, connection: Connection, places: Iterable[BundleConfigMap], apply: Callable[[str, Bundle], None], pace: Pace = PACE
    ) -> None:
        self._apply = apply
        self._watched: list[tuple[str, Reflector[Data]]] = []
        for place in places:
            what = Collection("v1", "ConfigMap", "configmaps", place.namespace, place.name)
            changed = partial(self._changed, place.trust_domain)
            self._watched.append((place.trust_domain, Reflector(connection, what, Reading(essence, _data), changed, pace)))

    async def keep(self) -> None:
        """Watch them, for ever."""
        async with asyncio.TaskGroup() as group:
            for _, reflector in self._watched:
                group.create_task(reflector.run())

    def _changed(self, trust_domain: str) -> None:
        anchors: Bundle = ()
        for domain, reflector in self._watched:
            if domain == trust_domain and reflector.synced:
                anchors += _anchors(trust_domain, reflector)
        self._apply(trust_domain, anchors)


def _data(fields: Fields) -> Data:
    return dict(as_mapping(fields.get("data")) or {})


def _anchors(trust_domain: str, reflector: Reflector[Data]) -> Bundle:
    why = "it is not there"
    for data in reflector.objects:
        try:
            return read_config_map(data)
        except ValueError as wrong:
            why = str(wrong)
    log.error(
        "trust_bundle_unreadable",
        extra={
            "trust_domain": trust_domain,
            "about": str(reflector.what),
            "reason": why,
            "in_force": "nobody of this trust domain is trusted",
        },
    )
    return ()
