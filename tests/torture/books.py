"""The provider's ledger, the brokers' audit lines and the store side by side: each token of one is found in the others, or is a fault.

An exchange is charged what the provider reported, or its whole hold where no report reached the broker. So the store is what the provider
did (as far as it did not say that it did less, which nobody else can know), what it said too much, and what holds were above it: of callers
that hung up, of brokers that were killed, of answers without a report. None of these is ever less than nothing, since a hold of whose end
nobody knows is charged, and not given back.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .callers import Outcome
from .pairs import Pairs
from .plan import NOTHING, Charge, Plan, Question, billed
from .provider import Attempt, bound

TOLD: Final = ("none", "too much", "too little")
BREAKS: Final = ("reset", "cut")
Counters = Counter[tuple[str, str]]  # by a quota's name, and by whom it counts: an agent, or "-" for all


@dataclass(frozen=True)
class Line:
    """An exchange as a broker wrote it down. `survived`: that broker ended in order, so the store must have been told."""

    exchange: str
    agent: str
    attempts: int
    charge: Charge
    estimated: bool
    survived: bool


@dataclass
class Account:
    """One exchange that the provider knows of.

    bound: of its prompt, by bytes. slack: by how much less a count may have held for it. orphan: the hold that is left of it alone.
    """

    plan: Plan
    question: Question
    outcome: Outcome
    bound: int
    slack: int
    attempts: list[Attempt] = field(default_factory=list)
    line: Line | None = None
    orphan: str = ""

    @property
    def hold(self) -> Charge:
        """The last one, at most."""
        return self.plan.held(self.bound, self.attempts[-1].limit)

    @property
    def earlier(self) -> Charge:
        """Holds of attempts before the last, as far as the provider may bill these."""
        lost = [attempt for attempt in self.attempts[:-1] if attempt.is_billed]
        return sum((self.plan.held(self.bound, attempt.limit) for attempt in lost), NOTHING)

    @property
    def done(self) -> int:
        return sum(attempt.done.tokens for attempt in self.attempts)

    def __str__(self) -> str:
        met = ", ".join(attempt.lie for attempt in self.attempts)
        return f"{self.question.tag} ({self.outcome.code}; met {met}; hold {tuple(self.hold)})"

    @property
    def excess(self) -> Charge:
        """What was reported above the hold, at most: charged, since the provider bills it, and the only way above a limit."""
        last = self.attempts[-1]
        if last.said is None or self.line is None or self.line.charge != self.earlier + billed(last.model, *last.said):
            return NOTHING
        return self.plan.held(max(0, last.said[0] - self.bound + self.slack), max(0, last.said[1] - last.limit))

    def explains(self, line: Line, *, exactly: bool = False) -> bool:
        """It is charged what was reported, or the whole hold; the latter only when the report may not have come through."""
        last, earlier = self.attempts[-1], self.earlier
        reported = billed(last.model, *last.said) if last.said else None if last.is_billed else NOTHING
        saved, rest = (0, 0) if exactly else (self.slack, self.question.choices - 1)
        lost = earlier.read // self.bound
        if reported is not None and line.estimated == (lost > 0) and line.charge.fits(earlier + reported, lost * saved, lost * rest):
            return True
        heard = self.outcome.code == "answered" and last.lie in TOLD
        if not line.estimated or (heard and not lost):
            return False
        if line.attempts > len(self.attempts) and last.is_billed:  # one more was on its way
            unseen = self.plan.held(self.bound, 0)
            return line.charge.fits(earlier + self.hold + unseen, (lost + 2) * saved, rest + self.question.limit * self.question.choices)
        return line.charge.fits(earlier + self.hold, (lost + 1) * saved, (lost + 1) * rest)


@dataclass
class Books:
    """All that is known of one seed when everything has ended.

    used: what stands on the store's counters. open: what each hold took of them that nobody settled, by its id.
    faults: what cannot be. spent: what was charged above what the provider did, by why.
    """

    plan: Plan
    used: Counters
    open: dict[str, Counters]
    accounts: dict[str, Account] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    spent: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        return sum(account.done for account in self.accounts.values())

    def compare(self, attempts: Sequence[Attempt], outcomes: Sequence[Outcome], lines: Sequence[Line]) -> None:
        self._account(attempts, outcomes)
        unheard = self._link(lines)
        expected: Counters = Counter()
        for line in lines:
            if line.exchange in self._crashed:
                self.faults += [f"{line} was never settled"] if line.survived else []
            elif line.attempts:
                self._enter(expected, line.agent, line.charge, 1)
        for took in self.open.values():
            expected += took
        for account in self.accounts.values():
            self._settle(expected, account)
        for line in unheard:
            self.spent["hung up"] += line.charge.tokens
        self.spent["crashed"] += sum(self.open[hold_id]["all", "-"] for hold_id in self._crashed.values())
        self._limit()
        self.faults += [
            f"{name} of {whom}: the store says {self.used[name, whom]}, the books {expected[name, whom]}"
            for name, whom in sorted(expected.keys() | self.used.keys())
            if self.used[name, whom] != expected[name, whom]
        ]

    def _limit(self) -> None:
        """No counter may stand above its limit but by what was reported above holds."""
        for quota in self.plan.quotas:
            for whom in ("-",) if quota.shared else {account.question.agent for account in self.accounts.values()}:
                above = sum(quota.cost(account.excess, 0) for account in self.accounts.values() if whom in ("-", account.question.agent))
                most = quota.limit + above
                if self.used[quota.name, whom] > most:
                    self.faults.append(f"{quota.name} of {whom}: {self.used[quota.name, whom]} is charged, at most {most} may be")

    def _account(self, attempts: Sequence[Attempt], outcomes: Sequence[Outcome]) -> None:
        asked = {outcome.question.tag: outcome for outcome in outcomes}
        for attempt in attempts:
            account = self.accounts.get(attempt.tag)
            if account is None:
                outcome = asked[attempt.tag]
                slack = outcome.question.size // 2 + 1 if self.plan.kind == "counted" else 0
                account = self.accounts[attempt.tag] = Account(
                    self.plan, outcome.question, outcome, bound(self.plan.seed, attempt.tag), slack
                )
            account.attempts.append(attempt)
        self._crashed = {hold_id.partition(".")[0]: hold_id for hold_id in self.open}

    def _link(self, lines: Sequence[Line]) -> list[Line]:
        """Find each line's account: by the name that its caller was told, else by its figures. Returned are those that nobody explains."""
        named = {account.outcome.exchange: account for account in self.accounts.values() if account.outcome.exchange}
        for line in lines:
            account = named.get(line.exchange)
            if account is not None:
                account.line = line
                if not account.explains(line):
                    self.faults.append(f"{account} is charged {line.charge}")
        unheard = [line for line in lines if line.attempts and line.exchange not in named]
        known = {line.exchange for line in lines}
        orphans = [hold_id for name, hold_id in self._crashed.items() if name not in known]
        unnamed = [account for account in self.accounts.values() if account.line is None]
        for account, end in self._pair(unnamed, [*unheard, *orphans]):
            if isinstance(end, Line):
                account.line = end
                unheard.remove(end)
            else:
                account.orphan = end
        self.faults += [f"{line} is of no request that the provider knows" for line in unheard if not line.estimated]
        return unheard

    def _pair(self, accounts: Sequence[Account], ends: Sequence["Line | str"]) -> list[tuple[Account, "Line | str"]]:
        """Accounts and what became of them: lines, and holds that killed brokers left behind without one.

        One may be explained by several, so all are paired together: the certain pairs first, then the rest, as many as there can be.
        """
        pairs = Pairs()
        must = [number for number, end in enumerate(ends) if isinstance(end, Line) and not end.estimated]
        for exactly in (True, False):
            for one, account in enumerate(accounts):
                for other, end in enumerate(ends):
                    if self._explains(account, end, exactly=exactly):
                        pairs.add(one, other)
            pairs.pair(range(len(accounts)), must)
        return [(accounts[one], ends[other]) for one, other in pairs.found()]

    def _explains(self, account: Account, end: "Line | str", *, exactly: bool) -> bool:
        agent = account.question.agent
        if isinstance(end, Line):
            return agent == end.agent and account.explains(end, exactly=exactly)
        took = self.open[end]
        slack, rest = (0, 0) if exactly else (account.slack, account.question.choices - 1)
        written = took["said", agent]
        return took["each", agent] > 0 and Charge(took["each", agent] - written, written, took["paid", agent]).fits(
            account.hold, slack, rest
        )

    def _settle(self, expected: Counters, account: Account) -> None:
        """What the store must have on its counters beside what the lines say, and why an exchange cost more than was done."""
        line, agent = account.line, account.question.agent
        hold_id = self._crashed.pop(line.exchange if line else account.orphan.partition(".")[0], None)
        if hold_id is not None:
            took = self.open[hold_id]
            settled = account.earlier if len(account.attempts) > 1 or "." not in hold_id else account.hold
            self._enter(expected, agent, settled, 1 - took["asked", agent])
            above = took["all", "-"] + settled.tokens - account.done
            why = "crashed"
        elif line is None and account.attempts[-1].lie in BREAKS:  # its hold is spent, and the broker was killed before it had another
            self._enter(expected, agent, account.earlier + account.hold, 1)
            above = (account.earlier + account.hold).tokens - account.done
            why = "crashed"
        elif line is not None:
            above = line.charge.tokens - account.done
            why = self._why(account)
        else:
            self.faults.append(f"{account} is in no broker's books, and no hold is left of it")
            return
        self.spent[why] += above
        if above < -account.slack * len(account.attempts):
            self.faults.append(f"{account} cost {-above} more than it was charged")

    def _why(self, account: Account) -> str:
        lie = account.attempts[-1].lie
        if lie == "too much" and account.line is not None and not account.line.estimated:
            return "overstated"
        return "hung up" if account.outcome.code == "left" else "unreported"

    def _enter(self, counters: Counters, agent: str, charge: Charge, requests: int) -> None:
        for quota in self.plan.quotas:
            if quota.unit != "concurrent":
                counters[quota.name, "-" if quota.shared else agent] += quota.cost(charge, requests)


def read_audit(files: Iterable[Path]) -> list[Line]:
    lines: list[Line] = []
    for file in files:
        said = [json.loads(text) for text in file.read_text().splitlines()]
        last_start = max(number for number, one in enumerate(said) if one["kind"] == "start")
        for number, one in enumerate(said):
            if one["kind"] == "exchange":
                charge, agent = (
                    Charge(one["input_tokens"], one["output_tokens"], one["cost_microusd"] or 0),
                    one["spiffe_id"].rpartition("/")[2],
                )
                lines.append(Line(one["exchange"], agent, one["attempts"], charge, one["estimated"], number > last_start))
    return lines
