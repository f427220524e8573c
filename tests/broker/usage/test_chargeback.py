"""Who owes what, from audit files."""

import csv
import io
import json
import tracemalloc
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.audit import Audit, Expired, Line, Lost
from broker.audit.reading import Raw, lines_of
from broker.usage import chargeback
from broker.usage.chargeback import Bill, Faults, Span

NOON = datetime(2026, 11, 17, 12, tzinfo=UTC)
EVER = Span()
AGENT, OTHER = "spiffe://example.org/ns/team1/sa/agent", "spiffe://example.org/ns/team1/sa/other"


def line(**more) -> Line:
    known = {"time": NOON, "exchange": "x", "code": "answered", "status": 200, "decision": "allowed", "spiffe_id": AGENT}
    return Line(**{**known, "namespace": "team1", "model": "gpt", "input_tokens": 10, "output_tokens": 5, "cached_tokens": 2, **more})


def raw(*records) -> list[Raw]:
    return [Raw(number, msgspec.json.encode(record) + b"\n") for number, record in enumerate(records, 1)]


def billed(*lines: Raw, span: Span = EVER, groups: int = 100, output: str = "csv"):
    told, out, bill = io.StringIO(), io.StringIO(), Bill(groups)
    faults = Faults(told)
    chargeback.read("audit.jsonl", lines, span, bill, faults)
    chargeback.write(bill, output, out)
    bill.close()
    return list(csv.DictReader(io.StringIO(out.getvalue()))) if output == "csv" else out.getvalue(), faults, told.getvalue()


def test_what_was_charged_is_added_up_by_day_identity_and_model():
    rows, faults, _ = billed(
        *raw(
            line(),
            line(cost_microusd=1_500_000, cached_tokens=0),
            line(model="team1/gpt"),
            line(model="claude"),
            line(spiffe_id=OTHER),
            line(time=NOON.replace(day=16)),
        )
    )
    kept = ("day", "identity", "namespace", "model", "requests", "input_tokens", "output_tokens", "cached_tokens")
    assert [tuple(row[name] for name in kept) for row in rows] == [
        ("2026-11-16", AGENT, "team1", "gpt", "1", "10", "5", "2"),
        ("2026-11-17", AGENT, "team1", "claude", "1", "10", "5", "2"),
        ("2026-11-17", AGENT, "team1", "gpt", "3", "30", "15", "4"),
        ("2026-11-17", OTHER, "team1", "gpt", "1", "10", "5", "2"),
    ]
    assert (rows[2]["cost_usd"], rows[2]["unpriced_requests"]) == ("1.50", "2")
    assert (rows[0]["cost_usd"], rows[0]["unpriced_requests"]) == ("", "1")
    assert (faults.unreadable, faults.lost) == (0, 0)


def test_days_are_those_of_utc_whatever_zone_a_line_is_in():
    moved = b'{"kind":"exchange","time":"2026-11-17T23:30:00-05:00","decision":"allowed","spiffe_id":"spiffe://a/b"}\n'
    rows, _, _ = billed(Raw(1, moved))
    assert [row["day"] for row in rows] == ["2026-11-18"]


def test_what_was_refused_or_only_listed_is_charged_to_nobody():
    rows, _, _ = billed(
        *raw(line(decision="refused", code="forbidden", model="=cmd|' /C calc'!A0"), line(code="listed", input_tokens=0, output_tokens=0))
    )
    assert rows == []


def test_an_estimate_is_counted_as_one_and_a_crash_beside_what_is_known():
    lost = Expired(time=NOON, exchange="y", spiffe_id=AGENT, tokens=70, cost_microusd=20)
    rows, _, _ = billed(*raw(line(estimated=True), lost))
    assert [
        (row["model"], row["requests"], row["estimated_requests"], row["crashed_requests"], row["crashed_tokens"], row["cost_usd"])
        for row in rows
    ] == [
        ("", "0", "0", "1", "70", "0.00002"),
        ("gpt", "1", "1", "0", "0", ""),
    ]


def test_a_span_has_its_beginning_and_not_its_end():
    lines = raw(*(line(time=NOON.replace(day=day)) for day in (15, 16, 17, 18)))
    rows, _, _ = billed(*lines, span=Span(NOON.replace(day=16), NOON.replace(day=18)))
    assert [row["day"] for row in rows] == ["2026-11-16", "2026-11-17"]


