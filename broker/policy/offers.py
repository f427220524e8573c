"""What can be called: virtual models by namespace and name, with their backends, ready or not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.grant import Backend, Budget, Failover, Per, PolicyRef, Unit
from broker.money import PICO, Price, read_microusd
from broker.objects import RoutingPolicy
from broker.objects.duration import seconds
from broker.objects.routing import BackendSpec, FailoverSpec, ModelSpec, RoutingSpec
from broker.objects.routing import Price as PriceSpec
from broker.policy.connections import Connection

COUNTED: Final[Mapping[str, Unit]] = {
    "InputToken": Unit.INPUT_TOKENS,
    "OutputToken": Unit.OUTPUT_TOKENS,
    "TotalToken": Unit.TOTAL_TOKENS,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One backend as its object has it, for status and explanation.

    spoken: the dialects that it is asked in, once it can be called.
    backend: None while it cannot be called. price: whether or not it can; None = unknown.
    """

    provider: str
    model: str
    priority: int
    weight: int
    kind: str
    spoken: frozenset[str]
    backend: Backend | None
    reason: str
    message: str
    price: Price | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A virtual model. `taken`: its object is rejected, so the name is nobody else's and leads nowhere."""

    namespace: str
    name: str
    ref: PolicyRef
    taken: bool
    lines: tuple[Line, ...] = ()
    backends: tuple[Backend, ...] = ()
    configured: tuple[str, ...] = ()
    budgets: tuple[Budget, ...] = ()
    default_output_tokens: int = 1
    max_output_tokens: int | None = None
    failover: Failover | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """One routing object, resolved.

    connections: its own providers; shadowed: those of them that hide an AIProvider of the same name.
    offers: the names that are its own. conflicts: names that an older object keeps.
    """

    policy: RoutingPolicy
    connections: tuple[Connection, ...]
    shadowed: tuple[str, ...]
    offers: tuple[Offer, ...]
    conflicts: Mapping[str, PolicyRef]


def route(policy: RoutingPolicy, own: tuple[Connection, ...], shared: Mapping[str, Connection], held: Mapping[str, PolicyRef]) -> Routed:
    """Resolve one object.

    own: its providers. shared: AIProviders of its namespace.
    held: names of its namespace that older objects keep.
    """
    conflicts = {name: held[name] for name in policy.names if name in held}
    free = [name for name in policy.names if name not in held]
    spec = policy.spec if policy.about.accepted else None
    if spec is None:
        ref, namespace = policy.about.ref, policy.about.namespace or ""
        return Routed(policy, own, (), tuple(Offer(namespace, name, ref, taken=True) for name in free), conflicts)
    connections = {**shared, **{connection.name: connection for connection in own}}
    models = {model.name: model for model in spec.models}
    offers = tuple(_offer(policy, spec, models[name], connections) for name in free)
    shadowed = tuple(connection.name for connection in own if connection.name in shared)
    return Routed(policy, own, shadowed, offers, conflicts)


def _offer(policy: RoutingPolicy, spec: RoutingSpec, model: ModelSpec, connections: Mapping[str, Connection]) -> Offer:
    lines = tuple(sorted((_line(backend, model, connections) for backend in model.backends), key=lambda line: line.priority))
    return Offer(
        namespace=policy.about.namespace or "",
        name=model.name,
        ref=policy.about.ref,
        taken=False,
        lines=lines,
        backends=tuple(line.backend for line in lines if line.backend is not None),
        configured=tuple(sorted(frozenset[str]().union(*(line.spoken for line in lines)))),
        budgets=_budgets(policy, model),
        default_output_tokens=min(model.default_output_tokens, model.max_output_tokens or model.default_output_tokens),
        max_output_tokens=model.max_output_tokens,
        failover=_failover(model.failover or spec.default_failover or FailoverSpec()),
    )


def _line(spec: BackendSpec, of: ModelSpec, connections: Mapping[str, Connection]) -> Line:
    model, connection, price = spec.model or of.name, connections.get(spec.provider), price_of(spec.price or of.price)
    if connection is None:
        message = f"there is no provider {spec.provider} in this object and no AIProvider of that name in the namespace"
        return Line(spec.provider, model, spec.priority, spec.weight, "", frozenset(), None, "ProviderNotFound", message, price)
    backend, reason, message = None, connection.reason, connection.message
    if connection.provider is not None and spec.weight > 0:
        backend = Backend(connection.provider, model, spec.priority, spec.weight, price)
    elif connection.provider is not None:
        reason, message = "NoWeight", "has weight 0, so nothing is sent to it"
    return Line(spec.provider, model, spec.priority, spec.weight, connection.kind, connection.spoken, backend, reason, message, price)


def price_of(spec: PriceSpec | None) -> Price | None:
    """A price that leaves input or output open is none: what nobody wrote down is not free."""
    if spec is None or spec.input_per_million_tokens is None or spec.output_per_million_tokens is None:
        return None
    plain = read_microusd(spec.input_per_million_tokens)
    return Price(
        input=plain,
        output=read_microusd(spec.output_per_million_tokens),
        cached_input=plain if spec.cached_input_per_million_tokens is None else read_microusd(spec.cached_input_per_million_tokens),
        cache_write=plain if spec.cache_write_per_million_tokens is None else read_microusd(spec.cache_write_per_million_tokens),
        request=0 if spec.per_request is None else read_microusd(spec.per_request) * PICO,
    )


def _budgets(policy: RoutingPolicy, model: ModelSpec) -> tuple[Budget, ...]:
    """The rateLimit of a model is a quota over all its callers."""
    limit = model.rate_limit
    if limit is None:
        return ()
    unit, about = COUNTED[limit.token_count_mode], policy.about
    counter = f"{{{about.namespace}}}/{about.kind}/{about.name}/{model.name}/{unit}/{Per.HOUR}/policy/-"
    return (Budget(counter, unit, limit.tokens_per_hour, Per.HOUR),)


def _failover(spec: FailoverSpec) -> Failover:
    return Failover(
        statuses=frozenset(one for one in spec.retry_on if isinstance(one, int)),
        causes=frozenset(one for one in spec.retry_on if isinstance(one, str)),
        max_retries=spec.max_retries,
        backoff_base_s=seconds(spec.backoff.base),
        backoff_max_s=seconds(spec.backoff.max),
    )
