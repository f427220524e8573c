"""Budgets, demands, holds: the arithmetic of quotas, and the one question that every store answers (design.md, "Quota"). Pure.

The protocol, in one breath: `hold` before the first upstream byte, then exactly one of `settle` (the provider said what it
billed), `settle` with None (nobody knows: the whole hold is spent) and `void` (nothing was sent). What nobody settles in
time `expire` spends. A hold's id is made by the caller, so that one whose answer was lost can be voided.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from broker.chat import Demand, Usage
from broker.grant import Budget, PolicyRef


@dataclass(frozen=True, slots=True)
class Allowance:
    """One unit's part of the rate-limit headers: of the enforcing quotas the one with the smallest remaining after this hold."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of the store, for all budgets of one request in one atomic step.

    identity, policies: whose hourly tallies (tokens, requests) this exchange adds to.
    expires_s: seconds from now after which the hold, when nobody settled it, counts as spent. (The lease of a CONCURRENT
        budget has its own, LEASE_S, and is renewed.)
    """

    hold_id: str
    identity: str
    policies: tuple[PolicyRef, ...]
    budgets: tuple[Budget, ...]
    demand: Demand
    expires_s: float


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


@dataclass(frozen=True, slots=True)
class Tally:
    """The last 24 hours of one identity under one policy, from hourly buckets."""

    policy: str
    identity: str
    tokens: int
    requests: int
    denied: int
    last_used: float


@dataclass(frozen=True, slots=True)
class Reading:
    """One counter as it stands in its current window (for CONCURRENT: the leases alive now)."""

    counter: str
    used: int
    reset_s: float


class Ledger(Protocol):
    """Where holds are kept. Every method has a deadline of its own (250 ms) and raises errors.Unavailable when it passes."""

    async def hold(self, ask: Ask) -> Held:
        """Hold for all budgets or for none.

        Raises:
            ExceedsQuota: this request can never fit one of them.
            QuotaExhausted: `retry_after_s` is the longest wait of those used up.
            ConcurrencyFull: a CONCURRENT budget is full (and no other says no).
            Unavailable: the store cannot be asked.
        """
        ...

    async def settle(self, hold_id: str, usage: Usage | None) -> None:
        """Spend what was used, give back the rest, free the lease. None = spend the whole hold. More than the hold is charged too.

        Idempotent. After expiry it changes nothing but adds the excess over the hold.
        """
        ...

    async def void(self, hold_id: str) -> None:
        """Nothing was sent: give everything back, the request included. Idempotent; an unknown id is remembered as void."""
        ...

    async def renew(self, hold_ids: Iterable[str]) -> None:
        """Keep the leases of these holds for another LEASE_S."""
        ...

    async def deny(self, policies: Iterable[PolicyRef], identity: str) -> None:
        """Count a refusal of an identity that these policies' subjects name."""
        ...

    async def expire(self) -> tuple[Expired, ...]:
        """Spend what nobody settled in time; drop dead leases and windows that are over."""
        ...

    async def tallies(self) -> tuple[Tally, ...]: ...

    async def readings(self) -> tuple[Reading, ...]: ...

    async def open_holds(self) -> int: ...

    async def close(self) -> None: ...
