"""The dashboard names only metrics and labels that a broker exposes; tests/dashboard asks the queries of a real Prometheus."""

import json

import pytest
from support.chart import LEAST, MOST, one, render
from support.dashboard import FILE, VARIABLES, labels_of, metrics_of, panels, queries

from broker.chat import Usage
from broker.identity import parse_spiffe_id
from broker.series import Call
from broker.telemetry import Figure, Telemetry

LABELS = {Figure.STALENESS: ("kind", "namespace"), Figure.OTLP_SENT: ("signal",), Figure.OTLP_DROPPED: ("signal",)}


def exposed() -> dict[str, set[str]]:
    """Every sample that a broker can have, and its labels."""
    telemetry = Telemetry("1")
    agent = parse_spiffe_id("spiffe://example.org/ns/team1/sa/agent")
    telemetry.exchange_done(agent, Call("gpt", "openai", "chat"), "answered", Usage(1, 2), 0.1, 0.1)
    telemetry.handshake_refused("x")
    telemetry.quota_warned("team1", "p", "q", 80)
    for figure in Figure:
        if figure in LABELS:
            names = LABELS[figure]
            telemetry.show_each(figure, names, lambda names=names: [(("x",) * len(names), 1.0)])
        else:
            telemetry.show(figure, lambda: 1.0)
    families = [family for family in telemetry.registry.collect() if family.samples]
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


EXPOSED = exposed()


@pytest.mark.parametrize("query", queries())
def test_a_query_names_only_what_a_broker_exposes(query: str):
    named = metrics_of(query)
    assert named
    assert named <= set(EXPOSED)
    assert labels_of(query) <= set().union(*(EXPOSED[name] for name in named))


def test_a_counter_is_never_shown_bare_and_nothing_but_a_counter_has_a_rate():
    for query in queries():
        for name in metrics_of(query):
            bare = not any(part in query for part in ("rate(", "increase(", " offset "))
            assert bare is not name.endswith(("_total", "_bucket"))


def test_every_panel_says_in_which_unit_and_every_line_has_a_name():
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_lie_beside_each_other():
    squares = [
        (x, y)
        for panel in json.loads(FILE.read_text())["panels"]
        for at in (panel["gridPos"],)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(squares) == len(set(squares))
    assert max(x for x, _ in squares) < 24


def test_every_variable_that_a_query_uses_is_there():
    text = FILE.read_text()
    made = {each["name"] for each in json.loads(text)["templating"]["list"]}
    assert {name.removeprefix("$") for name in VARIABLES if not name.startswith("$__")} < made == {"datasource", "namespace", "model"}


def test_a_configmap_has_it_unchanged_where_it_is_wanted():
    made = one(render(MOST), "ConfigMap", "inference-broker-dashboard")
    assert json.loads(made["data"]["inference-broker.json"]) == json.loads(FILE.read_text())
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"grafana_folder": "AI"}
    assert "inference-broker-dashboard" not in [each["metadata"]["name"] for each in render(LEAST)]


def test_prometheus_keeps_our_labels_where_its_own_have_the_same_names():
    monitors = [made for made in render(MOST) if made["kind"] == "ServiceMonitor"]
    assert monitors
    assert all(end["honorLabels"] is True for made in monitors for end in made["spec"]["endpoints"])
