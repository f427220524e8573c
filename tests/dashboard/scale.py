"""How far an axis goes, where its ticks are, and how a value reads in one of the dashboard's units. Pure."""

import math
from dataclasses import dataclass

# by Grafana's name of the unit, ascending: from this value on it is said in this one
UNITS: dict[str, tuple[tuple[float, str], ...]] = {
    "reqps": ((1, " req/s"),),
    "short": ((1, ""), (1e3, " K"), (1e6, " Mil")),
    "s": ((1e-6, " µs"), (1e-3, " ms"), (1, " s"), (60, " min"), (3600, " h")),
    "bytes": ((1, " B"), (1 << 10, " KiB"), (1 << 20, " MiB"), (1 << 30, " GiB")),
}
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
TICKS = 4  # at most, above the lowest
LEAST = 1e-9


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`; ticks are values and what they read."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


def axis_of(unit: str, low: float, high: float) -> Axis:
    """An axis that has 0 and both values on it.

    Raises:
        KeyError: a unit that nobody has taught us.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < LEAST:
        high = low + 1.0
    factor, suffix = _said_in(unit, max(-low, high))
    step = _step((high - low) / factor) * factor
    first, last = math.floor(low / step + LEAST), math.ceil(high / step - LEAST)
    ticks = tuple((number * step, f"{round(number * step / factor, 6):g}{suffix}" if number else "0") for number in range(first, last + 1))
    return Axis(first * step, last * step, ticks)


def reads(unit: str, value: float) -> str:
    """One value, as a panel of one number shows it."""
    factor, suffix = _said_in(unit, abs(value))
    return f"{value / factor:.3g}{suffix}"


def _said_in(unit: str, size: float) -> tuple[float, str]:
    known = UNITS[unit]
    return next((each for each in reversed(known) if size >= each[0]), known[0])


def _step(span: float) -> float:
    """The smallest round step of which TICKS are enough."""
    rough = span / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in STEPS if step * power >= rough * (1 - LEAST))
