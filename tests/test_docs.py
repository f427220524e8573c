"""What the documents say is so: switches, tests and files that they name exist."""

import ast
import functools
import re
from pathlib import Path

import pytest
import yaml

from broker import audit, config, errors, telemetry

ROOT = Path(__file__).parent.parent
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])


@functools.cache
def written_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_")}


def named_tests(text: str) -> list[tuple[str, str]]:
    """`tests/file.py::test_name`, and `::test_other` of the same file after it."""
    found, file = [], ""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`", text):
        file = path or file
        if path or name:
            found.append((file, name))
    return found


def row(switch: config.Switch) -> str:
    also = "".join(f", `{alias}`" for alias in switch.aliases)
    required = switch.default is None and not switch.optional and not switch.many
    default = "required" if required else f"`{switch.default}`" if switch.default else "none"
    flag = f"{switch.flag} {switch.metavar}".replace("|", "\\|")
    return f"| `{flag}` | `{switch.variable}`{also} | {default} | {switch.help} |"


@pytest.mark.parametrize(("file", "name"), named_tests(SECURITY), ids=lambda part: part or "whole file")
def test_every_test_that_the_threat_model_names_exists(file: str, name: str) -> None:
    assert (ROOT / file).is_file()
    assert not name or name in written_in(ROOT / file)


def test_every_promise_of_the_threat_model_names_a_test() -> None:
    promises = [line for line in SECURITY.splitlines() if re.match(r"\| [STRIDE] \|", line)]
    assert promises
    assert [line for line in promises if "tests/" not in line and "::test_" not in line] == []


@pytest.mark.parametrize("command", ["SERVE", "GATEWAY", "CONTROLLER", "DEV"])
def test_every_switch_is_documented_as_it_is(command: str) -> None:
    heading = f"## broker {command.lower()}\n"
    section = COMMANDS.partition(heading)[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `--")]
    assert [line for line in rows if "--print-env" not in line] == [row(switch) for switch in getattr(config, command)]


def test_every_refusal_is_documented_with_its_status() -> None:
    kinds = {kind.code: kind.status for kind in errors.BrokerError.__subclasses__()}
    documented = {code: int(status) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", COMMANDS, re.MULTILINE)}
    assert documented == kinds


@pytest.mark.parametrize("figure", telemetry.Figure)
def test_every_metric_is_documented(figure: telemetry.Figure) -> None:
    name, kind, _ = figure.value
    assert f"`{telemetry.PREFIX}{name}{'_total' if kind == 'counter' else ''}`" in COMMANDS


@pytest.mark.parametrize("field", audit.Line.__struct_fields__)
def test_every_field_of_an_audit_line_is_documented(field: str) -> None:
    assert f"`{field}`" in COMMANDS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_room_where_to_read_on_is_there() -> None:
    assert (ROOT / "broker" / "pipeline.py").is_file()


def test_the_columns_that_kubectl_shows_in_readme_are_those_of_the_crd() -> None:
    crd = yaml.safe_load((ROOT / "charts" / "inference-broker" / "crds" / "aiaccesspolicies.yaml").read_text(encoding="utf-8"))
    columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
    usual = [column["name"].upper() for column in columns if not column.get("priority")]
    shown = (ROOT / "README.md").read_text(encoding="utf-8").partition("$ kubectl get aiaccesspolicy -A\n")[2].splitlines()[0]
    assert shown.split() == ["NAMESPACE", "NAME", *usual, *([] if "AGE" in usual else ["AGE"])]


SOURCES = sorted(path for folder in ("broker", "webhook", "bench", "charts") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_document_that_the_code_refers_to_exists(path):
    named = set(re.findall(r"(?<![\w/])((?:docs/)?[A-Za-z-]+\.md)\b", path.read_text()))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
