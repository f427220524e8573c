"""The local gateway as a container of somebody else's Pod."""

import dataclasses

import pytest
from support.admission import GATEWAY

from broker.cli import build_parser
from broker.config import Address
from webhook import sidecar


def made(port=4180, **changes):
    return sidecar.container(dataclasses.replace(GATEWAY, **changes), port)


def test_it_passes_the_restricted_profile_of_pod_security():
    """Source: Pod Security Standards, "Restricted"; the API server's own judgement is in tests/cluster."""
    security = made()["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["readOnlyRootFilesystem"] is True
    assert security["runAsUser"] == security["runAsGroup"] == GATEWAY.uid


def test_its_command_is_one_that_the_product_has():
    container = made(passthrough=True, broker=(Address("a.svc", 8443), Address("::1", 9)))
    program, *command = container["command"]
    args = build_parser()[0].parse_args([*command, *container["args"]])
    assert program == "broker"
    assert (args.command, args.broker, args.port, args.passthrough) == ("gateway", ["a.svc:8443", "[::1]:9"], "4180", "true")
    assert args.broker_spiffe_id == GATEWAY.broker_spiffe_id


def test_its_probe_is_a_command_that_the_product_has():
    program, *command = made(5000)["startupProbe"]["exec"]["command"]
    args = build_parser()[0].parse_args(command)
    assert (program, args.command, args.port) == ("broker", "probe", "5000")


def test_no_setting_comes_from_a_variable_that_a_service_could_bring():
    """A Service named `broker` would bring BROKER_PORT=tcp://… into every container of its namespace."""
    names = [variable["name"] for variable in made()["env"]]
    assert names == ["SPIFFE_ENDPOINT_SOCKET"]
    assert any(argument.startswith("--port=") for argument in made()["args"])


def test_no_token_of_the_service_account_is_mounted():
    """The ServiceAccount plugin leaves a container alone that has a mount at this place."""
    mounts = {mount["mountPath"]: mount["name"] for mount in made()["volumeMounts"]}
    assert mounts["/var/run/secrets/kubernetes.io/serviceaccount"] == sidecar.NO_TOKEN_VOLUME
    assert {"name": sidecar.NO_TOKEN_VOLUME, "emptyDir": {}} in sidecar.volumes(GATEWAY)


def test_the_workload_api_is_where_the_gateway_looks_for_it():
    container = made(spiffe_socket="unix:///run/spire/agent.sock")
    assert container["env"] == [{"name": "SPIFFE_ENDPOINT_SOCKET", "value": "unix:///run/spire/agent.sock"}]
    assert {"name": sidecar.SPIFFE_VOLUME, "mountPath": "/run/spire", "readOnly": True} in container["volumeMounts"]


def test_resources_are_the_operators():
    assert made(requests={"cpu": "5m"}, limits={})["resources"] == {"requests": {"cpu": "5m"}}
    assert "resources" not in made(requests={}, limits={})


@pytest.mark.parametrize("field", ["livenessProbe", "readinessProbe", "lifecycle", "ports"])
def test_nothing_ends_it_or_gates_the_pod_because_a_broker_is_away(field):
    assert field not in made()
