"""What a request is held and charged at: by bytes, by a count where bytes are too many, and no further than a ceiling."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
from support import worlds
from support.hallway import ANSWER, PROVIDER, STREAMED, Caller, Got, World, exchange, grant, walk
from support.worlds import AGENT

from broker import counting
from broker.chat import Usage
from broker.counting import USUAL, Counting
from broker.dialects import openai_chat
from broker.errors import Forbidden, Unavailable
from broker.grant import Backend, Budget, Endpoint, Per, Unit
from broker.judges import openai as judged
from broker.pipeline import serve

KNOWN = Backend(PROVIDER, "gpt-4o-2024-08-06")
OLD = Backend(PROVIDER, "gpt-4")
UNKNOWN = Backend(replace(PROVIDER, endpoint=Endpoint("http", "10.0.0.9", 80, "/v1")), "gpt-4o")
PROSE = "The broker counts what a prompt costs, and holds it before anything is sent to a provider.\n" * 40
LONG = msgspec.json.encode({"model": "gpt", "messages": [{"role": "user", "content": PROSE}], "max_tokens": 20})
TOKENS = counting.load(USUAL)(PROSE)


def world(limit, *got, backends=(KNOWN,), more_budgets=(), **settings):
    one = World(*got)
    one.decision = grant(backends=backends, limit=limit, more_budgets=more_budgets)
    budgets = (replace(one.decision.budgets[0], **settings), *one.decision.budgets[1:])
    one.decision = replace(one.decision, budgets=budgets)
    return one


@pytest.fixture
def not_counted(monkeypatch):
    async def bound(*_):
        raise AssertionError("counted")

    monkeypatch.setattr(Counting, "bound", bound)


@pytest.mark.usefixtures("not_counted")
async def test_a_prompt_that_fits_by_its_bytes_is_not_counted():
    hallway = world(len(LONG) + 1000)
    assert (await walk(hallway, exchange(LONG))).status == 200
    assert hallway.steps.count("hold") == 1


async def test_a_prompt_that_does_not_fit_by_its_bytes_is_held_by_its_count():
    hallway = world(2000)
    assert (await walk(hallway, exchange(LONG))).status == 200
    assert hallway.steps == ["identify", "audit ready", "decide", "hold", "hold", "send"]
    assert TOKENS + 20 <= hallway.lines[0].held_tokens <= 2000 < len(LONG)
    assert await hallway.spent() == 7


async def test_what_is_never_reported_spends_the_counted_hold():
    hallway = world(2000, Got(b'{"choices":[]}'))
    await walk(hallway, exchange(LONG))
    assert await hallway.spent() == hallway.lines[0].held_tokens <= 2000
    assert hallway.lines[0].estimated


async def assert_refused(hallway):
    """By bytes, and no count helped."""
    caller = await walk(hallway, exchange(LONG))
    assert caller.status in (400, 429)
    assert "send" not in hallway.steps
    assert await hallway.spent() == 0


@pytest.mark.parametrize(
    "budgets",
    [
        (Budget("{team1}/t", Unit.TOTAL_TOKENS, 2000, Per.DAY, strict=True),),
        (Budget("{team1}/s", Unit.TOTAL_TOKENS, 10**6, Per.DAY, strict=True),),  # another quota that takes bytes alone
        (Budget("{team1}/o", Unit.OUTPUT_TOKENS, 3, Per.DAY),),  # the output is too much as well
        (Budget("{team1}/r", Unit.REQUESTS, 0, Per.DAY),),
        (Budget("{team1}/c", Unit.CONCURRENT, 0, None),),
    ],
)
async def test_a_count_that_could_not_help_is_not_made(budgets, monkeypatch):
    def windows(*_):
        raise AssertionError("counted")

    monkeypatch.setattr(counting, "bounds", windows)
    await assert_refused(world(2000, more_budgets=budgets))


async def test_shadow_quotas_decide_nothing_about_counting():
    shadow = Budget("{team1}/s", Unit.TOTAL_TOKENS, 10, Per.DAY, shadow=True, strict=True)
    hallway = world(2000, more_budgets=(shadow,))
    assert (await walk(hallway, exchange(LONG))).status == 200
    assert hallway.lines[0].would_refuse == ("exceeds_quota",)


async def test_a_prompt_that_does_not_fit_by_its_count_either_is_refused():
    await assert_refused(world(TOKENS))


async def test_where_a_backend_that_nobody_knows_may_be_asked_its_margin_counts():
    sizes = {}
    for name, backends in {"known": (KNOWN,), "old": (OLD,), "unknown": (UNKNOWN,), "either": (KNOWN, UNKNOWN)}.items():
        hallway = world(3000, backends=backends)
        assert (await walk(hallway, exchange(LONG))).status == 200
        sizes[name] = hallway.lines[0].held_tokens
    assert sizes["known"] <= sizes["old"] < sizes["unknown"] == sizes["either"]
    assert sizes["unknown"] >= counting.MARGIN * TOKENS


async def test_media_is_in_no_count():
    """A naive count of every string in the body would take the picture's bytes out twice."""
    picture = "data:image/png;base64," + "AAAA " * 2000
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": PROSE}]
    body = msgspec.json.encode({"model": "gpt", "messages": [{"role": "user", "content": parts}], "max_tokens": 20})
    hallway = world(judged.IMAGE_TOKENS + 2000)
    assert (await walk(hallway, exchange(body))).status == 200
    assert hallway.steps.count("hold") == 2
    held = hallway.lines[0].held_tokens
    assert judged.IMAGE_TOKENS + TOKENS < held <= judged.IMAGE_TOKENS + 2000
    assert held - len(picture) < judged.IMAGE_TOKENS  # where the naive one would be


