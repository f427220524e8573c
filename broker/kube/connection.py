"""The API server: who we are to it, and a deadline on every call. The only file that imports the official client.

What is used of it: how credentials are found (service account, kubeconfig with all that may stand there), and its ApiClient,
which puts them on each request. Objects are read as they come, not into its models: a field that a model does not know would
be lost, and it may be a restriction.
"""

import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    InClusterConfigLoader,
)

from broker.kube.decoding import read_status

CONNECT_S: Final = 10.0
GET_S: Final = 30.0
# A server sends a bookmark about every minute. One that is silent for longer is asked again.
SILENCE_S: Final = 90.0
RENEW_S: Final = 10.0  # at least so long between two looks at the credentials, after the server refused them
ERROR_BYTES: Final = 64 << 10
RETRY_AFTER_S: Final = 30.0
_TEXT: Final = 500
# A peer that vanished without a word is noticed after about 25 s, not when the kernel gives up.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 25_000))
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class NoCluster(ValueError):
    """There are no credentials for a cluster, or they cannot be used. The message says what to do."""


class Away(Exception):
    """No answer came, or not in time, or one that nobody can read."""


class TooLarge(Exception):
    """An answer is longer than was asked for."""


class Refused(Exception):
    """The API server answered, and not with 200.

    status: HTTP's.
    retry_after_s: what it asks us to wait; 0 when it does not.
    """

    def __init__(self, status: int, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Sent:
    """What goes with a request that changes something. media: application/json, or how a PATCH is meant."""

    method: str
    media: str
    fields: Mapping[str, object]


class Connection:
    """One API server, asked as one identity. Credentials are read again while it runs: tokens of service accounts rotate."""

    def __init__(self, kubeconfig: str | None, environ: Mapping[str, str]) -> None:
        self._kubeconfig = kubeconfig
        self._environ = environ
        self._api: Any = None
        self._connector: aiohttp.TCPConnector | None = None
        self._worn = False
        self._renewed_s = 0.0

    @classmethod
    async def open(cls, kubeconfig: str | None, environ: Mapping[str, str]) -> Self:
        """Find credentials; nothing is asked yet.

        kubeconfig: a file, or several with `:` between them; None = the pod's service account, else ~/.kube/config.

        Raises:
            NoCluster: there are none, or they cannot be used.
        """
        connection = cls(kubeconfig, environ)
        await connection._renew()
        return connection

    async def close(self) -> None:
        if self._api is not None:
            await self._api.close()
        if self._connector is not None:
            await self._connector.close()

    async def get(self, path: str, query: Mapping[str, str], most_bytes: int) -> bytes:
        """The whole answer.

        Raises:
            Refused, Away: as the server says, or does not.
            TooLarge: it has more than `most_bytes`.
        """
        found = bytearray()
        patience = aiohttp.ClientTimeout(total=GET_S, sock_connect=CONNECT_S)
        async with self.request(path, query, patience) as chunks:
            async for chunk in chunks:
                found += chunk
                if len(found) > most_bytes:
                    raise TooLarge(f"the answer has more than {most_bytes} bytes")
        return bytes(found)

    @asynccontextmanager
    async def watch(self, path: str, query: Mapping[str, str], longest_s: float) -> AsyncGenerator[AsyncIterator[bytes]]:
        """An answer as it comes in, for at most `longest_s`.

        Raises:
            Refused, Away: also while the answer is read.
        """
        patience = aiohttp.ClientTimeout(total=longest_s, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        async with self.request(path, {**query, "watch": "true"}, patience) as chunks:
            yield chunks

    @asynccontextmanager
    async def request(
        self, path: str, query: Mapping[str, str], patience: aiohttp.ClientTimeout, sent: Sent | None = None
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """GET, or what is sent. Only an answer of status 200, or 201 for what is new, is handed over."""
        try:
            if self._worn and time.monotonic() - self._renewed_s > RENEW_S:
                await self._renew()
            method, url, headers, *_ = await self._api.param_serialize(
                sent.method if sent else "GET",
                path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json"} | ({"Content-Type": sent.media} if sent else {}),
                auth_settings=["BearerToken"],
            )
            body = dict(sent.fields) if sent else None
            response: aiohttp.ClientResponse = (await self._api.call_api(method, url, headers, body, _request_timeout=patience)).response
            async with response:
                if response.status not in (200, 201) or response.history:  # OK or Created, and from the server that was asked
                    self._worn |= response.status == 401  # noqa: PLR2004  Unauthorized
                    raise Refused(response.status, await _why(response), _retry_after_s(response))
                yield response.content.iter_any()
        except (aiohttp.ClientSSLError, ssl.SSLError) as broken:
            self._worn = True  # the cluster's authority may have changed, and the file that names it with it
            raise Away(_said(broken)) from broken
        except (aiohttp.ClientError, TimeoutError, OSError, config.ConfigException, NoCluster) as broken:
            raise Away(_said(broken)) from broken

    async def _renew(self) -> None:
        """Read the credentials, and use them from now on. What runs with the old ones is cut off, and asks again."""
        self._renewed_s = time.monotonic()
        configuration = await self._configuration()
        session: dict[str, Any] = {"trust_env": False}  # no proxy, and no netrc, that nobody named for this
        configuration.client_session_kwargs = session
        api: Any = ApiClient(configuration)
        connector = aiohttp.TCPConnector(limit=0, ssl=api.rest_client.ssl_context, socket_factory=_socket)
        session["connector"] = connector
        await self.close()
        self._api, self._connector, self._worn = api, connector, False

    async def _configuration(self) -> Any:
        configuration: Any = Configuration()
        try:
            if self._kubeconfig:
                await _load(configuration, self._kubeconfig)
            elif self._environ.get(SERVICE_HOST_ENV_NAME):
                in_pod: Any = InClusterConfigLoader
                in_pod(SERVICE_TOKEN_FILENAME, SERVICE_CERT_FILENAME, environ=self._environ).load_and_set(configuration)
            else:
                await _load(configuration, str(Path.home() / ".kube" / "config"))
        except NoCluster:
            raise
        except (config.ConfigException, OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as wrong:
            raise NoCluster(f"there are no usable credentials for a cluster: {_said(wrong)}") from None
        if not configuration.verify_ssl:
            raise NoCluster("the kubeconfig says insecure-skip-tls-verify; name the cluster's CA as certificate-authority instead")
        server = urlsplit(str(configuration.host))
        if server.scheme != "https" and server.hostname not in _LOOPBACK:
            raise NoCluster("the API server is called with https, or without TLS on loopback alone")
        return configuration


async def _load(configuration: Any, files: str) -> None:
    if not _any_file(files):
        raise NoCluster(f"{files} is not there: give --kubeconfig, or run in a pod with a service account")
    loading: Any = config
    await loading.load_kube_config(config_file=files, client_configuration=configuration, persist_config=False)


def namespace_of(kubeconfig: str | None) -> str:
    """Where kubectl looks when nobody says where: the namespace of the current context, else `default`."""
    loading: Any = config
    try:
        _, context = loading.list_kube_config_contexts(kubeconfig or str(Path.home() / ".kube" / "config"))
        return str(context["context"].get("namespace") or "default")
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return "default"  # whoever opens a connection with it is told


def _any_file(files: str) -> bool:
    return any(Path(file).expanduser().is_file() for file in files.split(":"))


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """For a result of getaddrinfo."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if (option := getattr(socket, name, None)) is not None:  # some systems lack some
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


async def _why(response: aiohttp.ClientResponse) -> str:
    """The message of the Status that the API server sends with a refusal."""
    _, message = read_status(await response.content.read(ERROR_BYTES))
    return cleaned(f"{response.status} {message or response.reason or ''}")


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0


def _said(broken: BaseException) -> str:
    return cleaned(f"{type(broken).__name__}: {broken}" if str(broken) else type(broken).__name__)


def cleaned(text: str) -> str:
    """Printable and short: it comes from the other side, and goes to a log."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_TEXT]
