"""Traces through both doors with unmodified SDKs: what a collector gets, and what providers are told."""

import asyncio
import ssl
from contextlib import asynccontextmanager

import openai
import pytest
from support.fake_provider import FakeProvider, chunk, json_answer, sse_head
from support.objects_yaml import access, routing
from support.otlp_receiver import METRICS, TRACES, Receiver, points_of, protobuf, taken
from support.provider_words import CHAT, CHAT_EVENTS, CHAT_STREAM, MESSAGE
from support.stack import AGENT, CANARY, OTHER, stack
from support.web_ca import WebCa

from broker.otlp import opening

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"
PROMPT = "a prompt that nobody else may read"
ASK = {"model": "gpt", "messages": [{"role": "user", "content": PROMPT}]}
TWICE = """  - name: twice
    backends: [{provider: nowhere, model: first-real, priority: 0}, {provider: openai, model: second-real, priority: 1}]
    defaultOutputTokens: 50"""


@asynccontextmanager
async def traced(tmp_path, monkeypatch, *answers, collector=None, workloads=(AGENT,), drain=5.0, **more):
    """The product, a provider and a collector."""
    collector = collector or Receiver()
    async with collector, FakeProvider(*(answers or (CHAT,))) as provider:
        environ = collector.environ(**more)
        for name, value in environ.items():  # the exporters read the environment of the process
            monkeypatch.setenv(name, value)
        objects = routing(provider.port, models=TWICE) + access(models="gpt, claude, twice")
        async with stack(tmp_path, objects, workloads, environ=environ, drain=drain) as it:
            yield it, provider, collector


async def test_an_exchange_is_a_span_and_its_attempt_another_below(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch) as (it, provider, collector):
        answer = await it.openai(AGENT).chat.completions.with_raw_response.create(**ASK)
        exchange, attempt = await collector.spans(2)
        metrics = await it.metrics()
    (line,) = it.audit()
    assert (exchange.name, exchange.kind, exchange.status, exchange.parent_id) == ("POST /v1/chat/completions", "SERVER", "", "")
    assert (attempt.name, attempt.kind, attempt.status) == ("chat gpt-real", "CLIENT", "")
    assert (attempt.trace_id, attempt.parent_id) == (exchange.trace_id, exchange.span_id)
    assert exchange.began_ns <= attempt.began_ns < attempt.ended_ns <= exchange.ended_ns
    first_byte = exchange.attributes.pop("aiaccess.first_byte_seconds")
    assert first_byte == pytest.approx(line["first_byte_ms"] / 1000)
    assert exchange.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "aiaccess.exchange": answer.headers["x-aiaccess-exchange"],
        "aiaccess.code": "answered",
        "aiaccess.decision": "allowed",
        "aiaccess.dialect": "openai_chat",
        "aiaccess.attempts": 1,
        "aiaccess.spiffe_id": AGENT,
        "aiaccess.namespace": "team1",
        "aiaccess.policies": ["team1/agents"],
        "aiaccess.charged.input_tokens": 5,
        "aiaccess.charged.output_tokens": 2,
        "aiaccess.charged.estimated": False,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt",
        "gen_ai.request.stream": False,
    }
    assert attempt.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-real",
        "gen_ai.request.stream": False,
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "aiaccess.provider": "team1/openai",
        "server.address": "127.0.0.1",
        "server.port": provider.port,
        "http.response.status_code": 200,
    }
    assert provider.seen[0].header(b"traceparent") == f"00-{attempt.trace_id}-{attempt.span_id}-03".encode()
    assert 'aiaccess_otlp_sent_total{signal="traces"} 2' in metrics
    assert 'aiaccess_otlp_dropped_total{signal="traces"} 0' in metrics


async def test_a_stream_is_a_span_that_lasts_as_long_as_it_does(tmp_path, monkeypatch):
    go = asyncio.Event()
    slow = (sse_head(), chunk(CHAT_EVENTS[0]), go, *map(chunk, CHAT_EVENTS[1:]), b"0\r\n\r\n")
    async with traced(tmp_path, monkeypatch, slow) as (it, _, collector):
        stream = await it.openai(AGENT).chat.completions.create(**ASK, stream=True)
        pieces = aiter(stream)
        await anext(pieces)
        assert collector.spans_so_far() == []
        go.set()
        async for _ in pieces:
            pass
        exchange, attempt = await collector.spans(2)
    assert exchange.attributes["gen_ai.request.stream"] is True
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 2
    assert exchange.attributes["aiaccess.first_byte_seconds"] < (exchange.ended_ns - exchange.began_ns) / 1e9


