"""What `broker usage` prints: for eyes, for spreadsheets and for programs."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import Final, Literal

import msgspec

from broker.cells import cell, plain
from broker.money import dollars
from broker.quota import reset_text
from broker.usage.desk import Changes
from broker.usage.report import Counter, Day, Report, is_money

Output = Literal["table", "wide", "json", "csv"]
_GAP: Final = "  "
_ROWS: Final = ("row", "policy", "quota", "identity", "unit", "per", "used", "credit", "limit", "left", "reset_s")
_DAYS: Final = ("tokens_24h", "usd_24h", "requests_24h", "denied_24h", "last_used")


def usage(report: Report, output: Output) -> str:
    """The whole report, with a line end."""
    if output == "json":
        return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
    if output == "csv":
        return sheet((*_ROWS, *_DAYS), _rows(report))
    parts = [_counters(report.counters, wide=output == "wide")]
    if report.days:
        parts.append(_days(report.days))
    if report.left_out:
        parts.append(f"… and {report.left_out} rows more: ask for fewer with --identity, --policy, --model or --since\n")
    return "\n".join(parts)


def changes(changed: Changes, output: Output) -> str:
    """Each counter before and after."""
    if output == "json":
        return msgspec.json.format(msgspec.json.encode(changed), indent=2).decode() + "\n"
    figures = ("used_before", "used_after", "credit_before", "credit_after")
    rows = [{"quota": one.quota, "identity": one.identity, "unit": one.unit, "window": one.window}
            | {name: amount(getattr(one, name), one.unit) for name in figures} for one in changed.changes]  # fmt: skip
    if output == "csv":
        return sheet(("quota", "identity", "unit", "window", *figures), rows)
    lines = [
        (
            *(row["quota"], row["identity"] or "(shared)", row["unit"], row["window"]),
            *(f"{row['used_before']} -> {row['used_after']}", f"{row['credit_before']} -> {row['credit_after']}"),
        )
        for row in rows
    ]
    shown = table(("QUOTA", "IDENTITY", "COUNTS", "WINDOW", "USED", "CREDIT"), lines)
    return shown + ("dry run: nothing was changed\n" if changed.dry_run else "")


def amount(figure: int | None, unit: str) -> str:
    """A figure as people write it: dollars for micro-dollars."""
    if figure is None:
        return "-"
    if not is_money(unit):
        return str(figure)
    return f"-{dollars(-figure)}" if figure < 0 else dollars(figure)


def _counters(counters: Sequence[Counter], *, wide: bool) -> str:
    if not counters:
        return "nothing is counted in the windows that run now\n"
    head = ["QUOTA", "IDENTITY", "COUNTS", "USED", "LIMIT", "LEFT", "RESETS-IN"]
    return table([*head, "KIND", "MODELS", "MODE", "COUNTER"] if wide else head, [_counter(one, wide=wide) for one in counters])


def _counter(one: Counter, *, wide: bool) -> list[str]:
    credited = f" {'+' if one.credit > 0 else ''}{amount(one.credit, one.unit)}" if one.credit else ""
    row = [
        one.quota,
        one.identity or "(shared)",
        f"{one.unit}/{one.per}" if one.per else one.unit,
        amount(one.used, one.unit),
        amount(one.limit, one.unit) + credited,
        amount(one.left, one.unit),
        reset_text(one.reset_s) if one.per else "-",
    ]
    more = [one.kind, ",".join(one.models) if one.models else "*", "Shadow" if one.shadow else "Enforce", one.counter]
    return [*row, *more] if wide else row


def _days(days: Sequence[Day]) -> str:
    head = ("POLICY", "IDENTITY", "TOKENS-24H", "USD-24H", "REQUESTS-24H", "DENIED-24H", "LAST-USED")
    return table(
        head,
        [
            (
                one.policy,
                one.identity,
                str(one.tokens),
                dollars(one.cost_microusd),
                str(one.requests),
                str(one.denied),
                _moment(one.last_used),
            )
            for one in days
        ],
    )


def _rows(report: Report) -> Iterator[Mapping[str, object]]:
    for one in report.counters:
        yield {
            "row": "counter",
            "policy": one.quota.rsplit("/", 1)[0] if one.kind == "AIAccessPolicy" else "/".join(one.quota.split("/", 2)[:2]),
            "quota": one.quota,
            "identity": one.identity,
            "unit": one.unit,
            "per": one.per,
            "used": amount(one.used, one.unit),
            "credit": amount(one.credit, one.unit),
            "limit": "" if one.limit is None else amount(one.limit, one.unit),
            "left": "" if one.left is None else amount(one.left, one.unit),
            "reset_s": one.reset_s,
        }
    for day in report.days:
        yield {
            "row": "day",
            "policy": day.policy,
            "identity": day.identity,
            "tokens_24h": day.tokens,
            "usd_24h": dollars(day.cost_microusd),
            "requests_24h": day.requests,
            "denied_24h": day.denied,
            "last_used": _moment(day.last_used) if day.last_used else "",
        }


def sheet(head: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """As CSV; a name that a row lacks is an empty cell."""
    out = StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    write(head)
    for row in rows:
        write([_cell(row.get(name, "")) for name in head])
    return out.getvalue()


def _cell(value: object) -> str:
    """Numbers as they are, also below 0; texts as no formula."""
    text = str(value)
    return text if not isinstance(value, str) or _is_number(text) else cell(text)


def _is_number(text: str) -> bool:
    whole, _, part = text.removeprefix("-").partition(".")
    return text.isascii() and whole.isdigit() and (not part or part.isdigit())


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_s else "never"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what is in them; what would steer a terminal is shown, not obeyed."""
    shown = [[plain(text) for text in row] for row in (head, *rows)]
    widths = [max(len(row[at]) for row in shown) for at in range(len(head))]
    return "".join(_GAP.join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in shown)
