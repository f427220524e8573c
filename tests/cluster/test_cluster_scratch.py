"""Folders of runs that were killed go; those of runs that live, and what is not ours, stay."""

import os
import subprocess
import sys
from pathlib import Path

from support.cluster.scratch import scratch


def gone() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def left(room: Path, name: str) -> Path:
    folder = room / name
    (folder / "etcd").mkdir(parents=True)
    (folder / "etcd" / "log").write_text("x")
    return folder


def test_what_a_killed_run_left_goes_when_the_next_begins(tmp_path):
    folder = left(tmp_path, f"k-{gone()}-abc")
    with scratch(tmp_path):
        assert not folder.exists()


def test_the_folder_of_a_run_that_lives_and_one_without_a_number_stay(tmp_path):
    stays = [left(tmp_path, name) for name in (f"k-{os.getppid()}-abc", "k-abc", "k-abc-def", "other")]
    with scratch(tmp_path):
        assert all((folder / "etcd" / "log").exists() for folder in stays)


def test_what_a_link_leads_to_stays(tmp_path):
    elsewhere = left(tmp_path, "elsewhere")
    (tmp_path / f"k-{gone()}-abc").symlink_to(elsewhere)
    with scratch(tmp_path):
        assert (elsewhere / "etcd" / "log").exists()


def test_a_folder_bears_its_process_lets_every_user_through_and_goes(tmp_path):
    with scratch(tmp_path) as folder:
        assert folder.name.startswith(f"k-{os.getpid()}-")
        assert folder.stat().st_mode & 0o777 == 0o711
        left(folder, "kubernetes")
    assert list(tmp_path.iterdir()) == []
