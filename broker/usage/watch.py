"""Who watches how full quotas are: said once for each counter, window and threshold, whatever the store.

What was asked of the store is remembered, which costs a request one entry in a dict, and looked at every few seconds. Judged is what is
spent for good, without what running exchanges hold: a single one may hold all that is left, and gives most of it back.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from broker.adjustment import Balance, Look
from broker.errors import QuotaExhausted, Unavailable
from broker.grant import Budget, Per
from broker.quota import Ask, Held, Ledger
from broker.telemetry import Telemetry
from broker.usage.quotas import parse

log = logging.getLogger(__name__)

THRESHOLDS: Final = (80, 100)  # percent of what may be spent
LOOK_S: Final = 5.0
REMEMBERED: Final = 20_000  # requests' quotas between two looks, and counters that were said
_TOGETHER: Final = 500  # counters that are judged in one turn of the loop, since exchanges wait for it
_WHOLE: Final = 100


@dataclass(frozen=True, slots=True)
class Warned:
    """A quota that reached a threshold. `used`: without what running exchanges hold."""

    budget: Budget
    balance: Balance
    percent: int

    @property
    def used(self) -> int:
        return self.balance.used - self.balance.held


class Watched:
    """quota.Ledger over another one, that remembers which quotas were asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self._hold = ledger.hold
        self.settle = ledger.settle
        self.void = ledger.void
        self.renew = ledger.renew
        self.deny = ledger.deny
        self.expire = ledger.expire
        self.tallies = ledger.tallies
        self.readings = ledger.readings
        self.open_holds = ledger.open_holds
        self.balances = ledger.balances
        self.adjust = ledger.adjust
        self.close = ledger.close
        self._asked: dict[int, tuple[Budget, ...]] = {}
        self._refused: dict[int, Ask] = {}

    async def hold(self, ask: Ask) -> Held:
        """As Ledger.hold."""
        budgets = ask.budgets
        if budgets and len(self._asked) < REMEMBERED:
            self._asked[id(budgets)] = budgets  # a grant's own, the same for each of its requests
        try:
            return await self._hold(ask)
        except QuotaExhausted:
            if len(self._refused) < REMEMBERED:
                self._refused[id(budgets)] = ask
            raise

    def take(self) -> tuple[Iterable[tuple[Budget, ...]], Iterable[Ask]]:
        """The budgets that were asked for since the last time, and one ask of each kind that was refused."""
        asked, refused = self._asked, self._refused
        self._asked, self._refused = {}, {}
        return asked.values(), refused.values()


class Watch:
    """Looks at what a Watched ledger was asked for.

    Args:
        on_warning: told each thing once.
        now_s: monotonic seconds.
    """

    def __init__(self, ledger: Watched, on_warning: Callable[[Warned], None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._on_warning = on_warning
        self._now_s = now_s
        self._open: dict[str, Budget] = {}  # to be looked at again: nearly full, but what is held may come back
        self._refused: dict[str, int] = {}  # what the smallest of the refused wanted
        self._said: dict[str, tuple[int, float]] = {}  # by counter: percent, and until when that is so

    async def keep(self) -> None:
        """Look, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except Unavailable as away:
                log.warning("quota_watch_waits", extra={"reason": str(away)})

    async def look(self) -> None:
        """Look once. Raises Unavailable: what was to be looked at stays for the next time."""
        now_s = self._now_s()
        self._said = {counter: said for counter, said in self._said.items() if said[1] > now_s}
        asked, refused = self._ledger.take()
        for ask in refused:
            self._note(ask)
        for budgets in asked:
            for budget in budgets:
                if budget.per is not None and not budget.shadow and len(self._open) < REMEMBERED:
                    self._open[budget.counter] = budget
        for counter in [counter for counter in self._open if self._said.get(counter, (0, 0.0))[0] == _WHOLE]:
            del self._open[counter]
        counters = list(self._open)
        for at in range(0, len(counters), _TOGETHER):
            few = {counter: self._open[counter] for counter in counters[at : at + _TOGETHER]}
            await self._judge(few, now_s)
        self._refused.clear()

    def _note(self, ask: Ask) -> None:
        least = ask.bound(min(ask.demand.min_output, ask.demand.wanted_output))
        for budget in ask.budgets:
            need = least.of(budget.unit)
            if len(self._refused) < REMEMBERED:
                self._refused[budget.counter] = min(need, self._refused.get(budget.counter, need))

    async def _judge(self, budgets: Mapping[str, Budget], now_s: float) -> None:
        looks = [Look(one.counter, one.per or Per.MINUTE, -(-one.limit * THRESHOLDS[0] // _WHOLE)) for one in budgets.values()]
        for balance in await self._ledger.balances(looks):
            budget = budgets[balance.counter]
            percent = self._percent(budget, balance)
            known = self._said.get(balance.counter, (0, 0.0))[0]
            for threshold in THRESHOLDS:
                if known < threshold <= percent:
                    self._say(Warned(budget, balance, threshold), now_s + balance.reset_s)
            is_near = balance.used * _WHOLE >= THRESHOLDS[0] * (budget.limit + balance.credit)
            if percent == _WHOLE or not is_near or not balance.held:  # else what is held may yet be spent, and nobody asks again
                del self._open[balance.counter]

    def _percent(self, budget: Budget, balance: Balance) -> int:
        """The highest threshold that is reached. Where not even the smallest of those refused would fit, all counts as used."""
        ceiling, spent = budget.limit + balance.credit, balance.used - balance.held
        if spent * _WHOLE < THRESHOLDS[0] * ceiling:
            return 0
        need = self._refused.get(balance.counter, 0)
        return _WHOLE if spent >= ceiling or need > ceiling - spent else THRESHOLDS[0]

    def _say(self, warned: Warned, until_s: float) -> None:
        if len(self._said) >= REMEMBERED:
            for counter in list(islice(self._said, REMEMBERED // 10)):
                del self._said[counter]
        self._said[warned.budget.counter] = warned.percent, until_s
        self._on_warning(warned)


def tell(telemetry: Telemetry) -> Callable[[Warned], None]:
    """To the log, with whose it is; and to the metrics, without."""

    def told(warned: Warned) -> None:
        named = parse(warned.budget.counter)
        if named is None:
            return
        balance = warned.balance
        telemetry.quota_warned(named.namespace, named.policy, named.quota, warned.percent)
        log.warning(
            "quota_warning",
            extra={
                "percent": warned.percent,
                "quota": named.title,
                "identity": named.identity,
                "counts": str(named.unit),
                "used": warned.used,
                "limit": warned.budget.limit,
                "credit": balance.credit,
                "window": balance.window,
                "reset_s": round(balance.reset_s),
            },
        )

    return told
