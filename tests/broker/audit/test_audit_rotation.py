"""On to the next file: no line is lost, none is in two files, and no two processes write one, whenever somebody pulls the plug."""

import asyncio
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from support.audit_logs import KEY, NOON, a_line, in_order, live, verify

from broker.audit import Audit, Rotation
from broker.audit.folder import Folder, siblings
from broker.audit.writing import NOTE_S
from broker.errors import Unavailable
from broker.measures import Kept

SMALL = Rotation(max_bytes=2_000)
LIVES = 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def records(path: Path) -> list[dict]:
    """All lines of all files, in order."""
    return [json.loads(line) for content in in_order(path).values() for line in content.splitlines()]


def faults(path: Path, key: bytes | None = None):
    return verify(*map(str, path.parent.glob("audit.jsonl*")), keys=(key,) if key else ()).faults


@pytest.mark.parametrize("key", [None, KEY])
def test_a_full_file_gets_another_name_and_the_chain_goes_on_in_a_new_one(path, key):
    live(path, 20, key, SMALL)
    files, lines = in_order(path), records(path)
    assert len(files) > 3
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["exchange"] for line in lines if line["kind"] == "exchange"] == [f"x{number}" for number in range(1, 21)]
    names = list(files)
    for before, name in pairwise(names):
        first = json.loads(files[name].splitlines()[0])
        last = json.loads(files[before].splitlines()[-1])
        assert (first["kind"], first["file"], first["prev"]) == ("rotated", before, last["hash"])
        assert len(files[before]) >= 2_000
    assert faults(path, key) == ()


def test_every_file_is_its_owners_alone(path):
    live(path, 20, rotation=SMALL)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_nothing_but_the_files_of_the_log_is_left(path):
    live(path, 20, rotation=SMALL)
    assert {file.name for file in path.parent.iterdir()} == set(in_order(path))


async def test_a_file_whose_first_line_is_old_is_full_too(path):
    audit = Audit.open(str(path), "0.1.0", rotation=Rotation(max_age_s=0.05))
    assert siblings(path) == []
    await asyncio.sleep(0.06)
    audit.tend()
    audit.close()
    assert len(siblings(path)) == 1
    assert faults(path) == ()


def test_how_old_a_file_is_outlives_a_restart(path):
    path.write_text('{"kind":"start","time":"2026-11-01T00:00:00Z"}\n')
    folder = Folder.open(str(path), Rotation(max_age_s=3600))
    assert not folder.is_full(lambda: datetime(2026, 11, 1, 0, 59, tzinfo=UTC))
    assert folder.is_full(lambda: datetime(2026, 11, 1, 1, 0, tzinfo=UTC))
    os.close(folder.fd)


def test_a_restart_goes_on_with_the_chain_in_the_newest_file(path):
    for _ in range(3):
        live(path, 7, rotation=SMALL)
    assert len(verify(*map(str, path.parent.glob("*"))).heads) == 1
    assert faults(path) == ()


def test_names_grow_although_the_clock_goes_back(path):
    live(path, 1)
    folder = Folder.open(str(path), SMALL)
    later = folder.next_name(NOON)
    later.touch()
    earlier = folder.next_name(NOON - timedelta(days=400))
    assert later.name == "audit.jsonl.20261121T120000.000000Z"
    assert earlier.name == "audit.jsonl.20261121T120000.000001Z"
    os.close(folder.fd)


@pytest.mark.parametrize(
    "end", ["99999999T999999.999999Z", "99991231T235959.999999Z", "20261121T120000.000000Z.gz", "20261121", "next", "bak"]
)
def test_a_file_of_somebody_else_beside_it_is_none_of_ours(path, end):
    stranger = path.with_name(f"audit.jsonl.{end}")
    stranger.write_text("of somebody else\n")
    live(path, 20, rotation=Rotation(max_bytes=2_000, kept=Kept(number=1)))
    assert stranger not in siblings(path)
    assert stranger.read_text() == "of somebody else\n"
    stranger.unlink()
    assert faults(path) == ()


