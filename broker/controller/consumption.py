"""What each AIAccessPolicy's identities used, from the quota store's own figures. Pure.

The last 24 hours come from the tallies, the quotas from the counters of the windows that are open now. An identity is seen when it
was served or refused within a day; under a Limit, which serves nobody, while something of it counts.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from broker.grant import Unit
from broker.money import dollars
from broker.policy import Snapshot
from broker.policy.rules import Ceiling, Rule
from broker.quota import Reading, Tally, window
from broker.usage.quotas import parse

SHOWN: Final = 20  # identities of a policy in its status
_MINUTE_S: Final = 60
_UNITS: Final = {Unit.REQUESTS: "requests", Unit.USD: "usd", Unit.CONCURRENT: "concurrent"}
_OF_A_POLICY: Final = "AIAccessPolicy"


@dataclass(frozen=True, slots=True)
class Quota:
    """One quota as one identity stands in it.

    unit: tokens, requests, usd or concurrent. used, limit: as people write them.
    resets_at: Unix seconds; None for exchanges at once, which have no window.
    """

    name: str
    unit: str
    used: str
    limit: str
    resets_at: int | None


@dataclass(frozen=True, slots=True)
class Consumer:
    """One identity under one policy, in the last 24 hours."""

    identity: str
    tokens: int
    microusd: int
    requests: int
    denied: int
    quotas: tuple[Quota, ...]


@dataclass(frozen=True, slots=True)
class Consumption:
    """All identities of one policy, in the last 24 hours.

    identities: how many were seen. last_used: Unix seconds, None when nobody was served.
    top: those that used most, in the order of their SPIFFE IDs.
    """

    identities: int
    tokens: int
    microusd: int
    requests: int
    denied: int
    last_used: int | None
    top: tuple[Consumer, ...]


NOTHING: Final = Consumption(0, 0, 0, 0, 0, None, ())


def consumption(snapshot: Snapshot, tallies: Iterable[Tally], readings: Sequence[Reading], now: float) -> Mapping[str, Consumption]:
    """What was used under each policy, by `namespace/name`. A policy that is not named used nothing.

    now: the controller's own time, for windows in which nothing was counted yet.
    """
    rules = {str(rule.ref): rule for rule in snapshot.rules.all}
    tallied: dict[str, dict[str, Tally]] = defaultdict(dict)
    for tally in tallies:
        tallied[tally.policy][tally.identity] = tally
    counted = {reading.counter: reading for reading in readings}
    counting = _counting(counted)
    return {
        policy: _one(tallied[policy], counting.get(policy, set()), rules.get(policy), counted, now)
        for policy in {*tallied, *(policy for policy in counting if policy in rules)}
    }


def _counting(counters: Iterable[str]) -> Mapping[str, set[str]]:
    """The identities that have a counter of their own, by policy."""
    found: dict[str, set[str]] = defaultdict(set)
    for counter in counters:
        named = parse(counter)
        if named is not None and named.kind == _OF_A_POLICY and named.identity:
            found[f"{named.namespace}/{named.policy}"].add(named.identity)
    return found


def _one(tallies: Mapping[str, Tally], counting: set[str], rule: Rule | None, counted: Mapping[str, Reading], now: float) -> Consumption:
    seen = {*tallies, *counting} if rule is not None and rule.action == "Limit" else {*tallies}  # whom a Limit serves nobody tallies
    ranked = sorted(seen, key=lambda one: (_rank(tallies.get(one)), one))[:SHOWN]
    ceilings = rule.ceilings if rule else ()
    last = max((tally.last_used for tally in tallies.values()), default=0.0)
    return Consumption(
        identities=len(seen),
        tokens=sum(tally.tokens for tally in tallies.values()),
        microusd=sum(tally.cost_microusd for tally in tallies.values()),
        requests=sum(tally.requests for tally in tallies.values()),
        denied=sum(tally.denied for tally in tallies.values()),
        last_used=int(last) or None,
        top=tuple(_consumer(identity, tallies.get(identity), ceilings, counted, now) for identity in sorted(ranked)),
    )


def _rank(tally: Tally | None) -> tuple[int, int, int]:
    """Sorts first who used most."""
    return (-tally.tokens, -tally.requests, -tally.denied) if tally else (0, 0, 0)


def _consumer(identity: str, tally: Tally | None, ceilings: Iterable[Ceiling], counted: Mapping[str, Reading], now: float) -> Consumer:
    quotas = tuple(_quota(ceiling, identity, counted, now) for ceiling in ceilings)
    if tally is None:
        return Consumer(identity, 0, 0, 0, 0, quotas)
    return Consumer(identity, tally.tokens, tally.cost_microusd, tally.requests, tally.denied, quotas)


def _quota(ceiling: Ceiling, identity: str, counted: Mapping[str, Reading], now: float) -> Quota:
    budget = ceiling.budget(identity)
    reading = counted.get(budget.counter)
    used, limit = (reading.used, budget.limit + reading.credit) if reading else (0, budget.limit)
    figures = (dollars(used), dollars(limit)) if budget.unit is Unit.USD else (str(used), str(limit))
    if budget.per is None:
        return Quota(ceiling.quota.name, _UNITS.get(budget.unit, "tokens"), *figures, None)
    ends = now + reading.reset_s if reading else window(budget.per, now).ends_at
    whole = round(ends / _MINUTE_S) * _MINUTE_S  # every window ends with a minute
    return Quota(ceiling.quota.name, _UNITS.get(budget.unit, "tokens"), *figures, whole)


def as_time(unix_s: float) -> str:
    """As metav1.Time writes it."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
