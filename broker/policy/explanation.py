"""Why yes, why no: the same decision as Snapshot.decide, with the rules that led to it. For administrators, never for callers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.errors import BrokerError, Forbidden, Unavailable
from broker.grant import Budget, Grant, PolicyRef, Unit
from broker.identity import Identity
from broker.policy.offers import Line, Offer
from broker.policy.precedence import Effect, effect, overrides, reaches_of, whom
from broker.policy.rules import Claim, Rule, claims, too_many
from broker.policy.snapshot import Snapshot, permits


@dataclass(frozen=True, slots=True)
class Step:
    """One place where the name was looked for."""

    namespace: str
    name: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Weighed:
    """One policy that names the identity.

    counts: whether it is about this model.
    effect: allows, refuses, would refuse (Shadow), or why it does not count.
    """

    policy: PolicyRef
    action: str
    mode: str
    counts: bool
    effect: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One policy's quota beside those of the same name.

    names: whom its policy names, in words; "" when no other quota has the name.
    overridden_by: the policies whose quotas take its place; empty = it counts.
    notes: what it does to those that it overrides, or that count beside it.
    """

    budget: Budget
    policy: PolicyRef
    names: str
    overridden_by: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would happen, and why.

    code: "allowed", or that of the refusal: forbidden, no_backend, unavailable.
    reason: one sentence for the administrator; the caller is told less.
    budgets: those that count. standings: of every quota of a policy, those that are overridden included.
    """

    spiffe_id: str
    model: str
    code: str
    reason: str
    steps: tuple[Step, ...]
    rules: tuple[Weighed, ...]
    lines: tuple[Line, ...]
    budgets: tuple[Budget, ...]
    standings: tuple[Standing, ...]
    grant: Grant | None

    @property
    def allowed(self) -> bool:
        return self.code == "allowed"

    def passes_over(self, line: Line) -> bool:
        """It is ready, and not asked, since it has no price."""
        return self.grant is not None and line.backend is not None and line.backend not in self.grant.backends


def explain(snapshot: Snapshot, identity: Identity, model: str) -> Explanation:
    """Decide as Snapshot.decide does, and say why."""
    steps = tuple(_steps(snapshot, identity, model))
    naming = snapshot.rules.naming(identity)
    grant: Grant | None = None
    refusal: BrokerError | None = None
    offer: Offer | None = None
    try:
        snapshot.check_known()
        offer = snapshot.find(identity, model)
        grant = snapshot.decide(identity, model)
    except (Forbidden, Unavailable) as no:
        refusal = no
    rules = tuple(_weighed(rule, offer) for rule in naming)
    code = refusal.code if refusal else "allowed" if grant and grant.backends else "no_backend"
    return Explanation(
        spiffe_id=identity.spiffe_id,
        model=model,
        code=code,
        reason=_reason(code, refusal, offer, naming),
        steps=steps,
        rules=rules,
        lines=offer.lines if offer else (),
        budgets=grant.budgets if grant else (),
        standings=tuple(_standings(offer, naming, identity)) if grant and offer else (),
        grant=grant,
    )


def _steps(snapshot: Snapshot, identity: Identity, model: str) -> Iterator[Step]:
    for namespace, name in snapshot.places(identity, model):
        offer = snapshot.offers.get((namespace, name))
        if namespace in snapshot.readiness.pending:
            yield Step(namespace, name, "not read yet")
            return
        if namespace in snapshot.readiness.unreadable:
            yield Step(namespace, name, "may not be read")
        elif offer is None:
            yield Step(namespace, name, "not offered here")
        else:
            yield Step(namespace, name, f"{'named by the rejected' if offer.taken else 'offered by'} AIRoutingPolicy {offer.ref}")
            return


def _weighed(rule: Rule, offer: Offer | None) -> Weighed:
    counts = offer is not None and _about(rule, offer)
    did = _did(rule) if counts else "names the identity, but not this model"
    return Weighed(rule.ref, rule.action, "Shadow" if rule.shadow else "Enforce", counts, did)


def _about(rule: Rule, offer: Offer) -> bool:
    return rule.covers(offer.namespace, offer.name)


def _did(rule: Rule) -> str:
    if rule.rejected:
        keeps = "refuses, since its quotas cannot be known" if rule.action == "Limit" else "keeps denying"
        return f"is rejected, and {'would refuse' if rule.shadow else keeps}"
    if rule.denies:
        return "would refuse (Shadow)" if rule.shadow else "refuses"
    return "allows" if rule.grants else "limits what others allow"


def _standings(offer: Offer, naming: Sequence[Rule], identity: Identity) -> Iterator[Standing]:
    met = claims((rule for rule in naming if _about(rule, offer)), offer.namespace, offer.name)
    reaches = reaches_of(met, identity)
    gone = {one for one in met if any(overrides(other, one, reaches) for other in met)}
    for one in met:
        same = [other for other in met if other is not one and other.ceiling.quota.name == one.ceiling.quota.name]
        by = tuple(f"{other.rule.ref} ({other.ceiling.pattern.amount})" for other in same if overrides(other, one, reaches))
        beside = [] if one in gone else [other for other in same if other not in gone or overrides(one, other, reaches)]
        notes = tuple(note for other in beside if (note := _note(one, other, reaches)))
        reach = reaches[one.rule]
        names = "" if not same else "this identity alone" if reach == identity.spiffe_id else whom(reach)
        yield Standing(one.ceiling.budget(identity.spiffe_id), one.rule.ref, names, by, notes)


def _note(one: Claim, other: Claim, reaches: Mapping[Rule, str]) -> str:
    """What a quota does to another of its name; "" when the other is the narrower."""
    said = len(reaches[one.rule]) - len(reaches[other.rule])
    if said < 0:
        return ""
    its = f"the {other.ceiling.pattern.amount} of {other.rule.ref}"
    if said == 0:
        return f"{its} is of a policy that is neither wider nor narrower: both count"
    return {
        Effect.OVERRIDES: f"overrides {its}, which is overridable",
        Effect.TIGHTENS: f"is no looser than {its}: both count",
        Effect.HELD: f"has no effect above {its}, which is not overridable: both count",
        Effect.UNLIKE: f"counts something else than {its}: both count",
        Effect.RECORDS: f"would override {its}, were it not Shadow: both count",
    }[effect(one, other)]


def _reason(code: str, refusal: BrokerError | None, offer: Offer | None, naming: tuple[Rule, ...]) -> str:
    fixed = {
        "allowed": "a policy allows it and none denies it",
        "no_backend": "a policy allows it, but no backend of the model is ready; see the backends",
        "unavailable": str(refusal),
    }
    return fixed[code] if code in fixed else _forbidden(offer, naming)


def _forbidden(offer: Offer | None, naming: tuple[Rule, ...]) -> str:
    if offer is None:
        return "no namespace where the name is looked for offers it"
    if offer.taken:
        return f"AIRoutingPolicy {offer.ref} names the model and is rejected: mend it; the name does not lead elsewhere meanwhile"
    matching = [rule for rule in naming if _about(rule, offer)]
    if permits(matching):
        return _uncountable(offer, matching)
    refusing = [rule for rule in matching if rule.refuses]
    if denying := [str(rule.ref) for rule in refusing if rule.action == "Deny"]:
        return f"AIAccessPolicy {', '.join(denying)} denies it"
    if limiting := [str(rule.ref) for rule in refusing]:
        return f"AIAccessPolicy {', '.join(limiting)} limits it and is rejected: mend it; until its quotas are known nothing is granted"
    return f"no AIAccessPolicy of namespace {offer.namespace} that names this identity allows this model"


def _uncountable(offer: Offer, matching: Sequence[Rule]) -> str:
    """Of an offer that is allowed, and whose quotas cannot all be counted."""
    found = claims(matching, offer.namespace, offer.name)
    limiting = sorted({str(one.rule.ref) for one in found if one.ceiling.pattern.unit is Unit.USD and not one.rule.shadow})
    return too_many(matching, found) or (
        f"AIAccessPolicy {', '.join(limiting)} limits it in US dollars, and the model has no price: write one into AIRoutingPolicy "
        f'{offer.ref} (inputPerMillionTokens and outputPerMillionTokens; "0" for what is free)'
    )
