"""The metrics: sums that add up, labels that are bounded and say no more than they may."""

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from broker.chat import Usage
from broker.identity import Identity
from broker.ledger.memory import MemoryLedger
from broker.ledger.settling import Settler
from broker.series import Call
from broker.telemetry import Figure, Telemetry


def agent(name: str = "weather-agent") -> Identity:
    path = f"/ns/team1/sa/{name}"
    return Identity(f"spiffe://example.org{path}", "example.org", path, "team1", name)


def text(telemetry: Telemetry) -> str:
    return generate_latest(telemetry.registry).decode()


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(text(telemetry)):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


def test_requests_are_counted_by_outcome_and_caller() -> None:
    telemetry = Telemetry("0.1.0")
    telemetry.exchange_done(agent(), Call("gpt-4o"), "answered", Usage(1, 2), 0.2, 0.1)
    telemetry.exchange_done(agent(), Call("gpt-4o"), "answered", Usage(1, 2), 0.2, 0.1)
    telemetry.exchange_done(agent(), Call("gpt-4o"), "quota_exhausted", None, 0.001, None)
    who = {"trust_domain": "example.org", "namespace": "team1", "service_account": "weather-agent", "model": "gpt-4o"}
    assert value(telemetry, "aiaccess_requests_total", code="answered", **who) == 2
    assert value(telemetry, "aiaccess_requests_total", code="quota_exhausted", **who) == 1


def test_tokens_are_summed_by_direction() -> None:
    telemetry = Telemetry("0.1.0")
    telemetry.exchange_done(agent(), Call("gpt-4o"), "answered", Usage(100, 20, 60), 0.2, 0.1)
    telemetry.exchange_done(agent(), Call("gpt-4o"), "answered", Usage(1, 2, 0), 0.2, 0.1)
    found = [value(telemetry, "aiaccess_tokens_total", direction=way, model="gpt-4o") for way in ("input", "output", "cached")]
    assert found == [101, 22, 60]


def test_somebody_unidentified_has_empty_labels() -> None:
    telemetry = Telemetry("0.1.0")
    telemetry.exchange_done(None, Call(), "unidentified", None, 0.001, None)
    empty = {"trust_domain": "", "namespace": "", "service_account": "", "model": ""}
    assert value(telemetry, "aiaccess_requests_total", code="unidentified", **empty) == 1


def test_no_spiffe_id_appears() -> None:
    telemetry = Telemetry("0.1.0")
    telemetry.exchange_done(
        Identity("spiffe://example.org/secret/path", "example.org", "/secret/path", "", ""), Call(), "forbidden", None, 0.1, None
    )
    assert "secret/path" not in text(telemetry)


def test_callers_beyond_the_bound_are_counted_together() -> None:
    telemetry = Telemetry("0.1.0", label_sets=3)
    for number in range(10):
        telemetry.exchange_done(agent(f"a{number}"), Call("gpt-4o"), "answered", Usage(1, 1), 0.1, 0.1)
    assert value(telemetry, "aiaccess_requests_total", service_account="a2") == 1
    assert value(telemetry, "aiaccess_requests_total", service_account="a3") is None
    assert value(telemetry, "aiaccess_requests_total", service_account="other") == 7
    assert value(telemetry, "aiaccess_tokens_total", service_account="other", direction="input") == 7


def test_a_known_caller_stays_known_beyond_the_bound() -> None:
    telemetry = Telemetry("0.1.0", label_sets=1)
    for name in ("first", "second", "first"):
        telemetry.exchange_done(agent(name), Call("gpt-4o"), "answered", None, 0.1, 0.1)
    assert value(telemetry, "aiaccess_requests_total", service_account="first") == 2


def test_durations_fall_into_cumulative_buckets_without_labels_of_anybody() -> None:
    telemetry = Telemetry("0.1.0")
    for seconds in (0.004, 0.02, 9000.0):
        telemetry.exchange_done(agent(), Call("gpt-4o", "openai", "chat"), "answered", None, seconds, None)
    assert value(telemetry, "aiaccess_request_duration_seconds_bucket", le="0.005") == 1
    assert value(telemetry, "aiaccess_request_duration_seconds_bucket", le="0.025") == 2
    assert value(telemetry, "aiaccess_request_duration_seconds_bucket", le="+Inf") == 3
    assert value(telemetry, "aiaccess_request_duration_seconds_count") == 3
    assert value(telemetry, "aiaccess_request_duration_seconds_sum") == pytest.approx(9000.024)
    assert 'duration_seconds_bucket{le="0.005",model="gpt-4o",operation="chat",provider="openai"}' in text(telemetry)


