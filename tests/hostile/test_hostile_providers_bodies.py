"""Providers whose answers are well-formed HTTP and something else within: bodies, streams, encodings, and lies about usage."""

import zlib
from dataclasses import replace

import pytest
import pytest_asyncio
from support.fake_provider import LAST_CHUNK, chunk
from support.hostile_stage import STORED, Case, End, also_stored, staged, ways

ANSWERED = End(200, "", (5, 2))
UNTOLD = End(200, "", "the hold")  # nobody said what it cost
REFUSED = End(502, "provider_unavailable", "the hold")
REFUSED_LATER = End(200, "provider_unavailable", "the hold")
REFUSED_AND_PAID = End(200, "provider_unavailable", (5, 2))
DROPPED = End(502, "provider_unavailable", "the hold", drops=True)
CHAT, MESSAGES = ("chat",), ("messages",)
NAMED = ("messages", "responses")
OTHERS = (*CHAT, *MESSAGES)  # what Responses do otherwise: test_hostile_providers_responses.py
BOM = b"\xef\xbb\xbf"
GZIPPED = zlib.compress(bytes(64 << 20), wbits=31)  # 64 KB that unfold to 64 MiB


def plain(change, end, **more):
    return Case(lambda call: [call.says(change(call))], end, None, **more)


def events(change, end, **more):
    """change: of the honest events, to those that are streamed."""
    return Case(lambda call: call.streams(*change(call)), None, end, **more)


def encoded(coding):
    def act(call):
        return [call.head(200, headers=[(b"content-encoding", coding)], length=len(GZIPPED)) + GZIPPED, "hang"]

    return Case(act, DROPPED, DROPPED, crossed=True)


CODINGS = {
    **{f"coding-{coding.decode()}": encoded(coding) for coding in (b"gzip", b"deflate", b"br", b"zstd", b"x-gzip", b"GZIP")},
    "coding-twice": encoded(b"gzip, gzip"),
    "coding-unknown": encoded(b"x"),
    "coding-empty": encoded(b"identity, gzip"),
    "gzip-unsaid": plain(lambda _: GZIPPED, REFUSED),
    "identity": Case(lambda c: [c.says(c.body(), headers=[(b"content-encoding", b"identity")])], ANSWERED, None),
}

