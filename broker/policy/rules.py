"""Who may call what: access policies, indexed by the identities that they name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Final, NamedTuple

from broker.grant import Budget, Feature, Per, PolicyRef, Unit
from broker.identity import Identity
from broker.money import read_microusd
from broker.objects import AccessPolicy
from broker.objects.access import EVERY_MODEL, AccessSpec, Action, QuotaSpec, Subject
from broker.objects.duration import seconds
from broker.policy.offers import COUNTED

# Of one decision. Whoever may write policies decides how many there are; but each request holds all of its quotas in one step of a store
# that everybody shares, and its audit line names each policy.
POLICIES: Final = 64
QUOTAS: Final = 128
REMEMBERED: Final = 262_144  # rules that name somebody, of all whom one state of the world was asked about

_HOST_AT: Final = len("spiffe://")
_ALL_BUT_THE_COUNTER: Final = attrgetter(*(one.name for one in fields(Budget)[1:]))  # dataclasses.replace takes twice the time


@dataclass(frozen=True, slots=True, eq=False)
class Ceiling:
    """A quota of a rule, as far as it is the same for every caller.

    place: which of the rule's quotas. models: None = all of the rule's.
    pattern: the budget. With scope Identity its counter lacks the identity at its end.
    """

    place: int
    quota: QuotaSpec
    models: frozenset[str] | None
    pattern: Budget

    def budget(self, spiffe_id: str) -> Budget:
        """As this caller meets it."""
        if self.quota.scope == "Policy":
            return self.pattern
        return Budget(self.pattern.counter + spiffe_id, *_ALL_BUT_THE_COUNTER(self.pattern))


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """An access policy as it counts in a decision.

    namespace: whose models it is about; None with `everywhere`, when the object's own cannot be read.
    everywhere: a Deny in the broker's own namespace is about all of them.
    models: None = all.
    subjects: None = every identity of `trust_domain`; that None too = every identity.
    rejected: a Deny, or a Limit whose quotas cannot be known, of which this remains.
    """

    ref: PolicyRef
    namespace: str | None
    everywhere: bool
    action: Action
    shadow: bool
    rejected: bool
    subjects: tuple[Subject, ...] | None
    trust_domain: str | None
    models: frozenset[str] | None
    ceilings: tuple[Ceiling, ...] = ()
    features: frozenset[Feature] = frozenset()
    max_stream_s: float = 3600.0

    def covers(self, namespace: str, model: str) -> bool:
        return (self.everywhere or self.namespace == namespace) and (self.models is None or model in self.models)

    @property
    def grants(self) -> bool:
        return self.action == "Allow"

    @property
    def denies(self) -> bool:
        return self.action == "Deny" or self.rejected

    @property
    def refuses(self) -> bool:
        return self.denies and not self.shadow


def rule(policy: AccessPolicy, own_namespace: str) -> Rule | None:
    """The rule that an object makes; None for a rejected Allow, which makes none."""
    about, spec, remains = policy.about, policy.spec, policy.remains
    if about.accepted and spec is not None:
        return _accepted(policy, spec, everywhere=about.namespace in (None, own_namespace) and spec.action == "Deny")
    if remains is None:
        return None
    return Rule(
        ref=about.ref,
        namespace=about.namespace,
        everywhere=about.namespace is None or (about.namespace == own_namespace and not remains.limits),
        action="Limit" if remains.limits else "Deny",
        shadow=remains.shadow,
        rejected=True,
        subjects=remains.subjects,
        trust_domain=remains.trust_domain,
        models=None,
    )


def _accepted(policy: AccessPolicy, spec: AccessSpec, *, everywhere: bool) -> Rule:
    shadow = spec.mode == "Shadow"
    every = spec.models is None or EVERY_MODEL in spec.models
    return Rule(
        ref=policy.about.ref,
        namespace=policy.about.namespace,
        everywhere=everywhere,
        action=spec.action,
        shadow=shadow,
        rejected=False,
        subjects=spec.subjects,
        trust_domain=spec.mtls.trust_domain if spec.mtls else None,
        models=None if every else frozenset(spec.models or ()),
        ceilings=tuple(_ceiling(policy.about.ref, place, quota, shadow=shadow) for place, quota in enumerate(spec.quotas)),
        features=frozenset(spec.features),
        max_stream_s=seconds(spec.max_stream_duration),
    )


def _ceiling(ref: PolicyRef, place: int, quota: QuotaSpec, *, shadow: bool) -> Ceiling:
    if quota.tokens is not None:
        unit, limit = COUNTED[quota.token_count_mode], quota.tokens
    elif quota.requests is not None:
        unit, limit = Unit.REQUESTS, quota.requests
    elif quota.usd is not None:
        unit, limit = Unit.USD, read_microusd(quota.usd)
    else:
        unit, limit = Unit.CONCURRENT, quota.concurrent or 0
    per = Per(quota.per.lower()) if quota.per else None
    scope = "identity/" if quota.scope == "Identity" else "policy/-"
    counter = f"{{{ref.namespace}}}/AIAccessPolicy/{ref.name}/{quota.name}/{unit}/{per or '-'}/{scope}"
    models = None if EVERY_MODEL in quota.models else frozenset(quota.models)
    return Ceiling(place, quota, models, Budget(counter, unit, limit, per, shadow, quota.strict, quota.cut_off))


class Claim(NamedTuple):
    """One quota that is about a model, and the rule that it is of."""

    rule: Rule
    ceiling: Ceiling


def claims(rules: Iterable[Rule], namespace: str, model: str) -> list[Claim]:
    """Every quota of these rules that is about this model.

    A Deny that stands elsewhere counts nothing: one request's counters lie in the model's own namespace.
    """
    return [
        Claim(rule, one)
        for rule in rules
        if rule.namespace == namespace
        for one in rule.ceilings
        if one.models is None or model in one.models
    ]


def too_many(matching: Sequence[Rule], found: Sequence[Claim]) -> str:
    """Why nothing is granted by so many rules and quotas that are about one identity and model, in words; "" when they are few enough."""
    many = [
        f"{count} {what} are about this identity and model, and at most {most} may be"
        for count, what, most in ((len(matching), "AIAccessPolicies", POLICIES), (len(found), "quotas", QUOTAS))
        if count > most
    ]
    return f"{many[0]}: merge some of them" if many else ""


class Rules:
    """All rules, found by the identity that they name. Prefixes are whole path segments: one look-up for each slash of an ID."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.all = tuple(sorted(rules, key=lambda one: (one.ref.namespace, one.ref.name, one.ref.version, one.action)))
        self._exact: dict[str, list[int]] = {}
        self._prefix: dict[str, list[int]] = {}
        self._domain: dict[str, list[int]] = {}
        self._everybody: list[int] = []
        self._named: dict[str, tuple[Rule, ...]] = {}
        self._remembered = 0
        for index, one in enumerate(self.all):
            self._file(index, one)

    def naming(self, identity: Identity) -> tuple[Rule, ...]:
        """The rules whose subjects name this identity, always in the same order.

        Remembered, since each refusal asks, and one namespace may name everybody in thousands of policies.
        """
        named = self._named.get(identity.spiffe_id)
        if named is None:
            named = self._found(identity)
            self._remembered += 1 + len(named)
            if self._remembered > REMEMBERED:
                self._named.clear()
                self._remembered = 1 + len(named)
            self._named[identity.spiffe_id] = named
        return named

    def _found(self, identity: Identity) -> tuple[Rule, ...]:
        found = {*self._everybody, *self._exact.get(identity.spiffe_id, ()), *self._domain.get(identity.trust_domain, ())}
        end = identity.spiffe_id.find("/", _HOST_AT)
        while end >= 0:
            found.update(self._prefix.get(identity.spiffe_id[: end + 1], ()))
            end = identity.spiffe_id.find("/", end + 1)
        return tuple(self.all[index] for index in sorted(found))

    def _file(self, index: int, one: Rule) -> None:
        if one.subjects is None:
            where = self._everybody if one.trust_domain is None else self._domain.setdefault(one.trust_domain, [])
            where.append(index)
            return
        for subject in one.subjects:
            if one.trust_domain not in (None, subject.trust_domain):
                continue  # mtls narrows the subjects
            if subject.spiffe_id_prefix is not None:
                self._prefix.setdefault(subject.spiffe_id_prefix, []).append(index)
            else:
                self._exact.setdefault(str(subject), []).append(index)
