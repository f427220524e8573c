"""What somebody wrote, against our Structs: a typed value, and every fault at once, each with its path.

msgspec.convert stops at the first fault; whoever writes an object by hand wants all of them. The Structs' own types and
Meta are the only source of the rules, so that a CRD's schema, made from the same Structs, says the same.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Final, NamedTuple, TypeVar, cast

import msgspec
from msgspec import inspect

from broker.names import API_VERSION
from broker.objects.duration import seconds

Told = Iterator[tuple[str, str]]  # (path within the value, what to do about it)


class Rule(NamedTuple):
    """What `misshapen` and `mistaken` say, once more in CEL, for the API server. `path` is the field to blame, as `.name`."""

    cel: str
    message: str
    path: str = ""


def exactly_one(verb: str, *names: str) -> Rule:
    given = ", ".join(f"has(self.{name})" for name in names)
    return Rule(f"[{given}].exists_one(given, given)", f"{verb} exactly one of {', '.join(names)}")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A piece of an object. What the types cannot say, it says itself.

    Meta.extra understood here, beside msgspec's own bounds: `must` (the pattern in words), `key` (the field by which list
    items are told apart; "" = the items themselves), `longest` (of a duration, e.g. "24h").
    """

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def misshapen(cls, raw: Mapping[str, object]) -> Told:  # noqa: ARG003  for those that override it
        """Which fields may stand together. Judged on what was written, even when a field of it cannot be read."""
        yield from ()

    def mistaken(self) -> Told:
        """What is wrong between values that could all be read."""
        yield from ()


class Unreadable:
    """Stands where the source could not read a value, and has said so already."""


