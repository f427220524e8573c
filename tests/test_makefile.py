"""The commands of the repository, on machines where something is missing."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# a python3 that answers the Makefile's three questions: is it there, is it new enough, does it have venv
PYTHON = """#!/bin/sh
case "$2" in
*version_info*) exit {old} ;;
*ensurepip*) exit {bare} ;;
esac
exit 99
"""


def make(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["make", "--no-print-directory", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh one, as far as make can see."""
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def python(folder: Path, *, old: bool, bare: bool) -> str:
    path = folder / "some-python"
    path.write_text(PYTHON.format(old=int(old), bare=int(bare)))
    path.chmod(0o755)
    return f"PYTHON={path}"


def test_make_alone_lists_every_command() -> None:
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert [line.split()[1] for line in make(ROOT).stdout.splitlines()] == targets


@pytest.mark.parametrize("command", ["demo", "test"])
def test_a_machine_without_python_is_told_the_package(checkout: Path, command: str) -> None:
    done = make(checkout, command, "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "apt install python3" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_machine_with_an_old_python_is_told_so(checkout: Path) -> None:
    done = make(checkout, "test", python(checkout, old=True, bare=False))
    assert "older than 3.11" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_machine_without_venv_is_told_the_package(checkout: Path) -> None:
    done = make(checkout, "test", python(checkout, old=False, bare=True))
    assert "apt install python3-venv" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_is_set_up_is_not_set_up_again(checkout: Path) -> None:
    stamp = checkout / ".venv" / ".synced"
    stamp.parent.mkdir()
    stamp.touch()
    assert make(checkout, "--question", ".venv/.synced", "PYTHON=no-such-python").returncode == 0
