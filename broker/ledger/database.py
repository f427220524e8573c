"""The SQLite file of the quota store: opening it, its schema, one transaction. Synchronous: belongs to one thread."""

import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_APPLICATION_ID: Final = 0x41495155  # "AIQU" in the file's header: nobody's other database is taken for ours
_VERSION: Final = 2

_OPENING_BUSY_S: Final = 5.0  # several processes may create the file at once
_WAL_AGAIN_S: Final = 0.01
_WAL_PAGES: Final = 1000  # 4 MiB: a checkpoint is short, and the file of a quiet store stays small

_SCHEMA: Final = """
CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), now REAL NOT NULL) STRICT;
INSERT INTO clock VALUES (1, 0.0);
CREATE TABLE counters (
    counter TEXT NOT NULL, label TEXT NOT NULL, ends_at REAL NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (counter, label)
) STRICT, WITHOUT ROWID;
CREATE INDEX counters_by_end ON counters (ends_at);
CREATE TABLE holds (
    id TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, until REAL NOT NULL, record BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE leases (
    counter TEXT NOT NULL, hold_id TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (counter, hold_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX leases_by_hold ON leases (hold_id);
CREATE TABLE tallies (
    policy TEXT NOT NULL, identity TEXT NOT NULL, hour INTEGER NOT NULL,
    tokens INTEGER NOT NULL, requests INTEGER NOT NULL, denied INTEGER NOT NULL, last_used REAL NOT NULL,
    microusd INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (policy, identity, hour)
) STRICT, WITHOUT ROWID;
"""
# What was counted goes on counting: version 1 knew no money.
_FROM_1: Final = "ALTER TABLE tallies ADD COLUMN microusd INTEGER NOT NULL DEFAULT 0"


class CannotOpen(OSError):
    """The file cannot serve as a quota store. The message names it and says what to do: for the operator, not for callers."""


class Database:
    """One connection. Its time never goes back, not across restarts nor between processes: the file remembers it."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self._connection = connection
        self._clock = clock

    @classmethod
    def open(cls, path: Path, clock: Callable[[], float], busy_s: float) -> "Database":
        """Create the file (0600) where there is none, or check that it is ours.

        `busy_s` is how long a transaction waits for another process that has the write lock.

        Raises:
            CannotOpen: no directory, no permission, another program's file, another version's, damaged.
        """
        try:
            _touch(path)
            connection = sqlite3.connect(path, timeout=_OPENING_BUSY_S, isolation_level=None)
            try:
                _prepare(connection, path)
                connection.execute(f"PRAGMA busy_timeout = {int(busy_s * 1000)}")
            except BaseException:
                connection.close()
                raise
        except CannotOpen:
            raise
        except (OSError, sqlite3.Error) as problem:
            raise CannotOpen(
                f"The quota store {path} cannot be opened: {problem}. Check the directory, its permissions and the disk."
            ) from problem
        return cls(connection, clock)

    @contextmanager
    def transaction(self) -> Generator[float]:
        """Take the write lock; yields the store's time; all or nothing, and on the disk when the block is left.

        Raises:
            sqlite3.Error: the lock was not to be had in time, or the disk failed. Nothing was changed.
        """
        self.execute("BEGIN IMMEDIATE")
        try:
            now = self.now()
            self.execute("UPDATE clock SET now = ?", (now,))
            yield now
            self.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self.execute("ROLLBACK")
            raise

    @classmethod
    def open_reader(cls, path: Path, clock: Callable[[], float]) -> "Database":
        """A second connection to a file that is open: it reads what is committed, takes no lock and waits for nobody."""
        connection = sqlite3.connect(path, timeout=_OPENING_BUSY_S, isolation_level=None)
        connection.execute("PRAGMA query_only = ON")
        return cls(connection, clock)

    def now(self) -> float:
        """The store's time: the clock's, or the last that was written if that is later."""
        last: float = self.execute("SELECT now FROM clock").fetchone()[0]
        return max(last, self._clock())

    def close(self) -> None:
        self._connection.close()


def _touch(path: Path) -> None:
    """SQLite gives its -wal and -shm files the permissions of this one.

    A file that exists is not opened here: closing it again would drop every lock that this process has on it (SQLite, "How to
    corrupt", §2.2).
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if _is_empty(connection):
        _switch_to_wal(connection)
        _create(connection)
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != _APPLICATION_ID:
        raise CannotOpen(f"{path} is a database of another program: name another file for the quota store.")
    version = _upgraded(connection)
    if version != _VERSION:
        raise CannotOpen(f"The quota store {path} is of version {version}, this broker knows {_VERSION}: use the broker that wrote it.")
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise CannotOpen(f"The quota store {path} is damaged: restore it, or move it away to start from empty counts.")
    connection.execute("PRAGMA synchronous = FULL")  # a commit that we answered with yes survives a power cut
    connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")


def _upgraded(connection: sqlite3.Connection) -> int:
    """The version of the file, once this program's changes to an older one are made."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != 1:
        return version
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 1:  # else another process was faster
        connection.execute(_FROM_1)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")
    return _VERSION


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Where two connections want the switch at once, SQLite tells one of them "busy" at once, whatever its timeout: ask again."""
    deadline_s = time.monotonic() + _OPENING_BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as busy:
            if busy.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(_WAL_AGAIN_S)
        else:
            return


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if _is_empty(connection):  # else another process was faster
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")
