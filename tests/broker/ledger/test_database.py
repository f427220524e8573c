"""The file of the quota store: made for its owner alone, refused when it is not ours, all or nothing."""

import json
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clock import Clock

from broker.chat import Usage
from broker.ledger.book import Book
from broker.ledger.database import CannotOpen, Database


@pytest.fixture
def path(tmp_path):
    return tmp_path / "quota.db"


@pytest.fixture
def database(path):
    opened = Database.open(path, Clock(), busy_s=1)
    yield opened
    opened.close()


def open_and_close(path):
    Database.open(path, Clock(), busy_s=1).close()


def vandalize(path, statement):
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_the_files_are_for_their_owner_alone(database, path):
    with database.transaction():
        pass
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {
        "quota.db": 0o600,
        "quota.db-wal": 0o600,
        "quota.db-shm": 0o600,
    }


def test_a_commit_is_on_the_disk_when_it_is_done(database):
    settings = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]


def break_off(database):
    with database.transaction():
        database.execute("INSERT INTO holds VALUES ('one', 'open', 0.0, x'')")
        raise ZeroDivisionError


def test_a_transaction_that_breaks_leaves_nothing_behind(database):
    with pytest.raises(ZeroDivisionError):
        break_off(database)
    assert database.execute("SELECT * FROM holds").fetchall() == []
    with database.transaction():
        pass


def test_time_is_the_latest_that_any_connection_has_written(path):
    early, late = Clock(), Clock()
    late.move(100)
    one, other = Database.open(path, early, busy_s=1), Database.open(path, late, busy_s=1)
    with one.transaction() as now:
        assert now == early.now
    with other.transaction() as now:
        assert now == late.now
    with one.transaction() as now:
        assert now == late.now
    one.close()
    other.close()


def test_a_reader_cannot_write_and_does_not_wait_for_a_writer(database, path):
    reader = Database.open_reader(path, Clock())
    with database.transaction():
        assert reader.execute("SELECT count(*) FROM holds").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM holds")
    reader.close()


def test_a_missing_directory_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(CannotOpen, match="Check the directory"):
        open_and_close(tmp_path / "missing" / "quota.db")


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(path):
    path.write_bytes(b"my diary\n" * 1000)
    with pytest.raises(CannotOpen, match="not a database"):
        open_and_close(path)
    assert path.read_bytes() == b"my diary\n" * 1000


def test_another_programs_database_is_refused_and_left_as_it_was(path):
    vandalize(path, "CREATE TABLE recipes (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(CannotOpen, match="another program"):
        open_and_close(path)
    assert path.read_bytes() == before


VERSION_1 = """
CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), now REAL NOT NULL) STRICT;
INSERT INTO clock VALUES (1, 0.0);
CREATE TABLE counters (
    counter TEXT NOT NULL, label TEXT NOT NULL, ends_at REAL NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (counter, label)
) STRICT, WITHOUT ROWID;
CREATE TABLE holds (id TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, until REAL NOT NULL, record BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE leases (counter TEXT NOT NULL, hold_id TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (counter, hold_id)) STRICT, WITHOUT ROWID;
CREATE TABLE tallies (
    policy TEXT NOT NULL, identity TEXT NOT NULL, hour INTEGER NOT NULL,
    tokens INTEGER NOT NULL, requests INTEGER NOT NULL, denied INTEGER NOT NULL, last_used REAL NOT NULL,
    PRIMARY KEY (policy, identity, hour)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = 1095323989;
PRAGMA user_version = 1;
"""


def of_version_1(path):
    """As a broker before this one left it: a hold that is open, and its counter."""
    hold = ["me", ["team1/p"], [["{team1}/c", "2026-11-17T12", 1e12, "total_tokens", 200]], [], 100, 100, 1, 1e12]
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(VERSION_1)
    connection.execute("INSERT INTO counters VALUES ('{team1}/c', '2026-11-17T12', 1e12, 200)")
    connection.execute("INSERT INTO holds VALUES ('old', 'open', 1e12, ?)", (json.dumps(hold).encode(),))
    connection.execute("INSERT INTO tallies VALUES ('team1/p', 'me', ?, 11, 1, 0, 5.0)", (int(Clock().now // 3600),))
    connection.commit()
    connection.close()


def test_a_file_of_the_version_before_goes_on_counting_and_counts_money(path):
    of_version_1(path)
    database = Database.open(path, Clock(), busy_s=1)
    book = Book(database)
    with book.transaction() as now:
        assert book.settle("old", Usage(60, 30), 7, now) == 0
    with book.transaction() as now:
        assert [(tally.tokens, tally.cost_microusd) for tally in book.tallies(now)] == [(101, 7)]
        assert [reading.used for reading in book.readings(now)] == [90]
    database.close()
    open_and_close(path)


def test_processes_that_open_an_older_file_at_once_change_it_once(path):
    of_version_1(path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_and_close, [path] * 4))
    with sqlite3.connect(path) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(tallies)")]
    connection.close()
    assert columns.count("microusd") == 1


def test_a_file_of_a_later_version_is_refused(path):
    open_and_close(path)
    vandalize(path, "PRAGMA user_version = 99")
    with pytest.raises(CannotOpen, match="version 99"):
        open_and_close(path)


def test_a_damaged_file_is_refused_with_what_to_do(path):
    database = Database.open(path, Clock(), busy_s=1)
    with database.transaction():
        database.executemany("INSERT INTO holds VALUES (?, 'open', 0.0, zeroblob(500))", [(str(number),) for number in range(200)])
    database.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(CannotOpen, match="damaged"):
        open_and_close(path)
