"""Holds in Redis, for many replicas: one atomic step for all quotas of a request, by the time of Redis, which never goes back.

Each namespace's keys share a hash slot, so that a Redis Cluster takes them in one step too. What is asked in one turn of the loop
shares a round trip. When Redis is away, slow, unfit, or has lost what was counted, everybody is told Unavailable: unknown means no.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from broker.adjustment import Adjustment, Balance, Look
from broker.chat import Usage
from broker.errors import Unavailable
from broker.grant import Per, PolicyRef, Unit
from broker.ledger.database import CannotOpen
from broker.ledger.redis_adjusting import Adjusting
from broker.ledger.redis_node import away
from broker.ledger.redis_places import NOWHERE, TOGETHER, TRIES, Place, Places
from broker.ledger.redis_reports import Reports
from broker.ledger.redis_scripts import DONE, KNOWN_ID, LOST, OTHER_MINUTE, QUIET, QUIET_S, SERVER_TIME, US, Scripts
from broker.ledger.redis_target import parse_target
from broker.money import MOST_MICROUSD, PICO
from broker.quota import Ask, Expired, Held, Reading, Tally, grant, reset_text, window

DEADLINE_S: Final = 0.25
PREFIX: Final = "aiaccess/"

_REMEMBERED: Final = 65_536  # holds whose namespace is known without asking
_encode: Final = msgspec.msgpack.Encoder().encode
_KIND: Final = {
    Unit.TOTAL_TOKENS: "t",
    Unit.INPUT_TOKENS: "i",
    Unit.OUTPUT_TOKENS: "o",
    Unit.REQUESTS: "r",
    Unit.USD: "u",
    Unit.CONCURRENT: "c",
}
_SHADOW: Final = {unit: kind.upper() for unit, kind in _KIND.items()}


class RedisLedger:
    """quota.Ledger on Redis, one server or a cluster. Belongs to the event loop that opened it."""

    def __init__(self, places: Places, scripts: Scripts) -> None:
        """Only `open` makes one."""
        self._places = places
        self._scripts = scripts
        self._adjusting = Adjusting(places, scripts.adjust)
        self._held: dict[str, Place] = {}

    @classmethod
    async def open(
        cls, url: str, prefix: str = PREFIX, *, deadline_s: float = DEADLINE_S, allow_insecure: bool = False, time: str = SERVER_TIME
    ) -> "RedisLedger":
        """Connect, and see whether this Redis can keep quotas. One that is away is waited for: until then everything is Unavailable.

        Args:
            url: see redis_target.
            prefix: of all keys.
            deadline_s: of each question.
            allow_insecure: take a Redis without TLS, or without a user of its own.
            time: the Lua expression for the store's time.

        Raises:
            CannotOpen: with what to do about it, for the operator.
        """
        target = parse_target(url)
        if target.danger and not allow_insecure:
            raise CannotOpen(
                f"The quota store {target} is not safe: {target.danger}. Change that, or say --allow-insecure-quota-store true."
            )
        if "{" in prefix or "}" in prefix:
            raise CannotOpen(
                "The prefix of the quota store's keys has a brace: braces are for the namespace, which decides where a key is."
            )
        scripts = Scripts(time)
        places = Places(target, scripts, prefix, deadline_s)
        try:
            await places.nodes.open()
        except BaseException:
            await places.nodes.close()
            raise
        return cls(places, scripts)

    async def hold(self, ask: Ask) -> Held:
        place = self._places.of(_namespace_of(ask))
        if len(self._held) >= _REMEMBERED:
            self._forget(next(iter(self._held)))
        self._held[ask.hold_id] = place
        lost_us = 0
        for _ in range(TRIES):
            answer = await self._places.ask(place, self._scripts.hold, _pack(ask, place.minute(), lost_us))
            code, now_us = answer[0], answer[1]
            if code == LOST:
                lost_us = answer[2]
                place.tell_loss(lost_us, *(window.decode() for window in answer[3:]))
                _refuse_what_is_lost(ask, lost_us, now_us)
            elif code != OTHER_MINUTE:
                break
        else:
            raise away()
        if code == DONE:
            verdict = grant(ask, answer[3:], now_us / US)
            leased = None in {budget.per for budget in ask.budgets}
            if leased:
                place.leased.add(ask.hold_id)
            return Held(ask.hold_id, answer[2], verdict.tokens, verdict.requests, leased, verdict.would_refuse)
        if code == KNOWN_ID:
            raise Unavailable("This request was given up before its quota was held: try again.")
        del self._held[ask.hold_id]
        if code == QUIET:
            raise Unavailable("The quota store has just come back: try again.", retry_after_s=QUIET_S)
        grant(ask, answer[3:], now_us / US)  # says why not
        raise away()

    async def settle(self, hold_id: str, usage: Usage | None, cost_microusd: int | None = None) -> int:
        cost = "" if cost_microusd is None else cost_microusd
        words = (hold_id, "", 0, "") if usage is None else (hold_id, usage.input_tokens, usage.output_tokens, cost)
        place = self._held.get(hold_id)
        if place is not None:
            answer = await self._places.ask(place, self._scripts.settle, *words)
            self._forget(hold_id)
            return int(answer[2])
        answers = await asyncio.gather(
            *(self._places.ask(where, self._scripts.settle, *words) for where in await self._places.everywhere())
        )
        return sum(answer[2] for answer in answers)

    async def void(self, hold_id: str) -> None:
        place = self._held.get(hold_id)
        if place is not None:
            await self._places.ask(place, self._scripts.void, hold_id)
            self._forget(hold_id)
            return
        # Either whoever enters a namespace for the first time finds the id nowhere, or we find the namespace here.
        await self._places.ask(self._places.nowhere, self._scripts.void, hold_id)
        await asyncio.gather(*(self._places.ask(where, self._scripts.void, hold_id) for where in await self._places.everywhere()))

    async def renew(self, hold_ids: Iterable[str]) -> None:
        by_place: dict[Place, list[str]] = {}
        unknown: list[str] = []
        for hold_id in hold_ids:
            place = self._held.get(hold_id)
            (unknown if place is None else by_place.setdefault(place, [])).append(hold_id)
        if unknown:
            for place in await self._places.everywhere():
                by_place.setdefault(place, []).extend(unknown)
        for place, ids in by_place.items():
            for at in range(0, len(ids), TOGETHER):
                await self._places.ask(place, self._scripts.renew, *ids[at : at + TOGETHER])

    async def deny(self, policies: Iterable[PolicyRef], identity: str) -> None:
        by_namespace: dict[str, list[str]] = {}
        for policy in policies:
            by_namespace.setdefault(policy.namespace, []).append(str(policy))
        for namespace, named in by_namespace.items():
            await self._places.ask(self._places.of(namespace), self._scripts.deny, identity, " ".join(named))

    async def expire(self) -> tuple[Expired, ...]:
        await self._places.nodes.inspect()
        await self._places.nodes.refresh()
        places = (self._places.nowhere, *await self._places.everywhere())
        expired: list[Expired] = []
        for at in range(0, len(places), TOGETHER):
            swept = await asyncio.gather(*map(self._expire_in, places[at : at + TOGETHER]), return_exceptions=True)
            for found in swept:
                if isinstance(found, Unavailable):
                    continue  # said already; what was found elsewhere must be told now or never
                if isinstance(found, BaseException):
                    raise found
                expired += found
        return tuple(expired)

    async def tallies(self) -> tuple[Tally, ...]:
        return await (await self._look()).tallies()

    async def readings(self) -> tuple[Reading, ...]:
        return await (await self._look()).readings()

    async def open_holds(self) -> int:
        return await (await self._look()).open_holds()

    async def balances(self, looks: Sequence[Look]) -> tuple[Balance, ...]:
        return await self._adjusting.look(looks)

    async def adjust(self, change: Adjustment) -> tuple[Balance, Balance]:
        return await self._adjusting.adjust(change)

    async def close(self) -> None:
        """Wait for the answers to what was asked, then disconnect. Whatever is asked later is Unavailable."""
        await self._places.nodes.close()

    def _forget(self, hold_id: str) -> None:
        place = self._held.pop(hold_id, None)
        if place is not None:
            place.leased.discard(hold_id)

    async def _expire_in(self, place: Place) -> list[Expired]:
        expired: list[Expired] = []
        more = True
        while more:
            answer = await self._places.ask(place, self._scripts.expire, TOGETHER)
            more = answer[2] == 1
            for hold_id, identity, tokens, microusd in zip(*(answer[at::4] for at in range(3, 7)), strict=True):
                expired.append(Expired(hold_id.decode(), identity.decode(), tokens, microusd))
        return expired

    async def _look(self) -> Reports:
        places, now_us = await self._places.look()
        return Reports(self._places.nodes, places, now_us)


def _namespace_of(ask: Ask) -> str:
    """All counters of one request have the same."""
    if ask.budgets:
        return ask.budgets[0].counter[1:].partition("}")[0]
    return ask.policies[0].namespace if ask.policies else NOWHERE


def _pack(ask: Ask, minute: int, lost_us: int) -> bytes:
    """What hold.lua is told."""
    demand = ask.demand
    numbers: dict[Per, int] = {}
    windows: list[tuple[str, int]] = []
    budgets: list[tuple[str, str, int, int]] = []
    for budget in ask.budgets:
        per, number = budget.per, 0
        if per is not None:
            number = numbers.get(per, 0)
            if not number:
                windows.append(_window(per, minute))
                number = numbers[per] = len(windows)
        budgets.append((budget.counter, (_SHADOW if budget.shadow else _KIND)[budget.unit], budget.limit, number))
    policies = " ".join([str(policy) for policy in ask.policies])
    bounds = demand.prompt_bound, demand.min_output, demand.wanted_output
    about = ask.hold_id, ask.identity, policies, *bounds, ask.requests, int(ask.expires_s * US), minute, lost_us
    return _encode((*about, windows, budgets, _rates(ask)))


def _rates(ask: Ask) -> tuple[int, ...]:
    """In parts that Lua's numbers have room for."""
    if ask.rates is None:
        return ()
    fixed = ask.rates.request + ask.rates.input * ask.demand.prompt_bound
    return min(fixed // PICO, MOST_MICROUSD), fixed % PICO, *divmod(ask.rates.output, PICO)


@lru_cache(maxsize=16)
def _window(per: Per, minute: int) -> tuple[str, int]:
    """Its key and its end."""
    label, ends_at = window(per, minute * 60)
    return f"{per}/{label}", int(ends_at) * US


def _refuse_what_is_lost(ask: Ask, lost_us: int, now_us: int) -> None:
    """The rule after a loss: a count may be too low until its window is over, and a lease until whoever had it must have ended.

    Raises:
        Unavailable: one of the enforcing budgets is such.
    """
    lost_s, now_s = lost_us / US, now_us / US
    ends_s = now_s
    for budget in ask.budgets:
        if budget.per is None and not budget.shadow:
            ends_s = max(ends_s, lost_s + ask.expires_s)
        elif budget.per is not None and not budget.shadow and window(budget.per, lost_s) == (now := window(budget.per, now_s)):
            ends_s = max(ends_s, now.ends_at)
    if ends_s > now_s:
        wait_s = ends_s - now_s
        raise Unavailable(
            f"The quota store lost counts of a quota that this falls under: try again in {reset_text(wait_s)}, or ask the operator.",
            retry_after_s=wait_s,
        )
