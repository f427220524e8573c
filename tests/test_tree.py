"""The house rules, executable: sizes, the mirror of tests, the map, the refusals."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import broker
from broker import errors
from broker.dialects import ROUTES

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for p in (ROOT / "broker").rglob("*.py"))
# files that have no test file of their own, and where they are tested instead
TESTED_ELSEWHERE = {
    "__init__.py": "what it re-exports is tested in its own file",
    "__main__.py": "one line",
    "names.py": "words; whoever uses them tests them",
}


def refusals(root: type[errors.BrokerError] = errors.BrokerError) -> Iterator[type[errors.BrokerError]]:
    for sub in root.__subclasses__():
        yield sub
        yield from refusals(sub)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_longer_than_400_lines_and_no_function_longer_than_60(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


def test_no_room_has_a_name_that_says_nothing():
    nothing = {"utils", "util", "helpers", "helper", "common", "manager", "base", "core", "misc"}
    assert [p for p in SOURCES if nothing & set(p.relative_to(ROOT).with_suffix("").parts)] == []


def test_every_refusal_has_its_own_code_and_a_status():
    codes = [refusal.code for refusal in refusals()]
    assert len(codes) == len(set(codes))
    assert all(400 <= refusal.status < 600 for refusal in refusals())


@pytest.mark.parametrize("dialect", ROUTES.values(), ids=lambda d: d.NAME)
@pytest.mark.parametrize("refusal", list(refusals()), ids=lambda r: r.code)
def test_every_dialect_can_say_every_refusal(dialect, refusal):
    said = refusal("because of this")
    assert b"because of this" in dialect.error(said, "x1")
    assert dialect.error_event(said, "x1").endswith(b"\n\n")


def test_the_map_names_only_rooms_that_exist():
    rooms = re.findall(r"\b([a-z_0-9]+(?:\.py|/))", broker.__doc__ or "")
    assert len(rooms) >= 20
    assert [room for room in rooms if not (ROOT / "broker" / room).exists()] == []
