"""Which quotas of one name count where several policies have one: everybody's, a team's, one identity's.

All of them, so that a policy more never allows more. There is one exception, and the wider policy asks for it: a quota that is
`overridable` makes way for a narrower policy's quota of the same name that allows more of the same thing.

Narrower means: names only a part of the identities that the other names. The subjects that name one identity are all beginnings
of its SPIFFE ID (nothing, the trust domain, prefixes, the whole), so that they lie one within the other, and the one that says
more of the ID is the narrower. Of two that say the same neither is: both count.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Final

from broker.grant import Budget
from broker.identity import SCHEME, Identity
from broker.policy.rules import Claim, Rule

EVERYBODY: Final = ""  # the beginning that all SPIFFE IDs share, as far as we are concerned


class Effect(Enum):
    """What a narrower policy's quota does to a wider one's of the same name. After all but OVERRIDES both count."""

    OVERRIDES = auto()
    TIGHTENS = auto()
    HELD = auto()
    UNLIKE = auto()
    RECORDS = auto()


def in_force(claims: Sequence[Claim], identity: Identity) -> Iterator[Budget]:
    """The budgets that count for this identity, in the order in which they were given."""
    reaches: Mapping[Rule, str] | None = None
    for wide in claims:
        if wide.ceiling.quota.overridable:
            reaches = reaches or reaches_of(claims, identity)
            if any(overrides(narrow, wide, reaches) for narrow in claims):
                continue
        yield wide.ceiling.budget(identity.spiffe_id)


def reaches_of(claims: Sequence[Claim], identity: Identity) -> Mapping[Rule, str]:
    """How much of the ID each rule says, all of which name it."""
    return {rule: _reach(rule, identity) for rule in {claim.rule for claim in claims}}


def overrides(narrow: Claim, wide: Claim, reaches: Mapping[Rule, str]) -> bool:
    """Whether the one takes the other's place."""
    if narrow.ceiling.quota.name != wide.ceiling.quota.name:
        return False
    return len(reaches[narrow.rule]) > len(reaches[wide.rule]) and effect(narrow, wide) is Effect.OVERRIDES


def effect(narrow: Claim, wide: Claim) -> Effect:
    """What the quota of the narrower policy does to the wider one's of the same name."""
    if _shape(narrow) != _shape(wide):
        return Effect.UNLIKE
    if narrow.ceiling.pattern.limit <= wide.ceiling.pattern.limit:
        return Effect.TIGHTENS
    if not wide.ceiling.quota.overridable:
        return Effect.HELD
    if narrow.rule.shadow and not wide.rule.shadow:
        return Effect.RECORDS  # what refuses nothing must not switch off what does
    return Effect.OVERRIDES


def beginnings(rule: Rule) -> Iterator[str]:
    """The beginnings of SPIFFE IDs that a rule names."""
    if rule.subjects is None:
        yield EVERYBODY if rule.trust_domain is None else f"{SCHEME}{rule.trust_domain}/"
    for subject in rule.subjects or ():
        if rule.trust_domain in (None, subject.trust_domain):  # mtls narrows the subjects
            yield subject.spiffe_id_prefix or str(subject)


def whom(beginning: str) -> str:
    """In words."""
    if beginning == EVERYBODY:
        return "every identity"
    return f"{beginning}*" if beginning.endswith("/") else beginning


def _reach(rule: Rule, identity: Identity) -> str:
    whole = identity.spiffe_id
    return max((one for one in beginnings(rule) if one == whole or (one.endswith("/") and whole.startswith(one)) or not one), key=len)


def _shape(claim: Claim) -> tuple[object, ...]:
    one = claim.ceiling
    return one.pattern.unit, one.pattern.per, one.quota.scope
