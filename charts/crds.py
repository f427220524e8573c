"""Writes the CustomResourceDefinitions from the Structs in broker/objects, the only source of what an object may say.

Two decisions are made here, both so that nobody's restriction gets lost between `kubectl apply` and the broker:

- Nothing that somebody wrote is pruned (`x-kubernetes-preserve-unknown-fields` on every level, since `properties` would prune
  again): a field that the API server does not know is kept, and refused by whoever reads the object. The same for null, which
  the API server drops where a field is not `nullable`: `subjects: null` would come to mean everybody.
- An absent field stays absent: its default is said in the description, and belongs to the broker. Only what a printer column
  shows has its default filled in, where that says the same.
"""

import argparse
from collections.abc import Iterator
from inspect import getdoc
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import yaml
from msgspec import inspect

from broker.names import GROUP, VERSION
from broker.objects.access import AccessSpec
from broker.objects.connections import ProviderSpec
from broker.objects.reading import Part, Rule
from broker.objects.routing import RoutingSpec
from broker.objects.status import AccessStatus, ProviderStatus, RoutingStatus
from broker.objects.words import INT32, INT64

Schema = dict[str, Any]
FOLDER: Final = Path(__file__).parent / "inference-broker" / "crds"
HEADING: Final = "# Made from the Structs in broker/objects by `make crds`. Edit those.\n"


def _condition(kind: str, field: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


# (kind, plural, short name, spec, status, columns); a column is (name, type, path), and * before the name shows it in -o wide alone
KINDS: Final[tuple[tuple[str, str, str, type[Part], type[Part], tuple[tuple[str, str, str], ...]], ...]] = (
    (
        "AIAccessPolicy",
        "aiaccesspolicies",
        "aap",
        AccessSpec,
        AccessStatus,
        (
            ("Subjects", "string", ".status.subjectSummary"),
            ("Models", "string", ".status.modelSummary"),
            ("Programmed", "string", _condition("Programmed")),
            ("Identities", "integer", ".status.identityCount"),
            ("Tokens-24h", "integer", ".status.tokens24h"),
            ("Denied-24h", "integer", ".status.denied24h"),
            ("Last-Used", "date", ".status.lastUsedTime"),
            ("*Action", "string", ".spec.action"),
            ("*Mode", "string", ".spec.mode"),
            ("*USD-24h", "string", ".status.usd24h"),
            ("*Requests-24h", "integer", ".status.requests24h"),
            ("*Shadow-Denied-24h", "integer", ".status.shadowDenied24h"),
            ("*Accepted", "string", _condition("Accepted", "reason")),
            ("*Models-Resolved", "string", _condition("ModelsResolved", "reason")),
        ),
    ),
    (
        "AIRoutingPolicy",
        "airoutingpolicies",
        "arp",
        RoutingSpec,
        RoutingStatus,
        (
            ("Models", "string", ".status.modelSummary"),
            ("Accepted", "string", _condition("Accepted")),
            ("Providers", "string", _condition("ProvidersConfigured", "reason")),
            ("Routing", "string", _condition("RoutingActive", "reason")),
            ("Programmed", "string", _condition("Programmed")),
            ("*Gateway", "string", ".spec.targetRef.name"),
            ("*Message", "string", _condition("RoutingActive", "message")),
        ),
    ),
    (
        "AIProvider",
        "aiproviders",
        "aiprov",
        ProviderSpec,
        ProviderStatus,
        (
            ("Schema", "string", ".spec.schema"),
            ("Credentials", "string", ".spec.credentials.type"),
            ("Accepted", "string", _condition("Accepted")),
            ("Ready", "string", _condition("Ready")),
            ("*Endpoint", "string", ".spec.endpoint"),
            ("*Message", "string", _condition("Ready", "message")),
        ),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the CustomResourceDefinitions of the chart.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where to; default: the chart")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        text = yaml.safe_dump(definition(*kind), sort_keys=False, width=140, allow_unicode=True)
        folder.joinpath(f"{kind[1]}.yaml").write_text(HEADING + text, encoding="utf-8")


def definition(
    kind: str, plural: str, short: str, spec: type[Part], status: type[Part], columns: tuple[tuple[str, str, str], ...]
) -> Schema:
    shown = frozenset(path for _, _, path in columns)
    root: Schema = {
        "type": "object",
        "description": getdoc(spec),
        "required": ["spec"],
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"{kind}."},
            "metadata": {"type": "object"},
            "spec": _Writer(shown, keeps_unknown=True).schema(inspect.type_info(spec), ".spec"),
            "status": _Writer(frozenset(), keeps_unknown=False).schema(inspect.type_info(status), ".status"),
        },
    }
    names = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["ai"],
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [*(_column(*one) for one in columns), _column("Age", "date", ".metadata.creationTimestamp")],
        "schema": {"openAPIV3Schema": root},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "inference-broker"}},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def _column(name: str, kind: str, path: str) -> Schema:
    wide = {"priority": 1} if name.startswith("*") else {}
    return {"name": name.removeprefix("*"), "type": kind, **wide, "jsonPath": path}


