"""Who owes what: audit files in, one line a day, identity and model out.

From audit and not from the quota store: the store knows counters, and forgets a window when it is over. The audit log has each exchange
with its model and what it cost, for as long as the operator keeps the files, in a chain that shows whether a line is missing.
"""

import csv
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, NamedTuple, TextIO

import msgspec

from broker.audit.reading import Raw
from broker.cells import cell
from broker.money import dollars

Output = Literal["csv", "jsonl"]
GROUPS: Final = 50_000  # in memory at a time; the rest waits in a file that nobody else sees
BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
END: Final = datetime.max.replace(tzinfo=UTC)
_FAULTS_SAID: Final = 20
_DAY: Final = "%Y-%m-%d"
_COLUMNS: Final = (
    *("day", "identity", "namespace", "model", "requests", "input_tokens", "output_tokens", "cached_tokens"),
    *("estimated_requests", "cost_usd", "unpriced_requests", "crashed_requests", "crashed_tokens"),
)

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _Line(msgspec.Struct, gc=False):
    """As much of an audit line as is charged."""

    kind: str
    time: _Moment
    spiffe_id: str = ""
    decision: str = ""
    code: str = ""
    namespace: str = ""
    model: str = ""
    input_tokens: _Count = 0
    output_tokens: _Count = 0
    cached_tokens: _Count = 0
    cost_microusd: _Count | None = None
    estimated: bool = False
    tokens: _Count = 0
    lines: _Count = 0


class Group(NamedTuple):
    """What is added up: the day in UTC. `model` is the virtual one, without a namespace in front; "" where a crash took it."""

    day: str
    identity: str
    namespace: str
    model: str


class Sums(NamedTuple):
    """Of one group.

    requests: that were admitted, whatever became of them.
    estimated: of those, how many were charged by their bound, as nobody reported what they used.
    unpriced: of those, how many cost tokens whose price nobody knew.
    crashed, crashed_tokens: exchanges whose broker was killed, and that were charged whole. Their model went with it.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    estimated: int = 0
    microusd: int = 0
    unpriced: int = 0
    crashed: int = 0
    crashed_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """From `since` up to and without `until`."""

    since: datetime = BEGINNING
    until: datetime = END


@dataclass(slots=True)
class Faults:
    """What could not be charged. `told` gets a line for each."""

    told: TextIO
    unreadable: int = 0
    lost: int = 0

    def unread(self, place: str, why: str) -> None:
        self.unreadable += 1
        if self.unreadable <= _FAULTS_SAID:
            self.told.write(f"{place}: {why}\n")
        elif self.unreadable == _FAULTS_SAID + 1:
            self.told.write("… further lines that cannot be read are counted only\n")

    def missing(self, place: str, lines: int) -> None:
        self.lost += lines
        self.told.write(f"{place}: here the broker could not keep {lines} lines\n")


class Bill:
    """Sums by group: some in memory, and as many as there are in a file of SQLite's own, which is gone when this is closed."""

    def __init__(self, groups: int = GROUPS) -> None:
        self._most = groups
        self._sums: dict[Group, list[int]] = {}
        self._file = sqlite3.connect("", isolation_level=None)
        figures = ", ".join(f"{name} INTEGER NOT NULL" for name in Sums._fields)
        self._file.execute(
            f"CREATE TABLE bill ({', '.join(Group._fields)}, {figures}, PRIMARY KEY ({', '.join(Group._fields)})) WITHOUT ROWID"
        )
        marks = ", ".join("?" * (len(Group._fields) + len(Sums._fields)))
        added = ", ".join(f"{name} = {name} + excluded.{name}" for name in Sums._fields)
        self._add = f"INSERT INTO bill VALUES ({marks}) ON CONFLICT DO UPDATE SET {added}"  # noqa: S608  our own names

    def add(self, group: Group, spent: Sums) -> None:
        known = self._sums.get(group)
        if known is None:
            if len(self._sums) >= self._most:
                self._put_away()
            self._sums[group] = list(spent)
            return
        for at, figure in enumerate(spent):
            if figure:
                known[at] += figure

    def rows(self) -> Iterator[tuple[Group, Sums]]:
        """By day, identity, namespace, model."""
        self._put_away()
        width = len(Group._fields)
        for row in self._file.execute(f"SELECT * FROM bill ORDER BY {', '.join(Group._fields)}"):  # noqa: S608  our own names
            yield Group(*row[:width]), Sums(*row[width:])

    def close(self) -> None:
        self._file.close()

    def _put_away(self) -> None:
        self._file.execute("BEGIN")
        self._file.executemany(self._add, [(*group, *sums) for group, sums in self._sums.items()])
        self._file.execute("COMMIT")
        self._sums.clear()


def read(name: str, lines: Iterable[Raw], span: Span, bill: Bill, faults: Faults) -> None:
    """Add up what was charged. `name`: of the file, for who must look there."""
    decode = msgspec.json.Decoder(_Line).decode
    for number, raw in lines:
        if raw == b"\n":
            continue
        place = f"{name}:{number}"
        try:
            line = decode(raw)
            at = line.time.astimezone(UTC)
        except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
            faults.unread(place, "no line of the audit log, or a torn one")
            continue
        if not span.since <= at < span.until:
            continue
        if line.kind == "exchange" and line.decision == "allowed" and line.code != "listed":
            model = line.model.removeprefix(f"{line.namespace}/")
            bill.add(Group(at.strftime(_DAY), line.spiffe_id, line.namespace, model), _spent(line))
        elif line.kind == "expired":
            bill.add(
                Group(at.strftime(_DAY), line.spiffe_id, "", ""),
                Sums(crashed=1, crashed_tokens=line.tokens, microusd=line.cost_microusd or 0),
            )
        elif line.kind == "lost":
            faults.missing(place, line.lines)


def _spent(line: _Line) -> Sums:
    is_unpriced = line.cost_microusd is None and (line.input_tokens or line.output_tokens)
    return Sums(
        requests=1,
        input_tokens=line.input_tokens,
        output_tokens=line.output_tokens,
        cached_tokens=line.cached_tokens,
        estimated=int(line.estimated),
        microusd=line.cost_microusd or 0,
        unpriced=int(bool(is_unpriced)),
    )


def write(bill: Bill, output: Output, out: TextIO) -> None:
    """Everything, in order."""
    if output == "jsonl":
        out.writelines(json.dumps(_row(*one)) + "\n" for one in bill.rows())
        return
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in bill.rows():
        writer.writerow([value if isinstance(value, int) else cell(value) for value in _row(*one).values()])


def _row(group: Group, sums: Sums) -> Mapping[str, str | int]:
    cost = "" if (sums.unpriced or sums.crashed) and not sums.microusd else dollars(sums.microusd)
    figures = (
        *(sums.requests, sums.input_tokens, sums.output_tokens, sums.cached_tokens, sums.estimated),
        *(cost, sums.unpriced, sums.crashed, sums.crashed_tokens),
    )
    return dict(zip(_COLUMNS, (*group, *figures), strict=True))
