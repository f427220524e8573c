"""One seed from its first request to its verdict."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from support.ledgers import PATIENCE_S
from support.redis_server import PREFIX, RedisServer

from broker.grant import Per
from broker.ledger.redis import RedisLedger
from broker.quota import Ledger, window

from .books import Books, Counters, read_audit
from .callers import Callers
from .plan import MOST_S, Plan, plan
from .provider import Provider
from .world import STREAM_S, World, world

TEAM: Final = "{team1}"
COPY: Final = "copy/"
LOST: Final = "quota_counts_lost"
EDGE: Final = 0.97  # the rest may be less than the shortest question's hold
RUN_S: Final = 600.0  # no seed takes longer, with what it looks into the future
EXPIRED_S: Final = STREAM_S + 60 + 10
LATER: Final = f"(function() local now = call('TIME') return {{now[1] + {EXPIRED_S}, now[2]}} end)()"


@dataclass(frozen=True)
class Verdict:
    line: str
    faults: list[str]


async def run(seed: int, folder: Path) -> Verdict:
    await _until_the_month_is_long_enough()
    began_s, made = time.monotonic(), plan(seed)
    async with Provider(made) as provider, world(folder, made, provider) as it:
        callers = Callers(seed, it.urls)
        async with asyncio.TaskGroup() as group:
            group.create_task(it.disturb())
            group.create_task(callers.ask_for(MOST_S[made.kind]))
        await it.until_settled()
        codes = await it.stop()
        faults = [f"broker {number} ended with {code}" for number, code in enumerate(codes) if code]
        books = None
        if made.kind == "lossy":
            faults += _after_the_loss(it, callers)
        else:
            books = await _read_books(it)
            books.compare(provider.attempts, callers.outcomes, read_audit(it.audits))
            faults += [*books.faults, *_far_from(made, books), *(["the store lost counts"] if LOST in it.logs() else [])]
    faults += _over(made, provider)
    what = f"seed {seed:3} {made.kind:7} {'FAIL' if faults else 'PASS'}"
    return Verdict(" | ".join([what, *_figures(made, provider, callers, books), f"{time.monotonic() - began_s:.1f} s"]), faults)


async def _until_the_month_is_long_enough() -> None:
    """The provider's ledger knows no windows: all of a seed must fall into one."""
    now = datetime.now(UTC).timestamp()
    ends_s = window(Per.MONTH, now).ends_at - now
    if ends_s < RUN_S:
        await asyncio.sleep(ends_s)


def _over(made: Plan, provider: Provider) -> list[str]:
    """Quotas that the provider's own ledger passed."""
    quotas, margin = {quota.name: quota for quota in made.quotas}, 2 if made.kind == "counted" else 1
    return [
        f"{name} of {whom}: the provider might have come to {peak.amount} of {quotas[name].limit} after {peak.after} requests"
        for (name, whom), peak in provider.peaks.items()
        if peak.amount > quotas[name].limit * (margin if quotas[name].is_counted else 1)
    ]


def _far_from(made: Plan, books: Books) -> list[str]:
    """Whoever uses most of the quota that an edge seed is to use up must have come to its edge, else nothing was tested."""
    tight = next((quota for quota in made.quotas if quota.name == made.tight), None)
    if tight is None:
        return []
    most = max((amount for (name, _), amount in books.used.items() if name == tight.name), default=0)
    return [f"{tight.name} was to be used up, and {most} of {tight.limit} were"] if most < EDGE * tight.limit else []


def _after_the_loss(it: World, callers: Callers) -> list[str]:
    answered = [outcome for outcome in callers.outcomes if outcome.began_s > it.lost_s and outcome.code == "answered"]
    faults = [f"{outcome.question.tag} was answered after counts were lost" for outcome in answered]
    if LOST not in it.logs():
        faults.append("no broker has said that counts were lost")
    if not any(outcome.began_s > it.lost_s and outcome.code == "unavailable" for outcome in callers.outcomes):
        faults.append("nobody was refused because counts were lost")
    return faults


async def _read_books(it: World) -> Books:
    """What stands in the store, and what of it nobody settled; and that the latter stays charged when its time is over."""
    ledger = await RedisLedger.open(it.store.url, deadline_s=PATIENCE_S, allow_insecure=True)
    later = await RedisLedger.open(it.store.url, deadline_s=PATIENCE_S, allow_insecure=True, time=LATER)
    try:
        used, took = await _counters(ledger), await _open_holds(it.store)
        expired = {expired.hold_id for expired in await later.expire()}
        books = Books(it.plan, used, took)
        if expired != took.keys():
            books.faults.append(f"{len(took)} holds are open, {len(expired)} expired")
        if await _counters(ledger) != used:
            books.faults.append("what expired was given back")
    finally:
        await ledger.close()
        await later.close()
    return books


async def _counters(ledger: Ledger) -> Counters:
    found: Counters = Counter()
    for reading in await ledger.readings():
        name, whom = reading.counter.split("/")[3], reading.counter.rpartition("/")[2]
        if reading.reset_s:  # no lease
            found[name, whom] = reading.used
    return found


async def _open_holds(store: RedisServer) -> dict[str, Counters]:
    """What each open hold took, found by voiding it in a copy."""
    with store.client() as client:
        for key in client.scan_iter(f"{PREFIX}*"):
            client.copy(key, key.decode().replace(PREFIX, COPY, 1))
        ids = [hold_id.decode() for hold_id in client.zrange(f"{PREFIX}{TEAM}/open", 0, -1)]
    copy = await RedisLedger.open(store.url, COPY, deadline_s=PATIENCE_S, allow_insecure=True)
    took: dict[str, Counters] = {}
    for hold_id in ids:
        before = await _counters(copy)
        await copy.void(hold_id)
        took[hold_id] = before - await _counters(copy)
    await copy.close()
    with store.client() as client:
        for key in client.scan_iter(f"{COPY}*"):
            client.unlink(key)
    return took


def _figures(made: Plan, provider: Provider, callers: Callers, books: Books | None) -> list[str]:
    done = sum(attempt.done.tokens for attempt in provider.attempts)
    concealed = sum(attempt.concealed for attempt in provider.attempts)
    peaks = {key: peak.amount for key, peak in provider.peaks.items()}
    codes = callers.codes
    return [
        f"provider {done} tokens of {codes['answered']} answers (concealed {concealed})",
        _store(books) if books else "store lost counts",
        f"at most in use {_fullest(made, peaks)}",
        *([f"charged {_fullest(made, books.used)}"] if books else []),
        " ".join(f"{code} {times}" for code, times in codes.most_common() if code != "answered"),
    ]


def _store(books: Books) -> str:
    above = "".join(f" +{tokens} {why}" for why, tokens in sorted(books.spent.items()) if tokens)
    return f"store {books.used['all', '-']} = that{above}"


def _fullest(made: Plan, amounts: Mapping[tuple[str, str], int]) -> str:
    """Of each quota the part that is used where it is used most."""
    parts = [(quota, max((amount for (name, _), amount in amounts.items() if name == quota.name), default=0)) for quota in made.quotas]
    return " ".join(f"{quota.name} {amount / quota.limit:.1%}" for quota, amount in parts if amount)
