"""What was found in an audit log and what was not, and how that is said. Pure."""

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from broker.audit.lines import Head
from broker.cells import plain

NOTED_DIGITS: Final = 13  # what the metric has of a hash
_NOTED: Final = re.compile(r"([0-9a-f]{13,64})@([1-9][0-9]{0,18})").fullmatch


@dataclass(frozen=True, slots=True)
class Noted:
    """A head that somebody wrote down elsewhere. `hash`: its beginning, or all of it."""

    hash: str
    seq: int

    def __str__(self) -> str:
        return f"{self.hash}@{self.seq}"


def noted(text: str) -> Noted:
    """HASH@SEQ.

    Raises:
        ValueError: it is not.
    """
    found = _NOTED(text.lower())
    if found is None:
        raise ValueError(f"{text!r} is not HASH@SEQ, with at least the first {NOTED_DIGITS} digits of the hash")
    return Noted(found[1], int(found[2]))


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Something that a log should not show. `line` counts from 1."""

    file: str
    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found.

    heads: where each chain ends. firsts: the number of each chain's first line that is there.
    faults: in the order of the files as given; `left_out` more were counted only.
    vouched: of each chain the last line that a noted head vouches for; 0 when none does.
    """

    files: int
    lines: int
    heads: tuple[Head, ...]
    firsts: tuple[int, ...]
    vouched: tuple[int, ...]
    faults: tuple[Fault, ...]
    left_out: int
    keyed: bool

    @property
    def blind(self) -> tuple[str, ...]:
        """What was not found because it cannot be."""
        after = " after the noted head" if any(self.vouched) else ""
        if self.heads and all(vouched == head.seq for vouched, head in zip(self.vouched, self.heads, strict=True)):
            said = ["lines that were cut off after the noted head, and chains that are missing as a whole"]
        else:
            said = ["lines that were cut off at the end of a chain, and chains that are missing as a whole: compare their ends with --head"]
        if not self.keyed:
            said.append(f"a log that was written anew from some line{after} to its end, and chains that were made up: a key shows both")
        return tuple(said)


def text(verdict: Verdict) -> str:
    said = [f"{fault.file}{f':{fault.line}' if fault.line else ''}: {fault.what}" for fault in verdict.faults]
    if verdict.left_out:
        said.append(f"… and {verdict.left_out} faults more")
    said.append(
        f"{verdict.lines} lines in {_counted(verdict.files, 'file')}, {'with a key' if verdict.keyed else 'without a key'}: "
        f"{_counted(len(verdict.faults) + verdict.left_out, 'fault')}"
    )
    ends = zip(verdict.heads, verdict.firsts, strict=True)
    said += [f"chain {head.chain}: seq {first} to {head.seq}, head {head}" for head, first in ends]
    said += [f"cannot be found: {what}" for what in verdict.blind]
    return "".join(plain(line) + "\n" for line in said)


def as_json(verdict: Verdict) -> str:
    said = {
        "ok": not verdict.faults,
        "files": verdict.files,
        "lines": verdict.lines,
        "keyed": verdict.keyed,
        "faults": [{"file": fault.file, "line": fault.line or None, "what": fault.what} for fault in verdict.faults],
        "faults_left_out": verdict.left_out,
        "chains": [
            {"chain": head.chain, "first_seq": first, "last_seq": head.seq, "head": str(head), "vouched_to": vouched}
            for head, first, vouched in zip(verdict.heads, verdict.firsts, verdict.vouched, strict=True)
        ],
        "cannot_be_found": list(verdict.blind),
    }
    return msgspec.json.format(msgspec.json.encode(said), indent=2).decode() + "\n"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
