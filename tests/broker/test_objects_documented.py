"""docs/objects.md says every field, its default and its bounds, and no field that is not there; its examples are accepted."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect
from support.worlds import documents

from broker.objects.access import AccessSpec
from broker.objects.reading import Part
from broker.objects.routing import RoutingSpec
from broker.objects.words import INT32, INT64

TEXT = (Path(__file__).parents[2] / "docs" / "objects.md").read_text()
KINDS: dict[str, type[Part]] = {"AIAccessPolicy": AccessSpec, "AIRoutingPolicy": RoutingSpec}


def plain(kind: inspect.Type) -> inspect.Type:
    """The type without Meta and None."""
    if isinstance(kind, inspect.Metadata):
        return plain(kind.type)
    if isinstance(kind, inspect.UnionType):
        kinds = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        return plain(kinds[0]) if len(kinds) == 1 else kind
    return kind


def structs(kind: inspect.Type, path: str) -> Iterator[tuple[str, inspect.StructType]]:
    kind = plain(kind)
    if isinstance(kind, inspect.VarTupleType):
        yield from structs(kind.item_type, f"{path}[]")
    elif isinstance(kind, inspect.StructType):
        yield path, kind
        for field in kind.fields:
            yield from structs(field.type, f"{path}.{field.encode_name}")


def sections(kind: str) -> dict[str, dict[str, list[str]]]:
    """Path → field → the cells of its row."""
    (chapter,) = re.findall(rf"^## {kind}\n(.*?)(?=^## )", TEXT, re.DOTALL | re.MULTILINE)
    found: dict[str, dict[str, list[str]]] = {}
    for heading, body in re.findall(r"^### (.*?)\n(.*?)(?=^### |\Z)", chapter, re.DOTALL | re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines() if line.startswith("| `")]
        for path in re.findall(r"`([^`]+)`", heading):
            found[path] = {row[0].strip("`| "): row for row in rows}
    return found


def default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "none"
    if isinstance(value, msgspec.Struct):
        return "`{type: None}`" if field.name == "credentials" else "its defaults"
    if isinstance(value, tuple):
        return f"`[{', '.join(chr(34) + one + chr(34) if one == '*' else str(one) for one in value)}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def bounds(kind: inspect.Type) -> Iterator[int]:
    """The numbers that the row must name; those of a label or a name are said once, above the tables."""
    kind = plain(kind)
    if isinstance(kind, inspect.VarTupleType):
        yield from (bound for bound in (kind.min_length, kind.max_length) if bound is not None)
    elif isinstance(kind, inspect.IntType):
        yield from (bound for bound in (kind.ge, kind.le) if bound is not None and bound not in (INT32, INT64))


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_documented_and_every_documented_field_is_there(kind: str):
    written = sections(kind)
    there = dict(structs(inspect.type_info(KINDS[kind]), "spec"))
    assert set(written) == set(there)
    for path, struct in there.items():
        assert set(written[path]) == {field.encode_name for field in struct.fields}, path


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_bounds_meanings_and_examples_are_those_of_the_types(kind: str):
    written = sections(kind)
    for path, struct in structs(inspect.type_info(KINDS[kind]), "spec"):
        for field in struct.fields:
            row = written[path][field.encode_name]
            where = f"{path}.{field.encode_name}"
            assert len(row) == 5, where
            assert row[2] == default(field), where
            assert row[3], where
            assert row[4].strip("` |"), where
            missing = [bound for bound in bounds(field.type) if str(bound) not in row[1]]
            assert not missing, where
            kind_of = plain(field.type)
            if isinstance(kind_of, inspect.LiteralType):
                assert sorted(row[1].split(", ")) == sorted(kind_of.values), where


@pytest.mark.parametrize("example", re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
def test_the_examples_are_accepted(example: str):
    (document,) = documents(example, environment={"OPENAI_API_KEY": "sk-1"})
    assert document.about.faults == ()


def test_every_field_describes_itself():
    for kind in KINDS.values():
        for path, struct in structs(inspect.type_info(kind), "spec"):
            for field in struct.fields:
                found = [
                    one for one in flat(field.type) if isinstance(one, inspect.Metadata) and "description" in (one.extra_json_schema or {})
                ]
                assert found, f"{path}.{field.encode_name}"


def flat(kind: inspect.Type) -> Iterator[inspect.Type]:
    yield kind
    if isinstance(kind, inspect.Metadata):
        yield from flat(kind.type)
    if isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from flat(one)
