"""A stream that passes what was held for it ends as its dialect ends one at the output limit, and SDKs read it so."""

import json

import anthropic
import httpx2
import msgspec
import openai
import pytest

from broker.chat import Usage
from broker.dialects import anthropic_messages, openai_chat
from broker.metering import TEXTS_MAX, CutOff

HELD = Usage(30, 4)


class Words:
    """A gauge that takes a word for a token."""

    def __init__(self, hold=HELD):
        self.hold = hold
        self.texts = {}

    def passes(self, text, piece):
        self.texts[text] = self.texts.get(text, "") + piece
        return sum(len(one.split()) for one in self.texts.values()) > self.hold.output_tokens


def chat(*, asked=False):
    gauge = Words()
    body = {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": asked}}
    return openai_chat.read(msgspec.json.encode(body)).meter(gauge), gauge


def chunk(choices, **more):
    said = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "real", "choices": choices, **more}
    return b"data: %b\n\n" % msgspec.json.encode(said)


def says(index=0, finish=None, **delta):
    return {"index": index, "delta": delta, "finish_reason": finish}


def messages():
    gauge = Words()
    body = {"model": "m", "messages": [], "stream": True, "max_tokens": 4}
    return anthropic_messages.read(msgspec.json.encode(body)).meter(gauge), gauge


def event(kind, **more):
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **more}))


def ended(meter, *pieces):
    """What the caller gets of a stream that is cut."""
    got = b""
    with pytest.raises(CutOff) as reached:
        for piece in pieces:
            got += meter.stream(piece)
    return got + reached.value.events


def data(events):
    return [line.removeprefix(b"data: ") for line in events.split(b"\n") if line.startswith(b"data: ")]


@pytest.mark.parametrize("asked", [True, False])
def test_a_chat_ends_with_its_length_for_the_sdk(asked):
    meter, _ = chat(asked=asked)
    raw = ended(meter, *[chunk([says(content="word ")])] * 9)
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=raw, headers={"content-type": "text/event-stream"}))
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1/v1", http_client=httpx2.Client(transport=transport), max_retries=0)
    chunks = list(client.chat.completions.create(model="m", messages=[], stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "word " * 4
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None] * 4 + ["length"]
    assert {(c.id, c.created, c.model) for c in chunks} == {("chatcmpl-1", 7, "real")}
    figures = [(c.usage.prompt_tokens, c.usage.completion_tokens, c.usage.total_tokens) for c in chunks if c.usage]
    assert figures == ([(30, 4, 34)] if asked else [])
    assert raw.endswith(b"data: [DONE]\n\n")


def test_a_message_ends_with_max_tokens_for_the_sdk():
    meter, _ = messages()
    about = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "real",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    raw = ended(
        meter,
        event("message_start", message={**about, "usage": {"input_tokens": 9, "output_tokens": 1}}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *[event("content_block_delta", index=0, delta={"type": "text_delta", "text": "word "})] * 9,
    )
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=raw, headers={"content-type": "text/event-stream"}))
    client = anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1", http_client=httpx2.Client(transport=transport), max_retries=0)
    with client.messages.stream(model="m", max_tokens=4, messages=[{"role": "user", "content": "hi"}]) as stream:
        message = stream.get_final_message()
    assert (message.content[0].text, message.stop_reason, message.usage.output_tokens) == ("word " * 4, "max_tokens", 4)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "w w w w w"},
        {"refusal": "w w w w w"},
        {"reasoning_content": "w w w w w"},
        {"reasoning": "w w w w w"},
        {"tool_calls": [{"index": 1, "function": {"name": "f", "arguments": "w w w w w"}}]},
        {"function_call": {"arguments": "w w w w w"}},
    ],
)
def test_all_that_a_chat_model_writes_counts(delta):
    assert b'"length"' in ended(chat()[0], chunk([says(**delta)]))


@pytest.mark.parametrize("delta", [{"text": "w w w w w"}, {"thinking": "w w w w w"}, {"partial_json": "w w w w w"}])
def test_all_that_a_messages_model_writes_counts(delta):
    assert b'"max_tokens"' in ended(messages()[0], event("content_block_delta", index=0, delta=delta))


def test_reasoning_that_is_said_under_two_names_counts_once():
    meter, gauge = chat()
    assert meter.stream(chunk([says(reasoning="w w w w", reasoning_content="w w w w")]))
    assert gauge.texts == {(0, "reasoning"): "w w w w"}


def test_what_no_model_writes_does_not_count():
    meter, _ = chat()
    raw = b": a comment\n\n" + chunk([says(role="assistant", content=None)], system_fingerprint="w w w w w") + b"data: [DONE]\n\n"
    assert meter.stream(raw) == raw
    meter, _ = messages()
    raw = event("ping") + event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "w w w w w"})
    assert meter.stream(raw) == raw


def test_answers_to_one_prompt_share_the_hold_and_each_that_is_open_is_ended():
    meter, _ = chat()
    raw = ended(
        meter, chunk([says(0, content="w")]), chunk([says(1, content="w w")]), chunk([says(0, "stop")]), chunk([says(2, content="w w")])
    )
    last = json.loads(data(raw)[-2])
    assert [(choice["index"], choice["finish_reason"]) for choice in last["choices"]] == [(1, "length"), (2, "length")]


def test_every_open_block_of_a_message_is_ended():
    meter, _ = messages()
    raw = ended(
        meter,
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
        event("content_block_stop", index=0),
        event("content_block_start", index=1, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=1, delta={"type": "text_delta", "text": "w w w w w"}),
    )
    assert [json.loads(one)["type"] for one in data(raw)][3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert json.loads(data(raw)[3])["index"] == 1


@pytest.mark.parametrize("make", [chat, messages])
@pytest.mark.parametrize(
    "raw", [b"data: w w w w w\n\n", b'data: {"choices":7,"index":"x","a":"w w w w w"}\n\n', b"data: \xff w w w w w\n\n"]
)
def test_what_cannot_be_read_counts_as_it_is(make, raw):
    assert ended(make()[0], raw)


def test_events_of_one_piece_are_passed_up_to_the_one_that_is_too_much():
    meter, _ = chat()
    raw = ended(meter, b"".join([chunk([says(content="w ")])] * 9))
    assert raw.count(b'"content":"w "') == 4


def test_text_after_the_final_report_is_the_providers_affair():
    meter, _ = chat(asked=True)
    raw = chunk([], usage={"prompt_tokens": 3, "completion_tokens": 99}) + chunk([says(content="w w w w w")])
    assert meter.stream(raw) == raw
    assert (meter.done, meter.usage) == (True, Usage(3, 99))


def test_a_provider_that_names_ever_new_answers_takes_no_memory():
    gauge = Words(Usage(0, 10**9))
    meter = openai_chat.read(b'{"model":"m","messages":[],"stream":true}').meter(gauge)
    meter.stream(b"".join(chunk([says(index)]) for index in range(2000)))
    assert meter._tally.last_words(HELD).count(b'"length"') == TEXTS_MAX
