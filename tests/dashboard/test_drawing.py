"""The dashboard as `make screenshot` draws it: all of it, honestly. What needs a browser is looked at by whoever makes the picture."""

import json
import re
from html import unescape

import pytest
from dashboard.drawing import Range, Series, height, page
from dashboard.scale import UNITS, axis_of, reads
from dashboard.screenshot import MOST_BYTES, NOTE, PICTURE, mark, marked, named, query, shoot, titles
from hypothesis import given
from hypothesis import strategies as st
from support.dashboard import FILE, queries
from support.processes import ROOT

DASHBOARD = json.loads(FILE.read_text())
OVER = Range(1000.0, 1010.0, 1.0)
POINTS = [(1000.0 + second, float(second)) for second in range(11)]
VALUES = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)


def drawn(*series):
    """The same lines in every panel."""
    return {panel["id"]: list(series or (Series("a line", POINTS),)) for panel in DASHBOARD["panels"] if panel["type"] != "row"}


def with_first(**changes):
    """The dashboard with its first panel that is no row changed."""
    first = next(panel for panel in DASHBOARD["panels"] if panel["type"] != "row")
    return {**DASHBOARD, "panels": [{**first, **changes}]}


def test_every_panel_and_every_row_is_on_the_page_once_and_nothing_else():
    html = page(DASHBOARD, drawn(), OVER, NOTE)
    assert [unescape(title) for title in re.findall(r"<h2>(.*?)</h2>", html)] == titles(DASHBOARD)
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert [unescape(row) for row in re.findall(r"<section class=row [^>]*>(.*?)<", html)] == rows
    assert len(rows) + len(titles(DASHBOARD)) == len(DASHBOARD["panels"])


def test_panels_lie_as_the_dashboard_has_them():
    html = page(DASHBOARD, drawn(), OVER, NOTE)
    places = re.findall(r"left:(\d+)px;top:(\d+)px;width:(\d+)px;height:(\d+)px", html)
    order = [(int(top), int(left)) for left, top, _, _ in places]
    assert order == sorted(order)
    assert max(int(top) + int(tall) for _, top, _, tall in places) < height(DASHBOARD)


def test_the_page_says_who_drew_it():
    assert "not by Grafana" in page(DASHBOARD, drawn(), OVER, NOTE)


def test_a_panel_that_shows_nothing_is_an_error():
    with pytest.raises(ValueError, match="'Exchanges by outcome' shows nothing"):
        page(DASHBOARD, drawn(Series("a line", [])), OVER, NOTE)


def test_a_panel_that_was_not_asked_about_is_an_error():
    with pytest.raises(KeyError):
        page(DASHBOARD, {}, OVER, NOTE)


def test_what_cannot_be_drawn_is_an_error():
    with pytest.raises(ValueError, match="is a heatmap, which this script cannot draw"):
        page(with_first(type="heatmap"), drawn(), OVER, NOTE)
    with pytest.raises(KeyError, match="parsecs"):
        page(with_first(fieldConfig={"defaults": {"unit": "parsecs", "custom": {}}}), drawn(), OVER, NOTE)


def test_what_metrics_are_called_is_no_markup():
    assert "<script>" not in page(DASHBOARD, drawn(Series("<script>", POINTS)), OVER, NOTE)


def test_a_line_is_broken_where_values_are_missing():
    one = page(with_first(), drawn(), OVER, NOTE).count("fill='none'")
    two = page(with_first(), drawn(Series("gap", POINTS[:4] + POINTS[7:])), OVER, NOTE).count("fill='none'")
    assert (one, two) == (1, 2)


def test_lines_that_the_dashboard_stacks_stand_on_each_other():
    """The top of the axis is the sum's, not the largest line's."""
    html = page(with_first(), drawn(Series("a", [(1000.0, 6.0)]), Series("b", [(1000.0, 6.0)])), OVER, NOTE)
    assert DASHBOARD["panels"][1]["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    assert ">15 req/s<" in html


def test_a_legend_too_long_to_read_says_how_much_is_missing():
    lines = [Series(f"namespace{number}/account{number} quota_exhausted", POINTS) for number in range(20)]
    html = page(with_first(), drawn(*lines), OVER, NOTE)
    shown, more = html.count("<span><i"), int(re.findall(r"and (\d+) more", html)[0])
    assert shown + more == 20


@given(st.sampled_from(sorted(UNITS)), VALUES, VALUES)
def test_an_axis_has_zero_and_all_values_on_it_and_few_ticks(unit, one, other):
    axis = axis_of(unit, min(one, other), max(one, other))
    slack = (axis.high - axis.low) * 1e-6
    assert axis.low - slack <= min(one, other, 0)
    assert axis.high + slack >= max(one, other, 0)
    assert [value for value, _ in axis.ticks] == sorted({value for value, _ in axis.ticks})
    assert 2 <= len(axis.ticks) <= 7


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("s", 0.0025, "2.5 ms"),
        ("s", 90, "1.5 min"),
        ("bytes", 150 << 20, "150 MiB"),
        ("short", 1500, "1.5 K"),
        ("reqps", 0.5, "0.5 req/s"),
        ("short", 0, "0"),
    ],
)
def test_a_value_reads_in_its_unit(unit, value, text):
    assert reads(unit, value) == text


def test_queries_go_out_with_every_variable_filled_in():
    assert [each for each in map(query, queries()) if "$" in each] == []


def test_a_legend_has_the_labels_that_are_there():
    assert named("{{namespace}}/{{ model }} of {{nobody}}", {"namespace": "team1", "model": "gpt"}) == "team1/gpt of "


def test_the_picture_shows_the_panels_that_the_dashboard_has():
    """It carries their titles: whoever adds or renames a panel makes it anew (`make screenshot`)."""
    png = PICTURE.read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(png) <= MOST_BYTES
    assert mark(png).splitlines() == titles(DASHBOARD)


def test_the_document_shows_the_picture():
    assert f"({PICTURE.name})" in (ROOT / "docs" / "telemetry.md").read_text()


def test_a_mark_can_be_read_again():
    assert mark(marked(b"head" + b"IEND of 12 b", "Zeit bis 100 %")) == "Zeit bis 100 %"


def test_without_a_browser_it_says_which_package(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get install chromium"):
        shoot("", (1, 1), tmp_path)
