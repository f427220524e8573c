"""The spans of one exchange while it runs: times of a clock that the test owns, ids that it draws."""

from datetime import UTC, datetime

from support.hallway import ANSWER, CUT, FIRST, Got, World, exchange, grant, walk

from broker.audit import Line
from broker.chat import Usage
from broker.grant import Failover
from broker.overheard import Overheard
from broker.tracecontext import IDS, Sampler
from broker.tracing import UNTRACED, Ended, Tracing, untraced

PARENT = (b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")
LINE = Line(time=datetime.now(UTC), exchange="x1", code="answered", status=200)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def tracing(bound: int = IDS) -> tuple[Tracing, list[Ended]]:
    out: list[Ended] = []
    drawn = iter(range(1, 100))
    return Tracing(Sampler(bound=bound), Clock(), lambda _: next(drawn), out.append), out


def test_an_exchange_and_each_of_its_attempts_end_as_spans() -> None:
    it, out = tracing()
    trace = it.begin("POST", "/v1/chat/completions", [], 100.0, 5.0)
    trace.ask(FIRST)
    trace.failed("Reset")
    trace.ask(FIRST)
    trace.end(LINE, Usage(1, 2))
    server, first, second = out
    assert server.attempt is None
    assert (first.attempt.cause, first.attempt.began_s, first.attempt.ended_s) == ("Reset", 101, 102)
    assert (second.attempt.cause, second.attempt.began_s, second.attempt.ended_s, second.ended_s) == (None, 103, None, 104)
    assert (first.usage, second.usage) == (None, Usage(1, 2))


def test_each_attempt_has_an_id_of_its_own_which_is_what_its_provider_hears() -> None:
    it, _ = tracing()
    trace = it.begin("POST", "/v1/chat/completions", [PARENT], 100.0, 5.0)
    heard = []
    for _ in range(2):
        trace.ask(FIRST)
        heard.append(dict(trace.headers)[b"traceparent"])
    assert heard == [b"00-" + b"a" * 32 + b"-%016x-01" % number for number in (2, 3)]


def test_what_is_not_recorded_still_tells_the_provider_so() -> None:
    it, out = tracing(bound=0)
    trace = it.begin("POST", "/v1/chat/completions", [], 100.0, 5.0)
    trace.ask(FIRST)
    trace.end(LINE, None)
    assert out == []
    assert dict(trace.headers)[b"traceparent"].endswith(b"-02")


def test_an_id_is_never_zero_whatever_is_drawn() -> None:
    it = Tracing(Sampler(), Clock(), lambda _: 0, print)
    trace = it.begin("POST", "/", [], 0.0, 0.0)
    assert int(trace.trace_id, 16) == int(trace.span_id, 16) == 1


def test_a_path_that_is_no_route_is_not_kept() -> None:
    it, _ = tracing()
    assert it.begin("POST", "/sk-secret", [], 0.0, 0.0).route == ""
    assert it.begin("GET", "/v1/models", [], 0.0, 0.0).route == "/v1/models"
    assert it.begin("GET", "/v1/responses/resp_secret/input_items", [], 0.0, 0.0).route == "/v1/responses/{id}/input_items"


def test_a_span_that_waits_for_its_export_holds_no_header_of_the_caller() -> None:
    it, out = tracing()
    it.begin("POST", "/v1/chat/completions", [PARENT, (b"authorization", b"sk-canary")], 100.0, 5.0).end(LINE, None)
    assert "a" * 32 in repr(out)
    assert "sk-canary" not in repr(out)


def test_the_words_of_an_attempt_go_with_its_span_and_those_of_a_failed_one_nowhere() -> None:
    overheard = Overheard(room_bytes=10)
    out: list[Ended] = []
    drawn = iter(range(1, 100))
    it = Tracing(Sampler(bound=IDS), Clock(), lambda _: next(drawn), out.append, overheard.take)
    trace = it.begin("POST", "/v1/chat/completions", [], 100.0, 5.0)
    for cause in ("Malformed", None):
        trace.ask(FIRST)
        overheard.hear(trace.headers, b"12345")
        if cause:
            trace.failed(cause)
    trace.end(LINE, None)
    server, first, second = out
    assert (server.words, first.words) == (None, None)
    assert second.words is not None
    assert second.words.asked == b"12345"
    trace.ask(FIRST)
    overheard.hear(trace.headers, b"67890")
    kept = overheard.take(out[-1].trace.attempts[-1].span_id)
    assert kept is not None
    assert not kept.cut, "the failed attempt's room was not given back"


def test_nobody_who_looks_costs_one_object_for_all() -> None:
    assert untraced("POST", "/", [PARENT], 0.0, 0.0) is UNTRACED
    UNTRACED.ask(FIRST)
    assert UNTRACED.headers == ()


async def test_the_hallway_tells_it_of_every_attempt_and_of_the_end() -> None:
    it, out = tracing()
    world = World(CUT, Got(ANSWER), trace=it.begin)
    world.decision = grant(backends=(FIRST, FIRST), failover=Failover(causes=frozenset({"Reset"}), backoff_base_s=0.0))
    assert (await walk(world)).status == 200
    assert [ended.attempt.cause for ended in out if ended.attempt] == ["Reset", None]
    assert out[0].line is world.lines[0]


async def test_an_exchange_that_stopped_before_any_provider_has_no_attempt() -> None:
    it, out = tracing()
    world = World(trace=it.begin)
    world.refuse_identity = True
    assert (await walk(world, exchange())).status == 401
    assert [(ended.attempt, ended.line.code) for ended in out] == [(None, "unidentified")]
