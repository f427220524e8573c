"""Trust bundles in ConfigMaps: only those that the operator names, and what is gone is trusted no more."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.fake_apiserver import FakeApiServer
from support.raw_http import until
from support.spiffe_ca import SpiffeCa

from broker.config import BundleConfigMap
from broker.kube.bundles import TrustBundles, read_config_map
from broker.kube.connection import Connection
from broker.kube.watching import Pace
from broker.truststate import Bundle

BRISK = Pace(pause_min_s=0.01, pause_max_s=0.05, steady_s=0.5, forbidden_s=0.2)
FIRST, SECOND = SpiffeCa("b.test"), SpiffeCa("b.test")


def jwks(*authorities: SpiffeCa) -> str:
    keys = [{"use": "x509-svid", "kty": "EC", "x5c": [base64.b64encode(one.der).decode()]} for one in authorities]
    return json.dumps({"spiffe_sequence": 1, "keys": [*keys, {"use": "jwt-svid", "kty": "EC", "kid": "a"}]})


def config_map(name: str = "spire-bundle", **data: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "spire-system"}, "data": data}


def spiffe(*authorities: SpiffeCa, name: str = "spire-bundle") -> dict[str, object]:
    return config_map(name) | {"data": {"bundle.spiffe": jwks(*authorities)}}


class Anchors:
    """What a Trust is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.now: dict[str, Bundle] = {}

    def apply(self, trust_domain: str, anchors: Bundle) -> None:
        self.told.append((trust_domain, len(anchors)))
        self.now[trust_domain] = anchors

    def serials(self) -> list[int]:
        return [one.serial_number for one in self.now.get("b.test", ())]


@asynccontextmanager
async def watching(connection: Connection, *names: str) -> AsyncIterator[Anchors]:
    anchors = Anchors()
    places = [BundleConfigMap("b.test", "spire-system", name) for name in names or ("spire-bundle",)]
    task = asyncio.get_running_loop().create_task(TrustBundles(connection, places, anchors.apply, BRISK).keep())
    try:
        yield anchors
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_bundle_is_read_and_rotates_without_a_restart(server: FakeApiServer, connection):
    server.put(spiffe(FIRST))
    async with watching(connection) as anchors:
        await until(lambda: anchors.serials() == [FIRST.cert.serial_number])
        server.put(spiffe(FIRST, SECOND))
        await until(lambda: len(anchors.serials()) == 2)
        server.put(spiffe(SECOND))
        await until(lambda: anchors.serials() == [SECOND.cert.serial_number])


async def test_only_the_configmap_that_the_operator_named_is_asked_for(server, connection):
    server.put(spiffe(FIRST))
    server.put(spiffe(SECOND, name="of-somebody-else"))
    async with watching(connection) as anchors:
        await until(anchors.serials)
        assert anchors.serials() == [FIRST.cert.serial_number]
    assert {one.query["fieldSelector"] for one in server.requests} == {"metadata.name=spire-bundle"}


@pytest.mark.parametrize("broken", ["", "{}", "{", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "hello"])
async def test_one_that_nobody_can_read_trusts_nobody_of_its_domain(server, connection, caplog, broken):
    server.put(spiffe(FIRST))
    async with watching(connection) as anchors:
        await until(anchors.serials)
        server.put(config_map() | {"data": {"bundle.spiffe": broken}})
        await until(lambda: anchors.now["b.test"] == ())
    assert "trust_bundle_unreadable" in caplog.text


async def test_one_that_is_gone_trusts_nobody_of_its_domain(server, connection, caplog):
    server.put(spiffe(FIRST))
    async with watching(connection) as anchors:
        await until(anchors.serials)
        server.delete("ConfigMap", "spire-system", "spire-bundle")
        await until(lambda: anchors.now["b.test"] == ())
    assert "trust_bundle_unreadable" in caplog.text


async def test_a_server_that_is_away_takes_no_trust_with_it(server, connection):
    server.put(spiffe(FIRST))
    async with watching(connection) as anchors:
        await until(anchors.serials)
        told = len(anchors.told)
        asked = len(server.requests)
        server.refuse = lambda path, query: (503, {})
        server.drop()
        await until(lambda: len(server.requests) > asked + 2)
        assert len(anchors.told) == told


async def test_two_configmaps_of_one_domain_count_together(server, connection):
    server.put(spiffe(FIRST, name="a"))
    server.put(spiffe(SECOND, name="b"))
    async with watching(connection, "a", "b") as anchors:
        await until(lambda: len(anchors.serials()) == 2)


@pytest.mark.parametrize("key", ["bundle.crt", "ca.pem"])
def test_pem_is_read_from_the_only_key(key):
    assert [one.serial_number for one in read_config_map({key: FIRST.pem.decode()})] == [FIRST.cert.serial_number]


def test_the_key_of_spire_comes_before_all_others():
    found = read_config_map({"a": SECOND.pem.decode(), "bundle.spiffe": jwks(FIRST), "z": SECOND.pem.decode()})
    assert [one.serial_number for one in found] == [FIRST.cert.serial_number]


@pytest.mark.parametrize("data", [{}, {"a": "x", "b": "y"}, {"bundle.spiffe": 5}])
def test_which_key_is_meant_is_not_guessed(data):
    with pytest.raises(ValueError, match=r"."):
        read_config_map(data)