@pytest.mark.parametrize("kept", [1, 3])
def test_so_many_full_files_are_kept_and_each_deleted_one_is_a_line(path, kept):
    live(path, 40, rotation=Rotation(max_bytes=2_000, kept=Kept(number=kept)))
    assert len(siblings(path)) == kept
    gone = [line for line in records(path) if line["kind"] == "discarded"]
    assert gone
    assert gone[-1]["last_seq"] == records(path)[0]["seq"] - 1
    assert gone[-1]["last_hash"] == records(path)[0]["prev"]
    assert faults(path) == ()


async def test_files_older_than_what_is_kept_are_deleted_without_a_line_being_written(path):
    live(path, 20, rotation=SMALL)
    before = siblings(path)
    await asyncio.sleep(0.05)
    audit = Audit.open(str(path), "0.1.0", rotation=Rotation(max_bytes=1 << 20, kept=Kept(age_s=0.01)))
    assert siblings(path) == before
    audit.tend()
    assert siblings(path) == []
    audit.close()
    assert [line["file"] for line in records(path) if line["kind"] == "discarded"] == [name.name for name in before]
    assert faults(path) == ()


async def test_a_file_that_cannot_be_deleted_is_said_and_stops_nothing(path, monkeypatch, caplog):
    live(path, 20, rotation=SMALL)

    def refused(_self):
        raise PermissionError(1, "Operation not permitted")

    audit = Audit.open(str(path), "0.1.0", rotation=Rotation(max_bytes=1 << 20, kept=Kept(number=1)))
    monkeypatch.setattr(Path, "unlink", refused)
    audit.tend()
    audit._look_at_s = 0
    audit.tend()
    said = [record.file for record in caplog.records if record.message == "audit_file_not_discarded"]
    assert len(said) == len(set(said)) == len(siblings(path)) - 1
    audit.ready()
    monkeypatch.undo()
    audit.close()
    assert faults(path) == ()


async def test_a_rotation_that_fails_refuses_the_next_request_loses_nothing_and_recovers_by_itself(path, caplog):
    audit = Audit.open(str(path), "0.1.0", rotation=SMALL)
    in_the_way = path.with_name(".audit.jsonl.next")
    in_the_way.mkdir()
    for number in range(8):
        audit.write(a_line(number))
    audit.flush()
    with pytest.raises(Unavailable):
        audit.ready()
    assert "no new file can be begun" in audit.why_not_ready
    assert [record.reason for record in caplog.records if record.message == "audit_failed"] != []
    audit.write(a_line(8))
    audit.flush()
    assert [line.get("exchange") for line in records(path)] == [None, *(f"x{number}" for number in range(9))]
    in_the_way.rmdir()
    audit.ready()
    assert audit.why_not_ready == ""
    audit.close()
    assert len(siblings(path)) == 1
    assert faults(path) == ()


