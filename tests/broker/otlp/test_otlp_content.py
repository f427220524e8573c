"""The words of an attempt as attributes: redacted before they are cut, and bounded."""

import json
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.otlp.content import CUT, OVERLAP, PART_LETTERS, TEXT_LETTERS, attributes
from broker.otlp.redaction import KEY, redact
from broker.overheard import Words

SECRET = "sk-proj-" + "Ab3d" * 12
INPUT, OUTPUT, SYSTEM, CUT_FLAG = "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "aiaccess.content.cut"


def said(*texts, answer="", cut=False, **more):
    """The attributes of a chat in which the user said these."""
    request = json.dumps({"messages": [{"role": "user", "content": text} for text in texts], **more}).encode()
    choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer}}] if answer else []
    words = Words(deque(), request, [json.dumps({"choices": choices}).encode()], cut=cut)
    return attributes(words, "openai_chat", redact, streaming=False)


def contents(written):
    return [part["content"] for message in json.loads(written) for part in message["parts"]]


def test_both_sides_are_there_as_the_conventions_have_it():
    found = said("hi", answer="hello")
    assert json.loads(found[INPUT]) == [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]
    assert json.loads(found[OUTPUT]) == [{"role": "assistant", "parts": [{"type": "text", "content": "hello"}], "finish_reason": "stop"}]
    assert CUT_FLAG not in found


def test_instructions_are_parts_of_their_own():
    words = Words(deque(), b'{"instructions": "be kind", "input": "hi"}', [b'{"status": "completed", "output": []}'])
    found = attributes(words, "openai_responses", redact, streaming=False)
    assert json.loads(found[SYSTEM]) == [{"type": "text", "content": "be kind"}]
    assert set(found) == {SYSTEM, INPUT}


def test_what_was_not_said_is_no_attribute():
    assert attributes(Words(deque()), "openai_chat", redact, streaming=True) == {}


def test_a_key_is_taken_out_of_every_place():
    call = {"function": {"name": SECRET, "arguments": json.dumps({"key": SECRET})}}
    messages = [{"role": SECRET, "content": SECRET}, {"role": "assistant", "content": [{"type": SECRET}], "tool_calls": [call]}]
    words = Words(
        deque(),
        json.dumps({"messages": messages}).encode(),
        [json.dumps({"choices": [{"message": messages[0], "finish_reason": SECRET}]}).encode()],
    )
    found = attributes(words, "openai_chat", redact, streaming=False)
    assert SECRET not in json.dumps(found)
    assert KEY in found[INPUT]
    assert KEY in found[OUTPUT]


def test_a_key_that_a_stream_brought_in_pieces_is_one_key():
    events = [{"choices": [{"index": 0, "delta": {"content": SECRET[at : at + 3]}}]} for at in range(0, len(SECRET), 3)]
    words = Words(deque(), b"{}", [b"data: %b\n\n" % json.dumps(event).encode() for event in events])
    assert contents(attributes(words, "openai_chat", redact, streaming=True)[OUTPUT]) == [KEY]


def test_a_long_text_is_cut_and_says_so():
    found = said("word " * TEXT_LETTERS)
    (content,) = contents(found[INPUT])
    assert content.endswith(CUT)
    assert len(content) <= TEXT_LETTERS + len(CUT)
    assert found[CUT_FLAG] is True


def test_of_a_long_conversation_the_last_words_stay():
    found = said(*(f"number {number} " + "word " * 1000 for number in range(10)))
    shown = contents(found[INPUT])
    assert shown[-1].startswith("number 9 ")
    assert not any(content.startswith("number 0 ") for content in shown)
    assert found[CUT_FLAG] is True


def test_many_empty_messages_are_bounded_as_well():
    found = said(*["x"] * 100_000)
    assert len(json.loads(found[INPUT])) <= TEXT_LETTERS / PART_LETTERS


def test_an_answer_that_was_kept_in_part_says_so():
    assert said("hi", cut=True)[CUT_FLAG] is True


@given(st.integers(0, 120), st.sampled_from([" ", "\n", "; "]))
def test_no_half_of_a_key_is_left_where_a_text_is_cut(before, space):
    """Whole keys all the way, so that the end of what is read falls into one of them, wherever it begins."""
    filled = "x" * before + space + (SECRET + space) * (2 * (TEXT_LETTERS + OVERLAP) // len(SECRET))
    (content,) = contents(said(filled)[INPUT])
    assert "Ab3d" not in content
    assert "sk-" not in content


@pytest.mark.parametrize("length", [TEXT_LETTERS + OVERLAP + 1, 1 << 20])
def test_one_word_without_an_end_says_nothing(length):
    assert contents(said("A" * length)[INPUT]) == [CUT]
