"""Objects and settings in, a Snapshot out. The order in which the objects come never matters.

What the objects of one namespace come to depends on no other namespace's, so a change in one leaves the pieces of the others as they were:
a team that writes much, or often, costs the others nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import is_
from typing import Final

from broker.grant import PolicyRef
from broker.objects import AccessPolicy, Document, Fault, ProviderObject, Resources, RoutingPolicy, SecretObject
from broker.objects.access import EVERY_MODEL
from broker.objects.connections import ProviderSpec
from broker.policy.connections import Connection, SecretsByName, connect
from broker.policy.offers import Offer, Routed, route
from broker.policy.prices import Unpriced, unpriced
from broker.policy.rules import Rule, Rules, rule
from broker.policy.settings import Settings
from broker.policy.snapshot import NO_PIECES, Piece, Readiness, Snapshot
from broker.policy.status import ObjectStatus, access_status, provider_status, routing_status, secret_status

MODELS: Final = 2_000  # of one namespace; a list of them is made for each identity that asks
_TOO_MANY: Final = Fault("spec.models", f"would make more than {MODELS} models in this namespace; take some away, here or elsewhere")


def build(resources: Resources, settings: Settings, before: Snapshot | None = None) -> Snapshot:
    """One state of the world. Never fails: a wrong object fails closed for itself, and its status says why.

    before: an earlier state; what has not changed since is taken from there.
    """
    known = before.pieces if before is not None and before.settings == settings else NO_PIECES
    pieces: dict[str | None, Piece] = {}
    for namespace, objects in _apart(resources).items():
        piece = known.get(namespace)
        pieces[namespace] = piece if piece is not None and _are_same(piece.objects, objects) else _piece(objects, settings)
    offers = {(offer.namespace, offer.name): offer for piece in pieces.values() for offer in piece.offers}
    rules = Rules(one for piece in pieces.values() for one in piece.rules)
    statuses = _sorted(one for piece in pieces.values() for one in piece.statuses)
    return Snapshot(settings, offers, rules, statuses, Readiness(resources.pending, resources.unreadable), pieces)


def _apart(resources: Resources) -> Mapping[str | None, Sequence[Document]]:
    found: defaultdict[str | None, list[Document]] = defaultdict(list)
    given: list[Document] = [*resources.routing, *resources.access, *resources.providers, *resources.secrets]
    for one in given:
        found[one.about.namespace].append(one)
    return found


def _are_same(left: Sequence[Document], right: Sequence[Document]) -> bool:
    """The very same objects: a source that reads one anew has another."""
    return len(left) == len(right) and all(map(is_, left, right))


def _piece(objects: Sequence[Document], settings: Settings) -> Piece:
    """What the objects of one namespace come to."""
    secrets = {(one.about.namespace or "", one.about.name): one for one in objects if isinstance(one, SecretObject)}
    world = (secrets, settings)
    permitted = [_permitted_provider(one, settings) for one in objects if isinstance(one, ProviderObject)]
    providers = [(one, _connect_object(one, world)) for one in permitted]
    routed = _routed([_permitted(one, settings) for one in objects if isinstance(one, RoutingPolicy)], _by_name(providers), world)
    offers = {offer.name: offer for one in routed for offer in one.offers}
    access = [(one, rule(one, settings.namespace)) for one in objects if isinstance(one, AccessPolicy)]
    statuses = (
        *(routing_status(one) for one in routed),
        *(provider_status(source, connection) for source, connection in providers),
        *(_access_status(policy, made, offers, settings) for policy, made in access),
        *(secret_status(secret) for secret in secrets.values()),
    )
    return Piece(tuple(objects), tuple(offers.values()), tuple(made for _, made in access if made is not None), statuses)


def _sorted(statuses: Iterable[ObjectStatus]) -> tuple[ObjectStatus, ...]:
    return tuple(sorted(statuses, key=lambda one: (one.about.kind, one.about.namespace or "", one.about.name)))


def _routed(policies: Iterable[RoutingPolicy], shared: Mapping[str, Connection], world: tuple[SecretsByName, Settings]) -> list[Routed]:
    """The oldest object first: it keeps the names that it has. One that would offer a model too many offers none."""
    taken: dict[str, PolicyRef] = {}
    resolved: list[Routed] = []
    for each in sorted(policies, key=lambda one: (one.about.age, one.about.version)):
        policy = each if len(taken) + len(each.names) <= MODELS else _rejected(each, (_TOO_MANY,))
        about = policy.about
        if about.namespace is None:
            resolved.append(Routed(policy, (), (), (), {}))
            continue
        spec = policy.spec if about.accepted else None
        own = tuple(
            connect(about, one.name, one, f"spec.providers[{index}]", world) for index, one in enumerate(spec.providers if spec else ())
        )
        done = route(policy, own, shared, taken)
        taken.update({offer.name: offer.ref for offer in done.offers})
        resolved.append(done)
    return resolved


def _connect_object(source: ProviderObject, world: tuple[SecretsByName, Settings]) -> Connection | None:
    if not source.about.accepted or source.spec is None:
        return None
    return connect(source.about, source.about.name, source.spec, "spec", world)


def _by_name(providers: Iterable[tuple[ProviderObject, Connection | None]]) -> dict[str, Connection]:
    found: dict[str, Connection] = {}
    for source, connection in providers:
        rejected = Connection(
            source.about.name, "", "spec", frozenset(), None, "InvalidSpec", f"{source.about} is not accepted; see its status"
        )
        found[source.about.name] = connection or rejected
    return found


def _permitted(policy: RoutingPolicy, settings: Settings) -> RoutingPolicy:
    """Inline keys are the operator's switch: without it, an object that has one is rejected."""
    specs = [(f"spec.providers[{n}]", one) for n, one in enumerate(policy.spec.providers if policy.spec else ())]
    faults = _inline_faults(specs, settings)
    return _rejected(policy, faults) if faults else policy