async def test_each_attempt_of_a_failover_is_a_span_with_what_came_of_it(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch) as (it, _, collector):
        await it.openai(AGENT).chat.completions.create(**ASK | {"model": "twice"})
        exchange, first, second = await collector.spans(3)
    assert exchange.attributes["aiaccess.attempts"] == 2
    assert {first.parent_id, second.parent_id} == {exchange.span_id}
    assert (first.name, first.status, first.attributes["error.type"]) == ("chat first-real", "ERROR", "ConnectFailure")
    assert (second.name, second.status, second.attributes["http.response.status_code"]) == ("chat second-real", "", 200)
    assert first.ended_ns <= second.began_ns
    assert "gen_ai.usage.input_tokens" not in first.attributes


async def test_a_refusal_before_any_provider_is_one_span_that_says_why_and_repeats_no_word_of_the_caller(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch, workloads=(AGENT, OTHER)) as (it, provider, collector):
        with pytest.raises(openai.PermissionDeniedError):
            await it.openai(OTHER).chat.completions.create(**ASK | {"model": "whatever-the-caller-says"})
        (exchange,) = await collector.spans(1)
    assert provider.seen == []
    assert exchange.attributes["error.type"] == exchange.attributes["aiaccess.code"] == "forbidden"
    assert (exchange.status, exchange.attributes["http.response.status_code"]) == ("", 403)  # the caller's fault, not the server's
    assert exchange.attributes["aiaccess.spiffe_id"] == OTHER
    assert exchange.attributes["aiaccess.decision"] == "refused"
    assert "gen_ai.request.model" not in exchange.attributes
    assert not any(b"whatever-the-caller-says" in body for body in collector.bodies(TRACES))


async def test_an_unknown_path_is_not_repeated(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch) as (it, _, collector):
        await it.http(AGENT).post("/v1/made-up-path", json=ASK)
        (exchange,) = await collector.spans(1)
    assert exchange.name == "POST"
    assert exchange.attributes["error.type"] == "unknown_route"
    assert not any(b"made-up" in body for body in collector.bodies(TRACES))


async def test_a_failing_provider_is_an_error_of_both_spans(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch, json_answer(b'{"error":{}}', 500)) as (it, _, collector):
        with pytest.raises(openai.InternalServerError):
            await it.openai(AGENT).chat.completions.create(**ASK)
        exchange, attempt = await collector.spans(2)
    assert (exchange.status, exchange.attributes["error.type"]) == ("ERROR", "provider_unavailable")
    assert (attempt.status, attempt.attributes["error.type"], attempt.attributes["http.response.status_code"]) == ("ERROR", "500", 500)


async def test_a_stream_that_breaks_off_is_an_error_though_its_status_was_200(tmp_path, monkeypatch):
    broken = (sse_head(), chunk(CHAT_EVENTS[0]), "reset")
    async with traced(tmp_path, monkeypatch, broken) as (it, _, collector):
        stream = await it.openai(AGENT).chat.completions.create(**ASK, stream=True)
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
        exchange, attempt = await collector.spans(2)
    assert (exchange.status, exchange.attributes["http.response.status_code"]) == ("ERROR", 200)
    assert exchange.attributes["aiaccess.charged.estimated"] is True
    assert attempt.attributes["error.type"] == "Reset"


async def test_a_caller_who_leaves_is_nobodys_error(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch, ("hang",)) as (it, provider, collector):
        asking = asyncio.create_task(it.http(AGENT).post("/v1/chat/completions", json=ASK))
        await provider.requests(1)
        asking.cancel()
        exchange, attempt = await collector.spans(2)
    assert (exchange.status, exchange.attributes["aiaccess.code"]) == ("", "caller_left")
    assert (attempt.status, attempt.attributes["error.type"]) == ("", "caller_left")


async def test_the_callers_trace_goes_on_to_the_provider_and_its_baggage_does_not(tmp_path, monkeypatch):
    theirs = {"traceparent": PARENT, "tracestate": "vendor=1, other@system=two", "baggage": "user=alice"}
    async with traced(tmp_path, monkeypatch) as (it, provider, collector):
        await it.openai(AGENT).chat.completions.create(**ASK, extra_headers=theirs)
        exchange, attempt = await collector.spans(2)
    assert exchange.trace_id == attempt.trace_id == PARENT.split("-")[1]
    assert exchange.parent_id == PARENT.split("-")[2]
    assert exchange.state == attempt.state == "vendor=1,other@system=two"
    (seen,) = provider.seen
    assert seen.header(b"traceparent") == f"00-{exchange.trace_id}-{attempt.span_id}-01".encode()
    assert seen.header(b"tracestate") == b"vendor=1,other@system=two"
    assert seen.header(b"baggage") is None


