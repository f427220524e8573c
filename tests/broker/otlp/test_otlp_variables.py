"""The standard variables: what turns export on, and what keeps a broker from starting."""

import sys
from pathlib import Path
from subprocess import run

import pytest

from broker.config import ConfigError
from broker.otlp import variables, way
from broker.tracecontext import IDS, Sampler

BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        (BASE, True, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/v1/traces"}, True, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c/v1/metrics"}, False, True),
        (BASE | {"OTEL_METRICS_EXPORTER": "none"}, True, False),
        (BASE | {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "otlp"}, False, True),
        (BASE | {"OTEL_SDK_DISABLED": "false"}, True, True),
        (BASE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True, True),
    ],
)
def test_an_endpoint_turns_on_what_it_is_for(environ, traces, metrics):
    wanted = variables.read(environ)
    assert (wanted.traces, wanted.metrics) == (traces, metrics)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_TRACES_SAMPLER": "nonsense"},
        BASE | {"OTEL_SDK_DISABLED": "TRUE"},
        BASE | {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
    ],
)
def test_without_one_nothing_is_exported(environ):
    assert variables.read(environ) is None


@pytest.mark.parametrize(
    ("environ", "sampler"),
    [
        ({}, Sampler(by_parent=True, bound=IDS)),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, Sampler(by_parent=False, bound=IDS)),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, Sampler(by_parent=False, bound=0)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, Sampler(by_parent=True, bound=0)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, Sampler(by_parent=False, bound=IDS // 2)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, Sampler(by_parent=True, bound=0)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, Sampler(by_parent=False, bound=IDS)),
    ],
)
def test_a_sampler_is_what_its_name_says(environ, sampler):
    assert variables.read(BASE | environ).sampler == sampler


def test_batches_are_as_large_and_as_late_as_they_are_told_to_be():
    told = {
        "OTEL_BSP_MAX_QUEUE_SIZE": "100",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
        "OTEL_BSP_SCHEDULE_DELAY": "250",
        "OTEL_METRIC_EXPORT_INTERVAL": "1500",
    }
    wanted = variables.read(BASE | told)
    assert (wanted.queue, wanted.batch, wanted.delay_s, wanted.interval_s) == (100, 10, 0.25, 1.5)


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_METRICS_EXPORTER": "prometheus"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "0"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "1e3"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "9" * 5000},
        {"OTEL_BSP_SCHEDULE_DELAY": "-1"},
        {"OTEL_METRIC_EXPORT_INTERVAL": "soon"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "100"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://[collector:4318"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "grpc://collector:4317"},
        {"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"},
        {"OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "br"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "-1"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "nan"},
        {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "10000"},
        {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/absent/ca.pem"},
        {"OTEL_EXPORTER_OTLP_CLIENT_KEY": __file__},
        {"OTEL_EXPORTER_OTLP_HEADERS": "a bearer of nothing"},
        {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=Bearer%20x,y"},
        {"OTEL_RESOURCE_ATTRIBUTES": "production"},
    ],
)
def test_what_cannot_be_used_keeps_it_from_starting_and_is_named(environ):
    with pytest.raises(ConfigError) as refused:
        variables.read(BASE | environ)
    assert any(name in str(refused.value) for name in environ)


def test_what_is_set_and_changes_nothing_is_named():
    assert variables.read(BASE).ignored == ()
    assert variables.read(BASE | {"OTEL_PROPAGATORS": "b3", "OTEL_BSP_EXPORT_TIMEOUT": "", "OTEL_LOG_LEVEL": "debug"}).ignored == (
        "OTEL_LOG_LEVEL",
        "OTEL_PROPAGATORS",
    )


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector"},
        {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5"},
        {
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": __file__,
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": __file__,
            "OTEL_EXPORTER_OTLP_CERTIFICATE": __file__,
        },
        {
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x, x-scope=a=b,",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        },
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "zstd"},
    ],
)
def test_what_the_exporters_can_use_is_taken(environ):
    assert variables.read(BASE | environ).traces


def test_no_value_that_may_hold_a_token_is_repeated():
    for name in ("HEADERS", "ENDPOINT", "TIMEOUT", "COMPRESSION", "CERTIFICATE"):
        with pytest.raises(ConfigError) as refused:
            variables.read(BASE | {f"OTEL_EXPORTER_OTLP_{name}": "tok en-4711"})
        assert "4711" not in str(refused.value)


@pytest.mark.parametrize(
    ("environ", "at"), [("http://c:4318/x", ("c", 4318)), ("https://c", ("c", 443)), ("http://u:p@[::1]/", ("::1", 80))]
)
def test_where_a_collector_listens(environ, at):
    assert way.address({"OTEL_EXPORTER_OTLP_ENDPOINT": environ}, "TRACES") == at


OFF = """
import asyncio, sys
from contextlib import AsyncExitStack
from broker import otlp, server, wiring
from broker.telemetry import Telemetry
from broker.tracing import untraced
async def main():
    async with AsyncExitStack() as closing:
        begin, keep = await otlp.open_exports({}, Telemetry("1"), "1", closing)
    assert begin is untraced and not keep
asyncio.run(main())
print([name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "google", "requests", "urllib3")])
"""


def test_without_an_endpoint_nothing_of_it_is_imported():
    assert run([sys.executable, "-c", OFF], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "[]"
