"""The broker's end of `broker usage`: who asks is known by now, what is changed is written to audit, and no change goes without it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal

import msgspec

from broker.adjustment import CREDIT_MAX, Adjusted, Adjustment, Balance, Look
from broker.audit import Audit
from broker.errors import BadRequest, Unavailable
from broker.grant import Per, Unit
from broker.identity import InvalidSpiffeId, parse_spiffe_id
from broker.policy import Snapshot
from broker.quota import Ledger
from broker.usage.quotas import Catalogue, Quota, near, parse
from broker.usage.report import Report, Wanted, report

log = logging.getLogger(__name__)

RESET_MAX: Final = 1000  # counters in one reset
REASON_MAX: Final = 500
_MICRO: Final = 1_000_000

Action = Literal["grant", "reset"]


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator wants changed.

    quota: NAMESPACE/POLICY/QUOTA. identity: a SPIFFE ID.
    amount: of a grant, in the quota's unit (dollars where it counts those); may be below 0.
    """

    reason: str
    quota: str = ""
    identity: str = ""
    amount: str = ""
    dry_run: bool = False


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One counter before and after. Micro-dollars where the unit is usd. limit: None when no object has the quota any more."""

    quota: str
    identity: str
    unit: str
    window: str
    limit: int | None
    used_before: int
    used_after: int
    held: int
    credit_before: int
    credit_after: int
    reset_s: float


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What was changed, or would be."""

    dry_run: bool
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class _Target:
    """A counter to change, and what is known of its quota."""

    title: str
    identity: str
    counter: str
    unit: Unit
    per: Per
    limit: int | None


