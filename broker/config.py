"""Every switch of every command, once: its flag, its environment variable, its default, what it means. Read once, in cli.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from broker.measures import Kept, age, duration, kept, lifetime, moment, one_of, size
from broker.names import ADMIN_PORT, BROKER_PORT, GATEWAY_PORT, PORT_MAX

ENV_PREFIX: Final = "BROKER_"
STALENESS_MIN_S: Final = 120.0
AUDIT_MIN_BYTES: Final = 64 << 10
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "json", "text")


class ConfigError(ValueError):
    """A switch or its variable is wrong. The message names it, and what it takes."""


@dataclass(frozen=True, slots=True)
class Switch:
    """One setting. `read` turns its text into a value or raises ValueError with what is wrong.

    default: text, read like any other; None = required, unless `optional`.
    many: repeatable; in the environment variable the entries are separated by commas.
    aliases: further environment variables that are read after BROKER_….
    prefix: of its own variable; the webhook's is another.
    """

    flag: str
    metavar: str
    help: str
    default: str | None = None
    read: Callable[[str], Any] = str
    many: bool = False
    optional: bool = False
    aliases: tuple[str, ...] = ()
    prefix: str = ENV_PREFIX

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        return self.prefix + self.name.upper()

    def value(self, given: list[str] | str | None, environ: Mapping[str, str]) -> Any:
        """The command line wins over the environment, the environment over the default.

        Raises:
            ConfigError: it is missing, or it cannot be read.
        """
        texts = [given] if isinstance(given, str) else given
        if not texts:
            variable = next((v for v in (self.variable, *self.aliases) if environ.get(v)), None)
            text = environ[variable] if variable else self.default
            if text is None:
                if self.optional or self.many:
                    return () if self.many else None
                raise ConfigError(f"{self.flag} {self.metavar} is missing: give it, or set {self.variable}")
            texts = [entry.strip() for entry in text.split(",") if entry.strip()] if self.many else [text]
        try:
            values = [self.read(text) for text in texts]
        except ValueError as error:
            raise ConfigError(f"{self.flag}: {error}") from error
        return tuple(values) if self.many else values[-1]


def count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r} is no whole number above 0")
    return int(text)


def audit_size(text: str) -> int:
    most = size(text)
    if most < AUDIT_MIN_BYTES:
        raise ValueError(f"{text} is not at least {AUDIT_MIN_BYTES >> 10}KiB: there would be more files than anybody can look through")
    return most


def moment_of(flag: str, text: str | None) -> datetime | None:
    """The day, time or age that a command was given.

    Raises:
        ConfigError: it is none.
    """
    try:
        return moment(text, datetime.now(UTC)) if text else None
    except ValueError as wrong:
        raise ConfigError(f"{flag}: {wrong}") from wrong


def yes_or_no(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """HOST:PORT, :PORT (all interfaces) or [IPv6]:PORT."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > PORT_MAX or (":" in host and not host.startswith("[")):
        raise ValueError(f"{text!r} is not HOST:PORT")
    return Address(host.strip("[]"), int(port))


@dataclass(frozen=True, slots=True)
class TrustBundle:
    trust_domain: str
    file: Path


def trust_bundle(text: str) -> TrustBundle:
    domain, equals, file = text.partition("=")
    if not equals or not domain or not file:
        raise ValueError(f"{text!r} is not TRUST_DOMAIN=FILE")
    return TrustBundle(domain, Path(file))


@dataclass(frozen=True, slots=True)
class BundleConfigMap:
    """Where in the cluster the trust bundle of a trust domain is."""

    trust_domain: str
    namespace: str
    name: str


def bundle_configmap(text: str) -> BundleConfigMap:
    domain, equals, place = text.partition("=")
    namespace, slash, name = place.partition("/")
    if not equals or not domain or not slash or not namespace or not name or "/" in name:
        raise ValueError(f"{text!r} is not TRUST_DOMAIN=NAMESPACE/NAME")
    return BundleConfigMap(domain, namespace, name)


@dataclass(frozen=True, slots=True)
class Workload:
    spiffe_id: str
    port: int


def workload(text: str) -> Workload:
    spiffe_id, equals, port = text.rpartition("=")
    if not equals or not spiffe_id.startswith("spiffe://") or not port.isascii() or not port.isdigit() or int(port) > PORT_MAX:
        raise ValueError(f"{text!r} is not SPIFFE_ID=PORT")
    return Workload(spiffe_id, int(port))


def csv(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def resources(text: str) -> Path | None:
    """The folder of the objects; None = they are in the cluster. A folder called kubernetes is ./kubernetes."""
    return None if text == "kubernetes" else Path(text)


def staleness(text: str) -> float:
    longest_s = duration(text)
    if longest_s < STALENESS_MIN_S:
        raise ValueError(f"{text} is less than 2m: of a quiet cluster one hears about once a minute")
    return longest_s


_RESOURCES = Switch(
    "--resources",
    "kubernetes|DIR",
    "where the objects are: the cluster (docs/kubernetes.md), or a folder of YAML files; watched for changes",
    read=resources,
)
_NAMESPACES: Final = Switch("--namespaces", "A,B|*", "namespaces whose objects are read, besides its own; * = all", "", csv)
_KUBECONFIG: Final = Switch(
    "--kubeconfig",
    "FILE",
    "credentials for the API server; without it those of the pod's service account, else ~/.kube/config",
    optional=True,
    aliases=("KUBECONFIG",),
)
_SOCKET = Switch(
    "--spiffe-endpoint-socket",
    "unix:///PATH",
    "the SPIFFE Workload API that gives this process its SVID",
    aliases=("SPIFFE_ENDPOINT_SOCKET",),
)
_BUNDLE_CONFIGMAP: Final = Switch(
    "--trust-bundle-configmap",
    "TD=NS/NAME",
    "the ConfigMap with the CA certificates of a trust domain, as SPIRE writes it; repeatable",
    read=bundle_configmap,
    many=True,
)
_LOG = (
    Switch("--log-level", "LEVEL", "debug, info, warning or error", "info", one_of(*LOG_LEVELS)),
    Switch("--log-format", "FORMAT", "json or text; auto = text on a terminal", "auto", one_of(*LOG_FORMATS)),
)
_ADMIN_DOOR: Final = (
    Switch("--admin-socket", "PATH", "a Unix socket for broker usage: for the broker's own user and root alone", read=Path, optional=True),
    Switch("--admin-mtls", "HOST:PORT", "where --admin-identities may use broker usage over mutual TLS", read=address, optional=True),
    Switch("--admin-identities", "SPIFFE_ID,…", "who may, whatever the policies say of them", "", csv),
)
_BROKER: Final = (
    Switch("--listen", "HOST:PORT", "where the mutual TLS door listens", f":{BROKER_PORT}", address),
    Switch("--admin", "HOST:PORT", "where /healthz, /readyz and /metrics listen", f"127.0.0.1:{ADMIN_PORT}", address),
    *_ADMIN_DOOR,
    Switch("--audit", "FILE|-", "where audit lines go; - is the standard output", "-"),
    Switch(
        "--audit-key-file",
        "FILE",
        "a secret of at least 32 bytes; with it nobody without it can rewrite audit lines unseen",
        read=Path,
        optional=True,
    ),
    Switch("--audit-max-bytes", "SIZE", "begin a new audit file when one has so many, at least 64KiB", read=audit_size, optional=True),
    Switch("--audit-max-age", "AGE", "begin a new audit file when the first line of one is so old: 7d, 24h", read=age, optional=True),
    Switch("--audit-keep", "N|AGE", "delete full audit files: all but the last N, or those older than 90d, 24h", read=kept, optional=True),
    Switch("--sealing-keys", "FILE", "keys that seal ids of state at providers to who made it (docs/sealing.md)", read=Path, optional=True),
    Switch("--quota-store", "URL", "rediss://USER@HOST:PORT/DB?…, sqlite:///PATH, or memory: (tests and benchmarks: forgets at a restart)"),
    Switch("--quota-prefix", "TEXT", "what the names of all keys in Redis begin with", "aiaccess/"),
    Switch("--allow-insecure-quota-store", "BOOL", "take a Redis without TLS, or without a user of its own", "false", yes_or_no),
    Switch("--quota-deadline", "DURATION", "after which a quota store that has not answered counts as away", "250ms", duration),
    Switch("--namespace", "NS", "the broker's own namespace: a Deny in it covers every namespace", "inference-broker"),
    Switch("--shared-model-namespaces", "A,B", "namespaces whose models every caller may name bare, in this order", "", csv),
    Switch("--allow-hosts", "HOST[:PORT],CIDR", "upstreams that may be at loopback or private addresses", "", csv),
    Switch(
        "--plain-http-hosts",
        "HOST[:PORT]",
        "upstreams that may be called without TLS, besides Services of the object's own namespace",
        "",
        csv,
    ),
    Switch(
        "--trust-bundle",
        "TD=FILE",
        "CA certificates of a further trust domain, PEM or a SPIFFE bundle (JSON); repeatable",
        read=trust_bundle,
        many=True,
    ),
    Switch("--allow-inline-credentials", "BOOL", "accept credentials written into objects (type Inline)", "false", yes_or_no),
    Switch(
        "--read-on-after-hangup", "DURATION", "how long to read on for the usage when a caller has left; 0s = close at once", "0s", duration
    ),
    Switch("--otel-content", "BOOL", "put prompts and answers, redacted, on spans (docs/telemetry.md)", "false", yes_or_no),
    Switch("--drain", "DURATION", "how long exchanges may go on after SIGTERM", "25s", duration),
    Switch("--max-body", "SIZE", "largest request body", "32MiB", size),
    Switch(
        "--max-bodies",
        "SIZE",
        "request bodies in memory at a time, and as much of answers that are no streams (half of it for one identity); beyond it 503 busy",
        "64MiB",
        size,
    ),
    Switch("--max-connections", "N", "connections from gateways at a time", "2048", count),
)

CLUSTER: Final = (  # for commands that answer and end
    Switch("--resources", "kubernetes|DIR", "where the objects are, when no -f says it", optional=True),
    _NAMESPACES,
    _KUBECONFIG,
)
_CLUSTER: Final = (
    _NAMESPACES,
    _KUBECONFIG,
    Switch(
        "--max-staleness",
        "DURATION",
        "with --resources kubernetes: refuse (503) when nothing was heard of a namespace for so long, at least 2m; without it never",
        read=staleness,
        optional=True,
    ),
    _BUNDLE_CONFIGMAP,
)
SERVE: Final = (_RESOURCES, _SOCKET, *_CLUSTER, *_BROKER, *_LOG)
GATEWAY: Final = (
    Switch("--broker", "HOST:PORT", "the broker; repeatable, all addresses of a name are used", read=address, many=True),
    Switch("--broker-spiffe-id", "ID", "who the broker must be, checked before a byte of a prompt leaves"),
    _SOCKET,
    Switch("--port", "PORT", "where agents reach it, on loopback only", str(GATEWAY_PORT), count),
    Switch("--passthrough", "BOOL", "forward the agent's own credential, for providers of type Passthrough", "false", yes_or_no),
    Switch("--drain", "DURATION", "how long exchanges may go on after SIGTERM", "25s", duration),
    *_LOG,
)
_NOT_IN_DEV: Final = (
    *("--admin-socket", "--admin-mtls", "--admin-identities", "--sealing-keys"),
    *("--listen", "--audit", "--quota-store", "--quota-prefix", "--allow-insecure-quota-store", "--namespace", "--max-connections"),
)
DEV: Final = (
    Switch("--resources", "DIR", "folder of YAML files with the objects, watched for changes", ".", Path),
    Switch(
        "--workload", "SPIFFE_ID=PORT", "a local gateway on this loopback port with this identity; repeatable", read=workload, many=True
    ),
    Switch("--state", "DIR", "quotas, audit lines and sockets live here; kept between runs", ".state", Path),
    Switch("--svid-ttl", "DURATION", "how long an SVID lives; renewed at half of it", "1h", lifetime),
    Switch("--rotate-ca-every", "DURATION", "how often the authority makes a new CA", "24h", lifetime),
    *(s for s in _BROKER if s.flag not in _NOT_IN_DEV),
    Switch("--listen", "HOST:PORT", "where the mutual TLS door listens; port 0 = any", "127.0.0.1:0", address),
    Switch("--namespace", "NS", "the broker's own namespace: a Deny in it covers every namespace", "inference-broker"),
    *_LOG,
)

_OF_A_BROKER: Final = (
    *("--namespace", "--shared-model-namespaces", "--allow-hosts", "--plain-http-hosts", "--allow-inline-credentials"),
    *("--quota-prefix", "--allow-insecure-quota-store", "--quota-deadline", "--admin"),
)
CONTROLLER: Final = (
    _NAMESPACES,
    _KUBECONFIG,
    Switch("--quota-store", "URL", "the store that the brokers share; without it statuses say nothing of usage", "", str),
    Switch("--lease-name", "NAME", "the Lease by which one of several controllers leads", "broker-controller"),
    Switch("--brokers-seal", "BOOL", "whether the brokers have --sealing-keys, for what statuses say", read=yes_or_no, optional=True),
    _BUNDLE_CONFIGMAP,
    *(s for s in _BROKER if s.flag in _OF_A_BROKER),
    *_LOG,
)


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What a controller was told, as BrokerSettings has it of a broker."""

    namespace: str
    namespaces: tuple[str, ...]
    admin: Address
    kubeconfig: str | None = None
    quota_store: str = ""
    quota_deadline: float = 0.25
    quota_prefix: str = "aiaccess/"
    allow_insecure_quota_store: bool = False
    lease_name: str = "broker-controller"
    brokers_seal: bool | None = None
    trust_bundle_configmap: tuple[BundleConfigMap, ...] = ()
    shared_model_namespaces: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    plain_http_hosts: tuple[str, ...] = ()
    allow_inline_credentials: bool = False
    log_level: str = "info"
    log_format: str = "auto"
    environ: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What a running broker was told. Field names are the switches'; durations in seconds, sizes in bytes.

    resources: a folder; None = the Kubernetes API.
    """

    resources: Path | None
    spiffe_endpoint_socket: str
    listen: Address
    admin: Address
    audit: str
    quota_store: str
    namespace: str
    quota_deadline: float = 0.25
    quota_prefix: str = "aiaccess/"
    allow_insecure_quota_store: bool = False
    namespaces: tuple[str, ...] = ()
    kubeconfig: str | None = None
    max_staleness: float | None = None
    shared_model_namespaces: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    plain_http_hosts: tuple[str, ...] = ()
    trust_bundle: tuple[TrustBundle, ...] = ()
    trust_bundle_configmap: tuple[BundleConfigMap, ...] = ()
    allow_inline_credentials: bool = False
    read_on_after_hangup: float = 0.0
    otel_content: bool = False
    drain: float = 25.0
    max_body: int = 32 << 20
    max_bodies: int = 64 << 20
    max_connections: int = 2048
    audit_key_file: Path | None = None
    audit_max_bytes: int | None = None
    audit_max_age: float | None = None
    audit_keep: Kept | None = None
    sealing_keys: Path | None = None
    admin_socket: Path | None = None
    admin_mtls: Address | None = None
    admin_identities: tuple[str, ...] = ()
    log_level: str = "info"
    log_format: str = "auto"
    environ: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)  # for ${env:…} in Secrets
