"""Event streams through the meters: any cut gives the caller the same bytes and us the same usage; only what the caller did not ask for is gone."""

import json
from collections.abc import Callable, Hashable

from fuzz.cuts import ways_to_cut

from broker.body import COUNT_MAX
from broker.chat import Usage
from broker.errors import ProviderUnavailable
from broker.metering import CutOff, GaugedMeter, StreamMeter, Tally
from broker.tallies.anthropic_messages import MessagesTally
from broker.tallies.openai_audio import AudioTally
from broker.tallies.openai_chat import ChatTally
from broker.tallies.openai_completions import CompletionsTally
from broker.tallies.openai_responses import ResponsesTally

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
RESPONSE_WORDS = (
    *("data: ", "event: ", "\n\n", "\r\n\r\n", "\n", "[DONE]", '{"type":', "}", "}}", "null", "[" * 40, "\\u002e"),
    *('"response.created"', '"response.completed"', '"response.incomplete"', '"response.failed"', '"error"', ',"response":{"usage":'),
    *('{"input_tokens":1,"output_tokens":2}', '"input_tokens_details":{"cached_tokens":1}', ',"usage":', "2147483648", "-1"),
    *('"response.output_item.added"', '"response.output_item.done"', '"response.output_text.delta"', '"response.refusal.delta"'),
    *(
        ',"output_index":0',
        ',"output_index":-7',
        ',"content_index":9',
        ',"delta":"some words"',
        ',"item":{"id":"m"',
        ',"sequence_number":3',
    ),
)
Passed = tuple[bytes, Usage | None, bool, bool]


def check_openai(data: bytes) -> None:
    check(data, lambda: ChatTally(asked_usage=True), may_lose=False)
    check(data, lambda: ChatTally(asked_usage=False), may_lose=True)
    check_gauged(data, lambda: ChatTally(asked_usage=False), said_chat_is_over)
    check_gauged(data, lambda: ChatTally(asked_usage=True), said_chat_is_over)


def check_completions(data: bytes) -> None:
    check(data, lambda: CompletionsTally(asked_usage=True, echoes=False), may_lose=False)
    check(data, lambda: CompletionsTally(asked_usage=False, echoes=True), may_lose=True)
    check_gauged(data, lambda: CompletionsTally(asked_usage=True, echoes=False), said_chat_is_over)


def check_responses(data: bytes) -> None:
    check(data, ResponsesTally, may_lose=False)
    check_gauged(data, ResponsesTally, said_response_is_incomplete)


def check_audio(data: bytes) -> None:
    check(data, AudioTally, may_lose=False)


class Bytes:
    """A gauge that takes a byte for a token."""

    hold = Usage(9, 40)

    def __init__(self) -> None:
        self.seen = 0

    def passes(self, text: Hashable, piece: str) -> bool:
        assert isinstance(piece, str)
        hash(text)
        self.seen += len(piece.encode())
        return self.seen > self.hold.output_tokens


def check_gauged(data: bytes, make: Callable[[], Tally], said_over: Callable[[list[bytes]], None]) -> None:
    """However a stream was cut, its last words come at the same place, are text, and say what they are."""
    ended: list[list[bytes] | None] = []
    for pieces in ways_to_cut(data):
        tally = make()
        meter = GaugedMeter(tally, Bytes())
        out = b""
        reached: CutOff | None = None
        try:
            for piece in pieces:
                out += meter.stream(piece)
        except CutOff as cut:
            reached = cut
        except ProviderUnavailable:
            return
        if reached is None:
            ended.append(None)
            continue
        last = tally.last_words(Bytes.hold)
        assert reached.events.endswith(last)
        last.decode()
        said_over(events(last))
        ended.append(events(out + reached.events))
    assert all(one == ended[0] for one in ended[1:]), "where a stream is cut off depends on how it came"


def said_response_is_incomplete(last: list[bytes]) -> None:
    (end,) = map(json.loads, last)
    assert end["type"] == "response.incomplete"
    assert end["response"]["usage"]["output_tokens"] == Bytes.hold.output_tokens


def said_chat_is_over(last: list[bytes]) -> None:
    """The choices that were open are at their limit; then the usage, where the caller asked for it; then the end."""
    *chunks, done = last
    assert done == b"[DONE]"
    first, *rest = map(json.loads, chunks)
    assert [choice["finish_reason"] for choice in first["choices"]] == ["length"] * len(first["choices"])
    assert first["choices"]
    for report in rest:
        assert report["choices"] == []
        assert report["usage"]["completion_tokens"] == Bytes.hold.output_tokens


def said_message_is_over(last: list[bytes]) -> None:
    *blocks, end, stop = map(json.loads, last)
    assert {block["type"] for block in blocks} <= {"content_block_stop"}
    assert len({block["index"] for block in blocks}) == len(blocks)
    assert end["delta"]["stop_reason"] == "max_tokens"
    assert stop == {"type": "message_stop"}


def check_anthropic(data: bytes) -> None:
    check(data, MessagesTally, may_lose=False)
    check_gauged(data, MessagesTally, said_message_is_over)


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
        value = json.loads(event.decode("utf-8", "surrogateescape"))  # what is not read of it may be no text
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
