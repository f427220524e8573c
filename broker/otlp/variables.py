"""OpenTelemetry's own environment variables, as far as we read them ourselves: what is exported, how often, and which traces.

Source: OpenTelemetry specification, "Environment Variable Specification" and "OTLP Exporter Configuration". Unlike there, a value
that cannot be used keeps the broker from starting: whoever needs a trace would learn of a mere warning too late.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.config import ConfigError
from broker.otlp import way
from broker.tracecontext import IDS, Sampler

DIGITS: Final = 9
PROTOCOL: Final = "http/protobuf"
IGNORED: Final = (  # of those that the specification lists for traces, metrics, and all; docs/telemetry.md says why
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_CONFIG_FILE",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_PROMETHEUS_HOST",
    "OTEL_EXPORTER_PROMETHEUS_PORT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LOGS_EXPORTER",
    "OTEL_LOG_LEVEL",
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_PROPAGATORS",
    "OTEL_SEMCONV_STABILITY_OPT_IN",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
)
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")
_RATIO: Final = _SAMPLERS[2]
_BY_PARENT: Final = "parentbased_"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is exported. Sizes in spans.

    delay_s: how long a span waits for others. interval_s: between two exports of metrics.
    ignored: variables that are set, and change nothing.
    """

    traces: bool
    metrics: bool
    sampler: Sampler
    queue: int
    batch: int
    delay_s: float
    interval_s: float
    ignored: tuple[str, ...] = ()


def read(environ: Mapping[str, str], *, content: bool = False) -> Wanted | None:
    """What the environment wants; None = nothing.

    content: prompts and answers are to be on spans.

    Raises:
        ConfigError: a variable cannot be used; or there is content, and no traces that could have it.
    """
    wanted = _read(environ)
    if content and (wanted is None or not wanted.traces):
        raise ConfigError(
            "--otel-content: no traces are exported that could have prompts and answers; "
            f"set {way.ENDPOINT}, or leave the switch out (docs/telemetry.md)"
        )
    return wanted


def _read(environ: Mapping[str, str]) -> Wanted | None:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    traces, metrics = _is_on(environ, "TRACES"), _is_on(environ, "METRICS")
    if not traces and not metrics:
        return None
    queue, batch = _count(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048), _count(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
    if batch > queue:
        raise ConfigError(
            f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE={batch} is more than OTEL_BSP_MAX_QUEUE_SIZE={queue}: give less, or a larger queue"
        )
    return Wanted(
        traces,
        metrics,
        _sampler(environ),
        queue,
        batch,
        _count(environ, "OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000,
        _count(environ, "OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1000,
        tuple(name for name in IGNORED if _text(environ, name)),
    )


def _is_on(environ: Mapping[str, str], signal: str) -> bool:
    """One kind of telemetry has an endpoint, and nobody said that it is not exported."""
    exporter = _text(environ, f"OTEL_{signal}_EXPORTER") or "otlp"
    if exporter not in ("otlp", "none"):
        raise ConfigError(f"OTEL_{signal}_EXPORTER={exporter}: this broker exports by otlp, or none; Prometheus needs no variable")
    if exporter == "none" or not way.of(environ, signal, "ENDPOINT")[1]:
        return False
    variable, protocol = way.of(environ, signal, "PROTOCOL")
    if protocol and protocol != PROTOCOL:
        raise ConfigError(f"{variable}={protocol}: this broker speaks {PROTOCOL} alone; name the collector's port for it, usually 4318")
    way.check(environ, signal)
    return True


def _sampler(environ: Mapping[str, str]) -> Sampler:
    name = _text(environ, "OTEL_TRACES_SAMPLER") or f"{_BY_PARENT}always_on"
    root = name.removeprefix(_BY_PARENT)
    if root not in _SAMPLERS:
        known = ", ".join((*_SAMPLERS, *(f"{_BY_PARENT}{each}" for each in _SAMPLERS)))
        raise ConfigError(f"OTEL_TRACES_SAMPLER={name} is none of {known}")
    ratio = 1.0 if root == _SAMPLERS[0] else 0.0
    if root == _RATIO:
        text = _text(environ, "OTEL_TRACES_SAMPLER_ARG") or "1"
        try:
            ratio = float(text)
        except ValueError:
            ratio = -1.0
        if not 0.0 <= ratio <= 1.0:
            raise ConfigError(f"OTEL_TRACES_SAMPLER_ARG={text} is no ratio from 0 to 1")
    return Sampler(by_parent=root != name, bound=round(ratio * IDS))


def _count(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = _text(environ, variable)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS or int(text) < 1:
        raise ConfigError(f"{variable}={text} is no whole number from 1 to 999999999")
    return int(text)


def _text(environ: Mapping[str, str], variable: str) -> str:
    return environ.get(variable, "").strip()
