"""What was used, as two vendors and those who copy them report it. The tests of each dialect's meter are in tests/broker/dialects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.chat import Usage
from broker.tallies.anthropic_messages import MessagesTally
from broker.tallies.openai_chat import ChatTally

figures = st.integers(0, 2**31 - 1)


def chat(**usage):
    tally = ChatTally(asked_usage=True)
    tally.answer({"usage": usage})
    return tally


def messages(**usage):
    tally = MessagesTally()
    tally.answer({"usage": usage})
    return tally


# OpenAI has reasoning in the completion; xAI, and Gemini in this dialect, have it in the total alone.
@pytest.mark.parametrize(
    ("reported", "used"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49}, Usage(9, 40)),
        (
            {"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49, "completion_tokens_details": {"reasoning_tokens": 30}},
            Usage(9, 40),
        ),
        (
            {"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 399, "completion_tokens_details": {"reasoning_tokens": 386}},
            Usage(12, 387),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": None}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 5}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}, Usage(9, 4, 8)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 80}}, Usage(9, 4, 9)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": "8"}}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(9, 4)),
    ],
)
def test_a_chat_reports_cached_and_reasoning_tokens_each_once(reported, used):
    tally = chat(**reported)
    assert (tally.usage, tally.done) == (used, True)


@pytest.mark.parametrize("total", ["49", -1, 4.5, True, 2**31])
def test_a_total_that_cannot_be_spoils_the_report(total):
    tally = chat(prompt_tokens=9, completion_tokens=40, total_tokens=total)
    assert (tally.usage, tally.done) == (None, False)


@given(prompt=figures, completion=figures, total=figures)
def test_no_total_takes_tokens_away(prompt, completion, total):
    used = chat(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total).usage
    assert used.input_tokens + used.output_tokens == max(total, prompt + completion)
    assert (used.input_tokens, used.output_tokens >= completion) == (prompt, True)


@given(fresh=figures, written=figures, read=figures, output=figures)
def test_a_messages_input_has_what_was_read_from_and_written_to_the_cache(fresh, written, read, output):
    tally = messages(input_tokens=fresh, cache_creation_input_tokens=written, cache_read_input_tokens=read, output_tokens=output)
    naive = fresh  # "input_tokens" alone, which leaves out both
    assert tally.usage == Usage(fresh + written + read, output, read, written)
    assert tally.usage.input_tokens >= naive


def test_thinking_is_in_a_messages_output():
    tally = messages(input_tokens=9, output_tokens=70, output_tokens_details={"thinking_tokens": 60})
    assert tally.usage == Usage(9, 70)
