"""docs/telemetry.md says what is so: every attribute, variable and metric, and no other."""

import re
from pathlib import Path

import pytest

from broker import genai
from broker.otlp import variables, way
from broker.series import Measure
from broker.telemetry import PREFIX

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
NAMES = {value for name, value in vars(genai).items() if name.isupper() and isinstance(value, str)}
SOURCE = Path(variables.__file__).read_text(encoding="utf-8")
ON_THE_WAY = {*re.findall(r'of\(environ, signal, "([A-Z_]+)"\)', SOURCE + Path(way.__file__).read_text(encoding="utf-8")), *way.FILES}
READ = {name.replace("{signal}", signal) for name in re.findall(r'"(OTEL_[A-Z_{}signal]+)"', SOURCE) for signal in ("TRACES", "METRICS")}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_is_documented(name: str) -> None:
    assert f"`{name}`" in DOCUMENT or name == genai.SERVICE_NAME


def test_no_attribute_is_documented_that_is_not_sent() -> None:
    said = set(re.findall(r"`((?:gen_ai|aiaccess|http|server|error)\.[a-z_.]+)`", DOCUMENT))
    assert said <= NAMES


@pytest.mark.parametrize("variable", sorted(READ))
def test_every_variable_that_we_read_is_documented(variable: str) -> None:
    short = variable.replace("OTEL_EXPORTER_OTLP_", "…_") if variable.endswith("_PROTOCOL") else variable
    assert f"`{variable}`" in DOCUMENT or f"`{short}`" in DOCUMENT


@pytest.mark.parametrize("name", sorted(ON_THE_WAY))
def test_every_variable_about_the_way_to_the_collector_is_documented(name: str) -> None:
    assert len(ON_THE_WAY) >= 8
    assert f"`OTEL_EXPORTER_OTLP_{name}`" in DOCUMENT or f"`…_{name}`" in DOCUMENT


def test_what_is_ignored_is_documented_as_such_and_nothing_of_it_is_read() -> None:
    rows = DOCUMENT.partition("| ignored | since |")[2].partition("\n\n")[0]
    first = "".join(row.split("|")[1] for row in rows.splitlines() if row.startswith("| `"))
    assert set(re.findall(r"`(OTEL_[A-Z_]+)`", first)) == set(variables.IGNORED)
    assert not [name for name in variables.IGNORED if SOURCE.count(f'"{name}"') != 1]


@pytest.mark.parametrize("measure", Measure)
def test_the_table_of_metrics_is_the_definition(measure: Measure) -> None:
    ours, theirs, unit, _, meaning = measure.value
    assert f"| `{theirs}` | `{unit}` | `{PREFIX}{ours}` | {meaning} |" in DOCUMENT
