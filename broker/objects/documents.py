"""One document, as JSON or YAML has it, into one object of ours, accepted or rejected, with every fault."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import islice
from typing import Final

from broker.credentials import Credential, Credentials, SecretRef
from broker.names import GROUP
from broker.objects.access import AccessSpec, Mtls, Subject
from broker.objects.connections import Credentials as CredentialSpec
from broker.objects.connections import ProviderSpec, clean_key
from broker.objects.metadata import About, read_about
from broker.objects.origin import Origin
from broker.objects.reading import FAULTS, Fault, as_list, as_mapping, read, shown
from broker.objects.routing import RoutingSpec
from broker.objects.secrets import SecretObject, read_secret

_KINDS: Final = ("AIRoutingPolicy", "AIAccessPolicy", "AIProvider", "Secret")
_TOP: Final[frozenset[str]] = frozenset(("apiVersion", "kind", "metadata", "spec", "status"))


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """An AIRoutingPolicy.

    spec: to be acted upon only when `about.accepted`; None when it cannot be read.
    names: the virtual models that it names, rejected or not: a name in a rejected object stays taken.
    """

    about: About
    spec: RoutingSpec | None
    names: tuple[str, ...]
    credentials: Credentials = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ProviderObject:
    """An AIProvider."""

    about: About
    spec: ProviderSpec | None
    credentials: Credentials = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Remains:
    """What holds of a Deny or a Limit even when the rest of it is wrong: it refuses whom it names.

    subjects: None = every identity of `trust_domain`; that None too = every identity.
    limits: of a Limit, whose quotas cannot be known; it is about its own namespace only.
    """

    subjects: tuple[Subject, ...] | None
    trust_domain: str | None
    shadow: bool
    limits: bool = False


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """An AIAccessPolicy.

    remains: of a Limit, and of anything that is, or may be meant as, a Deny; it counts when the object is rejected.
    """

    about: About
    spec: AccessSpec | None
    remains: Remains | None


@dataclass(frozen=True, slots=True)
class Stray:
    """A document that is none of our objects. `ours`: it says that it is, so somebody meant something by it."""

    origin: Origin | None
    fault: Fault
    ours: bool


Document = RoutingPolicy | ProviderObject | AccessPolicy | SecretObject


def read_document(
    raw: object, origin: Origin | None = None, environment: Mapping[str, str] | None = None, found: tuple[Fault, ...] = ()
) -> Document | Stray:
    """Read one document.

    origin: the file, or None for an object of the Kubernetes API.
    environment: see read_secret.
    found: what the source itself found wrong in it (a duplicate key, an alias …).
    """
    fields = as_mapping(raw)
    if fields is None:
        return Stray(origin, found[0] if found else Fault("", "must be an object: a mapping with apiVersion, kind and metadata"), ours=True)
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        return _stray(fields, kind, origin)
    about = read_about(kind, fields, origin)
    about = replace(about, faults=found + about.faults)
    if kind == "Secret":
        secret, faults = read_secret(about, fields, environment)
        return replace(secret if about.accepted else _emptied(secret), about=_with(about, faults))
    unknown = tuple(
        Fault(shown(name), f"is not a field of {kind}; its fields stand below spec", "UnknownField")
        for name in islice((name for name in fields if name not in _TOP), FAULTS)
    )
    about = _with(about, unknown)
    if kind == "AIRoutingPolicy":
        return _routing(about, fields.get("spec"))
    return _access(about, fields.get("spec")) if kind == "AIAccessPolicy" else _provider(about, fields.get("spec"))


def reject(document: Document, fault: Fault) -> Document:
    """The same object with one fault more, which rejects it."""
    rejected = _emptied(document) if isinstance(document, SecretObject) else document
    return replace(rejected, about=_with(document.about, (fault,)))


def _emptied(secret: SecretObject) -> SecretObject:
    return replace(secret, keys=frozenset(), credentials={})


def inline_ref(about: About, provider: str) -> SecretRef:
    """The name under which an Inline value is kept. No Secret can have it: a colon is not allowed in theirs."""
    return SecretRef(about.namespace or "", f"inline:{about.kind}/{about.name}/{provider}", "value")


def _with(about: About, faults: tuple[Fault, ...]) -> About:
    return replace(about, faults=about.faults + faults)


def _stray(fields: Mapping[str, object], kind: object, origin: Origin | None) -> Stray:
    version = fields.get("apiVersion")
    ours = not isinstance(kind, str) or not isinstance(version, str) or version.startswith(GROUP) or kind.endswith("List") or kind == "List"
    if ours:
        near = get_close_matches(str(kind), _KINDS, 1)
        hint = f"did you mean {near[0]}?" if near else "a List is given as one document for each of its items"
        text = f"is none of {', '.join(_KINDS)}; {hint}"
    else:
        text = "is not read here; the broker reads AIRoutingPolicy, AIAccessPolicy, AIProvider and Secret"
    return Stray(origin, Fault("kind", text), ours)


def _routing(about: About, raw: object) -> RoutingPolicy:
    spec, faults = read(RoutingSpec, raw, "spec")
    credentials = (
        {}
        if spec is None
        else {
            inline_ref(about, provider.name): Credential(key)
            for provider in spec.providers
            if (key := _inline(provider.credentials)) is not None
        }
    )
    faults += tuple(
        fault
        for index, provider in enumerate(spec.providers if spec else ())
        for fault in _wrong_inline(provider.credentials, f"spec.providers[{index}]")
    )
    return RoutingPolicy(_with(about, faults), spec, _names(raw), credentials)


def _provider(about: About, raw: object) -> ProviderObject:
    spec, faults = read(ProviderSpec, raw, "spec")
    key = _inline(spec.credentials) if spec else None
    faults += tuple(_wrong_inline(spec.credentials, "spec")) if spec else ()
    return ProviderObject(_with(about, faults), spec, {} if key is None else {inline_ref(about, ""): Credential(key)})


def _inline(credentials: CredentialSpec) -> str | None:
    return None if credentials.value is None else clean_key(credentials.value)


def _wrong_inline(credentials: CredentialSpec, path: str) -> tuple[Fault, ...]:
    if credentials.value is None or clean_key(credentials.value) is not None:
        return ()
    return (Fault(f"{path}.credentials.value", "has characters that no header can carry; give the key alone"),)


def _names(raw: object) -> tuple[str, ...]:
    """Every model's name that can be read, wherever the object is wrong."""
    models = as_list(_fields(raw).get("models")) or []
    names = [_fields(model).get("name") for model in models]
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))


