"""What start-up builds and shows: bundles from files, figures that say what is so, a drain that ends what does not end itself."""

import asyncio
import base64
import json
import ssl
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.fake_apiserver import api_server
from support.fake_provider import FakeProvider
from support.provider_words import CHAT
from support.raw_http import until
from support.spiffe_ca import SpiffeCa, trusting
from support.stack import AGENT, OTHER, stack

from broker import wiring
from broker.config import BundleConfigMap, ConfigError, TrustBundle
from broker.errors import Busy
from broker.files import Folder

RESOURCES = """
apiVersion: v1
kind: Secret
metadata: {{name: key, namespace: team1, annotations: {{aiaccess.dev/hosts: "http://127.0.0.1:{port}"}}}}
stringData: {{api-key: "${{env:KEY}}"}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: team1}}
spec:
  providers:
  - {{name: p, schema: OpenAI, endpoint: "http://127.0.0.1:{port}/v1", credentials: {{type: APIKey, secretRef: {{name: key}}}}}}
  models: [{{name: gpt, backends: [{{provider: p, model: gpt-real}}]}}]
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: team1}}
spec: {{subjects: [{{spiffeID: {agent}}}], models: [gpt], quotas: [{{name: q, tokens: 100000, per: Month}}]}}
"""


def spiffe_bundle(ca):
    key = {"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(ca.der).decode()]}
    return json.dumps({"keys": [key], "spiffe_sequence": 1}).encode()


@pytest.mark.parametrize("form", ["pem", "spiffe"])
def test_a_trust_bundle_is_read_as_pem_and_as_spiffe_json(tmp_path, form):
    ca, file = SpiffeCa("b.test"), tmp_path / "bundle"
    file.write_bytes(ca.pem if form == "pem" else spiffe_bundle(ca))
    found = wiring.read_bundles(SimpleNamespace(trust_bundle=(TrustBundle("b.test", file),)))
    assert {name: [cert.public_bytes(Encoding.DER) for cert in certs] for name, certs in found.items()} == {"b.test": [ca.der]}


@pytest.mark.parametrize("text", [b"", b"{}", b'{"keys": []}', b"no certificate", None])
def test_a_trust_bundle_that_holds_nothing_keeps_it_from_starting(tmp_path, text):
    file = tmp_path / "bundle"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        wiring.read_bundles(SimpleNamespace(trust_bundle=(TrustBundle("b.test", file),)))
    assert f"--trust-bundle b.test={file}" in str(caught.value)


async def metric(it, name):
    lines = (await it.metrics()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


async def test_each_gateway_of_a_laptop_says_once_that_it_listens(tmp_path, capsys):
    async with stack(tmp_path, RESOURCES.format(port=1, agent=AGENT), [AGENT, OTHER]):
        pass
    starts = [line for line in map(json.loads, capsys.readouterr().err.splitlines()) if line["event"] == "listening"]
    assert [(line["role"], line["identity"]) for line in starts if line["role"] == "gateway"] == [("gateway", AGENT), ("gateway", OTHER)]
    assert len([line for line in starts if line["role"] == "broker"]) == 1


async def test_open_holds_are_the_stores(tmp_path, monkeypatch):
    monkeypatch.setattr(wiring, "EXPIRE_S", 0.05)
    go = asyncio.Event()
    async with FakeProvider((go, *CHAT)) as provider, stack(tmp_path, RESOURCES.format(port=provider.port, agent=AGENT)) as it:
        asking = asyncio.create_task(it.openai(AGENT).chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}]))
        await provider.requests(1)
        async with asyncio.timeout(10):
            while await metric(it, "aiaccess_holds_open") != 1:
                await asyncio.sleep(0.02)
        go.set()
        await asking
        async with asyncio.timeout(10):
            while await metric(it, "aiaccess_holds_open") != 0:
                await asyncio.sleep(0.02)


async def test_a_refused_handshake_is_counted(tmp_path):
    async with stack(tmp_path, RESOURCES.format(port=1, agent=AGENT)) as it:
        assert await metric(it, "aiaccess_handshakes_refused_total") == 0
        nobody = ssl.create_default_context()
        nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", it.broker_port, ssl=nobody)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.transport.abort()
        assert await metric(it, "aiaccess_handshakes_refused_total") == 1
        assert 'reason="peer_did_not_return_a_certificate"' in await it.metrics()


async def test_a_drain_ends_at_its_deadline_what_does_not_end_itself():
    ended = []
    house = SimpleNamespace(leaving=False, draining=False, exchanges=[SimpleNamespace(end=ended.append)])

    async def leave(most_s):
        assert (house.leaving, house.draining) == (True, False)
        assert most_s == 0.05

    async def drain(deadline_s):
        assert house.draining
        async with asyncio.timeout(deadline_s):
            while not ended:
                await asyncio.sleep(0.01)

    await wiring.drain(SimpleNamespace(leave=leave, drain=drain), house, 0.05)
    assert [type(cause) for cause in ended] == [Busy]


async def test_a_drain_that_is_over_before_ends_nobody():
    ended = []
    house = SimpleNamespace(leaving=False, draining=False, exchanges=[SimpleNamespace(end=ended.append)])

    async def at_once(_deadline_s):
        return

    await wiring.drain(SimpleNamespace(leave=at_once, drain=at_once), house, 0.0)
    await asyncio.sleep(0)
    assert ended == []


async def test_a_bundle_in_a_configmap_is_an_anchor_beside_the_files_and_rotates(tmp_path):
    files, first, second = SpiffeCa("b.test"), SpiffeCa("b.test"), SpiffeCa("b.test")
    own = SpiffeCa("a.test")
    (tmp_path / "bundle.pem").write_bytes(files.pem)

    def config_map(ca: SpiffeCa) -> dict[str, object]:
        metadata = {"name": "spire-bundle", "namespace": "spire-system"}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"bundle.crt": ca.pem.decode()}}

    async with api_server() as server, AsyncExitStack() as closing:
        server.put(config_map(first))
        settings = SimpleNamespace(
            resources=tmp_path,
            environ={},
            kubeconfig=server.kubeconfig(tmp_path),
            trust_bundle=(TrustBundle("b.test", tmp_path / "bundle.pem"),),
            trust_bundle_configmap=(BundleConfigMap("b.test", "spire-system", "spire-bundle"),),
        )
        trust = trusting(own.issue("spiffe://a.test/ns/inference-broker/sa/broker"), own)
        source, watches = await wiring.open_source(settings, trust, closing)
        assert isinstance(source, Folder)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(keep()) for keep in watches]

            def anchors() -> list[int]:
                return [cert.serial_number for cert in trust.in_force.bundles.get("b.test", ())]

            await until(lambda: anchors() == [files.cert.serial_number, first.cert.serial_number])
            server.put(config_map(second))
            await until(lambda: anchors() == [files.cert.serial_number, second.cert.serial_number])
            server.delete("ConfigMap", "spire-system", "spire-bundle")
            await until(lambda: anchors() == [files.cert.serial_number])
            for task in tasks:
                task.cancel()
