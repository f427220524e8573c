"""The objects that decide a question, as far as whoever asks may read them; what they may not read is told apart from what is not there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from broker import hosts, policy
from broker.config import ConfigError
from broker.identity import InvalidSpiffeId, parse_spiffe_id
from broker.kube.connection import NoCluster
from broker.kube.once import read_once
from broker.kube.source import Scope
from broker.objects import Resources, SecretObject
from broker.objects.connections import ProviderSpec
from broker.objects.secrets import NOT_READABLE
from broker.providers import PROVIDERS
from broker.review import Question

_UNKNOWN: Final = "you may not read the Secret {}: its provider is ready if it has the key {} and lets it go to {}"

Name = tuple[str, str]  # namespace, name


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read.

    own_unread: the broker's own namespace could not be.
    unread: Secrets that could not be, with what that means; the resources have them as if all was well with them.
    """

    resources: Resources
    own_unread: bool
    unread: Mapping[Name, str]


def read(question: Question, settings: policy.Settings, kubeconfig: str | None, environ: Mapping[str, str]) -> Seen:
    """Read the namespaces where the model is looked for, and the broker's own.

    Raises:
        ConfigError: the identity is none, there is no cluster, or a namespace may not be read; the message says what to do.
    """
    try:
        scope = Scope(settings.namespace, _namespaces(question, settings) - {settings.namespace})
        resources = read_once(kubeconfig, environ, scope)
    except InvalidSpiffeId as wrong:
        raise ConfigError(f"SPIFFE_ID: {wrong}") from wrong
    except NoCluster as wrong:
        raise ConfigError(str(wrong)) from wrong
    if blind := sorted(resources.unreadable - {settings.namespace}):
        raise ConfigError(
            f"you may not list the objects of namespace {', '.join(blind)}, where the model is looked for; its administrator gives you the "
            f"role view there"
        )
    resources, unread = assumed(resources)
    return Seen(replace(resources, unreadable=frozenset()), bool(scope.own in resources.unreadable), unread)


def _namespaces(question: Question, settings: policy.Settings) -> frozenset[str]:
    identity = parse_spiffe_id(question.spiffe_id)
    prefix, slash, _ = question.model.partition("/")
    return frozenset(one for one in (identity.namespace, *settings.shared_namespaces, prefix if slash else "") if one)


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
        wanted = [(spec, ref.key) for spec in _specs(resources, name[0]) if (ref := spec.credentials.secret_ref) and ref.name == about.name]
        entries = sorted({entry for spec, _ in wanted if (entry := _entry(spec))})
        keys = frozenset(key for _, key in wanted)
        found.append(replace(secret, about=replace(about, faults=()), keys=keys, hosts=", ".join(entries) or None))
        unread[name] = _UNKNOWN.format(about.name, " and ".join(sorted(keys)), " and ".join(entries))
    return replace(resources, secrets=tuple(found)), unread


def _specs(resources: Resources, namespace: str) -> Iterator[ProviderSpec]:
    for routing in resources.routing:
        if routing.about.namespace == namespace and routing.spec is not None:
            yield from routing.spec.providers
    for provider in resources.providers:
        if provider.about.namespace == namespace and provider.spec is not None:
            yield provider.spec


def _entry(spec: ProviderSpec) -> str:
    """The endpoint as the annotation aiaccess.dev/hosts lists it; "" when it is none."""
    try:
        endpoint = hosts.parse_endpoint(spec.endpoint, spec.schema) if spec.endpoint else PROVIDERS[spec.schema].endpoint
    except (hosts.InvalidHost, KeyError):
        return ""
    usual = 443 if endpoint.scheme == "https" else 80
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{'http://' if endpoint.scheme == 'http' else ''}{host}{'' if endpoint.port == usual else f':{endpoint.port}'}"
