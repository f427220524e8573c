"""The only file that calls a provider: attach the credential, send, watch that it does not come back.

A URL is built from the provider object and the route table, never from the caller's path; a credential goes only to hosts
that its Secret names; an address is judged and then used, without a second look-up; redirects are refusals.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from broker import addresses, hosts, providers
from broker.credentials import Credential, SecretRef
from broker.errors import BrokerError, NoBackend, ProviderAuth, ProviderRateLimited, ProviderTimeout, ProviderUnavailable
from broker.grant import Endpoint, Provider
from broker.http1 import client
from broker.names import PLACEHOLDER_KEY

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]
Secret = Callable[[SecretRef], tuple[Credential | None, str | None]]

ANSWER_BYTES: Final = 64 << 20  # of one answer that is no stream; the largest documented ones have a few MiB
POOLS: Final = 1024  # origins with a pool of their own
CREDENTIAL_HEADERS: Final = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"))
_PASSED: Final = frozenset((b"content-type", b"retry-after", b"retry-after-ms", b"request-id", b"x-request-id", b"x-should-retry"))
_EVENT_STREAM: Final = b"text/event-stream"
_STAGES: Final = {
    "name": "its name leads nowhere",
    "connect": "no connection to its address",
    "tls": "its certificate was not accepted",
    "timeout": "no connection in time",
}
_NO_SECRET: Final = b""
_WEEK: Final = b"604800"  # seconds; what asks for longer is no honest Retry-After


class Upstream:
    """Calls providers over pooled connections.

    secret: gives a key, and the hosts that its owner lets it go to (hosts.py), as they are now: asked anew for each attempt, so
        that a Secret that changed is used for the next request, and never with the hosts of an older one.
    """

    def __init__(
        self,
        secret: Callable[[SecretRef], tuple[Credential | None, str | None]],
        allowed: addresses.HostList,
        off: addresses.Off,
    ) -> None:
        self._secret = secret
        self._rules = (allowed, off)
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._pools: dict[tuple[str, str, int, bool], client.Pool] = {}
        self._said: set[str] = set()
        self._heads: dict[tuple[Provider, str], bytes] = {}

    async def send(self, provider: Provider, path: str, caller_headers: Headers, body: bytes) -> "Answer":
        """One attempt, up to the head of the answer.

        Raises:
            ProviderUnavailable: `sent` is False when nothing can have reached the provider.
            ProviderTimeout: no byte of an answer came in time.
            NoBackend: its credential is gone since the decision.
        """
        kind = providers.PROVIDERS[provider.kind]
        secret, credential_line = self._attach(provider, kind, caller_headers)
        own = [pair for pair in caller_headers if pair[0] in kind.request_headers]
        own += [pair for pair in kind.headers if not any(pair[0] == name for name, _ in own)]
        head = b"%bcontent-length: %d\r\n%b%b\r\n" % (
            self._fixed_head(provider, path),
            len(body),
            b"".join(b"%b: %b\r\n" % pair for pair in own),
            credential_line,
        )
        try:
            got = await self._pool(provider).send(
                head, body, connect_s=provider.connect_s, first_byte_s=provider.first_byte_s, idle_s=provider.idle_s
            )
        except client.ExchangeFailed as failure:
            raise _as_refusal(failure) from failure
        return Answer(got, secret)

    def _attach(self, provider: Provider, kind: providers.Kind, caller_headers: Headers) -> tuple[bytes, bytes]:
        """The one credential of this attempt: its value, to watch for, and its header line."""
        if provider.auth == "None":
            return _NO_SECRET, b""
        if provider.auth == "Passthrough":
            own = [(n, v) for n, v in caller_headers if n in CREDENTIAL_HEADERS and not v.endswith(PLACEHOLDER_KEY.encode())]
            return _NO_SECRET, b"".join(b"%b: %b\r\n" % pair for pair in own[:1])
        credential, annotation = self._secret(provider.secret) if provider.secret else (None, None)
        if credential is None:
            raise NoBackend(
                "the provider's credential is missing; the owner of its AIRoutingPolicy finds the reason in its status", retry_after_s=1
            )
        if provider.auth == "APIKey" and not hosts.allows(annotation, provider.endpoint, provider.kind):
            raise NoBackend(
                "the owner of the key does not let it go to this host; the object has the reason in its status", retry_after_s=1
            )
        value = credential.reveal().encode()
        name, prefix = kind.auth
        return value, b"%b: %b%b\r\n" % (name, prefix, value)

    def _fixed_head(self, provider: Provider, path: str) -> bytes:
        """What is the same for every request to this provider on this path."""
        head = self._heads.get((provider, path))
        if head is None:
            if len(self._heads) >= POOLS:  # of objects that are no more
                self._heads.clear()
            lines = [
                f"POST {provider.endpoint.path}{path} HTTP/1.1",
                f"host: {_authority(provider.endpoint)}",
                "content-type: application/json",
                "accept-encoding: identity",  # usage must be readable, and a bomb must not unfold here
                "user-agent: inference-broker",
                *(f"{name}: {value}" for name, value in provider.headers),
            ]
            head = self._heads[provider, path] = "".join(f"{line}\r\n" for line in lines).encode()
        return head

    def _pool(self, provider: Provider) -> client.Pool:
        end = provider.endpoint
        key = (end.scheme, end.host, end.port, provider.own_service)
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= POOLS:  # objects come and go; what nobody uses now need not be kept
                for idle in [k for k, p in self._pools.items() if not p.busy]:
                    self._pools.pop(idle).retire()
            pool = self._pools[key] = client.Pool(lambda factory: self._dial(end, factory, own_service=provider.own_service))
        return pool

    async def _dial(self, end: Endpoint, factory: Callable[[], asyncio.BufferedProtocol], *, own_service: bool) -> None:
        """Resolve, judge, connect to what was judged. The pool bounds all of it in time."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(end.host, end.port, type=socket.SOCK_STREAM)
        error = OSError(f"{end.host} has no address")
        for family, _, _, _, where in found:
            why = addresses.refusal(end.host, end.port, str(where[0]), self._rules, own_service=own_service)
            if why is not None:
                self._say_once(why)
                error = OSError("refused")
                continue
            try:
                await loop.create_connection(
                    factory,
                    str(where[0]),
                    end.port,
                    family=family,
                    ssl=self._tls if end.scheme == "https" else None,
                    server_hostname=end.host if end.scheme == "https" else None,
                )
            except OSError as failure:
                error = failure
            else:
                return
        raise error

    def _say_once(self, why: str) -> None:
        """An endpoint that leads inside is a matter for the operator: the caller learns no address."""
        if why not in self._said and len(self._said) < POOLS:
            self._said.add(why)
            log.warning("address_refused", extra={"reason": why})

    @property
    def opened(self) -> int:
        return sum(pool.opened for pool in self._pools.values())

    @property
    def reused(self) -> int:
        return sum(pool.reused for pool in self._pools.values())

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()