KINDS = {
    "json-as-text": Case(lambda c: [c.says(c.body(), kind=b"text/plain")], ANSWERED, None),
    "json-without-type": Case(lambda c: [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(c.body()) + c.body()], ANSWERED, None),
    "json-for-a-stream": Case(lambda c: [c.says(c.body())], None, REFUSED),
    "text-for-a-stream": Case(lambda c: [c.says(b"".join(c.events()), kind=b"text/plain")], None, REFUSED),
    "no-type-for-a-stream": Case(lambda _: [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"], None, REFUSED),
    "stream-for-plain": Case(lambda c: c.streams(*c.events()), REFUSED, None),
    "html": Case(lambda c: [c.says(b"<html><body>Welcome to nginx</body></html>", kind=b"text/html")], REFUSED, REFUSED),
    "stream-with-charset": Case(
        lambda c: [c.head(kind=b"Text/Event-Stream; charset=utf-8"), *map(chunk, c.events()), LAST_CHUNK], None, ANSWERED
    ),
    "empty": plain(lambda _: b"", REFUSED),
    "null": plain(lambda _: b"null", REFUSED),
    "list": plain(lambda c: b"[%b]" % c.body(), REFUSED),
    "number": plain(lambda _: b"1", REFUSED),
    "two-objects": plain(lambda c: c.body() * 2, REFUSED),
    "truncated": plain(lambda c: c.body()[:-1], REFUSED),
    "bom": plain(lambda c: BOM + c.body(), REFUSED),
    "utf-16": plain(lambda c: c.body().decode().encode("utf-16"), REFUSED),
    "utf-16-declared": Case(
        lambda c: [c.says(c.body().decode().encode("utf-16-le"), kind=b"application/json; charset=utf-16")], REFUSED, None
    ),
    "latin-1": plain(lambda c: c.body().replace(b"hi", b"h\xef"), REFUSED),
    "nested": plain(lambda c: b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"," + c.body()[1:], REFUSED),
    "unfolding": plain(lambda c: b'{"a":[' + b"[]," * (4 << 20) + b"[]]," + c.body()[1:], ANSWERED),
    "unfolding-members": plain(lambda c: b"{" + b"".join(b'"%d":1,' % n for n in range(1 << 20)) + c.body()[1:], ANSWERED),
    "no-content": Case(lambda _: [b"HTTP/1.1 204 X\r\n\r\n"], End(502, "provider_unavailable", None), None),
}


def recut(join):
    """An honest stream whose bytes are cut and written another way."""
    return Case(lambda call: [call.head(), *join(b"".join(call.events())), LAST_CHUNK], None, ANSWERED)


STREAMS = {
    "byte-by-byte": recut(lambda all_: [chunk(bytes([byte])) for byte in all_]),
    "one-piece": recut(lambda all_: [chunk(all_)]),
    "crlf": recut(lambda all_: [chunk(all_.replace(b"\n", b"\r\n"))]),
    "crlf-byte-by-byte": recut(lambda all_: [chunk(bytes([byte])) for byte in all_.replace(b"\n", b"\r\n")]),
    "cr": recut(lambda all_: [chunk(all_.replace(b"\n", b"\r"))]),
    "cr-byte-by-byte": recut(lambda all_: [chunk(bytes([byte])) for byte in all_.replace(b"\n", b"\r")]),
    "keep-alives-between": events(lambda c: [b": ping\n\n", *(e + b": ping\n\n" for e in c.events())], ANSWERED),
    "bom-before": events(lambda c: [BOM, *c.events()], ANSWERED),
    "no-space-after-colon": events(lambda c: [e.replace(b"data: ", b"data:") for e in c.events()], ANSWERED),
    "fields-unknown": events(lambda c: [b"id: 1\nretry: 1\nx: y\n" + e for e in c.events()], ANSWERED),
    "last-event-without-end": events(lambda c: [*c.events()[:-1], c.events()[-1][:-1]], ANSWERED),
    "keep-alives-only": events(lambda _: [b": ping\n\n"] * 50, UNTOLD),
    "nothing": events(lambda _: [], UNTOLD),
    "done-missing": events(lambda c: c.events()[:-1], ANSWERED, dialects=CHAT),
    "done-alone": events(lambda c: c.events()[-1:], UNTOLD, dialects=OTHERS),
    "stop-missing": events(lambda c: c.events()[:-1], UNTOLD, dialects=MESSAGES),
    "names-missing": events(lambda c: c.events(named=False), ANSWERED, dialects=NAMED),
    "names-wrong": events(lambda c: [b"event: ping\n" + e for e in c.events(named=False)], ANSWERED, dialects=NAMED),
    "data-after-the-end": events(lambda c: [*c.events(), *c.events()[:1]], ANSWERED),
    "error-event": events(lambda c: [c.events()[0], b'event: error\ndata: {"type":"error","error":{"message":"overloaded"}}\n\n'], UNTOLD),
    "error-event-first": events(lambda _: [b'event: error\ndata: {"type":"error","error":{"message":"overloaded"}}\n\n'], UNTOLD),
    "usage-before-content": events(lambda c: [c.events()[1], c.events()[0], c.events()[2]], ANSWERED, dialects=CHAT),
    "usage-twice": events(lambda c: [*c.events()[:-1], *c.events()[-2:]], ANSWERED),
    "usage-twice-less-later": events(lambda c: [*c.events()[:-1], *c.events(c.usage("1", "1"))[-2:]], ANSWERED, dialects=OTHERS),
    "usage-twice-more-later": events(lambda c: [*c.events()[:-1], *c.events(c.usage("6", "9"))[-2:]], End(200, "", (6, 9)), dialects=CHAT),
    "no-json": events(lambda c: [c.events()[0], b'data: {"usage":\n\n', *c.events()[1:]], REFUSED_LATER, dialects=OTHERS),
    "no-object": events(lambda c: [c.events()[0], b'data: ["usage"]\n\n', *c.events()[1:]], REFUSED_LATER, dialects=OTHERS),
    "half-an-event-at-the-end": events(lambda c: [*c.events(), b'data: {"usage"'], REFUSED_AND_PAID),
    "line-without-end": Case(lambda c: [c.head(), chunk(c.events()[0]), 0.2, *[chunk(b"x" * 65536)] * 40, "hang"], None, End(200, "provider_unavailable", "the hold", drops=True)),
    "event-that-unfolds": events(lambda c: [b'data: {"usage":null,"error":[' + b"[]," * 190_000 + b"[]]}\n\n", *c.events()], ANSWERED),
    "event-too-large": Case(lambda c: [c.head(), chunk(c.events()[0]), 0.2, *[chunk(b"data: " + b"x" * 65530 + b"\n")] * 40, "hang"], None, End(200, "provider_unavailable", "the hold", drops=True)),
}  # fmt: skip

FIGURES = {
    "negative": ("-5", "-2"),
    "half-negative": ("5", "-1000000"),
    "2-31": (str(2**31), "2"),
    "2-63": ("5", str(2**63)),
    "2-64": (str(2**64), "2"),
    "string": ('"5"', "2"),
    "true": ("true", "2"),
    "float": ("5.0", "2"),
    "exponent": ("5e0", "2"),
    "minus-zero": ("-0.0", "2"),
    "list": ("[5]", "2"),
    "object": ("5", '{"n":2}'),
    "null-and-figure": ("null", "2"),
    "nulls": ("null", "null"),
}


def lie(report, plain_end, streamed_end):
    return Case(lambda c: c.streams(*c.events(report(c))) if c.streaming else [c.says(c.body(report(c)))], plain_end, streamed_end)


LIES = {
    **{f"usage-{name}": lie(lambda c, f=figures: c.usage(*f), UNTOLD, UNTOLD) for name, figures in FIGURES.items()},
    "usage-zero": lie(lambda c: c.usage("0", "0"), End(200, "", (0, 0)), End(200, "", (0, 0))),
    "usage-over-the-hold": lie(lambda c: c.usage("5", "1000000"), End(200, "", (5, 1_000_000)), End(200, "", (5, 1_000_000))),
    "usage-null": lie(lambda _: b"null", UNTOLD, UNTOLD),
    "usage-none": lie(lambda _: b"", UNTOLD, UNTOLD),
    "usage-empty": lie(lambda _: b"{}", UNTOLD, UNTOLD),
    "usage-list": lie(lambda c: b"[%b]" % c.usage(), UNTOLD, UNTOLD),
    "usage-word": lie(lambda _: b'"none"', UNTOLD, UNTOLD),
    "usage-nested": lie(lambda c: b'{"usage":%b}' % c.usage(), UNTOLD, UNTOLD),
    "usage-unfolds": lie(lambda _: b"[" + b"[]," * 100_000 + b"[]]", UNTOLD, UNTOLD),
    "usage-figure-twice": lie(lambda c: c.usage("0", "0")[:-1] + b"," + c.usage()[1:], ANSWERED, ANSWERED),
    "usage-1e400": Case(lambda c: [c.says(c.body(c.usage("1e400")))], REFUSED, None),
    "usage-twice-in-one-body": plain(lambda c: c.body(c.usage("0", "0"))[:-1] + b',"usage":%b}' % c.usage(), ANSWERED),
    "usage-in-a-key-that-is-escaped": plain(lambda c: c.body().replace(b'"usage"', b'"\\u0075sage"'), ANSWERED),
    "usage-1e400-streamed": events(lambda c: c.events(c.usage("1e400")), REFUSED_LATER, dialects=OTHERS),
}

UNFOLDING = {name: case for name, case in KINDS.items() if name.startswith("unfolding")}
# Where ids are looked for, what would unfold into much more memory than it has bytes is refused, and is paid
SEALED = {
    f"{name}-stored": replace(case, plain=End(502, "provider_unavailable", (5, 2)), dialects=(STORED,)) for name, case in UNFOLDING.items()
}
CASES = {**also_stored({**CODINGS, **KINDS, **{f"stream-{name}": case for name, case in STREAMS.items()}, **LIES}), **UNFOLDING, **SEALED}
GROUPS = {
    **dict.fromkeys(CODINGS, "compressed answers"),
    **dict.fromkeys((*KINDS, *SEALED), "bodies of a wrong kind"),
    **dict.fromkeys(LIES, "lies about usage"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(shared_doors):
    async with staged(shared_doors, CASES) as stage:
        yield stage


@pytest.mark.parametrize(("name", "dialect", "streaming"), ways(CASES))
async def test_an_answer_that_is_not_what_it_should_be_is_told_and_charged(doors, tally, stage, name, dialect, streaming):
    with tally.tried(f"providers: {GROUPS.get(name, 'malformed streams')}", at="broker"):
        await stage.tries(name, dialect, streaming=streaming)
    assert doors.broker.child.returncode is None
