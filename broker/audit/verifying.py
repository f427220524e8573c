"""Is an audit log as it was written? Each line's hash, its place in its chain, and the chains across files and restarts.

Files come in any order: each is read once, line by line, and what is kept of it is where its chains begin and end. Those are put
together at the end. Memory is bounded by the number of files and chains.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from broker.audit.lines import Discarded, Hash, Head, Link, Start, blank, is_of, link_of, read_as
from broker.audit.reading import lines_of
from broker.audit.verdict import Fault, Noted, Verdict

FAULTS_KEPT: Final = 1_000  # further ones are counted
CHAINS_MAX: Final = 10_000  # one a restart at most, and mostly one for ever
DISCARDS_MAX: Final = 10_000
TOLD_BYTES: Final = 16 << 20  # so often somebody is told how far we are
_EDITED: Final = "edited: its hash is not that of its bytes"

Progress = Callable[[str, int], None]


class KeyNeeded(ValueError):
    """The log was made with a key, and none was given."""


@dataclass(slots=True)
class _Piece:
    """What one file has of one chain.

    begins_with_key, with_key: which key its first and its last line were made with, -1 = none, None = nobody knows.
    keyed: any line was made with one.
    """

    place: tuple[str, int]
    first: Link
    last: Head
    end: int
    begins_with_key: int | None
    with_key: int | None
    keyed: bool
    order: int
    is_start: bool


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A line that is none of ours, or not any more, unless the next one says that a crash left it half written."""

    line: int
    what: str
    sha256: str
    link: Link | None


@dataclass(slots=True)
class _File:
    name: str
    order: int
    pieces: dict[str, _Piece] = field(default_factory=dict[str, _Piece])
    doubt: _Doubt | None = None


