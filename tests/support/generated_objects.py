"""Objects made from the Structs themselves: right ones, and ones that somebody got wrong."""

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import inspect

from broker.names import API_VERSION
from broker.objects.access import AccessSpec, QuotaSpec, Subject
from broker.objects.connections import _NEEDS, _TAKES, Credentials, InlineProvider, ProviderSpec
from broker.objects.reading import Part
from broker.objects.routing import RoutingSpec

Made = dict[str, Any]
KINDS: Mapping[str, type[Part]] = {"AIAccessPolicy": AccessSpec, "AIRoutingPolicy": RoutingSpec, "AIProvider": ProviderSpec}
PLURALS = {"AIAccessPolicy": "aiaccesspolicies", "AIRoutingPolicy": "airoutingpolicies", "AIProvider": "aiproviders"}

_SEGMENTS = st.sampled_from(["ns", "team1", "sa", "a", "A.b_c-d", "...", "..a", ".b"]) | st.sampled_from(["a", ".", "..", ""])
_DURATIONS = st.sampled_from(["1ms", "500ms", "5s", "59900ms100ms", "60s"]) | st.sampled_from(
    ["61s", "60s1ms", "1h", "1h30m", "24h", "0s", "1h1m1h", "99999h", "1s"]
)
_WORDS = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=20)


def value(kind: inspect.Type, extra: Mapping[str, Any] | None = None) -> SearchStrategy[Any]:
    """What a field of this type may hold, with its bounds among it."""
    extra = extra or {}
    if isinstance(kind, inspect.Metadata):
        return value(kind.type, {**extra, **(kind.extra or {})})
    if isinstance(kind, inspect.UnionType):
        return st.one_of([value(one, extra) for one in kind.types if not isinstance(one, inspect.NoneType)])
    if isinstance(kind, inspect.StructType):
        return _SHAPES.get(kind.cls, fields)(kind)
    if isinstance(kind, inspect.VarTupleType):
        key = extra.get("key")
        told_apart = (lambda item: item[key]) if key else (lambda item: item) if key == "" else repr
        return st.lists(value(kind.item_type), min_size=kind.min_length or 0, max_size=min(kind.max_length or 3, 3), unique_by=told_apart)
    return _plain(kind, extra)


def _plain(kind: inspect.Type, extra: Mapping[str, Any]) -> SearchStrategy[Any]:
    match kind:
        case inspect.LiteralType():
            made: SearchStrategy[Any] = st.sampled_from([str(one) for one in kind.values])
        case inspect.EnumType():
            made = st.sampled_from([member.value for member in kind.cls])
        case inspect.BoolType():
            made = st.booleans()
        case inspect.IntType():
            bounds = [one for one in (kind.ge, kind.le) if one is not None]
            made = st.sampled_from(bounds) | st.integers(min_value=kind.ge, max_value=kind.le)
        case inspect.StrType() if "longest" in extra:
            made = _DURATIONS
        case inspect.StrType() if kind.pattern is not None:
            made = st.from_regex(kind.pattern, fullmatch=True).filter(lambda text: len(text) <= (kind.max_length or len(text)))
        case _:
            assert isinstance(kind, inspect.StrType)
            made = _WORDS
    return made


def fields(kind: inspect.StructType, *without: str) -> SearchStrategy[Made]:
    every = {field.encode_name: value(field.type) for field in kind.fields if field.encode_name not in without}
    required = {field.encode_name for field in kind.fields if field.required}
    return st.fixed_dictionaries(
        {name: made for name, made in every.items() if name in required},
        optional={name: made for name, made in every.items() if name not in required},
    )


def _spiffe_id(end: str) -> SearchStrategy[str]:
    domains = st.sampled_from(["example.org", "a", "a" * 255]) | st.sampled_from(["example.org", "EXAMPLE.org", "", "a" * 256])
    paths = st.lists(_SEGMENTS, max_size=4) | st.just(["ns", "team1", "sa", "agent"])
    return st.builds(lambda domain, path: "/".join(["spiffe:/", domain, *path]) + end, domains, paths)


def _subject(kind: inspect.StructType) -> SearchStrategy[Made]:
    account = next(value(field.type) for field in kind.fields if field.encode_name == "serviceAccount")
    return st.one_of(
        st.fixed_dictionaries({"spiffeID": _spiffe_id("")}),
        st.fixed_dictionaries({"spiffeIDPrefix": _spiffe_id("/")}),
        st.fixed_dictionaries({"serviceAccount": account}),
    )


