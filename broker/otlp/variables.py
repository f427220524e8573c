"""OpenTelemetry's own environment variables, as far as we read them ourselves: what is exported, how often, and which traces.

Source: OpenTelemetry specification, "Environment Variable Specification" and "OTLP Exporter Configuration". Unlike there, a value
that cannot be used keeps the broker from starting: whoever needs a trace would learn of a mere warning too late.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.config import ConfigError
from broker.tracecontext import IDS, Sampler

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
DIGITS: Final = 9
PROTOCOL: Final = "http/protobuf"
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")
_RATIO: Final = _SAMPLERS[2]
_BY_PARENT: Final = "parentbased_"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is exported. Sizes in spans.

    delay_s: how long a span waits for others. interval_s: between two exports of metrics.
    """

    traces: bool
    metrics: bool
    sampler: Sampler
    queue: int
    batch: int
    delay_s: float
    interval_s: float


def read(environ: Mapping[str, str]) -> Wanted | None:
    """What the environment wants; None = nothing.

    Raises:
        ConfigError: a variable cannot be used.
    """
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
    )


def _is_on(environ: Mapping[str, str], signal: str) -> bool:
    """One kind of telemetry has an endpoint, and nobody said that it is not exported."""
    exporter = _text(environ, f"OTEL_{signal}_EXPORTER") or "otlp"
    if exporter not in ("otlp", "none"):
        raise ConfigError(f"OTEL_{signal}_EXPORTER={exporter}: this broker exports by otlp, or none; Prometheus needs no variable")
    if exporter == "none" or not (_text(environ, f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or _text(environ, ENDPOINT)):
        return False
    variable = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    variable = variable if _text(environ, variable) else "OTEL_EXPORTER_OTLP_PROTOCOL"
    protocol = _text(environ, variable) or PROTOCOL
    if protocol != PROTOCOL:
        raise ConfigError(f"{variable}={protocol}: this broker speaks {PROTOCOL} alone; name the collector's port for it, usually 4318")
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
