"""Who asks is known from TLS alone, and what opens the provider is the broker's alone, whatever a caller puts into its headers."""

import json

import pytest
from support.hostile_requests import ask, at
from support.hostile_run import AGENT, KEY, LOW, NOBODY
from support.raw_http import send, statuses
from support.spiffe_ca import presenting

FORGED = [
    b'X-Forwarded-Client-Cert: By=spiffe://example.org/broker;Hash=0;Subject="";URI=spiffe://example.org/ns/team1/sa/agent',
    b"X-Forwarded-Client-Cert: URI=spiffe://example.org/ns/team1/sa/agent,URI=spiffe://example.org/ns/team1/sa/agent",
    b"Forwarded: for=127.0.0.1;host=broker;by=spiffe://example.org/ns/team1/sa/agent",
    b"X-Forwarded-For: 127.0.0.1",
    b"X-Forwarded-Host: api.openai.com",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-User: spiffe://example.org/ns/team1/sa/agent",
    b"X-Real-IP: 127.0.0.1",
    b"X-Client-Cert: MIIB",
    b"SSL-Client-Cert: MIIB",
    b"X-SSL-Client-S-DN: O=SPIRE",
    b"X-Spiffe-Id: spiffe://example.org/ns/team1/sa/agent",
    b"X-Envoy-Original-Path: /v1/files",
    b"X-Envoy-External-Address: 127.0.0.1",
    b"X-Remote-User: agent",
    b"X-aiaccess-exchange: 000000000000000000000000",
    b"X-aiaccess-source: broker",
    b"X-aiaccess-identity: spiffe://example.org/ns/team1/sa/agent",
    b"X-aiaccess-policy: agents",
    b"OpenAI-Organization: org-of-somebody",
    b"OpenAI-Project: proj-of-somebody",
    b"Via: 1.1 broker",
    b"Max-Forwards: 0",
    b"TE: trailers",
    b"Trailer: Authorization",
    b"Keep-Alive: timeout=9999",
]  # fmt: skip
PASSED = {b"host", b"content-type", b"content-length", b"accept", b"accept-encoding", b"user-agent", b"authorization", b"x-api-key",
          b"anthropic-version", b"connection"}  # fmt: skip


def exchange_of(got: bytes) -> str:
    return got.partition(b"x-aiaccess-exchange: ")[2].partition(b"\r\n")[0].decode()


@pytest.fixture(scope="session")
def low(shared_doors):
    return presenting(shared_doors.ca.issue(LOW))


@pytest.mark.parametrize("header", FORGED)
async def test_a_forged_header_opens_no_door(doors, tally, low, header):
    with tally.tried("forged identity", at="broker"):
        got = await send(doors.broker_port, at(ask("openai", b"gpt", header + b"\r\n"), doors.broker_port), ssl=low)
        assert statuses(got) == [403]
        assert b'"forbidden"' in got
        assert (await doors.audited(exchange_of(got)))["spiffe_id"] == LOW
        assert exchange_of(got) != "0" * 24
        assert doors.provider.seen == []


@pytest.mark.parametrize("header", FORGED)
@pytest.mark.parametrize("door", ["broker", "gateway"])
async def test_a_forged_header_goes_no_further(doors, tally, header, door):
    with tally.tried("forged identity", at=door):
        got = await doors.send(door, at(ask("anthropic", b"claude", header + b"\r\n"), doors.port(door)))
        assert statuses(got) == [200]
        assert (await doors.audited(exchange_of(got)))["spiffe_id"] == AGENT
        (seen,) = doors.provider.seen
        assert {name.lower() for name, _ in seen.headers} <= PASSED


async def test_who_is_trusted_and_named_by_no_policy_gets_nothing(doors, tally):
    stranger = presenting(doors.ca.issue(NOBODY))
    for dialect, model in (("openai", b"gpt"), ("anthropic", b"claude"), ("openai", b"no-such-model")):
        with tally.tried("forged identity", at="broker"):
            got = await send(doors.broker_port, at(ask(dialect, model), doors.broker_port), ssl=stranger)
            assert statuses(got) == [403]
            assert b"agents" not in got  # which policy was close
            assert doors.provider.seen == []


async def test_the_same_path_in_another_trust_domain_is_somebody_else(doors, tally):
    namesake = presenting(doors.federated.issue("spiffe://other.test/ns/team1/sa/agent"))
    with tally.tried("forged identity", at="broker"):
        got = await send(doors.broker_port, at(ask("openai", b"gpt"), doors.broker_port), ssl=namesake)
        assert statuses(got) == [403]
        assert (await doors.audited(exchange_of(got)))["spiffe_id"] == "spiffe://other.test/ns/team1/sa/agent"
        assert doors.provider.seen == []


MINE = b"sk-of-the-caller-93b1"
OWN = {
    "Authorization": (b"Authorization: Bearer " + MINE, b""),
    "Authorization: Basic": (b"Authorization: Basic " + MINE, b""),
    "x-api-key": (b"X-API-Key: " + MINE, b""),
    "api-key": (b"api-key: " + MINE, b""),
    "x-goog-api-key": (b"x-goog-api-key: " + MINE, b""),
    "Cookie": (b"Cookie: session=" + MINE, b""),
    "Proxy-Authorization": (b"Proxy-Authorization: Bearer " + MINE, b""),
    "both of both dialects": (b"Authorization: Bearer " + MINE + b"\r\nX-Api-Key: " + MINE, b""),
    "all at once": (b"Authorization: Bearer %b\r\nX-Api-Key: %b\r\napi-key: %b\r\nCookie: a=%b" % (MINE, MINE, MINE, MINE), b"?key=" + MINE),
    "?key=": (b"Accept: */*", b"?key=" + MINE),
    "?KEY=": (b"Accept: */*", b"?KEY=" + MINE),
    "?k%65y=": (b"Accept: */*", b"?k%65y=" + MINE),
    "?api_key=": (b"Accept: */*", b"?beta=true&api_key=" + MINE),
    "?access_token=": (b"Accept: */*", b"?access_token=" + MINE + b"&access_token=" + MINE),
    "a header that nobody knows": (b"X-Secret: " + MINE, b""),
    "AWS": (b"X-Amz-Security-Token: " + MINE, b""),
    "an ephemeral key": (b"OpenAI-Ephemeral-Key: " + MINE, b""),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("door", ["broker", "gateway"])
async def test_the_provider_sees_one_credential_and_it_is_not_the_callers(doors, tally, name, dialect, door):
    headers, query = OWN[name]
    model = {"openai": b"gpt", "anthropic": b"claude"}[dialect]
    with tally.tried("credentials", at=door):
        got = await doors.send(door, at(ask(dialect, model, headers + b"\r\n", query), doors.port(door)))
        assert statuses(got) == [200]
        (seen,) = doors.provider.seen
        credentials = [(n.lower(), v) for n, v in seen.headers if KEY.encode() in v]
        assert credentials == [
            {"openai": (b"authorization", b"Bearer " + KEY.encode()), "anthropic": (b"x-api-key", KEY.encode())}[dialect]
        ]
        assert {n.lower() for n, _ in seen.headers} <= PASSED
        assert MINE not in seen.target.encode() + seen.body + b"".join(n + v for n, v in seen.headers)
        assert MINE.decode() not in json.dumps(await doors.audited(exchange_of(got)))