class Desk:
    """Answers the admin door.

    Args:
        snapshot: the objects in force now.
        wall_s: Unix seconds.
    """

    def __init__(self, ledger: Ledger, snapshot: Callable[[], Snapshot], audit: Audit, wall_s: Callable[[], float]) -> None:
        self._ledger = ledger
        self._snapshot = snapshot
        self._audit = audit
        self._wall_s = wall_s

    async def report(self, wanted: Wanted) -> Report:
        """Raises Unavailable."""
        return await report(self._ledger, self._snapshot(), wanted, self._wall_s())

    async def grant(self, order: Order, who: str) -> Changes:
        """Let an identity, or all that share a quota, have more in the window that runs.

        Raises:
            BadRequest: there is no such quota, or it cannot be granted so.
            Unavailable: the store or the audit log is away.
        """
        _check_reason(order)
        quota = self._quota(order.quota)
        if quota.each != bool(order.identity):
            raise BadRequest(
                f"each identity has a count of its own under {quota.title}: say whose with --identity"
                if quota.each
                else f"all callers share {quota.title}: leave --identity out"
            )
        if order.identity:
            self._check_named(quota, order.identity)
        target = _target(quota, order.identity)
        change = Adjustment(target.counter, target.per, credit=_amount(order.amount, target.unit))
        return Changes(dry_run=order.dry_run, changes=(await self._adjust(target, change, order, who, "grant"),))

    async def reset(self, order: Order, who: str) -> Changes:
        """Set counters of windows that run to what is held for exchanges that run.

        Raises:
            BadRequest: there is no such quota, nothing of this identity, or too much at once.
            Unavailable: the store or the audit log is away.
        """
        _check_reason(order)
        if not order.quota and not order.identity:
            raise BadRequest("say what to reset: --quota NAMESPACE/POLICY/QUOTA, --identity SPIFFE_ID, or both")
        targets = await self._counted(order)
        changes: list[Change] = []
        for target in targets:
            change = Adjustment(target.counter, target.per, clears=True)
            try:
                changes.append(await self._adjust(target, change, order, who, "reset"))
            except Unavailable as away:
                raise Unavailable(f"{away} ({len(changes)} of {len(targets)} counters were reset)", retry_after_s=1) from away
        return Changes(dry_run=order.dry_run, changes=tuple(changes))

    async def _adjust(self, target: _Target, change: Adjustment, order: Order, who: str, action: Action) -> Change:
        if order.dry_run:
            (before,) = await self._ledger.balances([Look(change.counter, change.per)])
            after = before.after(change)
            _check_room(after)
        else:
            self._audit.ready()
            (known,) = await self._ledger.balances([Look(change.counter, change.per)])
            _check_room(known.after(change))
            try:
                before, after = await self._ledger.adjust(change)
            except BaseException:
                self._audit.write(self._line(order, who, action, (known, known.after(change)), "unknown"))
                raise
            self._write_down(self._line(order, who, action, (before, after), "done"))
        return Change(
            quota=target.title,
            identity=target.identity,
            unit=target.unit,
            window=before.window,
            limit=target.limit,
            used_before=before.used,
            used_after=after.used,
            held=before.held,
            credit_before=before.credit,
            credit_after=after.credit,
            reset_s=round(before.reset_s, 3),
        )

    def _line(
        self, order: Order, who: str, action: Action, changed: tuple[Balance, Balance], outcome: Literal["done", "unknown"]
    ) -> Adjusted:
        before, after = changed
        return Adjusted(
            time=datetime.fromtimestamp(self._wall_s(), UTC),
            who=who,
            action=action,
            outcome=outcome,
            counter=before.counter,
            window=before.window,
            reason=order.reason,
            used_before=before.used,
            used_after=after.used,
            credit_before=before.credit,
            credit_after=after.credit,
        )

    def _write_down(self, line: Adjusted) -> None:
        """At once, not at the end of the turn: whoever asked is told only when the system has it.

        Raises:
            Unavailable: it does not. The line waits, and until it is written nothing else is done here.
        """
        self._audit.write(line)
        log.warning("quota_adjusted", extra={"who": line.who, "action": line.action, "counter": line.counter, "reason": line.reason})
        self._audit.flush()
        if self._audit.why_not_ready:
            raise Unavailable("the counter was changed, but the audit log cannot be written: the broker refuses everything until it can")

    def _quota(self, title: str) -> Quota:
        """The one quota of the objects in force that has this title and can be adjusted."""
        catalogue = Catalogue(self._snapshot())
        found = catalogue.titled(title)
        if not found:
            raise BadRequest(f"no object has a quota {title!r} (NAMESPACE/POLICY/QUOTA){near(title, catalogue.titles)}")
        if len(found) > 1:
            raise BadRequest(f"there are two quotas {title!r}: say {' or '.join(f'{one.kind}/{one.title}' for one in found)}")
        if found[0].budget.per is None:
            raise BadRequest(f"{title} counts exchanges that run now: it is free when they end, and cannot be adjusted")
        return found[0]

    def _check_named(self, quota: Quota, identity: str) -> None:
        """Raises BadRequest when the quota would never count this identity: nobody would notice a slip of the pen."""
        try:
            parsed = parse_spiffe_id(identity)
        except InvalidSpiffeId as wrong:
            raise BadRequest(f"--identity {identity!r} is no SPIFFE ID: {wrong}") from wrong
        if quota.rule not in self._snapshot().rules.naming(parsed):
            subjects = [str(one) for one in (quota.rule.subjects if quota.rule else None) or ()]
            raise BadRequest(f"{quota.title} does not count {identity}: its policy names others{near(identity, subjects)}")

    async def _counted(self, order: Order) -> list[_Target]:
        """The counters that stand in the store and are meant."""
        catalogue = Catalogue(self._snapshot())
        found: list[_Target] = []
        titles, identities = set(catalogue.titles), set[str]()
        for reading in await self._ledger.readings():
            named = parse(reading.counter)
            if named is None:
                continue
            titles.add(named.title)
            identities.add(named.identity)
            of_quota = order.quota in ("", named.title, f"{named.kind}/{named.title}")
            if of_quota and order.identity in ("", named.identity) and named.per is not None:
                quota = catalogue.of(named)
                limit = quota.budget.limit if quota else None
                found.append(_Target(named.title, named.identity, reading.counter, named.unit, named.per, limit))
        if order.quota and not {order.quota, order.quota.partition("/")[2]} & titles:
            raise BadRequest(f"there is no quota {order.quota!r} (NAMESPACE/POLICY/QUOTA){near(order.quota, titles)}")
        if not found:
            whose = f" for {order.identity}" if order.identity else ""
            where = f" under {order.quota}" if order.quota else ""
            raise BadRequest(f"nothing is counted{whose}{where} now, so there is nothing to reset{near(order.identity, identities - {''})}")
        if len(found) > RESET_MAX:
            raise BadRequest(f"that is {len(found)} counters, and at most {RESET_MAX} are reset at once: say whose with --identity")
        return found


def _target(quota: Quota, identity: str) -> _Target:
    budget = quota.budget
    if budget.per is None:
        raise BadRequest(f"{quota.title} has no window to grant anything in")
    return _Target(quota.title, identity, budget.counter + identity, budget.unit, budget.per, budget.limit)


def _check_reason(order: Order) -> None:
    if not order.reason.strip():
        raise BadRequest("say why with --reason: it goes into the audit log")
    if len(order.reason) > REASON_MAX:
        raise BadRequest(f"--reason has at most {REASON_MAX} characters")


def _check_room(after: Balance) -> None:
    if abs(after.credit) > CREDIT_MAX:
        raise BadRequest("with that the credit of this counter is beyond what any store can count")


def _amount(text: str, unit: Unit) -> int:
    """Raises BadRequest."""
    try:
        amount = Decimal(text) * (_MICRO if unit is Unit.USD else 1)
        whole = int(amount) if amount.is_finite() and abs(amount) <= CREDIT_MAX else 0
    except ArithmeticError:
        raise BadRequest(f"--amount {text[:40]!r} is no number") from None
    if not whole or whole != amount:
        what = "dollars, with at most 6 digits behind the point" if unit is Unit.USD else f"whole {unit.replace('_', ' ')}"
        raise BadRequest(f"--amount {text[:40]!r}: this quota counts {what}, up to {CREDIT_MAX}, and not 0")
    return whole
