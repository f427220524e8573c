"""Everything that a source (files.py; the Kubernetes API) has read: what a Snapshot is built from."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.credentials import Credential, Credentials, SecretRef
from broker.objects.documents import AccessPolicy, Document, ProviderObject, RoutingPolicy, Stray, reject
from broker.objects.reading import Fault
from broker.objects.secrets import SecretObject


@dataclass(frozen=True, slots=True)
class Resources:
    """One state of all objects, rejected ones included.

    credentials: values by name, for upstream.py alone; nothing else is built from them.
    pending: namespaces whose lists are not in yet. unreadable: namespaces that may not be read.
    """

    routing: tuple[RoutingPolicy, ...] = ()
    access: tuple[AccessPolicy, ...] = ()
    providers: tuple[ProviderObject, ...] = ()
    secrets: tuple[SecretObject, ...] = ()
    strays: tuple[Stray, ...] = ()
    credentials: Credentials = field(default_factory=dict[SecretRef, Credential], repr=False, compare=False)
    pending: frozenset[str] = frozenset()
    unreadable: frozenset[str] = frozenset()


def collect(
    documents: Iterable[Document | Stray], pending: frozenset[str] = frozenset(), unreadable: frozenset[str] = frozenset()
) -> Resources:
    """Sort documents by kind and name. The same object twice is an error of both: nobody can say which one is meant."""
    given = list(documents)
    strays = tuple(one for one in given if isinstance(one, Stray))
    once = _told_apart([one for one in given if not isinstance(one, Stray)])
    credentials: dict[SecretRef, Credential] = {}
    for document in once:
        if isinstance(document, SecretObject) or (document.about.accepted and not isinstance(document, AccessPolicy)):
            credentials.update(document.credentials)
    return Resources(
        routing=tuple(one for one in once if isinstance(one, RoutingPolicy)),
        access=tuple(one for one in once if isinstance(one, AccessPolicy)),
        providers=tuple(one for one in once if isinstance(one, ProviderObject)),
        secrets=tuple(one for one in once if isinstance(one, SecretObject)),
        strays=strays,
        credentials=credentials,
        pending=pending,
        unreadable=unreadable,
    )


def _told_apart(documents: list[Document]) -> list[Document]:
    count = Counter(_key(one) for one in documents)
    told = [one if count[_key(one)] == 1 or not one.about.name else reject(one, _twice(one, documents)) for one in documents]
    return sorted(told, key=lambda one: (*_key(one), one.about.version))


def _twice(document: Document, documents: list[Document]) -> Fault:
    others = sorted(one.about.place("") for one in documents if one is not document and _key(one) == _key(document))
    return Fault("", f"{document.about} is also at {others[0]}; an object is there once")


def _key(document: Document) -> tuple[str, str, str]:
    about = document.about
    return about.kind, about.namespace or "", about.name
