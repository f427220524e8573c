"""Provider objects into Providers that can be called, or what is missing until they can."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from broker import hosts
from broker.addresses import HostList, refusal
from broker.credentials import SecretRef
from broker.grant import Endpoint, Provider
from broker.objects.connections import ProviderSpec
from broker.objects.documents import inline_ref
from broker.objects.duration import seconds
from broker.objects.metadata import About
from broker.objects.secrets import NOT_READABLE, SecretObject
from broker.policy.settings import Settings
from broker.providers import PROVIDERS


@dataclass(frozen=True, slots=True)
class Connection:
    """A provider as its object has it.

    spoken: the dialects that it is asked in, once it is ready.
    provider: None while it is not ready.
    reason, message: of the condition; a ready one has Ready.
    """

    name: str
    kind: str
    path: str
    spoken: frozenset[str]
    provider: Provider | None
    reason: str
    message: str

    @property
    def ready(self) -> bool:
        return self.provider is not None


class NotReady(Exception):
    """Why a provider cannot be called yet, and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


SecretsByName = Mapping[tuple[str, str], SecretObject]


def connect(about: About, name: str, spec: ProviderSpec, path: str, world: tuple[SecretsByName, Settings]) -> Connection:
    """Resolve one provider.

    about: the object that it stands in; its Secrets and Services are of that namespace.
    path: where its fields stand in the object, for messages.
    """
    secrets, settings = world
    try:
        provider = _provider(about, name, spec, secrets, settings)
    except NotReady as why:
        return Connection(name, spec.schema, path, _spoken(spec), None, why.reason, str(why))
    return Connection(name, spec.schema, path, _spoken(spec), provider, "Ready", _notice(provider, secrets))


def _spoken(spec: ProviderSpec) -> frozenset[str]:
    kind = PROVIDERS.get(spec.schema)
    if kind is None:
        return frozenset()
    try:
        return kind.spoken_at(_endpoint(spec).host, responses=spec.responses)
    except NotReady:
        return kind.spoken_at("", responses=spec.responses)


def _notice(provider: Provider, secrets: SecretsByName) -> str:
    secret = secrets.get((provider.secret.namespace, provider.secret.name)) if provider.secret else None
    wrong = hosts.problems(secret.hosts) if secret else ()
    return f"ready; the annotation aiaccess.dev/hosts of its Secret has an entry that counts for nothing: {wrong[0]}" if wrong else "ready"


def _provider(about: About, name: str, spec: ProviderSpec, secrets: SecretsByName, settings: Settings) -> Provider:
    namespace = about.namespace or ""
    auth = _built(spec, settings)
    endpoint = _endpoint(spec)
    own_service = _is_own_service(endpoint.host, namespace)
    _check_reach(endpoint, settings, own_service=own_service)
    return Provider(
        namespace=namespace,
        name=name,
        kind=spec.schema,
        endpoint=endpoint,
        auth=auth,
        secret=_secret(about, name, spec, endpoint, secrets),
        headers=tuple((header.name.lower(), header.value) for header in spec.headers),
        connect_s=seconds(spec.timeouts.connect),
        first_byte_s=seconds(spec.timeouts.first_byte),
        idle_s=seconds(spec.timeouts.idle),
        own_service=own_service,
        responses=spec.responses,
    )


def _built(spec: ProviderSpec, settings: Settings) -> Literal["None", "APIKey", "Passthrough", "Inline"]:
    if spec.schema not in settings.kinds:
        built = ", ".join(sorted(settings.kinds))
        raise NotReady("NotSupported", f"schema {spec.schema} is not supported by this version of the broker; it speaks {built}")
    if spec.protocol != "HTTP":
        raise NotReady("NotSupported", f"protocol {spec.protocol} is not supported by this version of the broker; use HTTP")
    auth = spec.credentials.type
    if auth in ("None", "APIKey", "Passthrough", "Inline"):
        return auth
    raise NotReady("NotSupported", f"credentials of type {auth} are not supported by this version of the broker; use APIKey")


def _endpoint(spec: ProviderSpec) -> Endpoint:
    if spec.endpoint is None:
        return PROVIDERS[spec.schema].endpoint
    try:
        return hosts.parse_endpoint(spec.endpoint, spec.schema)
    except hosts.InvalidHost as wrong:
        raise NotReady("EndpointInvalid", f"its endpoint {wrong}") from wrong


def _is_own_service(host: str, namespace: str) -> bool:
    """Whether the host is a Service of this namespace: NAME.NAMESPACE.svc, also with the cluster's domain behind it."""
    name, _, rest = host.removesuffix(".cluster.local").partition(".")
    return bool(name) and rest == f"{namespace}.svc"


def _check_reach(endpoint: Endpoint, settings: Settings, *, own_service: bool) -> None:
    """What can be told from the text alone. Names are resolved, and judged, when they are called."""
    if endpoint.scheme == "http" and not own_service and not _listed(settings.plain_http, endpoint):
        raise NotReady(
            "EndpointInvalid",
            f"{endpoint.host} is not called without TLS: use https, a Service of this namespace (NAME.NAMESPACE.svc), "
            "or have the operator list the host in --plain-http-hosts",
        )
    address = "127.0.0.1" if endpoint.host == "localhost" or endpoint.host.endswith(".localhost") else endpoint.host
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return
    if why := refusal(endpoint.host, endpoint.port, address, (settings.allowed, settings.off), own_service=False):
        raise NotReady("EndpointInvalid", why)


def _listed(listed: HostList, endpoint: Endpoint) -> bool:
    if listed.names(endpoint.host, endpoint.port):
        return True
    try:
        return listed.holds(ipaddress.ip_address(endpoint.host))
    except ValueError:
        return False


def _secret(about: About, name: str, spec: ProviderSpec, endpoint: Endpoint, secrets: SecretsByName) -> SecretRef | None:
    if spec.credentials.type == "Inline":
        return inline_ref(about, name if about.kind == "AIRoutingPolicy" else "")
    wanted = spec.credentials.secret_ref
    if spec.credentials.type != "APIKey" or wanted is None:
        return None
    namespace = about.namespace or ""
    secret = secrets.get((namespace, wanted.name))
    if secret is None:
        text = f"there is no Secret {wanted.name} in namespace {namespace}; create it with the key {wanted.key}"
        raise NotReady("CredentialSecretNotFound", text)
    if unread := [str(fault) for fault in secret.about.faults if fault.reason == NOT_READABLE]:
        raise NotReady("CredentialSecretNotFound", unread[0])
    if wanted.key not in secret.keys:
        why = "; it has faults of its own" if secret.about.faults else ""
        raise NotReady("CredentialKeyMissing", f"the Secret {wanted.name} has no usable key {wanted.key}; add it{why}")
    if not hosts.allows(secret.hosts, endpoint, spec.schema):
        raise NotReady("HostNotAllowed", _not_allowed(wanted.name, secret.hosts, endpoint))
    return SecretRef(namespace, wanted.name, wanted.key)


def _not_allowed(name: str, annotation: str | None, endpoint: Endpoint) -> str:
    usual = 443 if endpoint.scheme == "https" else 80
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    entry = f"{'http://' if endpoint.scheme == 'http' else ''}{host}{'' if endpoint.port == usual else f':{endpoint.port}'}"
    wrong = hosts.problems(annotation)
    hint = f" (an entry there {wrong[0]})" if wrong else ""
    return f"the owner of the Secret {name} does not let it go to {entry}: its annotation aiaccess.dev/hosts must list {entry}{hint}"
