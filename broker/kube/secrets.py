"""Secrets, each by its name and only while an accepted object refers to it: nobody lists Secrets.

One watch for each, so that RBAC can name them one by one (`resourceNames`), and a changed key is used for the next request.
Only the values that are referred to are kept, in the credentials of a SecretObject and nowhere else; of what goes wrong only names are
told. Whoever may write objects decides how many Secrets are wanted, so their number is shared out among namespaces.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from broker.kube.connection import Connection
from broker.kube.tasks import Tasks
from broker.kube.watching import Collection, Fields, Pace, Reading, Reflector
from broker.objects import Document, Fault, ProviderObject, RoutingPolicy, SecretObject, Stray
from broker.objects.connections import Credentials
from broker.objects.metadata import About
from broker.objects.reading import as_mapping
from broker.objects.secrets import NOT_READABLE
from broker.turns import in_turn

SECRETS: Final = 500  # of all namespaces; each of them gets its turn before any gets one more
KEYS: Final = 16  # of one Secret

Name = tuple[str, str]  # namespace, name
Keys = frozenset[str]


@dataclass(frozen=True, slots=True)
class _Watched:
    """One Secret.

    before: what was known of it when fewer or other keys were wanted, until it is read anew.
    """

    keys: Keys
    reflector: Reflector[Document | Stray]
    task: asyncio.Task[None]
    before: list[Document | Stray]

    @property
    def documents(self) -> list[Document | Stray]:
        return self.reflector.objects if self.reflector.synced else [] if self.reflector.refusal else self.before


def referred(documents: Iterable[Document | Stray]) -> Mapping[Name, Keys]:
    """The Secrets that these objects name, each in the object's own namespace, and which of its keys. A rejected object names none."""
    found: defaultdict[Name, set[str]] = defaultdict(set)
    for document in documents:
        if not isinstance(document, (RoutingPolicy, ProviderObject)) or not document.about.accepted or not document.about.namespace:
            continue
        for credentials in _credentials(document):
            for reference in (credentials.secret_ref, credentials.client_secret_ref):
                if reference is not None:
                    found[document.about.namespace, reference.name].add(reference.key)
    return {name: frozenset(keys) for name, keys in found.items()}


def _credentials(document: RoutingPolicy | ProviderObject) -> Iterator[Credentials]:
    if document.spec is None:
        return
    if isinstance(document, RoutingPolicy):
        yield from (provider.credentials for provider in document.spec.providers)
    else:
        yield document.spec.credentials


class Secrets:
    """The Secrets that are wanted, as they are now."""

    def __init__(self, connection: Connection, reading: Reading[Document | Stray], on_change: Callable[[], None], pace: Pace) -> None:
        self._connection = connection
        self._reading = reading
        self._on_change = on_change
        self._pace = pace
        self._watched: dict[Name, _Watched] = {}
        self._too_many: tuple[Name, ...] = ()

    def want(self, names: Mapping[Name, Keys], tasks: Tasks) -> None:
        """From now on these, and these keys of them. What is not wanted any more is forgotten at once."""
        ordered = in_turn(sorted(names), lambda name: name[0])
        kept, self._too_many = ordered[:SECRETS], tuple(ordered[SECRETS:])
        for gone in self._watched.keys() - set(kept):
            self._watched.pop(gone).task.cancel()
        for name in kept:
            known = self._watched.get(name)
            if known is None or known.keys != names[name]:
                self._watched[name] = self._watch(name, names[name], known, tasks)

    def _watch(self, name: Name, keys: Keys, known: _Watched | None, tasks: Tasks) -> _Watched:
        before = known.documents if known else []
        if known is not None:
            known.task.cancel()
        counts = partial(_with_keys, self._reading.counts, keys if len(keys) <= KEYS else frozenset())
        what = Collection("v1", "Secret", "secrets", *name)
        reflector = Reflector(self._connection, what, Reading(counts, self._reading.read), self._on_change, self._pace)
        return _Watched(keys, reflector, tasks.start(reflector.run()), before)

    @property
    def looking(self) -> bool:
        """Of one that is wanted it is not known yet whether it is there, and nothing is wrong so far."""
        return any(not one.reflector.synced and not one.reflector.trouble for one in self._watched.values())

    @property
    def documents(self) -> list[Document | Stray]:
        """Each Secret that is there, and for each that nobody could read an empty one that says why."""
        found: list[Document | Stray] = []
        for name, one in self._watched.items():
            if len(one.keys) > KEYS:
                found.append(
                    _unread(name, f"has too much in it: objects refer to more than {KEYS} of its keys; put some into another Secret")
                )
            elif one.reflector.synced or one.documents:
                found += one.documents
            else:
                found.append(_unread(name, _why(name, one.reflector)))
        return found + [_unread(name, f"is one too many: objects refer to more than {SECRETS} Secrets") for name in self._too_many]

    def stale_s(self) -> dict[str, float]:
        """By namespace: seconds since the API server last gave a sign of life of the Secret that is longest without one."""
        ages: dict[str, float] = {}
        for (namespace, _), one in self._watched.items():
            ages[namespace] = max(ages.get(namespace, 0.0), one.reflector.stale_s)
        return ages


def _with_keys(counts: Callable[[Fields], Fields], keys: Keys, fields: Fields) -> Fields:
    """Of a Secret's values these alone: a key that nobody asks for is not even held in memory."""
    kept = dict(counts(fields))
    if (values := as_mapping(kept.get("data"))) is not None:
        kept["data"] = {name: value for name, value in values.items() if name in keys}
    return kept


def _why(name: Name, reflector: Reflector[Document | Stray]) -> str:
    if reflector.refusal:
        return (
            f"may not be read by the broker: its service account needs a Role in namespace {name[0]} with list and watch of the Secret "
            f"{name[1]} (docs/kubernetes.md)"
        )
    return f"has not been read yet{f': {reflector.trouble}' if reflector.trouble else ''}"


def _unread(name: Name, why: str) -> SecretObject:
    namespace, own = name
    fault = Fault("", f"the Secret {own} {why}", NOT_READABLE)
    about = About("Secret", namespace, own, version="", generation=None, created="", annotations={}, origin=None, faults=(fault,))
    return SecretObject(about, frozenset(), None, {})
