"""Providers that are not who they say, and names that lead inside: no key and no byte of a prompt leaves. In one loop, through the SDKs."""

import asyncio
import ssl
import warnings
from dataclasses import dataclass

import anthropic
import openai
import pytest
import pytest_asyncio
from support.fake_provider import FakeProvider, Seen, json_answer
from support.objects_yaml import access
from support.stack import AGENT, CANARY, Stack, stack
from support.web_ca import WebCa, web_server_context

from broker.addresses import Off, parse_hosts
from broker.credentials import Credential, SecretRef
from broker.grant import Endpoint, Provider
from broker.hosts import parse_endpoint
from broker.upstream import Failed, Upstream

CHAT = b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}'
MESSAGE = b'{"id":"m","type":"message","role":"assistant","model":"m","content":[],"usage":{"input_tokens":5,"output_tokens":2}}'
SDKS = {"chat": openai, "messages": anthropic}


def old(context, version):
    """A server that speaks nothing newer, however weak."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


CERTIFICATE, CONNECTION, TIME = "its certificate was not accepted", "no connection to its address", "no connection in time"
SERVERS = {
    "of-a-wrong-name": (CERTIFICATE, lambda ca: ca.context("elsewhere.test")),
    "of-a-name-above": (CERTIFICATE, lambda ca: ca.context("*.localhost")),
    "expired": (CERTIFICATE, lambda ca: ca.context("localhost", ends_s=-60)),
    "not-valid-yet": (CERTIFICATE, lambda ca: ca.context("localhost", begins_s=60)),
    "of-an-unknown-authority": (CERTIFICATE, lambda _: WebCa().context("localhost")),
    "self-signed": (CERTIFICATE, lambda _: web_server_context("localhost")),
    "tls-1.1": (CONNECTION, lambda ca: old(ca.context("localhost"), ssl.TLSVersion.TLSv1_1)),
    "tls-1.0": (CONNECTION, lambda ca: old(ca.context("localhost"), ssl.TLSVersion.TLSv1)),
    "silent-in-the-handshake": (TIME, lambda _: None),
    "right": ("", lambda ca: ca.context("localhost")),
}
WAYS = [
    (name, dialect, streaming)
    for name in SERVERS
    for dialect in SDKS
    for streaming in (False, True)
    if name != "right" and (name != "silent-in-the-handshake" or streaming is (dialect == "chat"))
]


def honest(seen: Seen):
    return json_answer(MESSAGE if seen.target.endswith("/messages") else CHAT)


def objects(ports):
    """One model for each server and dialect, each of which may be asked once: what was not sent does not count."""
    hosts = ", ".join(f"localhost:{port}" for port in ports.values())
    names = [
        (name, dialect, schema, port) for name, port in ports.items() for dialect, schema in (("chat", "OpenAI"), ("messages", "Anthropic"))
    ]
    providers = "".join(
        f"  - {{name: {name.replace('.', '-')}-{dialect}, schema: {schema}, endpoint: 'https://localhost:{port}/v1',\n"
        "     credentials: {type: APIKey, secretRef: {name: key}}, timeouts: {connect: 1s, firstByte: 5s, idle: 5s}}\n"
        for name, dialect, schema, port in names
    )
    models = "".join(
        f"  - {{name: {name}-{dialect}, backends: [{{provider: {name.replace('.', '-')}-{dialect}, model: m}}], failover: {{maxRetries: 0}}}}\n"
        for name, dialect, _, _ in names
    )
    policies = "".join(
        access(name=f"{name.replace('.', '-')}-{dialect}", models=f"{name}-{dialect}", quotas="[{name: twice, requests: 2, per: Month}]")
        for name, dialect, _, _ in names
    )
    return (
        f'apiVersion: v1\nkind: Secret\nmetadata: {{name: key, namespace: team1, annotations: {{aiaccess.dev/hosts: "{hosts}"}}}}\n'
        'stringData: {api-key: "${env:KEY}"}\n---\n'
        "apiVersion: aiaccess.dev/v1alpha1\nkind: AIRoutingPolicy\nmetadata: {name: routing, namespace: team1}\n"
        f"spec:\n  providers:\n{providers}  models:\n{models}{policies}"
    )


@dataclass
class World:
    stack: Stack
    servers: dict[str, FakeProvider]

    async def ask(self, name, dialect, *, streaming):
        asked = {"model": f"{name}-{dialect}", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50, "stream": streaming}
        if dialect == "chat":
            return await self.stack.openai(AGENT).chat.completions.create(**asked)
        return await self.stack.anthropic(AGENT).messages.create(**asked)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    ca = WebCa()
    (folder / "web-ca.pem").write_bytes(ca.pem)
    servers = {name: FakeProvider(script=honest, tls=make(ca)) for name, (_, make) in SERVERS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(folder / "web-ca.pem"))
        try:
            for server in servers.values():
                await server.__aenter__()
            ports = {name: server.port for name, server in servers.items()}
            async with stack(folder, objects(ports), allow_hosts=("localhost",)) as running:
                yield World(running, servers)
        finally:
            for server in servers.values():
                await server.__aexit__()


@pytest.mark.parametrize(("name", "dialect", "streaming"), WAYS)
async def test_a_provider_that_cannot_prove_its_name_gets_no_key_and_costs_nothing(tally, world, name, dialect, streaming):
    with tally.tried("providers: TLS", at="broker"):
        before = len(world.stack.audit())
        with pytest.raises(SDKS[dialect].InternalServerError) as caught:
            await world.ask(name, dialect, streaming=streaming)
        assert caught.value.status_code == 502
        assert "provider_unavailable" in caught.value.response.text
        assert SERVERS[name][0] in caught.value.response.text
        assert CANARY not in caught.value.response.text
        assert world.servers[name].seen == []
        line = (await world.stack.audited(before + 1))[-1]
        assert (line["code"], line["input_tokens"], line["output_tokens"], line["estimated"]) == ("provider_unavailable", 0, 0, False)


@pytest.mark.parametrize("dialect", SDKS)
async def test_one_that_can_gets_the_key(world, dialect):
    """Else the others would prove nothing."""
    assert await world.ask("right", dialect, streaming=False)
    assert CANARY.encode() in b"".join(value for _, value in world.servers["right"].seen[-1].headers)


# -- names
INSIDE = (
    *("169.254.169.254", "127.0.0.2", "10.0.0.1", "192.168.1.1", "0.0.0.0", "100.100.100.200", "224.0.0.1"),
    *("::1", "::", "fe80::1", "fd00:ec2::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::ffff:127.0.0.2"),
)


class Names:
    """A resolver that says one thing at first and another later; and who was connected to."""

    def __init__(self, patch, *answers):
        self.answers = list(answers)
        self.dialled = []
        loop = asyncio.get_running_loop()
        dial = loop.create_connection

        async def resolve(_host, port, **_):
            found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            return [(10 if ":" in address else 2, 1, 6, "", (address, port)) for address in found]

        async def connect(factory, host, *more, **options):
            self.dialled.append(host)
            return await dial(factory, host, *more, **options)

        patch.setattr(loop, "getaddrinfo", resolve)
        patch.setattr(loop, "create_connection", connect)


def calling(port, host="names.test"):
    to = Provider("team1", "p", "OpenAI", Endpoint("http", host, port, "/v1"), "APIKey", SecretRef("team1", "key", "api-key"))
    upstream = Upstream(lambda _: (Credential(CANARY), f"http://{host}:{port}"), parse_hosts(["127.0.0.1/32"]), Off())

    async def ask():
        got = await upstream.send(to, "/chat/completions", [], b"{}")
        return await got.whole()

    return upstream, ask


@pytest.mark.parametrize("inside", INSIDE)
async def test_a_name_that_leads_inside_at_the_second_look_up_is_not_followed(tally, monkeypatch, inside):
    with tally.tried("providers: names that lead inside", at="broker"):
        async with FakeProvider(json_answer(CHAT, headers=[(b"connection", b"close")])) as there:
            names = Names(monkeypatch, ["127.0.0.1"], [inside])
            upstream, ask = calling(there.port)
            assert await ask() == CHAT
            with pytest.raises(Failed) as caught:
                await ask()
            assert (caught.value.cause, caught.value.billable) == ("ConnectFailure", False)
            assert (names.dialled, len(there.seen)) == (["127.0.0.1"], 1)
            await upstream.close()


@pytest.mark.parametrize("inside", INSIDE)
async def test_of_several_addresses_those_inside_are_passed_over(tally, monkeypatch, inside):
    with tally.tried("providers: names that lead inside", at="broker"):
        async with FakeProvider(json_answer(CHAT)) as there:
            names = Names(monkeypatch, [inside, "127.0.0.1", inside])
            upstream, ask = calling(there.port)
            assert await ask() == CHAT
            assert names.dialled == ["127.0.0.1"]
            await upstream.close()


@pytest.mark.parametrize("host", ["169.254.169.0xfe", "127.0.0.0x2", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "169.254.169.254"])
async def test_an_address_in_disguise_is_judged_as_what_it_is(tally, host):
    """The real resolver reads these as addresses; those that an endpoint may not even be written with are in the tests of hosts."""
    with tally.tried("providers: names that lead inside", at="broker"):
        end = parse_endpoint(f"http://{host}:8080", "OpenAI")
        upstream, ask = calling(8080, end.host)
        with pytest.raises(Failed) as caught:
            await ask()
        assert (caught.value.cause, caught.value.billable) == ("ConnectFailure", False)
        assert upstream.opened == 0
        await upstream.close()
