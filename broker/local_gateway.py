"""The door in the agent's pod: plain HTTP on loopback in, mutual TLS to the broker out. It adds no policy of its own.

What it does promise: nobody but a program on this loopback gets in; no credential of the agent leaves the pod, unless the operator
turned passthrough on; no byte of a prompt leaves before the broker has proven its SPIFFE ID; and whatever goes wrong on the way
is said in the agent's own dialect, with what to do next.

It runs beside every agent, so it imports as little as it can and keeps no thread busy.
"""

import asyncio
import hmac
import secrets
import ssl
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import unquote_plus
from weakref import WeakKeyDictionary

from broker import logs, workload_api
from broker.config import Address
from broker.errors import BrokerError, BrokerUnavailable, Busy, NoSvid, Unidentified
from broker.http1 import rules
from broker.http1.client import Answer, ExchangeFailed, Lost, NotSent, Pool
from broker.http1.places import Places, hear_silence
from broker.http1.server import Limits, Reply, Request, Server
from broker.identity import parse_spiffe_id
from broker.names import EXCHANGE_HEADER, GATEWAY_PORT, PLACEHOLDER_KEY, SOURCE_HEADER
from broker.svids import Update
from broker.trust import Trust

Headers = list[tuple[bytes, bytes]]

CONNECT_S: Final = 4.0  # for one address of a broker, its TLS handshake included
CONNECT_ALL_S: Final = 12.0  # for all of them: then the agent hears that there is none
SILENT_S: Final = 5.0  # an agent that gave up after this, without a byte of an answer, says something about the broker
UNACKNOWLEDGED_S: Final = 30.0  # then the broker's machine is gone
ANSWER_S: Final = 1800.0  # the broker bounds its attempts at providers; this is beyond any of them
LAST_WORDS_S: Final = 1.0  # after the drain: for the error events of streams that were cut off
EVENT_END: Final = b"\n\n"
STOPPED: Final = "This pod's local gateway is being stopped: ask again when it is back."

# What passes, not what is stopped: a header that nobody thought of stays in the pod
_FORWARD: Final = frozenset(
    (b"accept", b"accept-language", b"anthropic-beta", b"anthropic-version", b"content-type", b"idempotency-key", b"openai-beta",
     b"traceparent", b"tracestate", b"user-agent", b"x-request-id")
)  # fmt: skip
_FORWARD_PREFIX: Final = b"x-stainless-"
_CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"))
_CREDENTIAL_PARAMETERS: Final = frozenset(("key", "api_key", "api-key", "access_token"))
# The broker has judged what comes back; these belong to one hop alone
_HOP_BY_HOP: Final = frozenset(
    (b"connection", b"content-length", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"set-cookie", b"te", b"trailer",
     b"transfer-encoding", b"upgrade")
)  # fmt: skip


_NOWHERE: Final = Address("", 0)
_asked: Final[ContextVar[Address]] = ContextVar("_asked", default=_NOWHERE)  # where the request of this task went


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What one local gateway was told.

    endpoint: of the SPIFFE Workload API, `unix:///PATH`.
    passthrough: forward the agent's own credential, for providers of type Passthrough.
    demand_key: only callers that send this key get in; None = every program on this loopback.
    """

    brokers: tuple[Address, ...]
    broker_spiffe_id: str
    endpoint: str
    port: int = GATEWAY_PORT
    passthrough: bool = False
    demand_key: str | None = field(default=None, repr=False)
    drain_s: float = 25.0


async def run(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain.

    Raises:
        OSError: the port is taken.
        ValueError: a setting is wrong, or the Workload API says that it will never answer us.
    """
    gateway = Gateway(settings)
    watching = asyncio.get_running_loop().create_task(gateway.watch())
    stopping = asyncio.get_running_loop().create_task(stop.wait())
    try:
        port = await gateway.open()
        brokers = f"{' or '.join(map(str, settings.brokers))}, which must be {settings.broker_spiffe_id}"
        logs.listening("gateway", gateway.spiffe_id, {"agents": f"http://127.0.0.1:{port}", "brokers": brokers})
        await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            await watching
    finally:
        try:
            await gateway.close(settings.drain_s if stopping.done() else 0)
        finally:
            for task in (watching, stopping):
                task.cancel()
            await asyncio.gather(watching, stopping, return_exceptions=True)


