"""Providers that are asked for what they keep, by its id, and answer with something else: lies, ids of others, our key, or nothing at all.

Each response is made first, as an honest provider makes it; then it is fetched, streamed, listed, cancelled or deleted.
"""

import pytest
import pytest_asyncio
from support.fake_provider import LAST_CHUNK, chunk
from support.hostile_provider import ITEM_ID, RESPONSE_ID, event, kept_id
from support.hostile_run import KEY, growth, pss
from support.hostile_stage import BY_ID, CANCELLED, DELETED, LISTED, RETRIEVED, Case, End, staged, ways

FREE = End(200, "", (0, 0))
REFUSED = End(502, "provider_unavailable", "the hold")
DROPPED = End(502, "provider_unavailable", "the hold", drops=True)
UNAVAILABLE = End(502, "provider_unavailable", "no tokens")
UNJUDGED = End(502, "provider_unavailable", None)
LATE = End(504, "provider_timeout", "the hold", drops=True)
NO_ANSWER = End(502, "provider_unavailable", (0, 0))  # it was read, and is nothing that could go on
LATER = End(200, "provider_unavailable", None)
EACH = tuple(BY_ID)
KEPT_AS = {RETRIEVED: "GET", DELETED: "DELETE", CANCELLED: "cancel", LISTED: "input_items"}
SOME = (RETRIEVED, DELETED)  # of which one is an object with much in it, the other an id and nothing else
OTHERS_ID = b"resp_hostile-of-another-agent"
MIB = 1 << 20
ANSWER_BYTES = 32 * MIB  # of one answer that is no stream
READ_BYTES = 60 * MIB  # what the most values that are read in an answer become where ids are looked for, which is let go at once


def kept(act):
    """The response is made as it should be; then this is done."""
    return lambda call: act(call) if call.kept else [call.says(call.body().replace(RESPONSE_ID, kept_id(call.model)))]


def says(change, end, dialects=(RETRIEVED, DELETED, LISTED), **more):
    return Case(kept(lambda call: [call.says(change(call), **more)]), end, None, dialects)


def each(act, end, streamed=None, dialects=EACH, **more):
    return Case(kept(act), end, streamed or end, dialects, **more)


def events(change, end=LATER):
    return Case(kept(lambda call: call.streams(*change(call))), None, end, (RETRIEVED,))


def named(id_, end, dialects=SOME):
    """In place of the response's own id."""
    return says(lambda call: call.body().replace(b'"%b"' % kept_id(call.model), id_), end, dialects)


def listed(data, end, more=b""):
    return says(lambda _: b'{"object":"list","data":[%b]%b}' % (data, more), end, (LISTED,))


