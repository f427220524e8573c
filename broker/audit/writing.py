"""Writing the audit log: one line per exchange, whatever happened; on to the next file when one is full.

Failure direction: when a write or a rotation failed, `ready` refuses the next request until it works again.
Durability: lines reach the kernel at the end of the turn of the event loop that made them, so that a killed process loses at
most that turn. They are fsynced when their file is full and by `close` only: a power cut may take what the kernel had not written
yet. What was in flight when a process died is in the quota store, and a restart writes it as `expired`.
"""

import asyncio
import errno
import hashlib
import logging
import os
import secrets
import select
import stat
import threading
from datetime import UTC, datetime
from typing import Final, Self

from broker.audit.folder import MODE, NEVER, OPENED, Folder, Rotation, Tail
from broker.audit.lines import Chain, Discarded, Head, Lost, Record, Rotated, Start, Stop, blank, is_of
from broker.errors import Unavailable

PENDING_BYTES: Final = 4 << 20  # about 5,000 lines; beyond it lines are counted as lost, and the count is written
PIPE_PIECE_BYTES: Final = 4096  # PIPE_BUF: a pipe that polls as writable takes this much without blocking
STALLED_BYTES: Final = 1 << 20  # a reader of our pipe that is this far behind counts as a failed write
STALL_RETRY_S: Final = 0.05
NOTE_S: Final = 60.0  # so often the head goes to the log when lines were written since, and old files are looked for
DISCARDED_AT_ONCE: Final = 16  # so that a switch that was turned down holds no request up

log = logging.getLogger("broker.audit")


