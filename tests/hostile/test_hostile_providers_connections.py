"""Providers that stall, cut, reset, flood and smuggle: each stage of an answer, in both dialects, plain and streamed."""

from dataclasses import replace
from itertools import chain, repeat

import pytest
import pytest_asyncio
from support.fake_provider import LAST_CHUNK, chunk
from support.hostile_provider import FullBacklog
from support.hostile_stage import Case, End, staged, ways

GONE = "provider_unavailable"
LATE = "provider_timeout"
BROKEN = End(502, GONE, "the hold", drops=True)  # nobody knows what it did
BROKEN_LATER = End(200, GONE, "the hold", drops=True)
SILENT = End(504, LATE, "the hold", drops=True)
SILENT_LATER = End(200, LATE, "the hold", drops=True)
UNREACHED = End(502, GONE, "nothing")
ANSWERED = End(200, "", (5, 2))
ANSWERED_ONCE = End(200, "", (5, 2), drops=True)
LONG = 1 << 16


def cut(text, step):
    """An honest answer up to this text, and then the step."""

    def act(call):
        head, there, _ = call.whole().partition(text)
        assert there
        return [head, step]

    return act


def at_each_stage(step, before, after, plain):
    """before, after: how it ends before and after the head of a stream's answer has come; plain: of any other answer."""
    cases = {
        "at-once": Case(lambda _: [step], before, before),
        "in-status-line": Case(lambda _: [b"HTTP/1.1 20", step], before, None, ("chat",)),
        "in-header": Case(cut(b"transfer-encoding", step), None, before),
        "after-head": Case(lambda call: [call.head(length=100) if not call.streaming else call.head(), step], plain, before),
        "in-body": Case(cut(b"hi", step), plain, after),
        "before-last-chunk": Case(cut(LAST_CHUNK, step), None, ENDED[step]),
        "at-last-byte": Case(lambda call: [call.whole()[:-1], step], plain, ENDED[step]),
    }
    return {f"{step}-{name}": replace(case, awaited=step == "hang") for name, case in cases.items()}


# All that was said has been said, and billed, when only the end of the transfer is missing; that it is missing is told all the same.
ENDED = {
    "close": End(200, GONE, (5, 2), drops=True),
    "reset": End(200, GONE, (5, 2), drops=True),
    "hang": End(200, LATE, (5, 2), drops=True),
}
STAGES = {
    **at_each_stage("close", BROKEN, BROKEN_LATER, BROKEN),
    **at_each_stage("reset", BROKEN, BROKEN_LATER, BROKEN),
    **at_each_stage("hang", SILENT, SILENT_LATER, SILENT),
    "backlog": Case(lambda _: [], UNREACHED, UNREACHED, endpoint="full"),
    "refused": Case(lambda _: [], UNREACHED, UNREACHED, endpoint="nobody"),
}


def endless(begin, more):
    return lambda _: chain([begin], repeat(more))


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

