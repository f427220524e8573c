"""Why yes, why no: the same decision as Snapshot.decide, with the rules that led to it. For administrators, never for callers."""

from collections.abc import Iterator
from dataclasses import dataclass

from broker.errors import BrokerError, Forbidden, Unavailable
from broker.grant import Budget, Grant, PolicyRef
from broker.identity import Identity
from broker.policy.offers import Line, Offer
from broker.policy.rules import Rule
from broker.policy.snapshot import Snapshot


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
class Explanation:
    """What would happen, and why.

    code: "allowed", or that of the refusal: forbidden, no_backend, unavailable.
    reason: one sentence for the administrator; the caller is told less.
    """

    spiffe_id: str
    model: str
    code: str
    reason: str
    steps: tuple[Step, ...]
    rules: tuple[Weighed, ...]
    lines: tuple[Line, ...]
    budgets: tuple[Budget, ...]
    grant: Grant | None

    @property
    def allowed(self) -> bool:
        return self.code == "allowed"


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
    counts = offer is not None and rule.covers(offer.namespace, offer.name)
    if not counts:
        effect = "names the identity, but not this model"
    elif rule.rejected:
        effect = "is rejected, and keeps denying" if not rule.shadow else "is rejected, and would refuse"
    elif rule.denies:
        effect = "would refuse (Shadow)" if rule.shadow else "refuses"
    else:
        effect = "allows"
    return Weighed(rule.ref, "Deny" if rule.denies else "Allow", "Shadow" if rule.shadow else "Enforce", counts, effect)


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
    denying = [str(rule.ref) for rule in naming if rule.covers(offer.namespace, offer.name) and rule.refuses]
    if denying:
        return f"AIAccessPolicy {', '.join(denying)} denies it"
    return f"no AIAccessPolicy of namespace {offer.namespace} that names this identity allows this model"
