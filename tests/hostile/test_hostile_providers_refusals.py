"""Providers that say no, in every way there is; that send us elsewhere; and that say aloud what we told them in confidence."""

import asyncio

import pytest
import pytest_asyncio
from support.fake_provider import LAST_CHUNK, chunk
from support.hostile_run import KEY
from support.hostile_stage import Case, End, staged, ways

UNAVAILABLE = End(502, "provider_unavailable", "no tokens")
OUR_KEY = End(502, "provider_auth", "no tokens")
LIMITED = End(429, "provider_rate_limited", "no tokens")
REFUSED = End(502, "provider_unavailable", "the hold")
REFUSED_LATER = End(200, "provider_unavailable", "the hold", drops=True)
UNJUDGED = End(502, "provider_unavailable", None)
ANSWERED = End(200, "", (5, 2))
HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>of nginx</h1></body></html>"
SAID = b'{"error":{"message":"no such thing","type":"invalid_request_error"}}'


def both(act, end, **more):
    return Case(act, end, end, **{"crossed": "dialects" not in more, **more})


def says(status, body, kind=b"application/json", headers=()):
    return lambda call: [call.says(body, status, kind, headers)]


def meaning(status):
    if status in (401, 403):
        return OUR_KEY
    if status == 429:
        return LIMITED
    return End(status, "", "no tokens") if status < 500 else UNAVAILABLE


STATUSES = (
    400,
    401,
    402,
    403,
    404,
    405,
    407,
    408,
    409,
    410,
    413,
    415,
    418,
    421,
    422,
    425,
    429,
    431,
    451,
    499,
    500,
    501,
    502,
    503,
    504,
    507,
    529,
    599,
)
BODIES = {
    **{f"{status}-with-body": both(says(status, SAID), meaning(status)) for status in STATUSES},
    **{f"{status}-without-body": Case(says(status, b""), meaning(status), None, ("chat",)) for status in STATUSES},
    **{f"{status}-as-html": both(says(status, HTML, b"text/html"), meaning(status), dialects=("messages",)) for status in (404, 429, 502)},
    **{f"{status}-not-utf-8": both(says(status, b"\xff\xfe\0", b"text/plain"), meaning(status), dialects=("chat",)) for status in (400, 500)},
    "400-cut": both(lambda c: [c.says(SAID, 400)[:-1], "close"], End(502, "provider_unavailable", "the hold", drops=True)),
    "500-cut": both(lambda c: [c.says(SAID, 500)[:-1], "close"], End(502, "provider_unavailable", "the hold", drops=True)),
    "400-silent": both(lambda c: [c.says(SAID, 400)[:-1], "hang"], End(504, "provider_timeout", "the hold", drops=True), awaited=True),
    "400-as-stream": both(lambda c: [c.says(b"data: " + SAID + b"\n\n", 400, b"text/event-stream")], End(400, "", "no tokens")),
    **{f"status-{status}": both(says(status, SAID), UNJUDGED) for status in (201, 202, 206, 300, 304, 399, 600, 999)},
}  # fmt: skip

RETRY_AFTER = {
    "seconds": (b"7", "7"),
    "a-week": (b"604800", "604800"),
    "date": (b"Wed, 21 Oct 2026 07:28:00 GMT", None),
    "negative": (b"-1", None),
    "huge": (b"99999999999999999999", None),
    "word": (b"soon", None),
    "fraction": (b"1.5", None),
    "list": (b"1, 2", None),
    "empty": (b"", None),
    "other-digits": ("٣".encode(), None),
}
AFTER = {
    f"retry-after-{name}": both(says(429, SAID, headers=[(b"retry-after", value)]), LIMITED, dialects=("chat",))
    for name, (value, _) in RETRY_AFTER.items()
}

PLACES = {
    "metadata": b"http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "file": b"file:///etc/passwd",
    "recorder": b"http://127.0.0.1:%d/stolen",
    "relative": b"/v1/elsewhere",
    "other-host": b"//evil.test/",
    "nothing": b"",
}


def redirects(status, place, port):
    target = PLACES[place] % port if place == "recorder" else PLACES[place]
    return lambda call: [call.says(b"{}", status, headers=[(b"location", target), (b"refresh", b"0; url=" + target)])]


def redirect_cases(port):
    codes = {"recorder": (301, 302, 303, 307, 308)}
    return {
        f"{status}-to-{place}": both(redirects(status, place, port), UNJUDGED)
        for place in PLACES
        for status in codes.get(place, (302, 307))
    }


def streamed(*pieces, end=REFUSED_LATER):
    """Pieces of a stream with a pause between them, so that they come one by one; b"KEY" stands for our key."""

    def act(call):
        yield call.head()
        for piece in pieces:
            yield chunk(piece.replace(b"KEY", call.key))
            yield 0.05
        yield LAST_CHUNK

    return Case(act, None, end)


def whole(body, status=200, end=REFUSED):
    return Case(lambda c: [c.says(body.replace(b"KEY", c.key), status)], end, end if status != 200 else None)


