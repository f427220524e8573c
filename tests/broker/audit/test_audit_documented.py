"""Every example of docs/audit.md is run in a shell, and says what is written there."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from support.audit_logs import KEY, a_line

from broker import audit
from broker.audit import Discarded, Head, Record, Rotated, Start, Stop
from broker.audit.lines import Chain

ROOT = Path(__file__).parent.parent.parent.parent
DOCUMENT = ROOT / "docs" / "audit.md"
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
OTHER = "spiffe://example.org/ns/team1/sa/planner"
SHELL = f'broker() {{ "{sys.executable}" -m broker "$@"; }}\n'
BEGAN = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


def examples(text: str) -> list[tuple[str, str]]:
    """Each command with what it prints, in order."""
    blocks = "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
    return [(command, said) for command, said in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", blocks, re.MULTILINE)]


def write_log(folder: Path, key: bytes | None, chain: str) -> None:
    """A log of two days that is the same wherever and whenever it is made; one file was deleted by then."""
    tied = Chain(Head(chain, 40, "4" * 64), key)
    full, gone = "audit.jsonl.20261121T000000.000000Z", "audit.jsonl.20261120T000000.000000Z"
    at = [BEGAN + timedelta(hours=4 * number) for number in range(9)]
    cost = {"cost_microusd": 1_750, "output_tokens": 30}
    first = [
        Rotated(time=at[0], file=gone, keyed=bool(key)),
        Discarded(time=at[0], file=gone, last_chain=chain, last_seq=40, last_hash="4" * 64),
        a_line(1, time=at[1], exchange="0b5cf1", **cost),
        a_line(2, time=at[2], exchange="7e20aa", spiffe_id=OTHER, **cost),
        a_line(
            3, time=at[3], exchange="c91d04", decision="refused", code="forbidden", status=403, policies=(), spiffe_id=OTHER, model="o3"
        ),
    ]
    second = [
        Rotated(time=at[4], file=full, keyed=bool(key)),
        a_line(4, time=at[5], exchange="d0a4f7", spiffe_id=OTHER, **cost),
        Stop(time=at[6]),
        Start(time=at[7], version="0.1.0", keyed=bool(key)),
        a_line(5, time=at[8], exchange="1f6b38", **cost),
    ]
    (folder / full).write_bytes(b"".join(map(tied.tie, first)))
    (folder / "audit.jsonl").write_bytes(b"".join(map(tied.tie, second)))


def said_by(command: str, folder: Path) -> str:
    """Both outputs, and the exit code where it is not 0, as in the document."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
    environment["PYTHONPATH"] = str(ROOT)
    ran = subprocess.run(
        ["bash", "-c", SHELL + command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    return ran.stdout + ran.stderr + (f"exit code {ran.returncode}\n" if ran.returncode else "")


def test_every_example_says_what_is_written_there(tmp_path):
    write_log(tmp_path, None, "5f3a9c01")
    (tmp_path / "keyed").mkdir()
    write_log(tmp_path / "keyed", KEY, "90d1b7e4")
    (tmp_path / "audit-key").write_bytes(KEY)
    written = examples(DOCUMENT.read_text(encoding="utf-8"))
    assert len(written) >= 9
    assert [(command, said_by(command, tmp_path)) for command, _ in written] == written


@pytest.mark.parametrize("kind", get_args(Record), ids=lambda kind: kind.__name__)
def test_every_kind_of_line_is_documented(kind):
    assert f"`{kind.__struct_config__.tag}`" in COMMANDS


@pytest.mark.parametrize("kind", [audit.Start, audit.Rotated, audit.Discarded], ids=lambda kind: kind.__name__)
def test_every_field_of_the_lines_about_the_log_itself_is_documented(kind):
    text = DOCUMENT.read_text(encoding="utf-8") + COMMANDS
    assert [field for field in kind.__struct_fields__ if field not in ("time", "torn_sha256") and f"`{field}`" not in text] == []
