"""Durations, sizes, moments and choices as people write them. Pure."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)").fullmatch
_FACTORS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_DAYS: Final = re.compile(r"([0-9]{1,6})d").fullmatch
_SIZE: Final = re.compile(r"([0-9]+)(KiB|MiB|GiB)?").fullmatch
_SIZES: Final = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,6}").fullmatch
DAY_S: Final = 86_400.0
LIFETIME_MIN_S: Final = 1.0


def duration(text: str) -> float:
    """In seconds.

    Raises:
        ValueError: it is none.
    """
    found = _DURATION(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration such as 500ms, 30s or 10m")
    return float(found[1]) * _FACTORS[found[2]]


def lifetime(text: str) -> float:
    """Of a certificate, in seconds.

    Raises:
        ValueError: it is none, or over before anybody could use it.
    """
    life_s = duration(text)
    if life_s < LIFETIME_MIN_S:
        raise ValueError(f"{text} is less than {LIFETIME_MIN_S:g}s: certificates would be made without a pause")
    return life_s


def one_of(*words: str) -> Callable[[str], str]:
    """What reads one of these words, in whatever case.

    It raises ValueError: it is another one.
    """

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text.lower()

    return read


def size(text: str) -> int:
    """In bytes.

    Raises:
        ValueError: it is none.
    """
    found = _SIZE(text)
    if found is None:
        raise ValueError(f"{text!r} is no size such as 32MiB")
    return int(found[1]) * _SIZES[found[2]]


def age(text: str) -> float:
    """Days, or a duration; in seconds, and more than none.

    Raises:
        ValueError: it is none.
    """
    found = _DAYS(text)
    try:
        age_s = int(found[1]) * DAY_S if found else duration(text)
    except ValueError:
        age_s = 0.0
    if age_s <= 0:
        raise ValueError(f"{text!r} is no age such as 30d, 12h or 10m")
    return age_s


class Kept(NamedTuple):
    """How much of something is kept: so many of it, or all that is no older. One of the two is None."""

    number: int | None = None
    age_s: float | None = None


def kept(text: str) -> Kept:
    """A number, or an age.

    Raises:
        ValueError: it is neither.
    """
    if _NUMBER(text):
        return Kept(number=int(text))
    try:
        return Kept(age_s=age(text))
    except ValueError:
        raise ValueError(f"{text!r} is neither a number above 0 nor an age such as 30d or 12h") from None


def moment(text: str, now: datetime) -> datetime:
    """A day, a time, or an age before now.

    Raises:
        ValueError: it is none.
    """
    found = _DAYS(text)
    try:
        return now - timedelta(seconds=int(found[1]) * DAY_S if found else duration(text))
    except ValueError:
        pass
    except OverflowError:
        raise ValueError(f"{text!r} is longer ago than there are years") from None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no day such as 2026-11-01, no time such as 2026-11-01T08:00:00Z, and no age such as 30d or 12h"
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