@contextmanager
def files_of_at_most(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_no_room_for_the_first_line_of_a_new_file_leaves_the_old_one_as_it_was(path):
    audit = Audit.open(str(path), "0.1.0", rotation=SMALL)
    for number in range(8):
        audit.write(a_line(number))
    with files_of_at_most(100):
        audit.flush()
        assert audit.why_not_ready != ""
    for number in range(8, 10):
        audit.write(a_line(number))
    audit.flush()
    audit.close()
    assert {file.name for file in path.parent.iterdir()} == set(in_order(path))
    assert faults(path) == ()


async def test_a_new_file_that_cannot_get_the_name_leaves_the_old_one_with_its_own_alone(path, monkeypatch):
    def refused(_self, _target):
        raise OSError(5, "Input/output error")

    audit = Audit.open(str(path), "0.1.0", rotation=SMALL)
    for number in range(8):
        audit.write(a_line(number))
    monkeypatch.setattr(Path, "rename", refused)
    audit.flush()
    assert audit.why_not_ready != ""
    assert [file.name for file in path.parent.iterdir()] == ["audit.jsonl"]
    monkeypatch.undo()
    audit.close()
    assert faults(path) == ()


async def test_a_full_disk_is_said_in_the_log_once_and_its_end_too(path, caplog):
    audit = Audit.open(str(path), "0.1.0")
    with files_of_at_most(path.stat().st_size + 10):
        for number in range(3):
            audit.write(a_line(number))
            audit.flush()
    audit.flush()
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == ["audit_failed", "audit_works_again"]
    assert "File too large" in caplog.records[0].reason
    audit.close()
    assert faults(path) == ()


async def test_what_a_disk_without_room_takes_again_is_written_without_anybody_asking(path):
    """Whoever is not ready gets no requests, so recovery cannot wait for one."""
    audit = Audit.open(str(path), "0.1.0")
    with files_of_at_most(path.stat().st_size + 10):
        audit.write(a_line())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert audit.why_not_ready != ""
    async with asyncio.timeout(10):
        while audit.why_not_ready:
            await asyncio.sleep(0.01)
    assert [line["kind"] for line in records(path)] == ["start", "exchange"]
    audit.close()


async def test_lines_that_never_found_room_are_counted_in_the_log_at_the_end(path, caplog):
    audit = Audit.open(str(path), "0.1.0")
    with files_of_at_most(path.stat().st_size):
        audit.write(a_line())
        audit.close()
    assert [record.lines for record in caplog.records if record.message == "audit_lines_lost"] == [2]


def test_a_start_on_a_full_disk_leaves_the_torn_line_for_the_next_start(path):
    live(path, 2, killed=b'{"half')
    before = path.read_bytes()
    with files_of_at_most(len(before) + 20), pytest.raises(OSError, match="File too large"):
        Audit.open(str(path), "0.1.0")
    assert path.read_bytes() == before
    live(path, 1)
    assert faults(path) == ()


async def test_a_file_that_is_deleted_while_it_is_written_refuses_the_next_request(path):
    audit = Audit.open(str(path), "0.1.0")
    path.unlink()
    audit.write(a_line())
    audit.flush()
    with pytest.raises(Unavailable):
        audit.ready()
    assert "was deleted while it was written" in audit.why_not_ready
    audit.close()


async def test_a_file_that_somebody_moves_is_not_rotated_over_another(path):
    audit = Audit.open(str(path), "0.1.0", rotation=SMALL)
    path.rename(path.with_name("moved"))
    path.write_text("of somebody else\n")
    for number in range(9):
        audit.write(a_line(number))
    audit.flush()
    assert "moved or removed" in audit.why_not_ready
    audit.close()
    assert path.read_text() == "of somebody else\n"


async def test_while_one_process_rotates_another_never_gets_the_log(path):
    audit = Audit.open(str(path), "0.1.0", rotation=Rotation(max_bytes=300))
    for number in range(50):
        audit.write(a_line(number))
        audit.flush()
        with pytest.raises(OSError, match="another process writes"):
            Audit.open(str(path), "0.1.0", rotation=SMALL)
    assert len(siblings(path)) == 50
    audit.close()
    assert faults(path) == ()


def test_the_new_file_is_locked_before_it_has_the_name(path, monkeypatch):
    live(path, 9)
    folder = Folder.open(str(path), SMALL)
    rename = Path.rename

    def locked(self, target):
        with self.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", locked)
    full = folder.rotate(folder.next_name(NOON), b"first\n", NOON)
    assert path.read_bytes() == b"first\n"
    os.close(full)
    os.close(folder.fd)


PULLED = """
import os, sys
from pathlib import Path
from support.audit_logs import a_line
from broker.audit import Audit, Rotation

when, step, path = sys.argv[1:]
done = getattr(Path, step)

def pulled(self, *args):
    if when == "before":
        os._exit(9)
    done(self, *args)
    os._exit(9)

audit = Audit.open(path, "0.1.0", rotation=Rotation(max_bytes=2_000))
setattr(Path, step, pulled)
audit.write = lambda line: audit._pending.extend(audit._chain.tie(line))
for number in range(1, 100):
    audit.write(a_line(number))
    audit.flush()
"""


def child(*argv: str) -> list[str]:
    return [sys.executable, "-c", *argv]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["hardlink_to", "rename"])
