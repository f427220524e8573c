"""A collector on loopback: takes OTLP over HTTP as OpenTelemetry's own protobuf classes read it, or fails as it is told to.

async with Receiver() as collector:
    ...  # run a broker with collector.environ()
    span, = await collector.spans(1)
"""

import asyncio
import gzip
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from support.fake_provider import Answer, FakeProvider, Seen

TRACES, METRICS = "/v1/traces", "/v1/metrics"
KINDS = {2: "SERVER", 3: "CLIENT"}
STATUSES = {0: "", 1: "OK", 2: "ERROR"}


@dataclass(frozen=True)
class Span:
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    status: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, object]
    resource: dict[str, object]
    events: int


def protobuf(body: bytes = b"", status: int = 200) -> Answer:
    return (b"HTTP/1.1 %d X\r\ncontent-type: application/x-protobuf\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body),)


def taken(seen: Seen) -> Answer:
    kind = ExportTraceServiceResponse if seen.target == TRACES else ExportMetricsServiceResponse
    return protobuf(kind().SerializeToString())


class Receiver:
    """`answer` may fail instead: what it says to a request is what the broker gets."""

    def __init__(self, answer: Callable[[Seen], Answer] = taken, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.host = "https://localhost" if tls else "http://127.0.0.1"
        self.http = FakeProvider(script=self._script, tls=tls)

    def _script(self, seen: Seen) -> Answer:
        return self.answer(seen)  # as it is by then

    async def __aenter__(self) -> Self:
        await self.http.__aenter__()
        return self

    async def __aexit__(self, *stopped: object) -> None:
        await self.http.__aexit__(*stopped)
        while self.http._writers:  # of an exporter that is still at it
            await asyncio.sleep(0)

    @property
    def url(self) -> str:
        return f"{self.host}:{self.http.port}"

    def environ(self, **more: str) -> dict[str, str]:
        """What a broker is told about this collector, in a hurry."""
        soon = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_METRIC_EXPORT_INTERVAL": "100"}
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "NO_PROXY": "127.0.0.1,localhost", **soon, **more}

    def bodies(self, target: str) -> list[bytes]:
        """As they were before they were compressed."""
        found = [seen for seen in self.http.seen if seen.target == target]
        return [gzip.decompress(seen.body) if seen.header(b"content-encoding") == b"gzip" else seen.body for seen in found]

    def spans_so_far(self) -> list[Span]:
        return [span for body in self.bodies(TRACES) for span in spans_of(body)]

    async def spans(self, count: int, timeout_s: float = 10) -> list[Span]:
        """All spans, in the order of their beginnings, once there are so many."""

        async with asyncio.timeout(timeout_s), self.http.arrived:
            await self.http.arrived.wait_for(lambda: len(self.spans_so_far()) >= count)
        return sorted(self.spans_so_far(), key=lambda span: span.began_ns)

    async def metrics(self, ready: Callable[[dict[str, list[tuple[dict[str, object], object]]]], bool], timeout_s: float = 10):
        """The first set of metrics, name to points with their attributes, that is as one waits for."""

        def found():
            return next((read for read in map(points_of, self.bodies(METRICS)) if ready(read)), None)

        async with asyncio.timeout(timeout_s), self.http.arrived:
            await self.http.arrived.wait_for(lambda: found() is not None)
        return found()


def resource_of(body: bytes) -> dict[str, object]:
    (of_resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    return attributes_of(of_resource.resource.attributes)


def value_of(value: object) -> object:
    kind = value.WhichOneof("value")  # type: ignore[attr-defined]
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]  # type: ignore[attr-defined]
    return getattr(value, kind) if kind else None


def attributes_of(pairs: object) -> dict[str, object]:
    found = {pair.key: value_of(pair.value) for pair in pairs}  # type: ignore[attr-defined]
    assert len(found) == len(list(pairs)), "an attribute came twice"  # type: ignore[call-overload]
    return found


def spans_of(body: bytes) -> list[Span]:
    return [
        Span(
            name=span.name,
            kind=KINDS[span.kind],
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            state=span.trace_state,
            status=STATUSES[span.status.code],
            began_ns=span.start_time_unix_nano,
            ended_ns=span.end_time_unix_nano,
            attributes=attributes_of(span.attributes),
            resource=attributes_of(of_resource.resource.attributes),
            events=len(span.events),
        )
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def points_of(body: bytes) -> dict[str, list[tuple[dict[str, object], object]]]:
    found: dict[str, list[tuple[dict[str, object], object]]] = {}
    for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                points = getattr(metric, metric.WhichOneof("data")).data_points
                assert metric.name not in found
                found[metric.name] = [(attributes_of(point.attributes), point) for point in points]
    return found
