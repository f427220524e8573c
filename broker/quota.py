"""Budgets, demands, holds: the arithmetic of quotas, and the one question that every store answers (docs/quotas.md). Pure.

The protocol, in one breath: `hold` before the first upstream byte, then exactly one of `settle` (the provider said what it
billed), `settle` with None (nobody knows: the whole hold is spent) and `void` (nothing was sent). What nobody settles in
time `expire` spends. A hold's id is made by the caller, so that one whose answer was lost can be voided.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import ceil
from typing import Final, NamedTuple, Protocol

from broker.adjustment import Adjustment, Balance, Look
from broker.chat import Demand, Usage
from broker.errors import ConcurrencyFull, ExceedsQuota, QuotaExhausted
from broker.grant import Budget, Per, PolicyRef, Unit
from broker.money import MOST_MICROUSD, Rates

LEASE_S: Final = 30.0  # how long a CONCURRENT hold counts without a sign of life
RENEW_S: Final = 10.0  # how often its holder gives one: two may be lost

_CONCURRENCY_RETRY_S: Final = 1.0
_TOKENS: Final = frozenset({Unit.TOTAL_TOKENS, Unit.INPUT_TOKENS, Unit.OUTPUT_TOKENS})
_PROMPTED: Final = frozenset({Unit.TOTAL_TOKENS, Unit.INPUT_TOKENS, Unit.USD})  # units that a shorter prompt takes less of


@dataclass(frozen=True, slots=True)
class Allowance:
    """One unit's part of the rate-limit headers: of the enforcing quotas the one with the smallest remaining after this hold."""

    limit: int
    remaining: int
    reset_s: float


class Spending(NamedTuple):
    """What one exchange takes, or may take."""

    input_tokens: int
    output_tokens: int
    requests: int
    microusd: int

    def of(self, unit: Unit) -> int:
        """What a budget of this unit loses."""
        if unit is Unit.TOTAL_TOKENS:
            return self.input_tokens + self.output_tokens
        if unit is Unit.INPUT_TOKENS:
            return self.input_tokens
        if unit is Unit.OUTPUT_TOKENS:
            return self.output_tokens
        if unit is Unit.USD:
            return self.microusd
        return self.requests if unit is Unit.REQUESTS else 1


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of the store, for all budgets of one request in one atomic step.

    identity, policies: whose hourly tallies (tokens, requests, money) this exchange adds to.
    budgets: no counter twice.
    expires_s: seconds from now after which the hold, when nobody settled it, counts as spent. (The lease of a CONCURRENT
        budget has its own, LEASE_S, and is renewed.)
    requests: 1; 0 for a further attempt of an exchange that was already counted.
    rates: what any backend that may answer bills at most. None = one of them has no price: what costs nobody knows what fits no
        budget of money.
    """

    hold_id: str
    identity: str
    policies: tuple[PolicyRef, ...]
    budgets: tuple[Budget, ...]
    demand: Demand
    expires_s: float
    requests: int = 1
    rates: Rates | None = None

    def bound(self, output_tokens: int) -> Spending:
        """The most that the exchange takes with so much output."""
        prompt, rates = self.demand.prompt_bound, self.rates
        return Spending(prompt, output_tokens, self.requests, rates.microusd(prompt, output_tokens) if rates else MOST_MICROUSD)


@dataclass(frozen=True, slots=True)
class Held:
    """The store's yes.

    granted_output: output tokens for all choices together: min_output <= granted_output <= wanted_output.
    tokens, requests: for the rate-limit headers; None where no enforcing quota counts that unit.
    would_refuse: "quota_exhausted", "exceeds_quota" or "concurrency_full" for shadow budgets that would have said no.
    """

    hold_id: str
    granted_output: int
    tokens: Allowance | None
    requests: Allowance | None
    leased: bool
    would_refuse: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expired:
    """A hold that nobody settled in time and that was spent: a restart writes it to audit."""

    hold_id: str
    identity: str
    tokens: int
    cost_microusd: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """The last 24 hours of one identity under one policy, from hourly buckets. What nobody knows the price of costs 0 here."""

    policy: str
    identity: str
    tokens: int
    requests: int
    denied: int
    last_used: float
    cost_microusd: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """One counter, by its name without the window, as it stands in its current window.

    For CONCURRENT: the leases alive now, and reset_s is 0.
    credit: what an operator granted beyond the limit, for this window alone.
    """

    counter: str
    used: int
    reset_s: float
    credit: int = 0


class Ledger(Protocol):
    """Where holds are kept. Every method has a deadline of its own (250 ms) and raises errors.Unavailable when it passes."""

    async def hold(self, ask: Ask) -> Held:
        """Hold for all budgets or for none.

        After Unavailable, or when the call was cancelled, nobody knows whether it was held: `void` it.

        Raises:
            ExceedsQuota: this request can never fit one of them.
            QuotaExhausted: `retry_after_s` is the longest wait of those used up.
            ConcurrencyFull: a CONCURRENT budget is full (and no other says no).
            Unavailable: the store cannot be asked, or this id was used or voided before.
        """
        ...

    async def settle(self, hold_id: str, usage: Usage | None, cost_microusd: int | None = None) -> int:
        """Spend what was used, give back the rest, free the lease. None = spend the whole hold. More than the hold is charged too.

        `cost_microusd` is what that usage costs at the price of the backend that answered; None = nobody knows, so of money the hold
        is spent.

        Idempotent, as the first of settle and void counts; an unknown id changes nothing. After expiry it changes nothing but adds the
        excess over the hold. Charged is the window of the hold, also when it is over.

        Returns:
            Tokens charged over the hold: more than 0 means that a bound was no bound, so alarm it.
        """
        ...

    async def void(self, hold_id: str) -> None:
        """Nothing was sent: give everything back, the request included. Idempotent; an unknown id is remembered as void."""
        ...

    async def renew(self, hold_ids: Iterable[str]) -> None:
        """Keep the leases of these holds for another LEASE_S, also those that had run out: the exchange is still there."""
        ...

    async def deny(self, policies: Iterable[PolicyRef], identity: str) -> None:
        """Count a refusal of an identity that these policies' subjects name."""
        ...

    async def expire(self) -> tuple[Expired, ...]:
        """Spend what nobody settled in time, and forget windows that are over and tallies older than a day. Call it every few seconds."""
        ...

    async def tallies(self) -> tuple[Tally, ...]: ...

    async def readings(self) -> tuple[Reading, ...]: ...

    async def open_holds(self) -> int: ...

    async def balances(self, looks: Sequence[Look]) -> tuple[Balance, ...]:
        """How these counters stand, in the same order. Not for CONCURRENT ones."""
        ...

    async def adjust(self, change: Adjustment) -> tuple[Balance, Balance]:
        """Change one counter in its current window, in one atomic step. Not for CONCURRENT ones.

        After Unavailable nobody knows whether it was changed: look.

        Returns:
            How it stood before, and how it stands now.
        """
        ...

    async def close(self) -> None: ...


