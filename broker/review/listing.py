"""`broker who-can`: which identities may call a model, and which models an identity may call."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

from broker import files, policy
from broker.errors import Unavailable
from broker.identity import InvalidSpiffeId
from broker.policy.offers import Offer
from broker.policy.precedence import whom
from broker.policy.rules import Rule
from broker.review.access import Access, Decisions, Without, fold
from broker.review.assuming import complete
from broker.review.classes import Class, below, classes, naming
from broker.review.explaining import quota_text, workload
from broker.review.printing import OK, REFUSED, USAGE, Output, Read, write

NAMES_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Holder:
    """A class of identities that may call a model.

    without: narrower classes that may not, or may otherwise, each with the reason.
    names: under which it is asked for, when NAMESPACE/NAME is none of them; else empty.
    """

    identities: Class
    without: tuple[Without, ...]
    names: tuple[str, ...]
    access: Access


def who_can(wanted: tuple[str, str | None], read: Read, settings: policy.Settings, output: Output, stdout: TextIO) -> int:
    """Print who may call a model.

    Args:
        wanted: the model, by its name or as NAMESPACE/NAME, and its namespace where that is said apart.
        read: gives the objects.
        settings: what the operator said.
        output: as what.
        stdout: where to.

    Returns:
        0 when somebody may, 3 when nobody may, 2 when it cannot be known or there is no such model.
    """
    try:
        snapshot = policy.build(complete(read()), settings)
        offers = [offer for offer in snapshot.offers.values() if _is(offer, *wanted)]
        if not offers:
            stdout.write(f"{_nobody_offers(snapshot, *wanted)}\n")
            return USAGE
        found = {offer: tuple(holders(snapshot, offer)) for offer in sorted(offers, key=lambda one: (one.namespace, one.name))}
    except files.Unreadable as broken:
        stdout.write("\n".join(broken.problems) + "\n")
        return USAGE
    except Unavailable as unknown:
        stdout.write(f"it is not known: {unknown}\n")
        return USAGE
    denying = {offer: [rule for rule in snapshot.rules.all if rule.denies and rule.covers(offer.namespace, offer.name)] for offer in found}
    report = {"models": [_model(offer, some, denying[offer]) for offer, some in found.items()]}
    lines = [line for offer, some in found.items() for line in _model_text(offer, some, denying[offer])]
    write(report, "\n".join(lines), output, stdout)
    return OK if any(found.values()) else REFUSED


def holders(snapshot: policy.Snapshot, offer: Offer) -> Iterator[Holder]:
    """Every class of identities that may call it.

    Raises:
        Unavailable: it cannot be known.
    """
    model = f"{offer.namespace}/{offer.name}"
    everyone, decisions = classes((snapshot,)), Decisions(snapshot)
    having: dict[tuple[Access, tuple[str, ...], tuple[str, ...]], dict[str, Class]] = {}
    for one in everyone:
        reached = {name: access for name in (offer.name, model) if (access := decisions.of(one, name)) and access.model == model}
        for access in list(reached.values())[:1]:
            names = () if model in reached else tuple(reached)
            having.setdefault((access, access.granting, names), {})[one.name] = one
    granted = {name for some in having.values() for name in some}

    def why_not(one: Class) -> str:
        if one.name in granted:
            return "may, but otherwise: see there"
        denying = ", ".join(f"AIAccessPolicy {rule.ref}" for rule in decisions.refusing(one, model))
        return f"is refused{f', by {denying}' if denying else ''}"

    inner = below(everyone)
    for (access, _, names), some in having.items():
        yield from (Holder(one, without, names, access) for one, without in fold(some, inner, why_not))


def what_can(spiffe_id: str, read: Read, settings: policy.Settings, output: Output, stdout: TextIO) -> int:
    """Print which models an identity may call, and as what. Exit codes as those of who_can."""
    try:
        identity = workload(spiffe_id)
        snapshot = policy.build(complete(read()), settings)
        decisions, one = Decisions(snapshot), Class(spiffe_id, None, identity)
        names = sorted(set(decisions.names(one)), key=lambda name: (len(name), name))
        found: dict[str, tuple[str, Access]] = {}
        for name in names:
            if access := decisions.of(one, name):
                found.setdefault(access.model, (name, access))
    except InvalidSpiffeId as wrong:
        stdout.write(f"the identity is no SPIFFE ID: {wrong}\n")
        return USAGE
    except files.Unreadable as broken:
        stdout.write("\n".join(broken.problems) + "\n")
        return USAGE
    except Unavailable as unknown:
        stdout.write(f"it is not known: {unknown}\n")
        return USAGE
    rows = [{"model": model, "askFor": name, **_access(access)} for model, (name, access) in sorted(found.items())]
    lines = [line for model, (name, access) in sorted(found.items()) for line in _row(f"{model}, asked for as {name}", access, "  ")]
    head = f"{spiffe_id} may call:" if rows else f"{spiffe_id} may call nothing"
    write({"identity": spiffe_id, "models": rows}, "\n".join([head, *lines]), output, stdout)
    return OK if rows else REFUSED


def _is(offer: Offer, model: str, namespace: str | None) -> bool:
    return namespace in (None, offer.namespace) and model in (offer.name, f"{offer.namespace}/{offer.name}")


def _nobody_offers(snapshot: policy.Snapshot, model: str, namespace: str | None) -> str:
    there = sorted(f"{one}/{name}" for one, name in snapshot.offers if namespace in (None, one))
    more = ", …" if len(there) > NAMES_SHOWN else ""
    where = f" in namespace {namespace}" if namespace else ""
    return f"no AIRoutingPolicy offers {model}{where}; there is {', '.join(there[:NAMES_SHOWN]) + more or 'none'}"


def _access(access: Access) -> dict[str, Any]:
    return {
        "grantedBy": list(access.granting),
        "quotas": [quota_text(one) for one in sorted(access.budgets, key=lambda one: one.counter)],
        "features": sorted(access.features),
        "ready": bool(access.backends),
    }


def _model(offer: Offer, some: Sequence[Holder], denying: Sequence[Rule]) -> Mapping[str, object]:
    return {
        "model": f"{offer.namespace}/{offer.name}",
        "offeredBy": str(offer.ref),
        "accepted": not offer.taken,
        "whoCan": [
            {
                "class": one.identities.name,
                "identities": str(one.identities),
                "wholeTrustDomain": bool(one.identities.trust_domain),
                "except": [who.told() for who in one.without],
                "askedForAs": list(one.names) or [one.access.model],
                **_access(one.access),
            }
            for one in some
        ],
        "denied": [{"policy": str(rule.ref), "shadow": rule.shadow, "identities": _names(rule)} for rule in denying],
    }


def _names(rule: Rule) -> list[str]:
    return [whom(beginning) for beginning in naming(rule)]


def _model_text(offer: Offer, some: Sequence[Holder], denying: Sequence[Rule]) -> Iterator[str]:
    state = "is not accepted, so nobody may call it" if offer.taken else "may be called by:" if some else "may be called by nobody"
    yield f"model {offer.namespace}/{offer.name} of AIRoutingPolicy {offer.ref} {state}"
    for one in some:
        asked = f", asking for {' or '.join(one.names)}" if one.names else ""
        yield from _row(f"{one.identities}{asked}", one.access, "  ")
        yield from (f"    except {who}" for who in one.without)
    if denying:
        yield "  denied:"
    for rule in denying:
        does = "would cut off, were it not Shadow," if rule.shadow else "cuts off"
        yield f"    AIAccessPolicy {rule.ref} {does} {', '.join(_names(rule)) or 'nobody'}{' (it is rejected)' if rule.rejected else ''}"
    if wide := [one.identities.trust_domain for one in some if one.identities.trust_domain]:
        yield f"  WARNING: whoever has an SVID of {' or '.join(wide)} may call it"


def _row(who: str, access: Access, indent: str) -> Iterator[str]:
    away = "" if access.backends else " (no backend is ready)"
    yield f"{indent}{who}: granted by AIAccessPolicy {', '.join(access.granting)}{away}"
    told = _access(access)
    yield from (f"{indent}  {quota}" for quota in told["quotas"])
    if told["features"]:
        yield f"{indent}  features: {', '.join(told['features'])}"
    if access.would_refuse:
        yield f"{indent}  a policy in Shadow mode would refuse it"
