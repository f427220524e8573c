"""Every switch of the webhook, once: its flag, its environment variable, its default, what it means."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from broker.config import LOG_FORMATS, LOG_LEVELS, Address, ConfigError, Switch, address, count, csv, yes_or_no
from broker.identity import parse_spiffe_id
from broker.measures import duration, one_of
from broker.names import ADMIN_PORT, GATEWAY_PORT, PORT_MAX, WEBHOOK_PORT
from broker.objects.words import LABEL, SUBDOMAIN

PREFIX: Final = "WEBHOOK_"
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
UID_MAX: Final = 2**31 - 1
PORT_MIN: Final = 1024  # below it the gateway would need a capability

# None of these lets a `$(NAME)` through, which Kubernetes would replace in a container's arguments
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/@-]{0,499}").fullmatch
_RESOURCE = re.compile(r"(cpu|memory)=([0-9]{1,9}(?:\.[0-9]{1,3})?(?:m|Ki|Mi|Gi|k|M|G)?)").fullmatch
_SOCKET = re.compile(r"unix://(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*){2,}").fullmatch
_DRIVER = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?").fullmatch
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}").fullmatch
_LABEL = re.compile(LABEL).fullmatch
_SUBDOMAIN = re.compile(SUBDOMAIN).fullmatch

Amounts = dict[str, str]  # cpu and memory, as Kubernetes writes them


def image(text: str) -> str:
    if _IMAGE(text) is None:
        raise ValueError(f"{text!r} is no container image such as registry.example/inference-broker:1.0.0")
    return text


def pull_policy(text: str) -> str:
    if text not in PULL_POLICIES:
        raise ValueError(f"{text!r} is none of {', '.join(PULL_POLICIES)}")
    return text


def broker_address(text: str) -> Address:
    found = address(text)
    if _HOST(found.host) is None or found.port == 0:
        raise ValueError(f"{text!r} is not HOST:PORT, with a host that pods can resolve")
    return found


def spiffe_id(text: str) -> str:
    found = parse_spiffe_id(text)
    if not found.path:
        raise ValueError(f"{text!r} is a trust domain, not a workload: give the broker's whole SPIFFE ID")
    return found.spiffe_id


def uid(text: str) -> int:
    found = count(text)
    if found > UID_MAX:
        raise ValueError(f"{text!r} is no user id above 0")
    return found


def port(text: str) -> int:
    """Of a local gateway.

    Raises:
        ValueError: it is no number, or a gateway cannot listen there.
    """
    found = count(text) if len(text) < len("100000") else 0
    if not PORT_MIN <= found <= PORT_MAX:
        raise ValueError(f"{text[:20]!r} is no port from {PORT_MIN} to {PORT_MAX}")
    return found


def amounts(text: str) -> Amounts:
    found = [_RESOURCE(entry) for entry in csv(text)]
    pairs = [(one[1], one[2]) for one in found if one is not None]
    if len(pairs) < len(found) or len(dict(pairs)) < len(pairs):
        raise ValueError(f"{text!r} is not a list such as cpu=10m,memory=64Mi")
    return dict(pairs)


def socket(text: str) -> str:
    """The Workload API as the gateway sees it; its folder is where the volume is mounted."""
    if _SOCKET(text) is None:
        raise ValueError(f"{text!r} is no unix:///FOLDER/SOCKET")
    return text


def driver(text: str) -> str:
    if _DRIVER(text) is None:
        raise ValueError(f"{text!r} is no name of a CSI driver")
    return text


def _switch(
    flag: str, metavar: str, meaning: str, default: str | None = None, read: Callable[[str], Any] = str, *, many: bool = False
) -> Switch:
    return Switch(flag, metavar, meaning, default, read, many, prefix=PREFIX)


def _may(flag: str, metavar: str, meaning: str, read: Callable[[str], Any] = str) -> Switch:
    """One that may be left out."""
    return Switch(flag, metavar, meaning, None, read, optional=True, prefix=PREFIX)


def subdomain(text: str) -> str:
    if _SUBDOMAIN(text) is None:
        raise ValueError(f"{text!r} is no name of an object")
    return text


def label(text: str) -> str:
    if _LABEL(text) is None:
        raise ValueError(f"{text!r} is no name of a namespace")
    return text


def dns_names(text: str) -> tuple[str, ...]:
    found = csv(text)
    for entry in found:
        if _SUBDOMAIN(entry) is None:
            ip_address(entry)  # says itself what is wrong
    return tuple(found)


SWITCHES: Final = (
    _switch("--listen", "HOST:PORT", "where the API server asks, over HTTPS", f":{WEBHOOK_PORT}", address),
    _switch("--admin", "HOST:PORT", "where /healthz, /readyz and /metrics listen", f"127.0.0.1:{ADMIN_PORT}", address),
    _may("--tls-cert", "FILE", "the serving certificate and what it was signed by, PEM, where somebody else makes it", Path),
    _may("--tls-key", "FILE", "the key of that certificate, PEM", Path),
    _may("--tls-secret", "NAME", "the Secret in which the webhook keeps a certificate of its own, shared by its replicas", subdomain),
    _may("--service", "NAME", "the Service by which the API server reaches the webhook; that certificate is for it", subdomain),
    _may("--tls-names", "LIST", "names and addresses that the certificate is for besides, where a webhook is reached by URL", dns_names),
    _may("--webhook-configuration", "NAME", "the name of both webhook configurations, which get the CA of that certificate", subdomain),
    _may("--namespace", "NS", "the broker's own namespace, where all of this is", label),
    _may("--kubeconfig", "FILE", "how to reach the API server; without it as the pod's service account"),
    _switch("--broker", "HOST:PORT", "the broker, as pods reach it; repeatable", None, broker_address, many=True),
    _switch("--broker-spiffe-id", "ID", "who the broker must be, checked by each local gateway", None, spiffe_id),
    _switch("--gateway-image", "IMAGE", "the image of the local gateway", None, image),
    _switch("--gateway-pull-policy", "POLICY", "Always, IfNotPresent or Never", "IfNotPresent", pull_policy),
    _switch("--gateway-port", "PORT", "where agents reach their local gateway, unless their Pod says another", str(GATEWAY_PORT), port),
    _switch("--gateway-uid", "UID", "the user and group that local gateways run as; no agent should have it", "64180", uid),
    _switch("--gateway-requests", "LIST", "what a local gateway asks for", "cpu=10m,memory=64Mi", amounts),
    _switch("--gateway-limits", "LIST", "what a local gateway may use at most", "memory=192Mi", amounts),
    _switch("--gateway-passthrough", "BOOL", "forward agents' own credentials, for providers of type Passthrough", "false", yes_or_no),
    _switch("--spiffe-csi-driver", "NAME", "the CSI driver that mounts the SPIFFE Workload API", "csi.spiffe.io", driver),
    _switch(
        "--spiffe-socket",
        "unix:///PATH",
        "the Workload API's socket as the local gateway sees it",
        "unix:///spiffe-workload-api/spire-agent.sock",
        socket,
    ),
    _switch("--drain", "DURATION", "how long reviews are still answered after SIGTERM, until none are sent here any more", "5s", duration),
    _switch("--log-level", "LEVEL", "debug, info, warning or error", "info", one_of(*LOG_LEVELS)),
    _switch("--log-format", "FORMAT", "json or text; auto = text on a terminal", "auto", one_of(*LOG_FORMATS)),
)


@dataclass(frozen=True, slots=True)
class Gateway:
    """What every injected local gateway is like. All of it is the operator's word: a Pod changes the port and nothing else."""

    image: str
    broker: tuple[Address, ...]
    broker_spiffe_id: str
    pull_policy: str
    port: int
    uid: int
    requests: Amounts
    limits: Amounts
    passthrough: bool
    spiffe_csi_driver: str
    spiffe_socket: str


