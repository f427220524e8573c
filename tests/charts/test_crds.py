"""The CustomResourceDefinitions: made from the Structs, structural, bounded, readable; and they refuse nothing that the broker takes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_schema_validator import OAS30Validator
from support.generated_objects import KINDS, PLURALS, specs, whole

from broker.objects import Stray, read_document
from broker.objects.reading import Part

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "charts" / "inference-broker" / "crds"
EXAMPLES = sorted([*ROOT.glob("tests/golden/kagenti/*.yaml"), *ROOT.glob("examples/**/*.yaml")])
CRDS: dict[str, Any] = {kind: yaml.safe_load((FOLDER / f"{plural}.yaml").read_text()) for kind, plural in PLURALS.items()}
NEWEST = sorted(set(kubernetes_validate.utils.all_versions()), key=lambda version: int(version.split(".")[1]))[-3:]
# what the words of structural schemas leave out (apiextensions/v1, "Specifying a structural schema")
FORBIDDEN = {"$ref", "$defs", "definitions", "deprecated", "discriminator", "id", "patternProperties", "readOnly", "writeOnly", "xml"} | {
    *("const", "title", "uniqueItems", "oneOf", "anyOf", "allOf", "not", "additionalProperties")
}


def root(kind: str) -> dict[str, Any]:
    (version,) = CRDS[kind]["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def levels(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from levels(child, f"{path}.{name}")
    if "items" in schema:
        yield from levels(schema["items"], f"{path}[]")


def ours(kind: str, *parts: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in parts:
        yield from levels(root(kind)["properties"][part], f".{part}")


def columns(kind: str, *, wide: bool) -> list[str]:
    (version,) = CRDS[kind]["spec"]["versions"]
    return [one["name"].upper() for one in version["additionalPrinterColumns"] if wide or not one.get("priority")]


def test_the_files_are_those_that_the_structs_make(tmp_path: Path):
    subprocess.run([sys.executable, ROOT / "charts" / "crds.py", tmp_path], check=True, timeout=60)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert {file.name: file.read_text() for file in FOLDER.iterdir()} == made, "run `make crds`"


@pytest.mark.parametrize("version", NEWEST)
@pytest.mark.parametrize("kind", KINDS)
def test_kubernetes_knows_every_word_of_them(kind: str, version: str):
    kubernetes_validate.validate(CRDS[kind], version, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_their_schemas_are_structural(kind: str):
    assert [path for path, schema in levels(root(kind)) if FORBIDDEN & set(schema)] == []
    assert [path for path, schema in levels(root(kind)) if "type" not in schema and "x-kubernetes-int-or-string" not in schema] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_and_every_list_is_bounded_so_that_rules_have_a_cost(kind: str):
    for path, schema in ours(kind, "spec", "status"):
        if schema.get("type") == "string":
            assert {"maxLength", "enum", "format"} & set(schema), path
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
            assert "x-kubernetes-list-type" in schema, path


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_explains_itself_in_a_sentence(kind: str):
    for path, schema in ours(kind, "spec", "status"):
        if not path.endswith("[]"):
            assert schema.get("description", "").endswith("."), path
            assert schema["description"][0].isupper(), path


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_somebody_wrote_is_pruned_before_it_is_refused(kind: str):
    kept = {
        path: schema.get("x-kubernetes-preserve-unknown-fields") for path, schema in ours(kind, "spec") if schema.get("type") == "object"
    }
    assert set(kept.values()) == {True}
    assert root(kind)["x-kubernetes-preserve-unknown-fields"] is True
    assert [path for path, schema in ours(kind, "status") if "x-kubernetes-preserve-unknown-fields" in schema] == []


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_a_column_shows_is_filled_in(kind: str):
    assert {path for path, schema in levels(root(kind)) if "default" in schema} <= {".spec.action", ".spec.mode", ".spec.credentials.type"}


def test_kubectl_shows_who_may_call_what_and_how_much_they_did():
    shown = ["SUBJECTS", "MODELS", "PROGRAMMED", "IDENTITIES", "TOKENS-24H", "DENIED-24H", "LAST-USED", "AGE"]
    assert columns("AIAccessPolicy", wide=False) == shown
    assert {"ACTION", "MODE", "USD-24H", "REQUESTS-24H", "ACCEPTED"} <= set(columns("AIAccessPolicy", wide=True))
    assert columns("AIRoutingPolicy", wide=False) == ["MODELS", "ACCEPTED", "PROVIDERS", "ROUTING", "PROGRAMMED", "AGE"]
    assert columns("AIProvider", wide=False) == ["SCHEMA", "CREDENTIALS", "ACCEPTED", "READY", "AGE"]


def test_columns_show_fields_that_are_there():
    for kind in KINDS:
        (version,) = CRDS[kind]["spec"]["versions"]
        there = {path for path, _ in ours(kind, "spec", "status")} | {".metadata.creationTimestamp"}
        paths = [one["jsonPath"].replace('[?(@.type=="', "[]|").partition("|") for one in version["additionalPrinterColumns"]]
        assert [before + after.partition('")]')[2] for before, _, after in paths if before + after.partition('")]')[2] not in there] == []


def test_each_kind_has_a_short_name_and_is_of_the_category_ai():
    names = {kind: CRDS[kind]["spec"]["names"] for kind in KINDS}
    assert {kind: one["shortNames"] for kind, one in names.items()} == {
        "AIAccessPolicy": ["aap"],
        "AIRoutingPolicy": ["arp"],
        "AIProvider": ["aiprov"],
    }
    assert {tuple(one["categories"]) for one in names.values()} == {("ai",)}
    assert {crd["spec"]["versions"][0]["subresources"].keys() == {"status"} for crd in CRDS.values()} == {True}


def parts(kind: type[Part] = Part) -> Iterator[type[Part]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from parts(sub)


def test_what_a_struct_checks_beyond_its_types_it_also_says_to_the_api_server():
    checked = {part for part in parts() if {"misshapen", "mistaken"} & set(vars(part))}
    assert checked
    assert [part for part in checked if not part.rules] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_blames_a_field_that_is_there(kind: str):
    for path, schema in ours(kind, "spec"):
        blamed = {rule["fieldPath"].removeprefix(".") for rule in schema.get("x-kubernetes-validations", []) if "fieldPath" in rule}
        assert blamed <= set(schema.get("properties", {})), path


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_schema_refuses_nothing_that_the_broker_accepts(kind: str, data: st.DataObject):
    made = whole(kind, data.draw(specs(kind)))
    read = read_document(made)
    refused = [error.message for error in OAS30Validator(root(kind)).iter_errors(made)]
    assert isinstance(read, Stray) or read.about.faults or refused == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_fit_the_schemas(example: Path):
    found = [one for one in yaml.safe_load_all(example.read_text()) if one and one.get("kind") in KINDS]
    assert [error.message for one in found for error in OAS30Validator(root(one["kind"])).iter_errors(one)] == []
