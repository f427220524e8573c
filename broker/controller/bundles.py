"""Whether the trust bundle that a policy names is there and can be read, for its condition BundleReady. Pure.

It is reported, and never an anchor of the broker: whoever may write a policy, or a ConfigMap of the namespace, adds no trust. It is
read only where the operator listed it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from broker.objects.access import AccessSpec, ConfigMapKeyRef
from broker.objects.reading import as_mapping
from broker.policy.status import Condition, ObjectStatus
from broker.truststate import Bundle, certificates_in

_KIND: Final = "BundleReady"
_PATH: Final = "spec.mtls.trustBundleConfigMap"
_KEYS_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Listed:
    """A ConfigMap that the operator lets us read, as it was found.

    looked: whether anybody could look yet.
    fields: None when it is not there.
    trouble: why it may not be read; "" otherwise.
    """

    trust_domain: str
    namespace: str
    name: str
    looked: bool = False
    fields: Mapping[str, object] | None = None
    trouble: str = ""


def with_bundle(told: ObjectStatus, spec: AccessSpec | None, listed: Iterable[Listed], now_s: float) -> ObjectStatus:
    """The same status, with what is known of the bundle that the policy names."""
    mtls = spec.mtls if spec is not None and told.about.accepted else None
    source = mtls.trust_bundle_config_map if mtls is not None else None
    if mtls is None or source is None:
        return told
    wanted = mtls.trust_domain, source.namespace, source.name
    found = next((one for one in listed if (one.trust_domain, one.namespace, one.name) == wanted), None)
    if found is None:
        return told  # policy has said how the operator would list it
    verdict = _verdict(found, source, now_s)
    return replace(told, conditions=tuple(verdict if one.type == _KIND else one for one in told.conditions))


def _verdict(found: Listed, source: ConfigMapKeyRef, now_s: float) -> Condition:
    place = f"the ConfigMap {source.namespace}/{source.name}"
    if not found.looked:
        return Condition(_KIND, "Unknown", "Pending", f"{place} has not been read yet", _PATH)
    if found.trouble:
        text = f"{place} cannot be read: {found.trouble}. Its operator gives the controller's service account get, list and watch of it"
        return Condition(_KIND, "Unknown", "NotPermitted", text, _PATH)
    if found.fields is None:
        text = f"{place} is not there; SPIRE's server writes it (its notifier k8sbundle, or the publisher k8s_configmap)"
        return Condition(_KIND, "False", "BundleNotFound", text, _PATH)
    data = as_mapping(found.fields.get("data")) or {}
    content = data.get(source.key)
    if not isinstance(content, str):
        there = ", ".join(sorted(data)[:_KEYS_SHOWN]) or "none"
        return Condition(_KIND, "False", "BundleNotFound", f"{place} has no key {source.key}; its keys: {there}", _PATH)
    try:
        bundle = certificates_in(content.encode()) if content.strip() else ()
    except ValueError:
        wrong = f"the key {source.key} of {place} is neither a SPIFFE bundle (JSON) nor certificates (PEM)"
        return Condition(_KIND, "False", "BundleParseError", wrong, _PATH)
    return _judged(bundle, found.trust_domain, f"the key {source.key} of {place}", now_s)


def _judged(bundle: Bundle, trust_domain: str, place: str, now_s: float) -> Condition:
    now = datetime.fromtimestamp(now_s, UTC)
    valid = [one for one in bundle if one.not_valid_after_utc > now]
    skipped = len(bundle) - len(valid)
    expired = f"; {skipped} that expired {'are' if skipped > 1 else 'is'} skipped" if skipped else ""
    if not valid:
        text = f"{place} has no CA certificate of {trust_domain} that is valid now{expired}"
        return Condition(_KIND, "False", "BundleEmpty", text, _PATH)
    last = max(one.not_valid_after_utc for one in valid)
    count = f"{len(valid)} CA certificate{'s' if len(valid) > 1 else ''}"
    return Condition(_KIND, "True", "BundleReady", f"{place} has {count} of {trust_domain}{expired}; the last ends {last:%Y-%m-%d}")
