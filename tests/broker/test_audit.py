"""The audit log: every line chained, every edit found, nothing answered that cannot be written."""

import asyncio
import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.audit_logs import verify

from broker.audit import STALLED_BYTES, Audit, Expired, Line
from broker.errors import Unavailable
from broker.grant import PolicyRef

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
KEY = b"0123456789abcdef0123456789abcdef"


def a_line(number: int = 1) -> Line:
    return Line(
        time=NOON,
        exchange=f"x{number}",
        code="answered",
        status=200,
        decision="allowed",
        spiffe_id="spiffe://example.org/ns/team1/sa/weather-agent",
        dialect="openai_chat",
        model="gpt-4o",
        namespace="team1",
        provider="openai",
        provider_model="gpt-4o-2024-05-13",
        attempts=1,
        policies=(PolicyRef("team1", "weather", "uid-1/3"),),
        held_tokens=900,
        input_tokens=12,
        output_tokens=34,
        first_byte_ms=80.5,
        total_ms=120.0,
    )


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def a_log(path: Path, lines: int, key: bytes | None = None) -> None:
    """One life of a process that served so many exchanges."""

    async def live() -> None:
        audit = Audit.open(str(path), "0.1.0", key)
        for number in range(1, lines + 1):
            audit.write(a_line(number))
        audit.close()

    asyncio.run(live())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_a_line_says_who_asked_what_and_what_came_of_it(path: Path) -> None:
    a_log(path, 1)
    line = records(path)[1]
    assert {name: line[name] for name in ("kind", "time", "exchange", "spiffe_id", "model", "provider_model", "decision", "code")} == {
        "kind": "exchange",
        "time": "2026-11-21T12:00:00Z",
        "exchange": "x1",
        "spiffe_id": "spiffe://example.org/ns/team1/sa/weather-agent",
        "model": "gpt-4o",
        "provider_model": "gpt-4o-2024-05-13",
        "decision": "allowed",
        "code": "answered",
    }
    assert line["policies"] == [{"namespace": "team1", "name": "weather", "version": "uid-1/3"}]


def test_the_schema_has_no_place_for_a_prompt_or_a_header() -> None:
    assert not {"body", "prompt", "messages", "content", "headers", "answer", "text"} & set(Line.__struct_fields__)


async def test_lines_of_one_turn_are_written_at_its_end_without_anybody_asking(path: Path) -> None:
    audit = Audit.open(str(path), "0.1.0")
    audit.write(a_line(1))
    audit.write(a_line(2))
    assert len(records(path)) == 1
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [line.get("exchange") for line in records(path)] == [None, "x1", "x2"]
    audit.close()


def test_a_file_is_made_for_its_owner_alone(path: Path) -> None:
    a_log(path, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("key", [None, KEY])
def test_an_untouched_log_verifies(path: Path, key: bytes | None) -> None:
    a_log(path, 5, key)
    verdict = verify(str(path), keys=(key,) if key else ())
    assert (verdict.lines, verdict.faults) == (7, ())


async def test_the_head_is_what_verify_finds_at_the_end(path: Path) -> None:
    audit = Audit.open(str(path), "0.1.0")
    audit.write(a_line())
    head = audit.head()
    audit.flush()
    assert verify(str(path)).heads == (head,)
    audit.close()


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize(
    ("edit", "line", "what"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b'"status":200', b'"status":403'), *lines[3:]], 3, "edited"),
        (lambda lines: [*lines[:2], lines[2][:-1] + b',"extra":1}', *lines[3:]], 3, "edited"),
        (lambda lines: [*lines[:2], *lines[3:]], 3, "missing or moved"),
        (lambda lines: lines[1:], 1, "what came before is missing"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 3, "missing or moved"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4, "repeated or moved"),
        (lambda lines: [*lines[:2], b"not ours", *lines[2:]], 3, "not a line"),
    ],
    ids=["edited", "extended", "removed", "beginning removed", "moved", "repeated", "inserted"],
)
def test_an_edit_is_found_where_it_was_made(path: Path, key: bytes | None, edit, line: int, what: str) -> None:
    a_log(path, 5, key)
    path.write_bytes(b"".join(one + b"\n" for one in edit(path.read_bytes().splitlines())))
    fault = verify(str(path), keys=(key,) if key else ()).faults[0]
    assert (fault.line, what in fault.what) == (line, True)


def test_without_the_key_nobody_can_write_a_line_that_verifies(path: Path, tmp_path: Path) -> None:
    a_log(path, 3, KEY)
    forged = tmp_path / "forged.jsonl"
    a_log(forged, 3, b"another key, of the same length.")
    assert len(verify(str(forged), keys=(KEY,)).faults) == 5
    assert verify(str(path), keys=(KEY,)).faults == ()


def test_a_missing_tail_shows_in_the_head_and_nowhere_else(path: Path) -> None:
    a_log(path, 5)
    before = verify(str(path))
    path.write_bytes(b"".join(one + b"\n" for one in path.read_bytes().splitlines()[:-2]))
    after = verify(str(path))
    assert after.faults == ()
    assert after.heads[0].seq == before.heads[0].seq - 2


def test_a_restart_goes_on_with_the_chain(path: Path) -> None:
    a_log(path, 2)
    a_log(path, 2)
    lines = records(path)
    assert [line["seq"] for line in lines] == list(range(1, 9))
    assert len({line["chain"] for line in lines}) == 1
    assert [line["kind"] for line in lines if line["kind"] != "exchange"] == ["start", "stop", "start", "stop"]
    assert verify(str(path)).faults == ()


