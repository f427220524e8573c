"""The counters table through a copy in memory: what one transaction needs of it is read once and written once."""

from typing import Final

from broker.ledger.database import Database
from broker.ledger.holds import Charge

_READ: Final = "SELECT used, ends_at FROM counters WHERE counter = ? AND label = ?"
_WRITE: Final = "INSERT INTO counters (used, ends_at, counter, label) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET used = excluded.used"

_Key = tuple[str, str]


class Counters:
    """Belongs to the transactions of one connection. The copy lives on between them, until `forget`."""

    def __init__(self, database: Database) -> None:
        self._execute = database.execute
        self._executemany = database.executemany
        self._known: dict[_Key, tuple[int, float] | None] = {}  # used, ends_at; None = not in the table
        self._changed: set[_Key] = set()

    def used(self, counter: str, label: str) -> int:
        known = self._find((counter, label))
        return known[0] if known else 0

    def take(self, charge: Charge) -> None:
        """Add what a hold holds; its window begins with it if need be."""
        key = charge.counter, charge.window
        known = self._find(key)
        self._known[key] = (known[0] if known else 0) + charge.held, charge.ends_at
        self._changed.add(key)

    def change(self, charge: Charge, change: int) -> None:
        """Correct what a hold took. A window that is over and was forgotten stays so."""
        key = charge.counter, charge.window
        known = self._find(key)
        if known is not None:
            self._known[key] = known[0] + change, known[1]
            self._changed.add(key)

    def write(self) -> None:
        """To be called before the transaction ends, and before anything else reads or writes the table."""
        known = self._known
        self._executemany(_WRITE, [(*now, *key) for key in self._changed if (now := known[key])])
        self._changed.clear()

    def forget(self) -> None:
        """To be called when the table may be another: somebody else wrote to it, or the transaction was rolled back."""
        self._known.clear()
        self._changed.clear()

    def _find(self, key: _Key) -> tuple[int, float] | None:
        if key in self._known:
            return self._known[key]
        known: tuple[int, float] | None = self._execute(_READ, key).fetchone()
        self._known[key] = known
        return known
