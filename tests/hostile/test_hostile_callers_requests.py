"""Requests that two parsers could read in two ways, and those that ask for what is not there: refused at both doors, as real processes.

Behind each comes a plain request: it must never be begun, whatever the first one made of the connection.
"""

import gzip

import pytest
from support.hostile_requests import GET, GROUPS, LOCAL_REFUSED, ask, at
from support.hostile_run import each
from support.raw_http import statuses

from broker import dialects

CODES = {400: "bad_request", 403: "not_local", 404: "unknown_route", 405: "method_not_allowed", 413: "too_large", 431: "headers_too_large"}
SOURCES = {"broker": b"x-aiaccess-source: broker\r\n", "gateway": b"x-aiaccess-source: gateway\r\n"}

both = pytest.mark.parametrize("door", ["broker", "gateway"])


@both
@pytest.mark.parametrize("group", GROUPS)
async def test_what_two_parsers_could_read_in_two_ways_is_refused(doors, tally, group, door):
    async def one(name: str) -> None:
        raw, status = GROUPS[group][name]
        with tally.tried(group, at=door):
            got = await doors.send(door, at(raw + ask("openai", b"gpt"), doors.port(door)))
            assert statuses(got) == [status]
            assert b'"%b"' % CODES[status].encode() in got
            assert SOURCES[door] in got
            assert b"connection: close\r\n" in got
            assert b"100 Continue" not in got
            assert doors.provider.seen == []

    await each(GROUPS[group], one)


async def test_a_web_page_does_not_get_through_the_local_gateway(doors, tally):
    async def one(name: str) -> None:
        with tally.tried("DNS rebinding", at="gateway"):
            got = await doors.send("gateway", at(LOCAL_REFUSED[name] + ask("openai", b"gpt"), doors.gateway_port))
            assert statuses(got) == [403]
            assert b'"not_local"' in got
            assert doors.provider.seen == []

    await each(LOCAL_REFUSED, one)


@both
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_what_is_honest_passes(doors, dialect, door):
    """Without this the rest would prove nothing."""
    model = {"openai": b"gpt", "anthropic": b"claude"}[dialect]
    assert statuses(await doors.send(door, at(ask(dialect, model), doors.port(door)))) == [200]
    assert len(doors.provider.seen) == 1


NOWHERE = ["/", "/metrics", "/readyz", "/healthz", "/admin", "/v1", "/v1/", "/V1/MODELS", "/v1/models/", "/v1/chat/completions/",
           "/v1/files", "/v1/models/gpt/x", "/v1/models/a%2Fb", "/v1/chat", "/v1/messages/batches", "/.git/config", "/openai/v1/models",
           "/v1/responses/resp_1/output_items", "/v1/responses/resp_1/", "/v1/responses/", "/v1/conversations/conv_1", "/v1/files/file-1/content",
           "/v1/vector_stores", "/v1/containers/cntr_1/files", "/v1/realtime", "/v1/audio/speech", "/v1/images/edits",
           "/v1/embeddings/x", "/v1/completions/x", "/v1/messages/count_tokens/x", "/v1/batches", "/v1/organization/api_keys", "/v2/models", "/-", "/v1/models/@", "/~root"]  # fmt: skip


@both
async def test_what_no_route_names_is_nowhere(doors, tally, door):
    async def one(path: str) -> None:
        with tally.tried("paths", at=door):
            got = await doors.send(door, at(GET.replace(b"/v1/models", path.encode()) + b"Connection: close\r\n\r\n", doors.port(door)))
            assert statuses(got) == [404]
            assert b'"unknown_route"' in got
            assert doors.provider.seen == []

    await each(NOWHERE, one)


METHODS = [*((method, path) for path in dialects.METHODS for method in (b"GET", b"DELETE")), (b"DELETE", "/v1/models")]


@both
@pytest.mark.parametrize(("method", "path"), METHODS)
async def test_a_route_takes_its_own_method_alone(doors, tally, method, path, door):
    with tally.tried("methods", at=door):
        raw = b"%b %b HTTP/1.1\r\nHost: @\r\nConnection: close\r\n\r\n" % (method, path.encode())
        got = await doors.send(door, at(raw, doors.port(door)))
        assert statuses(got) == [405]
        assert b'"method_not_allowed"' in got
        assert doors.provider.seen == []


OVERRIDES = [b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Method-Override", b"X-Original-Method"]


@both
@pytest.mark.parametrize("name", OVERRIDES)
async def test_a_method_is_what_the_first_line_says(doors, tally, name, door):
    with tally.tried("methods", at=door):
        got = await doors.send(door, at(ask("openai", b"gpt", name + b": DELETE\r\n", b"?_method=DELETE"), doors.port(door)))
        assert statuses(got) == [200]
        (seen,) = doors.provider.seen
        assert (seen.method, seen.target, seen.header(name.lower())) == ("POST", "/v1/chat/completions", None)


REWRITES = [b"X-Original-URL: /v1/files", b"X-Rewrite-URL: /v1/files", b"X-Forwarded-Prefix: /admin", b"X-Forwarded-Uri: /v1/files"]


@both
@pytest.mark.parametrize("header", REWRITES)
async def test_a_path_is_what_the_first_line_says(doors, tally, header, door):
    with tally.tried("paths", at=door):
        assert statuses(await doors.send(door, at(ask("openai", b"gpt", header + b"\r\n"), doors.port(door)))) == [200]
        (seen,) = doors.provider.seen
        assert seen.target == "/v1/chat/completions"
        assert seen.header(header.partition(b":")[0].lower()) is None


@both
@pytest.mark.parametrize("level", [1, 9])
async def test_a_packed_body_that_does_not_say_so_is_not_unpacked(doors, tally, level, door):
    body = gzip.compress(b'{"model":"gpt","messages":[]}' + b" " * (8 << 20), level)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: @\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    with tally.tried("bodies", at=door):
        got = await doors.send(door, at(head % len(body), doors.port(door)) + body)
        assert statuses(got) == [400]
        assert b'"bad_request"' in got
        assert doors.provider.seen == []
