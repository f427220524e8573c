"""A caller's trace context: judged as W3C says, and as OpenTelemetry's own reader and samplers, which know nothing of ours, judge it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, ParentBasedTraceIdRatio, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from broker import tracecontext
from broker.tracecontext import IDS, Parent, Sampler

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01".encode()


def read(parent: bytes, *states: bytes) -> Parent | None:
    return tracecontext.read([(b"accept", b"*/*"), (b"traceparent", parent), *((b"tracestate", state) for state in states)])


def test_a_context_is_read_from_among_other_headers() -> None:
    assert read(GOOD, b"a=1") == Parent(TRACE, SPAN, 1, b"a=1")


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        GOOD.upper(),
        GOOD + b"-",
        GOOD + b"-00",
        b" " + GOOD,
        GOOD[:-1],
        GOOD + b"0",
        b"ff" + GOOD[2:],
        b"0" + GOOD[2:],
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE}-{SPAN}-0g".encode(),
        GOOD.replace(b"-", b"_"),
        b"01" + GOOD[2:] + b"x",
        GOOD + b"\r\nx-evil: 1",
    ],
)
def test_what_is_not_exactly_a_parent_counts_as_none(parent: bytes) -> None:
    assert read(parent, b"a=1") is None


def test_two_parents_count_as_none() -> None:
    assert tracecontext.read([(b"traceparent", GOOD), (b"traceparent", GOOD)]) is None


def test_no_parent_is_none() -> None:
    assert tracecontext.read([(b"tracestate", b"a=1"), (b"accept", b"*/*")]) is None


def test_a_later_version_may_say_more() -> None:
    assert read(b"01" + GOOD[2:] + b"-more") == Parent(TRACE, SPAN, 1, b"")


def test_flags_that_nobody_has_defined_do_not_go_on() -> None:
    found = read(GOOD[:-2] + b"ff")
    assert found is not None
    assert found.flags == 3


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ([b"a=1,b=2"], b"a=1,b=2"),
        ([b" a=1\t, ,b=2,"], b"a=1,b=2"),
        ([b"a=1", b"b=2"], b"a=1,b=2"),
        ([b"tenant@system=value with blanks"], b"tenant@system=value with blanks"),
        ([b"a=1,a=2"], b""),
        ([b"a"], b""),
        ([b"A=1"], b""),
        ([b"a=b=c"], b""),
        ([b"=1"], b""),
        ([b"a=" + b"x" * 256], b"a=" + b"x" * 256),
        ([b"a=" + b"x" * 257], b""),
        ([b",".join(b"k%d=1" % n for n in range(32))], b",".join(b"k%d=1" % n for n in range(32))),
        ([b",".join(b"k%d=1" % n for n in range(33))], b""),
        ([b"a=" + b"x" * 250 + b",b=" + b"x" * 256], b"a=" + b"x" * 250 + b",b=" + b"x" * 256),
        ([b"a=" + b"x" * 256 + b",b=" + b"x" * 256], b""),
        ([b"a=1\x00"], b""),
    ],
)
def test_a_state_goes_on_whole_or_not_at_all(states: list[bytes], found: bytes) -> None:
    parent = read(GOOD, *states)
    assert parent is not None
    assert parent.state == found


digits = st.text("0123456789abcdefABCDEF", min_size=1, max_size=33)
nearly = st.builds(
    "{}-{}-{}-{}{}".format,
    st.sampled_from(["00", "01", "ff", "0", "cc"]),
    st.one_of(st.just(TRACE), st.just("0" * 32), digits),
    st.one_of(st.just(SPAN), st.just("0" * 16), digits),
    st.sampled_from(["00", "01", "02", "03", "0", "zz"]),
    st.sampled_from(["", "", "", "-", "-x", "x"]),
)


@given(nearly)
def test_nothing_passes_that_opentelemetrys_own_reader_refuses(parent: str) -> None:
    ours = read(parent.encode())
    theirs = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": parent})).get_span_context()
    if ours is not None:
        assert (f"{theirs.trace_id:032x}", f"{theirs.span_id:016x}") == (ours.trace_id, ours.span_id)
        assert theirs.trace_flags & 1 == ours.flags & 1
    elif parent.startswith("00-") and parent == parent.lower():
        assert not theirs.is_valid


@given(st.binary(max_size=80), st.lists(st.binary(max_size=80), max_size=3))
def test_whatever_comes_what_goes_out_is_one_line_of_visible_characters(parent: bytes, states: list[bytes]) -> None:
    for first in (parent, GOOD):
        found = read(first, *states)
        if found is not None:
            for _, value in tracecontext.headers(found.trace_id, "1" * 16, found.flags, found.state):
                assert re.fullmatch(rb"[\x20-\x7e]{1,512}", value)


def test_what_a_provider_is_told() -> None:
    assert tracecontext.headers(TRACE, "1" * 16, 1, b"") == ((b"traceparent", f"00-{TRACE}-{'1' * 16}-01".encode()),)
    assert tracecontext.headers(TRACE, "1" * 16, 0, b"a=1")[1] == (b"tracestate", b"a=1")


ids = st.integers(1, (1 << 128) - 1)


@given(ids, st.sampled_from([0.0, 0.01, 0.25, 1.0]))
def test_a_ratio_chooses_the_traces_that_opentelemetrys_sampler_chooses(trace_id: int, ratio: float) -> None:
    theirs = TraceIdRatioBased(ratio).should_sample(None, trace_id, "x").decision.is_sampled()
    assert Sampler(by_parent=False, bound=round(ratio * IDS)).samples(None, f"{trace_id:032x}") is theirs


@given(ids, st.booleans(), st.sampled_from([(DEFAULT_ON, IDS), (ParentBasedTraceIdRatio(0.1), round(0.1 * IDS))]))
def test_a_parent_decides_as_it_does_for_opentelemetrys_samplers(trace_id: int, sampled: bool, pair: tuple) -> None:  # noqa: FBT001
    theirs, bound = pair
    context = set_span_in_context(NonRecordingSpan(SpanContext(trace_id, 1, is_remote=True, trace_flags=TraceFlags(int(sampled)))))
    expected = theirs.should_sample(context, trace_id, "x").decision.is_sampled()
    parent = Parent(f"{trace_id:032x}", SPAN, int(sampled), b"")
    assert Sampler(by_parent=True, bound=bound).samples(parent, parent.trace_id) is expected


def test_always_off_is_a_ratio_of_nothing() -> None:
    assert not ALWAYS_OFF.should_sample(None, 0, "x").decision.is_sampled()
    assert not Sampler(by_parent=False, bound=0).samples(Parent(TRACE, SPAN, 1, b""), "0" * 32)
