"""What is printed, for eyes and for machines."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cells import cell
from broker.usage import tables
from broker.usage.desk import Change, Changes
from broker.usage.report import Counter, Day, Report

HOSTILE = '=HYPERLINK("http://evil")'


def counter(**more) -> Counter:
    return Counter(
        **{
            "quota": "team1/agents/hourly",
            "kind": "AIAccessPolicy",
            "identity": "spiffe://a/b",
            "unit": "total_tokens",
            "per": "hour",
            "used": 400,
            "credit": 0,
            "limit": 1000,
            "left": 600,
            "reset_s": 61.5,
            "models": None,
            "shadow": False,
            "counter": "{team1}/x",
            **more,
        }
    )


def day(**more) -> Day:
    known = {"policy": "team1/agents", "identity": "spiffe://a/b", "tokens": 400, "cost_microusd": 1_500_000, "requests": 2, "denied": 1}
    return Day(**{**known, "last_used": 1_794_916_800.0, **more})


def report(*rows, left_out: int = 0) -> Report:
    counters = tuple(row for row in rows if isinstance(row, Counter))
    return Report(time=0.0, counters=counters, days=tuple(row for row in rows if isinstance(row, Day)), left_out=left_out)


def test_a_table_has_a_line_a_counter_and_columns_that_line_up():
    assert tables.usage(report(counter(), counter(identity="", credit=500, left=1100)), "table") == (
        "QUOTA                IDENTITY      COUNTS             USED  LIMIT      LEFT  RESETS-IN\n"
        "team1/agents/hourly  spiffe://a/b  total_tokens/hour  400   1000       600   1m2s\n"
        "team1/agents/hourly  (shared)      total_tokens/hour  400   1000 +500  1100  1m2s\n"
    )


def test_the_last_day_stands_below():
    assert tables.usage(report(counter(), day(), day(last_used=0.0)), "table").partition("\n\n")[2] == (
        "POLICY        IDENTITY      TOKENS-24H  USD-24H  REQUESTS-24H  DENIED-24H  LAST-USED\n"
        "team1/agents  spiffe://a/b  400         1.50     2             1           2026-11-17T12:00:00Z\n"
        "team1/agents  spiffe://a/b  400         1.50     2             1           never\n"
    )


def test_wide_says_all_that_is_known():
    text = tables.usage(report(counter(models=("gpt",), shadow=True)), "wide")
    assert text.splitlines()[1].endswith("AIAccessPolicy  gpt     Shadow  {team1}/x")


@pytest.mark.parametrize(
    ("one", "figures"),
    [
        (counter(unit="usd", used=1_234_567, limit=5_000_000, left=3_765_433, credit=-250_000), ["1.234567", "5.00 -0.25", "3.765433"]),
        (counter(limit=None, left=None), ["400", "-", "-"]),
        (counter(unit="concurrent", per="", used=3, limit=8, left=5, reset_s=0.0), ["3", "8", "5"]),
    ],
)
def test_figures_are_as_people_write_them(one, figures):
    line = tables.usage(report(one), "table").splitlines()[1]
    assert [cell.strip() for cell in line.split("  ") if cell][3:6] == figures


def test_nothing_counted_is_a_sentence_and_what_is_left_out_another():
    assert tables.usage(report(), "table") == "nothing is counted in the windows that run now\n"
    assert "… and 7 rows more" in tables.usage(report(counter(), left_out=7), "table")


def test_what_would_steer_a_terminal_is_shown():
    assert "\x1b" not in tables.usage(report(counter(quota="team1/a/\x1b[2J\u202egpt")), "table")


def test_json_is_the_report_and_csv_one_table_of_both():
    both = report(counter(), day())
    said = json.loads(tables.usage(both, "json"))
    assert said["counters"][0]["left"] == 600
    assert said["days"][0]["tokens"] == 400
    rows = list(csv.DictReader(io.StringIO(tables.usage(both, "csv"))))
    assert [(row["row"], row["policy"], row["used"], row["tokens_24h"], row["usd_24h"]) for row in rows] == [
        ("counter", "team1/agents", "400", "", ""),
        ("day", "team1/agents", "", "400", "1.50"),
    ]


def test_csv_holds_no_formula_and_numbers_stay_numbers():
    text = tables.usage(report(counter(quota=HOSTILE, kind="AIRoutingPolicy", credit=-5)), "csv")
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["quota"], row["credit"]) == (f"'{HOSTILE}", "-5")


@given(st.text())
def test_no_cell_begins_as_a_formula_does(text):
    made = cell(text)
    shown = text.replace("\r", "\\u000d")  # which csv does not quote
    assert made in (shown, f"'{shown}")
    assert made.lstrip()[:1] not in tuple("=+-@＝＋－＠")


def test_changes_show_before_and_after_and_a_dry_run_says_that_it_was_one():
    known = {"quota": "team1/agents/hourly", "identity": "", "unit": "usd", "window": "2026-11-17", "limit": 5_000_000, "held": 0}
    change = Change(**known, used_before=1_000_000, used_after=0, credit_before=0, credit_after=-500_000, reset_s=60.0)
    assert tables.changes(Changes(dry_run=True, changes=(change,)), "table") == (
        "QUOTA                IDENTITY  COUNTS  WINDOW      USED          CREDIT\n"
        "team1/agents/hourly  (shared)  usd     2026-11-17  1.00 -> 0.00  0.00 -> -0.50\n"
        "dry run: nothing was changed\n"
    )
    assert json.loads(tables.changes(Changes(dry_run=False, changes=(change,)), "json"))["changes"][0]["used_before"] == 1_000_000
    assert (
        tables.changes(Changes(dry_run=False, changes=(change,)), "csv").splitlines()[1]
        == "team1/agents/hourly,,usd,2026-11-17,1.00,0.00,0.00,-0.50"
    )
