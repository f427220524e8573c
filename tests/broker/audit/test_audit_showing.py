"""The lines that somebody wants to see."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.audit_logs import AGENT, NOON, a_line

from broker.adjustment import Adjusted
from broker.audit import Expired, Head, Lost, Record, Start
from broker.audit.lines import Chain
from broker.audit.reading import Raw
from broker.audit.showing import Shown, Wanted
from broker.grant import PolicyRef

OTHER = "spiffe://example.org/ns/team2/sa/other"
CHANGED = Adjusted(
    time=NOON, who="uid:0", action="grant", outcome="done", counter="c", window="2026-11-21", reason="demo",
    used_before=1, used_after=1, credit_before=0, credit_after=5,
)  # fmt: skip
LOG: tuple[Record, ...] = (
    Start(time=NOON, version="0.1.0", keyed=False),
    a_line(1, cost_microusd=1_500_000, output_tokens=30),
    a_line(2, spiffe_id=OTHER, model="team1/gpt-4o"),
    a_line(3, time=NOON + timedelta(hours=1), decision="refused", code="forbidden", status=403, namespace="", policies=(), input_tokens=0),
    a_line(4, model="claude", namespace="team2", policies=(PolicyRef("team2", "weather", "u/1"), PolicyRef("team1", "all", "u/2"))),
    Expired(time=NOON, exchange="x5", spiffe_id=AGENT, tokens=70),
    Lost(time=NOON, lines=3),
    CHANGED,
)


def raws(*records: Record) -> list[Raw]:
    chain = Chain(Head("c0ffee00", 0, ""), None)
    return [Raw(number, chain.tie(record)) for number, record in enumerate(records, 1)]


def seen(**wanted) -> list[int]:
    """The numbers of the lines that come out."""
    shown = Shown(Wanted(**wanted), "json")
    return [json.loads(line)["seq"] for line in shown.lines(raws(*LOG))]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"identity": AGENT}, [2, 4, 5, 6]),
        ({"identity": "spiffe://example.org/ns/team2/*"}, [3]),
        ({"identity": "spiffe://example.org/ns/team"}, []),
        ({"identity": "uid:0"}, [8]),
        ({"policy": "team1/weather"}, [2, 3]),
        ({"policy": "team1/all"}, [5]),
        ({"model": "gpt-4o"}, [2, 3, 4]),
        ({"model": "team1/gpt-4o"}, [2, 3]),
        ({"model": "gpt"}, []),
        ({"namespace": "team2"}, [5]),
        ({"decision": "refused"}, [4]),
        ({"decision": "allowed"}, [2, 3, 5]),
        ({"code": "forbidden"}, [4]),
        ({"since": NOON + timedelta(minutes=1)}, [4]),
        ({"until": NOON + timedelta(hours=1)}, [1, 2, 3, 5, 6, 7, 8]),
        ({"until": NOON}, []),
        ({"identity": AGENT, "model": "claude", "decision": "allowed", "since": NOON}, [5]),
    ],
)
def test_filters_together_pick_the_lines_that_pass_all(wanted, numbers):
    assert seen(**wanted) == numbers


def test_json_is_the_lines_as_they_stand():
    lines = raws(*LOG)
    assert list(Shown(Wanted(), "json").lines(lines)) == [raw.decode() for _, raw in lines]


def table(*records: Record) -> list[str]:
    return list(Shown(Wanted(), "table").lines(raws(*records)))


def test_a_table_has_a_row_for_each_line_whatever_its_kind():
    assert [row.split() for row in table(*LOG[1:4], *LOG[5:])] == [
        ["2026-11-21T12:00:00Z", AGENT, "gpt-4o", "answered", "200", "12+30", "1.50", "x1"],
        ["2026-11-21T12:00:00Z", OTHER, "team1/gpt-4o", "answered", "200", "12+0", "-", "x2"],
        ["2026-11-21T13:00:00Z", AGENT, "gpt-4o", "forbidden", "403", "-", "-", "x3"],
        ["2026-11-21T12:00:00Z", AGENT, "-", "expired", "-", "-", "-", "exchange=x5", "tokens=70", "cost_microusd=0"],
        ["2026-11-21T12:00:00Z", "-", "-", "lost", "-", "-", "-", "lines=3"],
        ["2026-11-21T12:00:00Z", "uid:0", "-", "adjusted", "-", "-", "-", *table(CHANGED)[0].split()[7:]],
    ]
    assert "reason=demo" in table(CHANGED)[0]


def test_what_a_rule_in_shadow_mode_would_have_refused_has_a_question_mark():
    assert "answered?" in table(a_line(would_refuse=("forbidden",)))[0]


def rows(*records: Record) -> list[dict[str, str]]:
    shown = Shown(Wanted(), "csv")
    return list(csv.DictReader(io.StringIO(shown.head + "".join(shown.lines(raws(*records))))))


def test_a_sheet_has_the_same_columns_for_all_kinds():
    exchange, lost = rows(LOG[4], LOG[6])
    assert (exchange["policies"], exchange["model"], exchange["cost_usd"], exchange["estimated"]) == (
        *("team2/weather team1/all", "claude", "", "false"),
    )
    assert (lost["kind"], lost["exchange"], lost["seq"]) == ("lost", "", "2")
    assert rows(LOG[1])[0]["cost_usd"] == "1.50"


@given(model=st.text(max_size=30), identity=st.text(max_size=30))
def test_no_text_of_a_caller_steers_a_terminal_or_becomes_a_formula(model, identity):
    line = a_line(model=model, spiffe_id=identity)
    (row,) = table(line)
    assert row.endswith("\n")
    assert row[:-1].isprintable()
    (cells,) = rows(line)
    assert not cells["model"].startswith(("=", "+", "-", "@"))
    assert not cells["spiffe_id"].startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize("output", ["table", "json", "csv"])
@given(content=st.binary(max_size=60))
def test_what_is_no_line_is_counted_and_the_others_are_shown(output, content):
    shown = Shown(Wanted(), output)
    good = raws(a_line())
    assert len(list(shown.lines([Raw(1, content + b"\n"), *good]))) == 1
    assert shown.unreadable == 1


@pytest.mark.parametrize("output", ["table", "csv"])
@given(
    record=st.dictionaries(
        st.sampled_from(["policies", "model", "status", "would_refuse", "cost_microusd", "decision", "exchange", "code"]),
        st.one_of(
            st.text(), st.integers(), st.none(), st.lists(st.integers() | st.none()), st.floats(allow_nan=False, allow_infinity=False)
        ),
    )
)
def test_a_line_with_other_values_than_ours_crashes_nothing(output, record):
    known = {"kind": "exchange", "time": "2026-11-21T12:00:00Z", "chain": "c", "seq": 1, "prev": "", "hash": ""}
    shown = Shown(Wanted(), output)
    list(shown.lines([Raw(1, msgspec.json.encode({**known, **record}) + b"\n")]))


def test_times_are_those_of_utc():
    raw = b'{"kind":"lost","time":"2026-11-21T23:30:00-05:00","lines":1,"chain":"c","seq":1,"prev":"","hash":""}\n'
    (row,) = Shown(Wanted(since=datetime(2026, 11, 22, tzinfo=UTC)), "table").lines([Raw(1, raw)])
    assert row.startswith("2026-11-22T04:30:00Z")
