"""One state of the world, and what follows from it for anybody who asks."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from broker.errors import Forbidden, Unavailable
from broker.grant import Failover, Grant, PolicyRef, Unit
from broker.identity import Identity
from broker.objects import Document
from broker.policy.offers import Offer
from broker.policy.precedence import in_force
from broker.policy.prices import eligible
from broker.policy.rules import Rule, Rules, claims, too_many
from broker.policy.settings import Settings
from broker.policy.status import ObjectStatus
from broker.turns import in_turn

# What one snapshot remembers: grants with their budgets, and the models of listings, each counted. Beyond it, it forgets all of them and
# works them out again.
REMEMBERED: Final = 262_144
# Policies that count one refusal: each is a figure in the quota store that everybody shares.
COUNTING: Final = 32

_NO: Final = "this identity may not use this model; GET /v1/models lists those it may, the administrator of its namespace grants others"


@dataclass(frozen=True, slots=True)
class VisibleModel:
    """A model that an identity may call now. `name` leads to it when asked for; `kinds` are those of its ready backends."""

    name: str
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Namespaces whose objects are not, or not yet, known."""

    pending: frozenset[str] = frozenset()
    unreadable: frozenset[str] = frozenset()

    def unknown(self, namespace: str) -> bool:
        return namespace in self.pending or namespace in self.unreadable


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What the objects of one namespace come to.

    objects: those that it was made of, for telling whether it still holds.
    """

    objects: tuple[Document, ...]
    offers: tuple[Offer, ...]
    rules: tuple[Rule, ...]
    statuses: tuple[ObjectStatus, ...]


NO_PIECES: Final[Mapping[str | None, Piece]] = {}


class Snapshot:
    """Immutable but for what it remembers of its own answers: the same question always has the same answer.

    statuses: of every object, rejected ones included.
    offers, rules: for listings and explanations.
    pieces: what it is put together from, by namespace; for the snapshot that follows.
    """

    def __init__(
        self,
        settings: Settings,
        offers: Mapping[tuple[str, str], Offer],
        rules: Rules,
        statuses: tuple[ObjectStatus, ...] = (),
        readiness: Readiness = Readiness(),
        pieces: Mapping[str | None, Piece] = NO_PIECES,
    ) -> None:
        self.settings = settings
        self.offers = offers
        self.rules = rules
        self.statuses = statuses
        self.readiness = readiness
        self.pieces = pieces
        self._grants: dict[tuple[str, str], Grant] = {}
        self._visible: dict[str, tuple[VisibleModel, ...]] = {}
        self._counting: dict[str, tuple[PolicyRef, ...]] = {}
        self._granted = self._seen = 0

    def decide(self, identity: Identity, model: str) -> Grant:
        """The one yes. Silence is no.

        Raises:
            Forbidden: no policy grants this identity this model, or one denies it, or nobody offers it.
            Unavailable: it cannot be known yet.
        """
        key = (identity.spiffe_id, model)
        grant = self._grants.get(key)
        if grant is None:
            grant = self._decided(identity, model)
            self._granted += 1 + len(grant.budgets)
            if self._granted > REMEMBERED:
                self._grants.clear()
                self._granted = 1 + len(grant.budgets)
            self._grants[key] = grant
        return grant

    def visible_models(self, identity: Identity) -> tuple[VisibleModel, ...]:
        """What this identity may call and something would answer, by the shortest name that leads there.

        Raises:
            Unavailable: the broker's own namespace, where the cut-offs stand, is not known yet.
        """
        visible = self._visible.get(identity.spiffe_id)
        if visible is None:
            visible = tuple(self._listed(identity))
            self._seen += 1 + len(visible)
            if self._seen > REMEMBERED:
                self._visible.clear()
                self._seen = 1 + len(visible)
            self._visible[identity.spiffe_id] = visible
        return visible

    def names_identity(self, identity: Identity) -> tuple[PolicyRef, ...]:
        """The policies that say yes or no to this identity, COUNTING of them at most; of each namespace one before any has another.

        A Limit says neither: it may name strangers from everywhere.
        """
        counting = self._counting.get(identity.spiffe_id)
        if counting is None:
            naming = (rule.ref for rule in self.rules.naming(identity) if rule.action != "Limit")
            counting = tuple(in_turn(naming, lambda ref: ref.namespace)[:COUNTING])
            if len(self._counting) >= REMEMBERED // COUNTING:
                self._counting.clear()
            self._counting[identity.spiffe_id] = counting
        return counting

    def places(self, identity: Identity, model: str) -> Iterator[tuple[str, str]]:
        """Where a name is looked for, in order. Nowhere else: nobody draws another team's prompts to himself."""
        if identity.namespace and identity.trust_domain == self.settings.trust_domain:
            yield identity.namespace, model
        for namespace in self.settings.shared_namespaces:
            yield namespace, model
        namespace, slash, name = model.partition("/")
        if slash and namespace and name:
            yield namespace, name

    def find(self, identity: Identity, model: str) -> Offer | None:
        """The first place that defines the name, granted or not.

        Raises:
            Unavailable: a place that may define it is not known. One that may not be read is passed over, but then a name
                found nowhere is unknown, not absent.
        """
        unread = False
        for place in self.places(identity, model):
            if place[0] in self.readiness.pending:
                raise Unavailable("the broker has not read the policies of this model's namespace yet; ask again", retry_after_s=1)
            unread |= place[0] in self.readiness.unreadable
            if offer := self.offers.get(place):
                return offer
        if unread:
            raise Unavailable(
                "the broker may not read the policies of this model's namespace, or there are too many; its operator finds out by /readyz",
                retry_after_s=30,
            )
        return None

    def check_known(self) -> None:
        """Raises Unavailable until the broker's own namespace is read: a Deny there covers everything."""
        if self.readiness.unknown(self.settings.namespace):
            raise Unavailable("the broker has not read its own policies yet; ask again", retry_after_s=1)

    def _decided(self, identity: Identity, model: str) -> Grant:
        self.check_known()
        offer = self.find(identity, model)
        if offer is None or offer.taken:
            raise Forbidden(_NO, param="model")
        matching = [rule for rule in self.rules.naming(identity) if rule.covers(offer.namespace, offer.name)]
        if not permits(matching):
            raise Forbidden(_NO, param="model")
        return granted(offer, matching, identity)

    def _listed(self, identity: Identity) -> Iterator[VisibleModel]:
        self.check_known()
        naming = self.rules.naming(identity)
        namespaces = {rule.namespace for rule in naming if rule.grants}
        about = _by_model(naming)
        for (namespace, name), offer in self.offers.items():
            if namespace not in namespaces or not offer.backends:
                continue
            places = ((namespace, None), (namespace, name), (None, None), (None, name))
            kinds = _ready_kinds(offer, [rule for place in places for rule in about.get(place, ())], identity)
            if kinds and (shortest := self._shortest(identity, offer)):
                yield VisibleModel(shortest, kinds)

    def _shortest(self, identity: Identity, offer: Offer) -> str | None:
        for name in (offer.name, f"{offer.namespace}/{offer.name}"):
            try:
                found = self.find(identity, name)
            except Unavailable:
                continue
            if found is offer:
                return name
        return None


