"""`broker explain`: would this identity get this model, and why."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Final, TextIO

from broker import files, policy
from broker.features import KEEPING
from broker.grant import Budget, Feature, Unit
from broker.identity import Identity, InvalidSpiffeId, parse_spiffe_id
from broker.money import PICO, Price, dollars
from broker.policy.offers import Line
from broker.review.printing import OK, REFUSED, USAGE, Output, Read, write

UNKNOWN: Final = "CredentialUnknown"


@dataclass(frozen=True, slots=True)
class Question:
    """Would this identity get this model?"""

    spiffe_id: str
    model: str


def explain(
    question: Question,
    read: Read,
    settings: policy.Settings,
    output: Output,
    stdout: TextIO,
    unread: Mapping[tuple[str, str], str] = MappingProxyType({}),
) -> int:
    """Print whether this identity would get this model, and why.

    The identity's trust domain is taken for the broker's own unless the settings name that one.

    Args:
        question: who asks for what.
        read: gives the objects.
        settings: what the operator said.
        output: as what.
        stdout: where to.
        unread: Secrets of which nobody knows what is in them, by namespace and name; they count as good, and it is said what that means.

    Returns:
        0 allowed, 3 refused, 2 when the question or the files cannot be read.
    """
    try:
        identity = workload(question.spiffe_id)
        resources = read()
    except InvalidSpiffeId as wrong:
        stdout.write(f"the identity is no SPIFFE ID: {wrong}\n")
        return USAGE
    except files.Unreadable as broken:
        stdout.write("\n".join(broken.problems) + "\n")
        return USAGE
    if not settings.trust_domain:
        settings = replace(settings, trust_domain=identity.trust_domain)
    why = policy.explain(policy.build(resources, settings), identity, question.model)
    why = replace(why, lines=tuple(_as_known(line, unread) for line in why.lines))
    write(_explanation(why), "\n".join(_explain_text(why, identity)), output, stdout)
    return OK if why.allowed else REFUSED


def workload(text: str) -> Identity:
    """Whoever asks.

    Raises:
        InvalidSpiffeId: it is no SPIFFE ID, or that of a trust domain alone.
    """
    identity = parse_spiffe_id(text)
    if not identity.path:
        raise InvalidSpiffeId("it names a trust domain alone, which no workload has; add the path, such as /ns/team1/sa/agent")
    return identity


def _as_known(line: Line, unread: Mapping[tuple[str, str], str]) -> Line:
    secret = line.backend.provider.secret if line.backend else None
    told = unread.get((secret.namespace, secret.name)) if secret else None
    return replace(line, reason=UNKNOWN, message=told) if told else line


def _explanation(why: policy.Explanation) -> dict[str, object]:
    standings = {one.budget.counter: one for one in why.standings}
    return {
        "identity": why.spiffe_id,
        "model": why.model,
        "allowed": why.allowed,
        "code": why.code,
        "reason": why.reason,
        "lookedFor": [asdict(step) for step in why.steps],
        "policies": [
            {"policy": str(rule.policy), "version": rule.policy.version, "action": rule.action, "mode": rule.mode, "effect": rule.effect}
            for rule in why.rules
        ],
        "backends": [
            {"provider": one.provider, "model": one.model, "priority": one.priority, "weight": one.weight}
            | {"ready": None if one.reason == UNKNOWN else one.backend is not None, "reason": one.reason, "message": one.message}
            | {"price": _price(one.price), "passedOver": why.passes_over(one)}
            for one in why.lines
        ],
        "quotas": [_budget(one) | _standing(standings.get(one.counter)) for one in why.budgets],
        "overriddenQuotas": [
            _budget(one.budget) | _standing(one) | {"overriddenBy": list(one.overridden_by)} for one in why.standings if one.overridden_by
        ],
        "features": sorted(why.grant.features) if why.grant else [],
        "maxStreamSeconds": why.grant.max_stream_s if why.grant else None,
    }


def _budget(budget: Budget) -> dict[str, object]:
    per = str(budget.per) if budget.per else None
    limit = dollars(budget.limit) if budget.unit is Unit.USD else budget.limit
    return {"counter": budget.counter, "limit": limit, "unit": str(budget.unit), "per": per, "shadow": budget.shadow}


def _price(price: Price | None) -> dict[str, object] | None:
    """As the object has it, with what it leaves open filled in."""
    if price is None:
        return None
    return {
        "inputPerMillionTokens": dollars(price.input),
        "outputPerMillionTokens": dollars(price.output),
        "cachedInputPerMillionTokens": dollars(price.cached_input),
        "cacheWritePerMillionTokens": dollars(price.cache_write),
        "perRequest": dollars(price.request // PICO),
    }


def _standing(one: policy.Standing | None) -> dict[str, object]:
    """A model's own rateLimit has none: it stands beside no other."""
    return {"names": one.names if one else "", "notes": list(one.notes) if one else []}


def _explain_text(why: policy.Explanation, identity: Identity) -> Iterator[str]:
    yield f"{'allowed' if why.allowed else f'refused ({why.code})'}: {identity.spiffe_id} asking for {why.model}: {why.reason}"
    yield "the name is looked for in:"
    yield from (f"  {number}. namespace {step.namespace}, model {step.name}: {step.outcome}" for number, step in enumerate(why.steps, 1))
    yield "policies that name this identity:" if why.rules else "no policy names this identity"
    yield from (f"  {rule.policy} ({rule.action}{', Shadow' if rule.mode == 'Shadow' else ''}): {rule.effect}" for rule in why.rules)
    if why.lines:
        yield "backends, in the order they are tried:"
    for number, line in enumerate(why.lines, 1):
        state = "ready" if line.backend is not None and line.reason != UNKNOWN else f"{line.reason}: {line.message}"
        if why.passes_over(line):
            state = "not asked, since a quota in US dollars counts and it has no price"
        about = f"{line.provider}, model {line.model}, priority {line.priority}, weight {line.weight}"
        yield f"  {number}. {about}: {state}{_priced(line.price)}"
    if why.grant:
        yield "quotas that apply:" if why.budgets else "no quota applies"
        yield from _quotas_text(why)
        yield from _features_text(why.grant.features)


def _features_text(granted: frozenset[Feature]) -> Iterator[str]:
    if granted:
        yield f"features: {', '.join(sorted(granted))}"
    if waiting := KEEPING & granted:
        needing = " or ".join(sorted(waiting))
        yield f"  without --sealing-keys a broker refuses what needs {needing}: `broker doctor` says whether it has any"


def _priced(price: Price | None) -> str:
    """In words; what costs as much as plain input is left out."""
    if price is None:
        return ""
    parts = [f"{dollars(price.input)} in", f"{dollars(price.output)} out"]
    if price.cached_input != price.input:
        parts.append(f"{dollars(price.cached_input)} cached")
    if price.cache_write != price.input:
        parts.append(f"{dollars(price.cache_write)} cache write")
    each = f", {dollars(price.request // PICO)} a request" if price.request else ""
    return f"; USD for a million tokens: {', '.join(parts)}{each}"


def _quotas_text(why: policy.Explanation) -> Iterator[str]:
    standings = {one.budget.counter: one for one in why.standings}
    for budget in why.budgets:
        one = standings.get(budget.counter)
        yield f"  {quota_text(budget)}{f', for {one.names}' if one and one.names else ''}"
        yield from (f"    {note}" for note in (one.notes if one else ()))
    if overridden := [one for one in why.standings if one.overridden_by]:
        yield "quotas that are overridden:"
        yield from (f"  {quota_text(one.budget)}, for {one.names}: by {' and '.join(one.overridden_by)}" for one in overridden)


def quota_text(budget: Budget) -> str:
    """`{ns}/KIND/POLICY/NAME/…` in words; the name is cut off from the right, since a model's may have slashes."""
    namespace, kind, rest = budget.counter.split("/", 2)
    scope = "each identity its own" if "/identity/" in rest else "all callers together"
    per = f" per {budget.per}" if budget.per else " at once"
    unit = "exchanges" if budget.per is None else str(budget.unit).replace("_", " ")
    limit = budget.amount if budget.unit is Unit.USD else f"{budget.limit} {unit}"
    owner = rest.split(f"/{budget.unit}/", 1)[0]
    shadow = " (Shadow: counted, never refuses)" if budget.shadow else ""
    return f"{limit}{per}, {scope}, by {kind} {namespace.strip('{}')}/{owner}{shadow}"
