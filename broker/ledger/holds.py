"""What a store remembers of a hold, and what settling it changes: the arithmetic that all stores share. Pure."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from broker.chat import Usage
from broker.grant import Unit
from broker.quota import Ask, Spending, window

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
    microusd: what it may cost at most; 0 where nobody knows a price.
    """

    identity: str
    policies: tuple[str, ...]
    charges: tuple[Charge, ...]
    leases: tuple[str, ...]
    prompt_bound: int
    granted_output: int
    requests: int
    expires_at: float
    microusd: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_bound + self.granted_output

    @property
    def all(self) -> Spending:
        """The whole hold, spent."""
        return Spending(self.prompt_bound, self.granted_output, self.requests, self.microusd)

    def excess(self, usage: Usage) -> int:
        """Tokens that were billed over what was held."""
        return max(0, usage.input_tokens - self.prompt_bound) + max(0, usage.output_tokens - self.granted_output)

    def beyond(self, spent: Spending) -> Spending:
        """What is left to tally of a hold that was tallied whole."""
        return Spending(
            max(0, spent.input_tokens - self.prompt_bound),
            max(0, spent.output_tokens - self.granted_output),
            0,
            max(0, spent.microusd - self.microusd),
        )

    def spent(self, usage: Usage, cost_microusd: int | None) -> Spending:
        """What it came to; of money what was held, where nobody knows."""
        return Spending(usage.input_tokens, usage.output_tokens, self.requests, self.microusd if cost_microusd is None else cost_microusd)

    def corrections(self, spent: Spending) -> Iterator[tuple[Charge, int]]:
        """By how much each counter must change so that it says what was used instead of what was held."""
        for charge in self.charges:
            change = spent.of(charge.unit) - charge.held
            if change:
                yield charge, change


def open_hold(ask: Ask, granted_output: int, now: float) -> Hold:
    """What to remember of a hold that was just granted."""
    bound = ask.bound(granted_output)
    charges: list[Charge] = []
    leases: list[str] = []
    for budget in ask.budgets:
        if budget.per is None:
            leases.append(budget.counter)
        else:
            label, ends_at = window(budget.per, now)
            charges.append(Charge(budget.counter, label, ends_at, budget.unit, bound.of(budget.unit)))
    policies = tuple(str(policy) for policy in ask.policies)
    return Hold(
        ask.identity,
        policies,
        tuple(charges),
        tuple(leases),
        bound.input_tokens,
        granted_output,
        ask.requests,
        now + ask.expires_s,
        bound.microusd if ask.rates else 0,
    )


def hour_of(now: float) -> int:
    """The hourly bucket of tallies that `now` falls in."""
    return int(now // _HOUR_S)


def first_hour(now: float) -> int:
    """The oldest hourly bucket that belongs to the last 24 hours."""
    return hour_of(now) - _TALLY_HOURS + 1
