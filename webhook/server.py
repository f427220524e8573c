"""The doors: HTTPS for the API server, and plain HTTP for probes and metrics.

Anybody in the cluster can connect. What comes is bounded in size, in time and in number, and answered with a review wherever there
is a uid to answer to; what cannot be read gets 400 or 413.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from broker.config import Address
from broker.http1.limits import Limits
from broker.http1.listener import Listener
from webhook import review
from webhook.review import BAD_REQUEST, Misread, Request, Unreadable, Verdict

log = logging.getLogger(__name__)

# An object may have 3 MiB (the API server's own bound), an update brings it twice
BODY_BYTES: Final = 7 << 20
BODIES_BYTES: Final = 64 << 20  # of all reviews under way
BODY_S: Final = 5.0
# Whoever connects and says nothing costs 300 KB until he is let go, and he need not be anybody: one more costs the oldest its place
HANDSHAKES: Final = 128
HANDSHAKE_S: Final = 5.0
# Above the 90 s for which the API server keeps an idle connection, so that it never asks on one that we are closing
KEEP_ALIVE_S: Final = 120.0
CONNECTIONS: Final = 512
BACKLOG: Final = 256  # of the plain door
PIECE_BYTES: Final = 1 << 16
SHUTDOWN_S: Final = 5.0
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

Judge = Callable[[Request], Awaitable[Verdict]]


class Figures:
    """What Prometheus sees."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        self._reviews = Counter("aiaccess_webhook_reviews", "Reviews by what was said", ("door", "said"), registry=self.registry)
        self._seconds = Histogram(
            "aiaccess_webhook_review_seconds",
            "From the head of a request to its answer",
            ("door",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.certificate_ends = Gauge(
            "aiaccess_webhook_certificate_expiry_timestamp_seconds",
            "When the serving certificate ends, as a Unix timestamp",
            registry=self.registry,
        )

    def reviewed(self, door: str, said: str, seconds: float) -> None:
        self._reviews.labels(door, said).inc()
        self._seconds.labels(door).observe(seconds)


class Doors:
    """Both doors, opened and closed together.

    judges: by path.
    why_not_ready: sentences; none when reviews can be answered.
    """

    def __init__(self, judges: Mapping[str, Judge], figures: Figures, why_not_ready: Callable[[], list[str]]) -> None:
        self._reviews = _Reviews(judges, figures)
        self._why_not_ready = why_not_ready
        self._admin = _runner(_admin(figures.registry, self._reasons), KEEP_ALIVE_S)
        self._runner = _runner(self._reviews.app, KEEP_ALIVE_S)
        self._listening: Listener | None = None

    async def open(self, listen: Address, admin: Address, tls: ssl.SSLContext) -> tuple[int, int]:
        """Listen; the ports, since 0 means any.

        Raises:
            OSError: an address is taken or not ours.
        """
        await self._admin.setup()
        site = web.TCPSite(self._admin, admin.host or None, admin.port, backlog=BACKLOG)
        await site.start()
        await self._runner.setup()
        limits = Limits(handshakes=HANDSHAKES, handshake_s=HANDSHAKE_S)
        self._listening = Listener((listen.host, listen.port), self._connect, limits, tls)
        return self._listening.port, self._admin.addresses[0][1]

    def _connect(self) -> asyncio.Protocol:
        """One connection more than we take costs the oldest that asks for nothing its place, else the oldest."""
        server = self._runner.server
        if server is None:
            raise ConnectionAbortedError("the door is closed")
        there = server.connections
        if len(there) >= CONNECTIONS:
            next((one for one in there if one not in self._reviews.busy), there[0]).force_close()
        return server()

    def _reasons(self) -> list[str]:
        return ["it is being stopped"] if self._reviews.leaving else self._why_not_ready()

    def leave(self) -> None:
        """Say that nobody shall come any more, and end each connection with its next answer. Who comes is still answered."""
        self._reviews.leaving = True

    async def close(self) -> None:
        """Take no more, let the reviews under way end, and close."""
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()
        await self._admin.cleanup()


@dataclass(slots=True)
class _Refusal(Exception):
    """Of a request that is no review."""

    status: int
    text: str


class _Reviews:
    """POST one review, get one back."""

    def __init__(self, judges: Mapping[str, Judge], figures: Figures) -> None:
        self.busy: set[asyncio.BaseProtocol] = set()
        self.leaving = False
        self._judges = judges
        self._figures = figures
        self._bodies_bytes = 0
        self.app = web.Application(middlewares=[_plain], client_max_size=BODY_BYTES)
        for path in judges:
            self.app.router.add_post(path, self._review)
        self.app.router.add_get("/healthz", _alive)

    async def _review(self, asked: web.Request) -> web.Response:
        began_s = time.perf_counter()
        self.busy.add(asked.protocol)
        try:
            said, response = await self._answer(asked)
        except _Refusal as refusal:
            said, response = "unreadable", web.Response(status=refusal.status, text=refusal.text + "\n")
            response.force_close()
        finally:
            self.busy.discard(asked.protocol)
        if self.leaving:
            response.force_close()
        self._figures.reviewed(asked.path, said, time.perf_counter() - began_s)
        return response

    async def _answer(self, asked: web.Request) -> tuple[str, web.Response]:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                await self._take(asked, body)
            uid, verdict = await self._judged(asked.path, bytes(body))
        except TimeoutError:
            raise _Refusal(408, f"the body was not there after {BODY_S:g} s") from None
        finally:
            self._bodies_bytes -= len(body)
        said = "refused" if not verdict.allowed else "changed" if verdict.patch else "passed"
        return said, web.Response(body=review.answer(uid, verdict), content_type="application/json")

    async def _take(self, asked: web.Request, body: bytearray) -> None:
        if asked.content_type != "application/json" or "Content-Encoding" in asked.headers:
            raise _Refusal(BAD_REQUEST, "the body must be application/json, uncompressed")
        if (asked.content_length or 0) > BODY_BYTES:
            raise _Refusal(413, f"the body is larger than {BODY_BYTES} bytes")
        async for piece in asked.content.iter_chunked(PIECE_BYTES):
            if len(body) + len(piece) > BODY_BYTES:
                raise _Refusal(413, f"the body is larger than {BODY_BYTES} bytes")
            if self._bodies_bytes + len(piece) > BODIES_BYTES:
                raise _Refusal(503, "too many reviews at once: ask again")
            body += piece
            self._bodies_bytes += len(piece)

    async def _judged(self, path: str, body: bytes) -> tuple[str, Verdict]:
        try:
            request = review.read(body)
        except Unreadable as error:
            raise _Refusal(BAD_REQUEST, str(error)) from error
        except Misread as error:
            return error.uid, Verdict(allowed=False, code=BAD_REQUEST, message=str(error))
        verdict = await self._judges[path](request)
        if not verdict.allowed:
            log.info("refused", extra={**_about(request), "why": review.cut(verdict.message, review.MESSAGE_CHARACTERS)})
        elif verdict.patch:
            log.info("injected", extra=_about(request))
        return request.uid, verdict


def _about(request: Request) -> dict[str, object]:
    names: dict[str, object] = {"kind_": request.kind.kind, "namespace": request.namespace, "name_": request.name}
    return {**names, "uid": request.uid, "dry_run": bool(request.dry_run)}


async def _alive(_: web.Request) -> web.Response:
    return web.Response(text="alive\n")


def _admin(registry: CollectorRegistry, why_not_ready: Callable[[], list[str]]) -> web.Application:
    async def ready(_: web.Request) -> web.Response:
        reasons = why_not_ready()
        return web.Response(status=503 if reasons else 200, text="".join(f"not ready: {one}\n" for one in reasons) or "ready\n")

    async def metrics(asked: web.Request) -> web.Response:
        encode, content_type = choose_encoder(asked.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application(middlewares=[_plain], client_max_size=1)
    app.router.add_get("/healthz", _alive)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", metrics)
    return app


@web.middleware
async def _plain(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    """Name no software, and put no page's markup into an answer."""
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        response = web.Response(status=refusal.status, text=f"{refusal.status}: nothing here\n")
    response.headers["Server"] = "aiaccess"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _runner(app: web.Application, keep_alive_s: float) -> web.AppRunner:
    logger = logging.getLogger("webhook.http")
    logger.addFilter(_without_bytes)
    return web.AppRunner(
        app,
        logger=logger,
        access_log=None,
        keepalive_timeout=keep_alive_s,
        lingering_time=1.0,
        shutdown_timeout=SHUTDOWN_S,
        handle_signals=False,
        handler_cancellation=True,
        auto_decompress=False,
    )


def _without_bytes(record: logging.LogRecord) -> bool:
    """Do not log a request that is no HTTP: aiohttp's text of that error quotes what was sent."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
