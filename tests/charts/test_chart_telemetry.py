"""The broker is told of the collector by OpenTelemetry's own variables, and its headers stay in their Secret."""

import helm_python
import pytest
from support.chart import LEAST, MOST, container, render

from broker.otlp import variables
from broker.tracecontext import IDS, Sampler


def env(values):
    return {each["name"]: each for each in container(render(values))["env"]}


def test_without_an_endpoint_nothing_of_it_stands_in_the_pod():
    assert not [name for name in env(LEAST) if name.startswith("OTEL_")]


def test_the_broker_reads_what_the_values_mean():
    made = env(MOST)
    wanted = variables.read({name: each["value"] for name, each in made.items() if "value" in each})
    assert wanted is not None
    assert (wanted.traces, wanted.metrics, wanted.sampler) == (True, True, Sampler(by_parent=False, bound=round(IDS * 0.01)))
    assert made["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == "http://collector.example:4318"
    assert made["OTEL_SERVICE_NAME"]["value"] == "inference-broker"


def test_headers_come_from_their_secret_alone():
    assert env(MOST)["OTEL_EXPORTER_OTLP_HEADERS"] == {
        "name": "OTEL_EXPORTER_OTLP_HEADERS",
        "valueFrom": {"secretKeyRef": {"name": "collector", "key": "headers"}},
    }


def test_a_pod_says_its_own_name_which_must_come_before_it_is_used():
    names = [each["name"] for each in container(render(MOST))["env"]]
    assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")
    assert "k8s.pod.name=$(POD_NAME)" in env(MOST)["OTEL_RESOURCE_ATTRIBUTES"]["value"]


@pytest.mark.parametrize(
    "otlp",
    [
        {"endpoint": "http://user:password@collector:4318"},
        {"endpoint": "collector:4317"},
        {"sampler": "jaeger_remote"},
        {"samplerRatio": "2"},
    ],
    ids=str,
)
def test_a_value_that_the_broker_would_refuse_or_that_holds_a_password_is_refused_here(otlp):
    with pytest.raises(helm_python.HelmError, match="telemetry/otlp"):
        render(LEAST | {"telemetry": {"otlp": otlp}})


def test_prompts_and_answers_go_with_traces_where_the_values_say_so_and_not_without_any():
    without = {"endpoint": "http://collector.example:4318"}
    assert "BROKER_OTEL_CONTENT" not in env(LEAST | {"telemetry": {"otlp": without}})
    assert env(MOST)["BROKER_OTEL_CONTENT"]["value"] == "true"
    with pytest.raises(helm_python.HelmError, match=r"give telemetry\.otlp\.endpoint as well"):
        render(LEAST | {"telemetry": {"otlp": {"content": True}}})
