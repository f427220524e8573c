"""Providers that send more than anybody can hold, or never stop: memory stays bounded, time too, and the caller is told."""

import asyncio
from itertools import chain, repeat

import pytest
import pytest_asyncio
from support.fake_provider import chunk
from support.hostile_provider import RESPONSE_ID
from support.hostile_run import growth, pss
from support.hostile_stage import DIALECTS, PATHS, Case, End, model_of, staged, ways

MIB = 1 << 20
BLOCK = 64 << 10
GIGABYTE = MIB << 10
ANSWER_BYTES = 32 * MIB  # of one answer that is no stream
ANSWERS_BYTES = 64 * MIB  # of all of them together
AROUND = 24 * MIB  # what sockets, TLS and Python's allocator may add
TOO_BIG = End(502, "provider_unavailable", "the hold", drops=True)
MALFORMED = End(502, "provider_unavailable", "the hold")
STREAM = BLOCK // 64 * (b"data: " + b"x" * 56 + b"\n\n")


def gigabyte(head, block):
    return lambda call: chain([head(call)], repeat(block, GIGABYTE // len(block)))


def ticking(*pieces, every_s=0.05):
    """The first piece, and then the others again and again."""
    return lambda call: chain([call.head(), pieces[0]], *repeat((every_s, *pieces[1:]), 10_000))


WHOLE = {
    "gigabyte": Case(gigabyte(lambda c: c.head(length=GIGABYTE), b" " * BLOCK), TOO_BIG, None, crossed=True),
    "gigabyte-in-chunks": Case(gigabyte(lambda c: c.head(), chunk(b" " * BLOCK)), TOO_BIG, None, ("messages",)),
    "gigabyte-of-error": Case(gigabyte(lambda c: c.head(500, length=GIGABYTE), b" " * BLOCK), TOO_BIG, TOO_BIG, ("chat",)),
}
WHOLE |= {f"huge-{n}": Case(lambda c: [c.says(b"{" + b" " * (30 * MIB))], MALFORMED, None, ("chat",)) for n in range(3)}
WHOLE |= {
    f"huge-with-our-key-{n}": Case(lambda c: [c.says(b"{" + b" " * (30 * MIB) + c.key)], MALFORMED, None, ("chat",)) for n in range(3)
}
LARGE = {"large": Case(lambda c: [c.says(c.body() + b" " * (30 * MIB))], End(200, "", (5, 2)), None, ("chat",))}
FLOOD = {"gigabyte-of-events": Case(gigabyte(lambda c: c.head(), chunk(STREAM)), None, End(200, "caller_left", "the hold", drops=True))}
LATE = End(200, "too_slow", "the hold", drops=True)
ENDLESS = {
    "endless-events": Case(ticking(chunk(b"data: {}\n\n"), chunk(b"data: {}\n\n")), None, LATE),
    "endless-keep-alives": Case(ticking(chunk(b": ping\n\n"), chunk(b": ping\n\n")), None, LATE),
    "endless-event": Case(ticking(chunk(b"data: "), chunk(b"x")), None, LATE),
    "endless-drip": Case(ticking(chunk(b"{"), chunk(b" ")), End(408, "too_slow", "the hold", drops=True), None),
}
CLOSING = {"closes-after-each": Case(lambda call: [*call.honest(), "close"], End(200, "", (5, 2)), End(200, "", (5, 2)))}
FORGED = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{"choices":"for"}'
GLUED = {"second-answer-behind": Case(lambda call: [call.whole() + FORGED], End(200, "", (5, 2)), End(200, "", (5, 2)))}
CASES = {**WHOLE, **LARGE, **FLOOD, **ENDLESS, **CLOSING, **GLUED}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(shared_doors):
    async with staged(shared_doors, CASES) as stage:
        yield stage


@pytest.fixture(scope="module")
def idle_pss(shared_doors, stage):
    """Of the broker, before any of these."""
    return pss(shared_doors.broker.pid)


@pytest.mark.parametrize(("name", "dialect", "streaming"), ways(WHOLE))
async def test_an_answer_without_measure_is_given_up_at_its_bound(doors, tally, stage, idle_pss, name, dialect, streaming):
    with tally.tried("providers: floods", at="broker"):
        async with growth(doors.broker.pid) as grown:
            await stage.tries(name, dialect, streaming=streaming)
        assert grown[0] < 2 * ANSWER_BYTES + AROUND  # the pieces, and at the end what they are joined to
        assert pss(doors.broker.pid) < idle_pss + AROUND  # and no failure keeps it
        assert stage.provider.written[model_of(name, dialect, streaming=streaming)] < ANSWER_BYTES + AROUND


async def test_many_large_answers_at_once_are_bounded_together(doors, tally, stage):
    """Whom there is no memory for is told to come back; nobody gets half of an answer."""
    with tally.tried("providers: floods", at="broker", cases=6):
        async with growth(doors.broker.pid) as grown:
            told = await asyncio.gather(*(stage.ask("large", "chat", streaming=False) for _ in range(6)))
        assert {one.status for one in told} == {200, 503}
        assert all(one.refusal("chat", streaming=False)[0] == "busy" for one in told if one.status == 503)
        assert all(len(one.body) > 30 * MIB for one in told if one.status == 200)
        assert grown[0] < ANSWERS_BYTES + ANSWER_BYTES + AROUND
        await stage.require_nothing_left_open("")


@pytest.mark.parametrize(("name", "dialect", "streaming"), ways(FLOOD))
async def test_what_a_slow_caller_does_not_read_stays_with_the_provider(doors, tally, stage, name, dialect, streaming):
    """And when the caller leaves, the provider is told at once, and the hold is spent."""
    model = model_of(name, dialect, streaming=streaming)
    before = stage.spent()
    with tally.tried("providers: floods", at="broker"):
        async with (
            growth(doors.broker.pid) as broker,
            growth(doors.gateway.pid) as gateway,
            stage.client.stream("POST", PATHS[dialect], json=stage.request(name, dialect, streaming=streaming)) as got,
        ):
            assert b"data: x" in await anext(got.aiter_raw())
            written = -1
            while written != stage.provider.written.get(model):
                written = stage.provider.written.get(model)
                await asyncio.sleep(0.3)
            assert written < AROUND
        assert broker[0] < AROUND
        assert gateway[0] < AROUND
        await stage.require_charge(got.headers["x-aiaccess-exchange"], stage.end(name, streaming=streaming), before)
        await stage.require_nothing_left_open(model)


async def test_what_never_ends_is_ended_by_the_longest_duration_that_the_policy_allows(doors, tally, stage):
    """All of them at once, since each takes as long as it may."""
    tried = ways(ENDLESS)
    before = stage.spent()
    with tally.tried("providers: endless answers", at="broker", cases=len(tried)):
        async with growth(doors.broker.pid) as grown:
            told = await asyncio.gather(*(stage.ask(name, dialect, streaming=streaming) for name, dialect, streaming in tried))
        assert grown[0] < AROUND
        spent = 0
        for (name, dialect, streaming), one in zip(tried, told, strict=True):
            assert (one.status, one.refusal(dialect, streaming=streaming)[0]) == (stage.end(name, streaming=streaming).status, "too_slow")
            stage.require_nothing_leaked(one)
            line = await stage.line(one.exchange)
            assert (line["code"], line["estimated"]) == ("too_slow", True)
            assert line["input_tokens"] + line["output_tokens"] == line["held_tokens"]
            spent += line["held_tokens"]
            await stage.require_nothing_left_open(model_of(name, dialect, streaming=streaming))
        assert stage.spent() == (before[0] + spent, before[1] + len(tried))


@pytest.mark.parametrize(("name", "dialect", "streaming"), ways(CLOSING))
async def test_a_provider_that_closes_each_connection_costs_nobody_an_error(doors, tally, stage, name, dialect, streaming):
    with tally.tried("providers: connections closed while idle", at="broker", cases=20):
        connections = stage.provider.connections
        told = [await stage.ask(name, dialect, streaming=streaming) for _ in range(20)]
        assert [one.status for one in told] == [200] * 20
        assert stage.provider.connections == connections + 20
    assert doors.broker.child.returncode is None


async def test_many_callers_of_a_hostile_provider_get_each_an_answer_of_their_own(doors, tally, stage):
    """On one pool of connections, each of which carries an answer too many."""
    asked = [("second-answer-behind", dialect, streaming) for _ in range(15) for dialect in DIALECTS for streaming in (False, True)]
    with tally.tried("providers: many at once", at="broker", cases=len(asked)):
        told = await asyncio.gather(*(stage.ask(name, dialect, streaming=streaming) for name, dialect, streaming in asked))
        assert [one.status for one in told] == [200] * len(asked)
        for (_, dialect, streaming), one in zip(asked, told, strict=True):
            assert (b"chat.completion" in one.body) is (dialect == "chat")
            assert (RESPONSE_ID in one.body) is (dialect == "responses")
            assert one.body.startswith((b"data: ", b"event: ")) is streaming
        assert len({one.exchange for one in told}) == len(asked)
        await stage.require_nothing_left_open()
    assert doors.broker.child.returncode is None