class Audit:
    """The open log. One process writes a file; `open` refuses a second one.

    failures: writes and rotations that the system refused so far. lost: lines that were not kept so far.
    """

    def __init__(self, fd: int, folder: Folder | None, chain: Chain, *, keyed: bool) -> None:
        self.failures = 0
        self.lost = 0
        self._fd = fd
        self._folder = folder
        self._chain = chain
        self._keyed = keyed
        self._pending = bytearray()
        self._scheduled = False
        self._failed = ""
        self._unsaid = 0
        self._closed = False
        self._note_at_s = 0.0
        self._noted = 0
        self._look_at_s = 0.0
        self._letting_go: threading.Thread | None = None

    @classmethod
    def open(cls, path: str, version: str, key: bytes | None = None, rotation: Rotation = NEVER) -> Self:
        """Open the file (made with mode 0600) or, for "-", standard output, and write the `start` line.

        A file's chain goes on from its last whole line. Standard output, an empty file and a file whose last line is not ours
        begin a new one.

        Raises:
            OSError: the file cannot be opened, another process writes it, or it takes no bytes.
            ValueError: what is no file cannot be rotated.
        """
        fd, folder, tail = _take_up(path, key, rotation)
        audit = cls(fd, folder, Chain(tail.head or Head(secrets.token_hex(4), 0, ""), key), keyed=bool(key))
        if tail.torn or tail.unended:
            audit._pending += b"\n"
        torn = hashlib.sha256(tail.torn).hexdigest() if tail.torn else ""
        start = Start(time=_now(), version=version, keyed=bool(key), torn_bytes=len(tail.torn), torn_sha256=torn)
        audit._pending += audit._chain.tie(start)
        before = folder.size if folder else 0
        audit.flush()
        if audit._failed:
            if folder and audit._fd == fd:
                os.ftruncate(fd, before)  # half a line of ours would hide the half line that is there
            os.close(audit._fd)
            raise OSError(f"cannot write the audit log {path}: {audit._failed}; free space or name another file with --audit")
        return audit

    def write(self, line: Record) -> None:
        """Chain a line and write it, with all others of this turn of the event loop, in one system call at the end of the turn."""
        if len(self._pending) > PENDING_BYTES:
            self.lost += 1
            self._unsaid += 1
            return
        self._pending += self._chain.tie(line)
        self._schedule()

    def ready(self) -> None:
        """Ask before a request is served.

        Raises:
            Unavailable: the last write failed, or the reader of our pipe is far behind; and so did one more try just now.
        """
        if self._failed or len(self._pending) > STALLED_BYTES:
            self.flush()
            if self._failed or len(self._pending) > STALLED_BYTES:
                raise Unavailable("the audit log cannot be written, and nothing is answered without it; try again later", retry_after_s=1)

    @property
    def why_not_ready(self) -> str:
        """For /readyz: what is wrong and what to do; empty when nothing is."""
        if self._failed:
            return f"the audit log cannot be written ({self._failed}): free space on its disk, or restart with another --audit"
        if len(self._pending) > STALLED_BYTES:
            return "the reader of the audit log does not keep up: see to what reads the broker's standard output"
        return ""

    def head(self) -> Head:
        return self._chain.head()

    def flush(self) -> None:
        """Hand everything to the system now; what it does not take stays for the next try. A file that is full is rotated."""
        try:
            self._hand_over()
            if self._folder:
                self._see_to(self._folder)
        except OSError as error:
            self._fail(error)
            return
        if self._failed:
            self._failed = ""
            log.warning("audit_works_again", extra={"lost_lines": self._unsaid})
        if self._unsaid and len(self._pending) < STALLED_BYTES:
            lost, self._unsaid = self._unsaid, 0
            self._pending += self._chain.tie(Lost(time=_now(), lines=lost))
            self.flush()

    def tend(self) -> None:
        """What has its time and not its line: call it every few seconds, in the event loop."""
        if self._closed:
            return
        self.flush()
        now_s = asyncio.get_running_loop().time()
        if self._folder and now_s >= self._look_at_s and not self._failed:
            self._look_at_s = now_s + NOTE_S
            try:
                self._discard(self._folder)
            except OSError as error:
                self._fail(error)
        self._note_in_time(now_s)

    def close(self) -> None:
        """Write `stop`, flush, fsync, let go of the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._pending += self._chain.tie(Stop(time=_now()))
        self.flush()
        if self._letting_go:
            self._letting_go.join()
        if self._pending:
            log.error("audit_lines_lost", extra={"lines": self._pending.count(b"\n"), "reason": self.why_not_ready})
        _let_go(self._fd)
        self._note()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        self.flush()
        if self._pending or self._failed:
            self._scheduled = True
            loop.call_later(STALL_RETRY_S, self._turn)
        else:
            self._note_in_time(loop.time())

    def _note_in_time(self, now_s: float) -> None:
        if now_s >= self._note_at_s and self._noted != self.head().seq:
            self._note_at_s = now_s + NOTE_S
            self._note()

    def _note(self) -> None:
        """Tell the log where the chain ends: another place, so that a tail that was cut off shows there."""
        head = self.head()
        self._noted = head.seq
        log.info("audit_head", extra={"chain": head.chain, "seq": head.seq, "hash": head.hash})

    def _fail(self, error: OSError) -> None:
        self.failures += 1
        reason = error.strerror or "write failed"
        if reason != self._failed:
            self._failed = reason
            log.error("audit_failed", extra={"reason": reason, "advice": "requests are refused until it works again"})

    def _hand_over(self) -> None:
        while self._pending:
            if self._folder:
                taken = os.write(self._fd, self._pending)
                self._folder.grown(taken, _now)
            elif _writable(self._fd):
                taken = os.write(self._fd, self._pending[:PIPE_PIECE_BYTES])
            else:
                return
            del self._pending[:taken]

    def _see_to(self, folder: Folder) -> None:
        """Go on in a new file when this one is full. All lines are in it by now, and nobody can write one meanwhile."""
        if folder.is_gone():
            raise OSError(errno.ESTALE, f"{folder.path} was deleted while it was written; restart the broker")
        if self._closed or not folder.is_full(_now):
            return
        now = _now()
        name, before = folder.next_name(now), self.head()
        first = self._chain.tie(Rotated(time=now, file=name.name, keyed=self._keyed))
        try:
            full = folder.rotate(name, first, now)
        except OSError as error:
            self._chain.back_to(before)
            raise OSError(error.errno, f"it is full and no new file can be begun: {error.strerror}") from error
        self._fd = folder.fd
        log.info("audit_rotated", extra={"file": str(name), "chain": before.chain, "seq": before.seq, "hash": before.hash})
        if self._letting_go:
            self._letting_go.join()
        self._letting_go = threading.Thread(target=_let_go, args=(full,), name="audit-let-go")
        self._letting_go.start()  # fsync may take seconds, and nobody waits for it
        self._discard(folder)

    def _discard(self, folder: Folder) -> None:
        """Delete the files that are not kept any more, each after the line that accounts for it has been written."""
        now = _now()
        for name in folder.outdated(now)[:DISCARDED_AT_ONCE]:
            last = folder.end_of(name)
            line = Discarded(time=now, file=name.name, last_chain=last.chain, last_seq=last.seq, last_hash=last.hash)
            self._pending += self._chain.tie(line)
            self._hand_over()
            if folder.remove(name):
                log.info("audit_discarded", extra={"file": str(name), "seq": last.seq, "hash": last.hash})


def _take_up(path: str, key: bytes | None, rotation: Rotation) -> tuple[int, Folder | None, Tail]:
    fd = os.dup(1) if path == "-" else os.open(path, OPENED, MODE)
    if path != "-" and stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        folder = Folder.open(path, rotation)
        empty = blank(key)
        return folder.fd, folder, folder.tail(lambda line: is_of(line, empty))
    if rotation != NEVER:
        os.close(fd)
        raise ValueError(
            f"--audit {path} is no file, so it cannot be rotated: leave out --audit-max-bytes, --audit-max-age and --audit-keep"
        )
    return fd, None, Tail(None)


def _now() -> datetime:
    return datetime.now(UTC)


def _let_go(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            log.error("audit_not_on_disk", extra={"reason": error.strerror})  # noqa: TRY400  no defect of ours
    finally:
        os.close(fd)


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))