def test_a_torn_last_line_is_kept_and_named_by_the_next_start(path: Path) -> None:
    a_log(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    a_log(path, 1)
    assert path.read_bytes().startswith(whole[:-40] + b"\n")
    start = next(line for line in map(json.loads, path.read_bytes().splitlines()[5:]) if line["kind"] == "start")
    assert start["torn_bytes"] == len(whole.splitlines()[-1]) + 1 - 40
    assert verify(str(path)).faults == ()


def test_a_torn_line_that_was_edited_afterwards_is_found(path: Path) -> None:
    a_log(path, 1)
    path.write_bytes(path.read_bytes()[:-40])
    a_log(path, 1)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"".join(one + b"\n" for one in [*lines[:2], lines[2][:-3], *lines[3:]]))
    assert [fault.line for fault in verify(str(path)).faults] == [3]


def test_a_torn_last_line_with_no_start_after_it_is_reported(path: Path) -> None:
    a_log(path, 1)
    path.write_bytes(path.read_bytes()[:-40])
    assert "torn" in verify(str(path)).faults[0].what


def test_a_file_that_ends_with_something_else_begins_a_new_chain(path: Path) -> None:
    a_log(path, 1)
    with path.open("ab") as file:
        file.write(b"hello\n")
    a_log(path, 1)
    verdict = verify(str(path))
    assert len(verdict.heads) == 2
    assert [fault.line for fault in verdict.faults] == [4]


async def test_two_processes_cannot_write_one_file(path: Path) -> None:
    audit = Audit.open(str(path), "0.1.0")
    with pytest.raises(OSError, match="another process writes"):
        Audit.open(str(path), "0.1.0")
    audit.close()
    Audit.open(str(path), "0.1.0").close()


def test_a_log_that_takes_no_bytes_is_refused_at_the_start() -> None:
    with pytest.raises(OSError, match="No space left"):
        Audit.open("/dev/full", "0.1.0")


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """A limit on the size of this process's files: the kernel refuses the next bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_after_a_failed_write_nothing_is_served_until_writing_works_again(path: Path) -> None:
    audit = Audit.open(str(path), "0.1.0")
    audit.ready()
    with full_disk(path):
        audit.write(a_line(1))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            audit.ready()
        assert audit.failures >= 1
        assert "free space" in audit.why_not_ready
    audit.ready()
    assert audit.why_not_ready == ""
    audit.close()
    assert verify(str(path)).faults == ()
    assert [line.get("exchange") for line in records(path)] == [None, "x1", None]


async def test_what_a_long_failure_cannot_keep_is_counted_and_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.audit.writing.PENDING_BYTES", 2000)
    audit = Audit.open(str(path), "0.1.0")
    with full_disk(path):
        for number in range(10):
            audit.write(a_line(number))
        audit.flush()
    audit.ready()
    audit.close()
    kept = [line for line in records(path) if line["kind"] == "exchange"]
    lost = [line for line in records(path) if line["kind"] == "lost"]
    assert [line["lines"] for line in lost] == [10 - len(kept)] == [audit.lost]
    assert verify(str(path)).faults == ()


async def test_a_reader_that_does_not_read_makes_us_refuse_and_never_hang(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    audit = Audit.open(str(fifo), "0.1.0")
    written = 0
    while written < STALLED_BYTES + (1 << 18):  # what a pipe of the system holds comes on top
        audit.write(a_line())
        written += 700
    audit.flush()
    with pytest.raises(Unavailable):
        audit.ready()
    assert "reader" in audit.why_not_ready
    got = b""
    while audit.why_not_ready:
        got += os.read(reader, 1 << 20)
        audit.flush()
    audit.ready()
    assert got.startswith(b'{"kind":"start"')
    os.close(reader)
    audit.close()


async def test_a_lost_hold_is_a_line_of_its_own_kind(path: Path) -> None:
    audit = Audit.open(str(path), "0.1.0")
    audit.write(Expired(time=NOON, exchange="x9", spiffe_id="spiffe://example.org/ns/a/sa/b", tokens=512))
    audit.close()
    assert {"kind": "expired", "exchange": "x9", "tokens": 512}.items() <= records(path)[1].items()


async def test_standard_output_gets_the_lines_too(capfd: pytest.CaptureFixture[str]) -> None:
    audit = Audit.open("-", "0.1.0")
    audit.write(a_line())
    audit.close()
    assert [json.loads(line)["kind"] for line in capfd.readouterr().out.splitlines()] == ["start", "exchange", "stop"]


async def test_closing_twice_writes_one_stop(path: Path) -> None:
    audit = Audit.open(str(path), "0.1.0")
    audit.close()
    audit.close()
    assert [line["kind"] for line in records(path)] == ["start", "stop"]


@given(model=st.text(max_size=40), identity=st.text(max_size=40))
def test_no_text_of_a_caller_can_forge_a_line(tmp_path_factory: pytest.TempPathFactory, model: str, identity: str) -> None:
    path = tmp_path_factory.mktemp("forge") / "audit.jsonl"

    async def run() -> None:
        audit = Audit.open(str(path), "0.1.0")
        audit.write(Line(time=NOON, exchange="x", code="forbidden", status=403, model=model, spiffe_id=identity))
        audit.close()

    asyncio.run(run())
    assert verify(str(path)).faults == ()
    assert records(path)[1]["model"] == model


async def test_the_log_learns_where_the_chain_ends_once_a_minute_and_at_the_end(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "broker.audit")
    audit = Audit.open(str(path), "0.1.0")
    for _ in range(3):
        audit.write(a_line())
        await asyncio.sleep(0)
    noted = [(record.seq, record.hash) for record in caplog.records if record.message == "audit_head"]
    assert [seq for seq, _ in noted] == [2]
    audit.close()
    assert caplog.records[-1].hash == audit.head().hash == verify(str(path)).heads[0].hash
