"""The broker's TLS door: TLS 1.3, both sides identified, no way back to a session, and no word to what is not TLS."""

import asyncio
import os
import socket
import ssl
import struct

import pytest
from support.hostile_requests import GET, ask, at
from support.hostile_run import AGENT
from support.raw_http import answer, send, statuses
from support.spiffe_ca import SpiffeCa, presenting

ALERT = b"\x15\x03"


def record(kind: int, payload: bytes, version: bytes = b"\x03\x01") -> bytes:
    return struct.pack("!B2sH", kind, version, len(payload)) + payload


def client_hello(version: bytes, ciphers: bytes = b"\xc0\x2f\xc0\x2b\x00\x9c\x00\x2f", more: bytes = b"") -> bytes:
    """As clients said it before TLS 1.3."""
    body = version + os.urandom(32) + b"\0" + struct.pack("!H", len(ciphers)) + ciphers + b"\1\0" + more
    return record(22, b"\1" + len(body).to_bytes(3) + body)


NOT_TLS = {
    "a plain request": GET + b"\r\n",
    "the preface of h2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "the PROXY protocol": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
    "zeros": b"\0" * 4096,
    "random bytes": bytes(range(256)) * 16,
    "SSL 2.0": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + b"\1" * 16,
    "SSL 3.0": client_hello(b"\3\0"),
    "TLS 1.0": client_hello(b"\3\1"),
    "TLS 1.1": client_hello(b"\3\2"),
    "TLS 1.2": client_hello(b"\3\3"),
    "a downgrade signal": client_hello(b"\3\3", b"\xc0\x2f\x56\x00"),
    "no ciphers": client_hello(b"\3\3", b""),
    "extensions longer than their record": client_hello(b"\3\3", more=b"\xff\xff\0\0"),
    "a record longer than TLS allows": b"\x16\x03\x01\xff\xff" + b"\0" * 20000,
    "a hello of 16 MB": record(22, b"\1\xff\xff\xff" + b"\0" * 16000) * 4,
    "application data first": record(23, b"GET / HTTP/1.1\r\n\r\n"),
    "an alert first": record(21, b"\1\0"),
    "a hundred empty records": record(22, b"") * 100,
    "a hundred changes of cipher": record(20, b"\1") * 100,
    "a heartbeat": record(24, b"\1\xff\xff"),
    "a server's hello": record(22, b"\2\0\0\x26\3\3" + b"\0" * 36),
    "a finished message": record(22, b"\x14\0\0\x0c" + b"\0" * 12),
}


@pytest.mark.parametrize("name", NOT_TLS)
async def test_what_is_not_tls_1_3_gets_an_alert_or_nothing(doors, tally, name):
    with tally.tried("TLS", at="broker"):
        got = await send(doors.broker_port, NOT_TLS[name])
        assert not got or got.startswith(ALERT)
        assert len(got) <= 7
        assert doors.provider.seen == []


async def told(port: int, tls: ssl.SSLContext, raw: bytes) -> bytes:
    try:
        return await send(port, raw, ssl=tls)
    except (ssl.SSLError, ConnectionError):
        return b""


def nameless() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def of_old(context: ssl.SSLContext) -> ssl.SSLContext:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


async def test_a_good_certificate_in_tls_1_2_gets_no_answer(doors, tally):
    with tally.tried("TLS", at="broker"):
        assert await told(doors.broker_port, of_old(presenting(doors.ca.issue(AGENT))), at(ask("openai", b"gpt"), 1)) == b""
        assert doors.provider.seen == []


async def test_no_certificate_gets_no_answer(doors, tally):
    with tally.tried("TLS", at="broker"):
        assert await told(doors.broker_port, nameless(), at(ask("openai", b"gpt"), 1)) == b""
        assert doors.provider.seen == []


async def test_a_caller_that_speaks_http_2_alone_is_refused_in_http_1_1(doors, tally):
    context = presenting(doors.ca.issue(AGENT))
    context.set_alpn_protocols(["h2"])
    with tally.tried("TLS", at="broker"):
        assert statuses(await told(doors.broker_port, context, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")) == [400]


class Session:
    """A caller on blocking sockets, since asyncio has no word for TLS sessions."""

    def __init__(self, port: int, tls: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self._raw = socket.create_connection(("127.0.0.1", port), 10)
        self.tls = tls.wrap_socket(self._raw, session=session)

    def ask(self) -> bytes:
        """An answer, or nothing."""
        try:
            self.tls.sendall(at(GET, 1) + b"\r\n")
            return self.tls.recv(65536)
        except (ssl.SSLError, ConnectionError):
            return b""

    def close(self) -> None:
        self.tls.close()


def resumed(port: int, tls: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, bytes]:
    """Whether a session was taken up again, and the answer in it."""
    caller = Session(port, tls, session)
    try:
        said = caller.ask()
        return bool(caller.tls.session_reused), said
    finally:
        caller.close()


def first_session(port: int, tls: ssl.SSLContext) -> tuple[ssl.SSLSession | None, bytes]:
    caller = Session(port, tls)
    try:
        said = caller.ask()
        return caller.tls.session, said
    finally:
        caller.close()


async def test_no_session_is_taken_up_again(doors, tally):
    tls = presenting(doors.ca.issue(AGENT))
    with tally.tried("TLS", at="broker"):
        session, said = await asyncio.to_thread(first_session, doors.broker_port, tls)
        assert statuses(said) == [200]
        assert session is None or not session.has_ticket
        reused, said = await asyncio.to_thread(resumed, doors.broker_port, tls, session)
        assert (reused, statuses(said)) == (False, [200])


async def test_when_an_authority_is_taken_out_its_sessions_and_connections_end_with_it(doors, tally):
    issuer, leaving = doors.deployment.issuer, SpiffeCa("example.org")
    tls = presenting(leaving.issue(AGENT))
    authority = issuer._authority
    authority.cas = [leaving, doors.ca]
    issuer._publish()
    async with asyncio.timeout(20):
        while statuses(await told(doors.broker_port, tls, at(ask("openai", b"gpt"), 1))) != [200]:
            await asyncio.sleep(0.02)
    session, said = await asyncio.to_thread(first_session, doors.broker_port, tls)
    assert statuses(said) == [200]
    reader, writer = await asyncio.open_connection("127.0.0.1", doors.broker_port, ssl=tls, server_hostname="")
    writer.write(at(GET, 1) + b"\r\n")
    assert (await answer(reader))[0] == 200

    authority.cas = [doors.ca]
    issuer._publish()
    async with asyncio.timeout(20):
        while await told(doors.broker_port, tls, at(GET, 1) + b"Connection: close\r\n\r\n"):
            await asyncio.sleep(0.02)
    with tally.tried("TLS", at="broker", cases=2):
        assert (await asyncio.to_thread(resumed, doors.broker_port, tls, session))[1] == b""
        writer.write(at(GET, 1) + b"\r\n")
        status, _, body = await answer(reader)
        assert status == 401
        assert b'"unidentified"' in body
    writer.close()
