"""What an operator changes on a counter, and how it stands before and after. Pure.

A counter counts what is spent in its window. Beside it may stand a credit, for that window alone: what may be spent is the quota's
limit and the credit together, so that a quota stays a ceiling, and the one who moved it is in the audit log. Stores keep spent less
credited in the counter itself, where holds read it, and the credit under a name of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, NamedTuple

import msgspec

from broker.grant import Per

CREDIT_MAX: Final = 1 << 50  # every store can count it, and add to it
_CREDIT: Final = "+"  # no counter's own name begins so


class Look(NamedTuple):
    """Which counter to look at, in its current window.

    floor: below this much spent nobody wants to know how much of it is held, which is dearer to find out.
    """

    counter: str
    per: Per
    floor: int = -CREDIT_MAX


@dataclass(frozen=True, slots=True)
class Balance:
    """How a counter stands in its current window.

    window: its label, such as 2026-11-17T12.
    used: what was spent, with what is held for exchanges that run.
    held: that part; 0 below the floor of the look.
    credit: may be spent beyond the limit; below 0 it takes from the limit.
    reset_s: until the window is over.
    """

    counter: str
    window: str
    used: int
    held: int
    credit: int
    reset_s: float

    def after(self, change: "Adjustment") -> "Balance":
        """As it would stand after a change."""
        return replace(self, used=self.held if change.clears else self.used, credit=self.credit + change.credit)


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A change of one counter in its current window.

    credit: added to what stands there as its credit; may be below 0. At most CREDIT_MAX either way.
    clears: forget what was spent. What is held stays: so it never falls below 0 when that is settled.
    """

    counter: str
    per: Per
    credit: int = 0
    clears: bool = False


class Adjusted(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="adjusted"):
    """The audit line of an adjustment.

    who: a SPIFFE ID over mutual TLS, `uid:N` over the local socket.
    outcome: `unknown` when the store did not answer: it may have been changed, and the figures after are those that it would have.
    """

    time: datetime
    who: str
    action: Literal["grant", "reset"]
    outcome: Literal["done", "unknown"]
    counter: str
    window: str
    reason: str
    used_before: int
    used_after: int
    credit_before: int
    credit_after: int


def credit_of(counter: str) -> str:
    """The name under which a store keeps a counter's credit."""
    return _CREDIT + counter


def with_credits(rows: Iterable[tuple[str, int, float]]) -> Sequence[tuple[str, int, float, int]]:
    """Rows of a store, (counter, value, seconds left), as (counter, used, seconds left, credit)."""
    known = list(rows)
    credits_now = {name[len(_CREDIT) :]: value for name, value, _ in known if name.startswith(_CREDIT)}
    return [
        (name, value + credits_now.get(name, 0), reset_s, credits_now.get(name, 0))
        for name, value, reset_s in known
        if not name.startswith(_CREDIT)
    ]
