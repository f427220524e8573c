"""What each question to the ledger reads and writes in SQLite. Every method runs inside a transaction that its caller opened."""

import sqlite3
from collections.abc import Iterable
from typing import Final

import msgspec

from broker.chat import Usage
from broker.errors import Unavailable
from broker.grant import Budget, PolicyRef
from broker.ledger.database import Database
from broker.ledger.holds import LATE_S, VOID_S, Charge, Hold, first_hour, hour_of, open_hold
from broker.quota import LEASE_S, Ask, Expired, Held, Reading, Tally, grant, window

_read_hold: Final = msgspec.json.Decoder(Hold).decode
_write_hold: Final = msgspec.json.Encoder().encode

_ADD_TO_COUNTER: Final = (
    "INSERT INTO counters (counter, label, ends_at, used) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET used = used + excluded.used"
)
_CHANGE_COUNTER: Final = "UPDATE counters SET used = used + ? WHERE counter = ? AND label = ?"  # one that was forgotten stays so
_ADD_TO_TALLY: Final = (
    "INSERT INTO tallies (policy, identity, hour, tokens, requests, denied, last_used) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, requests = requests + excluded.requests, "
    "denied = denied + excluded.denied, last_used = max(last_used, excluded.last_used)"
)


class Book:
    """The tables, as the words of quota.Ledger. `now` is the transaction's time."""

    def __init__(self, database: Database) -> None:
        self._execute = database.execute
        self._executemany = database.executemany

    def hold(self, ask: Ask, now: float) -> Held:
        verdict = grant(ask, [self._used(budget, now) for budget in ask.budgets], now)
        hold = open_hold(ask, verdict.granted_output, now)
        try:
            self._execute("INSERT INTO holds VALUES (?, 'open', ?, ?)", (ask.hold_id, hold.expires_at, _write_hold(hold)))
        except sqlite3.IntegrityError:
            raise Unavailable("This request was given up before its quota was held: try again.") from None
        self._executemany(_ADD_TO_COUNTER, [(charge.counter, charge.window, charge.ends_at, charge.held) for charge in hold.charges])
        if hold.leases:
            self._executemany("INSERT INTO leases VALUES (?, ?, ?)", [(counter, ask.hold_id, now + LEASE_S) for counter in hold.leases])
        return Held(ask.hold_id, verdict.granted_output, verdict.tokens, verdict.requests, bool(hold.leases), verdict.would_refuse)

    def settle(self, hold_id: str, usage: Usage | None, now: float) -> int:
        row = self._execute("SELECT state, record FROM holds WHERE id = ?", (hold_id,)).fetchone()
        if row is None or row[0] == "void" or (row[0] == "spent" and usage is None):
            return 0
        hold = _read_hold(row[1])
        self._finish(hold_id, hold)
        if usage is None:
            self._tally(hold, hold.tokens, hold.requests, now)
            return 0
        excess = hold.excess(usage)
        if row[0] == "spent":
            self._change((charge, change) for charge, change in hold.corrections(usage) if change > 0)
            self._tally(hold, excess, 0, now)
        else:
            self._change(hold.corrections(usage))
            self._tally(hold, usage.input_tokens + usage.output_tokens, hold.requests, now)
        return excess

    def void(self, hold_id: str, now: float) -> None:
        row = self._execute("SELECT state, record FROM holds WHERE id = ?", (hold_id,)).fetchone()
        if row is None:
            self._execute("INSERT INTO holds VALUES (?, 'void', ?, x'')", (hold_id, now + VOID_S))
        elif row[0] == "open":
            hold = _read_hold(row[1])
            self._finish(hold_id, hold)
            self._change((charge, -charge.held) for charge in hold.charges)

    def renew(self, hold_ids: Iterable[str], now: float) -> None:
        self._executemany("UPDATE leases SET until = ? WHERE hold_id = ?", [(now + LEASE_S, hold_id) for hold_id in hold_ids])

    def deny(self, policies: Iterable[PolicyRef], identity: str, now: float) -> None:
        self._executemany(_ADD_TO_TALLY, [(str(policy), identity, hour_of(now), 0, 0, 1, 0.0) for policy in policies])

    def expire(self, now: float) -> tuple[Expired, ...]:
        overdue = self._execute("SELECT id, record FROM holds WHERE state = 'open' AND until <= ?", (now,)).fetchall()
        expired: list[Expired] = []
        for hold_id, record in overdue:
            hold = _read_hold(record)
            self._execute("UPDATE holds SET state = 'spent', until = ? WHERE id = ?", (hold.expires_at + LATE_S, hold_id))
            self._execute("DELETE FROM leases WHERE hold_id = ?", (hold_id,))
            self._tally(hold, hold.tokens, hold.requests, now)
            expired.append(Expired(hold_id, hold.identity, hold.tokens))
        self._forget(now)
        return tuple(expired)

    def tallies(self, now: float) -> tuple[Tally, ...]:
        rows = self._execute(
            "SELECT policy, identity, sum(tokens), sum(requests), sum(denied), max(last_used) FROM tallies WHERE hour >= ? "
            "GROUP BY policy, identity ORDER BY policy, identity",
            (first_hour(now),),
        )
        return tuple(Tally(*row) for row in rows)

    def readings(self, now: float) -> tuple[Reading, ...]:
        counted = self._execute("SELECT counter, used, ends_at - ? FROM counters WHERE ends_at > ?", (now, now)).fetchall()
        leased = self._execute("SELECT counter, count(*), 0.0 FROM leases WHERE until > ? GROUP BY counter", (now,)).fetchall()
        return tuple(Reading(*row) for row in sorted(counted + leased))

    def open_holds(self, _now: float) -> int:
        count: int = self._execute("SELECT count(*) FROM holds WHERE state = 'open'").fetchone()[0]
        return count

    def _used(self, budget: Budget, now: float) -> int:
        if budget.per is None:
            row = self._execute("SELECT count(*) FROM leases WHERE counter = ? AND until > ?", (budget.counter, now)).fetchone()
        else:
            label = window(budget.per, now).label
            row = self._execute("SELECT used FROM counters WHERE counter = ? AND label = ?", (budget.counter, label)).fetchone()
        return row[0] if row else 0

    def _finish(self, hold_id: str, hold: Hold) -> None:
        """Forget an open hold, with its leases: settling or voiding it once more finds nothing to do."""
        self._execute("DELETE FROM holds WHERE id = ?", (hold_id,))
        if hold.leases:
            self._execute("DELETE FROM leases WHERE hold_id = ?", (hold_id,))

    def _change(self, changes: Iterable[tuple[Charge, int]]) -> None:
        self._executemany(_CHANGE_COUNTER, [(change, charge.counter, charge.window) for charge, change in changes])

    def _tally(self, hold: Hold, tokens: int, requests: int, now: float) -> None:
        hour = hour_of(now)
        self._executemany(_ADD_TO_TALLY, [(policy, hold.identity, hour, tokens, requests, 0, now) for policy in hold.policies])

    def _forget(self, now: float) -> None:
        self._execute("DELETE FROM counters WHERE ends_at <= ?", (now,))
        self._execute("DELETE FROM holds WHERE state != 'open' AND until <= ?", (now,))
        self._execute("DELETE FROM tallies WHERE hour < ?", (first_hour(now),))