def permits(matching: list[Rule]) -> bool:
    """Any enforcing Deny refuses; else any Allow allows."""
    return not any(rule.refuses for rule in matching) and any(rule.grants for rule in matching)


def _by_model(rules: Iterable[Rule]) -> Mapping[tuple[str | None, str | None], Sequence[Rule]]:
    """By the namespace and the model that they cover; None = every one."""
    found: defaultdict[tuple[str | None, str | None], list[Rule]] = defaultdict(list)
    for rule in rules:
        for model in (None,) if rule.models is None else rule.models:
            found[None if rule.everywhere else rule.namespace, model].append(rule)
    return found


def _ready_kinds(offer: Offer, matching: list[Rule], identity: Identity) -> tuple[str, ...]:
    """Of the backends that may be asked, as `granted` says; none where the model is not granted.

    Which may be asked depends on the quotas of money alone, so the others are not worked out for every model of a list.
    """
    if not permits(matching):
        return ()
    found = claims(matching, offer.namespace, offer.name)
    if too_many(matching, found):
        return ()
    in_money = [one for one in found if one.ceiling.pattern.unit is Unit.USD]
    try:
        return tuple(sorted({backend.provider.kind for backend in eligible(offer, tuple(in_force(in_money, identity))).backends}))
    except Forbidden:
        return ()


def granted(offer: Offer, matching: list[Rule], identity: Identity) -> Grant:
    """The grant that these rules, which permit it, make of an offer.

    Raises:
        Forbidden: they limit money, and the offer has no price; or they are too many.
    """
    found = claims(matching, offer.namespace, offer.name)
    if too_many(matching, found):
        raise Forbidden(_NO, param="model")
    granting = [rule for rule in matching if rule.grants]
    enforcing = [rule for rule in granting if not rule.shadow]
    left = eligible(offer, (*offer.budgets, *in_force(found, identity)))
    return Grant(
        namespace=offer.namespace,
        model=offer.name,
        backends=left.backends,
        configured=left.configured,
        budgets=left.budgets,
        features=frozenset(feature for rule in enforcing for feature in rule.features),
        default_output_tokens=offer.default_output_tokens,
        max_output_tokens=offer.max_output_tokens,
        max_stream_s=min(rule.max_stream_s for rule in enforcing or granting),
        policies=tuple(rule.ref for rule in matching),
        granting=tuple(rule.ref for rule in granting),
        would_refuse=("forbidden",) if any(rule.denies for rule in matching) else left.would_refuse,
        failover=offer.failover or Failover(),
    )
