"""What each question to the ledger reads and writes in SQLite."""

import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from broker.adjustment import Adjustment, Balance, Look, with_credits
from broker.chat import Usage
from broker.errors import Unavailable
from broker.grant import Budget, PolicyRef
from broker.ledger.adjusting import Adjusting
from broker.ledger.counters import Counters
from broker.ledger.database import Database
from broker.ledger.holds import LATE_S, VOID_S, Charge, Hold, first_hour, hour_of, open_hold
from broker.quota import LEASE_S, Ask, Expired, Held, Reading, Spending, Tally, grant, window

_read_hold: Final = msgspec.json.Decoder(Hold).decode
_write_hold: Final = msgspec.json.Encoder().encode

_ADD_TO_TALLY: Final = (
    "INSERT INTO tallies (policy, identity, hour, tokens, requests, denied, last_used, microusd) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, requests = requests + excluded.requests, "
    "denied = denied + excluded.denied, last_used = max(last_used, excluded.last_used), microusd = microusd + excluded.microusd"
)
_NOTHING: Final = Spending(0, 0, 0, 0)


class Book:
    """The tables, as the words of quota.Ledger. Every method runs inside `transaction`, whose time is `now`.

    What it knows of counters and open holds it keeps between transactions, as long as nobody else has written to the file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._execute = database.execute
        self._executemany = database.executemany
        self._counters = Counters(database)
        self._open: dict[str, Hold] = {}
        self._tallied: dict[tuple[str, str, int], tuple[int, int, int, float, int]] = {}  # what this transaction adds to tallies
        self._version = 0

    @contextmanager
    def transaction(self) -> Generator[float]:
        """As Database.transaction."""
        try:
            with self._database.transaction() as now:
                version = self._execute("PRAGMA data_version").fetchone()[0]
                if version != self._version:
                    self._forget_what_is_known()
                    self._version = version
                yield now
                self._write()
        except BaseException:
            self._forget_what_is_known()
            raise

    def hold(self, ask: Ask, now: float) -> Held:
        verdict = grant(ask, [self._used(budget, now) for budget in ask.budgets], now)
        hold = open_hold(ask, verdict.granted_output, now)
        try:
            self._execute("INSERT INTO holds VALUES (?, 'open', ?, ?)", (ask.hold_id, hold.expires_at, _write_hold(hold)))
        except sqlite3.IntegrityError:
            raise Unavailable("This request was given up before its quota was held: try again.") from None
        self._open[ask.hold_id] = hold
        for charge in hold.charges:
            self._counters.take(charge)
        if hold.leases:
            self._executemany("INSERT INTO leases VALUES (?, ?, ?)", [(counter, ask.hold_id, now + LEASE_S) for counter in hold.leases])
        return Held(ask.hold_id, verdict.granted_output, verdict.tokens, verdict.requests, bool(hold.leases), verdict.would_refuse)

    def settle(self, hold_id: str, usage: Usage | None, cost_microusd: int | None, now: float) -> int:
        hold = self._take_open(hold_id)
        if hold is None:
            return 0 if usage is None else self._settle_late(hold_id, usage, cost_microusd, now)
        if usage is None:
            self._tally_hold(hold, hold.all, now)
            return 0
        spent = hold.spent(usage, cost_microusd)
        for charge, change in hold.corrections(spent):
            self._counters.change(charge, change)
        self._tally_hold(hold, spent, now)
        return hold.excess(usage)

    def void(self, hold_id: str, now: float) -> None:
        hold = self._take_open(hold_id)
        if hold is None:
            self._execute("INSERT INTO holds VALUES (?, 'void', ?, x'') ON CONFLICT DO NOTHING", (hold_id, now + VOID_S))
            return
        for charge in hold.charges:
            self._counters.change(charge, -charge.held)

    def renew(self, hold_ids: Iterable[str], now: float) -> None:
        self._executemany("UPDATE leases SET until = ? WHERE hold_id = ?", [(now + LEASE_S, hold_id) for hold_id in hold_ids])

    def deny(self, policies: Iterable[PolicyRef], identity: str, now: float) -> None:
        for policy in policies:
            self._tally((str(policy), identity, hour_of(now)), _NOTHING, denied=1)

    def expire(self, now: float) -> tuple[Expired, ...]:
        overdue = self._execute("SELECT id, record FROM holds WHERE state = 'open' AND until <= ?", (now,)).fetchall()
        expired: list[Expired] = []
        for hold_id, record in overdue:
            hold = _read_hold(record)
            self._open.pop(hold_id, None)
            self._execute("UPDATE holds SET state = 'spent', until = ? WHERE id = ?", (hold.expires_at + LATE_S, hold_id))
            self._execute("DELETE FROM leases WHERE hold_id = ?", (hold_id,))
            self._tally_hold(hold, hold.all, now)
            expired.append(Expired(hold_id, hold.identity, hold.tokens, hold.microusd))
        self._forget(now)
        return tuple(expired)

    def tallies(self, now: float) -> tuple[Tally, ...]:
        rows = self._execute(
            "SELECT policy, identity, sum(tokens), sum(requests), sum(denied), max(last_used), sum(microusd) FROM tallies WHERE hour >= ? "
            "GROUP BY policy, identity ORDER BY policy, identity",
            (first_hour(now),),
        )
        return tuple(Tally(*row) for row in rows)

    def readings(self, now: float) -> tuple[Reading, ...]:
        counted = self._execute("SELECT counter, used, ends_at - ? FROM counters WHERE ends_at > ?", (now, now)).fetchall()
        leased = self._execute("SELECT counter, count(*), 0.0 FROM leases WHERE until > ? GROUP BY counter", (now,)).fetchall()
        found = [*(Reading(*row) for row in with_credits(counted)), *(Reading(*row) for row in leased)]
        return tuple(sorted(found, key=lambda reading: reading.counter))

    def open_holds(self, _now: float) -> int:
        count: int = self._execute("SELECT count(*) FROM holds WHERE state = 'open'").fetchone()[0]
        return count

    def balances(self, looks: Sequence[Look], now: float) -> tuple[Balance, ...]:
        return Adjusting(self._counters.used, self._open_charges, now).look(looks)

    def adjust(self, change: Adjustment, now: float) -> tuple[Balance, Balance]:
        return Adjusting(self._counters.used, self._open_charges, now).adjust(change, self._counters.take)

    def _open_charges(self) -> Iterator[Charge]:
        for (record,) in self._execute("SELECT record FROM holds WHERE state = 'open'"):
            yield from _read_hold(record).charges

    def _used(self, budget: Budget, now: float) -> int:
        if budget.per is not None:
            return self._counters.used(budget.counter, window(budget.per, now).label)
        alive: int = self._execute("SELECT count(*) FROM leases WHERE counter = ? AND until > ?", (budget.counter, now)).fetchone()[0]
        return alive

    def _take_open(self, hold_id: str) -> Hold | None:
        """Take an open hold out, with its leases: settling or voiding it once more finds nothing to do."""
        hold = self._open.pop(hold_id, None)
        if hold is None:
            row = self._execute("SELECT record FROM holds WHERE id = ? AND state = 'open'", (hold_id,)).fetchone()
            if row is None:
                return None
            hold = _read_hold(row[0])
        self._execute("DELETE FROM holds WHERE id = ?", (hold_id,))
        if hold.leases:
            self._execute("DELETE FROM leases WHERE hold_id = ?", (hold_id,))
        return hold

    def _settle_late(self, hold_id: str, usage: Usage, cost_microusd: int | None, now: float) -> int:
        row = self._execute("DELETE FROM holds WHERE id = ? AND state = 'spent' RETURNING record", (hold_id,)).fetchone()
        if row is None:
            return 0
        hold = _read_hold(row[0])
        spent = hold.spent(usage, cost_microusd)
        for charge, change in hold.corrections(spent):
            self._counters.change(charge, max(0, change))
        self._tally_hold(hold, hold.beyond(spent), now)
        return hold.excess(usage)

    def _tally_hold(self, hold: Hold, spent: Spending, now: float) -> None:
        hour = hour_of(now)
        for policy in hold.policies:
            self._tally((policy, hold.identity, hour), spent, last_used=now)

    def _tally(self, key: tuple[str, str, int], spent: Spending, denied: int = 0, last_used: float = 0.0) -> None:
        tokens, requests, denials, used_at, microusd = self._tallied.get(key, (0, 0, 0, 0.0, 0))
        tokens += spent.input_tokens + spent.output_tokens
        self._tallied[key] = tokens, requests + spent.requests, denials + denied, max(used_at, last_used), microusd + spent.microusd

    def _write(self) -> None:
        self._counters.write()
        self._executemany(_ADD_TO_TALLY, [(*key, *sums) for key, sums in self._tallied.items()])
        self._tallied.clear()

    def _forget(self, now: float) -> None:
        self._write()
        self._counters.forget()
        self._execute("DELETE FROM counters WHERE ends_at <= ?", (now,))
        self._execute("DELETE FROM holds WHERE state != 'open' AND until <= ?", (now,))
        self._execute("DELETE FROM tallies WHERE hour < ?", (first_hour(now),))

    def _forget_what_is_known(self) -> None:
        self._counters.forget()
        self._open.clear()
        self._tallied.clear()