class Gateway:
    """One local gateway: its door, its identity, its connections to the broker.

    Raises:
        ValueError: the broker's SPIFFE ID or the endpoint is none.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._broker = parse_spiffe_id(settings.broker_spiffe_id)
        if not self._broker.path:
            raise ValueError("--broker-spiffe-id is a trust domain, not a workload: give the broker's whole SPIFFE ID")
        workload_api.parse_endpoint(settings.endpoint)
        self._trust = Trust()
        # Compared inside the handshake: a broker of another ID never sees a byte of ours
        self._tls = self._trust.client_context(lambda identity: identity.spiffe_id == self._broker.spiffe_id)
        self._pool = Pool(self._dial, fit=self._fits)
        self._places = Places(settings.brokers)
        self._where: WeakKeyDictionary[ssl.SSLObject, Address] = WeakKeyDictionary()
        self._stopping = False
        self._judge_local = rules.local_judge(settings.port)
        self._server = Server(self._serve, Limits(connections=256), judge=self._judge, refuse=_word)

    async def open(self) -> int:
        """Listen on loopback; the port."""
        port = await self._server.listen("127.0.0.1", self._settings.port)
        self._judge_local = rules.local_judge(port)
        return port

    @property
    def spiffe_id(self) -> str:
        """As whom the broker sees us; "" before there is an SVID."""
        own = self._trust.own_id
        return own.spiffe_id if own else ""

    async def watch(self) -> None:
        """Follow the Workload API for ever. Raises ValueError when it says that asking again cannot help."""
        try:
            await workload_api.watch(self._settings.endpoint, self._update, self._trust.note)
        except workload_api.WorkloadApiError as error:
            raise ValueError(f"the SPIFFE Workload API at {self._settings.endpoint} refuses this program: {error}") from error

    async def close(self, drain_s: float) -> None:
        """Take no more, let what runs end, and tell what still runs at the deadline."""
        draining = asyncio.get_running_loop().create_task(self._server.drain(drain_s + LAST_WORDS_S))
        try:
            await asyncio.wait((draining,), timeout=drain_s)
            self._stopping = True
            await self._pool.close()
        finally:
            await draining

    # -- identity
    def _update(self, update: Update | None) -> None:
        before = self._trust.generation
        self._trust.apply(update)
        if self._trust.generation != before:
            self._pool.retire()  # made as whom we were before

    def _fits(self, tls: ssl.SSLObject | None) -> bool:
        """May this connection be used again?"""
        where = self._where.get(tls) if tls is not None else None
        if tls is None or where is None or self._places.rests(where):
            return False
        _asked.set(where)
        try:
            return self._trust.judge(tls, time.time()).spiffe_id == self._broker.spiffe_id
        except BrokerError:
            return False

    async def _dial(self, factory: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Connect to the next broker that answers as the broker. Raises what is most telling of what went wrong."""
        failed: OSError = ConnectionError("no broker is known")
        for where in await self._places.in_turn():
            try:
                async with asyncio.timeout(CONNECT_S):
                    transport, _ = await asyncio.get_running_loop().create_connection(
                        factory, where.host, where.port, ssl=self._tls, server_hostname=""
                    )
            except OSError as error:  # TimeoutError and ssl.SSLError are some
                self._places.failed(where)
                if not isinstance(failed, ssl.SSLError):
                    failed = error
            else:
                hear_silence(transport.get_extra_info("socket"), UNACKNOWLEDGED_S)
                self._where[transport.get_extra_info("ssl_object")] = where
                _asked.set(where)
                return
        raise failed

    # -- requests
    def _judge(self, head: rules.Head) -> None:
        self._judge_local(head)
        key = self._settings.demand_key
        if key is not None and not any(hmac.compare_digest(_key_in(n, v), key.encode()) for n, v in head.headers if n in _CREDENTIALS):
            raise Unidentified("This gateway wants the key of this run as its API key: `broker dev --print-env SPIFFE_ID` prints it.")

    async def _serve(self, request: Request, reply: Reply) -> None:
        try:
            why = self._trust.why_not_ready(time.time())
            if why is not None:
                raise NoSvid(f"This pod has no identity to call the broker with: {why}", retry_after_s=1)
            answer = await self._ask(request)
        except BrokerError as refusal:
            headers, body = _worded(request.path, request.headers, refusal)
            reply.whole(refusal.status, headers, body)
            return
        try:
            await _hand_on(answer, reply, lambda: self._last_words(request, answer))
        finally:
            answer.close()

    async def _ask(self, request: Request) -> Answer:
        """The broker's answer. A request is sent a second time only when the broker cannot have acted on it.

        Raises:
            BrokerUnavailable: there is none.
        """
        head = self._head(request)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            answer = await self._send(head, request.body)
            self._places.worked(_asked.get())
            if answer.status != Unidentified.status or answer.header(SOURCE_HEADER) != b"broker":
                return answer
            answer.close()  # the broker's own 401: it judged a session gone stale, before it read the request
            self._pool.retire()
            return await self._send(head, request.body)
        except ExchangeFailed as failure:
            if self._stopping:
                raise Busy(STOPPED, retry_after_s=1) from failure
            if not isinstance(failure, NotSent):
                self._places.failed(_asked.get())
            raise BrokerUnavailable(self._explain(failure, loop.time() - began_s), retry_after_s=1) from failure
        except asyncio.CancelledError:
            if loop.time() - began_s > SILENT_S:
                self._places.failed(_asked.get())
            raise

    async def _send(self, head: bytes, body: bytes) -> Answer:
        return await self._pool.send(head, body, connect_s=CONNECT_ALL_S, first_byte_s=ANSWER_S, idle_s=ANSWER_S)

    def _last_words(self, request: Request, answer: Answer) -> bytes:
        """What a stream that broke off in the pod or on the way here still says, in the agent's dialect."""
        refusal = Busy(STOPPED) if self._stopping else BrokerUnavailable("The connection to the broker was lost before the end: ask again.")
        exchange_id = (answer.header(EXCHANGE_HEADER) or b"").decode("ascii", "replace")
        return _dialect_of(request.path, request.headers).error_event(refusal, exchange_id)

    def _head(self, request: Request) -> bytes:
        query = self._query(request.query) if request.query else ""
        lines = [f"{request.method} {request.path}{query} HTTP/1.1\r\nhost: broker\r\n".encode("ascii")]
        for name, value in request.headers:
            if name in _FORWARD or name.startswith(_FORWARD_PREFIX) or (name in _CREDENTIALS and self._may_leave(name, value)):
                lines.append(b"%b: %b\r\n" % (name, value))
        lines.append(b"content-length: %d\r\n\r\n" % len(request.body))
        return b"".join(lines)

    def _may_leave(self, name: bytes, value: bytes) -> bool:
        return self._settings.passthrough and _key_in(name, value) != PLACEHOLDER_KEY.encode()

    def _query(self, query: str) -> str:
        """With its question mark, without credentials."""
        kept: list[str] = []
        for part in query.split("&"):
            name, _, value = part.partition("=")
            secret = unquote_plus(name).lower() in _CREDENTIAL_PARAMETERS
            if not secret or (self._settings.passthrough and unquote_plus(value) != PLACEHOLDER_KEY):
                kept.append(part)
        return "?" + "&".join(kept) if kept else ""

    def _explain(self, failure: ExchangeFailed, waited_s: float) -> str:
        if isinstance(failure, NotSent):
            where = " or ".join(str(broker) for broker in self._settings.brokers)
            match failure.stage:
                case "tls":
                    check = f"It must be {self._broker.spiffe_id}: check --broker-spiffe-id and the trust bundles."
                    return f"No trusted broker at {where}: {failure}. {check}"
                case "name":
                    return f"The broker's name cannot be resolved ({where}): check --broker and the cluster's DNS."
                case _:
                    check = "Check that it runs and that a network policy lets this pod reach it."
                    return f"The broker cannot be reached at {where}: {failure}. {check}"
        if isinstance(failure, Lost) and failure.first and not failure.begun and waited_s < SILENT_S:
            own = self._trust.own_id
            return (  # TLS 1.3 tells a client whom the server refuses nothing but this
                "The broker ended the connection right after the handshake: it may not trust this pod's trust domain "
                f"({own.trust_domain if own else 'none'}). Check the broker's trust bundles."
            )
        return f"The broker did not answer: {failure}. Ask again, and tell the operator if it lasts."


