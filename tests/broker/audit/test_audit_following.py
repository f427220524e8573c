"""Reading a log while it is written, on through each rotation."""

import json

import pytest
from support.audit_logs import a_line, live

from broker.audit import Audit, Rotation
from broker.audit.following import Followed
from broker.audit.reading import Raw

SMALL = Rotation(max_bytes=1_500)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def numbers(raws: list[Raw]) -> list[int]:
    return [json.loads(raw.bytes)["seq"] for raw in raws]


async def test_what_is_written_comes_once_and_in_order(path):
    audit = Audit.open(str(path), "0")
    followed = Followed(str(path))
    assert numbers(list(followed.more())) == [1]
    assert list(followed.more()) == []
    audit.write(a_line())
    audit.write(a_line())
    audit.flush()
    assert numbers(list(followed.more())) == [2, 3]
    followed.close()
    audit.close()


def test_a_line_that_is_half_written_waits_for_its_other_half(path):
    path.write_bytes(b"one\ntw")
    followed = Followed(str(path))
    assert list(followed.more()) == [(1, b"one\n")]
    with path.open("ab") as file:
        file.write(b"o\n")
    assert list(followed.more()) == [(2, b"two\n")]
    followed.close()


@pytest.mark.parametrize("every", [1, 7, 100])
async def test_it_goes_on_through_however_many_rotations_there_were_meanwhile(path, every):
    audit = Audit.open(str(path), "0", rotation=SMALL)
    followed, got = Followed(str(path)), []
    for number in range(40):
        audit.write(a_line(number))
        audit.flush()
        if number % every == 0:
            got += numbers(list(followed.more()))
    audit.close()
    got += numbers(list(followed.more()))
    followed.close()
    assert got == list(range(1, audit.head().seq + 1))


async def test_a_file_that_was_deleted_under_it_is_read_to_its_end_and_the_next_begun(path):
    live(path, 3)
    followed = Followed(str(path))
    path.unlink()
    live(path, 1)
    assert len(list(followed.more())) == 5 + 3
    followed.close()


def test_with_no_next_file_yet_it_waits(path):
    live(path, 1)
    followed = Followed(str(path))
    path.unlink()
    assert len(list(followed.more())) == 3
    assert list(followed.more()) == []
    followed.close()


def test_a_line_without_end_costs_no_memory_and_is_passed_on_as_nothing(path, monkeypatch):
    monkeypatch.setattr("broker.audit.following.LINE_BYTES", 16)
    path.write_bytes(b"a\n" + b"x" * 500 + b"\nb\n")
    followed = Followed(str(path))
    assert list(followed.more()) == [(1, b"a\n"), (2, b""), (3, b"b\n")]
    followed.close()


def test_it_looks_again_after_each_wait(path):
    path.write_bytes(b"one\n")

    def wait(_seconds: float) -> None:
        with path.open("ab") as file:
            file.write(b"more\n")

    followed = Followed(str(path))
    lines = followed.forever(wait)
    assert [next(lines).bytes for _ in range(3)] == [b"one\n", b"more\n", b"more\n"]
    followed.close()
