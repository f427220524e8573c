"""The audit log: one JSON line per exchange, whatever happened, chained so that an edit shows. Never a prompt, never a header.

Every line ends with `chain`, `seq`, `prev` and `hash`. `hash` is SHA-256 over the line's own bytes up to `,"hash":` (HMAC-SHA256
when there is a key), and `prev` is the hash of the line before, so that each line vouches for all before it. What a chain cannot
show by itself is a missing tail, or (without a key) a file rewritten from some line to its end: for that the head goes to the
log once a minute and at the end, and to a metric: compare it with what `verify` finds.

Failure direction: when a write failed, `ready` refuses the next request until writing works again.
Durability: lines reach the kernel at the end of the turn of the event loop that made them, so that a killed process loses at
most that turn. They are fsynced by `close` only: a power cut may take what the kernel had not written yet. What was in flight
when a process died is in the quota store, and a restart writes it as `expired`.
"""

import asyncio
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import select
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, Protocol, Self

import msgspec

from broker.adjustment import Adjusted
from broker.errors import Unavailable
from broker.grant import PolicyRef

PENDING_BYTES: Final = 4 << 20  # about 5,000 lines; beyond it lines are counted as lost, and the count is written
TAIL_BYTES: Final = 1 << 20  # no line is longer
PIPE_PIECE_BYTES: Final = 4096  # PIPE_BUF: a pipe that polls as writable takes this much without blocking
STALLED_BYTES: Final = 1 << 20  # a reader of our pipe that is this far behind counts as a failed write
STALL_RETRY_S: Final = 0.05
NOTE_S: Final = 60.0  # so often the head goes to the log, when lines were written since

log = logging.getLogger(__name__)


class Line(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="kind", tag="exchange"):
    """One exchange. What was not reached when it ended has its default.

    model: as the caller asked for it. namespace: where that name resolved.
    decision: `allowed` once policy, quota and routing had said yes, whatever came of it.
    code: `answered`, `caller_left`, `cut_off`, `listed`, or the code of the refusal (broker.errors).
    status: what the caller was sent; 0 when nothing was.
    would_refuse: codes that rules in Shadow mode would have refused with.
    held_tokens: the hold, prompt bound and granted output together.
    estimated: nobody reported a final usage, so the whole hold was spent, and the token figures are that bound.
    cost_microusd: what it costs, in millionths of a US dollar; None without a price. Estimated as the tokens are.
    first_byte_ms: from the request's first byte to the first byte of the provider's answer; None when there was none.
    """

    time: datetime
    exchange: str
    code: str
    status: int
    decision: Literal["allowed", "refused"] = "refused"
    spiffe_id: str = ""
    dialect: str = ""
    stream: bool = False
    model: str = ""
    namespace: str = ""
    provider: str = ""
    provider_model: str = ""
    attempts: int = 0
    policies: tuple[PolicyRef, ...] = ()
    features: tuple[str, ...] = ()
    would_refuse: tuple[str, ...] = ()
    held_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_microusd: int | None = None
    estimated: bool = False
    first_byte_ms: float | None = None
    total_ms: float = 0.0


class Start(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="start"):
    """A process took the log up. `torn_*` name the half line that the one before left behind (0 and "" when it did not)."""

    time: datetime
    version: str
    keyed: bool
    torn_bytes: int = 0
    torn_sha256: str = ""


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="stop"):
    """An orderly end. A chain that goes on with `start` and no `stop` before it was killed."""

    time: datetime


class Expired(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="expired"):
    """A hold that nobody settled in time, and that was spent whole: an exchange that a crash took."""

    time: datetime
    exchange: str
    spiffe_id: str
    tokens: int
    cost_microusd: int = 0


class Lost(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="lost"):
    """So many lines were not kept while nothing could be written."""

    time: datetime
    lines: int


Record = Line | Start | Stop | Expired | Lost | Adjusted