@pytest.mark.parametrize("wrong", [PARENT.upper(), PARENT + "-00", PARENT.replace("b7ad6b7169203331", "0" * 16), "ff" + PARENT[2:], "x"])
async def test_a_malformed_parent_is_as_none(tmp_path, monkeypatch, wrong):
    async with traced(tmp_path, monkeypatch) as (it, provider, collector):
        await it.openai(AGENT).chat.completions.create(**ASK, extra_headers={"traceparent": wrong, "tracestate": "a=1"})
        exchange, _ = await collector.spans(2)
    assert exchange.parent_id == exchange.state == ""
    assert exchange.trace_id != PARENT.split("-")[1]
    assert provider.seen[0].header(b"tracestate") is None


async def test_a_parent_that_is_not_recorded_is_not_recorded_here_either_and_goes_on_as_such(tmp_path, monkeypatch):
    async with traced(tmp_path, monkeypatch, OTEL_TRACES_SAMPLER="parentbased_always_on") as (it, provider, collector):
        await it.openai(AGENT).chat.completions.create(**ASK, extra_headers={"traceparent": UNSAMPLED})
        await it.openai(AGENT).chat.completions.create(**ASK, extra_headers={"traceparent": PARENT})
        spans = await collector.spans(2)
    assert len(spans) == 2
    assert len(provider.seen) == 2
    sent = provider.seen[0].header(b"traceparent") or b""
    assert sent.startswith(PARENT[:36].encode())
    assert sent.endswith(b"-00")


async def test_a_sampler_without_a_parent_decides_alone(tmp_path, monkeypatch):
    sampling = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    low, high = f"00-{'1' * 16}{'0' * 15}1-{'2' * 16}-00", f"00-{'1' * 16}{'f' * 16}-{'2' * 16}-01"
    async with traced(tmp_path, monkeypatch, **sampling) as (it, _, collector):
        for parent in (high, low):
            await it.openai(AGENT).chat.completions.create(**ASK, extra_headers={"traceparent": parent})
        spans = await collector.spans(2)
    assert {span.trace_id for span in spans} == {low.split("-")[1]}


async def test_without_an_endpoint_no_context_goes_to_a_provider(tmp_path):
    async with FakeProvider(CHAT) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        await it.openai(AGENT).chat.completions.create(**ASK, extra_headers={"traceparent": PARENT, "tracestate": "a=1"})
        assert "aiaccess_otlp" not in await it.metrics()
    assert provider.seen[0].header(b"traceparent") is None
    assert provider.seen[0].header(b"tracestate") is None


