"""Looking at counters in Redis and adjusting them: one step of one script."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from broker.adjustment import Adjustment, Balance, Look, credit_of
from broker.grant import Per
from broker.ledger.redis_node import away
from broker.ledger.redis_places import TRIES, Place, Places
from broker.ledger.redis_scripts import OTHER_MINUTE, US, Script
from broker.quota import window

_TOGETHER: Final = 200  # counters in one step, since nobody else is served during it
_encode: Final = msgspec.msgpack.Encoder().encode


class Adjusting:
    """Of one store."""

    def __init__(self, places: Places, script: Script) -> None:
        self._places = places
        self._script = script

    async def look(self, looks: Sequence[Look]) -> tuple[Balance, ...]:
        """How these counters stand. Raises Unavailable."""
        by_place: dict[Place, list[Look]] = {}
        for one in looks:
            by_place.setdefault(self._place(one.counter), []).append(one)
        steps = [(place, few[at : at + _TOGETHER]) for place, few in by_place.items() for at in range(0, len(few), _TOGETHER)]
        found = await asyncio.gather(*(self._ask(place, few) for place, few in steps))
        known = {
            (one.counter, per): one
            for (_, few), balances in zip(steps, found, strict=True)
            for (_, per, _), one in zip(few, balances, strict=True)
        }
        return tuple(known[one.counter, one.per] for one in looks)

    async def adjust(self, change: Adjustment) -> tuple[Balance, Balance]:
        """How it stood, and how it stands now. Raises Unavailable."""
        (before,) = await self._ask(self._place(change.counter), [Look(change.counter, change.per)], change)
        return before, before.after(change)

    def _place(self, counter: str) -> Place:
        return self._places.of(counter[1:].partition("}")[0])

    async def _ask(self, place: Place, looks: Sequence[Look], change: Adjustment | None = None) -> list[Balance]:
        credit, clears = (change.credit, change.clears) if change else (0, False)
        for _ in range(TRIES):
            minute = place.minute()
            windows = {per: window(per, minute * 60) for per in Per}
            keys = [(f"{per}/{label}", int(ends_at) * US) for per, (label, ends_at) in windows.items()]
            number = {per: at for at, per in enumerate(windows, 1)}
            asked = [(one.counter, number[one.per], credit_of(one.counter), one.floor) for one in looks]
            answer: list[Any] = await self._places.ask(place, self._script, _encode((minute, keys, asked, credit, clears)))
            if answer[0] != OTHER_MINUTE:
                return [
                    Balance(one.counter, windows[one.per].label, used, held, credited, windows[one.per].ends_at - answer[1] / US)
                    for one, used, held, credited in zip(looks, answer[2::3], answer[3::3], answer[4::3], strict=True)
                ]
        raise away()