@pytest.mark.parametrize(
    "broken",
    [
        b'{"kind":"exchange","time":"2026-11-17T12:0',
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"kind":"exchange","time":"2026-11-17T12:00:00"}\n',
        b'{"kind":"exchange","time":"2026-11-17T12:00:00Z","input_tokens":-5,"decision":"allowed"}\n',
        b'{"kind":"exchange","time":"2026-11-17T12:00:00Z","input_tokens":99999999999999999999,"decision":"allowed"}\n',
        b'{"kind":"exchange","time":"0001-01-01T00:00:00+23:59","decision":"allowed"}\n',
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_the_others_count(broken):
    rows, faults, told = billed(*raw(line()), Raw(2, broken), *raw(line()))
    assert rows[0]["requests"] == "2"
    assert (faults.unreadable, told) == (1, "audit.jsonl:2: no line of the audit log, or a torn one\n")


def test_many_such_lines_are_not_all_said():
    _, faults, told = billed(*[Raw(1, b"?\n")] * 1000)
    assert faults.unreadable == 1000
    assert told.count("\n") == 21


def test_lines_that_the_broker_could_not_keep_are_said():
    _, faults, told = billed(*raw(Lost(time=NOON, lines=3)))
    assert (faults.lost, told) == (3, "audit.jsonl:1: here the broker could not keep 3 lines\n")


def test_other_kinds_of_lines_are_passed_over():
    rows, faults, _ = billed(
        Raw(1, b'{"kind":"adjusted","time":"2026-11-17T12:00:00Z","who":"uid:0"}\n'),
        Raw(2, b'{"kind":"of tomorrow","time":"2026-11-17T12:00:00Z"}\n'),
    )
    assert (rows, faults.unreadable) == ([], 0)


def test_an_empty_line_is_no_line_and_no_fault():
    rows, faults, _ = billed(*raw(line()), Raw(2, b"\n"))
    assert (len(rows), faults.unreadable) == (1, 0)


async def test_a_file_of_our_own_log_is_read_as_it_is(tmp_path):
    audit = Audit.open(str(tmp_path / "audit.jsonl"), "test")
    audit.write(line(cost_microusd=7))
    audit.close()
    with (tmp_path / "audit.jsonl").open("rb") as file:
        rows, faults, _ = billed(*lines_of(file))
    assert [(row["requests"], row["cost_usd"]) for row in rows] == [("1", "0.000007")]
    assert faults.unreadable == 0


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**31)), max_size=60))
def test_what_waits_in_a_file_adds_up_to_the_same(spent):
    lines = raw(*(line(time=NOON.replace(day=day), model=f"m{model}", input_tokens=count) for day, model, count in spent))
    assert billed(*lines, groups=2, output="jsonl")[0] == billed(*lines, groups=1000, output="jsonl")[0]


def test_json_lines_have_numbers_and_the_same_columns():
    text, _, _ = billed(*raw(line()), output="jsonl")
    (row,) = map(json.loads, text.splitlines())
    assert (row["input_tokens"], row["model"], row["cost_usd"]) == (10, "gpt", "")
    assert list(row) == list(chargeback._COLUMNS)


@pytest.mark.parametrize("hostile", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "|x", " =1", '=HYPERLINK("http://evil","x")', "＝1"])
def test_no_cell_of_a_csv_is_a_formula(hostile):
    rows, _, _ = billed(*raw(line(model=hostile, spiffe_id=hostile, namespace=hostile)))
    assert (rows[0]["model"], rows[0]["identity"], rows[0]["namespace"]) == (f"'{hostile}",) * 3


def test_memory_does_not_grow_with_the_number_of_groups():
    def lines(count):
        for number in range(count):
            yield Raw(number, msgspec.json.encode(line(spiffe_id=f"spiffe://example.org/{number}")))

    def peak(count):
        bill = Bill(500)
        tracemalloc.start()
        chargeback.read("audit.jsonl", lines(count), Span(), bill, Faults(io.StringIO()))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        bill.close()
        return used

    peak(600)
    assert peak(12_000) < 2 * peak(1_200)