async def test_callers_at_once_never_hold_more_than_the_quota_by_count_either():
    """A naive broker would read what is left once, count for everybody, and let all of them in."""
    hallway, sent = world(3800), []

    async def send(*_):
        sent.append(1)
        await asyncio.Event().wait()

    hallway.house.upstream = SimpleNamespace(send=send)
    exchanges = [exchange(LONG) for _ in range(8)]
    for number, x in enumerate(exchanges):
        x.id = f"n{number}"
    tasks = [asyncio.create_task(serve(x, hallway.house, Caller())) for x in exchanges]
    async with asyncio.timeout(5):
        while len(sent) + sum(task.done() for task in tasks) < len(tasks):
            await asyncio.sleep(0.001)
    each = exchanges[0].held_tokens
    assert len(sent) == 3800 // each > 1
    assert len(sent) * each == await hallway.spent() <= 3800 < len(tasks) * each
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_second_question_whose_answer_was_lost_is_voided():
    hallway = world(2000)
    asked = []

    async def hold(ask):
        asked.append(ask.hold_id)
        await hallway.ledger.hold(ask)
        raise Unavailable("no answer in time")

    hallway.house.ledger = SimpleNamespace(hold=hold)
    assert (await walk(hallway, exchange(LONG))).status == 503
    assert asked == ["x1", "x1"]
    assert await hallway.spent() == 0


# --- the ceiling


