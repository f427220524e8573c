"""Lines of the audit log for eyes, for spreadsheets and for programs: those that somebody wants to see."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from typing import Annotated, Any, Final, Literal, cast

import msgspec

from broker.audit.lines import Line
from broker.audit.reading import Raw
from broker.cells import cell, plain
from broker.money import dollars

Output = Literal["table", "json", "csv"]
BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
END: Final = datetime.max.replace(tzinfo=UTC)
_GAP: Final = "  "
_TABLE: Final = (("TIME", 20), ("IDENTITY", 48), ("MODEL", 16), ("CODE", 16), ("STATUS", 6), ("TOKENS", 13), ("USD", 9), ("EXCHANGE", 0))
_CSV: Final = (
    *("time", "kind", "exchange", "spiffe_id", "namespace", "model", "provider", "provider_model", "decision", "code", "status"),
    *("policies", "would_refuse", "features", "attempts", "held_tokens", "input_tokens", "output_tokens", "cached_tokens"),
    *("cost_usd", "estimated", "first_byte_ms", "total_ms", "chain", "seq"),
)
_HASHES: Final = ("_hash", "_sha256")
_DIGITS: Final = 13  # of a hash, enough for eyes
_SHOWN_AS: Final = {"cost_usd": "cost_microusd"}

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _Policy(msgspec.Struct, frozen=True):
    namespace: str = ""
    name: str = ""


class Seen(msgspec.Struct, gc=False):
    """As much of a line of any kind as filters ask about."""

    kind: str
    time: _Moment
    chain: str
    seq: int
    spiffe_id: str = ""
    who: str = ""
    namespace: str = ""
    model: str = ""
    decision: str = ""
    code: str = ""
    policies: tuple[_Policy, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants to see; "" = whatever it is.

    identity: a SPIFFE ID, or with * at its end those that begin so; also of who changed a counter.
    policy: NAMESPACE/NAME. model: as it was asked for, or NAMESPACE/NAME of what it led to.
    since, until: from the one on, up to and without the other.
    """

    identity: str = ""
    policy: str = ""
    model: str = ""
    namespace: str = ""
    decision: str = ""
    code: str = ""
    since: datetime = BEGINNING
    until: datetime = END

    def has(self, line: Seen) -> bool:
        """The line is one of those."""
        return (
            self.since <= line.time < self.until
            and self.decision in ("", line.decision)
            and self.code in ("", line.code)
            and self.namespace in ("", line.namespace)
            and (not self.identity or self._names(line.spiffe_id or line.who))
            and (not self.model or self.model in _names_of(line))
            and (not self.policy or any(f"{one.namespace}/{one.name}" == self.policy for one in line.policies))
        )

    def _names(self, identity: str) -> bool:
        if self.identity.endswith("*"):
            return identity.startswith(self.identity[:-1])
        return identity == self.identity


def _names_of(line: Seen) -> tuple[str, ...]:
    if not line.model:
        return ()
    bare = line.model.removeprefix(f"{line.namespace}/")
    return line.model, bare, f"{line.namespace}/{bare}"


class Shown:
    """Picks lines and words them.

    unreadable: how many were no line of an audit log. looked_at: all lines so far. picked: those that were wanted.
    """

    def __init__(self, wanted: Wanted, output: Output) -> None:
        self.unreadable = 0
        self.looked_at = 0
        self.picked = 0
        self._wanted = wanted
        self._word: Callable[[bytes], str] = {"table": _row, "json": _as_it_is, "csv": _sheet_row}[output]
        self.head = {"table": _padded([name for name, _ in _TABLE]), "json": "", "csv": ",".join(_CSV) + "\n"}[output]

    def lines(self, raws: Iterable[Raw]) -> Iterator[str]:
        """The wanted ones, each with its line end."""
        decode = msgspec.json.Decoder(Seen).decode
        for _, raw in raws:
            self.looked_at += 1
            try:
                worded = self._word(raw) if self._wanted.has(decode(raw)) else ""
            except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
                self.unreadable += 1
                continue
            if worded:
                self.picked += 1
                yield worded


def began(raw: bytes) -> datetime:
    """When a line was written, to put files in order; the beginning of time of what is none."""
    try:
        return msgspec.json.decode(raw, type=Seen).time
    except (msgspec.DecodeError, UnicodeDecodeError):
        return BEGINNING


def _as_it_is(raw: bytes) -> str:
    return raw.decode(errors="replace").removesuffix("\n") + "\n"


def _row(raw: bytes) -> str:
    line: Mapping[str, Any] = msgspec.json.decode(raw)
    time = msgspec.convert(line["time"], datetime).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if line["kind"] != "exchange":
        return _padded([time, str(line.get("spiffe_id") or line.get("who") or "-"), "-", line["kind"], "-", "-", "-", _told(line)])
    known = msgspec.convert(line, Line, strict=False)
    cost = "-" if known.cost_microusd is None else dollars(known.cost_microusd)
    tokens = f"{known.input_tokens}+{known.output_tokens}" if known.input_tokens or known.output_tokens else "-"
    code = known.code + ("?" if known.would_refuse else "")
    return _padded([time, known.spiffe_id or "-", known.model or "-", code, str(known.status), tokens, cost, known.exchange])


def _told(line: Mapping[str, Any]) -> str:
    """The facts of a line that is no exchange."""
    hidden = {"kind", "time", "chain", "seq", "prev", "hash", "spiffe_id", "who"}
    facts = {name: value for name, value in line.items() if name not in hidden and value not in ("", None)}
    return " ".join(f"{name}={str(value)[:_DIGITS] if name.endswith(_HASHES) else value}" for name, value in facts.items()) or "-"


def _padded(texts: Iterable[str]) -> str:
    shown = (plain(text).ljust(width) for text, (_, width) in zip(texts, _TABLE, strict=True))
    return _GAP.join(shown).rstrip() + "\n"


def _sheet_row(raw: bytes) -> str:
    line: Mapping[str, Any] = msgspec.json.decode(raw)
    out = StringIO()
    csv.writer(out, lineterminator="\n").writerow([_cell(name, line.get(_SHOWN_AS.get(name, name))) for name in _CSV])
    return out.getvalue()


def _cell(name: str, value: Any) -> str | int | float:
    if value is None:
        return ""
    if name == "cost_usd":
        return dollars(value) if isinstance(value, int) else ""
    if name == "policies":
        return cell(" ".join(f"{one.get('namespace')}/{one.get('name')}" for one in value))
    if isinstance(value, list):
        return cell(" ".join(str(one) for one in cast("list[object]", value)))
    if isinstance(value, bool | dict):
        return json.dumps(value)
    return value if isinstance(value, int | float) else cell(str(value))
