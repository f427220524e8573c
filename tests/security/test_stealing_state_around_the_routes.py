"""Every other way to say where kept state is: aliases of its routes, other methods, escapes, queries; at the local gateway and at the broker.

A caller with an SVID reaches the broker without a gateway, so what one of them lets through the other has to refuse by itself.
"""

import asyncio
import json

import pytest
import pytest_asyncio
from support.fake_provider import FakeProvider
from support.processes import deployment
from support.raw_http import answer
from support.shared_account import NEIGHBOUR, OWNER, SECRET, THIEF, both_teams, write_keys
from support.spiffe_ca import SpiffeAuthority, SpiffeCa, presenting
from support.stack import CANARY
from support.stateful_provider import Account

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOORS = ("gateway", "broker")
ALIASES = [
    *("/responses/{}", "/openai/v1/responses/{}", "/openai/responses/{}", "/v1/openai/responses/{}", "/v1/v1/responses/{}", "/api/v1/responses/{}"),
    *("/openai/deployments/thinker/responses/{}", "/backend-api/codex/responses/{}", "/team1/v1/responses/{}", "/proxy/v1/responses/{}"),
    *("//v1/responses/{}", "/v1//responses/{}", "/v1/responses//{}", "/v1/responses/{}/", "/v1/responses/{}//", "/v1/responses/{}/cancel/"),
    *("/v1/responses/{}/input_items/", "/v1/./responses/{}", "/v1/x/../responses/{}", "/v1/responses/./{}", "/v1/responses/x/../{}", "/v1/responses/{}/."),
    *("/v1/responses/{}/x/..", "/v1/responses/{}/../{}", "/V1/responses/{}", "/v1/Responses/{}", "/v1/RESPONSES/{}", "/v1/response/{}", "/v1/responses/{}/x"),
    *("/v1/responses/{}/output_items", "/v1/responses/{}/input_items/x", "/v1/responses/{}/cancel/x", "/v1/responses/x/{}", "/v1/responses/{}.json"),
    *("/v1/responses/{};x=y", "/v1/responses/{}:cancel", "/v1/responses/{}%2Fcancel", "/v1/responses/{}%2finput_items", "/v1/responses%2F{}", "/v1%2Fresponses/{}"),
    *("/v1/%72esponses/{}", "/v1/responses/%2e/{}", "/v1/responses/{}%00", "/v1/responses/{}%20", "/v1/responses/{}%3Fstream=true", "/v1/responses/{}%23"),
    *("/v1/responses/{}#", "/v1/responses/{}\\", "/v1\\responses\\{}", "http://127.0.0.1/v1/responses/{}", "http://x@127.0.0.1/v1/responses/{}", "*"),
    *("/v1/conversations/{}", "/v1/conversations/{}/items", "/v1/containers/{}", "/v1/containers/{}/files", "/v1/files/{}", "/v1/files/{}/content"),
    *("/v1/chat/completions/{}", "/v1/chat/completions/{}/messages", "/v1/vector_stores/{}", "/v1/prompts/{}", "/v1/batches/{}", "/v1/models/{}"),
    *("/v1/responses/input_items?response_id={}", "/v1/responses?id={}", "/v1/responses?response_id={}", "/v1/responses/{}?%73tream=true"),
]  # fmt: skip
QUERIES = [
    *(
        "?response_id={}",
        "?id={}",
        "?previous_response_id={}",
        "?after={}&after={}",
        "?include={}",
        "?include[]={}",
        "?limit={}",
        "?order={}",
        "?stream={}",
    ),
    *(
        "?starting_after={}",
        "?include_obfuscation={}",
        "?api-version={}",
        "?model=team2/thinker",
        "?x",
        "?stream=true&stream=true",
        "?Stream=true",
        "?%61fter={}",
    ),
]
ENCODED = {
    "each letter": lambda id_: "".join(f"%{ord(letter):02X}" for letter in id_),
    "the first letter": lambda id_: f"%{ord(id_[0]):02x}{id_[1:]}",
    "the underscore": lambda id_: id_.replace("_", "%5f", 1),
    "twice": lambda id_: "".join(f"%25{ord(letter):02x}" for letter in id_),
    "the underscore twice": lambda id_: id_.replace("_", "%255F", 1),
    "as IIS does": lambda id_: "".join(f"%u{ord(letter):04x}" for letter in id_),
    "too long UTF-8": lambda id_: id_.replace("_", "%C1%9F", 1),
}
METHODS = ("HEAD", "OPTIONS", "PUT", "PATCH", "POST", "TRACE", "COPY", "get", "CONNECT", "PURGE", "QUERY")


async def tell(port, tls, asked, body=b"", headers=""):
    head = f"{asked} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="" if tls else None)
    try:
        async with asyncio.timeout(15):
            writer.write(head.encode() + body)
            if asked.startswith("HEAD "):
                return int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]), b""
            status, _, told = await answer(reader)
            return status, told
    finally:
        writer.transport.abort()