class _Writer:
    """Types of msgspec into a structural schema."""

    def __init__(self, shown: frozenset[str], *, keeps_unknown: bool) -> None:
        self._shown = shown
        self._keeps_unknown = keeps_unknown

    def schema(self, kind: inspect.Type, path: str, extra: Schema | None = None) -> Schema:
        if isinstance(kind, inspect.Metadata):
            told = kind.extra_json_schema or {}
            written = self.schema(kind.type, path, {**(extra or {}), **(kind.extra or {})})
            described = {"description": _sentence(told["description"])} if "description" in told else {}
            return {**written, **described, **{name: told[name] for name in ("format",) if name in told}}
        if isinstance(kind, inspect.UnionType):
            return self._one_of(kind, path, extra or {})
        if isinstance(kind, inspect.StructType):
            return self._struct(kind, path)
        if isinstance(kind, inspect.VarTupleType):
            return self._list(kind, path, extra or {})
        return _plain(kind, extra or {})

    def _one_of(self, kind: inspect.UnionType, path: str, extra: Schema) -> Schema:
        kinds = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        if len(kinds) == 1:
            return self.schema(kinds[0], path, extra)
        return _number_or_word(kinds)

    def _struct(self, kind: inspect.StructType, path: str) -> Schema:
        part = cast("type[Part]", kind.cls)
        required = [field.encode_name for field in kind.fields if field.required]
        rules = {"x-kubernetes-validations": [_rule(rule) for rule in part.rules]} if part.rules else {}
        return {
            "type": "object",
            "description": getdoc(part),
            **({"required": required} if required else {}),
            **({"x-kubernetes-preserve-unknown-fields": True} if self._keeps_unknown else {}),
            "properties": {field.encode_name: self._field(field, f"{path}.{field.encode_name}") for field in kind.fields},
            **rules,
        }

    def _field(self, field: inspect.Field, path: str) -> Schema:
        written = self.schema(field.type, path)
        default = _default(field)
        if self._keeps_unknown and not field.required:
            written["nullable"] = True
        if self._keeps_unknown:  # who writes a spec wants to know; nobody writes a status
            told = [*_bounds(_bare(field.type)), *([f"Defaults to {default}."] if default is not None else [])]
            written["description"] = " ".join((written["description"], *told))
        if path in self._shown and default is not None:
            written["default"] = field.default
        return written

    def _list(self, kind: inspect.VarTupleType, path: str, extra: Schema) -> Schema:
        key = extra.get("key")
        listed = {"x-kubernetes-list-type": "atomic" if key is None else "map" if key else "set"}
        keys = {"x-kubernetes-list-map-keys": [key]} if key else {}
        bounds = {"minItems": kind.min_length, "maxItems": kind.max_length}
        bounds = {name: bound for name, bound in bounds.items() if bound is not None}
        return {"type": "array", **bounds, **listed, **keys, "items": self.schema(kind.item_type, f"{path}[]")}