async def _hand_on(answer: Answer, reply: Reply, last_words: Callable[[], bytes]) -> None:
    """The answer, as it comes. When it breaks off between two events of a stream, that is said; elsewhere only a cut can show it."""
    headers = [header for header in answer.headers if header[0] not in _HOP_BY_HOP]
    length = answer.header(b"content-length")
    if length is not None and answer.complete:
        reply.whole(answer.status, headers, await answer.piece())
        return
    reply.begin(answer.status, headers, length=None if length is None else int(length))
    await reply.room()
    tail = EVENT_END
    try:
        while piece := await answer.piece():
            reply.write(piece)
            tail = (tail + piece)[-len(EVENT_END) :] if len(piece) < len(EVENT_END) else piece[-len(EVENT_END) :]
            if reply.full:
                await reply.room()
    except ExchangeFailed:
        is_stream = length is None and (answer.header(b"content-type") or b"").startswith(b"text/event-stream")
        if not is_stream or tail != EVENT_END:
            reply.cut()
            return
        reply.write(last_words())
    reply.end()


def _key_in(name: bytes, value: bytes) -> bytes:
    """The bare key in a credential header."""
    scheme, _, token = value.strip().partition(b" ")
    return token.strip() if name == b"authorization" and scheme.lower() == b"bearer" else value.strip()