class Doors:
    """A broker and the thief's gateway, with what the owner has left at the provider."""

    def __init__(self, deployed, provider, tls):
        self.deployed, self.provider, self.tls = deployed, provider, tls
        self.ids = {}

    async def tell(self, door, agent, method, target, body=b"", headers=""):
        """The status, and the body. No client tidies the target up."""
        port = self.deployed.gateway_ports[agent] if door == "gateway" else self.deployed.broker_port
        return await tell(port, self.tls[agent] if door == "broker" else None, f"{method} {target}", body, headers)

    async def require_refusal(self, door, method, target, body=b"", headers=""):
        seen = len(self.provider.seen)
        status, got = await self.tell(door, THIEF, method, target, body, headers)
        assert 400 <= status < 500, got[:300]
        assert len(self.provider.seen) == seen, f"the provider was asked: {self.provider.seen[-1].target}"
        assert SECRET.encode() not in got


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def doors(tmp_path_factory):
    folder, account, ca = tmp_path_factory.mktemp("doors"), Account(CANARY), SpiffeCa("example.org")
    async with (
        FakeProvider(script=account.answer) as provider,
        deployment(folder, both_teams(provider.port), {"KEY": CANARY}) as it,
    ):
        it.issuer._authority = SpiffeAuthority(ca)  # so that a test can be an agent without a gateway
        await it.serve("--sealing-keys", str(write_keys(folder / "sealing-keys", 1)))
        await it.gateway(THIEF)
        doors = Doors(it, provider, {agent: presenting(ca.issue(agent)) for agent in (OWNER, THIEF, NEIGHBOUR)})
        asked = {"model": "thinker", "input": SECRET, "store": True, "background": True}
        sealed = json.loads((await doors.tell("broker", OWNER, "POST", "/v1/responses", json.dumps(asked).encode()))[1])["id"]
        doors.ids = {"raw": next(iter(account.responses)), "sealed": sealed}
        yield doors


async def test_the_owner_reads_it_at_the_broker(doors):
    """Without this the rest would prove nothing."""
    assert (await doors.tell("broker", OWNER, "GET", f"/v1/responses/{doors.ids['sealed']}"))[0] == 200


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", ["raw", "sealed"])
@pytest.mark.parametrize("alias", ALIASES)
async def test_no_alias_of_a_route_leads_to_it(doors, door, form, alias):
    id_ = doors.ids[form]
    for method in ("GET", "POST", "DELETE"):
        await doors.require_refusal(door, method, alias.format(id_, id_), b"{}" if method == "POST" else b"")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", ["raw", "sealed"])
@pytest.mark.parametrize("how", ENCODED)
async def test_no_escape_of_an_id_leads_to_it(doors, door, form, how):
    id_ = ENCODED[how](doors.ids[form])
    for method, path in (("GET", "{}"), ("DELETE", "{}"), ("POST", "{}/cancel"), ("GET", "{}/input_items"), ("GET", "{}?stream=true")):
        await doors.require_refusal(door, method, f"/v1/responses/{path.format(id_)}")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", ["raw", "sealed"])
@pytest.mark.parametrize("method", METHODS)
async def test_no_other_method_leads_to_it(doors, door, form, method):
    for path in ("", "/cancel", "/input_items"):
        if (method, path) != ("POST", "/cancel"):
            await doors.require_refusal(door, method, f"/v1/responses/{doors.ids[form]}{path}")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", ["raw", "sealed"])
@pytest.mark.parametrize("query", QUERIES)
async def test_no_query_leads_to_it(doors, door, form, query):
    """The thief has a response of his own to hang the query on."""
    asked = {"model": "thinker", "input": "mine", "store": True}
    own = json.loads((await doors.tell(door, THIEF, "POST", "/v1/responses", json.dumps(asked).encode()))[1])["id"]
    for path in ("", "/input_items"):
        target = f"/v1/responses/{own}{path}{query.format(doors.ids[form], doors.ids[form])}"
        await doors.require_refusal(door, "GET", target)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("form", ["raw", "sealed"])
@pytest.mark.parametrize(
    "path",
    ["/v1/responses/compact", "/v1/responses/input_tokens", "/v1/conversations", "/v1/responses/", "/responses", "/v1/chat/completions"],
)
async def test_no_other_route_takes_it_in_its_body(doors, door, form, path):
    id_ = doors.ids[form]
    body = {
        "model": "thinker",
        "input": "x",
        "messages": [{"role": "user", "content": "x"}],
        "previous_response_id": id_,
        "conversation": id_,
        "store": True,
    }
    await doors.require_refusal(door, "POST", path, json.dumps(body).encode())


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "name", ["X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-Forwarded-Prefix", "X-Forwarded-Client-Cert", "X-Spiffe-Id"]
)
async def test_no_header_leads_to_it(doors, door, name):
    value = f"URI={OWNER}" if "Client-Cert" in name else OWNER if "Spiffe" in name else f"/v1/responses/{doors.ids['raw']}"
    await doors.require_refusal(door, "GET", f"/v1/responses/{doors.ids['sealed']}", headers=f"{name}: {value}\r\n")


async def test_a_caller_whom_no_policy_names_is_told_nothing_of_it(doors):
    ca = doors.deployed.issuer._authority
    stranger = presenting(ca.cas[0].issue("spiffe://example.org/ns/team3/sa/agent"))
    seen, told = len(doors.provider.seen), set()
    for id_ in (*doors.ids.values(), "resp_none"):
        status, got = await tell(doors.deployed.broker_port, stranger, f"GET /v1/responses/{id_}")
        told.add((status, json.loads(got)["error"]["message"].partition(" (exchange ")[0]))
    assert len(told) == 1
    assert len(doors.provider.seen) == seen
