"""The only file that calls a provider for an agent: attach the credential, send, watch that it does not come back.

A URL is built from the provider object and the route table, never from the caller's path; a credential goes only to hosts
that its Secret names; an address is judged and then used, without a second look-up; redirects are refusals.
"""

import asyncio
import logging
import secrets
import socket
import ssl
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from broker import addresses, hosts, providers
from broker.credentials import Credential, SecretRef
from broker.errors import BrokerError, Busy, NoBackend, ProviderAuth, ProviderRateLimited, ProviderTimeout, ProviderUnavailable
from broker.forms import Form
from broker.grant import Cause, Endpoint, Provider
from broker.http1 import client
from broker.names import PLACEHOLDER_KEY

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]
Secret = Callable[[SecretRef], tuple[Credential | None, str | None]]

ANSWER_BYTES: Final = 32 << 20  # of one answer that is no stream; the largest documented ones, ten images, have as much
END_OF_STATUSES: Final = 600
POOLS: Final = 1024  # origins with a pool of their own
CREDENTIAL_HEADERS: Final = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"))
_PASSED: Final = frozenset((b"retry-after", b"retry-after-ms", b"request-id", b"x-request-id", b"x-should-retry"))
BOUNDARY_BYTES: Final = 16  # of chance in it
_JSON: Final = b"application/json"
_EVENT_STREAM: Final = b"text/event-stream"
_STAGES: Final = {
    "name": "its name leads nowhere",
    "connect": "no connection to its address",
    "tls": "its certificate was not accepted",
    "timeout": "no connection in time",
}
_NO_SECRET: Final = b""
_WITHHELD: Final = "the provider's answer held a credential and was withheld"
_WEEK: Final = b"604800"  # seconds; what asks for longer is no honest Retry-After

Listen = Callable[[Sequence[tuple[bytes, bytes]], bytes], Callable[[bytes], None] | None]


class Failed(Exception):
    """One attempt at a provider came to nothing.

    refusal: what the caller is told when it was the last; None = `answer` and `body` go on to the caller as they are.
    retry_after_s: when the provider wants to be asked again, where it said so.
    """

    def __init__(self, cause: Cause, refusal: BrokerError | None, answer: "Answer | None" = None, body: bytes = b"") -> None:
        super().__init__(str(cause))
        self.cause: Final = cause
        self.refusal: Final = refusal
        self.answer: Final = answer
        self.body: Final = body
        self.retry_after_s: Final = answer.retry_after_s() if answer else None

    @property
    def billable(self) -> bool:
        """The provider may bill it: it was sent, and no complete answer says that it came to nothing (docs/failover.md)."""
        if isinstance(self.cause, int):
            return not HTTPStatus.BAD_REQUEST <= self.cause < END_OF_STATUSES
        return self.cause != "ConnectFailure"