async def test_neither_keys_nor_prompts_nor_answers_reach_the_collector(tmp_path, monkeypatch):
    echo = json_answer(b'{"error":{"message":"no key ' + CANARY.encode() + b'"}}', 401)
    token = "sk-canary-collector"
    more = {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{token}"}
    async with traced(tmp_path, monkeypatch, CHAT, CHAT_STREAM, echo, MESSAGE, **more) as (it, provider, collector):
        await it.openai(AGENT).chat.completions.create(**ASK)
        async for _ in await it.openai(AGENT).chat.completions.create(**ASK, stream=True):
            pass
        with pytest.raises(openai.APIStatusError):
            await it.openai(AGENT).chat.completions.create(**ASK)
        await it.anthropic(AGENT).messages.create(**ASK | {"model": "claude"}, max_tokens=20)
        await collector.spans(8)
        await collector.metrics(lambda read: "gen_ai.client.token.usage" in read)
    assert provider.seen[0].header(b"authorization") == f"Bearer {CANARY}".encode()
    assert all(seen.header(b"authorization") == f"Bearer {token}".encode() for seen in collector.http.seen)
    everything = b"".join(seen.body for seen in collector.http.seen)
    for secret in (CANARY, PROMPT, token, "aiaccess-dev-", "no key"):
        assert secret.encode() not in everything


async def counted(it, what, spans):
    async with asyncio.timeout(10):
        while f'aiaccess_otlp_{what}_total{{signal="traces"}} {spans}.0' not in await it.metrics():
            await asyncio.sleep(0.01)


async def test_a_collector_that_is_away_is_said_once_costs_only_spans_and_is_welcome_back(tmp_path, monkeypatch, capsys):
    token = "sk-canary-collector"
    collector = Receiver(lambda _: protobuf(b"no", 500))
    more = {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{token}"}
    async with traced(tmp_path, monkeypatch, collector=collector, OTEL_METRICS_EXPORTER="none", **more) as (it, _, _):
        for number in range(1, 4):
            await it.openai(AGENT).chat.completions.create(**ASK)
            await counted(it, "dropped", 2 * number)
        collector.answer = taken
        await it.openai(AGENT).chat.completions.create(**ASK)
        await counted(it, "sent", 2)
        await counted(it, "dropped", 6)
    log = capsys.readouterr().err
    assert log.count('"otlp_away", "signal": "traces", "why": "500') == 1
    assert log.count('"otlp_back", "signal": "traces"') == 1
    assert token not in log


async def test_a_queue_that_is_full_drops_spans_and_no_request_waits(tmp_path, monkeypatch):
    go = asyncio.Event()
    collector = Receiver(lambda seen: (go, *taken(seen)))
    few = {"OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2", "OTEL_METRICS_EXPORTER": "none"}
    async with traced(tmp_path, monkeypatch, collector=collector, **few) as (it, _, _):
        await it.openai(AGENT).chat.completions.create(**ASK)
        await collector.http.requests(1)  # and the exporter waits
        for _ in range(5):
            await it.openai(AGENT).chat.completions.create(**ASK)
        await it.audited(6)
        assert 'aiaccess_otlp_dropped_total{signal="traces"} 6' in await it.metrics()
        go.set()
        assert len(await collector.spans(6)) == 6


async def test_what_was_not_sent_yet_is_sent_at_the_end(tmp_path, monkeypatch):
    hour = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
    collector = Receiver()
    async with traced(tmp_path, monkeypatch, collector=collector, **hour) as (it, _, _):
        await it.openai(AGENT).chat.completions.create(**ASK)
        await it.audited(1)
        assert collector.http.seen == []
    assert [span.kind for span in collector.spans_so_far()] == ["SERVER", "CLIENT"]
    (sent,) = map(points_of, collector.bodies(METRICS))
    assert "gen_ai.client.token.usage" in sent


async def test_a_collector_that_says_nothing_does_not_hold_up_the_end(tmp_path, monkeypatch, capsys):
    collector = Receiver(lambda _: ("hang",))
    async with traced(tmp_path, monkeypatch, collector=collector) as (it, _, _):
        await it.openai(AGENT).chat.completions.create(**ASK)
        await collector.http.requests(1)
        began_s = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began_s < opening.FLUSH_S + 5
    assert '"otlp_not_flushed", "signal": "traces"' in capsys.readouterr().err


async def test_a_collector_is_believed_by_the_authority_that_the_operator_named_and_by_no_other(tmp_path, monkeypatch, capsys):
    ca, other = WebCa(), WebCa()
    for name, authority in (("right", ca), ("wrong", other)):
        (tmp_path / f"{name}.pem").write_bytes(authority.pem)
        (tmp_path / name).mkdir()
        given = {
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / f"{name}.pem"),
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_METRICS_EXPORTER": "none",
        }
        collector = Receiver(tls=ca.context("localhost"))
        async with traced(tmp_path / name, monkeypatch, collector=collector, **given) as (it, _, _):
            await it.openai(AGENT).chat.completions.create(**ASK)
            await counted(it, "sent" if name == "right" else "dropped", 2)
        assert len(collector.spans_so_far()) == (2 if name == "right" else 0)
    assert '"otlp_away", "signal": "traces", "why": "SSLError"' in capsys.readouterr().err


async def test_a_collector_that_wants_a_certificate_of_ours_and_little_traffic_gets_both(tmp_path, monkeypatch):
    ca = WebCa()
    tls = ca.context("localhost")
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    (tmp_path / "client.pem").write_bytes(ca.client("broker"))
    tls.load_verify_locations(str(tmp_path / "ca.pem"))
    tls.verify_mode = ssl.CERT_REQUIRED
    given = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem"),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(tmp_path / "client.pem"),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "client.pem"),
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    async with traced(tmp_path, monkeypatch, collector=Receiver(tls=tls), **given) as (it, _, collector):
        await it.openai(AGENT).chat.completions.create(**ASK)
        await collector.spans(2)
        await collector.metrics(lambda read: "gen_ai.client.token.usage" in read)
    assert {seen.header(b"content-encoding") for seen in collector.http.seen} == {b"gzip"}


async def test_each_signal_may_have_an_endpoint_and_headers_of_its_own(tmp_path, monkeypatch):
    """The endpoint of one signal is used as it is, without a path of ours behind it."""
    elsewhere = Receiver(answer=lambda _: protobuf())
    async with elsewhere:
        given = {
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{elsewhere.url}/as/it/is",
            "OTEL_EXPORTER_OTLP_HEADERS": "who=all",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "who=metrics",
        }
        async with traced(tmp_path, monkeypatch, **given) as (it, _, collector):
            await it.openai(AGENT).chat.completions.create(**ASK)
            await collector.spans(2)
            await elsewhere.http.requests(1)
        assert {(seen.target, seen.header(b"who")) for seen in collector.http.seen} == {(TRACES, b"all")}
        assert {(seen.target, seen.header(b"who")) for seen in elsewhere.http.seen} == {("/as/it/is", b"metrics")}