def test_whoever_is_killed_at_any_step_of_a_rotation_lost_nothing(path, when, step):
    assert subprocess.run(child(PULLED, when, step, str(path)), env=environment(), check=False).returncode == 9
    written = len({line["seq"] for line in records(path)})
    live(path, 12, rotation=SMALL)
    lines = records(path)
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) > written
    assert {file.name for file in path.parent.iterdir()} == set(in_order(path))
    assert faults(path) == ()


BUSY = """
import sys
from support.audit_logs import a_line
from broker.audit import Audit, Rotation

audit = Audit.open(sys.argv[1], "0.1.0", rotation=Rotation(max_bytes=1_500))
audit.write = lambda line: audit._pending.extend(audit._chain.tie(line))
while True:
    audit.write(a_line())
    audit.flush()
    print(audit.head().seq, flush=True)
"""


def test_whoever_is_killed_again_and_again_while_he_rotates_lost_nothing(path):
    for life in range(LIVES):
        with subprocess.Popen(child(BUSY, str(path)), env=environment(), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for _ in range(20 + 13 * life):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            told = [int(seq) for seq in process.stdout.read().splitlines() if seq]
        assert max((line["seq"] for line in records(path)), default=0) >= max(told, default=0)
    live(path, 1, rotation=SMALL)
    lines = records(path)
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(siblings(path)) > LIVES
    assert faults(path) == ()


@pytest.mark.parametrize("rotation", [SMALL, Rotation(max_age_s=3600)])
def test_standard_output_is_not_rotated(rotation):
    with pytest.raises(ValueError, match="is no file, so it cannot be rotated"):
        Audit.open("-", "0.1.0", rotation=rotation)


def test_what_is_never_full_is_never_deleted():
    with pytest.raises(ValueError, match="give --audit-max-bytes or --audit-max-age too"):
        Rotation(kept=Kept(number=3))


def test_a_folder_that_takes_no_second_name_is_refused_at_the_start(path, monkeypatch):
    def refused(_self, _target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    with pytest.raises(OSError, match="takes no second name of a file"):
        Audit.open(str(path), "0.1.0", rotation=SMALL)
    live(path, 1)


def test_a_log_that_is_reached_by_another_name_is_rotated_where_it_is(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    real = tmp_path / "elsewhere" / "audit.jsonl"
    path.symlink_to(real)
    live(path, 20, rotation=SMALL)
    assert path.is_symlink()
    assert len(siblings(real)) > 3


async def test_the_head_of_a_log_that_fell_silent_is_noted_once_its_minute_is_over(path, caplog, monkeypatch):
    caplog.set_level("INFO", "broker.audit")
    audit = Audit.open(str(path), "0.1.0")
    loop, later = asyncio.get_running_loop(), 0.0
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + later)
    for number in range(3):
        audit.write(a_line(number))
        await asyncio.sleep(0)
    audit.tend()
    assert [record.seq for record in caplog.records if record.message == "audit_head"] == [2]
    later = NOTE_S
    audit.tend()
    audit.tend()
    assert [record.seq for record in caplog.records if record.message == "audit_head"] == [2, 4]
    audit.close()


def test_each_rotation_notes_the_head_of_the_file_that_is_full(path, caplog):
    caplog.set_level("INFO", "broker.audit")
    live(path, 9, rotation=SMALL)
    noted = [record for record in caplog.records if record.message == "audit_rotated"]
    assert [record.seq for record in noted] == [line["seq"] - 1 for line in records(path) if line["kind"] == "rotated"]


async def test_after_close_nothing_is_tended(path):
    audit = Audit.open(str(path), "0.1.0", rotation=Rotation(max_age_s=0.001))
    audit.close()
    audit.tend()
    assert siblings(path) == []