def _access(about: About, raw: object) -> AccessPolicy:
    spec, faults = read(AccessSpec, raw, "spec")
    return AccessPolicy(_with(about, faults), spec, _remains(raw))


def _remains(raw: object) -> Remains | None:
    """A Deny, a Limit, or what may be one: an action that cannot be read counts, and so does a spec that cannot."""
    if raw is None:
        return None
    fields = as_mapping(raw)
    if fields is None:
        return Remains(None, None, shadow=False)
    action = fields.get("action", "Allow")
    if action == "Allow":
        return None
    mtls, _ = read(Mtls, fields.get("mtls"), "")
    domain = _fields(fields.get("mtls")).get("trustDomain")
    narrowed = mtls.trust_domain if mtls is not None else domain if isinstance(domain, str) and domain else None
    shadow = fields.get("mode") == "Shadow"
    return Remains(_subjects(fields.get("subjects")), narrowed, shadow, limits=action == "Limit")


def _subjects(raw: object) -> tuple[Subject, ...] | None:
    """The subjects when every one of them can be read; one that cannot may be anybody."""
    items = as_list(raw)
    if not items:
        return None
    read_ones = [read(Subject, item, "") for item in items]
    subjects = tuple(subject for subject, faults in read_ones if subject is not None and not faults)
    return subjects if len(subjects) == len(read_ones) else None


def _fields(raw: object) -> Mapping[str, object]:
    return as_mapping(raw) or {}
