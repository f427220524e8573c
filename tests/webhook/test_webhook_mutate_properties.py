"""What holds for every Pod: the patch applies, twice is once, and nothing of its author's is lost."""

import copy

from hypothesis import given, settings
from hypothesis import strategies as st
from support import json_patch
from support.admission import GATEWAY, a_pod, env_of, injected, judged, pods

from broker.names import GATEWAY_CONTAINER, INJECTED_ANNOTATION, PLACEHOLDER_KEY
from broker.sdk_env import NO_PROXY

# as another webhook might add it between two of our turns
STRANGERS = (
    {"name": "mesh", "image": "mesh:1"},
    {"name": "mesh-init", "image": "mesh:1", "env": [{"name": "NO_PROXY", "value": "10.0.0.0/8"}]},
)


@settings(max_examples=300)
@given(pods())
def test_a_second_time_changes_nothing(pod):
    first = judged(pod)
    changed = json_patch.apply(pod, first.patch)
    again = judged(changed)
    assert (again.allowed, again.patch) == (first.allowed, ())


@settings(max_examples=300)
@given(pods(), st.booleans(), st.integers(0, 3))
def test_what_other_webhooks_added_in_between_gets_its_variables_and_then_nothing_changes(pod, as_init, at):
    between = injected_or_same(pod)
    field, stranger = ("initContainers", STRANGERS[1]) if as_init else ("containers", STRANGERS[0])
    listed = between["spec"].get(field) or []
    between["spec"][field] = [*listed[:at], copy.deepcopy(stranger), *listed[at:]]
    second = judged(between)
    settled = json_patch.apply(between, second.patch)
    assert judged(settled).patch == ()
    if second.allowed and INJECTED_ANNOTATION in (settled["metadata"].get("annotations") or {}) and gateway_of(settled):
        assert settled["spec"]["initContainers"][0]["name"] == GATEWAY_CONTAINER


@settings(max_examples=300)
@given(pods())
def test_what_the_author_set_stays_as_it_was(pod):
    changed = injected_or_same(pod)
    for field in ("containers", "initContainers"):
        ours = [one for one in changed["spec"].get(field) or () if one["name"] != GATEWAY_CONTAINER]
        theirs = pod["spec"].get(field) or []
        assert [without_env(one) for one in ours] == [without_env(one) for one in theirs]
        for one in theirs:
            before, after = env_of(pod, one["name"]), env_of(changed, one["name"])
            assert {name: value for name, value in before.items() if name not in NO_PROXY}.items() <= after.items()
            assert set(hosts(before.get("NO_PROXY"))) <= set(hosts(after.get("NO_PROXY")))


@settings(max_examples=300)
@given(pods())
def test_no_placeholder_key_is_given_to_who_goes_elsewhere(pod):
    changed = injected_or_same(pod)
    for one in pod["spec"]["containers"]:
        before, after = env_of(pod, one["name"]), env_of(changed, one["name"])
        elsewhere = [
            n for n in ("OPENAI_BASE_URL", "OPENAI_API_BASE") if n in before and before[n] != f"http://127.0.0.1:{port_of(pod)}/v1"
        ]
        if elsewhere and before.get("OPENAI_API_KEY") != PLACEHOLDER_KEY:
            assert after.get("OPENAI_API_KEY") == before.get("OPENAI_API_KEY")


def test_the_generated_pods_are_of_both_kinds():
    allowed = []

    @settings(max_examples=200, database=None)
    @given(pods())
    def collect(pod):
        allowed.append(judged(pod).allowed)

    collect()
    assert {True, False} == set(allowed)


def injected_or_same(pod):
    verdict = judged(pod)
    return json_patch.apply(pod, verdict.patch) if verdict.allowed else copy.deepcopy(pod)


def gateway_of(pod):
    return next((one for one in pod["spec"].get("initContainers") or () if one["name"] == GATEWAY_CONTAINER), None)


def without_env(container):
    return {name: value for name, value in container.items() if name != "env"}


def hosts(value):
    return [entry.strip() for entry in value.split(",") if entry.strip()] if isinstance(value, str) else [repr(value)] if value else []


def port_of(pod):
    return (pod["metadata"].get("annotations") or {}).get("aiaccess.dev/gateway-port", str(GATEWAY.port))


def test_a_plain_pod_is_changed_once():
    assert judged(injected(a_pod())).patch == ()
