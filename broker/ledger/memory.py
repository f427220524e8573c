"""Holds in memory, for tests and benchmarks: a restart forgets everything, and a second replica knows nothing of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from broker.adjustment import Adjustment, Balance, Look, with_credits
from broker.chat import Usage
from broker.errors import Unavailable
from broker.grant import Budget, PolicyRef
from broker.ledger.adjusting import Adjusting
from broker.ledger.holds import LATE_S, VOID_S, Charge, Hold, first_hour, hour_of, open_hold
from broker.quota import LEASE_S, Ask, Expired, Held, Reading, Spending, Tally, grant, window


@dataclass(slots=True)
class _Counter:
    used: int
    ends_at: float


@dataclass(slots=True)
class _Bucket:
    """One hour of one identity under one policy."""

    tokens: int = 0
    requests: int = 0
    denied: int = 0
    last_used: float = 0.0
    microusd: int = 0


class MemoryLedger:
    """quota.Ledger on dicts. Nothing in it waits, so every step is atomic.

    Args:
        clock: Unix time. It may step back, the ledger's time does not.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now = 0.0
        self._counters: dict[tuple[str, str], _Counter] = {}
        self._holds: dict[str, Hold] = {}
        self._spent: dict[str, Hold] = {}  # expired, kept for a late settlement
        self._voids: dict[str, float] = {}
        self._leases: dict[str, dict[str, float]] = {}
        self._tallies: dict[tuple[str, str, int], _Bucket] = {}

    async def hold(self, ask: Ask) -> Held:
        now = self._time()
        if ask.hold_id in self._holds or ask.hold_id in self._spent or ask.hold_id in self._voids:
            raise Unavailable("This request was given up before its quota was held: try again.")
        verdict = grant(ask, [self._used(budget, now) for budget in ask.budgets], now)
        hold = self._holds[ask.hold_id] = open_hold(ask, verdict.granted_output, now)
        for charge in hold.charges:
            self._take(charge)
        for counter in hold.leases:
            self._leases.setdefault(counter, {})[ask.hold_id] = now + LEASE_S
        return Held(ask.hold_id, verdict.granted_output, verdict.tokens, verdict.requests, bool(hold.leases), verdict.would_refuse)

    async def settle(self, hold_id: str, usage: Usage | None, cost_microusd: int | None = None) -> int:
        now = self._time()
        if hold_id in self._spent:
            return self._settle_late(hold_id, usage, cost_microusd, now)
        hold = self._finish(hold_id)
        if hold is None:
            return 0
        if usage is None:
            self._tally(hold, hold.all, now)
            return 0
        spent = hold.spent(usage, cost_microusd)
        for charge, change in hold.corrections(spent):
            self._change(charge.counter, charge.window, change)
        self._tally(hold, spent, now)
        return hold.excess(usage)

    async def void(self, hold_id: str) -> None:
        now = self._time()
        if hold_id in self._spent:
            return
        hold = self._finish(hold_id)
        if hold is None:
            self._voids[hold_id] = now
            return
        for charge in hold.charges:
            self._change(charge.counter, charge.window, -charge.held)

    async def renew(self, hold_ids: Iterable[str]) -> None:
        until = self._time() + LEASE_S
        for hold_id in hold_ids:
            hold = self._holds.get(hold_id)
            for counter in hold.leases if hold else ():
                self._leases[counter][hold_id] = until

    async def deny(self, policies: Iterable[PolicyRef], identity: str) -> None:
        hour = hour_of(self._time())
        for policy in policies:
            self._tallies.setdefault((str(policy), identity, hour), _Bucket()).denied += 1

    async def expire(self) -> tuple[Expired, ...]:
        now = self._time()
        overdue = [hold_id for hold_id, hold in self._holds.items() if hold.expires_at <= now]
        expired: list[Expired] = []
        for hold_id in overdue:
            hold = self._finish(hold_id)
            if hold is not None:
                self._spent[hold_id] = hold
                self._tally(hold, hold.all, now)
                expired.append(Expired(hold_id, hold.identity, hold.tokens, hold.microusd))
        self._forget(now)
        return tuple(expired)

    async def tallies(self) -> tuple[Tally, ...]:
        first = first_hour(self._time())
        days: dict[tuple[str, str], _Bucket] = {}
        for (policy, identity, hour), bucket in self._tallies.items():
            if hour >= first:
                day = days.setdefault((policy, identity), _Bucket())
                day.tokens += bucket.tokens
                day.requests += bucket.requests
                day.denied += bucket.denied
                day.last_used = max(day.last_used, bucket.last_used)
                day.microusd += bucket.microusd
        return tuple(
            Tally(policy, identity, day.tokens, day.requests, day.denied, day.last_used, day.microusd)
            for (policy, identity), day in sorted(days.items())
        )

    async def readings(self) -> tuple[Reading, ...]:
        now = self._time()
        rows = with_credits((name, at.used, at.ends_at - now) for (name, _), at in self._counters.items() if at.ends_at > now)
        counted = [Reading(*row) for row in rows]
        leased = [Reading(name, alive, 0.0) for name in self._leases if (alive := self._alive(name, now))]
        return tuple(sorted(counted + leased, key=lambda reading: reading.counter))

    async def open_holds(self) -> int:
        return len(self._holds)

    async def balances(self, looks: Sequence[Look]) -> tuple[Balance, ...]:
        return self._adjusting().look(looks)

    async def adjust(self, change: Adjustment) -> tuple[Balance, Balance]:
        return self._adjusting().adjust(change, self._take)

    async def close(self) -> None:
        """Nothing to close."""

    def _adjusting(self) -> Adjusting:
        return Adjusting(self._stored, lambda: (charge for hold in self._holds.values() for charge in hold.charges), self._time())

    def _stored(self, counter: str, label: str) -> int:
        known = self._counters.get((counter, label))
        return known.used if known else 0

    def _take(self, charge: Charge) -> None:
        self._counters.setdefault((charge.counter, charge.window), _Counter(0, charge.ends_at)).used += charge.held

    def _time(self) -> float:
        self._now = max(self._now, self._clock())
        return self._now

    def _used(self, budget: Budget, now: float) -> int:
        if budget.per is None:
            return self._alive(budget.counter, now)
        return self._stored(budget.counter, window(budget.per, now).label)

    def _alive(self, counter: str, now: float) -> int:
        return sum(until > now for until in self._leases.get(counter, {}).values())

    def _finish(self, hold_id: str) -> Hold | None:
        """Take an open hold out, with its leases."""
        hold = self._holds.pop(hold_id, None)
        for counter in hold.leases if hold else ():
            holders = self._leases[counter]
            del holders[hold_id]
            if not holders:
                del self._leases[counter]
        return hold

    def _change(self, counter: str, label: str, change: int) -> None:
        known = self._counters.get((counter, label))
        if known is not None:  # a window that is over and forgotten counts nothing any more
            known.used += change

    def _settle_late(self, hold_id: str, usage: Usage | None, cost_microusd: int | None, now: float) -> int:
        if usage is None:
            return 0
        hold = self._spent.pop(hold_id)
        spent = hold.spent(usage, cost_microusd)
        for charge, change in hold.corrections(spent):
            self._change(charge.counter, charge.window, max(0, change))
        self._tally(hold, hold.beyond(spent), now)
        return hold.excess(usage)

    def _tally(self, hold: Hold, spent: Spending, now: float) -> None:
        for policy in hold.policies:
            bucket = self._tallies.setdefault((policy, hold.identity, hour_of(now)), _Bucket())
            bucket.tokens += spent.input_tokens + spent.output_tokens
            bucket.requests += spent.requests
            bucket.last_used = now
            bucket.microusd += spent.microusd

    def _forget(self, now: float) -> None:
        self._counters = {key: counter for key, counter in self._counters.items() if counter.ends_at > now}
        self._spent = {hold_id: hold for hold_id, hold in self._spent.items() if hold.expires_at + LATE_S > now}
        self._voids = {hold_id: at for hold_id, at in self._voids.items() if at + VOID_S > now}
        self._tallies = {key: bucket for key, bucket in self._tallies.items() if key[2] >= first_hour(now)}
