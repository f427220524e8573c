"""How much was used, as it goes over the wire: counters of windows that run, and what each identity did in the last 24 hours."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from broker.grant import Unit
from broker.policy import Snapshot
from broker.quota import Ledger, Reading, Tally
from broker.usage.quotas import Catalogue, Named, Quota, parse

ROWS_MAX: Final = 10_000  # of each table; what is left out is counted
_TOGETHER: Final = 500  # rows that are looked at in one turn of the loop, since exchanges wait for it

_Row = TypeVar("_Row")


class Counter(msgspec.Struct, frozen=True, kw_only=True):
    """One counter in its current window. Micro-dollars where the unit is usd.

    quota: NAMESPACE/POLICY/QUOTA, or NAMESPACE/POLICY/MODEL for a model's rateLimit.
    identity: "" where all callers share it.
    limit: None when no object has this quota any more.
    left: of limit and credit; None without a limit.
    models: that count; None = all, or nobody knows any more.
    """

    quota: str
    kind: str
    identity: str
    unit: str
    per: str
    used: int
    credit: int
    limit: int | None
    left: int | None
    reset_s: float
    models: tuple[str, ...] | None
    shadow: bool
    counter: str


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """The last 24 hours of one identity under one policy. last_used: Unix seconds; 0 when it was only refused."""

    policy: str
    identity: str
    tokens: int
    cost_microusd: int
    requests: int
    denied: int
    last_used: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """time: Unix seconds. left_out: rows beyond ROWS_MAX, of both tables."""

    time: float
    counters: tuple[Counter, ...]
    days: tuple[Day, ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to show; an empty filter lets all through.

    identity: a SPIFFE ID, or the beginning of some when it ends with `*`.
    policy: NAMESPACE/NAME.
    model: a virtual model's name, bare or as NAMESPACE/NAME. Who did what with a model the store does not know: days are left out.
    since: Unix seconds; only identities that were served since then, and counters that are nobody's own.
    """

    identity: str = ""
    policy: str = ""
    model: str = ""
    since: float = 0.0

    def takes(self, identity: str) -> bool:
        if self.identity.endswith("*"):
            return identity.startswith(self.identity[:-1])
        return self.identity in ("", identity)


async def report(ledger: Ledger, snapshot: Snapshot, wanted: Wanted, now: float) -> Report:
    """Look at the store. Raises Unavailable."""
    tallies = await ledger.tallies()
    served = {one.identity for one in tallies if one.last_used >= wanted.since} if wanted.since else None
    counters = await _counters(await ledger.readings(), Catalogue(snapshot), wanted, served)
    days = [] if wanted.model else await _days(tallies, wanted)
    left_out = max(0, len(counters) - ROWS_MAX) + max(0, len(days) - ROWS_MAX)
    return Report(time=now, counters=tuple(counters[:ROWS_MAX]), days=tuple(days[:ROWS_MAX]), left_out=left_out)


async def _counters(readings: Sequence[Reading], catalogue: Catalogue, wanted: Wanted, served: set[str] | None) -> list[Counter]:
    found: list[Counter] = []
    async for reading in _slowly(readings):
        named = parse(reading.counter)
        if named is None or not wanted.takes(named.identity) or wanted.policy not in ("", f"{named.namespace}/{named.policy}"):
            continue
        if served is not None and named.identity and named.identity not in served:
            continue
        quota = catalogue.of(named)
        if not wanted.model or _is_about(wanted.model, named, quota):
            found.append(_counter(reading, named, quota))
    return found


def _is_about(model: str, named: Named, quota: Quota | None) -> bool:
    """By its name, or by NAMESPACE/NAME as `broker who-can` prints it."""
    model = model.removeprefix(f"{named.namespace}/")
    return quota.is_about(model) if quota else named.kind == "AIRoutingPolicy" and named.quota == model


def _counter(reading: Reading, named: Named, quota: Quota | None) -> Counter:
    limit = quota.budget.limit if quota else None
    models = quota.models if quota else None
    return Counter(
        quota=named.title,
        kind=named.kind,
        identity=named.identity,
        unit=named.unit,
        per=named.per or "",
        used=reading.used,
        credit=reading.credit,
        limit=limit,
        left=None if limit is None else max(0, limit + reading.credit - reading.used),
        reset_s=round(reading.reset_s, 3),
        models=None if models is None else tuple(sorted(models)),
        shadow=quota.budget.shadow if quota else False,
        counter=reading.counter,
    )


async def _days(tallies: Sequence[Tally], wanted: Wanted) -> list[Day]:
    return [
        Day(
            policy=one.policy,
            identity=one.identity,
            tokens=one.tokens,
            cost_microusd=one.cost_microusd,
            requests=one.requests,
            denied=one.denied,
            last_used=one.last_used,
        )
        async for one in _slowly(tallies)
        if wanted.takes(one.identity) and wanted.policy in ("", one.policy) and one.last_used >= wanted.since
    ]


async def _slowly(rows: Sequence[_Row]) -> AsyncIterator[_Row]:
    """A hundred thousand rows, with exchanges between them."""
    for number, row in enumerate(rows, 1):
        yield row
        if number % _TOGETHER == 0:
            await asyncio.sleep(0)


def is_money(unit: str) -> bool:
    """Whether figures of this unit are micro-dollars."""
    return unit == Unit.USD
