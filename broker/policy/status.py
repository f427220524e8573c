"""What each object is told: conditions, and a row for each provider and model. Pure; times of change are added by who writes it back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from broker.features import KEEPING
from broker.objects import AccessPolicy, ProviderObject, SecretObject
from broker.objects.access import EVERY_MODEL, AccessSpec
from broker.objects.metadata import About
from broker.objects.routing import RoutingSpec
from broker.policy.connections import Connection
from broker.policy.offers import Offer, Routed
from broker.policy.prices import Unpriced, remarks

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Condition:
    """As metav1.Condition. `path` is the field that is to blame, where one is."""

    type: str
    status: Truth
    reason: str
    message: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A provider or a model in status."""

    name: str
    ready: bool
    reason: str
    message: str
    path: str


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """The status of one object. `about.faults` has every fault, the conditions have the first words of them."""

    about: About
    conditions: tuple[Condition, ...]
    providers: tuple[Row, ...] = ()
    models: tuple[Row, ...] = ()
    subject_summary: str = ""
    model_summary: str = ""
    notices: tuple[tuple[str, str], ...] = field(default=())  # (path, what to look at), of an object that works


_FAULTS_SHOWN = 8
_NAMES_SHOWN = 8


def accepted(about: About, *, taken: Iterable[tuple[str, str]] = ()) -> Condition:
    """taken: (model, object that keeps the name)."""
    if about.faults:
        shown = "; ".join(str(fault) for fault in about.faults[:_FAULTS_SHOWN])
        more = len(about.faults) - _FAULTS_SHOWN
        first = about.faults[0]
        reasons = [fault.reason for fault in about.faults]
        reason = "InvalidSpec" if "InvalidSpec" in reasons else first.reason
        return Condition("Accepted", "False", reason, f"{shown}{f'; and {more} more' if more > 0 else ''}", first.path)
    for model, holder in taken:
        text = f"the older object {holder} keeps the model {model}; rename one of the two. The other models of this object are offered"
        return Condition("Accepted", "False", "NameConflict", text, "spec.models")
    return Condition("Accepted", "True", "Accepted", "the object is well-formed and in force")


def routing_status(routed: Routed) -> ObjectStatus:
    about, spec = routed.policy.about, routed.policy.spec
    conditions = [accepted(about, taken=[(name, str(ref)) for name, ref in routed.conflicts.items()])]
    if not about.accepted or spec is None:
        conditions += [
            Condition("ProvidersConfigured", "Unknown", "Pending", _NOT_ACCEPTED),
            Condition("RoutingActive", "False", "NoReadyBackend", _NOT_ACCEPTED),
            _programmed(about),
        ]
        return ObjectStatus(about, tuple(conditions), models=tuple(_model_rows(routed)), model_summary=_summary(routed.policy.names))
    rows = tuple(_model_rows(routed))
    conditions += [_providers_configured(routed.connections), _routing_active(rows), _programmed(about), *_bound(spec)]
    providers = tuple(Row(one.name, one.ready, one.reason, one.message, one.path) for one in routed.connections)
    hides = tuple(
        (one.path, f"provider {one.name} hides the AIProvider of the same name; rename one of the two")
        for one in routed.connections
        if one.name in routed.shadowed
    )
    models = _summary(routed.policy.names)
    notices = (*hides, *_remarks(routed.connections), *remarks(spec, routed.offers))
    return ObjectStatus(about, tuple(conditions), providers, rows, model_summary=models, notices=notices)


def provider_status(source: ProviderObject, connection: Connection | None) -> ObjectStatus:
    about = source.about
    if connection is None:
        ready = Condition("Ready", "False", "InvalidSpec", _NOT_ACCEPTED)
        return ObjectStatus(about, (accepted(about), ready))
    ready = Condition("Ready", "True" if connection.ready else "False", connection.reason, connection.message, connection.path)
    return ObjectStatus(about, (accepted(about), ready), notices=_remarks((connection,)))