class Upstream:
    """Calls providers over pooled connections.

    secret: gives a key, and the hosts that its owner lets it go to (hosts.py), as they are now: asked anew for each attempt, so
        that a Secret that changed is used for the next request, and never with the hosts of an older one.
    answers_bytes: of all answers together that are kept whole, until their callers have them.
    hear: is told the trace's headers and the body of each request, and gives what is told the answer; None = nobody listens.
    """

    def __init__(
        self,
        secret: Callable[[SecretRef], tuple[Credential | None, str | None]],
        allowed: addresses.HostList,
        off: addresses.Off,
        answers_bytes: int = 64 << 20,
    ) -> None:
        self._secret = secret
        self._rules = (allowed, off)
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._pools: dict[tuple[str, str, int, bool], client.Pool] = {}
        self._said: set[str] = set()
        self._answers_bytes = answers_bytes
        self._kept_bytes = 0
        self._kept_of: dict[str, int] = {}
        self._heads: dict[tuple[int, str], tuple[Provider, bytes]] = {}
        self.hear: Listen | None = None

    async def send(
        self, provider: Provider, path: str, caller_headers: Headers, body: bytes | Form, trace: Sequence[tuple[bytes, bytes]] = ()
    ) -> "Answer":
        """One attempt, up to the head of the answer.

        trace: headers about the trace that it belongs to, which we made (tracecontext.py); the caller's own never go on.

        Raises:
            Failed: there is none. With "ConnectFailure" nothing was sent: no connection, or no credential that may go there.
        """
        content_type, pieces, length = (_JSON, body, len(body)) if isinstance(body, bytes) else _written(body)
        head = b"%bcontent-type: %b\r\ncontent-length: %d\r\n" % (self._fixed_head(provider, path), content_type, length)
        answer = await self._send(provider, head, pieces, caller_headers, trace)
        if self.hear is not None and isinstance(body, bytes):
            answer.heard = self.hear(trace, body)
        return answer

    async def send_bare(
        self, provider: Provider, method: str, path: str, caller_headers: Headers, trace: Sequence[tuple[bytes, bytes]] = ()
    ) -> "Answer":
        """As `send`, without a body. `path` may have a query, and is escaped."""
        head = _head(provider, method, path) + (b"content-length: 0\r\n" if method == "POST" else b"")
        return await self._send(provider, head, b"", caller_headers, trace)

    async def _send(
        self,
        provider: Provider,
        begun: bytes,
        body: bytes | list[bytes | memoryview],
        caller_headers: Headers,
        trace: Sequence[tuple[bytes, bytes]],
    ) -> "Answer":
        """Complete the head that was begun with what only this caller and this attempt have, and send it."""
        kind = providers.PROVIDERS[provider.kind]
        secret, credential_line = self._attach(provider, kind, caller_headers)
        own = [pair for pair in caller_headers if pair[0] in kind.request_headers]
        own += [pair for pair in kind.headers if not any(pair[0] == name for name, _ in own)]
        own += trace
        head = b"%b%b%b\r\n" % (begun, b"".join(b"%b: %b\r\n" % pair for pair in own), credential_line)
        try:
            got = await self._pool(provider).send(
                head, body, connect_s=provider.connect_s, first_byte_s=provider.first_byte_s, idle_s=provider.idle_s
            )
        except client.ExchangeFailed as failure:
            raise _as_failed(failure) from failure
        return Answer(got, secret, self._keep)

    def _keep(self, more_bytes: int, whose: str) -> None:
        """Count what answers are kept; what is let go counts below 0.

        Raises:
            Busy: it is too much for all of them together; or more than half of that is this caller's, who may be slow to read it.
        """
        self._kept_bytes += more_bytes
        own_bytes = self._kept_of.pop(whose, 0) + more_bytes
        if own_bytes:
            self._kept_of[whose] = own_bytes
        if more_bytes > 0 and (self._kept_bytes > self._answers_bytes or (whose and own_bytes > self._answers_bytes // 2)):
            raise Busy("too many large answers are on their way at once; ask again, or ask for a stream", retry_after_s=1)

    def _attach(self, provider: Provider, kind: providers.Kind, caller_headers: Headers) -> tuple[bytes, bytes]:
        """The one credential of this attempt: its value, to watch for, and its header line."""
        if provider.auth == "None":
            return _NO_SECRET, b""
        if provider.auth == "Passthrough":
            own = [(n, v) for n, v in caller_headers if n in CREDENTIAL_HEADERS and not v.endswith(PLACEHOLDER_KEY.encode())]
            return _NO_SECRET, b"".join(b"%b: %b\r\n" % pair for pair in own[:1])
        credential, annotation = self._secret(provider.secret) if provider.secret else (None, None)
        if credential is None:
            raise _unreached(
                NoBackend(
                    "the provider's credential is missing; the owner of its AIRoutingPolicy finds the reason in its status", retry_after_s=1
                )
            )
        if provider.auth == "APIKey" and not hosts.allows(annotation, provider.endpoint, provider.kind):
            raise _unreached(
                NoBackend("the owner of the key does not let it go to this host; the object has the reason in its status", retry_after_s=1)
            )
        value = credential.reveal().encode()
        name, prefix = kind.auth
        return value, b"%b: %b%b\r\n" % (name, prefix, value)

    def _fixed_head(self, provider: Provider, path: str) -> bytes:
        """What is the same for every request to this provider on this path."""
        known = self._heads.get((id(provider), path))  # its own hash would cost as much as the head
        if known is not None:
            return known[1]
        if len(self._heads) >= POOLS:  # of objects that are no more
            self._heads.clear()
        head = _head(provider, "POST", path)
        self._heads[id(provider), path] = (provider, head)  # the provider too: while it is here, nothing else has its id
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
        found = await loop.getaddrinfo(end.host, end.port, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
        canonical = next((name for _, _, _, name, _ in found if name), None)
        error = OSError(f"{end.host} has no address")
        for family, _, _, _, where in found:
            why = addresses.refusal(end.host, end.port, str(where[0]), self._rules, own_service=own_service, canonical=canonical)
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
    """What a provider said. The credential of the attempt is watched for: it never goes back to a caller.

    whose: who waits for it, "" = nobody who could keep it from others.
    heard: is told what of it may go to the caller; None = nobody listens.
    """

    def __init__(self, got: client.Answer, secret: bytes, keep: Callable[[int, str], None]) -> None:
        self.whose = ""
        self.heard: Callable[[bytes], None] | None = None
        self._got = got
        self._secret = secret
        self._count = keep
        self._kept_bytes = 0
        self._tail = b""
        self.status = got.status
        self.passed_headers: Headers = [
            (name, value) for name, value in got.headers if (name in _PASSED) and not (secret and secret in value)
        ]
        if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in got.headers):
            got.close()
            raise malformed("the provider answered compressed, which nobody asked for")

    @property
    def content_type(self) -> bytes:
        """As the provider says it, for what it said in its own words."""
        said = self._got.header(b"content-type") or b""
        return b"" if self._secret and self._secret in said else said

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
            raise _as_failed(failure) from failure
        if self._secret:
            seen = self._tail + piece  # a secret may be cut by the pieces
            if self._secret in seen:
                self.close()
                raise malformed(_WITHHELD)
            self._tail = seen[-len(self._secret) :]
        if self.heard is not None:
            self.heard(piece)
        return piece

    async def whole(self) -> bytes:
        body = await self.unchecked()
        if self.leaks(body):
            raise malformed(_WITHHELD)
        if self.heard is not None:
            self.heard(body)
        return body

    async def unchecked(self) -> bytes:
        """The whole body, which counts among the kept ones until `close`. Nobody may see it before `leaks` said no."""
        try:
            return await self._got.whole(ANSWER_BYTES, self._keep)
        except client.ExchangeFailed as failure:
            raise _as_failed(failure) from failure

    def leaks(self, body: bytes) -> bool:
        return bool(self._secret) and self._secret in body

    def close(self) -> None:
        """Give the connection back, or cut it when the answer is not complete."""
        kept, self._kept_bytes = self._kept_bytes, 0
        self._count(-kept, self.whose)
        self._got.close()

    def _keep(self, more_bytes: int) -> None:
        self._kept_bytes += more_bytes
        self._count(more_bytes, self.whose)


def _head(provider: Provider, method: str, path: str) -> bytes:
    lines = [
        f"{method} {provider.endpoint.path}{path} HTTP/1.1",
        f"host: {_authority(provider.endpoint)}",
        "accept-encoding: identity",  # usage must be readable, and a bomb must not unfold here
        "user-agent: inference-broker",
        *(f"{name}: {value}" for name, value in provider.headers),
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _written(form: Form) -> tuple[bytes, list[bytes | memoryview], int]:
    """A form's type, its body, and how long that is. No caller can have put this boundary into a part."""
    boundary = secrets.token_hex(BOUNDARY_BYTES)
    pieces = form.pieces(boundary)
    return f"multipart/form-data; boundary={boundary}".encode("ascii"), pieces, sum(map(len, pieces))


async def refused(provider: Provider, answer: Answer) -> Failed:
    """What an answer other than 200 means, once it is complete: what is the caller's to mend goes on as it is.

    Raises:
        Failed: it broke off.
    """
    body = await answer.unchecked()
    refusal = ProviderUnavailable(f"{_WITHHELD}; ask again") if answer.leaks(body) else _refusal(provider, answer)
    return Failed(answer.status, refusal, answer, body)


def malformed(why: str) -> Failed:
    return Failed("Malformed", ProviderUnavailable(f"{why}; ask again, or ask the owner of this model's AIRoutingPolicy"))


def _refusal(provider: Provider, got: Answer) -> BrokerError | None:
    if got.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and provider.auth != "Passthrough":
        return ProviderAuth(
            "the provider refused the broker's credential; the owner of the Secret that the provider object names can mend it"
        )
    if got.status == HTTPStatus.TOO_MANY_REQUESTS:
        return ProviderRateLimited("the provider limits our rate; ask again later", retry_after_s=got.retry_after_s())
    if HTTPStatus.BAD_REQUEST <= got.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    return ProviderUnavailable(f"the provider answered with status {got.status}; ask again", retry_after_s=got.retry_after_s())


def _as_failed(failure: client.ExchangeFailed) -> Failed:
    """The one mapping from what happened on a connection to what it is called, and what the caller is told."""
    match failure:
        case client.NotSent():
            return _unreached(ProviderUnavailable(f"the provider cannot be reached ({_STAGES[failure.stage]}); ask again"))
        case client.TooLate():
            return Failed("Timeout", ProviderTimeout("the provider did not answer in time; ask again"))
        case client.Lost():
            return Failed("Reset", ProviderUnavailable("the provider's answer broke off; ask again"))
        case _:
            return malformed("the provider's answer was not well-formed")


def _unreached(why: BrokerError) -> Failed:
    return Failed("ConnectFailure", why)


def _authority(end: Endpoint) -> str:
    host = f"[{end.host}]" if ":" in end.host else end.host
    return host if end.port == (443 if end.scheme == "https" else 80) else f"{host}:{end.port}"