def _quota(kind: inspect.StructType) -> SearchStrategy[Made]:
    """Of one unit, with what belongs to it, most of the time."""
    units = {
        field.encode_name: value(field.type) for field in kind.fields if field.encode_name in ("tokens", "requests", "usd", "concurrent")
    }
    window = next(value(field.type) for field in kind.fields if field.encode_name == "per")
    rest = fields(kind, *units, "per", "tokenCountMode")

    def of(unit: str) -> SearchStrategy[Made]:
        own = st.fixed_dictionaries({unit: units[unit], **({} if unit == "concurrent" else {"per": window})})
        return st.builds(lambda one, two: {**one, **two}, rest, own)

    return st.one_of([of(unit) for unit in units])


def _credentials(kind: inspect.StructType) -> SearchStrategy[Made]:
    every = {field.encode_name: value(field.type) for field in kind.fields}

    def of(name: str) -> SearchStrategy[Made]:
        needed = {"type": st.just(name), **{one: every[one] for one in _NEEDS.get(name, ())}}
        return st.fixed_dictionaries(needed, optional={one: every[one] for one in _TAKES.get(name, ())})

    return st.one_of([of(name) for name in ("None", "APIKey", "Passthrough", "Inline", *_TAKES)])


def _provider(kind: inspect.StructType) -> SearchStrategy[Made]:
    """Whose fields for one schema stand with that schema."""

    def fitting(made: Made) -> Made:
        schema = {"azure": "AzureOpenAI", "vertex": "VertexAI"}
        return made | {"schema": next((schema[one] for one in schema if one in made), made["schema"])}

    return fields(kind, "azure").map(fitting) | fields(kind, "vertex").map(fitting)


def _access(kind: inspect.StructType) -> SearchStrategy[Made]:
    def fitting(made: Made) -> Made:
        if made.get("action") == "Limit":
            made = {name: one for name, one in made.items() if name not in ("features", "maxStreamDuration")}
        if "subjects" in made and made.get("action", "Allow") == "Allow":
            made = {"models": ["*"]} | made
        return made if "mtls" in made or "subjects" in made else made | {"mtls": {"trustDomain": "example.org"}}

    return fields(kind).map(fitting) | fields(kind)


_SHAPES: dict[type, Callable[[inspect.StructType], SearchStrategy[Made]]] = {
    Subject: _subject,
    QuotaSpec: _quota,
    Credentials: _credentials,
    ProviderSpec: _provider,
    InlineProvider: _provider,
    AccessSpec: _access,
}

_INSTEAD = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -1,
        600,
        1.5,
        2**31,
        2**63,
        2**64,
        "",
        "x",
        "*",
        "None",
        "5s",
        "1.0000000",
        "a\n",
        "é",
        "A" * 4097,
        [],
        ["x"],
        {},
        {"x": 1},
    ]
)


def _places(made: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = made.items() if isinstance(made, dict) else enumerate(made) if isinstance(made, list) else ()
    return [path, *(place for name, one in inner for place in _places(one, (*path, name)))]


def _changed(made: Any, path: tuple[str | int, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy, with `change(container, last step)` made at the path."""
    copy: Any = (
        {name: _changed(one, (), change) for name, one in made.items()}
        if isinstance(made, dict)
        else list(made)
        if isinstance(made, list)
        else made
    )
    if len(path) == 1:
        change(copy, path[0])
    elif path:
        copy[path[0]] = _changed(made[path[0]], path[1:], change)
    return copy


@st.composite
def mistaken(draw: st.DrawFn, right: SearchStrategy[Made]) -> Made:
    """One or two slips: a field lost, doubled, misspelt, of another type, out of its bounds."""
    made: Any = draw(right)
    for _ in range(draw(st.integers(1, 2))):
        places = [place for place in _places(made) if place]
        if not places:
            return made
        made = _changed(made, draw(st.sampled_from(places)), draw(_slips()))
    return made


@st.composite
def _slips(draw: st.DrawFn) -> Callable[[Any, Any], None]:
    instead = draw(_INSTEAD)

    def put(inside: Any, step: Any) -> None:
        inside[step] = instead

    def lose(inside: Any, step: Any) -> None:
        del inside[step]

    def double(inside: Any, step: Any) -> None:
        if isinstance(inside, list):
            inside.append(inside[step])
        else:
            inside[f"{step}s"] = inside[step]

    def lengthen(inside: Any, step: Any) -> None:
        one = inside[step]
        inside[step] = (
            f"{one}\n" if isinstance(one, str) else one + 1 if isinstance(one, int) else [*one, *one] if isinstance(one, list) else one
        )

    return draw(st.sampled_from([put, put, lose, double, lengthen]))


def specs(kind: str) -> SearchStrategy[Made]:
    right = value(inspect.type_info(KINDS[kind]))
    return right | mistaken(right)


def whole(kind: str, spec: Any, name: str = "generated", namespace: str = "team1") -> Made:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}