def access_status(
    policy: AccessPolicy,
    missing: Sequence[str],
    unpriced: Sequence[Unpriced] = (),
    offered: Sequence[Offer] = (),
    *,
    seals: bool | None = None,
) -> ObjectStatus:
    """Of one policy.

    Args:
        policy: wrong or not.
        missing: models that it lists and its namespace does not offer.
        unpriced: where its quotas of money cannot be counted.
        offered: what its namespace does offer.
        seals: whether the broker has sealing keys; None = nobody here knows.
    """
    about, spec = policy.about, policy.spec
    if not about.accepted or spec is None:
        kept = _kept(policy)
        rejected = (
            accepted(about),
            Condition("BundleReady", "Unknown", "Pending", _NOT_ACCEPTED),
            Condition("ModelsResolved", "Unknown", "Pending", _NOT_ACCEPTED),
            Condition("Programmed", "False", "Pending", _NOT_ACCEPTED + kept),
        )
        return ObjectStatus(about, rejected, subject_summary=_subjects(spec), model_summary=_summary(spec.models or ()) if spec else "")
    conditions = (
        accepted(about),
        _bundle_ready(spec),
        _models_resolved(spec, missing, unpriced, offered),
        _programmed(about, _unsealed(spec) if seals is False else ""),
        *_bound(spec),
    )
    models = _summary(spec.models or (EVERY_MODEL,))
    notices = (*_never_matching(spec), *_partly_priced(spec, unpriced))
    return ObjectStatus(about, conditions, subject_summary=_subjects(spec), model_summary=models, notices=notices)


def _kept(policy: AccessPolicy) -> str:
    if policy.remains is None:
        return ""
    if policy.remains.limits:
        return " Until then nobody whom it limits is granted anything, since its quotas cannot be known."
    return " It still denies: see the documentation on wrong objects."


def secret_status(secret: SecretObject) -> ObjectStatus:
    return ObjectStatus(secret.about, (accepted(secret.about),))


_NOT_ACCEPTED = "the object is not accepted; mend what the condition Accepted says"


def _model_rows(routed: Routed) -> Iterable[Row]:
    places = {name: f"spec.models[{index}]" for index, name in enumerate(routed.policy.names)}
    if routed.policy.about.accepted and routed.policy.spec is not None:
        places = {model.name: f"spec.models[{index}]" for index, model in enumerate(routed.policy.spec.models)}
    offers = {offer.name: offer for offer in routed.offers}
    for name in routed.policy.names:
        offer = offers.get(name)
        if offer is None and name in routed.conflicts:
            yield Row(name, ready=False, reason="NameConflict", message=f"{routed.conflicts[name]} keeps this name", path=places[name])
        elif offer is not None:
            yield _model_row(offer, places[name])


def _model_row(offer: Offer, path: str) -> Row:
    if offer.taken:
        return Row(offer.name, ready=False, reason="InvalidSpec", message="its object is not accepted; the name stays taken", path=path)
    away = [f"{line.provider}: {line.message}" for line in offer.lines if line.backend is None]
    if not away:
        return Row(offer.name, ready=True, reason="Ready", message="ready", path=path)
    if offer.backends:
        return Row(offer.name, ready=True, reason="PartialFailure", message="; ".join(away), path=path)
    return Row(offer.name, ready=False, reason="NoReadyBackend", message="; ".join(away), path=path)


def _providers_configured(connections: Sequence[Connection]) -> Condition:
    away = [one for one in connections if not one.ready]
    if not away:
        return Condition("ProvidersConfigured", "True", "Configured", f"{len(connections)} of {len(connections)} providers are ready")
    reason = "PartialFailure" if len(away) < len(connections) else away[0].reason
    why = "; ".join(f"{one.name}: {one.message}" for one in away)
    text = f"{len(connections) - len(away)} of {len(connections)} providers are ready; {why}"
    return Condition("ProvidersConfigured", "False", reason, text, away[0].path)


def _routing_active(rows: Sequence[Row]) -> Condition:
    away = [row for row in rows if not row.ready]
    if not away:
        return Condition("RoutingActive", "True", "Active", f"{len(rows)} of {len(rows)} models are ready")
    reason = "ModelNotReady" if len(away) < len(rows) else "NoReadyBackend"
    text = f"{len(rows) - len(away)} of {len(rows)} models are ready; not ready: {_summary([row.name for row in away])}"
    return Condition("RoutingActive", "False", reason, text, away[0].path)