@dataclass(frozen=True, slots=True)
class Given:
    """A certificate that somebody else makes."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Kept:
    """A certificate of our own, and where it is kept and published.

    configuration: the name of both webhook configurations; one that is not there is left out.
    names: DNS names and addresses at which API servers ask.
    """

    namespace: str
    secret: str
    configuration: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the webhook was told. `drain` in seconds; `namespace` "" = nobody said."""

    listen: Address
    admin: Address
    certificate: Given | Kept
    namespace: str
    kubeconfig: str | None
    gateway: Gateway
    drain: float
    log_level: str
    log_format: str


def read(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Settings:
    """The command line wins over the environment, the environment over the default.

    Raises:
        ConfigError: a switch is missing or cannot be read.
        SystemExit: --help, or an unknown switch.
    """
    given = vars(_parser().parse_args(argv))
    values = {switch.name: switch.value(given[switch.name], environ) for switch in SWITCHES}
    if not values["broker"]:
        raise ConfigError(f"--broker HOST:PORT is missing: give it, or set {PREFIX}BROKER")
    about_gateways = {field.name: values.pop(_switch_of(field.name)) for field in fields(Gateway)}
    certificate = _certificate({name: values.pop(name) for name in _ABOUT_CERTIFICATES}, values["namespace"] or "")
    values["namespace"] = values["namespace"] or ""
    return Settings(gateway=Gateway(**about_gateways), certificate=certificate, **values)


_ABOUT_CERTIFICATES: Final = ("tls_cert", "tls_key", "tls_secret", "service", "tls_names", "webhook_configuration")


def _certificate(given: Mapping[str, Any], namespace: str) -> Given | Kept:
    if given["tls_secret"] is None:
        if given["tls_cert"] is None or given["tls_key"] is None:
            raise ConfigError("give --tls-cert and --tls-key, or --tls-secret for a certificate that the webhook makes and renews itself")
        return Given(given["tls_cert"], given["tls_key"])
    if given["tls_cert"] is not None or given["tls_key"] is not None:
        raise ConfigError("--tls-secret is instead of --tls-cert and --tls-key: leave one or the other out")
    configuration = given["webhook_configuration"]
    names = (*((f"{given['service']}.{namespace}.svc",) if given["service"] else ()), *(given["tls_names"] or ()))
    needed = (("--namespace", namespace), ("--webhook-configuration", configuration), ("--service", names))
    if missing := [flag for flag, value in needed if not value]:
        raise ConfigError(f"--tls-secret needs {' and '.join(missing)} as well")
    return Kept(namespace, given["tls_secret"], configuration, tuple(dict.fromkeys(names)))


def _switch_of(field: str) -> str:
    return field if field.startswith(("broker", "spiffe")) else f"gateway_{field}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m webhook",
        description="The admission webhook: gives agents' Pods their local gateway, and reads our objects before they are stored.",
    )
    for switch in SWITCHES:
        default = f"; default {switch.default}" if switch.default else ""
        parser.add_argument(
            switch.flag,
            metavar=switch.metavar,
            help=f"{switch.help} [{switch.variable}{default}]".replace("%", "%%"),
            action="append" if switch.many else "store",
        )
    return parser