def _plain(kind: inspect.Type, extra: Schema) -> Schema:
    match kind:
        case inspect.LiteralType():
            return {"type": "string", "enum": list(kind.values)}
        case inspect.EnumType():
            return {"type": "string", "enum": [member.value for member in kind.cls]}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType():
            return _number(kind)
        case inspect.StrType():
            bounds = {"minLength": kind.min_length, "maxLength": kind.max_length, "pattern": kind.pattern}
            written: Schema = {"type": "string", **{name: bound for name, bound in bounds.items() if bound is not None}}
            return {**written, **_longest(extra)}
        case _:
            raise TypeError(f"no rule to write {kind!r}")


def _number(kind: inspect.IntType) -> Schema:
    wide = kind.le is None or kind.le > INT32
    bounds = {"minimum": kind.ge, "maximum": None if kind.le == INT64 else kind.le}
    return {
        "type": "integer",
        "format": "int64" if wide else "int32",
        **{name: bound for name, bound in bounds.items() if bound is not None},
    }


def _longest(extra: Schema) -> Schema:
    if "longest" not in extra:
        return {}
    rule = f"duration(self) > duration('0s') && duration(self) <= duration('{extra['longest']}')"
    return {"x-kubernetes-validations": [{"rule": rule, "message": f"must be longer than 0s and at most {extra['longest']}"}]}


def _number_or_word(kinds: list[inspect.Type]) -> Schema:
    """A whole number beside words: `429`, `ConnectFailure`."""
    (number,) = (one for one in kinds if isinstance(one, inspect.IntType))
    (words,) = (one for one in kinds if isinstance(one, inspect.LiteralType))
    return {
        "x-kubernetes-int-or-string": True,
        "minimum": number.ge,
        "maximum": number.le,
        "pattern": f"^({'|'.join(str(word) for word in words.values)})$",
    }


def _rule(rule: Rule) -> Schema:
    return {"rule": rule.cel, "message": rule.message, **({"fieldPath": rule.path} if rule.path else {})}


def _bare(kind: inspect.Type) -> inspect.Type:
    """Without the None of an optional field."""
    if isinstance(kind, inspect.UnionType):
        kinds = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        return kinds[0] if len(kinds) == 1 else kind
    return kind


def _bounds(kind: inspect.Type, who: str = "Must") -> Iterator[str]:
    """Patterns and bounds in words: `kubectl explain` shows neither."""
    extra: Schema = {}
    if isinstance(kind, inspect.Metadata):
        extra, kind = kind.extra or {}, kind.type
    match kind:
        case inspect.StrType() if "must" in extra:
            yield f"{who} be {extra['must'].removesuffix('.')}{', at most ' + extra['longest'] if 'longest' in extra else ''}."
        case inspect.IntType() if kind.ge is not None and kind.le is not None and kind.le < INT32:
            yield f"From {kind.ge} to {kind.le}."
        case inspect.IntType() if kind.ge is not None:
            yield f"At least {kind.ge}."
        case inspect.VarTupleType():
            yield f"{f'From {kind.min_length} to' if kind.min_length else 'At most'} {kind.max_length}."
            yield from _bounds(kind.item_type, "Each must")
        case _:
            pass


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _default(field: inspect.Field) -> str | None:
    """As one would write it. An empty list and a mapping of defaults say nothing that their absence does not."""
    value = field.default
    if field.required or value is None or value is msgspec.NODEFAULT or value == ():
        return None
    if isinstance(value, tuple):
        return f"[{', '.join(_written(one) for one in value)}]"
    return _written(value)


def _written(value: object) -> str:
    return '"*"' if value == "*" else str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
