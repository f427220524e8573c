"""What stands in the audit log: the kinds of lines, and how each is tied to the one before. Pure.

Every line ends with `chain`, `seq`, `prev` and `hash`. `hash` is SHA-256 over the line's own bytes up to `,"hash":` (HMAC-SHA256
when there is a key), and `prev` is the hash of the line before, so that each line vouches for all before it.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol, Self, TypeVar

import msgspec

from broker.adjustment import Adjusted
from broker.grant import PolicyRef

LINE_BYTES: Final = 1 << 20  # no line is longer


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


class Rotated(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="rotated"):
    """The first line of a file that goes on where another ended. `file`: what that one is called from now on."""

    time: datetime
    file: str
    keyed: bool


class Discarded(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="discarded"):
    """A file that was older than what is kept, and is deleted now: the chain and the number and hash of its last line.

    What is missing at the beginning of a chain is accounted for by this line, and by nothing else.
    """

    time: datetime
    file: str
    last_chain: str
    last_seq: int
    last_hash: str


Record = Line | Start | Stop | Expired | Lost | Rotated | Discarded | Adjusted


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: what to note elsewhere, so that a missing tail shows."""

    chain: str
    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.hash}@{self.seq}"


class Link(msgspec.Struct, frozen=True, gc=False):
    """A line's place in its chain, as it says itself."""

    chain: str
    seq: int
    prev: str
    hash: str

    def head(self) -> Head:
        return Head(self.chain, self.seq, self.hash)


_decode_link: Final = msgspec.json.Decoder(Link).decode
_Kind = TypeVar("_Kind")


def link_of(line: bytes) -> Link | None:
    """None of what is no line of an audit log."""
    try:
        return _decode_link(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def read_as(kind: type[_Kind], line: bytes) -> _Kind | None:
    """A line of this kind; None of any other."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class Hash(Protocol):
    """What hashlib and hmac have in common."""

    def copy(self) -> Self: ...
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def blank(key: bytes | None) -> Hash:
    """The hash before its first byte: made once and copied for each line, which is a third cheaper than a new one."""
    return hmac.new(key, None, "sha256") if key else hashlib.sha256()


def digest(said: bytes, empty: Hash) -> str:
    copied = empty.copy()
    copied.update(said)
    return copied.hexdigest()


def is_of(line: bytes, empty: Hash) -> bool:
    """The hash at the end of the line is that of its bytes."""
    said, _, rest = line.rpartition(b',"hash":"')
    return hmac.compare_digest(digest(said, empty).encode() + b'"}', rest)


class Chain:
    """The end of a chain, to which lines are tied."""

    def __init__(self, head: Head, key: bytes | None) -> None:
        self._chain = head.chain.encode()
        self._seq = head.seq
        self._prev = head.hash
        self._blank = blank(key)
        self._encode: Callable[[Record], bytes] = msgspec.json.Encoder().encode

    def head(self) -> Head:
        return Head(self._chain.decode(), self._seq, self._prev)

    def tie(self, record: Record) -> bytes:
        """The next line of the chain, with its line end."""
        self._seq += 1
        said = b'%b,"chain":"%b","seq":%d,"prev":"%b"' % (self._encode(record)[:-1], self._chain, self._seq, self._prev.encode())
        self._prev = digest(said, self._blank)
        return b'%b,"hash":"%b"}\n' % (said, self._prev.encode())

    def back_to(self, head: Head) -> None:
        """Forget the lines after this head, of the same chain: nobody has them."""
        self._seq, self._prev = head.seq, head.hash
