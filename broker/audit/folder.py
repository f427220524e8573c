"""Where an audit log is: the file that is written, those that it was before, and which of them are kept.

FILE is the one that is written. When it is full it becomes FILE.TIME, and FILE goes on in a new one. At no moment there is no FILE,
no line is in none of them, and no process takes up what another one has: the new file is locked before it gets the name.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

import msgspec

from broker.audit.lines import LINE_BYTES, Head, link_of
from broker.measures import Kept

_STAMP: Final = "%Y%m%dT%H%M%S.%fZ"
_STAMPED: Final = re.compile(r"\.([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)").fullmatch
_OWN: Final = "end it, or give each broker its own --audit (`broker dev`: its own --state)"
MODE: Final = 0o600
OPENED: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY


Clock = Callable[[], datetime]  # asked only where it is needed: most lines need none

log = logging.getLogger("broker.audit")


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is full, and which of the full ones are kept. A ValueError when files are to be deleted and none is ever full.

    max_bytes: a file of so many is full; None = of any number is not.
    max_age_s: one whose first line is so old is full; None = no age makes it so.
    kept: None = all of them. By age the last line of a file counts.
    """

    max_bytes: int | None = None
    max_age_s: float | None = None
    kept: Kept | None = None

    def __post_init__(self) -> None:
        if self.kept and self.max_bytes is None and self.max_age_s is None:
            raise ValueError("--audit-keep deletes full audit files, and none is ever full: give --audit-max-bytes or --audit-max-age too")


NEVER: Final = Rotation()


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a file ends. torn: what stands after its last whole line. unended: that line has all but its line end."""

    head: Head | None
    torn: bytes = b""
    unended: bool = False


class _Begun(msgspec.Struct):
    time: datetime


class Folder:
    """The open file of a log, and its siblings. Opened by one process at a time."""

    def __init__(self, path: Path, fd: int, rotation: Rotation) -> None:
        self.path = path
        self.fd = fd
        self._rotation = rotation
        self.size = os.fstat(fd).st_size
        self._begun = _begun(fd)
        self._stuck: set[Path] = set()

    @classmethod
    def open(cls, path: str, rotation: Rotation) -> Self:
        """Take the file up, or make it with mode 0600; and clear away what a rotation that was killed left behind.

        Raises:
            OSError: it cannot be opened, another process writes it, or its folder takes no further file.
        """
        real = Path(path).resolve()
        fd = os.open(real, OPENED, MODE)
        try:
            _lock(fd, real)
            _clear_up(fd, real)
            if rotation != NEVER:
                _try_out(real)
        except OSError:
            os.close(fd)
            raise
        return cls(real, fd, rotation)

    def tail(self, is_whole: Callable[[bytes], bool]) -> Tail:
        """How the file ends. `is_whole` says of a line without a line end whether it is one of ours nevertheless."""
        return _tail(self.fd, is_whole)

    def grown(self, taken: int, now: Clock) -> None:
        """So many bytes were written."""
        self.size += taken
        if self._begun is None:
            self._begun = now()

    def is_full(self, now: Clock) -> bool:
        most, oldest_s = self._rotation.max_bytes, self._rotation.max_age_s
        if most is not None and self.size >= most:
            return True
        return oldest_s is not None and self._begun is not None and now() - self._begun >= timedelta(seconds=oldest_s)

    def next_name(self, now: datetime) -> Path:
        """What the file is called once it is full: later by name than all before, whatever the clock does."""
        stamp = now.strftime(_STAMP)
        before = siblings(self.path)
        latest = _stamp_of(before[-1]) if before else ""
        if stamp <= latest:
            stamp = (datetime.strptime(latest, _STAMP).replace(tzinfo=UTC) + timedelta(microseconds=1)).strftime(_STAMP)
        return self.path.with_name(f"{self.path.name}.{stamp}")

    def rotate(self, name: Path, first_line: bytes, now: datetime) -> int:
        """Give the file its new name and go on in a new one that begins with this line. On an error all is as before.

        Returns:
            The descriptor of the file that is full, locked still: for the caller to close.

        Raises:
            OSError: it cannot be done, or somebody moved the file or removed it.
        """
        if not _same(self.fd, self.path):
            raise OSError(errno.ESTALE, "somebody moved or removed the file while it was written: restart the broker")
        following = _following(self.path)
        following.unlink(missing_ok=True)
        fd = os.open(following, OPENED | os.O_EXCL, MODE)
        try:
            _lock(fd, following)
            _put(fd, first_line)
            name.hardlink_to(self.path)
            try:
                following.rename(self.path)
            except OSError:
                name.unlink()
                raise
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                following.unlink()
            raise
        full, self.fd = self.fd, fd
        self.size, self._begun = len(first_line), now
        return full

    def outdated(self, now: datetime) -> list[Path]:
        """The full files that are not kept any more, oldest first."""
        kept = self._rotation.kept
        if kept is None:
            return []
        full = siblings(self.path)
        if kept.age_s is not None:
            oldest = (now - timedelta(seconds=kept.age_s)).strftime(_STAMP)
            late = [name for name in full if _stamp_of(name) < oldest]
        else:
            late = full[: max(0, len(full) - (kept.number or 0))]
        return [name for name in late if name not in self._stuck]

    def end_of(self, name: Path) -> Head:
        """The last whole line of a full file; nothing of one that cannot be read, or that ends with something else."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            return Head("", 0, "")
        try:
            return _tail(fd, lambda _: False).head or Head("", 0, "")
        finally:
            os.close(fd)

    def remove(self, name: Path) -> bool:
        """Delete a full file. One that cannot be deleted is outdated no more, so that nobody tries again and again."""
        try:
            name.unlink()
        except OSError as error:
            self._stuck.add(name)
            log.error("audit_file_not_discarded", extra={"file": str(name), "reason": error.strerror})  # noqa: TRY400  no defect of ours
            return False
        return True

    def is_gone(self) -> bool:
        """Somebody deleted the file that is written: what goes into it is seen by nobody."""
        return os.fstat(self.fd).st_nlink == 0