# 1 GB would be told from these only by the time it takes
ENDLESS = {
    "status-line": Case(endless(b"HTTP/1.1 200 ", b"O" * LONG), BROKEN, BROKEN, crossed=True),
    "header-name": Case(endless(OK, b"x" * LONG), BROKEN, BROKEN, crossed=True),
    "header-value": Case(endless(OK + b"x: ", b"y" * LONG), BROKEN, BROKEN, crossed=True),
    "headers": Case(endless(OK, b"x: y\r\n" * 1000), BROKEN, BROKEN, crossed=True),
    "set-cookies": Case(endless(OK, b"set-cookie: a=b\r\n" * 20), BROKEN, BROKEN, crossed=True),
    "interim": Case(endless(b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"), BROKEN, BROKEN, crossed=True),
    "interim-header": Case(endless(b"HTTP/1.1 103 Early Hints\r\nlink: ", b"y" * LONG), BROKEN, BROKEN, crossed=True),
    "empty-lines": Case(endless(b"", b"\r\n" * 1000), BROKEN, BROKEN, crossed=True),
    "chunk-extension": Case(endless(CHUNKED + b"1;", b"e" * LONG), BROKEN, None),
    "chunk-extension-of-stream": Case(endless(EVENTS + b"1;", b"e" * LONG), None, BROKEN),
    "trailers": Case(endless(CHUNKED + b"2\r\n{}\r\n0\r\n", b"x: y\r\n" * 1000), BROKEN, None),
    "trailer-line": Case(endless(CHUNKED + b"2\r\n{}\r\n0\r\nx: ", b"y" * LONG), BROKEN, None),
}


def framed(head, body):
    return lambda call: [head % len(call.body()) + body(call)]


SSE_OK = OK + b"content-type: text/event-stream\r\n"
JSON_OK = OK + b"content-type: application/json\r\n"


def stream_bytes(call):
    return b"".join(call.events())


FRAMING = {
    "length-and-chunks": Case(lambda c: [JSON_OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(c.body()) + LAST_CHUNK], BROKEN, None),
    "two-lengths": Case(lambda c: [JSON_OK + b"content-length: 5\r\ncontent-length: %d\r\n\r\n" % len(c.body()) + c.body()], BROKEN, None),
    "signed-length": Case(lambda c: [JSON_OK + b"content-length: +%d\r\n\r\n" % len(c.body()) + c.body()], BROKEN, None),
    "length-list": Case(lambda c: [JSON_OK + b"content-length: %d, %d\r\n\r\n" % ((len(c.body()),) * 2) + c.body()], BROKEN, None),
    "length-of-20-digits": Case(lambda c: [JSON_OK + b"content-length: 99999999999999999999\r\n\r\n" + c.body()], BROKEN, None),
    "length-too-long": Case(lambda c: [JSON_OK + b"content-length: %d\r\n\r\n" % (len(c.body()) + 1) + c.body(), "close"], BROKEN, None),
    "length-too-long-and-silent": Case(lambda c: [JSON_OK + b"content-length: %d\r\n\r\n" % (len(c.body()) + 1) + c.body(), "hang"], SILENT, None, awaited=True),
    "length-too-short": Case(lambda c: [JSON_OK + b"content-length: %d\r\n\r\n" % (len(c.body()) - 1) + c.body(), "hang"], BROKEN, None),
    "stream-length-too-short": Case(lambda c: [SSE_OK + b"content-length: %d\r\n\r\n" % (len(stream_bytes(c)) - 60) + stream_bytes(c), "hang"], None, BROKEN_LATER),
    "no-length": Case(lambda c: [JSON_OK + b"\r\n" + c.body(), "close"], BROKEN, None),
    "stream-without-length": Case(lambda c: [SSE_OK + b"\r\n" + stream_bytes(c), "close"], None, BROKEN),
    "http-1.0": Case(lambda c: [JSON_OK.replace(b"1.1", b"1.0") + b"content-length: %d\r\n\r\n" % len(c.body()) + c.body()], ANSWERED_ONCE, None),
    "http-1.0-without-length": Case(lambda c: [JSON_OK.replace(b"1.1", b"1.0") + b"\r\n" + c.body(), "close"], BROKEN, None),
    "http-2": Case(lambda _: [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "hang"], BROKEN, BROKEN),
    "http-9.9": Case(lambda c: [c.whole().replace(b"HTTP/1.1", b"HTTP/9.9"), "hang"], BROKEN, BROKEN),
    "no-http": Case(lambda _: [b"220 smtp.example.org ESMTP\r\n", "hang"], BROKEN, BROKEN),
    "switching-protocols": Case(lambda _: [b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", "hang"], BROKEN, BROKEN),
    "gzip-transfer": Case(lambda c: [JSON_OK + b"transfer-encoding: gzip, chunked\r\n\r\n" + chunk(c.body()) + LAST_CHUNK], BROKEN, None),
    "nul-in-header": Case(lambda c: [c.whole().replace(b"server: ", b"server: \0", 1)], BROKEN, BROKEN),
    "cr-in-header": Case(lambda c: [c.whole().replace(b"server: ", b"server: \rset-cookie: a=b", 1)], BROKEN, BROKEN),
    "chunk-size-negative": Case(lambda c: [CHUNKED + b"-5\r\n" + c.body()], BROKEN, None),
    "chunk-size-of-17-digits": Case(lambda c: [CHUNKED + b"fffffffffffffffff\r\n" + c.body()], BROKEN, None),
    "chunk-without-end": Case(lambda c: [CHUNKED + b"%x\r\n" % len(c.body()) + c.body() + b"XX" + LAST_CHUNK], BROKEN, None),
    "chunk-size-malformed-mid-stream": Case(lambda c: [c.head(), chunk(c.events()[0]), 0.2, b"zz\r\n", "hang"], None, BROKEN_LATER),
    "interim-first": Case(lambda c: [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nset-cookie: a=of-our-account\r\n\r\n", *c.honest()], ANSWERED, ANSWERED),
    "second-answer-behind": Case(lambda c: [c.whole() + c.says(b'{"error":{"message":"of-our-account"}}')], ANSWERED_ONCE, ANSWERED_ONCE),
    "junk-behind": Case(lambda c: [c.whole() + b"of-our-account"], ANSWERED_ONCE, ANSWERED_ONCE),
    "byte-by-byte": Case(lambda c: [bytes([byte]) for byte in c.whole()], ANSWERED, ANSWERED),
    "closes-without-saying-so": Case(lambda c: [*c.honest(), "close"], ANSWERED_ONCE, ANSWERED_ONCE),
    "answers-a-large-request-early": Case(lambda c: c.honest(), ANSWERED, ANSWERED, early=True, request_bytes=8 << 20),
}  # fmt: skip

CASES = {**STAGES, **{f"endless-{name}": case for name, case in ENDLESS.items()}, **FRAMING}
GROUPS = {name: group for group, cases in (("stalls, cuts and resets", STAGES), ("bad framing", FRAMING)) for name in cases}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(shared_doors):
    async with FullBacklog() as full:
        places = {"full": full.port, "nobody": 1}
        async with staged(shared_doors, CASES, places) as stage:
            yield stage


@pytest.mark.parametrize(("name", "dialect", "streaming"), ways(CASES))
async def test_an_answer_that_breaks_is_told_charged_and_left_behind(doors, tally, stage, name, dialect, streaming):
    with tally.tried(f"providers: {GROUPS.get(name, 'endless heads and trailers')}", at="broker"):
        told = await stage.tries(name, dialect, streaming=streaming)
        if told.status == 200:
            assert b"hi" in told.body or stage.end(name, streaming=streaming).code
    assert doors.broker.child.returncode is None