class Answer:
    """What a provider said. The credential of the attempt is watched for: it never goes back to a caller."""

    def __init__(self, got: client.Answer, secret: bytes) -> None:
        self._got = got
        self._secret = secret
        self._tail = b""
        self.status = got.status
        self.passed_headers: Headers = [
            (name, value) for name, value in got.headers if (name in _PASSED) and not (secret and secret in value)
        ]
        if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in got.headers):
            got.close()
            raise ProviderUnavailable("the provider answered compressed, which nobody asked for")

    @property
    def is_event_stream(self) -> bool:
        return (self._got.header(b"content-type") or b"").lower().startswith(_EVENT_STREAM)

    def retry_after_s(self) -> float | None:
        """Seconds, when the provider named a plain number of them."""
        text = self._got.header(b"retry-after") or b""
        return float(text) if text.isdigit() and len(text) <= len(_WEEK) else None

    async def piece(self) -> bytes:
        """All bytes that are in by now; b"" at the end."""
        try:
            piece = await self._got.piece()
        except client.ExchangeFailed as failure:
            raise _as_refusal(failure) from failure
        if self._secret:
            seen = self._tail + piece  # a secret may be cut by the pieces
            if self._secret in seen:
                self.close()
                raise ProviderUnavailable("the provider's answer held a credential and was withheld")
            self._tail = seen[-len(self._secret) :]
        return piece

    async def whole(self) -> bytes:
        try:
            body = await self._got.whole(ANSWER_BYTES)
        except client.ExchangeFailed as failure:
            raise _as_refusal(failure) from failure
        if self._secret and self._secret in body:
            raise ProviderUnavailable("the provider's answer held a credential and was withheld")
        return body

    def close(self) -> None:
        """Give the connection back, or cut it when the answer is not complete."""
        self._got.close()


def refusal(provider: Provider, got: Answer) -> BrokerError | None:
    """What an answer other than 200 means for the caller; None = it is the caller's to mend and goes on as it is."""
    if got.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and provider.auth != "Passthrough":
        return ProviderAuth(
            "the provider refused the broker's credential; the owner of the Secret that the provider object names can mend it"
        )
    if got.status == HTTPStatus.TOO_MANY_REQUESTS:
        return ProviderRateLimited("the provider limits our rate; ask again later", retry_after_s=got.retry_after_s())
    if HTTPStatus.BAD_REQUEST <= got.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    return ProviderUnavailable(f"the provider answered with status {got.status}; ask again", retry_after_s=got.retry_after_s())


def _as_refusal(failure: client.ExchangeFailed) -> BrokerError:
    """The one mapping from what happened on a connection to what the caller is told."""
    if isinstance(failure, client.NotSent):
        refused = ProviderUnavailable(f"the provider cannot be reached ({_STAGES[failure.stage]}); ask again")
        refused.sent = False
        return refused
    if isinstance(failure, client.TooLate):
        return ProviderTimeout("the provider did not answer in time; ask again")
    return ProviderUnavailable("the provider's answer broke off or was not well-formed; ask again")


def _authority(end: Endpoint) -> str:
    host = f"[{end.host}]" if ":" in end.host else end.host
    return host if end.port == (443 if end.scheme == "https" else 80) else f"{host}:{end.port}"
