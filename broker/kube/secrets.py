"""Secrets, each by its name and only while an accepted object refers to it: nobody lists Secrets.

One watch for each, so that RBAC can name them one by one (`resourceNames`), and a changed key is used for the next request.
Values are in the credentials of a SecretObject and nowhere else; of what goes wrong only names are told.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from broker.kube.connection import Connection
from broker.kube.tasks import Tasks
from broker.kube.watching import Collection, Pace, Reading, Reflector
from broker.objects import Document, Fault, ProviderObject, RoutingPolicy, SecretObject, Stray
from broker.objects.connections import Credentials
from broker.objects.metadata import About
from broker.objects.secrets import NOT_READABLE

SECRETS: Final = 500

Name = tuple[str, str]  # namespace, name


@dataclass(frozen=True, slots=True)
class _Watched:
    reflector: Reflector[Document | Stray]
    task: asyncio.Task[None]


def referred(documents: Iterable[Document | Stray]) -> frozenset[Name]:
    """The Secrets that these objects name, each in the object's own namespace. An object that is rejected names none."""
    return frozenset(
        (document.about.namespace, reference.name)
        for document in documents
        if isinstance(document, (RoutingPolicy, ProviderObject)) and document.about.accepted and document.about.namespace
        for credentials in _credentials(document)
        for reference in (credentials.secret_ref, credentials.client_secret_ref)
        if reference is not None
    )


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

    def want(self, names: frozenset[Name], tasks: Tasks) -> None:
        """From now on these. What is not wanted any more is forgotten at once."""
        ordered = sorted(names)
        kept, self._too_many = ordered[:SECRETS], tuple(ordered[SECRETS:])
        for gone in self._watched.keys() - set(kept):
            self._watched.pop(gone).task.cancel()
        for new in kept:
            if new not in self._watched:
                what = Collection("v1", "Secret", "secrets", *new)
                reflector = Reflector(self._connection, what, self._reading, self._on_change, self._pace)
                self._watched[new] = _Watched(reflector, tasks.start(reflector.run()))

    @property
    def looking(self) -> bool:
        """Of one that is wanted it is not known yet whether it is there, and nothing is wrong so far."""
        return any(not one.reflector.synced and not one.reflector.trouble for one in self._watched.values())

    @property
    def documents(self) -> list[Document | Stray]:
        """Each Secret that is there, and for each that nobody could read an empty one that says why."""
        found: list[Document | Stray] = []
        for name, one in self._watched.items():
            found += one.reflector.objects if one.reflector.synced else [_unread(name, _why(name, one.reflector))]
        return found + [_unread(name, f"is one too many: objects refer to more than {SECRETS} Secrets") for name in self._too_many]

    def stale_s(self) -> dict[str, float]:
        """By namespace: seconds since the API server last gave a sign of life of the Secret that is longest without one."""
        ages: dict[str, float] = {}
        for (namespace, _), one in self._watched.items():
            ages[namespace] = max(ages.get(namespace, 0.0), one.reflector.stale_s)
        return ages


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
