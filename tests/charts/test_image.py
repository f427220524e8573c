"""The image: what a linter says of the Dockerfile, and what the chart and the lock file rely on. Nothing here builds it."""

import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from support.chart import LEAST, container, one, pods, render

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
BUILD, RUNS = re.split(r"^FROM .*\n", TEXT, flags=re.MULTILINE)[1:]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAMS = Path(sys.executable).parent


def lines(stage: str, instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.*)$", stage, re.MULTILINE)


def test_the_linter_finds_nothing():
    done = subprocess.run([PROGRAMS / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_runs_as_the_user_that_the_chart_says_and_needs_no_shell():
    (user,) = lines(RUNS, "USER")
    for _, spec in pods(render(LEAST)):
        assert user == f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
    (entry,) = lines(RUNS, "ENTRYPOINT")
    assert json.loads(entry) == ["broker"]
    assert lines(RUNS, "RUN") == lines(RUNS, "CMD") == []


def test_what_the_chart_starts_is_in_it():
    objects = render(LEAST)
    commands = {container(objects, made["metadata"]["name"])["command"][0] for made in objects if made["kind"] == "Deployment"}
    assert commands == {"broker", "python"}
    assert "broker" in PROJECT["scripts"]
    assert "PATH=/app/bin:" in " ".join(lines(RUNS, "ENV"))
    assert lines(BUILD, "ENV")[0].endswith("UV_PROJECT_ENVIRONMENT=/app")


def test_it_is_built_by_the_uv_that_wrote_the_lock_file_and_from_that_file_alone():
    (version,) = re.findall(r"uv==([\d.]+)", BUILD)
    assert f"UV_VERSION := {version}\n" in (ROOT / "Makefile").read_text()
    assert len(re.findall(r"uv sync --frozen --no-default-groups", BUILD)) == BUILD.count("uv sync")


def test_all_that_is_copied_is_there_and_let_in_and_nothing_else_is():
    copied = [word for line in lines(BUILD, "COPY") for word in line.split()[:-1]]
    first, *let_in = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    assert {pattern.removeprefix("!") for pattern in let_in if pattern.startswith("!")} == set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert any(fnmatch("broker/__pycache__", pattern) for pattern in let_in)


def test_the_bill_of_materials_has_what_runs_and_no_tool(tmp_path: Path):
    """As the Dockerfile writes it."""
    (words,) = re.findall(r"uv export (.*) --output-file", BUILD)
    bill = tmp_path / "sbom.cdx.json"
    subprocess.run(
        [PROGRAMS / "uv", "export", *words.split(), "--output-file", bill], cwd=ROOT, check=True, timeout=60, capture_output=True
    )
    told = json.loads(bill.read_text())
    assert told["bomFormat"] == "CycloneDX"
    there = {made["name"] for made in told["components"]}
    needed = {re.split(r"[<>=]", line)[0] for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["counting"])}
    assert needed <= there
    assert there.isdisjoint({"pytest", "ruff", "openai", "helm-python-sdk"})
    assert [made["name"] for made in told["components"] if not made["purl"].endswith(f"@{made['version']}")] == []


def test_the_labels_say_what_the_chart_says():
    chart = one(render(LEAST), "Deployment")["metadata"]["labels"]
    assert f'org.opencontainers.image.title="{chart["app.kubernetes.io/name"]}"' in TEXT
    assert chart["app.kubernetes.io/version"] == PROJECT["version"]
