"""Traces with real processes: through gateway and broker to a provider, with a collector that goes away, and at SIGTERM."""

import asyncio
from contextlib import asynccontextmanager

import httpx2 as httpx
import pytest
from support.fake_provider import FakeProvider
from support.objects_yaml import access, routing
from support.otlp_receiver import METRICS, Receiver, points_of
from support.ports import closed_port
from support.processes import deployment
from support.provider_words import CHAT
from support.stack import AGENT, CANARY

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ASK = {"model": "gpt", "messages": [{"role": "user", "content": "a prompt that nobody else may read"}]}
TOKEN = "sk-canary-collector"


@asynccontextmanager
async def live(tmp_path, environ):
    async with FakeProvider(CHAT) as provider, deployment(tmp_path, routing(provider.port) + access(), {"KEY": CANARY, **environ}) as it:
        broker = await it.serve()
        await it.gateway(AGENT)
        async with httpx.AsyncClient(base_url=it.url(AGENT), timeout=30) as agent:
            yield it, broker, provider, agent


async def test_an_agents_trace_runs_through_gateway_and_broker_to_the_provider_and_ends_at_the_collector(tmp_path):
    async with Receiver() as collector:
        environ = collector.environ(
            OTEL_SERVICE_NAME="llm-broker",
            OTEL_RESOURCE_ATTRIBUTES="team=platform,service.name=overruled",
            OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{TOKEN}",
            OTEL_BSP_SCHEDULE_DELAY="3600000",
        )
        async with live(tmp_path, environ) as (_, broker, provider, agent):
            theirs = {"traceparent": PARENT, "tracestate": "vendor=1", "baggage": "user=alice"}
            answer = await agent.post("/v1/chat/completions", json=ASK, headers=theirs)
            assert answer.status_code == 200
            assert collector.spans_so_far() == []
            assert await broker.stop() == 0
        exchange, attempt = collector.spans_so_far()  # sent within the drain
    assert (exchange.trace_id, exchange.parent_id) == tuple(PARENT.split("-")[1:3])
    assert exchange.resource["service.name"] == "llm-broker"
    assert exchange.resource["team"] == "platform"
    assert exchange.attributes["aiaccess.exchange"] == answer.headers["x-aiaccess-exchange"]
    (seen,) = provider.seen
    assert seen.header(b"traceparent") == f"00-{exchange.trace_id}-{attempt.span_id}-01".encode()
    assert seen.header(b"tracestate") == b"vendor=1"
    assert seen.header(b"baggage") is None
    assert seen.header(b"authorization") == f"Bearer {CANARY}".encode()
    last = points_of(collector.bodies(METRICS)[-1])
    assert last["gen_ai.client.token.usage"][0][1].count == 1
    assert all(one.header(b"authorization") == f"Bearer {TOKEN}".encode() for one in collector.http.seen)
    sent = b"".join(one.body for one in collector.http.seen)
    assert CANARY.encode() not in sent
    assert b"a prompt that" not in sent
    assert TOKEN not in broker.output()


@pytest.fixture
def nobody():
    """Where a collector should be."""
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}"


async def test_a_collector_that_was_never_there_costs_nobody_an_answer_and_floods_no_log(tmp_path, nobody):
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": nobody,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{TOKEN}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
        "OTEL_METRIC_EXPORT_INTERVAL": "50",
    }
    async with live(tmp_path, environ) as (it, broker, _, agent):
        for _ in range(20):
            assert (await agent.post("/v1/chat/completions", json=ASK)).status_code == 200
        async with asyncio.timeout(20):
            while await it.metric("aiaccess_otlp_dropped_total") < 40:
                await asyncio.sleep(0.05)
        assert await broker.stop() == 0
        log = broker.output()
    assert log.count("otlp_away") == 2  # traces, metrics
    assert TOKEN not in log
    assert "opentelemetry" not in log
    assert "Traceback" not in log