BODIES = {
    "honest": Case(kept(lambda call: call.honest()), FREE, FREE, EACH),
    "nothing": says(lambda _: b"", REFUSED),
    "half": says(lambda call: call.body()[:-1], REFUSED),
    "two": says(lambda call: call.body() * 2, REFUSED),
    "null": says(lambda _: b"null", REFUSED),
    "a-text": says(lambda call: b'"%b"' % kept_id(call.model), REFUSED),
    "an-array": says(lambda call: b"[%b]" % call.body(), REFUSED),
    "a-word": says(lambda _: b"deleted", REFUSED),
    "empty-object": says(lambda _: b"{}", FREE),
    "latin-1": says(lambda call: call.body().replace(b"}", b',"x":"\xef"}', 1), REFUSED),
    "utf-16": says(lambda call: call.body().decode().encode("utf-16"), REFUSED),
    "nested": says(lambda call: b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"," + call.body()[1:], REFUSED),
    "nul": says(lambda call: b"\0" + call.body(), REFUSED),
    "behind-spaces": says(lambda call: b" \n\t" + call.body() + b"\r\n", FREE),
    "the-other-kind": says(lambda call: b'{"object":"chat.completion","choices":[]}', FREE),
}  # fmt: skip
IDS = {
    "missing": says(lambda call: call.body().replace(b'"id":"%b",' % kept_id(call.model), b""), FREE, SOME),
    "null": named(b"null", FREE),
    "empty": named(b'""', FREE),
    "a-number": named(b"17", NO_ANSWER),
    "true": named(b"true", NO_ANSWER),
    "an-object": named(b'{"id":"%b"}' % OTHERS_ID, NO_ANSWER),
    "an-array": named(b'["%b",null]' % OTHERS_ID, FREE),
    "arrays": named(b"[" * 50 + b'"%b"' % OTHERS_ID + b"]" * 50, NO_ANSWER),
    "a-slash": named(b'"%b/cancel"' % OTHERS_ID, NO_ANSWER),
    "dots": named(b'".."', NO_ANSWER),
    "a-path": named(b'"../files/%b"' % OTHERS_ID, NO_ANSWER),
    "a-space": named(b'"resp hostile"', NO_ANSWER),
    "a-line": named(b'"%b\\r\\nX: y"' % OTHERS_ID, NO_ANSWER),
    "a-nul": named(b'"%b\\u0000"' % OTHERS_ID, NO_ANSWER),
    "half-a-character": named(b'"%b\\ud83d"' % OTHERS_ID, REFUSED),
    "beyond-ascii": named('"resp_höstile"'.encode(), NO_ANSWER),
    "of-600-letters": named(b'"%b"' % OTHERS_ID.ljust(600, b"x"), NO_ANSWER),
    "of-1-MiB": named(b'"%b"' % OTHERS_ID.ljust(MIB, b"x"), NO_ANSWER),
    "of-another": named(b'"%b"' % OTHERS_ID, FREE),
    "escaped": named(b'"\\u0072esp_hostile-of-another-agent"', FREE),
    "in-another-spelling": says(lambda call: call.body().replace(b'"id":', b'"\\u0069d" :'), FREE),
    "twice": says(lambda call: b'{"id":"%b",%b' % (OTHERS_ID, call.body()[1:]), FREE),
    "before-it": says(lambda call: b'{"previous_response_id":"%b",%b' % (OTHERS_ID, call.body()[1:]), FREE),
    "of-items-of-others": says(lambda call: b'{"output":[{"id":"%b"}],"data":[{"id":"%b"}]}' % (ITEM_ID, ITEM_ID), FREE),
    "of-a-conversation": says(lambda call: b'{"conversation":{"id":"%b"},"x":1}' % OTHERS_ID, FREE),
}  # fmt: skip
LISTS = {
    "null": listed(b"", FREE, b',"data":null'),
    "a-text": listed(b"", FREE, b',"data":"x"'),
    "an-object": listed(b"", FREE, b',"data":{"id":"%b"}' % ITEM_ID),
    "of-anything": listed(b'1,null,"x",true,{}', FREE),
    "of-lists": listed(b'[{"id":"%b"}]' % ITEM_ID, NO_ANSWER),
    "ends-of-others": listed(b"", FREE, b',"first_id":"%b","last_id":"%b"' % (ITEM_ID, OTHERS_ID)),
    "ends-that-are-numbers": listed(b"", NO_ANSWER, b',"first_id":1,"last_id":2'),
    "item-without-id": listed(b'{"type":"message","role":"user","content":[]}', FREE),
    "items-with-ids-that-are-none": listed(b'{"id":"%b"},{"id":{"id":"%b"}}' % (ITEM_ID, ITEM_ID), NO_ANSWER),
    "a-million-objects": listed(b"{}," * 999_999 + b"{}", NO_ANSWER),
    "a-million-items": listed(b'{"id":"%b"},' % ITEM_ID * 999_999 + b"{}", NO_ANSWER),
    "a-million-ids": listed(b"", NO_ANSWER, b',"first_id":[%b"%b"]' % (b'"%b",' % ITEM_ID * 999_999, ITEM_ID)),
    "a-million-different-ids": listed(b"", NO_ANSWER, b',"first_id":[%b""]' % b"".join(b'"msg_hostile%d",' % n for n in range(1 << 20))),
    "two-million-arrays": listed(b"[]," * 2_000_000 + b"[]", NO_ANSWER),
    "fifty-thousand-items": listed(b"".join(b'{"id":"msg_hostile%d"},' % n for n in range(25_000)) + b"{}", FREE),
}  # fmt: skip


def refuses(act, end):
    return each(act, end, dialects=SOME)


def repeating(status):
    """The id that was asked by, and no other, as real providers say it."""
    return lambda call: [call.says(b'{"error":{"message":"Response with id \'%b\' not found."}}' % kept_id(call.model), status)]


