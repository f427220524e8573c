"""Metrics by OTLP: the same sums that Prometheus reads, by the names that GenAI conventions give them."""

from contextlib import asynccontextmanager

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.fake_provider import FakeProvider
from support.objects_yaml import access, routing
from support.otlp_receiver import METRICS, Receiver, resource_of
from support.provider_words import CHAT
from support.stack import AGENT, OTHER, stack

from broker.series import SECONDS, TOKENS

ASK = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}
WHO = {"trust_domain": "example.org", "namespace": "team1", "service_account": "agent"}
CALL = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt"}


@asynccontextmanager
async def measured(tmp_path, monkeypatch):
    async with Receiver() as collector, FakeProvider(CHAT) as provider:
        environ = collector.environ(OTEL_TRACES_EXPORTER="none", OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test")
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        async with stack(tmp_path, routing(provider.port) + access(), [AGENT, OTHER], environ=environ) as it:
            yield it, collector


def by(points, **attributes):
    (found,) = [point for its, point in points if attributes.items() <= its.items()]
    return found


async def test_an_exchange_is_measured_by_caller_model_provider_and_operation(tmp_path, monkeypatch):
    async with measured(tmp_path, monkeypatch) as (it, collector):
        for _ in range(2):
            await it.openai(AGENT).chat.completions.create(**ASK)
        with pytest.raises(openai.PermissionDeniedError):
            await it.openai(OTHER).chat.completions.create(**ASK)
        read = await collector.metrics(lambda read: sum(int(point.as_double) for _, point in read.get("aiaccess_requests", [])) == 3)
    usage = read["gen_ai.client.token.usage"]
    assert [its for its, _ in usage] == [WHO | CALL | {"gen_ai.token.type": way} for way in ("input", "output")]
    assert [(point.count, point.sum) for _, point in usage] == [(2, 10), (2, 4)]
    assert [tuple(point.explicit_bounds) for _, point in usage] == [TOKENS, TOKENS]
    for name in ("gen_ai.client.operation.duration", "gen_ai.server.time_to_first_token"):
        ((its, point),) = read[name]  # nobody was asked for whoever was refused
        assert its == WHO | CALL
        assert (point.count, sum(point.bucket_counts), tuple(point.explicit_bounds)) == (2, 2, SECONDS)
        assert 0 < point.sum < 20
        assert point.start_time_unix_nano < point.time_unix_nano
    refused = by(read["aiaccess_requests"], code="forbidden", service_account="other")
    assert refused.as_double == 1


async def test_prometheus_and_the_collector_say_the_same(tmp_path, monkeypatch):
    async with measured(tmp_path, monkeypatch) as (it, collector):
        for _ in range(3):
            await it.openai(AGENT).chat.completions.create(**ASK)
        await it.audited(3)
        text = await it.metrics()
        read = await collector.metrics(lambda read: sum(p.count for _, p in read.get("gen_ai.client.operation.duration", [])) == 3)
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    compared = 0
    for name in ("aiaccess_requests", "aiaccess_tokens"):
        for its, point in read[name]:
            assert samples[f"{name}_total", *sorted(its.items())] == point.as_double
            compared += 1
    assert compared == 4
    call = sorted({"model": "gpt", "provider": "openai", "operation": "chat"}.items())
    ((_, duration),) = read["gen_ai.client.operation.duration"]
    assert samples["aiaccess_request_duration_seconds_sum", *call] == pytest.approx(duration.sum)
    ((_, first),) = read["gen_ai.server.time_to_first_token"]
    assert samples["aiaccess_first_byte_seconds_sum", *call] == pytest.approx(first.sum)


async def test_a_replica_says_who_it_is_and_the_operators_words_win(tmp_path, monkeypatch):
    async with measured(tmp_path, monkeypatch) as (it, collector):
        await it.openai(AGENT).chat.completions.create(**ASK)
        await collector.metrics(lambda read: "gen_ai.client.token.usage" in read)
        resource = resource_of(collector.bodies(METRICS)[-1])
    assert resource["service.name"] == "inference-broker"
    assert resource["service.version"]
    assert len(resource["service.instance.id"]) == 36
    assert resource["deployment.environment.name"] == "test"


async def test_no_spiffe_id_is_an_attribute_of_a_metric(tmp_path, monkeypatch):
    async with measured(tmp_path, monkeypatch) as (it, collector):
        await it.openai(AGENT).chat.completions.create(**ASK)
        await collector.metrics(lambda read: "gen_ai.client.token.usage" in read)
    assert not any(b"spiffe://" in seen.body for seen in collector.http.seen)
