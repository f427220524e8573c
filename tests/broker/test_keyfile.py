import os
import stat
import sys
from pathlib import Path

import pytest

from broker.keyfile import open_briefly


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is Linux's")
def test_on_linux_the_file_is_memory_and_gone_afterwards():
    with open_briefly(b"key") as path, Path(path).open("rb") as held:
        assert Path(path).read_bytes() == b"key"
        assert Path(path).readlink().name.startswith("memfd:")
        outlived = os.dup(held.fileno())
    assert not Path(path).exists()
    assert os.fstat(outlived).st_size == 0  # whoever still has it open has nothing
    os.close(outlived)


def test_elsewhere_it_is_a_file_of_ours_alone_and_gone_afterwards(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "other")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_briefly(b"key") as path:
        assert Path(path).read_bytes() == b"key"
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("platform", ["linux", "other"])
def test_a_failure_within_leaves_nothing_behind(monkeypatch, tmp_path, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = open_briefly(b"key")
    path = Path(held.__enter__())
    assert held.__exit__(RuntimeError, RuntimeError("no"), None) is not True
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []
