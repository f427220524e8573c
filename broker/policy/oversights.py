"""Quotas that somebody wrote as an exception and that change nothing, for `broker check`. Worked out when asked for, never on the way."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from broker.grant import PolicyRef
from broker.identity import SCHEME
from broker.policy.precedence import EVERYBODY, Effect, beginnings, effect, whom
from broker.policy.rules import Claim, Rules

_HOST_AT: Final = len(SCHEME)

# (namespace, quota's name, beginning of SPIFFE IDs) → whoever says it of them
_Index = Mapping[tuple[str | None, str, str], list[Claim]]


@dataclass(frozen=True, slots=True)
class Oversight:
    """One quota that does not do what it seems to be there for. `path` is its place in the object."""

    policy: PolicyRef
    path: str
    message: str


def oversights(rules: Rules) -> Iterator[Oversight]:
    """At most one for each quota, in the order of the rules."""
    index: dict[tuple[str | None, str, str], list[Claim]] = defaultdict(list)
    for one in _all(rules):
        for beginning in beginnings(one.rule):
            index[one.rule.namespace, one.ceiling.quota.name, beginning].append(one)
    for one in _all(rules):
        if message := next(_messages(one, index), None):
            yield Oversight(one.rule.ref, f"spec.quotas[{one.ceiling.place}]", message)


def _all(rules: Rules) -> Iterator[Claim]:
    """A quota of a Deny is none that anybody meets."""
    for rule in rules.all:
        if not rule.denies:
            yield from (Claim(rule, one) for one in rule.ceilings)


def _messages(one: Claim, index: _Index) -> Iterator[str]:
    namespace, name = one.rule.namespace, one.ceiling.quota.name
    for beginning in beginnings(one.rule):
        for wider in _wider(beginning):
            for other in index.get((namespace, name, wider), ()):
                if _meet(one, other) and (message := _idle(one, other)):
                    yield f"{message} (for {whom(beginning)})"
        for other in index.get((namespace, name, beginning), ()):
            if _meet(one, other) and effect(one, other) is Effect.OVERRIDES:
                yield (
                    f"does not override the same quota of {_named(other)}, since both policies name {whom(beginning)} and neither is "
                    "narrower: both count; name fewer identities here, or more there"
                )


def _idle(narrow: Claim, wide: Claim) -> str | None:
    did = effect(narrow, wide)
    if did is Effect.HELD and (narrow.rule.shadow or not wide.rule.shadow):
        return (
            f"has no effect above {wide.ceiling.pattern.amount}, the same quota of {_named(wide)}, which is not overridable: both count; "
            "write `overridable: true` at that quota, or take this one away"
        )
    if did is Effect.UNLIKE and wide.ceiling.quota.overridable:
        return (
            f"does not override the same quota of {_named(wide)}, since it does not count the same thing: both count; "
            "give both the same unit, per and scope, or this one another name"
        )
    return None


def _wider(beginning: str) -> Iterator[str]:
    """Every beginning that names these identities and more."""
    if beginning == EVERYBODY:
        return
    yield EVERYBODY
    end = beginning.find("/", _HOST_AT)
    while 0 <= end < len(beginning) - 1:
        yield beginning[: end + 1]
        end = beginning.find("/", end + 1)


def _meet(one: Claim, other: Claim) -> bool:
    """Whether there is a model of which both count."""
    lists = (one.rule.models, other.rule.models, one.ceiling.models, other.ceiling.models)
    limited = [models for models in lists if models is not None]
    return not limited or bool(limited[0].intersection(*limited[1:]))


def _named(one: Claim) -> str:
    return f"AIAccessPolicy {one.rule.ref}"
