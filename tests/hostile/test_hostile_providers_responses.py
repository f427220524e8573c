"""Providers whose Responses are something else: events that lie, ends that do not come, ids that are none; whatever is kept, and whatever not.

What all dialects have in common is in test_hostile_providers_bodies.py.
"""

import json
from dataclasses import replace

import pytest
import pytest_asyncio
from support.hostile_provider import ITEM_ID, RESPONSE_ID, event, response, response_events
from support.hostile_stage import STORED, Case, End, also_stored, staged, ways

ANSWERED = End(200, "", (5, 2))
UNTOLD = End(200, "", "the hold")  # nobody said what it cost
REFUSED = End(502, "provider_unavailable", "the hold")
REFUSED_LATER = End(200, "provider_unavailable", "the hold")
RESPONSES = ("responses",)
USAGE = b'{"input_tokens":5,"output_tokens":2}'
END = b"response.completed"


def plain(change, end):
    return Case(lambda call: [call.says(change(call.body()))], end, None, RESPONSES)


def events(change, end):
    """change: of the honest events, to those that are streamed."""
    return Case(lambda call: call.streams(*change(call.events())), None, end, RESPONSES)


def last(**members):
    """The honest events, whose last one says something else. None = it does not say it at all."""

    def change(told):
        value = {**json.loads(response_events(USAGE, b'"hi"')[-1]), **members}
        written = {name: member for name, member in value.items() if member is not None}
        return [*told[:-1], b"data: %b\n\n" % json.dumps(written).encode()]

    return change


def last_response(**members):
    return last(response={**json.loads(response(USAGE, b"completed")), **members})


def ended(kind, usage=USAGE):
    return lambda told: [*told[:-1], event(b'{"type":"%b","sequence_number":4,"response":%b}' % (kind, response(usage, b"failed")))]


def both(old, new):
    """The same change in a plain answer and in every event."""
    return Case(
        lambda call: call.streams(*(e.replace(old, new) for e in call.events())) if call.streaming else [call.says(call.body().replace(old, new))],
        ANSWERED,
        ANSWERED,
        RESPONSES,
    )  # fmt: skip


