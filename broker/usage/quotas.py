"""Which quota a counter belongs to, and which counter a quota has for whom. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, NamedTuple

from broker.grant import Budget, Per, Unit
from broker.policy import Snapshot
from broker.policy.rules import Rule

NEAR: Final = 3  # names that are offered in place of a wrong one
_NEAR_CUTOFF: Final = 0.5

_UNITS: Final = "|".join(Unit)
_PERS: Final = "|".join(Per)
_COUNTER: Final = re.compile(rf"\{{([^{{}}]*)\}}/([A-Za-z]+)/([^/]+)/(.+?)/({_UNITS})/({_PERS}|-)/(identity|policy)/(.+)", re.DOTALL)


class Named(NamedTuple):
    """A counter's name, taken apart. `identity` is "" where all callers share the counter."""

    namespace: str
    kind: str
    policy: str
    quota: str
    unit: Unit
    per: Per | None
    identity: str

    @property
    def title(self) -> str:
        """As operators write it: NAMESPACE/POLICY/QUOTA, for a model's rateLimit NAMESPACE/POLICY/MODEL."""
        return f"{self.namespace}/{self.policy}/{self.quota}"

    @property
    def beginning(self) -> str:
        """The counter's name without the identity."""
        scope = "identity/" if self.identity else "policy/-"
        return f"{{{self.namespace}}}/{self.kind}/{self.policy}/{self.quota}/{self.unit}/{self.per or '-'}/{scope}"


def parse(counter: str) -> Named | None:
    """Take a counter's name apart; None when it is none of ours."""
    found = _COUNTER.fullmatch(counter)
    if found is None:
        return None
    namespace, kind, policy, quota, unit, per, scope, whose = found.groups()
    identity = whose if scope == "identity" else ""
    return Named(namespace, kind, policy, quota, Unit(unit), None if per == "-" else Per(per), identity)


@dataclass(frozen=True, slots=True)
class Quota:
    """A quota as the objects have it now.

    budget: with `each`, its counter lacks the identity at its end.
    each: every identity has a count of its own.
    models: that count; None = all of the namespace.
    rule: of which it is; None for a model's rateLimit.
    """

    title: str
    kind: str
    budget: Budget
    each: bool
    models: frozenset[str] | None
    rule: Rule | None

    def is_about(self, model: str) -> bool:
        if self.models is not None and model not in self.models:
            return False
        return self.rule is None or self.rule.models is None or model in self.rule.models


class Catalogue:
    """Every quota of one state of the world."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._by_beginning = {quota.budget.counter: quota for quota in _quotas(snapshot)}

    def of(self, named: Named) -> Quota | None:
        """The quota that a counter belongs to; None when its object is gone, or says something else by now."""
        return self._by_beginning.get(named.beginning)

    def titled(self, title: str) -> list[Quota]:
        """Those of a title; several where an AIAccessPolicy and an AIRoutingPolicy share a name."""
        return [quota for quota in self._by_beginning.values() if title in (quota.title, f"{quota.kind}/{quota.title}")]

    @property
    def titles(self) -> set[str]:
        return {quota.title for quota in self._by_beginning.values()}


def _quotas(snapshot: Snapshot) -> Iterator[Quota]:
    for rule in snapshot.rules.all:
        for one in rule.ceilings:
            title = f"{rule.ref}/{one.quota.name}"
            yield Quota(title, "AIAccessPolicy", one.pattern, one.quota.scope == "Identity", one.models, rule)
    for offer in snapshot.offers.values():
        for budget in offer.budgets:
            yield Quota(f"{offer.ref}/{offer.name}", "AIRoutingPolicy", budget, each=False, models=frozenset((offer.name,)), rule=None)


def near(wanted: str, known: Iterable[str]) -> str:
    """What may have been meant, as the end of a sentence."""
    names = sorted(set(known))
    close = get_close_matches(wanted, names, NEAR, _NEAR_CUTOFF) or [name for name in names if wanted in name][:NEAR]
    return f"; near it: {', '.join(close)}" if close else ""
