"""What each class of identities may do: every decision that there is, made once for a class. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from broker.errors import Forbidden
from broker.grant import Backend, Budget, Failover, Feature, Grant
from broker.identity import Identity
from broker.policy import Snapshot
from broker.policy.offers import Offer
from broker.policy.rules import Rule
from broker.review.classes import Class


@dataclass(frozen=True, slots=True)
class Access:
    """A Grant without what differs from one identity of the class to another, and from one writing of the same objects to another.

    model: NAMESPACE/NAME. budgets: the counter of one that each identity has for itself lacks the identity at its end.
    granting: the policies that grant it, by name; where everything else is the same nothing changed for whoever asks.
    """

    model: str
    budgets: frozenset[Budget]
    features: frozenset[Feature]
    backends: tuple[Backend, ...]
    configured: tuple[str, ...]
    failover: Failover
    default_output_tokens: int
    max_output_tokens: int | None
    max_stream_s: float
    would_refuse: tuple[str, ...]
    granting: tuple[str, ...] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Without:
    """Identities of a class of which something is not true that is true of the others."""

    identities: Class
    why: str

    def __str__(self) -> str:
        return f"{self.identities}: {self.why}"

    def told(self) -> dict[str, str]:
        """For programs."""
        return {"class": self.identities.name, "identities": str(self.identities), "why": self.why}


class Decisions:
    """What one snapshot decides for a class. offered: its models by namespace."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._seen_by: dict[str, Snapshot] = {}
        self.offered: dict[str | None, dict[str, Offer]] = {}
        for (namespace, name), offer in snapshot.offers.items():
            self.offered.setdefault(namespace, {})[name] = offer

    def of(self, one: Class, name: str) -> Access | None:
        """None = refused.

        Raises:
            Unavailable: it cannot be known, since a namespace could not be read.
        """
        try:
            return _access(self.seen_by(one.example).decide(one.example, name), one.example)
        except Forbidden:
            return None

    def names(self, one: Class) -> Iterator[str]:
        """Every name that may lead to a model that some policy grants this class."""
        namespaces = {rule.namespace for rule in self.snapshot.rules.naming(one.example) if rule.grants}
        for namespace, name in self.snapshot.offers:
            if namespace in namespaces:
                yield name
                yield f"{namespace}/{name}"

    def alike(self, one: Class, other: "Decisions") -> bool:
        """Whether both surely decide the same for a class, as the same objects lead to it: most of what is reviewed did not change."""
        mine, theirs = self.snapshot, other.snapshot
        if _naming(mine, one) != _naming(theirs, one):
            return False
        namespaces = {*mine.settings.shared_namespaces, one.example.namespace, *(rule.namespace for rule in mine.rules.naming(one.example))}
        return all(self.offered.get(namespace) == other.offered.get(namespace) for namespace in namespaces)

    def refusing(self, one: Class, model: str) -> Sequence[Rule]:
        """The policies that refuse this class a model, which is given as NAMESPACE/NAME."""
        namespace, _, name = model.partition("/")
        return [rule for rule in self.snapshot.rules.naming(one.example) if rule.refuses and rule.covers(namespace, name)]

    def seen_by(self, identity: Identity) -> Snapshot:
        """The snapshot for whoever asks: where nobody said which trust domain is the broker's own, it is that of the asker."""
        settings = self.snapshot.settings
        if settings.trust_domain:
            return self.snapshot
        domain, whole = identity.trust_domain, self.snapshot
        if domain not in self._seen_by:
            own = replace(settings, trust_domain=domain)
            self._seen_by[domain] = Snapshot(own, whole.offers, whole.rules, whole.statuses, whole.readiness)
        return self._seen_by[domain]


def fold(
    having: Mapping[str, Class], narrower: Mapping[str | None, Sequence[Class]], explain: Callable[[Class], str]
) -> Iterator[tuple[Class, tuple[Without, ...]]]:
    """Classes that have the same thing in common, each said once with everything below it.

    Args:
        having: by name, those that have it.
        narrower: each class's narrower ones.
        explain: why a class that lies within one of them has not got it.

    Yields:
        A class that has it though the one around it has not, and within it those who have not.
    """

    def without(one: Class) -> Iterator[Class]:
        for inner in narrower.get(one.name, ()):
            if inner.name in having:
                yield from without(inner)
            else:
                yield inner

    for one in having.values():
        if one.parent not in having:
            yield one, tuple(Without(inner, explain(inner)) for inner in without(one))


def _naming(snapshot: Snapshot, one: Class) -> list[tuple[object, ...]]:
    """The rules that name a class, by what makes them: an object's version is that of its content."""
    return [(rule.ref, rule.action, rule.shadow, rule.rejected) for rule in snapshot.rules.naming(one.example)]


def _access(grant: Grant, identity: Identity) -> Access:
    return Access(
        model=f"{grant.namespace}/{grant.model}",
        budgets=frozenset(replace(one, counter=one.counter.removesuffix(identity.spiffe_id)) for one in grant.budgets),
        features=grant.features,
        backends=grant.backends,
        configured=grant.configured,
        failover=grant.failover,
        default_output_tokens=grant.default_output_tokens,
        max_output_tokens=grant.max_output_tokens,
        max_stream_s=grant.max_stream_s,
        would_refuse=grant.would_refuse,
        granting=tuple(str(ref) for ref in grant.granting),
    )
