"""The house rules, executable: sizes, the mirror of tests, the map, the refusals."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import broker
import webhook
from broker import errors
from broker.dialects import ROUTES

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for package in ("broker", "webhook") for p in (ROOT / package).rglob("*.py"))
# rooms without a test file of their own name, and where they are tested instead; a folder stands for all that is in it
TESTED_IN = {
    "__main__.py": "tests/broker/test_cli.py",
    "adjustment.py": "tests/broker/ledger/test_adjusting.py",
    "chat.py": "tests/broker/test_quota.py",
    "controller": "tests/broker/controller",
    "credentials.py": "tests/broker/test_upstream.py",
    "dev.py": "tests/doors/test_refusals.py",
    "dialects": "tests/broker/dialects",
    "doctor": "tests/broker/doctor",
    "errors.py": "tests/test_tree.py",
    "exchange.py": "tests/broker/test_pipeline.py",
    "figures.py": "tests/doors/test_sealing_keys_of_a_broker.py",
    "grant.py": "tests/broker/test_policy.py",
    "house.py": "tests/broker/test_pipeline.py",
    "http1": "tests/broker/http1",
    "ids": "tests/broker/ids",
    "judges": "tests/broker/dialects",
    "kube": "tests/broker/kube",
    "ledger": "tests/broker/ledger",
    "model_list.py": "tests/doors/test_refusals.py",
    "names.py": "tests/test_docs.py",
    "objects": "tests/broker/test_objects.py",
    "otlp": "tests/broker/otlp",
    "plugin": "tests/broker/plugin",
    "policy": "tests/broker/test_policy.py",
    "providers": "tests/broker/providers",
    "sealing": "tests/broker/sealing",
    "sdk_env.py": "tests/examples/test_quickstart_demo.py",
    "server.py": "tests/doors/test_refusals.py",
    "usage": "tests/broker/usage",
    "wording": "tests/broker/dialects",
    "wiring.py": "tests/live/test_quota_live.py",
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


def test_every_room_has_its_tests_and_one_knows_where():
    own = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "broker").glob("test_*.py")}
    rooms = {path.name for path in (ROOT / "broker").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    without = {room for room in rooms if room.removesuffix(".py") not in own and room != "__init__.py"}
    assert without - set(TESTED_IN) == set()
    assert [room for room in TESTED_IN if room not in rooms] == []
    assert [place for place in TESTED_IN.values() if not (ROOT / place).exists()] == []


def test_every_room_of_the_webhook_has_its_tests_too():
    own = {path.stem.removeprefix("test_webhook_") for path in (ROOT / "tests" / "webhook").glob("test_webhook_*.py")}
    rooms = {path.stem for path in (ROOT / "webhook").glob("*.py")} - {"__init__"}
    assert rooms - own == {"__main__", "pod"}  # in test_webhook_main.py, and wherever a Pod is read
    assert [room for room in re.findall(r"\b([a-z_]+)\.py", webhook.__doc__ or "") if room not in rooms] == []


def test_no_two_files_of_tests_have_the_same_name():
    """They are no packages, so pytest would take one for the other."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py") if "node_modules" not in path.parts)
    assert [name for name, times in names.items() if times > 1] == []


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


def maps_of_folders() -> Iterator[tuple[str, set[str], set[str]]]:
    """Folders whose docstring lists files: what it lists, and what there is."""
    for path in SOURCES:
        listed = set(re.findall(r"(?<![/\w])([a-z_0-9]+\.py)\b", ast.get_docstring(ast.parse(path.read_text())) or ""))
        if path.name == "__init__.py" and path.parent.name != "broker" and listed:
            yield str(path.parent.relative_to(ROOT)), listed, {p.name for p in path.parent.glob("*.py") if not p.name.startswith("__")}


@pytest.mark.parametrize(("folder", "listed", "there"), list(maps_of_folders()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_folder_that_lists_its_files_lists_all_of_them(folder: str, listed: set[str], there: set[str]):
    assert there - listed == set(), f"add them to the docstring of {folder}/__init__.py"


def test_the_map_names_every_room_and_only_those_that_exist():
    rooms = re.findall(r"\b([a-z_0-9]+(?:\.py|/))", broker.__doc__ or "")
    assert len(rooms) >= 20
    assert [room for room in rooms if not (ROOT / "broker" / room).exists()] == []
    there = {path.name if path.suffix else f"{path.name}/" for path in (ROOT / "broker").iterdir() if not path.name.startswith((".", "__"))}
    assert there - {*rooms, "py.typed"} == set(), "add them to the docstring of broker/__init__.py"
