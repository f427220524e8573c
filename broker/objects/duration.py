"""Durations as the objects write them: `500ms`, `5s`, `1h30m`. Source: GEP-2257."""

import re
from typing import Final

PATTERN: Final = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
_PIECE: Final = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_MS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # whole, so that 59900ms100ms is not longer than 60s


def seconds(text: str) -> float:
    """Seconds of a text that matches PATTERN."""
    return sum(int(number) * _MS[unit] for number, unit in _PIECE.findall(text)) / 1000
