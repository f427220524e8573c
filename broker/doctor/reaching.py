"""Can each provider be reached from here, and, when the operator lets us ask, does it take the key.

The one place besides upstream.py that calls a provider, because it asks for something else: GET of the list of models, which costs
nothing. The rules are the same: the address is judged and then used; the key goes out only of a Provider that is ready, so only to a
host that its Secret's owner named; no redirects, no proxies; what is answered is read as far as the head, and never shown.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import Final

from broker import addresses, policy
from broker.doctor.finding import Finding, fail, ok, warn
from broker.grant import Provider
from broker.objects import Resources
from broker.providers import PROVIDERS

CONNECT_S: Final = 10.0
ANSWER_S: Final = 15.0
HEAD_BYTES: Final = 64 << 10
AT_ONCE: Final = 8
_CHECK: Final = "provider"
_NETWORK: Final = "look at DNS, at the NetworkPolicies of the broker's namespace, and at the way out of the cluster"


@dataclass(frozen=True, slots=True)
class Reached:
    """What became of one provider. date_s: what its clock says, where it said so; epoch seconds."""

    finding: Finding
    date_s: float | None = None


async def examine(snapshot: policy.Snapshot, resources: Resources, *, ask: bool) -> Sequence[Reached]:
    """Look at every provider that is ready.

    ask: send one GET with the key to each.
    """
    providers = {backend.provider for offer in snapshot.offers.values() for backend in offer.backends}
    turns = asyncio.Semaphore(AT_ONCE)

    async def look(provider: Provider) -> Reached:
        async with turns:
            return await _look(provider, resources, snapshot.settings, ask=ask)

    ordered = sorted(providers, key=lambda one: (one.namespace, one.name, str(one.endpoint)))
    return await asyncio.gather(*(look(provider) for provider in ordered))


async def _look(provider: Provider, resources: Resources, settings: policy.Settings, *, ask: bool) -> Reached:
    name = f"{provider.namespace}/{provider.name} at {provider.endpoint}"
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await _connect(provider, settings)
    except (_Forbidden, OSError) as away:  # TimeoutError and ssl.SSLError are OSErrors
        return Reached(_unreached(name, away))
    try:
        if not ask:
            return Reached(ok(_CHECK, f"{name} can be reached; --ask-providers would try the key"))
        async with asyncio.timeout(ANSWER_S):
            writer.write(_request(provider, resources))
            await writer.drain()
            status, date_s = _read_head(await reader.readuntil(b"\r\n\r\n"))
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return Reached(fail(_CHECK, f"{name}: it gave no HTTP answer in time", "look whether an API of this kind is at that host and port"))
    finally:
        writer.transport.abort()
    return Reached(_judge(provider, name, status), date_s)


def _unreached(name: str, away: Exception) -> Finding:
    match away:
        case _Forbidden():
            found, remedy = str(away), "use a public address, or list the host in --allow-hosts if that is meant"
        case socket.gaierror():
            found, remedy = f"its name leads nowhere ({away.strerror})", _NETWORK
        case ssl.SSLCertVerificationError():
            found = f"its certificate is not accepted ({away.verify_message})"
            remedy = "use the name that its certificate has; certificates of a company's own CA come in with SSL_CERT_FILE"
        case ssl.SSLError():
            found, remedy = f"no TLS there ({away.reason})", "look at the port; http:// is for Services of the same namespace"
        case ConnectionRefusedError():
            found, remedy = "nothing listens there (Connection refused)", "start the server, or name the host and port where it listens"
        case OSError():
            why = os.strerror(away.errno) if away.errno else "nothing in time"
            found, remedy = f"no connection ({why})", _NETWORK
        case _:
            raise away
    return fail(_CHECK, f"{name}: {found}", remedy)


class _Forbidden(Exception):
    """The address is none that a provider may lead to."""


async def _connect(provider: Provider, settings: policy.Settings) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Resolve, judge, connect to what was judged."""
    end, rules = provider.endpoint, (settings.allowed, settings.off)
    found = await asyncio.get_running_loop().getaddrinfo(end.host, end.port, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    canonical = next((name for _, _, _, name, _ in found if name), None)
    judge = partial(addresses.refusal, end.host, end.port, rules=rules, own_service=provider.own_service, canonical=canonical)
    judged = [(str(where[0]), judge(str(where[0]))) for *_, where in found]
    error: Exception = _Forbidden(next((why for _, why in judged if why), f"{end.host} has no address"))
    for address in _allowed(judged):
        try:
            return await asyncio.open_connection(
                address,
                end.port,
                limit=HEAD_BYTES,
                ssl=ssl.create_default_context() if end.scheme == "https" else None,
                server_hostname=end.host if end.scheme == "https" else None,
            )
        except OSError as failure:
            error = failure
    raise error


def _allowed(judged: Iterable[tuple[str, str | None]]) -> Sequence[str]:
    return [address for address, why in judged if why is None]


def _request(provider: Provider, resources: Resources) -> bytes:
    end, kind = provider.endpoint, PROVIDERS[provider.kind]
    host = f"[{end.host}]" if ":" in end.host else end.host
    usual = 443 if end.scheme == "https" else 80
    lines = [
        f"GET {end.path}/models HTTP/1.1".encode(),
        f"host: {host}{'' if end.port == usual else f':{end.port}'}".encode(),
        b"accept: application/json",
        b"user-agent: inference-broker",
        b"connection: close",
        *(b"%b: %b" % pair for pair in kind.headers),
        *(f"{name}: {value}".encode() for name, value in provider.headers),
    ]
    credential = resources.credentials.get(provider.secret) if provider.secret else None
    if credential is not None and provider.auth in ("APIKey", "Inline"):
        header, prefix = kind.auth
        lines.append(b"%b: %b%b" % (header, prefix, credential.reveal().encode()))
    return b"\r\n".join([*lines, b"", b""])


def _read_head(head: bytes) -> tuple[int, float | None]:
    """The status, and the date where there is one.

    Raises:
        ValueError: this is no HTTP.
    """
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
        raise ValueError("no HTTP")
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"date":
            try:
                return int(rest[:3]), parsedate_to_datetime(value.strip().decode("ascii")).timestamp()
            except ValueError:  # UnicodeDecodeError is one
                return int(rest[:3]), None
    return int(rest[:3]), None


def _judge(provider: Provider, name: str, status: int) -> Finding:
    keyed = provider.auth in ("APIKey", "Inline")
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return ok(_CHECK, f"{name} answers{' and takes the key' if keyed else ''}")
    if status < HTTPStatus.BAD_REQUEST:
        return fail(
            _CHECK, f"{name} sends us elsewhere (status {status}), and redirects are not followed", "write the endpoint that it means"
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return _refused(provider, name, status, keyed=keyed)
    remedies: Mapping[int, str] = {
        HTTPStatus.NOT_FOUND: "it has no list of models there: look whether the path of the endpoint is right",
        HTTPStatus.TOO_MANY_REQUESTS: "it limits our rate: ask the provider for more, or add a backend",
    }
    return warn(_CHECK, f"{name} answers with status {status}", remedies.get(status, "ask the provider"))


def _refused(provider: Provider, name: str, status: int, *, keyed: bool) -> Finding:
    if keyed:
        ref = provider.secret
        where = f"key {ref.key} of Secret {ref.namespace}/{ref.name}" if ref and provider.auth == "APIKey" else "the key in the object"
        return fail(_CHECK, f"{name} refuses {where} (status {status})", "put a valid key there, with the right to list and call models")
    if provider.auth == "Passthrough":
        return ok(_CHECK, f"{name} answers, and wants a key, which agents bring")
    return fail(_CHECK, f"{name} wants a key, and the object names none (status {status})", "give the provider credentials of type APIKey")
