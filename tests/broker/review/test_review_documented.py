"""docs/review.md: its commands are run on its objects, and print what it says."""

import re
import shlex
from pathlib import Path

import pytest

from broker import cli

TEXT = (Path(__file__).parents[3] / "docs" / "review.md").read_text()
COMMANDS = re.findall(r"^```console\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def edited(text: str, edit: str) -> str:
    old, new = edit.strip().split(" -> ")
    assert old in text
    return text.replace(old, new)


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for head, body in re.findall(r"^```yaml (.*?)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        name, _, source = head.partition(" from ")
        tmp_path.joinpath(name).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(name).write_text(edited(tmp_path.joinpath(source).read_text(), body) if source else body)
    monkeypatch.chdir(tmp_path)


def test_there_is_an_example_of_each_command():
    assert [re.findall(r"^\$ broker (\S+)", block) for block in COMMANDS] == [["explain"], ["who-can"], ["who-can"], ["diff"]]


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.split()[2])
@pytest.mark.usefixtures("objects")
def test_each_command_prints_what_the_document_says(block: str, capsys: pytest.CaptureFixture[str]):
    command, _, output = block.removeprefix("$ broker ").partition("\n")
    output, _, code = output.partition("$ echo $?\n")
    assert cli.main(shlex.split(command)) == int(code or 0)
    assert capsys.readouterr().out == output