def _rejected(policy: RoutingPolicy, faults: tuple[Fault, ...]) -> RoutingPolicy:
    return replace(policy, about=replace(policy.about, faults=policy.about.faults + faults))


def _permitted_provider(source: ProviderObject, settings: Settings) -> ProviderObject:
    faults = _inline_faults([("spec", source.spec)] if source.spec else [], settings)
    return replace(source, about=replace(source.about, faults=source.about.faults + faults)) if faults else source


def _inline_faults(specs: Iterable[tuple[str, ProviderSpec]], settings: Settings) -> tuple[Fault, ...]:
    text = "puts a key into an object; keep it in a Secret and use type APIKey, or start the broker with --allow-inline-credentials"
    return tuple(
        Fault(f"{path}.credentials.type", text, "InlineNotAllowed")
        for path, spec in specs
        if spec.credentials.type == "Inline" and not settings.allow_inline
    )


def _access_status(policy: AccessPolicy, made: Rule | None, offers: Mapping[str, Offer], settings: Settings) -> ObjectStatus:
    missing, listed = _missing(policy, offers, settings), tuple(offers.values())
    return access_status(policy, missing, _unpriced(policy, made, listed), listed, seals=settings.seals)


def _missing(policy: AccessPolicy, offers: Mapping[str, Offer], settings: Settings) -> tuple[str, ...]:
    spec = policy.spec
    if spec is None or spec.models is None or (spec.action == "Deny" and (policy.about.namespace or "") == settings.namespace):
        return ()
    return tuple(name for name in spec.models if name != EVERY_MODEL and name not in offers)


def _unpriced(policy: AccessPolicy, made: Rule | None, offers: Sequence[Offer]) -> tuple[Unpriced, ...]:
    if made is None:
        return ()
    return tuple(sorted(unpriced(made, {policy.about.namespace: offers}), key=lambda found: (found.place, found.model)))
