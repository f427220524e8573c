"""Objects whose Secrets are not to be seen: as if all was well with those.

Whoever reviews a change of policies, or may read a part of a cluster, has no Secrets, and asks what the policies say.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from broker import hosts
from broker.objects import Resources, SecretObject
from broker.objects.connections import ProviderSpec
from broker.objects.metadata import About
from broker.objects.secrets import NOT_READABLE
from broker.providers import PROVIDERS

_UNKNOWN: Final = "you may not read the Secret {}: its provider is ready if it has the key {} and lets it go to {}"

Name = tuple[str, str]  # namespace, name


def assumed(resources: Resources) -> tuple[Resources, Mapping[Name, str]]:
    """With each Secret that could not be read as whoever refers to it needs it to be, and what that means for its provider."""
    found: list[SecretObject] = []
    unread: dict[Name, str] = {}
    for secret in resources.secrets:
        about = secret.about
        if not any(fault.reason == NOT_READABLE for fault in about.faults):
            found.append(secret)
            continue
        name = about.namespace or "", about.name
        good, keys, entries = _fitting(resources, about)
        found.append(good)
        unread[name] = _UNKNOWN.format(about.name, " and ".join(keys), " and ".join(entries))
    return replace(resources, secrets=tuple(found)), unread


def complete(resources: Resources) -> Resources:
    """With each Secret that is missing as whoever refers to it needs it to be, and with the keys that one lacks which has faults."""
    there = {(one.about.namespace or "", one.about.name): one for one in resources.secrets}
    missing = sorted({name for name, spec in _specs(resources) if _refers(spec)} - set(there))
    kept = [replace(_fitting(resources, one.about)[0], hosts=one.hosts) if one.about.faults else one for one in resources.secrets]
    abouts = [About("Secret", namespace, name, "", None, "", {}, None, ()) for namespace, name in missing]
    return replace(resources, secrets=(*kept, *(_fitting(resources, about)[0] for about in abouts)))


def _fitting(resources: Resources, about: About) -> tuple[SecretObject, list[str], list[str]]:
    """The Secret that everybody who refers to it could use, its keys, and where it goes."""
    specs = [spec for name, spec in _specs(resources) if name == (about.namespace or "", about.name)]
    keys = sorted({ref.key for spec in specs if (ref := spec.credentials.secret_ref)})
    entries = sorted({entry for spec in specs if (entry := _entry(spec))})
    accepted = replace(about, faults=())
    return SecretObject(accepted, keys=frozenset(keys), hosts=", ".join(entries) or None, credentials={}), keys, entries


def _specs(resources: Resources) -> Iterator[tuple[Name, ProviderSpec]]:
    """Each provider with the Secret that it refers to."""
    for routing in resources.routing:
        for spec in routing.spec.providers if routing.spec is not None else ():
            yield (routing.about.namespace or "", _refers(spec)), spec
    for provider in resources.providers:
        if provider.spec is not None:
            yield (provider.about.namespace or "", _refers(provider.spec)), provider.spec


def _refers(spec: ProviderSpec) -> str:
    ref = spec.credentials.secret_ref
    return ref.name if ref else ""


def _entry(spec: ProviderSpec) -> str:
    """The endpoint as the annotation aiaccess.dev/hosts lists it; "" when it is none."""
    try:
        endpoint = hosts.parse_endpoint(spec.endpoint, spec.schema) if spec.endpoint else PROVIDERS[spec.schema].endpoint
    except (hosts.InvalidHost, KeyError):
        return ""
    usual = 443 if endpoint.scheme == "https" else 80
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{'http://' if endpoint.scheme == 'http' else ''}{host}{'' if endpoint.port == usual else f':{endpoint.port}'}"
