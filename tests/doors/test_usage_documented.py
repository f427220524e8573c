"""Every example of docs/usage.md is run, and says what is written there."""

import asyncio
import os
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from support.spiffe_ca import SpiffeCa, trusting
from support.usage_world import OTHER, POLICY, usage_world
from support.worlds import AGENT

from broker import cli
from broker.adjustment import Adjusted
from broker.admin_door import AdminDoor, Doors
from broker.audit import Expired, Line
from broker.usage.chargeback import Group, Sums
from broker.usage.command import SWITCHES

COMMANDS = (Path(__file__).parent.parent.parent / "docs" / "commands.md").read_text(encoding="utf-8")
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "usage.md"
BROKER = "spiffe://example.org/ns/inference-broker/sa/broker"
NOON = datetime(2026, 11, 17, 12, tzinfo=UTC)


def examples(text: str) -> list[tuple[str, str]]:
    """Each command with what it prints, in order."""
    blocks = "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
    return [(command, said) for command, said in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", blocks, re.MULTILINE)]


def write_audit(file: Path) -> None:
    known = {"exchange": "x", "code": "answered", "status": 200, "decision": "allowed", "namespace": "team1", "model": "gpt"}
    lines = [
        Line(time=NOON.replace(day=16), spiffe_id=AGENT, input_tokens=900, output_tokens=100, cost_microusd=3_250, **known),
        Line(time=NOON, spiffe_id=AGENT, input_tokens=300, output_tokens=100, cached_tokens=200, cost_microusd=1_750, **known),
        Line(time=NOON, spiffe_id=OTHER, input_tokens=50, output_tokens=1_000, estimated=True, **known),
        Expired(time=NOON, exchange="y", spiffe_id=OTHER, tokens=600),
    ]
    file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


async def run_all(commands: list[str], folder: Path, objects: str, capsys) -> list[str]:
    state = folder / ".state"
    state.mkdir()
    write_audit(folder / "audit.jsonl")
    said: list[str] = []
    async with usage_world("memory", state, objects) as it:
        ca = SpiffeCa("example.org")
        door = AdminDoor(it.desk, trusting(ca.issue(BROKER), ca), Doors(state / "admin.sock"), it.clock)
        await door.open()
        await it.spend(AGENT, 300, 100)
        await it.spend(OTHER, 50)
        await it.ledger.deny((POLICY,), OTHER)
        it.clock.move(900)
        for command in commands:
            name, *argv = shlex.split(command)
            assert name == "broker"
            await asyncio.to_thread(cli.main, argv)
            found = capsys.readouterr()
            said.append(found.out + found.err)
        await door.close()
    return said


async def test_every_example_says_what_is_written_there(tmp_path, monkeypatch, capsys):
    for variable in [name for name in os.environ if name.startswith("BROKER_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    text = DOCUMENT.read_text(encoding="utf-8")
    (objects,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    written = examples(text)
    assert len(written) == 8
    found = await run_all([command for command, _ in written], tmp_path, objects, capsys)
    assert list(zip([command for command, _ in written], found, strict=True)) == written


def test_every_switch_is_documented_as_it_is():
    section = COMMANDS.partition("## broker usage\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `--")]
    assert len(rows) == len(SWITCHES)
    for row, switch in zip(rows, SWITCHES, strict=True):
        also = "".join(f", `{alias}`" for alias in switch.aliases)
        default = f"`{switch.default}`" if switch.default else "none"
        assert row == f"| `{switch.flag} {switch.metavar}` | `{switch.variable}`{also} | {default} | {switch.help} |"


def test_what_is_written_and_printed_is_documented():
    (kind,) = [line for line in COMMANDS.splitlines() if line.startswith("| `adjusted` |")]
    assert [field for field in Adjusted.__struct_fields__ if field != "time" and f"`{field}`" not in kind] == []
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text.partition("| column | is |")[2].partition("\n\n")[0]
    assert len(re.findall(r"`\w+`", table.replace("; `cached` is a part of `input`", ""))) == len(Group._fields) + len(Sums._fields)
