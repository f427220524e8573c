"""A dashboard as one page of HTML with an SVG for each panel: what its JSON says, filled with what a Prometheus answered. Pure.

Grafana's own server cannot be had from a package registry, so its dashboard is drawn here: every panel at its place, with its title, unit and
legend. Whatever this cannot draw is an error, never left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from dashboard.scale import Axis, axis_of, reads

WIDTH, COLUMNS = 1560, 24
UNIT, GAP, MARGIN, TOP = 27, 8, 16, 92  # pixels: one row of the grid, between panels, around, and the page's own head
TITLE, CAPTION, LINE = 24, 15, 15  # heights of a panel's title, its description, a row of its legend
LEFT, BELOW, ABOVE, RIGHT = 62, 18, 8, 12  # around a plot
LETTER, SWATCH = 6.1, 26  # widths, of 11-pixel text and of a legend's mark with its gaps
LEGEND_ROWS = 4
TIMES, TIME_WIDTH = 4, 110
COLOURS = (
    "#3274d9",
    "#e0752d",
    "#37872d",
    "#c4162a",
    "#8f3bb8",
    "#c9a000",
    "#1f9fa8",
    "#b0417f",
    "#6b6b6b",
    "#7a5230",
    "#6d8f00",
    "#5a5ac8",
)
STYLE = """
body { margin: 0; background: #eef0f3; color: #24292f; font: 12px "DejaVu Sans", sans-serif; position: relative; }
header { position: absolute; left: 16px; right: 16px; top: 12px; }
h1 { font-size: 19px; margin: 0 0 4px; } header p { margin: 0 0 4px; } header b { font-weight: 600; } .note { color: #57606a; }
section { position: absolute; box-sizing: border-box; background: #fff; border: 1px solid #d5d9df; border-radius: 3px; overflow: hidden; }
section.row { background: none; border: 0; font-weight: 600; font-size: 14px; line-height: 30px; }
h2 { font-size: 12.5px; font-weight: 600; margin: 5px 10px 0; height: 19px; white-space: nowrap; }
.caption { color: #6e7781; font-size: 10px; margin: 0 10px; height: 15px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.legend { position: absolute; left: 10px; right: 8px; bottom: 4px; font-size: 11px; }
.legend span { display: inline-block; line-height: 15px; margin-right: 12px; white-space: nowrap; }
.legend i { display: inline-block; width: 10px; height: 3px; margin: 0 4px 3px 0; border-radius: 1px; }
.legend .more { color: #6e7781; } .number { text-align: center; font-weight: 600; } svg { display: block; } svg text { font-size: 10px; fill: #57606a; }
"""

Points = Sequence[tuple[float, float]]  # Unix seconds and value, in the order of time


@dataclass(frozen=True)
class Series:
    """One line of a panel, by its place in the legend."""

    name: str
    points: Points


@dataclass(frozen=True)
class Range:
    """What was asked for: Unix seconds, and how far apart values are."""

    began_s: float
    ended_s: float
    step_s: float


@dataclass(frozen=True)
class _Box:
    """Where a plot is within its panel, in pixels, and over what."""

    width: float
    height: float
    axis: Axis
    over: Range

    def x(self, at_s: float) -> float:
        return LEFT + (at_s - self.over.began_s) / (self.over.ended_s - self.over.began_s) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.axis.low) / (self.axis.high - self.axis.low)
        return self.height - BELOW - share * (self.height - BELOW - ABOVE)


def page(dashboard: Mapping[str, Any], drawn: Mapping[int, Sequence[Series]], over: Range, note: str) -> str:
    """The whole dashboard. `drawn`: what each panel but the rows shows, by its id.

    Raises:
        ValueError: a panel that shows nothing, or of a kind that cannot be drawn.
        KeyError: a panel without its series, or with a unit that is not known.
    """
    panels = "\n".join(_panel(panel, drawn, over) for panel in dashboard["panels"])
    asked = [each["label"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    chosen = " · ".join(f"<b>{escape(label)}</b> All" for label in asked)
    span = f"{_clock(over.began_s)} to {_clock(over.ended_s)} UTC"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(dashboard['title'])}</title><style>{STYLE}</style>"
        f"<body style='width:{WIDTH}px;height:{height(dashboard)}px'><header><h1>{escape(dashboard['title'])}</h1>"
        f"<p>{escape(dashboard['description'])}. {chosen} · <b>Time</b> {span}</p><p class=note>{escape(note)}</p></header>\n{panels}\n</body></html>"
    )


def height(dashboard: Mapping[str, Any]) -> int:
    """Of the page, in pixels."""
    return TOP + max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) * (UNIT + GAP) + MARGIN - GAP


def _panel(panel: Mapping[str, Any], drawn: Mapping[int, Sequence[Series]], over: Range) -> str:
    at = panel["gridPos"]
    column = (WIDTH - 2 * MARGIN + GAP) / COLUMNS
    left, top = MARGIN + at["x"] * column, TOP + at["y"] * (UNIT + GAP)
    width, tall = at["w"] * column - GAP, at["h"] * (UNIT + GAP) - GAP
    place = f"left:{left:.0f}px;top:{top}px;width:{width:.0f}px;height:{tall}px"
    title = escape(panel["title"])
    if panel["type"] == "row":
        return f"<section class=row style='{place}'>{title}</section>"
    series = drawn[panel["id"]]
    if not any(each.points for each in series):
        raise ValueError(f"panel {panel['title']!r} shows nothing")
    about = panel.get("description", "")
    head = f"<h2>{title}</h2>" + (f"<div class=caption>{escape(about)}</div>" if about else "")
    left_over = tall - TITLE - (CAPTION if about else 0)
    draw = {"timeseries": _lines, "stat": _number}.get(panel["type"])
    if draw is None:
        raise ValueError(f"panel {panel['title']!r} is a {panel['type']}, which this script cannot draw")
    return f"<section style='{place}'>{head}{draw(panel, series, over, (width - 2, left_over - 2))}</section>"


def _number(panel: Mapping[str, Any], series: Sequence[Series], _over: Range, size: tuple[float, float]) -> str:
    """The last value of each line, with its name below."""
    unit, (_, tall) = panel["fieldConfig"]["defaults"]["unit"], size
    each = tall / len(series)
    return "".join(
        f"<div class=number style='height:{each:.0f}px;padding-top:{each * 0.2:.0f}px;box-sizing:border-box;color:{COLOURS[2]}'>"
        f"<div style='font-size:{each * 0.28:.0f}px'>{reads(unit, one.points[-1][1])}</div>{escape(one.name)}</div>"
        for one in series
    )


def _lines(panel: Mapping[str, Any], series: Sequence[Series], over: Range, size: tuple[float, float]) -> str:
    defaults, (width, tall) = panel["fieldConfig"]["defaults"], size
    custom = defaults["custom"]
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    layers = list(_stacked(series) if stacked else ((each.points, ()) for each in series))
    values = [value for upper, _ in layers for _, value in upper]
    legend = _legend(series, width)
    box = _Box(width, tall - legend[1] - 6, axis_of(defaults["unit"], min(values), max(values)), over)
    shapes = "".join(
        _shape(box, upper, lower, COLOURS[number % len(COLOURS)], custom["fillOpacity"] / 100, custom["lineWidth"])
        for number, (upper, lower) in enumerate(layers)
    )
    return f"<svg width='{box.width:.0f}' height='{box.height:.0f}'>{_grid(box)}{shapes}</svg>{legend[0]}"


def _stacked(series: Sequence[Series]) -> Iterator[tuple[Points, Points]]:
    """Each line upon those before it, and what it stands on. A value that is missing counts as 0."""
    times = sorted({at_s for each in series for at_s, _ in each.points})
    lower = [(at_s, 0.0) for at_s in times]
    for each in series:
        known = dict(each.points)
        upper = [(at_s, below + known.get(at_s, 0.0)) for at_s, below in lower]
        yield upper, lower
        lower = upper


def _shape(box: _Box, upper: Points, lower: Points, colour: str, fill: float, line: float) -> str:
    """The line, broken where values are missing, and the area below it."""
    found = ""
    for part in _unbroken(upper, box.over.step_s):
        line_of = _path(box, part)
        under = dict(lower)
        back = [(at_s, under.get(at_s, max(box.axis.low, 0.0))) for at_s, _ in reversed(part)]
        found += f"<path d='M{line_of}L{_path(box, back)}Z' fill='{colour}' fill-opacity='{fill:g}'/>"
        found += f"<path d='M{line_of}' fill='none' stroke='{colour}' stroke-width='{line + 0.4:g}' stroke-linejoin='round' stroke-linecap='round'/>"
    return found


def _unbroken(points: Points, step_s: float) -> Iterator[Points]:
    part: list[tuple[float, float]] = []
    for at_s, value in points:
        if part and at_s - part[-1][0] > 1.5 * step_s:
            yield part
            part = []
        part.append((at_s, value))
    if part:
        yield part


def _path(box: _Box, points: Points) -> str:
    return " ".join(f"{box.x(at_s):.1f},{box.y(value):.1f}" for at_s, value in points)


def _grid(box: _Box) -> str:
    right, bottom = box.width - RIGHT, box.y(box.axis.low)
    found = "".join(
        f"<path d='M{LEFT},{box.y(value):.1f}H{right:.1f}' stroke='#e4e7eb'/>"
        f"<text x='{LEFT - 6}' y='{box.y(value) + 3.5:.1f}' text-anchor='end'>{escape(text)}</text>"
        for value, text in box.axis.ticks
    )
    times = max(1, min(TIMES, int((right - LEFT) / TIME_WIDTH)))
    for number in range(times + 1):
        at_s = box.over.began_s + (box.over.ended_s - box.over.began_s) * number / times
        anchor = "start" if number == 0 else "end" if number == times else "middle"
        found += f"<text x='{box.x(at_s):.1f}' y='{bottom + 14:.1f}' text-anchor='{anchor}'>{_clock(at_s)}</text>"
    return found


def _legend(series: Sequence[Series], width: float) -> tuple[str, float]:
    """As many names as a reader takes in, as Grafana's own, which scrolls; and how high it is, as far as that can be told without a browser."""
    rows, used, marks = 1, 0.0, list[str]()
    for number, each in enumerate(series):
        wide = len(each.name) * LETTER + SWATCH
        if used and used + wide > width - 18:
            rows, used = rows + 1, 0.0
        more = f"and {len(series) - number} more"
        if rows > LEGEND_ROWS or (rows == LEGEND_ROWS and number + 1 < len(series) and used + wide + len(more) * LETTER > width - 18):
            marks.append(f"<span class=more>{more}</span>")
            break
        used += wide
        marks.append(f"<span><i style='background:{COLOURS[number % len(COLOURS)]}'></i>{escape(each.name)}</span>")
    return f"<div class=legend>{''.join(marks)}</div>", min(rows, LEGEND_ROWS) * LINE + 2.0


def _clock(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S")
