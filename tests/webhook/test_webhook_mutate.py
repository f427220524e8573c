"""A Pod in, a JSON Patch out."""

import json

import pytest
from support import json_patch
from support.admission import GATEWAY, VERSION, a_pod, env_of, injected, judged

from broker import sdk_env
from broker.names import GATEWAY_CONTAINER, INJECTED_ANNOTATION, PLACEHOLDER_KEY

BASE = "http://127.0.0.1:4180"
ANNOTATE = 'annotate the Pod (in a Deployment: its template) with aiaccess.dev/inject: "false" to run it without a local gateway'


def containers_of(pod):
    return [one["name"] for one in pod["spec"]["initContainers"]]


def test_every_container_gets_the_variables_of_every_dialect_init_containers_too():
    pod = injected(a_pod({"name": "agent"}, {"name": "helper"}, initContainers=[{"name": "warm-up"}]))
    expected = {
        "OPENAI_BASE_URL": f"{BASE}/v1",
        "OPENAI_API_BASE": f"{BASE}/v1",
        "OPENAI_API_KEY": PLACEHOLDER_KEY,
        "ANTHROPIC_BASE_URL": BASE,
        "ANTHROPIC_API_URL": BASE,
        "ANTHROPIC_API_BASE": BASE,
        "ANTHROPIC_API_KEY": PLACEHOLDER_KEY,
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    assert [env_of(pod, name) for name in ("agent", "helper", "warm-up")] == [expected] * 3


def test_the_gateway_is_the_first_init_container_and_a_native_sidecar():
    pod = injected(a_pod(initContainers=[{"name": "warm-up"}, {"name": "mesh", "restartPolicy": "Always"}]))
    assert containers_of(pod) == [GATEWAY_CONTAINER, "warm-up", "mesh"]
    assert pod["spec"]["initContainers"][0]["restartPolicy"] == "Always"


def test_the_gateway_itself_gets_no_variables_of_an_agent():
    pod = injected(injected(a_pod()))
    assert list(env_of(pod, GATEWAY_CONTAINER)) == ["SPIFFE_ENDPOINT_SOCKET"]


def test_the_workload_api_is_mounted_into_the_gateway_alone():
    pod = injected(a_pod(volumes=[{"name": "data", "emptyDir": {}}]))
    assert {"name": "aiaccess-spiffe", "csi": {"driver": "csi.spiffe.io", "readOnly": True}} in pod["spec"]["volumes"]
    mounting = [
        one["name"]
        for one in (*pod["spec"]["containers"], *pod["spec"]["initContainers"])
        if "aiaccess-spiffe" in [mount["name"] for mount in one.get("volumeMounts", ())]
    ]
    assert mounting == [GATEWAY_CONTAINER]


def test_no_cloud_credentials_are_touched():
    names = {name for name in env_of(injected(a_pod()), "agent") if name.startswith(("AWS_", "GOOGLE_"))}
    assert names == set()


def test_the_annotation_says_what_was_done_where():
    pod = injected(a_pod({"name": "agent", "env": [{"name": "OPENAI_API_KEY", "value": "sk-mine"}]}))
    note = json.loads(pod["metadata"]["annotations"][INJECTED_ANNOTATION])
    assert {name: note[name] for name in ("version", "port", "dialects")} == {
        "version": VERSION,
        "port": 4180,
        "dialects": ["openai_chat", "anthropic_messages"],
    }
    assert note["containers"]["agent"]["kept"] == ["OPENAI_API_KEY"]
    assert "OPENAI_BASE_URL" in note["containers"]["agent"]["variables"]


def test_no_value_of_the_author_is_in_the_annotation_or_a_warning():
    verdict = judged(
        a_pod({"name": "agent", "env": [{"name": n, "value": "sk-canary"} for n in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "NO_PROXY")]})
    )
    note = next(one["value"] for one in verdict.patch if "annotations" in str(one["path"]))
    assert "sk-canary" not in f"{note}{verdict.warnings}"


