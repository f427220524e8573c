"""Every certificate that nobody may believe: shown to the broker by a caller, and shown to the local gateway by what poses as the broker."""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from support.hostile_certificates import FAULTS
from support.hostile_requests import ask, at
from support.hostile_run import AGENT, each, start_gateway
from support.processes import BROKER_ID
from support.raw_http import send, statuses
from support.spiffe_ca import posing, presenting


async def answered(port: int, tls: ssl.SSLContext) -> bytes:
    """What a caller with this certificate is told; nothing, if TLS ends it."""
    try:
        return await send(port, at(ask("openai", b"gpt"), port), ssl=tls)
    except (ssl.SSLError, ConnectionError):
        return b""


async def test_a_caller_with_a_faulty_certificate_gets_no_answer(doors, tally):
    async def one(fault: str) -> None:
        with tally.tried("certificates", at="broker"):
            assert await answered(doors.broker_port, presenting(FAULTS[fault](doors.ca, doors.federated, AGENT))) == b""
            assert doors.provider.seen == []

    await each(FAULTS, one)


async def test_a_caller_of_each_trust_domain_gets_in_by_its_own_authority(doors):
    """Without this the rest would prove nothing."""
    assert statuses(await answered(doors.broker_port, presenting(doors.ca.intermediate().issue(AGENT)))) == [200]
    namesake = doors.federated.issue("spiffe://other.test/ns/team1/sa/agent")
    assert statuses(await answered(doors.broker_port, presenting(namesake))) == [403]


@dataclass
class Impostor:
    """What listens where a gateway expects its broker. `heard`: the bytes of requests that it got to see."""

    port: int
    gateway_port: int
    tls: ssl.SSLContext
    heard: list[bytes] = field(default_factory=list)
    met: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.met += 1
        with contextlib.suppress(ssl.SSLError, OSError):
            await writer.start_tls(self.tls, ssl_handshake_timeout=5)
            while data := await reader.read(65536):
                self.heard.append(data)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.transport.abort()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def impostor(shared_doors):
    """An impostor, and a gateway process that is sent to it."""
    it = Impostor(0, 0, posing(FAULTS["self-signed"](shared_doors.ca, shared_doors.federated, BROKER_ID)))
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    process, it.gateway_port = await start_gateway(shared_doors.deployment, it.port)
    yield it
    await process.stop()
    server.close()
    await server.wait_closed()


async def asked(it: Impostor) -> bytes:
    """What an agent is told while the impostor stands there; it forgets what it heard before."""
    it.heard.clear()
    it.met = 0
    return await send(it.gateway_port, at(ask("openai", b"gpt"), it.gateway_port), timeout_s=20)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_broker_with_this_certificate_hears_no_byte_of_a_prompt(doors, tally, impostor, fault):
    impostor.tls = posing(FAULTS[fault](doors.ca, doors.federated, BROKER_ID))
    with tally.tried("certificates", at="gateway"):
        got = await asked(impostor)
        assert impostor.met, "it was never asked"
        assert impostor.heard == []
        assert statuses(got) == [503]
        assert b'"broker_unavailable"' in got


@pytest.mark.parametrize("name", ["another workload", "another trust domain", "the agent itself"])
async def test_a_trusted_workload_that_is_not_the_broker_hears_no_byte_of_a_prompt(doors, tally, impostor, name):
    ca, spiffe_id = {
        "another workload": (doors.ca, f"{BROKER_ID}2"),
        "another trust domain": (doors.federated, BROKER_ID.replace("example.org", "other.test")),
        "the agent itself": (doors.ca, AGENT),
    }[name]
    impostor.tls = posing(ca.issue(spiffe_id))
    with tally.tried("certificates", at="gateway"):
        got = await asked(impostor)
        assert impostor.met
        assert impostor.heard == []
        assert statuses(got) == [503]
        assert BROKER_ID.encode() in got  # whom it should be


async def test_a_broker_that_speaks_an_old_tls_hears_no_byte_of_a_prompt(doors, tally, impostor):
    impostor.tls = posing(doors.ca.issue(BROKER_ID))
    impostor.tls.maximum_version = ssl.TLSVersion.TLSv1_2
    with tally.tried("TLS", at="gateway"):
        assert statuses(await asked(impostor)) == [503]
        assert impostor.met
        assert impostor.heard == []


async def test_a_broker_with_a_good_certificate_hears_it(doors, impostor):
    """Without this the rest would prove nothing."""
    impostor.tls = posing(doors.ca.intermediate().issue(BROKER_ID))
    async with asyncio.timeout(30):
        while statuses(await asked(impostor)) != [200]:  # it may rest from all the refusals before
            await asyncio.sleep(0.1)
    assert impostor.heard
