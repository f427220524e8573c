"""The local gateway as a container of somebody else's Pod, and the two volumes that it alone mounts. Pure data."""

from typing import Final

from broker.names import GATEWAY_CONTAINER
from webhook.config import Gateway

SPIFFE_VOLUME: Final = "aiaccess-spiffe"
# The API server's ServiceAccount plugin runs again after a webhook and mounts a token into every container that has nothing there
NO_TOKEN_VOLUME: Final = "aiaccess-no-token"  # noqa: S105  a volume
TOKEN_FOLDER: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105  a path

Object = dict[str, object]

# The agent's containers start when the port is open. Half a minute is ample for a node under load; then the kubelet starts it anew.
_PROBE_PERIOD_S: Final = 1
_PROBE_TRIES: Final = 30
_PROBE_TIMEOUT_S: Final = 5


def container(gateway: Gateway, port: int) -> Object:
    """A native sidecar (KEP-753) that passes the Pod Security profile "restricted".

    Its switches are arguments, not variables: a Service named `broker` in the namespace would bring a BROKER_PORT of its own.
    """
    folder = gateway.spiffe_socket.removeprefix("unix://").rpartition("/")[0]
    made: Object = {
        "name": GATEWAY_CONTAINER,
        "image": gateway.image,
        "imagePullPolicy": gateway.pull_policy,
        "command": ["broker", "gateway"],
        "args": _arguments(gateway, port),
        "env": [{"name": "SPIFFE_ENDPOINT_SOCKET", "value": gateway.spiffe_socket}],
        "restartPolicy": "Always",
        "startupProbe": _startup_probe(port),
        "securityContext": _security_context(gateway.uid),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": SPIFFE_VOLUME, "mountPath": folder, "readOnly": True},
            {"name": NO_TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": True},
        ],
    }
    amounts = {kind: dict(given) for kind, given in (("requests", gateway.requests), ("limits", gateway.limits)) if given}
    return {**made, "resources": amounts} if amounts else made


def _arguments(gateway: Gateway, port: int) -> list[str]:
    brokers = [f"--broker={broker}" for broker in gateway.broker]
    passthrough = ["--passthrough"] if gateway.passthrough else []
    return [*brokers, f"--broker-spiffe-id={gateway.broker_spiffe_id}", f"--port={port}", *passthrough]


def _startup_probe(port: int) -> Object:
    """Run inside: the gateway listens on the Pod's loopback, where the kubelet's own HTTP and TCP probes do not get to."""
    return {
        "exec": {"command": ["broker", "probe", f"--port={port}"]},
        "periodSeconds": _PROBE_PERIOD_S,
        "failureThreshold": _PROBE_TRIES,
        "timeoutSeconds": _PROBE_TIMEOUT_S,
    }


def _security_context(uid: int) -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsGroup": uid,
        "runAsNonRoot": True,
        "runAsUser": uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def volumes(gateway: Gateway) -> tuple[Object, ...]:
    return (
        {"name": SPIFFE_VOLUME, "csi": {"driver": gateway.spiffe_csi_driver, "readOnly": True}},
        {"name": NO_TOKEN_VOLUME, "emptyDir": {}},
    )
