"""Event streams through the meters: any cut gives the caller the same bytes and us the same usage; only what the caller did not ask for is gone."""

import json
from collections.abc import Callable

from fuzz.cuts import ways_to_cut

from broker.body import COUNT_MAX
from broker.chat import Usage
from broker.errors import ProviderUnavailable
from broker.metering import StreamMeter, Tally
from broker.tallies.anthropic_messages import MessagesTally
from broker.tallies.openai_chat import ChatTally

WORDS = (
    *("data: ", "data:", "event: ", ": comment\n", "\n\n", "\r\n\r\n", "\r\r", "\r", "\n", "[DONE]", "\ufeff", "data: [DONE]\n\n"),
    *(
        '{"choices":[]',
        ',"usage":',
        '"usage":null',
        '{"prompt_tokens":1,"completion_tokens":2}',
        '"error":',
        "2147483647",
        "2147483648",
        "-1",
        "1e9",
    ),
    *('data: {"type":"message_start","message":{"usage":', '{"input_tokens":1,"output_tokens":2}', 'data: {"type":"message_stop"}\n\n'),
    *('{"type":"message_delta","usage":', '"cache_read_input_tokens":', "\\u0075sage", "}", "}}", "]", "NaN", "[" * 40),
)
Passed = tuple[bytes, Usage | None, bool, bool]


def check_openai(data: bytes) -> None:
    check(data, lambda: ChatTally(asked_usage=True), may_lose=False)
    check(data, lambda: ChatTally(asked_usage=False), may_lose=True)


def check_anthropic(data: bytes) -> None:
    check(data, MessagesTally, may_lose=False)


def check(data: bytes, make: Callable[[], Tally], *, may_lose: bool) -> None:
    passed = [through(make(), pieces) for pieces in ways_to_cut(data)]
    whole = [one for one in passed if one is not None]
    assert len(whole) in (0, len(passed)), "whether the stream is well-formed depends on how it was cut"
    learned = [one[1:] for one in whole]
    assert all(one == learned[0] for one in learned[1:]), f"what we learn depends on how the stream was cut: {learned}"
    for out, *_ in whole:
        check_caller(data, out, may_lose=may_lose)


def through(tally: Tally, pieces: list[bytes]) -> Passed | None:
    """What the caller gets and what we learn; None when the stream is refused as malformed."""
    meter = StreamMeter(tally)
    out: list[bytes] = []
    known: Usage | None = None
    try:
        for piece in pieces:
            out.append(meter.stream(piece))
            assert not meter.done or meter.usage is not None
            known = check_usage(known, meter.usage)
        out.append(meter.end())
        check_usage(known, meter.usage)
    except ProviderUnavailable:
        return None
    return b"".join(out), meter.usage if meter.done else None, meter.done, meter.failed


def check_usage(before: Usage | None, now: Usage | None) -> Usage | None:
    if now is None:
        return before
    assert 0 <= now.output_tokens <= COUNT_MAX
    assert 0 <= now.cached_tokens <= now.input_tokens <= 3 * COUNT_MAX  # Anthropic's is the sum of three figures
    if before is not None:
        assert now.input_tokens >= before.input_tokens, "a figure went down"
        assert now.output_tokens >= before.output_tokens, "a figure went down"
    return now


def check_caller(data: bytes, out: bytes, *, may_lose: bool) -> None:
    """The caller's events are the provider's, in their order; only a report of usage that he did not ask for may be missing."""
    sent, got = events(data), events(out)
    assert got == events(out, unended=False), "the caller's last event has no end"
    missing = 0
    for event in sent:
        if missing + len(got) > len(sent):
            raise AssertionError("the caller got more events than came")
        if got and got[0] == event:
            got.pop(0)
            continue
        assert may_lose, f"an event is missing: {event!r}"
        value = json.loads(event)
        assert value["choices"] == [], f"an event with choices is missing: {event!r}"
        assert value["usage"], f"an event without usage is missing: {event!r}"
        missing += 1
    assert not got, f"the caller got events that did not come: {got!r}"
    if not missing:
        assert out.startswith(data), "bytes were changed"
        assert out[len(data) :].strip(b"\n") == b"", "bytes were added"


def events(stream: bytes, *, unended: bool = True) -> list[bytes]:
    """The data of all events, read line by line as WHATWG HTML 9.2.6 says; with `unended`, one that lacks its empty line, too."""
    found: list[bytes] = []
    lines: list[bytes] = []
    for line in stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        bare = line.removeprefix(b"\xef\xbb\xbf")
        name, _, value = bare.partition(b":")
        if not bare:
            found += [b"\n".join(lines)] if any(lines) else []
            lines = []
        elif name == b"data":
            lines.append(value.removeprefix(b" "))
    return [*found, b"\n".join(lines)] if unended and any(lines) else found
