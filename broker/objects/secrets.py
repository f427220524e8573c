"""Secrets: which keys there are, where they may go, and, apart from both, their values."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from broker.credentials import Credential, Credentials, SecretRef
from broker.names import HOSTS_ANNOTATION
from broker.objects.connections import clean_key
from broker.objects.metadata import About
from broker.objects.reading import Fault, Unreadable, as_mapping

_FIELDS: Final = frozenset(("apiVersion", "kind", "metadata", "type", "immutable", "data", "stringData"))
_VARIABLE: Final = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_VALUE_CHARACTERS: Final = 16384
NOT_READABLE: Final = "SecretNotReadable"  # the reason of a fault: nobody knows what is in it, and the message says why


@dataclass(frozen=True, slots=True)
class SecretObject:
    """A Secret without its values, which lie in `credentials` and are handed to upstream.py alone.

    keys: those whose values could be read; a wrong one takes no other with it.
    hosts: the annotation of its owner, or None without one.
    """

    about: About
    keys: frozenset[str]
    hosts: str | None
    credentials: Credentials = field(repr=False, compare=False)


def read_secret(about: About, raw: Mapping[str, object], environment: Mapping[str, str] | None) -> tuple[SecretObject, tuple[Fault, ...]]:
    """Read a v1 Secret. A key that cannot be read is a fault, and is left out; the others are there.

    environment: what `${env:NAME}` in a value means; None where values are taken as they stand (Kubernetes).
    """
    faults = [Fault(name, "is not a field of a Secret", "UnknownField") for name in raw if name not in _FIELDS]
    values: dict[str, str] = {}
    for name, value in _entries(raw, "data", faults).items():
        _keep(name, _decoded(value), f"data.{name}", values, faults)
    for name, value in _entries(raw, "stringData", faults).items():  # Kubernetes lets it win over data
        values.pop(name, None)
        _keep(name, _substituted(value, environment), f"stringData.{name}", values, faults)
    namespace = about.namespace or ""
    credentials = {SecretRef(namespace, about.name, key): Credential(value) for key, value in values.items()}
    return SecretObject(about, frozenset(values), about.annotations.get(HOSTS_ANNOTATION), credentials), tuple(faults)


class _NoValue:
    """Says why there is no value, never what was written."""

    def __init__(self, why: str) -> None:
        self.why = why


def _entries(raw: Mapping[str, object], name: str, faults: list[Fault]) -> Mapping[str, object]:
    written = raw.get(name, {})
    entries = as_mapping(written)
    if entries is None and not isinstance(written, Unreadable):
        faults.append(Fault(name, "must be a mapping of keys to text"))
    return entries or {}


def _keep(name: str, value: str | _NoValue | None, path: str, values: dict[str, str], faults: list[Fault]) -> None:
    if value is None:
        return
    if not _KEY.fullmatch(name):
        faults.append(Fault(path, "is no key of a Secret: letters, digits, - _ . are allowed"))
    elif isinstance(value, _NoValue):
        faults.append(Fault(path, value.why))
    elif len(value) > _VALUE_CHARACTERS:
        faults.append(Fault(path, f"has more than {_VALUE_CHARACTERS} characters"))
    elif (key := clean_key(value)) is None:
        faults.append(Fault(path, "is empty or has characters that no header can carry; give the key alone"))
    else:
        values[name] = key


def _decoded(value: object) -> str | _NoValue | None:
    if isinstance(value, Unreadable):
        return None
    if not isinstance(value, str):
        return _NoValue("must be base64 text")
    try:
        return base64.b64decode("".join(value.split()), validate=True).decode()
    except (binascii.Error, ValueError):
        return _NoValue("must be base64 of a text; plain text goes into stringData")


def _substituted(value: object, environment: Mapping[str, str] | None) -> str | _NoValue | None:
    if isinstance(value, Unreadable):
        return None
    if not isinstance(value, str):
        return _NoValue("must be text: put it in quotes")
    if environment is None:
        return value
    missing = [name for name in _VARIABLE.findall(value) if not environment.get(name)]
    if missing:
        return _NoValue(f"the environment variable {missing[0]} is not set; export it before the broker starts")
    return _VARIABLE.sub(lambda match: environment[match[1]], value)
