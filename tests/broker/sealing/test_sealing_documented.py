"""The commands of docs/sealing.md and docs/install.md make files of keys that brokers take, and rotate them with overlap."""

import re
import subprocess
from pathlib import Path

import pytest

from broker.sealing import Home, Kind
from broker.sealing.keeping import KeyFile
from broker.sealing.keys import MAKE_ONE

DOCS = Path(__file__).parents[3] / "docs"
SEALING = (DOCS / "sealing.md").read_text(encoding="utf-8")
INSTALL = (DOCS / "install.md").read_text(encoding="utf-8").partition("\n## Sealing keys\n")[2].partition("\n## ")[0]
OWNER = "spiffe://example.org/ns/team1/sa/agent"
HOME = Home("team1", "gpt", "team1/openai", "https://api.openai.com:443/v1", "gpt-4o")


def shell(line: str, folder: Path) -> None:
    subprocess.run(["sh", "-e", "-c", line], cwd=folder, check=True, timeout=20, capture_output=True)


def commands(text: str) -> list[str]:
    """All that no cluster is needed for."""
    lines = [line.strip() for line in text.splitlines() if re.match(r" {4,}\S", line)]
    return [line for line in lines if "openssl" in line or "> turned" in line or "> only" in line]


def test_the_file_that_the_document_makes_is_one_of_one_key(tmp_path):
    (line,) = [line for line in commands(SEALING) if "> sealing-keys" in line]
    shell(line, tmp_path)
    assert len(KeyFile.open(tmp_path / "sealing-keys").ids) == 1


def test_what_an_error_says_is_what_the_documents_say():
    assert MAKE_ONE in SEALING
    assert MAKE_ONE in INSTALL


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_the_rotation_that_the_document_has_is_one_with_overlap(tmp_path, mode):
    """As the kubelet brings it: each step is a new file of the same mode."""
    first, last, turn, only = commands(INSTALL)
    keys, mounted = tmp_path / "keys", tmp_path / "mounted"
    seen = []

    def step(line: str) -> KeyFile:
        shell(line, tmp_path)
        mounted.unlink(missing_ok=True)
        mounted.write_bytes(keys.read_bytes())
        mounted.chmod(mode)
        seen.append(KeyFile.open(mounted).ids)
        return KeyFile.open(mounted)

    sealed = step(first).seals.seal(OWNER, Kind.RESPONSE, HOME, "resp_1")
    for line in (last, turn):
        assert step(line).seals.open(OWNER, Kind.RESPONSE, sealed) == (HOME, "resp_1")
    step(only)
    (old,), (_, new) = seen[0], seen[1]
    assert seen == [[old], [old, new], [new, old], [new]]
    assert old != new