FIRST, SECOND = KEY[:9].encode(), KEY[9:].encode()
WORDS = b'data: {"choices":[],"type":"x"}\n\n'
SECRETS = {
    "key-in-body": whole(b'{"you":"KEY"}'),
    "key-as-name": whole(b'{"KEY":1}'),
    "key-in-400": whole(b'{"error":"KEY"}', 400, UNJUDGED),
    "key-in-404": whole(b'{"error":"bad key KEY"}', 404, UNJUDGED),
    "key-in-401": Case(lambda c: [c.says(b'{"error":"bad key %b"}' % c.key, 401)], End(502, "provider_unavailable", None), End(502, "provider_unavailable", None)),
    "key-in-500": whole(b'{"error":"KEY"}', 500, UNJUDGED),
    "key-in-headers": Case(
        lambda c: [b.replace(b"HTTP/1.1 200 X\r\n", b"HTTP/1.1 200 %b\r\nx-request-id: %b\r\nrequest-id: a %b\r\nretry-after: %b\r\n%b: 1\r\n" % ((c.key,) * 5), 1)
                   if isinstance(b, bytes) else b for b in c.honest()], ANSWERED, ANSWERED),
    "key-in-content-type": Case(lambda c: [c.says(c.body(), kind=b"application/json; charset=" + c.key)], ANSWERED, None),
    "key-in-interim": Case(lambda c: [b"HTTP/1.1 103 X\r\nlink: " + c.key + b"\r\n\r\n", *c.honest()], ANSWERED, ANSWERED),
    "key-in-trailer": Case(lambda c: [c.head(), *map(chunk, c.events()), b"0\r\nx-key: " + c.key + b"\r\n\r\n"], None, ANSWERED),
    "key-in-chunk-extension": Case(lambda c: [c.head(), *(chunk(e).replace(b"\r\n", b";k=" + c.key + b"\r\n", 1) for e in c.events()), LAST_CHUNK], None, ANSWERED),
    "key-in-redirect": Case(lambda c: [c.says(b"{}", 302, headers=[(b"location", b"http://evil.test/?" + c.key)])], UNJUDGED, UNJUDGED),
    "key-in-first-event": streamed(b"data: KEY\n\n", WORDS, end=End(502, "provider_unavailable", "the hold", drops=True)),
    "key-in-later-event": streamed(WORDS, b"data: KEY\n\n", WORDS),
    "key-in-comment": streamed(WORDS, b": KEY\n\n"),
    "key-in-two-pieces": streamed(WORDS, b"data: " + FIRST, SECOND + b"\n\n"),
    "key-byte-by-byte": Case(lambda c: [c.head(), chunk(WORDS), 0.1, *(chunk(bytes([byte])) for byte in b"data: " + c.key + b"\n\n"), LAST_CHUNK], None, End(200, "provider_unavailable", "the hold")),
    "key-in-unended-event": streamed(WORDS, b"data: KEY"),
    "two-keys": streamed(WORDS, b"data: KEYKEY\n\n"),
}  # fmt: skip


class Recorder:
    """A port where nobody should ever come."""

    def __init__(self) -> None:
        self.came = 0

    async def __aenter__(self):
        def come(_reader, writer):
            self.came += 1
            writer.close()

        self._server = await asyncio.start_server(come, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()


CASES = {**BODIES, **AFTER, **redirect_cases(0), **SECRETS}
GROUPS = {
    **dict.fromkeys(BODIES, "statuses"),
    **dict.fromkeys(AFTER, "Retry-After"),
    **dict.fromkeys(redirect_cases(0), "redirects"),
    **dict.fromkeys(SECRETS, "credentials said aloud"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def recorder():
    async with Recorder() as recorder:
        yield recorder


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(shared_doors, recorder):
    async with staged(shared_doors, {**CASES, **redirect_cases(recorder.port)}) as stage:
        yield stage


@pytest.mark.parametrize(("name", "dialect", "streaming"), ways({n: c for n, c in CASES.items() if n not in AFTER}))
async def test_a_refusal_becomes_what_the_caller_can_use_and_nothing_is_followed_or_said_on(
    doors, tally, stage, recorder, name, dialect, streaming
):
    with tally.tried(f"providers: {GROUPS[name]}", at="broker"):
        told = await stage.tries(name, dialect, streaming=streaming)
        assert FIRST not in told.body
        assert recorder.came == 0
        if not stage.end(name, streaming=streaming).code and told.status != 200:
            assert told.headers["x-aiaccess-source"] == "provider"
            assert "location" not in told.headers
    assert doors.broker.child.returncode is None


@pytest.mark.parametrize(("name", "dialect", "streaming"), ways(AFTER))
async def test_a_retry_after_is_passed_on_where_it_is_a_plain_number_and_else_left_out(doors, tally, stage, name, dialect, streaming):
    with tally.tried("providers: Retry-After", at="broker"):
        told = await stage.tries(name, dialect, streaming=streaming)
        assert told.headers.get("retry-after") == RETRY_AFTER[name.removeprefix("retry-after-")][1]
        assert told.headers["x-should-retry"] == "true"
    assert doors.broker.child.returncode is None
