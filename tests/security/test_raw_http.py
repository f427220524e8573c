"""What no parser may read in two ways is refused at both doors: every row is bytes and the one status that they get."""

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.raw_http import QUICK, door, send, statuses

from broker.errors import BrokerError
from broker.http1 import rules
from broker.http1.body import Chunked

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: @\r\nContent-Type: application/json\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: @\r\n"
BODY = b"Content-Length: 2\r\n\r\n{}"

GOOD = {
    "a plain POST": HEAD + BODY,
    "a plain GET": GET + b"\r\n",
    "a chunked body": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a chunk extension, dropped": HEAD + b"Transfer-Encoding: Chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n",
    "a trailer, dropped": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n",
    "multipart": b"POST /v1/x HTTP/1.1\r\nHost: @\r\nContent-Type: multipart/form-data; boundary=x\r\n" + BODY,
    "a model with a slash in the path": HEAD.replace(b"/v1/chat/completions", b"/v1beta/models/a%2Fb%3A7b:generateContent") + BODY,
    "a query": b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: @\r\nContent-Type: application/json\r\n" + BODY,
    "an empty value": GET + b"Accept:\r\n\r\n",
    "Connection: close, Keep-Alive": GET + b"Connection: close\r\n\r\n",
}

REFUSED: dict[str, tuple[bytes, int]] = {
    # 1: smuggling
    "CL and TE": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE and CL": (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "two CLs, equal": (HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
    "two CLs, different": (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a list of CLs": (HEAD + b"Content-Length: 2, 2\r\n\r\n{}", 400),
    "CL with a sign": (HEAD + b"Content-Length: +2\r\n\r\n{}", 400),
    "CL negative": (HEAD + b"Content-Length: -2\r\n\r\n{}", 400),
    "CL in hex": (HEAD + b"Content-Length: 0x2\r\n\r\n{}", 400),
    "CL empty": (HEAD + b"Content-Length:\r\n\r\n{}", 400),
    "CL with an underscore inside": (HEAD + b"Content-Length: 1_0\r\n\r\n{}", 400),
    "CL of sixteen digits": (HEAD + b"Content-Length: 0000000000000002\r\n\r\n{}", 400),
    "CL too large": (HEAD + b"Content-Length: 33554433\r\n\r\n", 413),
    "TE twice": (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE gzip, chunked": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "TE chunked, identity": (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "TE identity": (HEAD + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "TE with a vertical tab": (HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "TE xchunked": (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "TE quoted": (HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 400),
    "space before the colon": (HEAD + b"Content-Length : 2\r\n\r\n{}", 400),
    "a header without a name": (GET + b": x\r\n\r\n", 400),
    "a header without a colon": (GET + b"nonsense\r\n\r\n", 400),
    "a space in a header's name": (GET + b"X Y: 1\r\n\r\n", 400),
    "obs-fold": (HEAD + b"X: a\r\n b\r\n" + BODY, 400),
    "obs-fold with a tab": (HEAD + b"X: a\r\n\tContent-Length: 9\r\n" + BODY, 400),
    "obs-fold on the first header": (b"GET /v1/models HTTP/1.1\r\n Host: @\r\n\r\n", 400),
    "a bare LF between headers": (HEAD + b"X: a\n" + BODY, 400),
    "bare LFs throughout": (b"GET /v1/models HTTP/1.1\nHost: @\n\n", 400),
    "a bare CR in a value": (HEAD + b"X: a\rb\r\n" + BODY, 400),
    "CR CR LF": (GET + b"X: a\r\r\n\r\n", 400),
    "NUL in a value": (GET + b"X: a\0b\r\n\r\n", 400),
    "NUL in a name": (GET + b"X\0: b\r\n\r\n", 400),
    "DEL in a value": (GET + b"X: \x7f\r\n\r\n", 400),
    "obs-text in a value": (GET + b"X: \xc3\xa9\r\n\r\n", 400),
    "Upgrade": (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 400),
    "Upgrade alone": (GET + b"Upgrade: websocket\r\n\r\n", 400),
    "HTTP2-Settings": (GET + b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 400),
    "Connection names a header": (HEAD + b"Connection: content-type\r\n" + BODY, 400),
    "an unknown expectation": (HEAD + b"Expect: 200-ok\r\n" + BODY, 400),
    "HTTP/1.0": (b"GET /v1/models HTTP/1.0\r\nHost: @\r\n\r\n", 400),
    "HTTP/2.0": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /v1/models\r\n\r\n", 400),
    "RTSP": (b"GET /v1/models RTSP/1.0\r\nHost: @\r\n\r\n", 400),
    "lower-case http": (b"GET /v1/models http/1.1\r\nHost: @\r\n\r\n", 400),
    "a leading empty line": (b"\r\n" + GET + b"\r\n", 400),
    "two spaces in the first line": (b"GET  /v1/models HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "a tab in the first line": (b"GET\t/v1/models HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "a space after the version": (b"GET /v1/models HTTP/1.1 \r\nHost: @\r\n\r\n", 400),
    "TLS to a plain door": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a chunk size with a sign": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk size with 0x": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk size of nine digits": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n000000002\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk size with a space": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2 \r\n{}\r\n0\r\n\r\n", 400),
    "an empty chunk size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk line with a bare LF": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n", 400),
    "a chunk that is too long": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n", 400),
    "a chunk that ends with LF": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\n0\r\n\r\n", 400),
    "a chunk larger than any body": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", 413),
    "a chunk extension without end": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 300, 400),
    "a chunk extension with a CR": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;a\rb\r\n{}\r\n0\r\n\r\n", 400),
    "trailers without end": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 2000, 400),
    "a trailer without a colon": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nnonsense\r\n\r\n", 400),
    # 2: paths
    "absolute form": (b"GET http://evil.test/v1/models HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "authority form": (b"CONNECT evil.test:443 HTTP/1.1\r\nHost: @\r\n\r\n", 405),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: @\r\n\r\n", 405),
    "asterisk with GET": (b"GET * HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "//host": (b"GET //evil.test/v1/models HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "// inside": (b"GET /v1//models HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "..": (b"GET /v1/../admin HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "/. at the end": (b"GET /v1/. HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "/./": (b"GET /v1/./models HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "%2e%2e": (b"GET /v1/%2e%2e/admin HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "%2f": (b"GET /v1%2fmodels HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "%2e in a model": (b"GET /v1/models/%2e%2e HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "%5c in a model": (b"GET /v1/models/a%5cb HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "%00 in a model": (b"GET /v1/models/a%00 HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "%25 in a model": (b"GET /v1/models/a%252fb HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "%0d%0a in a model": (b"GET /v1/models/a%0d%0aX:1 HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "half an escape": (b"GET /v1/models/a%2 HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "an escape before the model": (b"GET /v1%2F/models/a HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "a backslash": (b"GET /v1\\models HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "a semicolon": (b"GET /v1/models;x=1 HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "a fragment": (b"GET /v1/models#x HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "a quote": (b'GET /v1/"models" HTTP/1.1\r\nHost: @\r\n\r\n', 400),
    "no leading slash": (b"GET v1/models HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "a NUL in the path": (b"GET /v1/models\0 HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    "UTF-8 in the path": (b"GET /v1/mod\xc3\xa8les HTTP/1.1\r\nHost: @\r\n\r\n", 400),
    # 4: Host
    "no Host": (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (GET + b"Host: @\r\n\r\n", 400),
    "an empty Host": (b"GET /v1/models HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "a Host with a path": (b"GET /v1/models HTTP/1.1\r\nHost: @/x\r\n\r\n", 400),
    "a Host with userinfo": (b"GET /v1/models HTTP/1.1\r\nHost: a@b\r\n\r\n".replace(b"a@b", b"a%40b"), 400),
    "a list of Hosts": (b"GET /v1/models HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    # 5: credentials
    "two Authorizations": (GET + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", 400),
    "two keys": (GET + b"X-Api-Key: a\r\nx-api-key: b\r\n\r\n", 400),
    "x_api_key": (GET + b"x_api_key: a\r\n\r\n", 400),
    "X-Goog_Api-Key": (GET + b"X-Goog_Api-Key: a\r\n\r\n", 400),
    "content_length": (HEAD + b"Content_Length: 9\r\n" + BODY, 400),
    "transfer_encoding": (HEAD + b"Transfer_Encoding: chunked\r\n" + BODY, 400),
    "x_forwarded_client_cert": (GET + b"x_forwarded_client_cert: URI=spiffe://example.org/a\r\n\r\n", 400),
    # 9: sizes and methods
    "65 headers": (GET + b"X: 1\r\n" * 64 + b"\r\n", 431),
    "a long header": (GET + b"X: " + b"a" * 40000 + b"\r\n\r\n", 431),
    "a long target": (b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: @\r\n\r\n", 431),
    "a head without end": (GET + b"X: " + b"a" * 40000, 431),
    "a compressed body": (HEAD + b"Content-Encoding: gzip\r\n" + BODY, 400),
    "HEAD": (b"HEAD /v1/models HTTP/1.1\r\nHost: @\r\n\r\n", 405),
    "PUT": (b"PUT /v1/models HTTP/1.1\r\nHost: @\r\n\r\n", 405),
    "TRACE": (b"TRACE /v1/models HTTP/1.1\r\nHost: @\r\n\r\n", 405),
    "lower-case get": (b"get /v1/models HTTP/1.1\r\nHost: @\r\n\r\n", 405),
    "a body that a page can send": (b"POST /v1/x HTTP/1.1\r\nHost: @\r\nContent-Type: text/plain\r\n" + BODY, 400),
    "a body without a type": (b"POST /v1/x HTTP/1.1\r\nHost: @\r\n" + BODY, 400),
    "two types": (HEAD + b"Content-Type: text/plain\r\n" + BODY, 400),
}

LOCAL_REFUSED: dict[str, bytes] = {
    "another host": GET.replace(b"@", b"evil.test") + b"\r\n",
    "another host with our port": GET.replace(b"@", b"evil.test:4180") + b"\r\n",
    "our address without a port": GET.replace(b"@", b"127.0.0.1") + b"\r\n",
    "our address with another port": GET.replace(b"@", b"127.0.0.1:1") + b"\r\n",
    "a subdomain of localhost": GET.replace(b"@", b"evil.localhost:4180") + b"\r\n",
    "Origin": GET + b"Origin: https://evil.test\r\n\r\n",
    "Origin: null": GET + b"Origin: null\r\n\r\n",
    "Sec-Fetch-Site": GET + b"Sec-Fetch-Site: same-origin\r\n\r\n",
}

both = pytest.mark.parametrize("local", [False, True], ids=["broker", "gateway"])


def at(raw: bytes, port: int) -> bytes:
    return raw.replace(b"Host: @", b"Host: 127.0.0.1:%d" % port)


@both
async def test_what_is_plain_passes(local):
    async with door(local=local) as d:
        for name, raw in GOOD.items():
            got = await send(d.port, at(raw, d.port) + at(GET, d.port) + b"Connection: close\r\n\r\n")
            assert statuses(got) == [200], name  # and what was pipelined behind it was never begun
        assert len(d.requests) == len(GOOD)


@both
@pytest.mark.parametrize("name", REFUSED)
async def test_what_two_parsers_could_read_in_two_ways_is_refused(name, local):
    raw, status = REFUSED[name]
    async with door(local=local) as d:
        got = await send(d.port, at(raw, d.port))
        assert statuses(got) == [status]
        assert b"connection: close\r\n" in got
        assert d.requests == []


@both
@pytest.mark.parametrize("name", REFUSED)
async def test_the_verdict_does_not_depend_on_how_the_bytes_are_cut(name, local):
    raw, status = REFUSED[name]
    async with door(local=local) as d:
        raw = at(raw, d.port)
        middle = len(raw) // 2
        got = await send(d.port, raw[:1], raw[1:middle], raw[middle:-1], raw[-1:])
        assert statuses(got) == [status]
        assert d.requests == []


@pytest.mark.parametrize("name", LOCAL_REFUSED)
async def test_the_local_door_serves_programs_on_this_machine_alone(name):
    async with door(local=True) as d:
        got = await send(d.port, at(LOCAL_REFUSED[name], d.port))
        assert statuses(got) == [403]
        assert b"x-code: not_local\r\n" in got
        assert d.requests == []


@pytest.mark.parametrize("host", [b"127.0.0.1:%d", b"localhost:%d", b"LOCALHOST:%d", b"[::1]:%d"])
async def test_the_local_door_knows_its_own_names(host):
    async with door(local=True) as d:
        got = await send(d.port, GET.replace(b"@", host % d.port) + b"Connection: close\r\n\r\n")
        assert statuses(got) == [200]


def verdict(pieces: list[bytes]) -> tuple[str, bytes]:
    """What the rules say of these bytes in these pieces: a refusal's code, or the request's own bytes."""
    data, head, body = b"", None, None
    try:
        for given_piece in pieces:
            piece = given_piece
            if body is None:
                data += piece
                end = rules.end_of_head(data, 4096)
                if not end:
                    continue
                head = rules.read(data[:end], header_count=16, body_bytes=4096)
                body = Chunked(4096) if head.chunked else bytearray()
                piece = data[end:]
            if isinstance(body, Chunked):
                rest = body.feed(piece)
                if rest is not None:
                    return "whole", body.whole()
            else:
                body += piece
                if len(body) >= head.length:
                    return "whole", bytes(body[: head.length])
    except BrokerError as error:
        return error.code, b""
    return "more", b""


raw_requests = st.one_of(
    st.sampled_from([raw for raw, _ in REFUSED.values()] + list(GOOD.values())),
    st.lists(
        st.sampled_from(
            [b"GET", b"POST", b" ", b"/v1/models", b" HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host: a", b"Content-Length: 3",
             b"Transfer-Encoding: chunked", b"\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b":", b"\0", b"\xff", b"x" * 300, b"x" * 5000]
        ),
        max_size=14,
    ).map(b"".join),
    st.binary(max_size=200),
)  # fmt: skip


@given(raw_requests, st.lists(st.integers(0, 6000), max_size=6))
def test_any_cutting_gives_the_same_verdict(raw, cuts):
    raw = raw.replace(b"@", b"a:1")
    edges = [0, *sorted(c for c in cuts if c < len(raw)), len(raw)]
    pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
    assert verdict(pieces) == verdict([raw])
    assert verdict([bytes([byte]) for byte in raw]) == verdict([raw])


@settings(max_examples=60)
@given(raw_requests, st.binary(max_size=20))
def test_no_bytes_crash_a_door_or_become_two_requests(raw, tail):
    async def scenario() -> None:
        async with door(limits=QUICK) as d:
            got = await send(d.port, (raw + tail + GET).replace(b"@", b"a:1") + b"\r\n")
            assert len(d.requests) <= 1
            assert len(statuses(got)) <= 1
            assert not [status for status in statuses(got) if status == 500]

    asyncio.run(scenario())
