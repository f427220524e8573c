"""Where an exchange belongs in somebody's trace, read from the caller's headers and written for the provider. Pure.

Source: W3C Trace Context, level 2. What is not exactly as it says counts as absent: half of a context would tie spans together
that do not belong to each other, and nothing but what was judged here goes out.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from broker.chat import Header

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
SAMPLED: Final = 1
RANDOM: Final = 2  # the trace id's last 56 bits are random
STATE_BYTES: Final = 512
STATE_MEMBERS: Final = 32
IDS: Final = 1 << 64  # what a sampler draws from: the last 64 bits of a trace id

_parent = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?\Z").match
_member = re.compile(
    rb"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]\Z"
).match
_FIRST_VERSION: Final = b"00"
_NO_VERSION: Final = b"ff"


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's own span. Ids in lower-case hexadecimal digits.

    state: what the systems on the way say to each other; b"" = nothing that is well-formed.
    """

    trace_id: str
    span_id: str
    flags: int
    state: bytes


def read(headers: Iterable[Header]) -> Parent | None:
    """The caller's context, from headers with names in lower case; None = there is none, or none that is well-formed."""
    parents: list[bytes] = []
    states: list[bytes] = []
    for name, value in headers:
        if name == TRACEPARENT:
            parents.append(value)
        elif name == TRACESTATE:
            states.append(value)
    found = _parent(parents[0]) if len(parents) == 1 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _NO_VERSION or (version == _FIRST_VERSION and more is not None) or not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return Parent(trace_id.decode(), span_id.decode(), int(flags, 16) & (SAMPLED | RANDOM), _state(b",".join(states)) if states else b"")


def _state(text: bytes) -> bytes:
    """The members, without blanks around them and without empty ones; b"" when one of them is not well-formed."""
    members = [member for each in text.split(b",") if (member := each.strip(b" \t"))]
    keys = {member.partition(b"=")[0] for member in members}
    if len(members) > STATE_MEMBERS or len(keys) < len(members) or not all(map(_member, members)):
        return b""
    state = b",".join(members)
    return state if len(state) <= STATE_BYTES else b""


def headers(trace_id: str, span_id: str, flags: int, state: bytes) -> tuple[Header, ...]:
    """What tells the provider about the span that asks it."""
    parent = TRACEPARENT, f"00-{trace_id}-{span_id}-{flags:02x}".encode()
    return (parent, (TRACESTATE, state)) if state else (parent,)


@dataclass(frozen=True, slots=True)
class Sampler:
    """Which traces are recorded: as its parent is, where `by_parent` and there is one; else so many of all, chosen by their ids.

    bound: of IDS; every system that draws at the same ratio by the last 64 bits of an id chooses the same traces.
    """

    by_parent: bool = True
    bound: int = IDS

    def samples(self, parent: Parent | None, trace_id: str) -> bool:
        if self.by_parent and parent is not None:
            return bool(parent.flags & SAMPLED)
        return int(trace_id[16:], 16) < self.bound
