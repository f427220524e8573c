"""Looking at counters and adjusting them, for the stores that keep holds in Python's own words. Pure but for what it is handed."""

from collections.abc import Callable, Iterable, Sequence

from broker.adjustment import Adjustment, Balance, Look, credit_of
from broker.grant import Unit
from broker.ledger.holds import Charge
from broker.quota import window


class Adjusting:
    """Of one store, within one step that nobody else comes between.

    Args:
        stored: what stands under a name in a window; 0 where nothing does.
        charges: of all open holds.
        now: the store's time.
    """

    def __init__(self, stored: Callable[[str, str], int], charges: Callable[[], Iterable[Charge]], now: float) -> None:
        self._stored = stored
        self._charges = charges
        self._now = now

    def look(self, looks: Sequence[Look]) -> tuple[Balance, ...]:
        """How these counters stand."""
        found = [(look.floor, self._balance(look)) for look in looks]
        if not any(max(one.used, one.used - one.credit) >= floor for floor, one in found):
            return tuple(one for _, one in found)
        held: dict[tuple[str, str], int] = {}
        for charge in self._charges():
            key = charge.counter, charge.window
            held[key] = held.get(key, 0) + charge.held
        return tuple(
            Balance(one.counter, one.window, one.used, held.get((one.counter, one.window), 0), one.credit, one.reset_s) for _, one in found
        )

    def adjust(self, change: Adjustment, add: Callable[[Charge], None]) -> tuple[Balance, Balance]:
        """How it stood, and how it stands now.

        add: puts the charge's `held` on its counter, whose window begins with it if need be.
        """
        before = self.look([Look(change.counter, change.per)])[0]
        after, ends_at = before.after(change), window(change.per, self._now).ends_at
        changes = (change.counter, (after.used - after.credit) - (before.used - before.credit)), (credit_of(change.counter), change.credit)
        for name, by in changes:
            if by:
                add(Charge(name, before.window, ends_at, Unit.REQUESTS, by))
        return before, after

    def _balance(self, look: Look) -> Balance:
        label, ends_at = window(look.per, self._now)
        credit = self._stored(credit_of(look.counter), label)
        return Balance(look.counter, label, self._stored(look.counter, label) + credit, 0, credit, ends_at - self._now)
