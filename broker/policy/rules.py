"""Who may call what: access policies, indexed by the identities that they name."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from broker.grant import Budget, Feature, Per, PolicyRef, Unit
from broker.identity import Identity
from broker.objects import AccessPolicy
from broker.objects.access import EVERY_MODEL, AccessSpec, QuotaSpec, Subject
from broker.objects.duration import seconds
from broker.policy.offers import COUNTED

_HOST_AT: Final = len("spiffe://")


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """An access policy as it counts in a decision.

    namespace: whose models it is about; None with `everywhere`, when the object's own cannot be read.
    everywhere: a Deny in the broker's own namespace is about all of them.
    models: None = all.
    subjects: None = every identity of `trust_domain`; that None too = every identity.
    rejected: a Deny of which this remains.
    """

    ref: PolicyRef
    namespace: str | None
    everywhere: bool
    denies: bool
    shadow: bool
    rejected: bool
    subjects: tuple[Subject, ...] | None
    trust_domain: str | None
    models: frozenset[str] | None
    quotas: tuple[QuotaSpec, ...] = ()
    features: frozenset[Feature] = frozenset()
    max_stream_s: float = 3600.0

    def covers(self, namespace: str, model: str) -> bool:
        return (self.everywhere or self.namespace == namespace) and (self.models is None or model in self.models)

    @property
    def grants(self) -> bool:
        return not self.denies

    @property
    def refuses(self) -> bool:
        return self.denies and not self.shadow


def rule(policy: AccessPolicy, own_namespace: str) -> Rule | None:
    """The rule that an object makes; None for a rejected Allow, which makes none."""
    about, spec, remains = policy.about, policy.spec, policy.remains
    global_ = about.namespace is None or about.namespace == own_namespace
    if about.accepted and spec is not None:
        return _accepted(policy, spec, everywhere=global_ and spec.action == "Deny")
    if remains is None:
        return None
    return Rule(about.ref, about.namespace, global_, True, remains.shadow, True, remains.subjects, remains.trust_domain, None)  # noqa: FBT003


def _accepted(policy: AccessPolicy, spec: AccessSpec, *, everywhere: bool) -> Rule:
    every = spec.models is None or EVERY_MODEL in spec.models
    return Rule(
        ref=policy.about.ref,
        namespace=policy.about.namespace,
        everywhere=everywhere,
        denies=spec.action == "Deny",
        shadow=spec.mode == "Shadow",
        rejected=False,
        subjects=spec.subjects,
        trust_domain=spec.mtls.trust_domain if spec.mtls else None,
        models=None if every else frozenset(spec.models or ()),
        quotas=spec.quotas,
        features=frozenset(spec.features),
        max_stream_s=seconds(spec.max_stream_duration),
    )


def budgets(rule: Rule, namespace: str, model: str, identity: str) -> Iterable[Budget]:
    """The rule's quotas as this caller of this model meets them.

    A Deny that stands elsewhere counts nothing: one request's counters lie in the model's own namespace.
    """
    if rule.namespace != namespace:
        return
    for quota in rule.quotas:
        if EVERY_MODEL in quota.models or model in quota.models:
            yield _budget(rule, quota, identity)


def _budget(rule: Rule, quota: QuotaSpec, identity: str) -> Budget:
    if quota.tokens is not None:
        unit, limit = COUNTED[quota.token_count_mode], quota.tokens
    elif quota.requests is not None:
        unit, limit = Unit.REQUESTS, quota.requests
    else:
        unit, limit = Unit.CONCURRENT, quota.concurrent or 0
    per = Per(quota.per.lower()) if quota.per else None
    scope, whose = ("identity", identity) if quota.scope == "Identity" else ("policy", "-")
    counter = f"{{{rule.ref.namespace}}}/AIAccessPolicy/{rule.ref.name}/{quota.name}/{unit}/{per or '-'}/{scope}/{whose}"
    return Budget(counter, unit, limit, per, rule.shadow, quota.strict)


class Rules:
    """All rules, found by the identity that they name. Prefixes are whole path segments: one look-up for each slash of an ID."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.all = tuple(sorted(rules, key=lambda one: (one.ref.namespace, one.ref.name, one.ref.version, one.denies)))
        self._exact: dict[str, list[int]] = {}
        self._prefix: dict[str, list[int]] = {}
        self._domain: dict[str, list[int]] = {}
        self._everybody: list[int] = []
        for index, one in enumerate(self.all):
            self._file(index, one)

    def naming(self, identity: Identity) -> tuple[Rule, ...]:
        """The rules whose subjects name this identity, always in the same order."""
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
