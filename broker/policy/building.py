"""Objects and settings in, a Snapshot out. The order in which the objects come never matters."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from broker.grant import PolicyRef
from broker.objects import AccessPolicy, Fault, ProviderObject, Resources, RoutingPolicy
from broker.objects.access import EVERY_MODEL
from broker.objects.connections import ProviderSpec
from broker.policy.connections import Connection, SecretsByName, connect
from broker.policy.offers import Offer, Routed, route
from broker.policy.prices import Unpriced, unpriced
from broker.policy.rules import Rule, Rules, rule
from broker.policy.settings import Settings
from broker.policy.snapshot import Readiness, Snapshot
from broker.policy.status import ObjectStatus, access_status, provider_status, routing_status, secret_status


def build(resources: Resources, settings: Settings) -> Snapshot:
    """One state of the world. Never fails: a wrong object fails closed for itself, and its status says why."""
    secrets = {(one.about.namespace or "", one.about.name): one for one in resources.secrets}
    world = (secrets, settings)
    providers = [(one, _connect_object(one, world)) for one in (_permitted_provider(one, settings) for one in resources.providers)]
    routed = _routed([_permitted(one, settings) for one in resources.routing], _by_namespace(providers), world)
    offers = {(offer.namespace, offer.name): offer for one in routed for offer in one.offers}
    made = [rule(policy, settings.namespace) for policy in resources.access]
    by_namespace = _offers_by_namespace(offers)
    statuses = (
        *(routing_status(one) for one in routed),
        *(provider_status(source, connection) for source, connection in providers),
        *(
            access_status(
                policy,
                _missing(policy, offers, settings),
                _unpriced(one, by_namespace),
                by_namespace.get(policy.about.namespace, ()),
                seals=settings.seals,
            )
            for policy, one in zip(resources.access, made, strict=True)
        ),
        *(secret_status(secret) for secret in resources.secrets),
    )
    readiness = Readiness(resources.pending, resources.unreadable)
    return Snapshot(settings, offers, Rules(one for one in made if one is not None), _sorted(statuses), readiness)


def _sorted(statuses: Iterable[ObjectStatus]) -> tuple[ObjectStatus, ...]:
    return tuple(sorted(statuses, key=lambda one: (one.about.kind, one.about.namespace or "", one.about.name)))


def _routed(
    policies: Iterable[RoutingPolicy], shared: Mapping[str, Mapping[str, Connection]], world: tuple[SecretsByName, Settings]
) -> list[Routed]:
    """The oldest object first: it keeps the names that it has."""
    held: dict[str, dict[str, PolicyRef]] = {}
    resolved: list[Routed] = []
    for policy in sorted(policies, key=lambda one: (one.about.age, one.about.version)):
        about = policy.about
        if about.namespace is None:
            resolved.append(Routed(policy, (), (), (), {}))
            continue
        taken = held.setdefault(about.namespace, {})
        spec = policy.spec if about.accepted else None
        own = tuple(
            connect(about, one.name, one, f"spec.providers[{index}]", world) for index, one in enumerate(spec.providers if spec else ())
        )
        done = route(policy, own, shared.get(about.namespace, {}), taken)
        taken.update({offer.name: offer.ref for offer in done.offers})
        resolved.append(done)
    return resolved


def _connect_object(source: ProviderObject, world: tuple[SecretsByName, Settings]) -> Connection | None:
    if not source.about.accepted or source.spec is None:
        return None
    return connect(source.about, source.about.name, source.spec, "spec", world)


def _by_namespace(providers: Iterable[tuple[ProviderObject, Connection | None]]) -> dict[str, dict[str, Connection]]:
    found: dict[str, dict[str, Connection]] = {}
    for source, connection in providers:
        rejected = Connection(
            source.about.name, "", "spec", frozenset(), None, "InvalidSpec", f"{source.about} is not accepted; see its status"
        )
        if source.about.namespace is not None:
            found.setdefault(source.about.namespace, {})[source.about.name] = connection or rejected
    return found


def _permitted(policy: RoutingPolicy, settings: Settings) -> RoutingPolicy:
    """Inline keys are the operator's switch: without it, an object that has one is rejected."""
    specs = [(f"spec.providers[{n}]", one) for n, one in enumerate(policy.spec.providers if policy.spec else ())]
    faults = _inline_faults(specs, settings)
    return replace(policy, about=replace(policy.about, faults=policy.about.faults + faults)) if faults else policy


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


def _missing(policy: AccessPolicy, offers: Mapping[tuple[str, str], Offer], settings: Settings) -> tuple[str, ...]:
    spec, namespace = policy.spec, policy.about.namespace or ""
    if spec is None or spec.models is None or (spec.action == "Deny" and namespace == settings.namespace):
        return ()
    return tuple(name for name in spec.models if name != EVERY_MODEL and (namespace, name) not in offers)


def _offers_by_namespace(offers: Mapping[tuple[str, str], Offer]) -> dict[str | None, list[Offer]]:
    found: dict[str | None, list[Offer]] = {}
    for offer in offers.values():
        found.setdefault(offer.namespace, []).append(offer)
    return found


def _unpriced(one: Rule | None, offers: Mapping[str | None, list[Offer]]) -> tuple[Unpriced, ...]:
    return () if one is None else tuple(sorted(unpriced(one, offers), key=lambda found: (found.place, found.model)))