class Verifier:
    """Give it files, then ask for the verdict.

    keys: that the log may have been made with. A chain goes from one to another at a `start` only, and never back to none.
    noted: heads that were written down elsewhere.
    """

    def __init__(self, keys: Sequence[bytes] = (), noted_heads: Sequence[Noted] = (), progress: Progress | None = None) -> None:
        self._blanks: list[Hash] = [blank(key) for key in keys]
        self._unkeyed = blank(None)
        self._noted = noted_heads
        self._noted_seqs = {head.seq for head in noted_heads}
        self._found: dict[Noted, tuple[str, int]] = {}
        self._other: dict[Noted, tuple[str, int, str]] = {}
        self._progress = progress
        self._pieces: dict[str, list[_Piece]] = {}
        self._discards: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._faults: list[tuple[int, Fault]] = []
        self._counted = 0
        self._files = 0
        self._lines = 0
        self._orders: dict[str, int] = {}

    def read(self, name: str, file: IO[bytes]) -> None:
        """One file, from its beginning.

        Raises:
            KeyNeeded: it says that it was made with a key.
            OSError: it cannot be read.
        """
        self._files += 1
        here = _File(name, self._orders.setdefault(name, len(self._orders)))
        read = told = 0
        for number, raw in lines_of(file):
            read += len(raw)
            if self._progress and read - told >= TOLD_BYTES:
                told = read
                self._progress(name, read)
            self._lines += 1
            self._line(here, number, raw)
        if here.doubt:
            torn = "torn: who wrote it was killed, or writes it just now; or this is no line of the audit log"
            self._fault(here, here.doubt.line, here.doubt.what if here.doubt.link else torn)
            self._go_on(here, here.doubt)
        for piece in here.pieces.values():
            self._keep(piece)

    def verdict(self) -> Verdict:
        """What all files together show."""
        for chain, pieces in self._pieces.items():
            pieces.sort(key=lambda piece: (piece.first.seq, piece.order))
            self._join(chain, pieces)
        ends = {chain: max((piece.last for piece in pieces), key=lambda head: head.seq) for chain, pieces in self._pieces.items()}
        for head in self._noted:
            if head not in self._found:
                self._missing(head, ends)
        vouched = dict.fromkeys(ends, 0)
        for head, (chain, _) in self._found.items():
            vouched[chain] = max(vouched.get(chain, 0), head.seq)
        self._faults.sort(key=lambda one: (one[0], one[1].line))
        return Verdict(
            files=self._files,
            lines=self._lines,
            heads=tuple(ends.values()),
            firsts=tuple(self._pieces[chain][0].first.seq for chain in ends),
            vouched=tuple(vouched[chain] for chain in ends),
            faults=tuple(fault for _, fault in self._faults),
            left_out=self._counted - len(self._faults),
            keyed=bool(self._blanks),
        )

    def _line(self, here: _File, number: int, raw: bytes) -> None:
        line = raw.removesuffix(b"\n")
        link = link_of(line)
        doubt, here.doubt = here.doubt, None
        start = read_as(Start, line) if link and line.startswith(b'{"kind":"start"') else None
        torn = start.torn_sha256 if start else ""
        if doubt and (not torn or torn != doubt.sha256):
            self._fault(here, doubt.line, doubt.what)
            self._go_on(here, doubt)
        elif torn and not doubt:
            self._fault(here, number, "the half line before it, which it names, is missing")
        if link is None:
            here.doubt = _Doubt(number, "not a line of the audit log", _sha256(line), None)
            return
        known = here.pieces.get(link.chain)
        key = self._key_of(line, known, is_start=start is not None)
        if key is None:
            self._need_key(here.name, line)
            here.doubt = _Doubt(number, _EDITED + (", or the key is another" if self._blanks else ""), _sha256(line), link)
            return
        if raw == line:
            self._fault(here, number, "cut off: its line end is missing; who wrote it was killed, or writes just now")
        self._place(here, number, link, key, is_start=start is not None)
        self._look(here.name, number, line, link)

    def _place(self, here: _File, number: int, link: Link, key: int, *, is_start: bool) -> None:
        """Its place in its chain, as far as this file has it."""
        piece = here.pieces.get(link.chain)
        if piece is None:
            if len(here.pieces) + len(self._pieces) >= CHAINS_MAX:
                self._fault(here, number, f"more than {CHAINS_MAX} chains: this is not one log")
                return
            here.pieces[link.chain] = _Piece(
                (here.name, number), link, link.head(), number, key, key, keyed=key >= 0, order=here.order, is_start=is_start
            )
            return
        if link.seq <= piece.last.seq:
            self._fault(here, number, f"repeated or moved: seq {link.seq} follows {piece.last.seq}")
            return
        if link.seq > piece.last.seq + 1:
            self._fault(here, number, f"lines before it are missing or moved: seq {link.seq} follows {piece.last.seq}")
        elif link.prev != piece.last.hash:
            self._fault(here, number, "does not follow from the line before it: that one was replaced")
        if piece.keyed and piece.with_key != -1 and key < 0:
            self._fault(here, number, "made without the key, after lines that were made with it")
        piece.last, piece.end, piece.with_key, piece.keyed = link.head(), number, key, piece.keyed or key >= 0

    def _go_on(self, here: _File, doubt: _Doubt) -> None:
        """After an edited line the chain goes on as if it were the one that was there, so that one edit is one fault."""
        link = doubt.link
        if link is None:
            return
        piece = here.pieces.get(link.chain)
        if piece:
            piece.last, piece.end = Head(link.chain, piece.last.seq + 1, link.hash), doubt.line
        elif not here.pieces:
            here.pieces[link.chain] = _Piece(
                (here.name, doubt.line), link, link.head(), doubt.line, None, None, keyed=False, order=here.order, is_start=True
            )

    def _key_of(self, line: bytes, piece: _Piece | None, *, is_start: bool) -> int | None:
        """Which key it was made with, -1 = none; None = it was made with nothing that may be here."""
        if not self._blanks:
            return -1 if is_of(line, self._unkeyed) else None
        if piece and piece.with_key is not None and not is_start:
            empty = self._unkeyed if piece.with_key < 0 else self._blanks[piece.with_key]
            return piece.with_key if is_of(line, empty) else None
        for at, empty in enumerate(self._blanks):
            if is_of(line, empty):
                return at
        return -1 if is_of(line, self._unkeyed) else None

    def _need_key(self, name: str, line: bytes) -> None:
        if not self._blanks and b'"keyed":true' in line and line.startswith((b'{"kind":"start"', b'{"kind":"rotated"')):
            raise KeyNeeded(f"{name} was made with a key: give it with --key-file")

    def _look(self, name: str, number: int, line: bytes, link: Link) -> None:
        """What a line tells beyond its place: a noted head, or a file that was discarded."""
        if link.seq in self._noted_seqs:
            for head in self._noted:
                if head.seq == link.seq and link.hash.startswith(head.hash):
                    self._found[head] = (link.chain, link.seq)
                elif head.seq == link.seq:
                    self._other[head] = (name, number, link.chain)
        if line.startswith(b'{"kind":"discarded"'):
            gone = read_as(Discarded, line)
            if gone:
                self._discards[gone.last_chain, gone.last_seq] = gone.last_hash
            if len(self._discards) > DISCARDS_MAX:
                self._discards.popitem(last=False)

    def _keep(self, piece: _Piece) -> None:
        self._pieces.setdefault(piece.first.chain, []).append(piece)

    def _join(self, chain: str, pieces: Sequence[_Piece]) -> None:
        """One chain across files."""
        before: _Piece | None = None
        keyed = False
        for piece in pieces:
            what = self._first(chain, piece) if before is None else self._next(chain, before, piece)
            if what:
                self._fault_at(piece, what)
            if keyed and piece.begins_with_key == -1:
                self._fault_at(piece, "made without the key, after lines that were made with it")
            keyed = keyed or piece.keyed
            if before is None or piece.last.seq >= before.last.seq:
                before = piece
        if self._blanks and not keyed and pieces[0].begins_with_key == -1:
            self._fault_at(pieces[0], f"no line of chain {chain} was made with the key")

    def _first(self, chain: str, piece: _Piece) -> str:
        if piece.first.seq == 1 and not piece.first.prev:
            return "" if piece.is_start else "begins a chain, and is no start"
        if self._accounted(chain, piece.first):
            return ""
        return (
            f"begins with seq {piece.first.seq}: what came before is missing, and no line says that it was discarded; "
            "give its files as well, or its end with --head"
        )

    def _next(self, chain: str, before: _Piece, piece: _Piece) -> str:
        where = f"{before.place[0]}:{before.end}"
        if piece.first.seq <= before.last.seq:
            return f"lines are repeated: seq {piece.first.seq} comes again after {before.last.seq} ({where})"
        if piece.first.seq == before.last.seq + 1:
            return "" if piece.first.prev == before.last.hash else f"does not follow from the line before ({where}): that was replaced"
        if self._accounted(chain, piece.first):
            return ""
        return f"lines are missing: seq {piece.first.seq} follows {before.last.seq} ({where})"

    def _accounted(self, chain: str, first: Link) -> bool:
        """Somebody told of the line before this one: a line about a discarded file, or who noted a head."""
        if first.prev and self._discards.get((chain, first.seq - 1)) == first.prev:
            return True
        for head in self._noted:
            if head.seq == first.seq - 1 and first.prev.startswith(head.hash):
                self._found.setdefault(head, (chain, head.seq))
                return True
        return False

    def _missing(self, head: Noted, ends: dict[str, Head]) -> None:
        """A noted head that no line has."""
        if head in self._other:
            name, line, chain = self._other[head]
            what = f"not the line of the noted head {head}: the log was written anew, or its chain ({chain}) is not the noted one"
            self._add(self._orders[name], Fault(name, line, what))
            return
        last = next(iter(ends.values())) if len(ends) == 1 else None
        piece = max(self._pieces[last.chain], key=lambda one: one.last.seq) if last else None
        if last and piece and last.seq < head.seq:
            what = f"cut off: the chain ends with seq {last.seq}, and the noted head is {head}"
            self._add(piece.order, Fault(piece.place[0], piece.end, what))
        else:
            name = next(iter(self._orders), "")
            self._add(len(self._orders), Fault(name, 0, f"no chain has the noted head {head}: it was cut off, or its file is not here"))

    def _fault(self, here: _File, line: int, what: str) -> None:
        self._add(here.order, Fault(here.name, line, what))

    def _fault_at(self, piece: _Piece, what: str) -> None:
        self._add(piece.order, Fault(*piece.place, what))

    def _add(self, order: int, fault: Fault) -> None:
        self._counted += 1
        if len(self._faults) < FAULTS_KEPT:
            self._faults.append((order, fault))


def once(paths: Sequence[str]) -> Iterator[str]:
    """Each file once: a rotation that is under way has one file by two names for a moment."""
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if path != "-":
            found = Path(path).stat()
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
        yield path


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
