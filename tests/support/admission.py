"""Pods and the AdmissionReviews about them, as an API server sends them."""

import base64
import json
from typing import Any

from hypothesis import strategies as st
from support import json_patch

from broker.config import Address
from webhook import mutate, review
from webhook.config import Gateway
from webhook.review import Verdict

VERSION = "9.9.9"
GATEWAY = Gateway(
    image="registry.example/inference-broker:1.0.0",
    broker=(Address("inference-broker.inference-broker.svc", 8443),),
    broker_spiffe_id="spiffe://example.org/ns/inference-broker/sa/broker",
    pull_policy="IfNotPresent",
    port=4180,
    uid=64180,
    requests={"cpu": "10m", "memory": "64Mi"},
    limits={"memory": "192Mi"},
    passthrough=False,
    spiffe_csi_driver="csi.spiffe.io",
    spiffe_socket="unix:///spiffe-workload-api/spire-agent.sock",
)


def a_pod(*containers: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A Pod with one container `agent` unless others are given."""
    metadata: dict[str, Any] = {"generateName": "agent-", "namespace": "team1", "creationTimestamp": None}
    if annotations is not None:
        metadata["annotations"] = annotations
    given = list(containers) or [{"name": "agent", "image": "agent:1"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": given, **spec}, "status": {}}


def a_review(pod: Any, uid: str = "705ab4f5-6393-11e8-b7cc-42010a800002", **request: Any) -> dict[str, Any]:
    asked = {
        "uid": uid,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "team1",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **request,
    }
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": asked}


def judged(pod: Any, gateway: Gateway = GATEWAY, **request: Any) -> Verdict:
    return mutate.judge(review.read(json.dumps(a_review(pod, **request)).encode()), gateway, VERSION)


def injected(pod: Any, gateway: Gateway = GATEWAY) -> dict[str, Any]:
    """The Pod as the API server would have it then."""
    verdict = judged(pod, gateway)
    assert verdict.allowed, verdict.message
    changed: dict[str, Any] = json_patch.apply(pod, verdict.patch)
    return changed


def patch_in(answer: bytes) -> list[dict[str, Any]]:
    response = json.loads(answer)["response"]
    assert response["patchType"] == "JSONPatch"
    patch: list[dict[str, Any]] = json.loads(base64.b64decode(response["patch"], validate=True))
    return patch


def env_of(pod: dict[str, Any], container: str) -> dict[str, Any]:
    """Its variables by name; of those from elsewhere the source. Of a name that is there twice the last one, as in Kubernetes."""
    every = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())]
    found = next(one for one in every if one["name"] == container)
    return {one["name"]: one.get("valueFrom", one.get("value", "")) for one in found.get("env") or ()}


_OURS = (
    *("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_URL", "ANTHROPIC_API_BASE"),
    *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "NO_PROXY", "no_proxy", "HTTPS_PROXY", "LOG_LEVEL"),
)
_VALUES = ("", "*", "localhost", "127.0.0.1,localhost", ".svc, 10.0.0.0/8,", "http://127.0.0.1:4180/v1", "http://127.0.0.1:4180")
_MORE_VALUES = ("https://api.openai.com/v1", "aiaccess-placeholder", "sk-canary", "$(LOG_LEVEL)", "a/b~c")

_variables = st.one_of(
    st.fixed_dictionaries({"name": st.sampled_from(_OURS), "value": st.sampled_from((*_VALUES, *_MORE_VALUES))}),
    st.fixed_dictionaries({"name": st.sampled_from(_OURS)}),
    st.fixed_dictionaries(
        {"name": st.sampled_from(_OURS), "valueFrom": st.just({"secretKeyRef": {"name": "openai", "key": "api-key"}})},
    ),
)
_nothing = st.sampled_from((None, []))


@st.composite
def _containers(draw: st.DrawFn, prefix: str, least: int) -> list[dict[str, Any]]:
    made = []
    for number in range(draw(st.integers(least, 3))):
        container: dict[str, Any] = {"name": f"{prefix}{number}", "image": "agent:1"}
        if draw(st.booleans()):
            container["env"] = draw(st.one_of(_nothing, st.lists(_variables, max_size=6)))
        if draw(st.booleans()):
            container["envFrom"] = [{"configMapRef": {"name": "settings"}}]
        if draw(st.booleans()):
            container["securityContext"] = draw(st.sampled_from(({}, {"runAsUser": 0}, {"runAsUser": 1000}, {"runAsUser": 64180}, None)))
        if draw(st.booleans()):
            container["ports"] = [{"containerPort": draw(st.sampled_from((80, 4180, 8080))), "protocol": "TCP"}]
        if prefix == "init" and draw(st.booleans()):
            container["restartPolicy"] = "Always"
        made.append(container)
    return made


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    """Any Pod that an API server would let through so far: some are refused, most are not."""
    spec: dict[str, Any] = {"initContainers": draw(st.one_of(_nothing, _containers("init", 0)))}
    if draw(st.booleans()):
        del spec["initContainers"]
    if draw(st.booleans()):
        spec["volumes"] = draw(st.one_of(_nothing, st.just([{"name": "data", "emptyDir": {}}])))
    for flag in ("hostNetwork", "hostPID", "shareProcessNamespace"):
        if draw(st.integers(0, 9)) == 0:
            spec[flag] = draw(st.booleans())
    annotations = draw(
        st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {},
                optional={
                    "aiaccess.dev/dialects": st.sampled_from(("openai_chat", "none", "anthropic_messages, openai_chat")),
                    "aiaccess.dev/gateway-port": st.sampled_from(("4180", "8080", "65535")),
                    "aiaccess.dev/inject": st.sampled_from(("true", "false")),
                    "aiaccess.dev/injected": st.sampled_from(("", "{}", "forged")),
                    "note/with~tilde": st.just("x"),
                },
            ),
        )
    )
    pod = a_pod(*draw(_containers("agent", 1)), **spec)
    if annotations is not None or draw(st.booleans()):
        pod["metadata"]["annotations"] = annotations
    sent: dict[str, Any] = json.loads(json.dumps(pod))  # nothing in it is the same object twice
    return sent
