"""Requests and answers of each dialect as the GenAI conventions write messages; a stream says what the whole answer would."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.otlp.messages import READERS, Asked, Message, answered, asked

CALL = {"type": "tool_call", "name": "look_up", "arguments": '{"city":"Rome"}'}


def text(said):
    return {"type": "text", "content": said}


def body(**said):
    return json.dumps(said).encode()


def stream(*events):
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


REQUESTS = {
    "openai_chat": (
        body(
            model="m",
            messages=[
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "https://x"}}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "function": {"name": "look_up", "arguments": '{"city":"Rome"}'}}],
                },
                {"role": "tool", "tool_call_id": "1", "content": "sunny"},
            ],
        ),
        Asked(
            (),
            [
                Message("system", [text("be kind")]),
                Message("user", [text("hi"), {"type": "image_url"}]),
                Message("assistant", [CALL]),
                Message("tool", [{"type": "tool_call_response", "response": "sunny"}]),
            ],
        ),
    ),
    "openai_completions": (body(prompt=["one", "two"]), Asked((), [Message("user", [text("one")]), Message("user", [text("two")])])),
    "anthropic_messages": (
        body(
            system=[{"type": "text", "text": "be kind"}],
            messages=[
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "look_up", "input": {"city": "Rome"}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "sunny"}]}]},
            ],
        ),
        Asked(
            [text("be kind")],
            [
                Message("user", [text("hi")]),
                Message("assistant", [CALL]),
                Message("user", [{"type": "tool_call_response", "response": "sunny"}]),
            ],
        ),
    ),
    "openai_responses": (
        body(
            instructions="be kind",
            input=[
                {"role": "user", "content": [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": "data:x"}]},
                {"type": "function_call", "call_id": "1", "name": "look_up", "arguments": '{"city":"Rome"}'},
                {"type": "function_call_output", "call_id": "1", "output": "sunny"},
                {"type": "web_search_call", "id": "2"},
            ],
        ),
        Asked(
            [text("be kind")],
            [
                Message("user", [text("hi"), {"type": "input_image"}]),
                Message("assistant", [CALL]),
                Message("tool", [{"type": "tool_call_response", "response": "sunny"}]),
                Message("assistant", [{"type": "web_search_call"}]),
            ],
        ),
    ),
}
ANSWERS = {
    "openai_chat": (
        body(
            choices=[
                {
                    "index": 0,
                    "finish_reason": "tool_calls",
                    "message": {
                        "role": "assistant",
                        "content": "well",
                        "tool_calls": [{"function": {"name": "look_up", "arguments": '{"city":"Rome"}'}}],
                    },
                }
            ]
        ),
        stream(
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "we"}}]},
            {"choices": [{"index": 0, "delta": {"content": "ll"}}]},
            {
                "choices": [
                    {
                        "index": 0,
                        "delta": {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "look_up", "arguments": '{"city"'}}]},
                    }
                ]
            },
            {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": ':"Rome"}'}}]}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        ),
        [Message("assistant", [text("well"), CALL], "tool_call")],
    ),
    "openai_completions": (
        body(choices=[{"index": 0, "text": "well", "finish_reason": "length"}]),
        stream({"choices": [{"index": 0, "text": "we"}]}, {"choices": [{"index": 0, "text": "ll", "finish_reason": "length"}]}),
        [Message("assistant", [text("well")], "length")],
    ),
    "anthropic_messages": (
        body(
            content=[
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "well"},
                {"type": "tool_use", "id": "1", "name": "look_up", "input": {"city": "Rome"}},
            ],
            stop_reason="tool_use",
        ),
        stream(
            {"type": "message_start", "message": {"content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "well"}},
            {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "1", "name": "look_up", "input": {}}},
            {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"city":"Rome"}'}},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
        ),
        [Message("assistant", [{"type": "reasoning", "content": "hm"}, text("well"), CALL], "tool_call")],
    ),
    "openai_responses": (
        body(
            status="completed",
            output=[
                {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "well"}]},
                {"type": "function_call", "name": "look_up", "arguments": '{"city":"Rome"}'},
            ],
        ),
        stream(
            {"type": "response.created", "response": {"status": "in_progress", "output": []}},
            {"type": "response.output_text.delta", "output_index": 1, "delta": "we"},
            {
                "type": "response.completed",
                "response": {
                    "status": "completed",
                    "output": [
                        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "well"}]},
                        {"type": "function_call", "name": "look_up", "arguments": '{"city":"Rome"}'},
                    ],
                },
            },
        ),
        [Message("assistant", [{"type": "reasoning", "content": "hm"}, text("well"), CALL], "stop")],
    ),
}
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["messages", "content", "role", "type", "text", "input", "output", "choices", "delta", "message", "tool_calls", "function", "name", "arguments", "system", "prompt", "response", "summary", "index", "content_block"]) | st.text(max_size=3), inner, max_size=4), max_leaves=12)  # fmt: skip


def plain(messages):
    return [Message(one.role, list(one.parts), one.end) for one in messages]


@pytest.mark.parametrize("dialect", REQUESTS)
def test_a_request_says_who_said_what_and_of_anything_but_text_its_kind(dialect):
    given_body, expected = REQUESTS[dialect]
    found = asked(dialect, given_body)
    assert list(found.instructions) == list(expected.instructions)
    assert plain(found.messages) == plain(expected.messages)


@pytest.mark.parametrize("dialect", ANSWERS)
def test_an_answer_says_the_same_whole_and_as_a_stream(dialect):
    whole, events, expected = ANSWERS[dialect]
    assert plain(answered(dialect, whole, streaming=False)) == expected
    assert plain(answered(dialect, events, streaming=True)) == expected


def test_every_dialect_that_is_read_has_its_example():
    assert set(REQUESTS) == set(ANSWERS) == set(READERS)


@pytest.mark.parametrize("dialect", ANSWERS)
def test_of_a_stream_that_was_cut_there_is_what_came(dialect):
    _, events, _ = ANSWERS[dialect]
    for at in range(0, len(events), 7):
        answered(dialect, events[:at], streaming=True)
    cut = answered("openai_responses", ANSWERS["openai_responses"][1][:250], streaming=True)
    assert plain(cut) == [Message("assistant", [text("we")])]


@pytest.mark.parametrize("dialect", ["embeddings", "openai_transcriptions", ""])
def test_what_is_no_conversation_has_no_messages(dialect):
    assert asked(dialect, body(input="hi")) == ((), ())
    assert answered(dialect, b"{}", streaming=False) == ()


@pytest.mark.parametrize("dialect", sorted(READERS))
@given(value=VALUES)
def test_what_is_not_as_the_dialect_has_it_is_left_out(dialect, value):
    data = json.dumps(value).encode()
    asked(dialect, data)
    answered(dialect, data, streaming=False)
    answered(dialect, stream(value), streaming=True)


def test_what_is_nested_too_deep_is_left_out():
    deep = b'{"messages":' + b'[{"content":' * 50_000 + b"1" + b"}]" * 50_000 + b"}"
    assert asked("openai_chat", deep) == ((), [])
