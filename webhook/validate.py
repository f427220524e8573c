"""One of our own objects in, a verdict out: what is wrong in it refuses it; what it refers to and is not there is a warning. Pure.

It is the broker's own reader that judges, so that nothing is stored which the broker would not take: fields that nobody knows, which
the CRD keeps, among them. The broker and the controller judge again, since a webhook can be away.

Whoever reaches the webhook's port can ask about any namespace, and nobody can tell him from the API server. So a text names nothing of a
namespace that the object which is asked about does not name itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Final

import msgspec

from broker import hosts
from broker.addresses import HostList
from broker.kube.decoding import Unreadable, read_object
from broker.names import GROUP
from broker.objects import AccessPolicy, Document, ProviderObject, RoutingPolicy, SecretObject, Stray, collect, read_document
from broker.objects.connections import ProviderSpec
from broker.objects.reading import as_mapping
from broker.policy import Settings, build
from broker.policy.status import Condition, ObjectStatus
from webhook.review import BAD_REQUEST, Request, Verdict

KINDS: Final = frozenset(("AIAccessPolicy", "AIRoutingPolicy", "AIProvider"))
_JUDGED: Final = ("CREATE", "UPDATE")
FAULTS_SHOWN: Final = 20

Ours = AccessPolicy | RoutingPolicy | ProviderObject
Fields = Mapping[str, object]

# Only who may read Secrets can tell whether these are so, and the webhook may not
_OF_SECRETS: Final = frozenset(("CredentialSecretNotFound", "CredentialKeyMissing", "HostNotAllowed"))
# An object on its way in is the youngest of all: RFC 3339 sorts as text
_NOT_YET_CREATED: Final = "9999"


def examine(request: Request) -> Verdict | Ours:
    """What is said of this object by itself; the object when nothing is wrong with it.

    What changes nothing that was written as `spec` passes, however wrong it is: labels, a finalizer on its way out, a status.
    """
    if request.kind.group != GROUP or request.kind.kind not in KINDS or request.sub_resource or request.operation not in _JUDGED:
        return Verdict()
    try:
        fields = _fields(request.object)
        if _is_going(fields) or _is_the_same(fields, _fields(request.old_object)):
            return Verdict()
    except Unreadable as wrong:
        return Verdict(allowed=False, code=BAD_REQUEST, message=f"the object cannot be read: {wrong}")
    found = read_document(fields)
    if isinstance(found, Stray | SecretObject):
        return Verdict(allowed=False, code=BAD_REQUEST, message="the object is none of its kind")
    return Verdict(allowed=False, message=_refusal(found)) if found.about.faults else found


def _fields(raw: msgspec.Raw) -> Fields:
    """Without any where there is no object."""
    return {} if bytes(raw) == b"null" else read_object(raw, lambda fields: fields)


def _is_going(fields: Fields) -> bool:
    """Whether it is being deleted: then its finalizers alone change, and nobody may keep them from it."""
    return bool((as_mapping(fields.get("metadata")) or {}).get("deletionTimestamp"))


def _is_the_same(fields: Fields, before: Fields) -> bool:
    """As bytes, since to Python 1 equals True."""
    return bool(before) and _bytes(fields.get("spec")) == _bytes(before.get("spec"))


def _bytes(value: object) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def _refusal(found: Ours) -> str:
    faults = [_printable(str(fault)) for fault in found.about.faults[:FAULTS_SHOWN]]
    more = len(found.about.faults) - len(faults)
    if len(faults) == 1:
        return faults[0]
    return "\n- ".join((f"{found.about.kind} has {len(faults) + more} faults:", *faults, *([f"and {more} more"] if more else [])))


def _printable(text: str) -> str:
    """A path has names in it that somebody wrote, and goes to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def remarks(found: Ours, neighbours: Sequence[Document] | None, own_namespace: str) -> tuple[str, ...]:
    """What will not work in it, and why: it is stored all the same, since what it refers to may be on its way.

    Args:
        found: nothing is wrong with it by itself.
        neighbours: the other objects of its namespace, as far as it refers to such; None = nobody knows, and nothing is said of them.
        own_namespace: the broker's, where a Deny is about the models of every namespace.
    """
    about = replace(found.about, created=found.about.created or _NOT_YET_CREATED)
    found = replace(found, about=about)
    itself, named = (about.kind, about.name), _named(found)
    others = [_as_far_as_named(one, named) for one in neighbours or () if (one.about.kind, one.about.name) != itself]
    snapshot = build(collect([found, *others]), _settings(found, own_namespace))
    status = next(one for one in snapshot.statuses if one.about.kind == about.kind and one.about.name == about.name)
    texts = dict.fromkeys(_said(found, status, others, known=neighbours is not None))
    return tuple(_printable(text) for text in texts)