ENDS = {
    "completed-missing": events(lambda told: told[:-1], UNTOLD),
    "completed-alone": events(lambda told: told[-1:], ANSWERED),
    "completed-first": events(lambda told: [told[-1], *told[:-1]], ANSWERED),
    "completed-twice": events(lambda told: [*told, told[-1]], ANSWERED),
    "completed-twice-less-later": events(lambda told: [*told, told[-1].replace(b'"output_tokens":2', b'"output_tokens":1')], ANSWERED),
    "completed-twice-more-later": events(lambda told: [*told, told[-1].replace(b'"output_tokens":2', b'"output_tokens":9')], End(200, "", (5, 9))),
    "completed-twice-without-usage-later": events(lambda told: [*told, told[-1].replace(USAGE, b"null")], ANSWERED),
    "completed-in-a-name-alone": events(lambda told: [*told[:-1], b"event: response.completed\n" + told[2].partition(b"\n")[2]], UNTOLD),
    "completed-under-another-name": events(lambda told: [*told[:-1], b"event: ping\n" + told[-1].partition(b"\n")[2]], ANSWERED),
    "completed-escaped": events(lambda told: [*told[:-1], told[-1].replace(b'"type":"response.completed"', b'"type":"response\\u002ecompleted"')], ANSWERED),
    "completed-as-text": events(lambda told: [*told[:-1], told[2].replace(b'"hi"', json.dumps(f'"{END.decode()}","usage":{USAGE.decode()}').encode())], UNTOLD),
    "completed-without-type": events(last(type=None), UNTOLD),
    "completed-in-upper-case": events(lambda told: [*told[:-1], told[-1].replace(END, END.upper())], UNTOLD),
    "failed": events(ended(b"response.failed"), ANSWERED),
    "failed-without-usage": events(ended(b"response.failed", b"null"), UNTOLD),
    "incomplete": events(ended(b"response.incomplete"), ANSWERED),
    "incomplete-without-usage": events(ended(b"response.incomplete", b"null"), UNTOLD),
    "cancelled": events(ended(b"response.cancelled"), UNTOLD),
    "an-error": events(lambda told: [told[0], event(b'{"type":"error","code":"server_error","message":"no","param":null,"sequence_number":1}')], UNTOLD),
    "an-error-behind-the-end": events(lambda told: [*told, event(b'{"type":"error","code":"server_error","message":"no","sequence_number":5}')], ANSWERED),
    "as-chats-end": events(lambda told: [*told, b"data: [DONE]\n\n"], ANSWERED),
    "as-chats-end-alone": events(lambda told: [*told[:-1], b"data: [DONE]\n\n"], UNTOLD),
    "half-an-end": events(lambda told: [*told[:-1], b'data: {"type":"response.completed"\n\n'], REFUSED_LATER),
    "an-end-that-is-a-list": events(lambda told: [*told[:-1], b'data: ["response.completed"]\n\n'], REFUSED_LATER),
    "an-end-with-latin-1": events(lambda told: [*told[:-1], told[-1].replace(b'"hi"', b'"h\xef"')], ANSWERED),
}  # fmt: skip
REPORTS = {
    "response-null": events(last(response=None), UNTOLD),
    "response-list": events(last(response=[{"usage": {"input_tokens": 5, "output_tokens": 2}}]), UNTOLD),
    "response-text": events(last(response="completed"), UNTOLD),
    "response-number": events(last(response=1), UNTOLD),
    "usage-beside-the-response": events(last(response={}, usage={"input_tokens": 5, "output_tokens": 2}), UNTOLD),
    "usage-as-chats-have-it": events(last_response(usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}), UNTOLD),
    "usage-of-one-figure": events(last_response(usage={"output_tokens": 2}), UNTOLD),
    "usage-1e400-in-the-end": events(lambda told: [*told[:-1], told[-1].replace(b'"input_tokens":5', b'"input_tokens":1e400')], UNTOLD),
    "usage-with-a-larger-total": events(last_response(usage={"input_tokens": 5, "output_tokens": 2, "total_tokens": 100}), End(200, "", (5, 95))),
    "usage-with-a-smaller-total": events(last_response(usage={"input_tokens": 5, "output_tokens": 2, "total_tokens": 0}), ANSWERED),
    "usage-with-a-false-total": events(last_response(usage={"input_tokens": 5, "output_tokens": 2, "total_tokens": -7}), UNTOLD),
    "usage-with-more-cached-than-read": events(last_response(usage={"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 900}}), ANSWERED),
    "usage-with-cached-below-nothing": events(last_response(usage={"input_tokens": 5, "output_tokens": 2, "input_tokens_details": {"cached_tokens": -900}}), ANSWERED),
    "usage-of-64-KiB": events(last_response(usage={"input_tokens": 5, "output_tokens": 2, "x": "x" * (64 << 10)}), UNTOLD),
    "usage-too-early": events(lambda told: [told[0].replace(b'"usage":null', b'"usage":%b' % USAGE), *told[1:-1]], UNTOLD),
    "usage-early-and-more": events(lambda told: [told[0].replace(b'"usage":null', b'"usage":{"input_tokens":500,"output_tokens":900}'), *told[1:]], ANSWERED),
    "queued-for-ever": plain(lambda _: response(b"null", b"queued"), UNTOLD),
    "failed-in-words": plain(lambda _: response(USAGE, b"failed"), ANSWERED),
    "an-error-of-200": plain(lambda _: b'{"error":{"message":"no","type":"server_error"}}', UNTOLD),
    "a-chat": plain(lambda _: b'{"object":"chat.completion","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}', UNTOLD),
}  # fmt: skip
ODDITIES = {
    "ids-missing": both(b'"id":"%b",' % RESPONSE_ID, b""),
    "ids-null": both(b'"%b"' % RESPONSE_ID, b"null"),
    "ids-empty": both(RESPONSE_ID, b""),
    "ids-of-items-missing": both(b'"item_id":"%b",' % ITEM_ID, b""),
    "ids-of-items-null": both(b'"%b"' % ITEM_ID, b"null"),
    "ids-twice": both(b'"id":"%b",' % RESPONSE_ID, b'"id":"resp_hostile00","id":"%b",' % RESPONSE_ID),
    "output-null": both(b'"output":[]', b'"output":null'),
    "output-number": both(b'"output":[]', b'"output":7'),
    "numbers-missing": both(b'"sequence_number"', b'"x"'),
    "numbers-negative": both(b'"sequence_number":', b'"sequence_number":-'),
    "numbers-huge": both(b'"sequence_number":', b'"sequence_number":99999999999999999999'),
    "numbers-in-words": both(b'"output_index":0', b'"output_index":"0"'),
    "indexes-huge": both(b'"output_index":0', b'"output_index":9223372036854775807'),
    "delta-no-text": both(b'"delta":"hi"', b'"delta":{"text":"hi"}'),
    "kinds-unknown": both(b'"type":"response.output_text.delta"', b'"type":"response.telepathy.delta"'),
    "members-unknown": both(b'"object":"response"', b'"object":"response","of_tomorrow":{"a":[1]}'),
}


PAID = End(502, "provider_unavailable", (5, 2))  # it is no answer for anybody, and was billed
SOON_OR_LATE = End(200, "provider_unavailable", None)  # what it cost may have come in the same piece


def sealed(old, new, plain_end=PAID, streamed_end=SOON_OR_LATE):
    return replace(both(old, new), plain=plain_end, streamed=streamed_end, dialects=(STORED,))


def half_a_character(told):
    return [e.replace(b'"delta":"hi"', b'"delta":"hi\\ud83d"') for e in told]


def rewritten(change, end=ANSWERED):
    return replace(events(change, end), dialects=(STORED,))


# Where ids are sealed: what is none is not passed on as one, and no way to write one hides it.
SEALED = {
    "id-with-a-path": sealed(RESPONSE_ID, b"resp_hostile/../../v1/files"),
    "id-of-dots": sealed(RESPONSE_ID, b".."),
    "id-with-a-space": sealed(RESPONSE_ID, b"resp hostile"),
    "id-with-a-line": sealed(RESPONSE_ID, b"resp_hostile\\r\\nX: y"),
    "id-with-a-nul": sealed(RESPONSE_ID, b"resp_hostile\\u0000"),
    "id-beyond-ascii": sealed(RESPONSE_ID, "resp_höstile".encode()),
    "id-of-600-letters": sealed(RESPONSE_ID, b"resp_hostile" + b"x" * 600),
    "id-of-64-KiB": sealed(RESPONSE_ID, b"resp_hostile" + b"x" * (64 << 10)),
    "id-that-is-a-number": sealed(b'"%b"' % RESPONSE_ID, b"17"),
    "id-that-is-true": sealed(b'"%b"' % RESPONSE_ID, b"true"),
    "id-that-is-an-object": sealed(b'"%b"' % RESPONSE_ID, b'{"id":"%b"}' % RESPONSE_ID),
    "id-in-a-list": sealed(b'"%b"' % RESPONSE_ID, b'["%b"]' % RESPONSE_ID, ANSWERED, ANSWERED),
    "id-in-lists": sealed(b'"%b"' % RESPONSE_ID, b"[" * 100_000 + b'"%b"' % RESPONSE_ID + b"]" * 100_000, REFUSED, SOON_OR_LATE),
    "id-in-another-spelling": sealed(b'"id":', b'"\\u0069d":', ANSWERED, ANSWERED),
    "id-escaped": sealed(RESPONSE_ID, b"\\u0072esp_hostile01", ANSWERED, ANSWERED),
    "id-behind-spaces": sealed(b'"id":', b'"id" : \t ', ANSWERED, ANSWERED),
    "id-of-500-letters": sealed(RESPONSE_ID, RESPONSE_ID + b"x" * 486, ANSWERED, ANSWERED),
    "id-without-a-prefix": sealed(RESPONSE_ID, b"0123", ANSWERED, ANSWERED),
    "id-that-looks-sealed": sealed(RESPONSE_ID, b"resp_" + b"A" * 300, ANSWERED, ANSWERED),
    "latin-1": sealed(b"hi", b"h\xef", REFUSED, ANSWERED),
    "lines-of-data": rewritten(lambda told: [e.replace(b',"', b',\ndata: "') for e in told]),
    "an-id-in-another-field": rewritten(lambda told: [b"id: %b\n" % RESPONSE_ID + e for e in told]),
    "crlf": rewritten(lambda told: [e.replace(b"\n", b"\r\n") for e in told]),
    "no-json": rewritten(lambda told: [told[0], b'data: {"item_id":\n\n', *told[1:]], SOON_OR_LATE),
    "no-object": rewritten(lambda told: [told[0], b'data: ["%b"]\n\n' % RESPONSE_ID, *told[1:]], SOON_OR_LATE),
    "a-text": rewritten(lambda told: [told[0], b'data: "%b"\n\n' % RESPONSE_ID, *told[1:]], SOON_OR_LATE),
    "half-an-event": rewritten(lambda told: [*told[:-1], told[-1][:-2]]),
    "two-responses-in-one-stream": rewritten(lambda told: [told[0].replace(RESPONSE_ID, b"resp_hostile07"), *told]),
}  # fmt: skip
HALF = {
    "half-a-character": events(half_a_character, ANSWERED),
    "sealed-half-a-character": rewritten(half_a_character, SOON_OR_LATE),  # what is written anew has to be text
}
CASES = {**also_stored({**ENDS, **REPORTS, **ODDITIES}), **{f"sealed-{name}": case for name, case in SEALED.items()}, **HALF}
GROUPS = {
    **dict.fromkeys(HALF, "ids to be sealed"),
    **dict.fromkeys(ENDS, "ends of responses"),
    **dict.fromkeys(REPORTS, "reports of responses"),
    **dict.fromkeys(ODDITIES, "odd responses"),
    **{f"sealed-{name}": "ids to be sealed" for name in SEALED},
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(shared_doors):
    async with staged(shared_doors, CASES) as stage:
        yield stage


@pytest.mark.parametrize(("name", "dialect", "streaming"), ways(CASES))
async def test_a_response_that_is_not_what_it_should_be_is_told_and_charged(doors, tally, stage, name, dialect, streaming):
    with tally.tried(f"providers: {GROUPS[name]}", at="broker"):
        await stage.tries(name, dialect, streaming=streaming)
    assert doors.broker.child.returncode is None
