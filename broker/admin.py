"""The admin port: is it alive, is it ready and why not, and the metrics. GET only, no body, nothing about single identities.

aiohttp serves it, because here comfort counts more than microseconds. It is plain HTTP and has no callers to tell apart: bind it
to loopback, or to where Prometheus and the kubelet ask.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

PATIENCE_S: Final = 15.0  # for a request's head, and between two requests
LINE_BYTES: Final = 2048
BACKLOG: Final = 64
REMARKS: Final = 100

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """`/healthz`, `/readyz` and `/metrics`.

    why_not_ready: sentences that say what is wrong and what to do; none when requests can be served.
    remarks: what is wrong besides, and keeps no request from being served.
    patience_s: after so long without a whole request head the connection is closed.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        why_not_ready: Callable[[], list[str]],
        remarks: Callable[[], list[str]] = list,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._registry = registry
        self._why_not_ready = why_not_ready
        self._remarks = remarks
        self._scraping = asyncio.Lock()  # one at a time, however many ask
        app = web.Application(middlewares=[_plain], client_max_size=1)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = runner_of(app, "broker.admin.http", LINE_BYTES, patience_s)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port is returned, because 0 means any.

        Raises:
            OSError: the address is taken or not ours.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=BACKLOG)
        await site.start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = self._why_not_ready()
        remarks = "".join(f"remark: {remark}\n" for remark in self._remarks()[:REMARKS])
        if reasons:
            return web.Response(status=503, text="".join(f"not ready: {reason}\n" for reason in reasons) + remarks)
        return web.Response(text="ready\n" + remarks)

    async def _metrics(self, request: web.Request) -> web.Response:
        """The exchanges go on meanwhile: with hundreds of models it takes a good part of a second."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        families: list[Metric] = []
        async with self._scraping:
            for family in self._registry.collect():
                families.append(family)
                await asyncio.sleep(0)
            body = await asyncio.to_thread(encode, _Collected(families))
        return web.Response(body=body, headers={"Content-Type": content_type})


class _Collected(Collector):
    """What was collected already, for an encoder."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def runner_of(app: web.Application, logger_name: str, line_bytes: int, patience_s: float) -> web.AppRunner:
    """How aiohttp serves what people and Prometheus ask of a broker: small requests, no access log, and no signals, which are ours.

    line_bytes: of a request's first line, and of each header.
    patience_s: after so long without a whole request head the connection is closed.
    """
    logger = logging.getLogger(logger_name)
    logger.addFilter(_without_bytes)
    return web.AppRunner(
        app,
        logger=logger,
        access_log=None,
        keepalive_timeout=patience_s,
        lingering_time=1.0,
        max_line_size=line_bytes,
        max_field_size=line_bytes,
        shutdown_timeout=1.0,
        handle_signals=False,
        handler_cancellation=False,  # a change is made, and written down, also for somebody who has gone
    )


def keep_private(response: web.StreamResponse) -> None:
    """Let no page read an answer and no cache keep it, and name no software in it."""
    response.headers["Server"] = "aiaccess"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"


def _without_bytes(record: logging.LogRecord) -> bool:
    """Do not log a request that is no HTTP: aiohttp's text of that error quotes what was sent."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


@web.middleware
async def _plain(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Take no body; nobody keeps or reads what is answered but who asked."""
    if request.can_read_body:
        response: web.StreamResponse = web.Response(status=413, text="this port takes no body\n")
        response.force_close()
    else:
        try:
            response = await handler(request)
        except web.HTTPException as refusal:
            response = web.Response(status=refusal.status, text=f"{refusal.status}: this port has GET /healthz, /readyz and /metrics\n")
    keep_private(response)
    return response
