"""What a store remembers of a hold, and what settling it changes: the arithmetic that all stores share. Pure."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from broker.chat import Usage
from broker.grant import Unit
from broker.quota import Ask, cost, window

LATE_S: Final = 3600.0  # how long after its expiry a hold can still be charged more than was held
VOID_S: Final = 600.0  # how long an unknown id stays void: far longer than any store's deadline can delay a hold

_HOUR_S: Final = 3600
_TALLY_HOURS: Final = 24


class Charge(NamedTuple):
    """What a hold took from one counter, in the window of the hold."""

    counter: str
    window: str
    ends_at: float
    unit: Unit
    held: int


class Hold(NamedTuple):
    """A hold as it is kept.

    leases: the counters of its CONCURRENT budgets.
    policies: "namespace/name" of those that are tallied.
    """

    identity: str
    policies: tuple[str, ...]
    charges: tuple[Charge, ...]
    leases: tuple[str, ...]
    prompt_bound: int
    granted_output: int
    requests: int
    expires_at: float

    @property
    def tokens(self) -> int:
        return self.prompt_bound + self.granted_output

    def excess(self, usage: Usage) -> int:
        """Tokens that were billed over what was held."""
        return max(0, usage.input_tokens - self.prompt_bound) + max(0, usage.output_tokens - self.granted_output)

    def corrections(self, usage: Usage) -> Iterator[tuple[Charge, int]]:
        """By how much each counter must change so that it says what was used instead of what was held."""
        for charge in self.charges:
            change = cost(charge.unit, usage.input_tokens, usage.output_tokens, self.requests) - charge.held
            if change:
                yield charge, change


def open_hold(ask: Ask, granted_output: int, now: float) -> Hold:
    """What to remember of a hold that was just granted."""
    prompt, requests = ask.demand.prompt_bound, ask.requests
    charges: list[Charge] = []
    leases: list[str] = []
    for budget in ask.budgets:
        if budget.per is None:
            leases.append(budget.counter)
        else:
            label, ends_at = window(budget.per, now)
            charges.append(Charge(budget.counter, label, ends_at, budget.unit, cost(budget.unit, prompt, granted_output, requests)))
    policies = tuple(str(policy) for policy in ask.policies)
    return Hold(ask.identity, policies, tuple(charges), tuple(leases), prompt, granted_output, requests, now + ask.expires_s)


def hour_of(now: float) -> int:
    """The hourly bucket of tallies that `now` falls in."""
    return int(now // _HOUR_S)


def first_hour(now: float) -> int:
    """The oldest hourly bucket that belongs to the last 24 hours."""
    return hour_of(now) - _TALLY_HOURS + 1
