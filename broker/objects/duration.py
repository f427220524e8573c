"""Durations as the objects write them: `500ms`, `5s`, `1h30m`. Source: GEP-2257."""

import re
from typing import Final

PATTERN: Final = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
_PIECE: Final = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds(text: str) -> float:
    """Seconds of a text that matches PATTERN."""
    return sum(int(number) * _SECONDS[unit] for number, unit in _PIECE.findall(text))