def test_opting_out_leaves_the_pod_as_it_is_even_one_that_would_be_refused():
    verdict = judged(a_pod(annotations={"aiaccess.dev/inject": "false"}, hostNetwork=True))
    assert (verdict.allowed, verdict.patch) == (True, ())


def test_a_static_pod_passes_with_a_warning():
    verdict = judged(a_pod(annotations={"kubernetes.io/config.mirror": "0"}, hostNetwork=True))
    assert (verdict.allowed, verdict.patch) == (True, ())
    assert "static Pod" in verdict.warnings[0]


def test_the_port_can_be_chosen_and_all_follow_it():
    pod = injected(a_pod(annotations={"aiaccess.dev/gateway-port": "5000"}))
    assert env_of(pod, "agent")["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:5000"
    sidecar = pod["spec"]["initContainers"][0]
    assert "--port=5000" in sidecar["args"]
    assert "--port=5000" in sidecar["startupProbe"]["exec"]["command"]


def test_dialects_can_be_chosen():
    names = set(env_of(injected(a_pod(annotations={"aiaccess.dev/dialects": " anthropic_messages "})), "agent"))
    assert {name for name in names if name.startswith("OPENAI")} == set()
    assert "ANTHROPIC_BASE_URL" in names


@pytest.mark.parametrize("dialect", sdk_env.SAME_SDK)
def test_a_dialect_that_another_ones_sdk_speaks_brings_that_sdks_variables(dialect):
    annotated = [a_pod(annotations={"aiaccess.dev/dialects": name}) for name in (dialect, sdk_env.SAME_SDK[dialect])]
    one, other = (env_of(injected(pod), "agent") for pod in annotated)
    assert set(one) == set(other)


def test_without_dialects_there_is_a_gateway_and_no_variable():
    pod = injected(a_pod(annotations={"aiaccess.dev/dialects": "none"}))
    assert env_of(pod, "agent") == {}
    assert containers_of(pod) == [GATEWAY_CONTAINER]


@pytest.mark.parametrize(
    ("annotation", "value", "says"),
    [
        ("inject", "yes", 'neither "true" nor "false"'),
        ("inject", "", 'neither "true" nor "false"'),
        ("dialects", "openai", "'openai' is no dialect; give some of openai_chat, anthropic_messages, or none"),
        ("dialects", "", "'' is no dialect"),
        ("dialects", "none,openai_chat", "'none' is no dialect"),
        ("gateway-port", "80", "'80' is no port from 1024 to 65535"),
        ("gateway-port", "65536", "is no port"),
        ("gateway-port", "4180 ", "is no"),
        ("gateway-port", "$(EVIL)", "is no"),
        ("gateway-port", "9" * 5000, "is no port"),
        ("gateway-port", "٤١٨٠", "is no"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_refused_with_what_it_takes(annotation, value, says):
    verdict = judged(a_pod(annotations={f"aiaccess.dev/{annotation}": value}))
    assert not verdict.allowed
    assert f"annotation aiaccess.dev/{annotation}: " in verdict.message
    assert says in verdict.message
    assert len(verdict.message) < 400


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        (a_pod(hostNetwork=True), f"take hostNetwork away, or {ANNOTATE}"),
        (a_pod(os={"name": "windows"}), f"there is no local gateway for Windows: {ANNOTATE}"),
        (a_pod(nodeSelector={"kubernetes.io/os": "windows"}), f"there is no local gateway for Windows: {ANNOTATE}"),
        (a_pod({"name": GATEWAY_CONTAINER}), "rename that container"),
        (a_pod(initContainers=[{"name": GATEWAY_CONTAINER, "restartPolicy": "Always"}]), "take that init container away or rename it"),
        (a_pod(volumes=[{"name": "aiaccess-spiffe", "hostPath": {"path": "/"}}]), "rename that volume"),
        (a_pod(volumes=[{"name": "aiaccess-spiffe", "csi": {"driver": "other"}}]), "rename that volume"),
        (a_pod(volumes=[{"name": "aiaccess-no-token", "secret": {"secretName": "x"}}]), "rename that volume"),
        (a_pod({"name": "a", "ports": [{"containerPort": 4180}]}), 'with annotation aiaccess.dev/gateway-port: "4181"'),
        (a_pod(initContainers=[{"name": "a", "ports": [{"containerPort": 4180, "protocol": "TCP"}]}]), "container 'a' has port 4180"),
        (
            a_pod({"name": "a", "ports": [{"containerPort": 65535}]}, annotations={"aiaccess.dev/gateway-port": "65535"}),
            'with annotation aiaccess.dev/gateway-port: "1024"',
        ),
    ],
)
def test_a_pod_that_cannot_have_a_gateway_is_refused_with_what_to_do(pod, says):
    verdict = judged(pod)
    assert (verdict.allowed, verdict.code, verdict.patch) == (False, 403, ())
    assert says in verdict.message


@pytest.mark.parametrize("flag", ["shareProcessNamespace", "hostPID"])
@pytest.mark.parametrize("where", ["pod", "container"])
def test_who_sees_the_gateways_process_may_not_have_its_user_id(flag, where):
    same = {"securityContext": {"runAsUser": GATEWAY.uid}}
    pod = a_pod({"name": "agent", **(same if where == "container" else {})}, **{flag: True}, **(same if where == "pod" else {}))
    verdict = judged(pod)
    assert not verdict.allowed
    assert "give it another runAsUser" in verdict.message


@pytest.mark.parametrize("uid", [None, 0])
def test_who_sees_the_gateways_process_as_root_or_as_nobody_knows_whom_is_warned_of(uid):
    verdict = judged(a_pod({"name": "agent", "securityContext": {"runAsUser": uid}}, shareProcessNamespace=True))
    assert verdict.allowed
    assert any("set runAsUser" in warning for warning in verdict.warnings)


def test_another_user_id_shares_processes_without_a_word():
    verdict = judged(a_pod({"name": "agent", "securityContext": {"runAsUser": 1000}}, shareProcessNamespace=True))
    assert (verdict.allowed, verdict.warnings) == (True, ())


def test_the_same_user_id_in_processes_of_its_own_passes():
    assert judged(a_pod({"name": "agent", "securityContext": {"runAsUser": GATEWAY.uid}})).allowed


def test_a_udp_port_of_the_same_number_passes():
    assert judged(a_pod({"name": "a", "ports": [{"containerPort": 4180, "protocol": "UDP"}]})).allowed


def test_the_gateway_goes_back_to_the_front_when_another_webhook_came_before_it():
    pod = injected(a_pod(initContainers=[{"name": "warm-up"}]))
    pod["spec"]["initContainers"].insert(0, {"name": "mesh-init"})
    assert containers_of(injected(pod)) == [GATEWAY_CONTAINER, "mesh-init", "warm-up"]


def test_what_other_webhooks_did_to_the_gateway_stays():
    """A registry's mirror, limits of the namespace, a mounted token: to undo them would be a fight that the other side wins."""
    pod = injected(a_pod())
    pod["spec"]["initContainers"][0]["image"] = "mirror.example/inference-broker:1.0.0"
    pod["spec"]["initContainers"][0]["resources"]["limits"]["cpu"] = "1"
    assert judged(pod).patch == ()


def test_a_gateway_on_another_port_than_the_annotation_says_is_refused():
    pod = injected(a_pod())
    pod["metadata"]["annotations"]["aiaccess.dev/gateway-port"] = "5000"
    assert "does not listen on port 5000" in judged(pod).message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", ["sh", "-c"]),
        ("command", None),
        ("args", ["--port=4180"]),
        ("args", ["--broker=elsewhere.example:8443", f"--broker-spiffe-id={GATEWAY.broker_spiffe_id}", "--port=4180"]),
        ("args", ["--broker-spiffe-id=spiffe://example.org/somebody-else", "--port=4180"]),
    ],
)
def test_a_container_that_passes_for_the_gateway_and_runs_something_else_is_refused(field, value):
    pod = injected(a_pod())
    pod["spec"]["initContainers"][0][field] = value
    assert "does not run what is injected here" in judged(pod).message