def siblings(path: Path) -> list[Path]:
    """The files that this one was before, oldest first."""
    return sorted(other for other in path.parent.iterdir() if other.name.startswith(path.name) and _is_stamp(other.name[len(path.name) :]))


def _is_stamp(end: str) -> bool:
    """The end of a name is a time that we might have given it: anybody may put files beside ours."""
    try:
        return bool(_STAMPED(end)) and datetime.strptime(end, f".{_STAMP}").replace(tzinfo=UTC).year < MAXYEAR
    except ValueError:
        return False


def _put(fd: int, line: bytes) -> None:
    if os.write(fd, line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _following(path: Path) -> Path:
    """The name of a new file before it gets the one of the file that is full."""
    return path.with_name(f".{path.name}.next")


def _stamp_of(name: Path) -> str:
    """The end of the name of a file that is full. It has a dot of its own."""
    return ".".join(name.name.rsplit(".", 2)[1:])


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OSError(error.errno, f"another process writes the audit log {path}: {_OWN}") from error


def _clear_up(fd: int, path: Path) -> None:
    """Undo what a rotation that was killed had done so far.

    Raises:
        OSError: by now another file has the name: who writes it rotated it just now.
    """
    if not _same(fd, path):
        raise OSError(errno.EBUSY, f"another process writes the audit log {path}: {_OWN}")
    for sibling in siblings(path):
        if _same(fd, sibling):
            sibling.unlink()
    _following(path).unlink(missing_ok=True)


def _try_out(path: Path) -> None:
    """A folder that takes no second name for a file would refuse the first rotation, at night."""
    trial = _following(path)
    try:
        trial.hardlink_to(path)
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}: the folder of {path} takes no second name of a file, and without one no file can be rotated"
        ) from error
    trial.unlink()


def _begun(fd: int) -> datetime | None:
    """When the first line was written; None of a file without one."""
    first, newline, _ = os.pread(fd, LINE_BYTES, 0).partition(b"\n")
    try:
        return msgspec.json.decode(first, type=_Begun).time.astimezone(UTC) if newline else None
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
        return datetime.fromtimestamp(os.fstat(fd).st_mtime, UTC)


def _tail(fd: int, is_whole: Callable[[bytes], bool]) -> Tail:
    size = os.fstat(fd).st_size
    end = os.pread(fd, min(size, LINE_BYTES), max(0, size - LINE_BYTES))
    whole, newline, torn = end.rpartition(b"\n")
    link = link_of(torn) if torn else None
    if link and is_whole(torn):
        return Tail(link.head(), unended=True)
    last = whole[whole.rfind(b"\n") + 1 :] if newline else b""
    link = link_of(last)
    return Tail(link.head() if link else None, torn)