def _named(found: Ours) -> frozenset[str]:
    """The models that an object names."""
    if isinstance(found, RoutingPolicy):
        return frozenset(found.names)
    spec = found.spec if isinstance(found, AccessPolicy) else None
    return (
        frozenset(name for names in ((spec.models or ()), *(one.models for one in spec.quotas)) for name in names) if spec else frozenset()
    )


def _as_far_as_named(other: Document, models: frozenset[str]) -> Document:
    if not isinstance(other, RoutingPolicy):
        return other
    spec = other.spec and msgspec.structs.replace(other.spec, models=tuple(one for one in other.spec.models if one.name in models))
    return replace(other, names=tuple(name for name in other.names if name in models), spec=spec)


def _settings(found: Ours, own_namespace: str) -> Settings:
    """As an operator would have it who allows all that this object needs: what he did allow is not known here."""
    named: set[tuple[str, int]] = set()
    for spec in _providers(found):
        try:
            endpoint = hosts.parse_endpoint(spec.endpoint, spec.schema) if spec.endpoint else None
        except hosts.InvalidHost:
            continue
        named |= {(endpoint.host, 0)} if endpoint else set()
    listed = HostList(frozenset(named), (ip_network("0.0.0.0/0"), ip_network("::/0")))
    return Settings(namespace=own_namespace, plain_http=listed, allowed=listed)


def _providers(found: Ours) -> Sequence[ProviderSpec]:
    if isinstance(found, RoutingPolicy):
        return found.spec.providers if found.spec else ()
    return (found.spec,) if isinstance(found, ProviderObject) and found.spec else ()


def _said(found: Ours, status: ObjectStatus, others: Sequence[Document], *, known: bool) -> Iterator[str]:
    """known: whether `others` are all there are."""
    conditions = {one.type: one for one in status.conditions}
    accepted = conditions["Accepted"]
    if accepted.reason == "NameConflict":
        kept = [row for row in status.models if row.reason == "NameConflict"]
        yield from (f"{row.path}: an older object of the namespace keeps the model {row.name}; rename one of the two" for row in kept)
    elif accepted.status != "True":
        yield _of(accepted)
    if known and isinstance(found, RoutingPolicy):
        yield from _without_provider(found, others)
    if known and "ModelsResolved" in conditions and conditions["ModelsResolved"].status != "True":
        yield _of(conditions["ModelsResolved"])
    ready = conditions.get("Ready")
    if ready is not None and ready.status != "True" and ready.reason not in _OF_SECRETS and accepted.status == "True":
        yield _of(ready)
    yield from (f"{row.path}: {row.message}" for row in status.providers if not row.ready and row.reason not in _OF_SECRETS)
    yield from (f"{path}: {text}" for path, text in status.notices)


def _of(condition: Condition) -> str:
    """A message about a fault begins with its path already."""
    path = condition.path
    return condition.message if not path or condition.message.startswith(path) else f"{path}: {condition.message}"


def _without_provider(found: RoutingPolicy, others: Sequence[Document]) -> Iterator[str]:
    spec = found.spec
    if spec is None:
        return
    there = {one.name for one in spec.providers} | {one.about.name for one in others if isinstance(one, ProviderObject)}
    for at, model in enumerate(spec.models):
        for place, backend in enumerate(model.backends):
            if backend.provider not in there:
                yield (
                    f"spec.models[{at}].backends[{place}].provider: there is no provider {backend.provider} in this object, and no "
                    "AIProvider of that name in the namespace yet"
                )