def _bundle_ready(spec: AccessSpec) -> Condition:
    source = spec.mtls.trust_bundle_config_map if spec.mtls else None
    if spec.mtls is None or source is None:
        return Condition("BundleReady", "True", "NotNamed", "the policy names no bundle; trust anchors come from the Workload API")
    text = (
        f"the ConfigMap {source.namespace}/{source.name} is not read: the broker's operator would list it with "
        f"--trust-bundle-configmap {spec.mtls.trust_domain}={source.namespace}/{source.name}. It is never a trust anchor by itself"
    )
    return Condition("BundleReady", "Unknown", "NotPermitted", text, "spec.mtls.trustBundleConfigMap")


def _models_resolved(spec: AccessSpec, missing: Sequence[str], unpriced: Sequence[Unpriced], offered: Sequence[Offer]) -> Condition:
    wholly = [one for one in unpriced if one.wholly]
    if not missing and not wholly:
        return Condition("ModelsResolved", "True", "Resolved", "every model is offered in this namespace")
    texts: list[str] = []
    if missing:
        there = ", ".join(offer.name for offer in offered[:_NAMES_SHOWN]) + (", …" if len(offered) > _NAMES_SHOWN else "")
        texts.append(
            f"no AIRoutingPolicy of this namespace offers {', '.join(missing)}; a policy grants models of its own namespace only, which "
            f"offers {there or 'none'}"
        )
    if wholly:
        names = ", ".join(dict.fromkeys(one.model for one in wholly))
        what = "count nothing there" if spec.mode == "Shadow" else "refuse them to everybody whom this policy names"
        texts.append(f"no price is known of {names}, so quotas in US dollars {what}; {_PRICE}")
    path = "spec.models" if missing else f"spec.quotas[{wholly[0].place}].usd"
    return Condition("ModelsResolved", "False", "ModelNotFound" if missing else "PriceUnknown", "; ".join(texts), path)


_PRICE = 'write inputPerMillionTokens and outputPerMillionTokens of their price into the AIRoutingPolicy, "0" for what is free'


def _partly_priced(spec: AccessSpec, unpriced: Sequence[Unpriced]) -> Iterable[tuple[str, str]]:
    for one in unpriced:
        if not one.wholly:
            what = "it counts nothing there" if spec.mode == "Shadow" else "those are not asked for whom it counts"
            yield f"spec.quotas[{one.place}].usd", f"some backends of model {one.model} have no price, so {what}; {_PRICE}"


def _programmed(about: About, but: str = "") -> Condition:
    if about.accepted:
        return Condition("Programmed", "True", "Programmed", f"the broker decides by this generation{but}")
    return Condition("Programmed", "False", "Pending", _NOT_ACCEPTED)


def _unsealed(spec: AccessSpec) -> str:
    waiting = KEEPING.intersection(spec.features)
    if not waiting:
        return ""
    return f"; its operator gave it no sealing keys (--sealing-keys), so it refuses what needs {' or '.join(sorted(waiting))}"


def _bound(spec: RoutingSpec | AccessSpec) -> Iterable[Condition]:
    if spec.target_ref is None:
        return
    text = f"this broker renders for no Gateway yet; it answers for {spec.target_ref.name} itself"
    yield Condition("GatewayBound", "Unknown", "NoRenderer", text, "spec.targetRef")
    if isinstance(spec, AccessSpec):
        yield Condition("MTLSActive", "Unknown", "NoRenderer", text, "spec.targetRef")


def _never_matching(spec: AccessSpec) -> tuple[tuple[str, str], ...]:
    if spec.mtls is None:
        return ()
    return tuple(
        (f"spec.subjects[{index}]", f"names nobody: mtls.trustDomain narrows the policy to {spec.mtls.trust_domain}")
        for index, subject in enumerate(spec.subjects or ())
        if subject.trust_domain != spec.mtls.trust_domain
    )


def _remarks(connections: Sequence[Connection]) -> tuple[tuple[str, str], ...]:
    return tuple((one.path, f"provider {one.name}: {one.message}") for one in connections if one.ready and one.message != "ready")


def _subjects(spec: AccessSpec | None) -> str:
    if spec is None:
        return ""
    if spec.subjects is None:
        return f"*.{spec.mtls.trust_domain}" if spec.mtls else "*"
    return _summary([_short(str(subject)) for subject in spec.subjects])


def _short(subject: str) -> str:
    """The last segment of an ID, the path of a prefix: enough to know it again in a column."""
    return "/".join(subject.split("/")[3:]) if subject.endswith("*") else subject.rpartition("/")[2]


def _summary(names: Sequence[str]) -> str:
    if not names:
        return ""
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"