def test_the_same_container_twice_is_not_ours():
    pod = injected(a_pod())
    pod["spec"]["initContainers"] *= 2
    assert not judged(pod).allowed


def test_a_forged_annotation_keeps_nothing_from_being_injected():
    pod = injected(a_pod(annotations={INJECTED_ANNOTATION: '{"version":"9.9.9"}'}))
    assert containers_of(pod) == [GATEWAY_CONTAINER]
    assert "containers" in pod["metadata"]["annotations"][INJECTED_ANNOTATION]


@pytest.mark.parametrize("operation", ["UPDATE", "DELETE", "CONNECT"])
def test_what_is_no_creation_passes_as_it_is(operation):
    verdict = judged(a_pod(hostNetwork=True), operation=operation)
    assert (verdict.allowed, verdict.patch) == (True, ())


def test_an_ephemeral_container_passes_as_it_is():
    assert judged(a_pod(), subResource="ephemeralcontainers").patch == ()


def test_what_is_no_pod_passes_as_it_is():
    kind = {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert judged({"spec": {}}, kind=kind).allowed


def test_a_dry_run_is_answered_as_any_other():
    assert judged(a_pod(), dryRun=True) == judged(a_pod())


@pytest.mark.parametrize(
    ("pod", "path"),
    [
        (None, "object"),
        ([], "object"),
        ({"metadata": {}}, "spec"),
        (a_pod({"name": 7}), "$.spec.containers[0].name"),
        (a_pod({"name": "a", "env": "x"}), "$.spec.containers[0].env"),
        (a_pod(annotations={"a": 1}), "$.metadata.annotations"),
        (a_pod(*[{"name": f"a{n}"} for n in range(501)]), "$.spec.containers"),
        (a_pod(hostNetwork="no"), "$.spec.hostNetwork"),
    ],
)
def test_a_pod_that_cannot_be_read_is_refused_with_the_place(pod, path):
    verdict = judged(pod)
    assert (verdict.allowed, verdict.code) == (False, 400)
    assert path in verdict.message


def test_the_patch_is_the_same_each_time():
    assert judged(a_pod()).patch == judged(a_pod()).patch


@pytest.mark.parametrize(
    ("container", "says"),
    [
        (
            {"env": [{"name": "OPENAI_BASE_URL", "value": "https://x"}]},
            "keeps its own OPENAI_BASE_URL and gets no variables of that dialect",
        ),
        ({"env": [{"name": "OPENAI_API_KEY", "value": "k"}]}, "still has OPENAI_API_KEY: the local gateway hands on no key"),
        ({"env": [{"name": "NO_PROXY", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}, "takes NO_PROXY from elsewhere"),
        ({"envFrom": [{"secretRef": {"name": "x"}}]}, "has envFrom: what it brings under the name of an injected variable does not count"),
    ],
)
def test_what_its_author_should_know_is_a_warning(container, says):
    verdict = judged(a_pod({"name": "agent", **container}))
    assert verdict.allowed
    assert any(warning.startswith("container 'agent' ") and says in warning for warning in verdict.warnings)


def test_warnings_are_short_enough_for_the_api_server():
    env = [{"name": name, "value": "x"} for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")]
    verdict = judged(a_pod({"name": "a" * 63, "env": env, "envFrom": [{}]}, shareProcessNamespace=True))
    assert len(verdict.warnings) == 4
    assert max(map(len, verdict.warnings)) <= 240


def test_a_pod_of_a_great_many_containers_is_patched_within_the_bound_of_annotations():
    pod = a_pod(*[{"name": f"agent-{n:0>55}"} for n in range(500)])
    verdict = judged(pod)
    note = json_patch.apply(pod, verdict.patch)["metadata"]["annotations"][INJECTED_ANNOTATION]
    assert len(note) < 256 << 10