class _Link(msgspec.Struct, frozen=True):
    chain: str
    seq: int
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: what to note elsewhere, so that a missing tail shows."""

    chain: str
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class _Tail:
    head: Head | None
    torn: bytes


class Audit:
    """The open log. One process writes a file; `open` refuses a second one.

    failures: writes that the system refused so far. lost: lines that were not kept so far.
    """

    def __init__(self, fd: int, head: Head, key: bytes | None) -> None:
        self.failures = 0
        self.lost = 0
        self._fd = fd
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._blank = _blank(key)
        self._chain = head.chain.encode()
        self._seq = head.seq
        self._prev = head.hash
        self._encode: Callable[[Record], bytes] = msgspec.json.Encoder().encode
        self._pending = bytearray()
        self._scheduled = False
        self._failed = ""
        self._unsaid = 0
        self._closed = False
        self._note_at_s = 0.0

    @classmethod
    def open(cls, path: str, version: str, key: bytes | None = None) -> Self:
        """Open the file (made with mode 0600) or, for "-", standard output, and write the `start` line.

        A file's chain goes on from its last whole line. Standard output, an empty file and a file whose last line is not ours
        begin a new one.

        Raises:
            OSError: the file cannot be opened, another process writes it, or it takes no bytes.
        """
        if path == "-":
            fd, tail = os.dup(1), _Tail(None, b"")
        else:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o600)
            try:
                tail = _take_up(fd, path)
            except OSError:
                os.close(fd)
                raise
        audit = cls(fd, tail.head or Head(secrets.token_hex(4), 0, ""), key)
        if tail.torn:
            audit._pending += b"\n"
        torn = hashlib.sha256(tail.torn).hexdigest() if tail.torn else ""
        audit._append(Start(time=datetime.now(UTC), version=version, keyed=bool(key), torn_bytes=len(tail.torn), torn_sha256=torn))
        audit.flush()
        if audit._failed:
            os.close(fd)
            raise OSError(f"cannot write the audit log {path}: {audit._failed}; free space or name another file with --audit")
        return audit

    def write(self, line: Record) -> None:
        """Chain a line and write it, with all others of this turn of the event loop, in one system call at the end of the turn."""
        if len(self._pending) > PENDING_BYTES:
            self.lost += 1
            self._unsaid += 1
            return
        self._append(line)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

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
        return Head(self._chain.decode(), self._seq, self._prev)

    def flush(self) -> None:
        """Hand everything to the system now; what it does not take stays for the next try."""
        try:
            self._hand_over()
        except OSError as error:
            self.failures += 1
            self._failed = error.strerror or "write failed"
            return
        self._failed = ""
        if self._unsaid and len(self._pending) < STALLED_BYTES:
            lost, self._unsaid = self._unsaid, 0
            self._append(Lost(time=datetime.now(UTC), lines=lost))
            self.flush()

    def close(self) -> None:
        """Write `stop`, flush, fsync, let go of the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._append(Stop(time=datetime.now(UTC)))
        self.flush()
        if self._regular:
            os.fsync(self._fd)
        os.close(self._fd)
        self._note()

    def _append(self, line: Record) -> None:
        self._seq += 1
        said = b'%b,"chain":"%b","seq":%d,"prev":"%b"' % (self._encode(line)[:-1], self._chain, self._seq, self._prev.encode())
        self._prev = _digest(said, self._blank)
        self._pending += b'%b,"hash":"%b"}\n' % (said, self._prev.encode())

    def _turn(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        self.flush()
        if self._pending:
            self._scheduled = True
            loop.call_later(STALL_RETRY_S, self._turn)
        elif loop.time() >= self._note_at_s:
            self._note_at_s = loop.time() + NOTE_S
            self._note()

    def _note(self) -> None:
        """Tell the log where the chain ends: another place, so that a tail that was cut off shows there."""
        log.info("audit_head", extra={"chain": self._chain.decode(), "seq": self._seq, "hash": self._prev})

    def _hand_over(self) -> None:
        while self._pending:
            if self._regular:
                taken = os.write(self._fd, self._pending)
            elif _writable(self._fd):
                taken = os.write(self._fd, self._pending[:PIPE_PIECE_BYTES])
            else:
                return
            del self._pending[:taken]


class _Hash(Protocol):
    def copy(self) -> Self: ...
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def _blank(key: bytes | None) -> _Hash:
    """The hash before its first byte: made once and copied for each line, which is a third cheaper than a new one."""
    return hmac.new(key, None, "sha256") if key else hashlib.sha256()


def _digest(said: bytes, blank: _Hash) -> str:
    digest = blank.copy()
    digest.update(said)
    return digest.hexdigest()


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


def _take_up(fd: int, path: str) -> _Tail:
    """Lock the file for this process and read where it ends."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return _Tail(None, b"")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OSError(error.errno, f"another process writes the audit log {path}: give each broker its own --audit") from error
    size = os.fstat(fd).st_size
    end = os.pread(fd, min(size, TAIL_BYTES), max(0, size - TAIL_BYTES))
    whole, newline, torn = end.rpartition(b"\n")
    last = whole[whole.rfind(b"\n") + 1 :] if newline else b""
    link = _link(last)
    return _Tail(Head(link.chain, link.seq, link.hash) if link else None, torn)


def _link(line: bytes) -> _Link | None:
    try:
        return msgspec.json.decode(line, type=_Link)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a file should not show. `line` counts from 1."""

    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found: the heads of all chains in the file, and the faults, in the order of the file."""

    lines: int
    heads: tuple[Head, ...]
    faults: tuple[Fault, ...]


def verify(path: str, key: bytes | None = None) -> Verdict:
    """Check each line's hash and its place in its chain.

    Finds: an edited, removed, inserted or moved line; a torn line that no `start` names. Cannot find: lines missing at the end, or
    a whole chain missing (compare `heads` with what was logged); a file without a key that was rewritten to its end (likewise).
    """
    heads: dict[str, Head] = {}
    faults: list[Fault] = []
    torn: tuple[int, bytes] | None = None
    number, blank = 0, _blank(key)
    with open(path, "rb") as file:  # noqa: PTH123  bytes as they are, line by line
        for number, raw in enumerate(file, 1):
            line = raw.removesuffix(b"\n")
            link = _link(line)
            if torn and not (link and b'"torn_sha256":"%b"' % hashlib.sha256(torn[1]).hexdigest().encode() in line):
                faults.append(Fault(torn[0], "not a line of the audit log"))
            torn = None if link else (number, line)
            if link:
                what = _fault(line, link, heads.get(link.chain), blank)
                faults += [Fault(number, what)] if what else []
                heads[link.chain] = Head(link.chain, link.seq, link.hash)
    if torn:
        faults.append(Fault(torn[0], "torn: the process that wrote it was killed, or this is no line of the audit log"))
    return Verdict(number, tuple(heads.values()), tuple(faults))


def _fault(line: bytes, link: _Link, before: Head | None, blank: _Hash) -> str:
    said, _, rest = line.rpartition(b',"hash":"')
    if not hmac.compare_digest(_digest(said, blank).encode() + b'"}', rest):
        return "edited: its hash is not that of its bytes (or the key is another)"
    expected = before or Head(link.chain, 0, "")
    if link.seq != expected.seq + 1:
        return f"lines are missing or moved: seq {link.seq} follows {expected.seq}"
    if link.prev != expected.hash:
        return "does not follow from the line before it: that one was replaced"
    return ""