def test_a_request_without_an_answer_has_no_first_byte() -> None:
    telemetry = Telemetry("0.1.0")
    telemetry.exchange_done(agent(), Call(), "forbidden", None, 0.01, None)
    assert value(telemetry, "aiaccess_first_byte_seconds_count") == 0


def test_a_figure_is_read_when_it_is_asked_for() -> None:
    telemetry = Telemetry("0.1.0")
    holds = [1, 2]
    telemetry.show(Figure.HOLDS_OPEN, lambda: len(holds))
    assert value(telemetry, "aiaccess_holds_open") == 2
    holds.clear()
    assert value(telemetry, "aiaccess_holds_open") == 0


def test_a_figure_that_nobody_shows_is_absent_not_zero() -> None:
    assert "svid_expiry" not in text(Telemetry("0.1.0"))


@pytest.mark.parametrize("figure", Figure)
def test_every_figure_can_be_shown(figure: Figure) -> None:
    telemetry = Telemetry("0.1.0")
    telemetry.show(figure, lambda: 7.0)
    name, kind, _ = figure.value
    assert value(telemetry, f"aiaccess_{name}{'_total' if kind == 'counter' else ''}") == 7.0


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("UNSUPPORTED_PROTOCOL", "unsupported_protocol"),
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "peer_did_not_return_a_certificate"),
        ("unable to get local issuer certificate", "certificate"),
        ("no trust bundle is held for the trust domain evil.test: its operator and ours can federate", "certificate"),
    ],
)
def test_a_refused_handshake_is_counted_under_a_name_that_no_stranger_chose(reason: str, label: str) -> None:
    telemetry = Telemetry("0.1.0")
    telemetry.handshake_refused(reason)
    telemetry.handshake_refused(reason)
    assert value(telemetry, "aiaccess_handshakes_refused_total", reason=label) == 2
    assert "evil" not in text(telemetry)


def test_kinds_of_refused_handshakes_are_bounded() -> None:
    telemetry = Telemetry("0.1.0")
    for number in range(100):
        telemetry.handshake_refused(f"REASON_{number}")
    assert text(telemetry).count("aiaccess_handshakes_refused_total{") == 33
    assert value(telemetry, "aiaccess_handshakes_refused_total", reason="other") == 68


async def test_tokens_beyond_a_hold_raise_the_alarm_counter() -> None:
    class Ledger(MemoryLedger):
        async def settle(self, hold_id: str, usage: Usage | None, cost_microusd: int | None = None) -> int:
            return usage.output_tokens if usage else 0

    telemetry, settler = Telemetry("0.1.0"), Settler(Ledger(lambda: 0.0))
    telemetry.show(Figure.TOKENS_OVER_HOLD, lambda: settler.excess_tokens)
    settler.settle("one", Usage(1, 12))
    settler.settle("two", Usage(1, 3))
    await settler.drain(5)
    assert value(telemetry, "aiaccess_tokens_over_hold_total") == 15


def test_a_figure_may_have_a_value_for_each_set_of_labels() -> None:
    telemetry = Telemetry("0.1.0")
    ages = {("AIAccessPolicy", "team1"): 3.0, ("Secret", "team2"): 70.0}
    telemetry.show_each(Figure.STALENESS, ("kind", "namespace"), ages.items)
    assert value(telemetry, "aiaccess_kubernetes_staleness_seconds", kind="Secret", namespace="team2") == 70
    ages["Secret", "team2"] = 71.0
    assert value(telemetry, "aiaccess_kubernetes_staleness_seconds", kind="Secret", namespace="team2") == 71


def test_what_is_counted_while_it_is_collected_breaks_nothing() -> None:
    telemetry = Telemetry("1")
    telemetry.show(Figure.IN_FLIGHT, lambda: 1.0)
    for number, _ in enumerate(telemetry.collect()):
        telemetry.exchange_done(agent(f"agent-{number}"), Call(f"model-{number}", "openai", "chat"), "answered", Usage(1, 2), 1.0, 0.5)
        telemetry.handshake_refused(f"REASON_{number}")
        telemetry.quota_warned("team1", f"policy-{number}", "hourly", 80)
        telemetry.show(list(Figure)[number], lambda: 1.0)
    assert value(telemetry, "aiaccess_requests_total", service_account="agent-3") == 1


def test_the_build_is_named() -> None:
    assert value(Telemetry("1.2.3"), "aiaccess_build_info", version="1.2.3") == 1


def test_two_of_them_share_nothing() -> None:
    one, two = Telemetry("0.1.0"), Telemetry("0.1.0")
    one.exchange_done(agent(), Call(), "forbidden", None, 0.1, None)
    assert value(one, "aiaccess_request_duration_seconds_count") == 1
    assert value(two, "aiaccess_request_duration_seconds_count") is None
