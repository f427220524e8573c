"""What a status says: a fixed point, with the time at which each condition changed, short enough to read."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stored_objects import snapshot_of
from support.worlds import access, routing, secret, status

from broker.controller.consumption import NOTHING, Consumer, Consumption, Quota
from broker.controller.desired import MESSAGE_CHARS, ROW_CHARS, desired, differs, left_over
from broker.objects.reading import Fault, read
from broker.objects.status import AccessStatus, ProviderStatus, RoutingStatus
from broker.policy.status import Condition, ObjectStatus, Row
from broker.review.checking import status_of

NOON = 1_795_262_400.0
LATER = NOON + 86_400.0
USED = Consumption(
    2,
    30,
    1_250_000,
    3,
    1,
    int(NOON),
    (
        Consumer(
            "spiffe://d/a",
            30,
            1_250_000,
            3,
            1,
            (Quota("hourly", "tokens", "30", "100", int(NOON)), Quota("width", "concurrent", "1", "2", None)),
        ),
    ),
)
UNKNOWN_FIELD = access("wrong", spec="{subjects: [{spiffeID: 'spiffe://d/a'}], models: ['*'], limit: 3}")


def told(text: str, name: str, kind: str = "", **kwargs: Any) -> ObjectStatus:
    return status(snapshot_of(text, **kwargs), name, kind)


def conditions(of: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["type"]: one for one in of["conditions"]}


EXAMPLES = [
    told(routing(), "routing"),
    told(routing(extra="  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: g}"), "routing"),
    told(access(), "access"),
    told(
        access(
            spec="{subjects: [{spiffeID: 'spiffe://d/a'}], models: [absent], mtls: {trustDomain: d, trustBundleConfigMap: {name: b, namespace: s}}}"
        ),
        "access",
    ),
    told(UNKNOWN_FIELD, "wrong"),
    told("apiVersion: aiaccess.dev/v1alpha1\nkind: AIProvider\nmetadata: {name: p, namespace: team1}\nspec: {schema: Gemini}\n", "p"),
]

KINDS = {"AIRoutingPolicy": RoutingStatus, "AIAccessPolicy": AccessStatus, "AIProvider": ProviderStatus}

text = st.text(max_size=40)
tolds = st.sampled_from(EXAMPLES) | st.builds(
    lambda one, conditions, rows: replace(one, conditions=tuple({c.type: c for c in conditions}.values()), models=tuple(rows)),
    st.sampled_from(EXAMPLES),
    st.lists(
        st.builds(
            Condition,
            st.sampled_from(["Accepted", "Programmed", "BundleReady"]),
            st.sampled_from(["True", "False", "Unknown"]),
            st.just("Reason"),
            st.text(max_size=3000),
            text,
        )
    ),
    st.lists(st.builds(Row, text, st.booleans(), text, st.text(max_size=3000), text), max_size=3),
)
nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | text | st.sampled_from(["True", "Accepted", "2026-11-17T12:00:00Z"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "status", "lastTransitionTime", "conditions", "usage", "lastUsedTime"]), inner, max_size=4
        )
    ),
)
befores = st.dictionaries(st.sampled_from(["conditions", "lastUsedTime", "usage", "tokens24h", "other"]), nonsense)
uses = (
    st.none() | st.just(USED) | st.builds(lambda one, last: replace(one, last_used=last), st.just(USED), st.none() | st.integers(0, 2**33))
)


@given(tolds, befores, uses, st.floats(0, 1e9))
def test_a_status_that_was_written_is_not_written_again_whatever_the_time(told, before, used, passed_s):
    first = desired(told, before, NOON, used)
    again = desired(told, first, NOON + passed_s, used)
    assert again == first
    assert not differs(again, first)
    assert not left_over(again, first)


@given(tolds, befores, uses)
def test_a_status_is_written_until_it_is_there(told, before, used):
    wanted = desired(told, before, NOON, used)
    wanted["conditions"] = wanted["conditions"] or [{"type": "X"}]
    assert differs(wanted, {})
    assert differs(wanted, {**wanted, "conditions": wanted["conditions"][1:]})


@given(tolds, befores)
def test_every_message_is_short_and_every_condition_is_whole(told, before):
    found = desired(told, before, NOON, USED)
    for one in found["conditions"]:
        assert len(one["message"]) <= MESSAGE_CHARS
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", one["lastTransitionTime"]) or one["lastTransitionTime"] in str(
            before
        )
    assert all(len(row["message"]) <= ROW_CHARS for row in found.get("models", []))


@given(st.sampled_from(EXAMPLES), st.none() | st.just(USED))
def test_a_status_is_one_that_the_kinds_allow(told, used):
    value, faults = read(KINDS[told.about.kind], desired(told, {}, NOON, used), "status")
    assert faults == ()
    assert value is not None


def test_the_time_of_a_condition_is_that_of_its_last_change_of_status():
    ready = told(routing(), "routing")
    first = desired(ready, {}, NOON)
    broken = told(routing().replace("schema: OpenAI", "schema: Gemini"), "routing", generation=2)
    second = desired(broken, first, LATER)
    assert conditions(second)["Accepted"]["lastTransitionTime"] == conditions(first)["Accepted"]["lastTransitionTime"]
    assert conditions(second)["ProvidersConfigured"]["lastTransitionTime"] > conditions(first)["ProvidersConfigured"]["lastTransitionTime"]
    assert {one["observedGeneration"] for one in second["conditions"]} == {second["observedGeneration"]} == {2}


def test_a_status_says_the_same_as_broker_check_does_of_a_file():
    for one in EXAMPLES[:3]:
        said, written = status_of(one)["status"], desired(one, {}, NOON)
        assert [(c["type"], c["status"], c["reason"]) for c in written["conditions"]] == [
            (c["type"], c["status"], c["reason"]) for c in said["conditions"]
        ]
        assert {name: value for name, value in written.items() if name != "conditions"} == {
            name: said[name] for name in said if name != "conditions"
        }


def test_figures_that_nobody_knows_now_are_left_as_they_were():
    one = told(access(), "access")
    counted = desired(one, {}, NOON, USED)
    assert (counted["tokens24h"], counted["usd24h"]) == (30, "1.25")
    unknown = desired(one, counted, LATER, None)
    assert unknown == counted


def test_when_a_policy_was_last_used_is_kept_after_the_day_of_its_figures():
    one = told(access(), "access")
    counted = desired(one, {}, NOON, USED)
    idle = desired(one, counted, LATER, NOTHING)
    assert (idle["tokens24h"], idle["usage"], idle["lastUsedTime"]) == (0, [], "2026-11-21T12:00:00Z")


def test_what_was_used_is_said_by_identity_and_quota():
    (row,) = desired(told(access(), "access"), {}, NOON, USED)["usage"]
    assert row == {
        "identity": "spiffe://d/a",
        "tokens24h": 30,
        "usd24h": "1.25",
        "requests24h": 3,
        "denied24h": 1,
        "quotas": [
            {"name": "hourly", "unit": "tokens", "used": "30", "limit": "100", "resetTime": "2026-11-21T12:00:00Z"},
            {"name": "width", "unit": "concurrent", "used": "1", "limit": "2"},
        ],
    }


def test_an_object_that_is_wrong_is_told_where_and_what_to_do():
    said = conditions(desired(told(UNKNOWN_FIELD, "wrong"), {}, NOON))
    assert said["Accepted"]["status"] == "False"
    assert said["Accepted"]["message"].startswith("spec.limit: is not a field")
    assert (said["Programmed"]["status"], said["Programmed"]["reason"]) == ("False", "Pending")


def test_the_place_of_what_is_missing_stands_before_the_message():
    keyless = routing().replace("schema: OpenAI", "schema: OpenAI, credentials: {type: APIKey, secretRef: {name: absent}}")
    said = conditions(desired(told(keyless, "routing"), {}, NOON))
    assert said["ProvidersConfigured"]["message"].startswith("spec.providers[0]: 0 of 1 providers are ready; p: there is no Secret absent")


def test_what_is_to_be_noticed_in_an_object_that_works_is_said_in_its_status():
    snapshot = snapshot_of(
        routing().replace("schema: OpenAI", "schema: OpenAI, credentials: {type: APIKey, secretRef: {name: keys}}"),
        secret(hosts="api.openai.com, https://x"),
    )
    said = conditions(desired(status(snapshot, "routing"), {}, NOON))["Accepted"]
    assert said["status"] == "True"
    assert "Look at spec.providers[0]: provider p: ready; the annotation aiaccess.dev/hosts" in said["message"]


def test_a_hundred_faults_are_told_in_a_message_that_ends():
    one = told(access(), "access")
    faults = tuple(Fault(f"spec.field{number}", "is wrong " * 50) for number in range(100))
    many = replace(one, about=replace(one.about, faults=faults), conditions=(Condition("Accepted", "False", "InvalidSpec", "x" * 40_000),))
    (said,) = desired(many, {}, NOON)["conditions"]
    assert len(said["message"]) == MESSAGE_CHARS
    assert said["message"].endswith("…")


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({"conditions": [{"type": "GatewayBound", "status": "True"}]}, True),
        ({"subjectSummary": "a"}, True),
        ({"conditions": [{"type": "SomebodyElses", "status": "True"}], "theirs": 1}, False),
        ({}, False),
    ],
)
def test_what_we_do_not_say_any_more_is_left_over_and_what_others_say_is_not(seen: dict[str, Any], *, expected: bool):
    assert left_over(desired(told(routing(), "routing"), {}, NOON), seen) is expected


def test_conditions_of_others_are_neither_repeated_nor_a_difference():
    one = told(routing(), "routing")
    wanted = desired(one, {}, NOON)
    others = {"type": "example.org/Scanned", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    seen = {**wanted, "conditions": [others, *wanted["conditions"]]}
    assert desired(one, seen, LATER) == wanted
    assert not differs(wanted, seen)
