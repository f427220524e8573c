"""Secrets by name: used when they change, forgotten when nobody refers to them, and never in a log."""

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.fake_apiserver import FakeApiServer, access, routing
from support.kube_world import KubeWorld, following
from support.raw_http import until

from broker.credentials import SecretRef
from broker.kube import secrets as room
from broker.kube.connection import Connection
from broker.kube.secrets import referred
from broker.kube.source import Cluster, Scope
from broker.kube.watching import Pace
from broker.names import API_VERSION
from broker.objects import read_document

CANARY = "sk-canary-value-of-a-secret"
BRISK = Pace(pause_min_s=0.01, pause_max_s=0.05, steady_s=0.5, forbidden_s=0.2)


def secret(name: str = "openai", value: str = CANARY, hosts: str = "api.openai.com", namespace: str = "team1") -> dict[str, object]:
    encoded = base64.b64encode(value.encode()).decode()
    annotations = {"aiaccess.dev/hosts": hosts, "kubectl.kubernetes.io/last-applied-configuration": encoded}
    metadata = {"name": name, "namespace": namespace, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": {"api-key": encoded}}


@asynccontextmanager
async def world_of(connection: Connection, *namespaces: str) -> AsyncIterator[KubeWorld]:
    async with following(Cluster(connection, Scope.of("inference-broker", (), namespaces or ("team1",)), pace=BRISK)) as world:
        yield world


def routing_of_keys(*keys: str) -> dict[str, Any]:
    """A routing object with a provider for each of these keys of one Secret."""
    routed = routing(secret="openai")
    (provider,) = routed["spec"]["providers"]
    credentials = {"type": "APIKey", "secretRef": {"name": "openai"}}
    routed["spec"]["providers"] = [
        {**provider, "name": key, "credentials": {**credentials, "secretRef": {"name": "openai", "key": key}}} for key in keys
    ]
    routed["spec"]["models"][0]["backends"] = [{"provider": key} for key in keys]
    return routed


def secret_of(**values: str) -> dict[str, object]:
    data = {name.replace("_", "-"): base64.b64encode(value.encode()).decode() for name, value in values.items()}
    return {**secret(), "data": data}


def asked_for_secrets(server: FakeApiServer) -> set[str]:
    return {one.query.get("fieldSelector", "ALL OF THEM") for one in server.asked(watch=False, within="/secrets")}


async def test_a_secret_is_read_by_its_name_when_an_object_refers_to_it(server, connection):
    server.put(secret())
    server.put(secret("other"))
    async with world_of(connection) as world:
        await until(lambda: world.cluster.why_not_ready() == [])
        assert asked_for_secrets(server) == set()
        server.put(routing(secret="openai"))
        await until(lambda: world.value() == CANARY)
        assert world.provider.startswith("Ready")
    assert asked_for_secrets(server) == {"metadata.name=openai"}


async def test_a_changed_secret_is_used_from_then_on(server, connection):
    server.put(secret())
    server.put(routing(secret="openai"))
    async with world_of(connection) as world:
        await until(lambda: world.value() == CANARY)
        server.put(secret(value="sk-second"))
        await until(lambda: world.value() == "sk-second", 1.0)


async def test_the_hosts_that_its_owner_names_count_from_then_on(server, connection):
    server.put(secret())
    server.put(routing(secret="openai"))
    async with world_of(connection) as world:
        await until(lambda: world.provider.startswith("Ready"))
        server.put(secret(hosts="api.example.org"))
        await until(lambda: world.provider.startswith("HostNotAllowed"))


async def test_a_deleted_secret_is_gone(server, connection):
    server.put(secret())
    server.put(routing(secret="openai"))
    async with world_of(connection) as world:
        await until(lambda: world.value() == CANARY)
        server.delete("Secret", "team1", "openai")
        await until(lambda: world.value() is None)
        assert world.provider.startswith("CredentialSecretNotFound: there is no Secret openai")


async def test_a_secret_that_nobody_refers_to_any_more_is_forgotten(server, connection):
    server.put(secret())
    server.put(routing(secret="openai"))
    async with world_of(connection) as world:
        await until(lambda: world.value() == CANARY)
        await until(lambda: len(server.watches) == 7)
        server.put(routing())
        await until(lambda: world.value() is None and len(server.watches) == 6)
        assert world.resources.secrets == ()
        server.put(routing(secret="openai"))
        await until(lambda: world.value() == CANARY)


async def test_a_model_is_not_called_unready_because_its_secret_is_on_its_way(server, connection):
    server.put(secret())
    async with world_of(connection) as world:
        await until(lambda: world.cluster.why_not_ready() == [])
        server.put(routing(secret="openai"))
        await until(lambda: world.value() == CANARY)
        assert [state for state in world.states if state and not state.startswith("Ready")] == []


async def test_a_secret_that_is_referred_to_while_another_is_looked_up_is_looked_up_too(server, connection):
    for namespace in ("team1", "team2"):
        server.put(secret(namespace=namespace))
    async with world_of(connection, "team1", "team2") as world:
        await until(lambda: world.ready and len(server.watches) == 9)
        server.delay_s = 0.1
        server.put(routing(namespace="team1", secret="openai"))
        await until(lambda: server.asked(watch=False, within="team1/secrets"))
        server.put(routing(namespace="team2", secret="openai"))
        await until(lambda: world.value(namespace="team1") and world.value(namespace="team2"))


async def test_a_secret_that_may_not_be_read_says_which_role_is_missing(server, connection):
    server.put(secret())
    server.put(routing(secret="openai"))
    server.refuse = lambda path, query: (403, {}) if "/secrets" in path else None
    async with world_of(connection) as world:
        await until(lambda: "Role" in world.provider)
        assert world.provider.startswith("CredentialSecretNotFound: the Secret openai may not be read by the broker")
        assert "namespace team1" in world.provider
        server.refuse = lambda path, query: None
        await until(lambda: world.provider.startswith("Ready"))


async def test_a_secret_that_cannot_be_looked_up_is_not_said_to_be_absent(server, connection):
    server.put(secret())
    server.put(routing(secret="openai"))
    server.refuse = lambda path, query: (500, {}) if "/secrets" in path else None
    async with world_of(connection) as world:
        await until(lambda: "has not been read yet" in world.provider)


async def test_more_secrets_than_a_number_are_not_watched_and_it_is_said(server, connection, monkeypatch):
    monkeypatch.setattr(room, "SECRETS", 2)
    for name in ("a", "b", "c"):
        server.put(secret(name))
        server.put(routing(name, secret=name, models=(f"model-{name}",)))
    async with world_of(connection) as world:
        await until(lambda: world.value("a") and world.value("b"))
        await until(lambda: len(world.resources.secrets) == 3)
        told = [str(fault) for one in world.resources.secrets for fault in one.about.faults]
        assert told == ["the Secret c is one too many: objects refer to more than 2 Secrets"]
    assert asked_for_secrets(server) == {"metadata.name=a", "metadata.name=b"}


async def test_the_many_secrets_of_one_namespace_keep_out_no_secret_of_another(server, connection, monkeypatch):
    monkeypatch.setattr(room, "SECRETS", 3)
    for name in ("a", "b", "c", "d"):
        server.put(secret(name, namespace="team1"))
        server.put(routing(name, "team1", secret=name, models=(f"model-{name}",)))
    server.put(secret("z", namespace="team2"))
    server.put(routing("z", "team2", secret="z"))
    async with world_of(connection, "team1", "team2") as world:
        await until(lambda: world.value("z", "team2") and world.value("a") and world.value("b"))
    assert world.value("c") is None


async def test_a_key_that_nobody_refers_to_is_not_even_held(server, connection):
    server.put(secret_of(api_key=CANARY, admin_password="the-password-of-something-else"))
    server.put(routing(secret="openai"))
    async with world_of(connection) as world:
        await until(lambda: world.value() == CANARY)
    assert [ref.key for ref in world.resources.credentials] == ["api-key"]


async def test_a_second_key_of_a_secret_is_read_and_the_first_stays_in_use_meanwhile(server, connection):
    server.put(secret_of(api_key=CANARY, second="sk-second"))
    server.put(routing_of_keys("api-key"))
    async with world_of(connection) as world:
        await until(lambda: world.value() == CANARY)
        server.refuse = lambda path, query: (500, {}) if "/secrets" in path else None
        server.put(routing_of_keys("api-key", "second"))
        await until(lambda: len(world.snapshot.statuses[0].providers) == 2)
        assert world.value() == CANARY
        server.refuse = lambda path, query: None
        await until(lambda: SecretRef("team1", "openai", "second") in world.resources.credentials)
        assert world.value() == CANARY


async def test_a_secret_of_which_too_many_keys_are_wanted_is_not_read_and_it_is_said(server, connection, monkeypatch):
    monkeypatch.setattr(room, "KEYS", 1)
    server.put(secret_of(api_key=CANARY, second="sk-second"))
    server.put(routing_of_keys("api-key", "second"))
    async with world_of(connection) as world:
        await until(lambda: "more than 1 of its keys" in world.provider)
    assert world.resources.credentials == {}


async def test_no_value_is_in_a_log_a_message_or_a_repr(server, connection, caplog):
    caplog.set_level(logging.DEBUG)
    encoded = base64.b64encode(CANARY.encode()).decode()
    server.put(secret())
    server.put(routing(secret="openai"))
    async with world_of(connection) as world:
        await until(lambda: world.value() == CANARY)
        server.send(b'{"type": "MODIFIED", "object": {"data": {"api-key": "' + encoded.encode() + b'"}}}\n')
        await until(lambda: "kubernetes_trouble" in caplog.text)
        shown = caplog.text + repr(world.resources) + "".join(str(vars(record)) for record in caplog.records)
    assert CANARY not in shown
    assert encoded not in shown


@pytest.mark.parametrize(
    ("credentials", "names"),
    [
        ({"type": "APIKey", "secretRef": {"name": "one"}}, {("team1", "one"): {"api-key"}}),
        ({"type": "APIKey", "secretRef": {"name": "one", "key": "other"}}, {("team1", "one"): {"other"}}),
        ({"type": "None"}, {}),
        ({"type": "Surprise", "secretRef": {"name": "one"}}, {}),
    ],
)
def test_only_accepted_objects_refer_to_secrets(credentials, names):
    routed = routing()
    routed["spec"]["providers"][0]["credentials"] = credentials
    spec = {"schema": "OpenAI", "credentials": credentials}
    provider = {"apiVersion": API_VERSION, "kind": "AIProvider", "metadata": {"name": "p", "namespace": "team1"}, "spec": spec}
    assert referred([read_document(routed), read_document(access("a"))]) == names
    assert referred([read_document(provider)]) == names


def test_a_secret_is_never_of_another_namespace():
    routed = routing(secret="one")
    routed["spec"]["providers"][0]["credentials"]["secretRef"]["namespace"] = "team2"
    assert referred([read_document(routed)]) == {}
