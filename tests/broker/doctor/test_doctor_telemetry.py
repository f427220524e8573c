"""What `broker doctor` says of the collector; its other checks are in test_doctor.py."""

import asyncio

import pytest

from broker.config import Address, BrokerSettings
from broker.doctor import collecting
from broker.doctor.finding import Finding


async def examined(content: bool = False, **environ: str) -> list[Finding]:  # noqa: FBT001, FBT002  a switch
    at = Address("127.0.0.1", 0)
    settings = BrokerSettings(None, "", at, at, "-", "memory:", "inference-broker", environ=environ, otel_content=content)
    return list(await collecting.examine(settings))


@pytest.fixture
async def collector():
    """Its URL, as one has it who keeps a password in it."""
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        yield f"http://user:hunter2@127.0.0.1:{server.sockets[0].getsockname()[1]}/otlp"


def states(findings: list[Finding]) -> list[str]:
    return [str(one.state) for one in findings]


async def test_without_a_collector_all_is_well():
    assert states(await examined()) == ["OK"]


async def test_one_that_takes_connections_is_named_without_what_its_url_holds(collector):
    (row,) = await examined(OTEL_EXPORTER_OTLP_ENDPOINT=collector)
    assert str(row.state) == "OK"
    assert "for traces and metrics" in row.found
    assert "hunter2" not in row.found + row.remedy


async def test_one_that_is_away_costs_spans_and_no_request(collector):
    (traces, metrics) = await examined(
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://127.0.0.1:1"
    )
    assert states([traces, metrics]) == ["OK", "WARN"]
    assert metrics.found == "no connection to the collector at 127.0.0.1:1 (Connection refused): metrics are dropped"
    assert metrics.remedy.startswith("requests are served all the same")


async def test_a_name_that_leads_nowhere_is_said():
    (row,) = await examined(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector.invalid:4318")
    assert (str(row.state), "collector.invalid:4318" in row.found) == ("WARN", True)


@pytest.mark.parametrize(
    ("environ", "cause"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "speaks http/protobuf alone"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_SAMPLER": "jaeger_remote"},
            "OTEL_TRACES_SAMPLER=jaeger_remote is none of",
        ),
    ],
)
async def test_a_variable_that_keeps_a_broker_from_starting_is_wrong(environ, cause):
    (row,) = await examined(**environ)
    assert str(row.state) == "FAIL"
    assert cause in row.found
    assert "docs/telemetry.md" in row.remedy


async def test_prompts_that_go_there_are_a_warning_and_without_traces_wrong(collector):
    assert states(await examined(content=True, OTEL_EXPORTER_OTLP_ENDPOINT=collector)) == ["OK", "WARN"]
    (row,) = await examined(content=True, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=collector)
    assert (str(row.state), row.found.startswith("--otel-content: no traces")) == ("FAIL", True)


async def test_a_variable_that_changes_nothing_is_a_warning(collector):
    (_, row) = await examined(OTEL_EXPORTER_OTLP_ENDPOINT=collector, OTEL_PROPAGATORS="b3")
    assert (str(row.state), row.found) == ("WARN", "set, and ignored: OTEL_PROPAGATORS")
