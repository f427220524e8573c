"""Whose object it is: metadata, the same for every kind."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from broker.grant import PolicyRef
from broker.names import API_VERSION
from broker.objects.origin import Origin
from broker.objects.reading import Fault, Unreadable, as_mapping
from broker.objects.words import LABEL, SUBDOMAIN

DEFAULT_NAMESPACE: Final = "default"

_FIELDS: Final = frozenset(
    (
        *("name", "namespace", "labels", "annotations", "uid", "generation", "creationTimestamp", "resourceVersion", "managedFields"),
        *("ownerReferences", "finalizers", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName", "selfLink"),
    )
)


@dataclass(frozen=True, slots=True)
class About:
    """What is known of an object beside its spec.

    namespace: None when it cannot be read.
    version: `uid/generation`, or `sha256:…` of a file's document.
    created: RFC 3339, so that text order is time order; "" in files, where the object's name decides.
    faults: everything that is wrong with the object. One is enough to reject it.
    """

    kind: str
    namespace: str | None
    name: str
    version: str
    generation: int | None
    created: str
    annotations: Mapping[str, str]
    origin: Origin | None
    faults: tuple[Fault, ...]

    @property
    def accepted(self) -> bool:
        return not self.faults

    @property
    def ref(self) -> PolicyRef:
        return PolicyRef(self.namespace or "", self.name, self.version)

    @property
    def age(self) -> tuple[str, str]:
        """Sorts the oldest first."""
        return self.created, self.name

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace or '?'}/{self.name or '?'}"

    def place(self, path: str) -> str:
        """Where a path of it stands, or the object's own name when it comes from no file."""
        return self.origin.place(path) if self.origin else str(self)


def read_about(kind: str, raw: Mapping[str, object], origin: Origin | None) -> About:
    """Read apiVersion and metadata. The faults of the rest are added by whoever reads it."""
    faults: list[Fault] = []
    wanted = "v1" if kind == "Secret" else API_VERSION
    if raw.get("apiVersion") != wanted:
        faults.append(Fault("apiVersion", f"must be {wanted} where kind is {kind}"))
    metadata = as_mapping(raw.get("metadata"))
    if metadata is None:
        faults.append(Fault("metadata", "must be a mapping with a name"))
    fields = metadata or {}
    faults.extend(Fault(f"metadata.{name}", "is not a field of metadata", "UnknownField") for name in fields if name not in _FIELDS)
    name = namespace = None
    if metadata is not None:
        name = _name(metadata.get("name"), "metadata.name", SUBDOMAIN, faults)
        absent = origin is not None and "namespace" not in metadata
        namespace = DEFAULT_NAMESPACE if absent else _name(metadata.get("namespace"), "metadata.namespace", LABEL, faults)
    generation, uid, created = fields.get("generation"), fields.get("uid"), fields.get("creationTimestamp")
    return About(
        kind=kind,
        namespace=namespace,
        name=name or "",
        version="" if kind == "Secret" else _digest(raw) if origin else f"{uid}/{generation}",
        generation=generation if isinstance(generation, int) else None,
        created=created if isinstance(created, str) and origin is None else "",
        annotations=_annotations(fields.get("annotations", {}), faults),
        origin=origin,
        faults=tuple(faults),
    )


def _name(value: object, path: str, pattern: str, faults: list[Fault]) -> str | None:
    if isinstance(value, str) and re.fullmatch(pattern, value):
        return value
    if not isinstance(value, Unreadable):
        faults.append(Fault(path, "must be given: lower-case letters, digits and dashes, in quotes when it looks like a number"))
    return None


def _annotations(value: object, faults: list[Fault]) -> Mapping[str, str]:
    pairs = as_mapping(value)
    if pairs is None and not isinstance(value, Unreadable):
        faults.append(Fault("metadata.annotations", "must be a mapping of names to text"))
    read: dict[str, str] = {}
    for name, text in (pairs or {}).items():
        if isinstance(text, str):
            read[name] = text
        elif not isinstance(text, Unreadable):
            faults.append(Fault(f"metadata.annotations.{name}", "must be text: put it in quotes"))
    return read


def _digest(raw: Mapping[str, object]) -> str:
    """Of what the document says, so that a comment or another layout is no other version."""
    written = msgspec.json.encode({name: raw[name] for name in raw if name != "status"}, order="deterministic", enc_hook=lambda _: "?")
    return f"sha256:{hashlib.sha256(written).hexdigest()}"