class Window(NamedTuple):
    """One turn of a calendar: `label` is part of the counter's full name, `ends_at` in Unix seconds."""

    label: str
    ends_at: float


def window(per: Per, now: float) -> Window:
    """The window of `now`, in UTC."""
    return _window_of_minute(per, int(now // 60))


@lru_cache(maxsize=16)
def _window_of_minute(per: Per, minute: int) -> Window:
    """Every window begins at a whole minute, so all of a minute shares one answer, and asking costs no calendar."""
    at = datetime.fromtimestamp(minute * 60, UTC)
    match per:
        case Per.MINUTE:
            return Window(f"{at:%Y-%m-%dT%H:%M}", (minute + 1) * 60.0)
        case Per.HOUR:
            return Window(f"{at:%Y-%m-%dT%H}", (minute // 60 + 1) * 3600.0)
        case Per.DAY:
            return Window(f"{at:%Y-%m-%d}", (minute // 1440 + 1) * 86400.0)
        case Per.MONTH:
            in_next = at.replace(day=28, hour=0, minute=0) + timedelta(days=4)
            return Window(f"{at:%Y-%m}", in_next.replace(day=1).timestamp())


def uncountable(budgets: Sequence[Budget], rates: Rates | None) -> tuple[str, ...]:
    """Whether a demand without bounds passes budgets that count tokens, or what tokens cost: none that enforces.

    Returns:
        As Held.would_refuse.

    Raises:
        ExceedsQuota: says what the owners can do, and names no policy.
    """
    by_tokens = rates is None or rates.input > 0 or rates.output > 0
    found = [budget for budget in budgets if budget.unit in _TOKENS or (budget.unit is Unit.USD and by_tokens)]
    enforcing = {budget.unit for budget in found if not budget.shadow}
    if enforcing & _TOKENS:
        raise ExceedsQuota(
            "Tokens of this model are limited here, and nobody can bound those of this request before it is answered: ask the owner of "
            "the AIAccessPolicy to limit this model by `requests` instead, and the owner of the AIRoutingPolicy to give it no `rateLimit`."
        )
    if enforcing:
        raise ExceedsQuota(
            "US dollars are limited here, and this model's price is one of tokens, which nobody can bound before this request is answered: "
            'ask the owner of the AIRoutingPolicy for a price of `perRequest` alone, with "0" for tokens.'
        )
    return (ExceedsQuota.code,) if found else ()


class Verdict(NamedTuple):
    """The yes of `grant`; each field as in Held."""

    granted_output: int
    tokens: Allowance | None
    requests: Allowance | None
    would_refuse: tuple[str, ...]


def grant(ask: Ask, used: Sequence[int], now: float) -> Verdict:
    """The one decision about quotas, for every store alike.

    The output is what the caller wants, or what the tightest enforcing budget leaves, but never less than `min_output` (or than what is
    wanted, where that is less still). A budget of which the request takes nothing cannot refuse it.

    Args:
        ask: of which the budgets, the demand and `requests` count.
        used: what stands on each budget's counter in its window of `now` (for CONCURRENT: the leases alive).
        now: the store's time.

    Raises:
        ExceedsQuota, QuotaExhausted, ConcurrencyFull: as Ledger.hold.
    """
    granted = ask.demand.wanted_output
    least = min(ask.demand.min_output, granted)
    needs = ask.bound(least)
    refused: list[tuple[str, Budget]] = []
    would_refuse: list[str] = []
    for budget, spent in zip(ask.budgets, used, strict=True):
        unit, left = budget.unit, budget.limit - spent
        need = needs.of(unit)
        if need > left and need:
            code = _refusal(budget, need)
            if not budget.shadow:
                refused.append((code, budget))
            elif code not in would_refuse:
                would_refuse.append(code)
        elif not budget.shadow and (room := _output_room(ask, unit, left)) is not None:
            granted = max(least, min(granted, room))
    if refused:
        refusal = _refusal_of(refused, now)
        if not isinstance(refusal, ConcurrencyFull):
            refusal.prompt_room = _prompt_room(ask, used, needs, refused)
        raise refusal
    tokens, requests = _allowances(ask, used, granted, now)
    return Verdict(granted, tokens, requests, tuple(would_refuse))


def _output_room(ask: Ask, unit: Unit, left: int) -> int | None:
    """The output tokens for which a budget has room beside the prompt; None where it does not limit them."""
    if unit is Unit.TOTAL_TOKENS:
        return left - ask.demand.prompt_bound
    if unit is Unit.OUTPUT_TOKENS:
        return left
    return ask.rates.output_for(left, ask.demand.prompt_bound) if unit is Unit.USD and ask.rates else None


def _refusal(budget: Budget, need: int) -> str:
    if budget.unit is Unit.CONCURRENT:
        return ConcurrencyFull.code
    return ExceedsQuota.code if need > budget.limit else QuotaExhausted.code


def _refusal_of(refused: Sequence[tuple[str, Budget]], now: float) -> ExceedsQuota | QuotaExhausted | ConcurrencyFull:
    """The no that holds longest: never, then not before a window ends, then not before somebody else is done."""
    codes = {code for code, _ in refused}
    if ExceedsQuota.code in codes:
        return ExceedsQuota("This request needs more than its quota ever allows: shorten the prompt or ask for less output.")
    if QuotaExhausted.code in codes:
        wait_s = max(window(budget.per, now).ends_at - now for code, budget in refused if code == QuotaExhausted.code and budget.per)
        return QuotaExhausted(f"The quota is used up: try again in {reset_text(wait_s)}.", retry_after_s=wait_s)
    return ConcurrencyFull(
        "As many requests as the quota allows are running: try again when one is done.", retry_after_s=_CONCURRENCY_RETRY_S
    )


def _prompt_room(ask: Ask, used: Sequence[int], needs: Spending, refused: Sequence[tuple[str, Budget]]) -> int | None:
    """The longest prompt that would have fitted; None where the prompt is not what was too much, or a budget takes bytes alone."""
    if any(budget.strict and not budget.shadow for budget in ask.budgets) or any(budget.unit not in _PROMPTED for _, budget in refused):
        return None
    rooms: list[int] = []
    for budget, spent in zip(ask.budgets, used, strict=True):
        if budget.unit not in _PROMPTED or budget.shadow:
            continue
        left = budget.limit - spent
        if budget.unit is not Unit.USD:
            rooms.append(left - needs.of(budget.unit) + needs.input_tokens)
        elif ask.rates is None:
            return None
        elif (paid_for := ask.rates.input_for(left, needs.output_tokens)) is not None:
            rooms.append(paid_for)
        elif needs.microusd > left:
            return None
    return min(rooms)


def _allowances(ask: Ask, used: Sequence[int], granted: int, now: float) -> tuple[Allowance | None, Allowance | None]:
    """For tokens and for requests: what the tightest enforcing budget leaves after this hold."""
    takes = ask.bound(granted)
    tokens: tuple[int, int, Per] | None = None
    requests: tuple[int, int, Per] | None = None
    for budget, spent in zip(ask.budgets, used, strict=True):
        unit = budget.unit
        if budget.shadow or budget.per is None or unit is Unit.USD:
            continue
        left = budget.limit - spent - takes.of(unit)
        if unit is Unit.REQUESTS:
            if requests is None or left < requests[0]:
                requests = left, budget.limit, budget.per
        elif tokens is None or left < tokens[0]:
            tokens = left, budget.limit, budget.per
    return _allowance(tokens, now), _allowance(requests, now)


def _allowance(tightest: tuple[int, int, Per] | None, now: float) -> Allowance | None:
    if tightest is None:
        return None
    left, limit, per = tightest
    return Allowance(limit, max(0, left), window(per, now).ends_at - now)


def reset_text(seconds: float) -> str:
    """A wait as rate-limit headers write it: 6m0s, 1h0m0s, 45s. Rounded up, since too early is refused again."""
    minutes, rest = divmod(max(0, ceil(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