STATUSES = {
    **{f"{status}-with-the-id": refuses(repeating(status), End(status, "", "no tokens")) for status in (400, 404, 405, 409, 410, 422)},
    "401": refuses(repeating(401), End(502, "provider_auth", "no tokens")),
    "429": refuses(repeating(429), End(429, "provider_rate_limited", "no tokens")),
    **{f"{status}": refuses(repeating(status), UNAVAILABLE) for status in (500, 503, 599)},
    **{f"{status}": refuses(repeating(status), UNJUDGED) for status in (201, 202, 206)},
    "204-with-a-body": refuses(lambda call: [b"HTTP/1.1 204 X\r\ncontent-length: 2\r\n\r\n{}"], UNJUDGED),
    "204": refuses(lambda _: [b"HTTP/1.1 204 X\r\n\r\n"], UNJUDGED),
    "304": refuses(lambda _: [b"HTTP/1.1 304 X\r\n\r\n"], UNJUDGED),
    "205-with-an-answer-behind": refuses(lambda call: [b"HTTP/1.1 205 X\r\ncontent-length: 0\r\n\r\n" + call.whole()], UNJUDGED),
    **{
        f"{status}-away": refuses(lambda c, s=status: [c.says(b"{}", s, headers=[(b"location", b"/v1/responses/%b" % OTHERS_ID)])], UNJUDGED)
        for status in (301, 302, 307, 308)
    },
}  # fmt: skip
KINDS = {
    "html": each(lambda call: [call.says(call.body(), kind=b"text/html")], FREE, REFUSED),
    "no-type": each(lambda c: [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(c.body()) + c.body()], FREE, REFUSED),
    "events-for-json": Case(kept(lambda call: call.streams(*call.events())), REFUSED, None, EACH),
    "json-for-events": Case(kept(lambda call: [call.says(call.body())]), None, REFUSED, (RETRIEVED,)),
    "events-called-json": Case(kept(lambda c: [c.says(b"".join(c.events()))]), REFUSED, REFUSED, EACH),
    "json-called-events": each(lambda call: [call.says(call.body(), kind=b"text/event-stream")], FREE),
    "gzip": each(lambda c: [c.says(c.body(), headers=[(b"content-encoding", b"gzip")])], REFUSED),
}  # fmt: skip
CONFIDENCES = {
    "the-key": says(lambda call: call.body()[:-1] + b',"x":"%b"}' % KEY.encode(), REFUSED),
    "the-key-in-an-id": named(b'"resp_%b"' % KEY.encode(), REFUSED),
    "the-key-in-a-404": each(lambda c: [c.says(b'{"error":{"message":"no %b"}}' % KEY.encode(), 404)], UNAVAILABLE),
    "the-key-in-a-type": each(lambda c: [c.says(b'{"error":{"message":"no"}}', 404, KEY.encode())], End(404, "", "no tokens")),
    "the-key-in-an-event": Case(kept(lambda c: [c.head(), chunk(c.events()[0]), 0.1, chunk(event(b'{"x":"%b"}' % c.key)), LAST_CHUNK]), None, End(200, "provider_unavailable", None), (RETRIEVED,)),
}  # fmt: skip
SILENCES = {
    "no-word": each(lambda _: ["hang"], LATE, awaited=True),
    "half-a-head": each(lambda _: [b"HTTP/1.1 200 OK\r\ncontent-", "hang"], LATE, awaited=True),
    "half-an-answer": each(lambda c: [c.says(c.body())[:-1], "hang"], LATE, LATE, (DELETED, CANCELLED, LISTED), awaited=True),
    "half-a-retrieved": Case(kept(lambda c: [c.says(c.body())[:-1], "hang"]), LATE, None, (RETRIEVED,), awaited=True),
    "half-an-answer-and-gone": Case(kept(lambda c: [c.says(c.body())[:-1], "close"]), DROPPED, None, EACH),
    "half-an-answer-and-cut": Case(kept(lambda c: [c.says(c.body())[:-1], "reset"]), DROPPED, None, EACH),
    "half-an-error": each(lambda c: [c.says(b'{"error":{}}', 404)[:-1], "close"], DROPPED),
    "half-a-chunk": Case(kept(lambda c: [c.head(), chunk(c.body())[:-9], "close"]), DROPPED, None, EACH),
    "no-last-chunk": Case(kept(lambda c: [c.head(), chunk(c.body()), "close"]), DROPPED, None, EACH),
    "an-event-and-no-word": Case(kept(lambda c: [c.head(), chunk(c.events()[0]), "hang"]), None, End(200, "provider_timeout", None, drops=True), (RETRIEVED,), awaited=True),
    "an-event-and-gone": Case(kept(lambda c: [c.head(), chunk(c.events()[0]), 0.1, "close"]), None, End(200, "provider_unavailable", None, drops=True), (RETRIEVED,)),
}  # fmt: skip
STREAMS = {
    "nothing": events(lambda _: [], FREE),
    "comments-alone": events(lambda _: [b": ping\n\n"] * 3, FREE),
    "the-end-alone": events(lambda c: c.events()[-1:], FREE),
    "no-end": events(lambda c: c.events()[:-1], FREE),
    "chats-end": events(lambda c: [*c.events(), b"data: [DONE]\n\n"], FREE),
    "no-json": events(lambda c: [c.events()[0], b'data: {"item_id":\n\n', *c.events()[1:]]),
    "no-object": events(lambda c: [c.events()[0], b'data: ["%b"]\n\n' % OTHERS_ID, *c.events()[1:]]),
    "type-that-is-an-array": events(lambda c: [e.replace(b'"type":"response.', b'"type":["x"],"x":"response.') for e in c.events()], FREE),
    "ids-in-other-fields": events(lambda c: [b"id: %b\n: %b\n%b" % (OTHERS_ID, OTHERS_ID, e) for e in c.events()], FREE),
    "ids-in-comments": events(lambda c: [b": %b\n\nid: %b\n\nevent: %b\n\n" % ((OTHERS_ID,) * 3), *c.events()], FREE),
    "ids-beside-the-end": events(lambda c: [*c.events(), b"id: %b\ndata: [DONE]\n\n" % OTHERS_ID], FREE),
    "ids-of-others": events(lambda c: [e.replace(RESPONSE_ID, OTHERS_ID) for e in c.events()], FREE),
    "ids-with-a-slash": events(lambda c: [e.replace(RESPONSE_ID, b"a/b") for e in c.events()]),
    "ids-that-are-numbers": events(lambda c: [e.replace(b'"%b"' % ITEM_ID, b"5") for e in c.events()]),
    "a-million-items": events(lambda c: [b'data: {"response":{"output":[%b{}]}}\n\n' % (b"{}," * 300_000), *c.events()]),
    "an-event-of-2-MiB": events(lambda c: [b'data: {"x":"%b"}\n\n' % (b"x" * (2 * MIB)), *c.events()]),
    "cut-byte-by-byte": Case(kept(lambda c: [c.head(), *(chunk(bytes([b])) for b in b"".join(c.events())), LAST_CHUNK]), None, FREE, (RETRIEVED,)),
}  # fmt: skip
GROUPED = {
    "bodies": BODIES,
    "ids": IDS,
    "lists": LISTS,
    "statuses": STATUSES,
    "kinds": KINDS,
    "confidences": CONFIDENCES,
    "silences": SILENCES,
    "streams": STREAMS,
}
CASES = {f"{group}-{name}": case for group, cases in GROUPED.items() for name, case in cases.items()}
GROUPS = {f"{group}-{name}": f"kept responses: {group}" for group, cases in GROUPED.items() for name in cases}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(shared_doors):
    async with staged(shared_doors, CASES) as stage:
        yield stage


@pytest.mark.parametrize(("name", "dialect", "streaming"), ways(CASES))
async def test_what_is_kept_and_answered_wrongly_is_told_and_costs_no_tokens(doors, tally, stage, name, dialect, streaming):
    with tally.tried(f"providers: {GROUPS[name]}", at="broker"):
        asked = len(stage.provider.calls)
        await stage.tries(name, dialect, streaming=streaming)
        assert [call.kept for call in stage.provider.calls[asked:] if call.kept] == [KEPT_AS[dialect]], "asked twice, or for something else"
    assert doors.broker.child.returncode is None


@pytest.mark.parametrize("name", [name for name in CASES if "million" in name and name.startswith("lists")])
async def test_a_list_without_measure_costs_memory_that_is_bounded_and_let_go(doors, tally, stage, name):
    with tally.tried("providers: kept responses: floods", at="broker"):
        idle = pss(doors.broker.pid)
        async with growth(doors.broker.pid) as grown:
            await stage.tries(name, LISTED, streaming=False)
        assert grown[0] < 2 * ANSWER_BYTES + READ_BYTES
        assert pss(doors.broker.pid) < idle + ANSWER_BYTES
