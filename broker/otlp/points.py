"""The figures of this process as OpenTelemetry's exporter takes them. Read on the event loop, from the same sums that Prometheus reads.

By caller and model as the GenAI conventions want it; the other figures go by the names that Prometheus knows.
"""

from collections.abc import Iterable
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric as Family

from broker import genai, series
from broker.series import Key, Measure
from broker.telemetry import Telemetry

CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_CREATED: Final = "_created"


class Points:
    """Reads one Telemetry. Sums count from `began_ns` on."""

    def __init__(self, telemetry: Telemetry, resource: Resource, scope: InstrumentationScope, began_ns: int) -> None:
        self._telemetry = telemetry
        self._resource = resource
        self._scope = scope
        self._began_ns = began_ns

    def read(self, now_ns: int) -> MetricsData:
        """All figures as they are now."""
        metrics = [*self._histograms(now_ns), *(self._figure(one, now_ns) for one in self._telemetry.sums() if one.samples)]
        scope = ScopeMetrics(self._scope, metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _histograms(self, now_ns: int) -> Iterable[Metric]:
        points: dict[Measure, list[HistogramDataPoint]] = {measure: [] for measure in Measure}
        for key, sums in self._telemetry.series:
            if not key.provider:  # nobody was asked: no operation of a model
                continue
            for measure, direction, histogram in sums.histograms():
                points[measure].append(self._point(_attributes(key, direction), histogram, now_ns))
        for measure, found in points.items():
            _, name, unit, _, meaning = measure.value
            if found:
                yield Metric(name, meaning, unit, Histogram(found, CUMULATIVE))

    def _point(self, attributes: dict[str, str], histogram: series.Histogram, now_ns: int) -> HistogramDataPoint:
        counts = tuple(histogram.counts)
        return HistogramDataPoint(
            attributes=attributes,
            start_time_unix_nano=self._began_ns,
            time_unix_nano=now_ns,
            count=sum(counts),
            sum=histogram.sum,
            bucket_counts=counts,
            explicit_bounds=histogram.bounds,
            min=None,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  optional on the wire, and since the start of no use
            max=None,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        )

    def _figure(self, family: Family, now_ns: int) -> Metric:
        samples = [sample for sample in family.samples if not sample.name.endswith(_CREATED)]
        points = [NumberDataPoint(dict(sample.labels), self._began_ns, now_ns, float(sample.value)) for sample in samples]
        is_sum = family.type == "counter"
        data = Sum(points, CUMULATIVE, is_monotonic=True) if is_sum else Gauge(points)
        return Metric(family.name, family.documentation, "", data)


def _attributes(key: Key, direction: str) -> dict[str, str]:
    found = {
        "trust_domain": key.trust_domain,
        "namespace": key.namespace,
        "service_account": key.service_account,
        genai.REQUEST_MODEL: key.model,
        genai.PROVIDER: key.provider,
        genai.OPERATION: key.operation,
    }
    if direction:
        found[genai.TOKEN_TYPE] = direction
    return found