def events(count, word=" word"):
    said = {"id": "c", "created": 7, "model": "m", "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
    return [b"data: %b\n\n" % msgspec.json.encode(said)] * count


REPORT = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":%d}}\n\ndata: [DONE]\n\n'


async def test_a_stream_that_does_not_keep_to_its_limit_is_ended_at_the_ceiling_and_costs_its_hold():
    hallway = world(10_000, Got(*events(100), REPORT % 100, stream=True), cut_off=True)
    caller = await walk(hallway, exchange(STREAMED))
    assert caller.ended
    assert caller.body.count(b" word") == 20  # max_tokens
    assert caller.body.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason":"length"' in caller.body
    assert hallway.got.closed
    assert hallway.got.pieces  # it was not read to its end
    (line,) = hallway.lines
    assert (line.code, line.status, line.estimated, line.output_tokens) == ("cut_off", 200, True, 20)
    assert await hallway.spent() == line.held_tokens


@pytest.mark.parametrize("settings", [{}, {"cut_off": True, "shadow": True}])
async def test_without_a_cut_off_the_same_stream_passes_and_is_charged_above_its_hold(settings):
    hallway = world(10_000, Got(*events(100), REPORT % 100, stream=True), **settings)
    caller = await walk(hallway, exchange(STREAMED))
    assert caller.body.count(b" word") == 100
    assert (hallway.lines[0].code, await hallway.spent()) == ("answered", 103)


async def test_a_stream_that_keeps_to_its_limit_ends_as_it_ends():
    hallway = world(10_000, Got(*events(20), REPORT % 20, stream=True), cut_off=True)
    await walk(hallway, exchange(STREAMED))
    assert (hallway.lines[0].code, await hallway.spent()) == ("answered", 23)


async def test_an_answer_that_is_no_stream_is_not_cut():
    hallway = world(10_000, Got(ANSWER.replace(b"4", b"400")), cut_off=True)
    await walk(hallway)
    assert (hallway.lines[0].code, await hallway.spent()) == ("answered", 403)


async def test_a_clamped_stream_is_ended_at_what_the_quota_had_left():
    body = STREAMED.replace(b'"max_tokens":20', b'"max_tokens":2000')
    bound = openai_chat.read(body).demand(1, None).prompt_bound
    hallway = world(bound + 30, Got(*events(2000), REPORT % 2000, stream=True), cut_off=True)
    caller = await walk(hallway, exchange(body))
    assert caller.body.count(b" word") == 30
    assert await hallway.spent() == bound + 30


@pytest.mark.parametrize("missing", [True, False])
async def test_a_ceiling_of_an_unknown_vocabulary_has_its_margin(missing, monkeypatch):
    if missing:
        monkeypatch.setattr(counting, "PACKAGE", "no_such_package_here")
    hallway = world(10_000, Got(*events(400), REPORT % 400, stream=True), backends=(UNKNOWN,), cut_off=True)
    caller = await walk(hallway, exchange(STREAMED))
    words = 20 * counting.BYTES_PER_TOKEN // len(" word") if missing else 20 * counting.SLACK
    assert caller.body.count(b" word") == words
    assert hallway.lines[0].output_tokens == 20


# --- cheats that concern one request: what a naive meter or a naive hold would have charged is in the test


@pytest.mark.parametrize("choices", [2, 128])
async def test_a_huge_n_is_held_for_every_answer(choices):
    body = STREAMED.replace(b'"stream":true', b'"n":%d' % choices)
    naive = openai_chat.read(STREAMED).demand(1, None).wanted_output
    hallway = world(10**6, Got(b'{"choices":[]}'))
    await walk(hallway, exchange(body))
    assert hallway.lines[0].output_tokens == naive * choices > naive
    assert await hallway.spent() == hallway.lines[0].held_tokens


async def test_more_answers_than_the_quota_has_room_for_are_refused_before_anything_is_sent():
    body = STREAMED.replace(b'"stream":true', b'"n":128')
    hallway = world(128 * 16)
    assert (await walk(hallway, exchange(body))).status == 400
    assert "send" not in hallway.steps


@pytest.mark.parametrize(
    "report",
    [
        b"",
        b',"usage":null',
        b',"usage":{}',
        b',"usage":{"prompt_tokens":3}',
        b',"usage":{"prompt_tokens":0,"completion_tokens":-1}',
        b',"usage":{"prompt_tokens":"0","completion_tokens":"0"}',
        b',"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":"2"}',
    ],
)
async def test_a_report_that_is_none_costs_the_hold(report):
    body = b'{"choices":[]%b}' % report
    naive = (msgspec.json.decode(body).get("usage") or {}).get("completion_tokens", 0)
    hallway = world(10_000, Got(body))
    await walk(hallway, exchange(STREAMED.replace(b"true", b"false")))
    assert await hallway.spent() == hallway.lines[0].held_tokens
    assert hallway.lines[0].estimated
    assert hallway.lines[0].output_tokens == 20 != naive


async def test_who_hangs_up_before_the_usage_comes_pays_the_hold():
    gate = asyncio.Event()
    hallway = world(10_000, Got(*events(3), gate, REPORT % 3, stream=True))
    caller = Caller()
    task = asyncio.create_task(serve(exchange(STREAMED), hallway.house, caller))
    while caller.body.count(b" word") < 3:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    naive = 3  # the words that the caller saw; what the provider wrote after them is billed as well
    assert await hallway.spent() == hallway.lines[0].held_tokens > naive
    assert hallway.got.closed


async def test_a_name_that_only_looks_like_a_known_model_is_held_as_unknown():
    """Anybody's server may call its models anything, so a name alone proves no vocabulary."""
    naive = {"gpt-4o": USUAL}
    assert naive[UNKNOWN.model] == USUAL
    hallway = world(TOKENS + 300, backends=(UNKNOWN,))
    await assert_refused(hallway)
    hallway = world(TOKENS + 300, backends=(KNOWN,))
    assert (await walk(hallway, exchange(LONG))).status == 200


async def test_reasoning_that_stands_beside_the_completion_is_charged():
    hallway = world(10_000, Got(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":393}}'))
    await walk(hallway)
    naive = Usage(3, 4)
    assert await hallway.spent() == 393 > naive.input_tokens + naive.output_tokens
    assert hallway.lines[0].output_tokens == 390


@pytest.mark.parametrize("name", [b"n", b"max_tokens", b"max_completion_tokens"])
@pytest.mark.parametrize("order", [1, -1])
async def test_a_limit_that_is_said_twice_is_refused_whichever_a_provider_would_take(name, order):
    small, large = (b'"%b":1' % name, b'"%b":100' % name)[::order]
    body = STREAMED.replace(b'"max_tokens":20', b"%b,%b" % (small, large)).replace(b"true", b"false")
    naive = {json.loads(body)[name.decode()], json.loads(body, object_pairs_hook=lambda pairs: dict(reversed(pairs)))[name.decode()]}
    assert naive == {1, 100}  # two readers, two holds
    hallway = world(10_000)
    assert (await walk(hallway, exchange(body))).status == 400
    assert hallway.steps == ["identify", "audit ready"]


def test_a_model_has_one_count_whatever_way_it_is_named():
    """A naive store that counts by the name that was asked for gives each spelling a limit of its own."""
    quotas = "{subjects: [{spiffeID: '" + AGENT + "'}], models: [gpt], quotas: [{name: hourly, tokens: 100, per: Hour}]}"
    snapshot = worlds.world(worlds.routing(), worlds.access(spec=quotas))
    names = ("gpt", "team1/gpt")
    counters = {budget.counter for name in names for budget in snapshot.decide(worlds.who(), name).budgets}
    assert len(counters) == 1 < len(names)
    for other in ("GPT", "gpt ", "team1//gpt", "./gpt", "gpt\u200b"):
        with pytest.raises(Forbidden):
            snapshot.decide(worlds.who(), other)