UNREADABLE: Final = Unreadable()


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an object, where, and what to do. `reason` is one of those of the condition Accepted."""

    path: str
    message: str
    reason: str = "InvalidSpec"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def as_mapping(raw: object) -> Mapping[str, object] | None:
    """Fields by name. Every source gives names as text."""
    return cast("dict[str, object]", raw) if isinstance(raw, dict) else None


def as_list(raw: object) -> list[object] | None:
    return cast("list[object]", raw) if isinstance(raw, list) else None


class _Broken:
    """The value could not be read; the faults say why."""


_BROKEN: Final = _Broken()
_NOTHING: Final[Mapping[str, object]] = {}
# Whoever may write an object decides how much is wrong with it: beyond this, what else is wrong is not worth anybody's time.
FAULTS: Final = 500
_HINTED: Final = 64  # a longer word is no slip of one of ours
_SHOWN: Final = 200
Extra = Mapping[str, object]  # Meta.extra
_PartT = TypeVar("_PartT", bound=Part)


def read(kind: type[_PartT], raw: object, path: str) -> tuple[_PartT | None, tuple[Fault, ...]]:
    """Read a value as this Struct. None when a field cannot be read; with faults beside it, it must not be acted upon either."""
    reader = _Reader([])
    value = reader.value(_type_of(kind), raw, path)
    return (value if isinstance(value, kind) else None), tuple(reader.faults)


@cache
def _type_of(kind: type[Part]) -> inspect.Type:
    return inspect.type_info(kind)


@dataclass(frozen=True, slots=True)
class _Reader:
    faults: list[Fault]

    def value(self, kind: inspect.Type, raw: object, path: str, extra: Extra = _NOTHING) -> object:
        if isinstance(raw, Unreadable):
            return _BROKEN
        if isinstance(kind, inspect.Metadata):
            return self.value(kind.type, raw, path, as_mapping(kind.extra) or _NOTHING)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  a bare dict to msgspec
        if isinstance(kind, inspect.UnionType):
            return self._one_of(kind, raw, path, extra)
        if isinstance(kind, inspect.StructType):
            return self._struct(kind, raw, path)
        if isinstance(kind, inspect.VarTupleType):
            return self._list(kind, raw, path, extra)
        return self._plain(kind, raw, path, extra)

    def _plain(self, kind: inspect.Type, raw: object, path: str, extra: Extra) -> object:
        match kind:
            case inspect.LiteralType():
                value: object = self._choice(tuple(str(value) for value in kind.values), raw, path)
            case inspect.EnumType():
                chosen = self._choice(tuple(member.value for member in kind.cls), raw, path)
                value = chosen if chosen is _BROKEN else kind.cls(chosen)
            case inspect.StrType():
                value = self._text(kind, raw, path, extra)
            case inspect.IntType():
                value = self._number(kind, raw, path)
            case inspect.BoolType():
                value = raw if isinstance(raw, bool) else self._fault(path, f"must be true or false, not {_what(raw)}")
            case _:
                raise TypeError(f"{path}: no rule to read {kind!r}")
        return value

    def _fault(self, path: str, message: str, reason: str = "InvalidSpec") -> object:
        if len(self.faults) < FAULTS:
            self.faults.append(Fault(path, message, reason))
        return _BROKEN

    def _one_of(self, kind: inspect.UnionType, raw: object, path: str, extra: Extra) -> object:
        """An optional value, or a whole number beside words."""
        kinds = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        if len(kinds) == 1:
            return self.value(kinds[0], raw, path, extra)
        numeric = isinstance(raw, int)
        for one in kinds:
            if isinstance(one.type if isinstance(one, inspect.Metadata) else one, inspect.IntType) == numeric:
                return self.value(one, raw, path, extra)
        raise TypeError(f"{path}: no rule to read {kind!r}")

    def _choice(self, values: tuple[str, ...], raw: object, path: str) -> object:
        if isinstance(raw, str) and raw in values:
            return raw
        near = _near(raw, values) if isinstance(raw, str) else []
        return self._fault(path, f"must be one of {', '.join(values)}{f'; did you mean {near[0]}?' if near else ''}")

    def _text(self, kind: inspect.StrType, raw: object, path: str, extra: Extra) -> object:
        if not isinstance(raw, str):
            hint = ": put it in quotes" if isinstance(raw, (int, float)) else ""
            return self._fault(path, f"must be text, not {_what(raw)}{hint}")
        wrong = _wrong_text(kind, raw, extra)
        return raw if wrong is None else self._fault(path, wrong)

    def _number(self, kind: inspect.IntType, raw: object, path: str) -> object:
        if isinstance(raw, bool) or not isinstance(raw, int):
            return self._fault(path, f"must be a whole number, not {_what(raw)}")
        if kind.ge is not None and raw < kind.ge:
            return self._fault(path, f"must be at least {kind.ge}")
        if kind.le is not None and raw > kind.le:
            return self._fault(path, f"must be at most {kind.le}")
        return raw

    def _list(self, kind: inspect.VarTupleType, raw: object, path: str, extra: Extra) -> object:
        items = as_list(raw)
        if items is None:
            return self._fault(path, f"must be a list, not {_what(raw)}")
        if len(items) < (kind.min_length or 0):
            return self._fault(path, f"must have at least {kind.min_length} entry; leave the field out where it may be absent")
        if kind.max_length is not None and len(items) > kind.max_length:
            return self._fault(path, f"has {len(items)} entries; at most {kind.max_length} are allowed")
        read = [self.value(kind.item_type, item, f"{path}[{index}]") for index, item in enumerate(items)]
        broken = any(value is _BROKEN for value in read)
        if isinstance(key := extra.get("key"), str):
            broken |= self._repeats(items, key, path)
        return _BROKEN if broken else tuple(read)

    def _repeats(self, items: list[object], key: str, path: str) -> bool:
        seen: dict[str, int] = {}
        repeated = False
        for index, item in enumerate(items):
            value = (as_mapping(item) or _NOTHING).get(key) if key else item
            if not isinstance(value, str):
                continue
            first = seen.setdefault(value, index)
            if first != index:
                repeated = True
                place = f"{path}[{index}].{key}" if key else f"{path}[{index}]"
                self._fault(place, f"{shown(value)!r} is already at {path}[{first}]; leave one of the two out")
        return repeated

    def _struct(self, kind: inspect.StructType, raw: object, path: str) -> object:
        fields = as_mapping(raw)
        if fields is None:
            return self._fault(path, f"must be a mapping of fields, not {_what(raw)}")
        part = kind.cls
        assert issubclass(part, Part)  # noqa: S101  the Structs of these objects are Parts, all of them
        self._unknown(fields, [field.encode_name for field in kind.fields], path)
        values: dict[str, object] = {}
        broken = False
        for field in kind.fields:
            where = _join(path, field.encode_name)
            if field.encode_name in fields:
                values[field.name] = self.value(field.type, fields[field.encode_name], where)
                broken |= values[field.name] is _BROKEN
            elif field.required:
                self._fault(where, f"is required{_described(field.type)}")
                broken = True
        for within, message in part.misshapen(fields):
            self._fault(_join(path, within), message)
            broken = True
        if broken:
            return _BROKEN
        built = part(**values)
        for within, message in built.mistaken():
            self._fault(_join(path, within), message)
        return built

    def _unknown(self, fields: Mapping[str, object], known: list[str], path: str) -> None:
        for name in fields:
            if name not in known and len(self.faults) < FAULTS:
                near = _near(name, known)
                hint = f"did you mean {near[0]}?" if near else f"the fields here are {', '.join(known)}"
                self._fault(_join(path, shown(name)), f"is not a field of {API_VERSION}; {hint}", "UnknownField")


def shown(text: str) -> str:
    """Somebody's own word within a fault: each fault is logged, by every broker, and a word may have a megabyte."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _near(text: str, words: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(text, words, 1) if len(text) <= _HINTED else []


def _wrong_text(kind: inspect.StrType, text: str, extra: Extra) -> str | None:
    wrong: str | None = None
    longest = extra.get("longest")
    if len(text) < (kind.min_length or 0):
        wrong = "must not be empty"
    elif kind.max_length is not None and len(text) > kind.max_length:
        wrong = f"has {len(text)} characters; at most {kind.max_length} are allowed"
    elif kind.pattern is not None and not re.fullmatch(kind.pattern, text):  # fullmatch: `$` alone lets a final newline pass
        wrong = f"must be {extra.get('must', kind.pattern)}"
    elif isinstance(longest, str) and not 0 < seconds(text) <= seconds(longest):
        wrong = f"must be longer than 0s and at most {longest}"
    return wrong


def _join(path: str, within: str) -> str:
    if not within:
        return path
    return f"{path}.{within}" if path else within


def _what(raw: object) -> str:
    """The kind of what was written; never the value, which may be a secret in a wrong place."""
    names: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return "null" if raw is None else names.get(type(raw), "that")


def _described(kind: inspect.Type) -> str:
    if not isinstance(kind, inspect.Metadata):
        return ""
    told = as_mapping(kind.extra_json_schema)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  as above
    return f": {told['description']}" if told and "description" in told else ""
