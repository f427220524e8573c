"""Starts the export of traces and metrics, and ends it with what is still to be sent."""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from broker import genai
from broker.otlp import Content, Keep
from broker.otlp.collector import Collector
from broker.otlp.outbox import Exporter, Outbox
from broker.otlp.points import Points
from broker.otlp.quiet import hushed
from broker.otlp.redaction import cleaner
from broker.otlp.spans import Spans
from broker.otlp.variables import Wanted
from broker.telemetry import Figure, Telemetry
from broker.tracing import Begin, Ended, Tracing, untraced

log = logging.getLogger(__name__)

NAME: Final = "inference-broker"
UNNAMED: Final = "unknown_service"
FLUSH_S: Final = 2.0  # for both, at the end: a collector that is away does not hold up who is being stopped


async def open_exports(
    wanted: Wanted, telemetry: Telemetry, version: str, closing: AsyncExitStack, content: Content | None = None
) -> tuple[Begin, Sequence[Keep]]:
    """As broker.otlp.open_exports, of what is wanted."""
    closing.enter_context(hushed())
    resource, scope = resource_of(version), InstrumentationScope(NAME, version)
    spans = Spans(resource, scope, cleaner(content.secrets)) if content else Spans(resource, scope)
    traces = _open_traces(wanted, spans) if wanted.traces else None
    metrics = _Metrics(Points(telemetry, resource, scope, time.time_ns()), wanted.interval_s) if wanted.metrics else None
    outboxes = [("traces", traces), ("metrics", metrics.outbox if metrics else None)]
    telemetry.show_each(Figure.OTLP_SENT, ("signal",), lambda: [((name,), box.sent) for name, box in outboxes if box])
    telemetry.show_each(Figure.OTLP_DROPPED, ("signal",), lambda: [((name,), box.dropped) for name, box in outboxes if box])

    async def flush() -> None:
        if metrics:
            metrics.put()
        await asyncio.gather(*(box.close(FLUSH_S) for _, box in outboxes if box))

    closing.push_async_callback(flush)
    log.info("otlp", extra={"traces": wanted.traces, "metrics": wanted.metrics, "service": str(resource.attributes[genai.SERVICE_NAME])})
    if wanted.ignored:
        log.warning("otlp_variables_ignored", extra={"variables": list(wanted.ignored), "why": "docs/telemetry.md, Environment"})
    draw = random.Random().getrandbits  # noqa: S311  ids of spans need not be secret
    begin = _tracing(wanted, traces, draw, content).begin if traces else untraced
    return begin, [metrics.keep] if metrics else []


def _tracing(wanted: Wanted, traces: Outbox[Ended], draw: Callable[[int], int], content: Content | None) -> Tracing:
    if content is None:
        return Tracing(wanted.sampler, time.monotonic, draw, traces.put)
    log.warning("otlp_content_on", extra={"why": "--otel-content: prompts and answers leave with the spans, redacted by their shape alone"})

    def put(ended: Ended) -> None:
        if not traces.put(ended) and ended.words is not None:
            ended.words.release()

    return Tracing(wanted.sampler, time.monotonic, draw, put, content.overheard.take)


def resource_of(version: str) -> Resource:
    """Who we are: what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, and our own name where they name nobody."""
    own = {genai.SERVICE_VERSION: version, genai.SERVICE_INSTANCE: str(uuid.uuid4())}
    given = Resource(own).merge(Resource.create())
    unnamed = str(given.attributes[genai.SERVICE_NAME]).startswith(UNNAMED)
    return given.merge(Resource({genai.SERVICE_NAME: NAME})) if unnamed else given


def _open_traces(wanted: Wanted, spans: Spans) -> Outbox[Ended]:
    way = Collector()
    exporter = OTLPSpanExporter(session=way)

    def export(batch: Sequence[Ended]) -> bool:
        return exporter.export([spans.make(ended) for ended in batch]) is SpanExportResult.SUCCESS

    to = Exporter("traces", export, exporter.shutdown, lambda: way.why)
    return Outbox(to, size=wanted.queue, batch=wanted.batch, delay_s=wanted.delay_s)


class _Metrics:
    """Reads the figures on the event loop, where they are counted, and sends them from a thread; one set at a time."""

    def __init__(self, points: Points, interval_s: float) -> None:
        way = Collector()
        exporter = OTLPMetricExporter(session=way)

        def export(batch: Sequence[MetricsData]) -> bool:
            answers = map(exporter.export, batch)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  its **kwargs
            return all(answer is MetricExportResult.SUCCESS for answer in answers)

        def stop() -> None:
            exporter.shutdown()  # pyright: ignore[reportUnknownMemberType]  its **kwargs

        self._points = points
        self._interval_s = interval_s
        to = Exporter("metrics", export, stop, lambda: way.why)
        self.outbox: Final = Outbox(to, size=1, batch=1, delay_s=interval_s)

    def put(self) -> None:
        self.outbox.put(self._points.read(time.time_ns()))

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            self.put()