def _word(path: str, refusal: BrokerError) -> tuple[Headers, bytes]:
    return _worded(path, (), refusal)


def _worded(path: str, headers: Iterable[tuple[bytes, bytes]], refusal: BrokerError) -> tuple[Headers, bytes]:
    """A refusal of our own in the dialect of its route. It never reached the broker, so its id is in no audit line."""
    exchange_id = secrets.token_hex(12)
    answer = [
        (b"content-type", b"application/json"),
        (EXCHANGE_HEADER, exchange_id.encode()),
        (SOURCE_HEADER, b"gateway"),
        (b"x-should-retry", b"true" if refusal.sdk_may_retry else b"false"),
    ]
    if refusal.retry_after_s is not None:
        answer.append((b"retry-after", b"%d" % max(1, round(refusal.retry_after_s))))
    return answer, _dialect_of(path, headers).error(refusal, exchange_id)


class _Words(Protocol):
    """What of a dialect a gateway needs."""

    def error(self, refusal: BrokerError, exchange_id: str) -> bytes: ...
    def error_event(self, refusal: BrokerError, exchange_id: str) -> bytes: ...


def _dialect_of(path: str, headers: Iterable[tuple[bytes, bytes]]) -> _Words:
    from broker.dialects import ROUTES, listing  # noqa: PLC0415  2 MB and 20 ms that a gateway without errors never needs

    found = (dialect for (_, route), dialect in ROUTES.items() if path == route or path.startswith(f"{route}/"))
    return next(found, None) or listing(headers)
