"""What is kept of an attempt, and how much of all of them together."""

import pytest

from broker.overheard import ANSWER_BYTES, BODY_BYTES, Overheard
from broker.tracecontext import SAMPLED, headers

SPAN = "b" * 16


def trace(span_id: str = SPAN, flags: int = SAMPLED) -> list[tuple[bytes, bytes]]:
    return list(headers("a" * 32, span_id, flags, b"k=v"))


def test_what_is_asked_and_answered_is_kept_for_its_span_once():
    it = Overheard()
    heard = it.hear(trace(), b"question")
    heard(b"ans")
    heard(b"wer")
    words = it.take(SPAN)
    assert (words.asked, words.answered, words.cut) == (b"question", [b"ans", b"wer"], False)
    assert it.take(SPAN) is None


@pytest.mark.parametrize("about", [[], trace(flags=0)])
def test_nothing_is_kept_of_what_no_trace_records(about):
    it = Overheard()
    assert it.hear(about, b"question") is None
    assert it.take(SPAN) is None


def test_a_request_that_is_too_large_is_left_out_whole():
    it = Overheard()
    heard = it.hear(trace(), b"x" * (BODY_BYTES + 1))
    heard(b"answer")
    words = it.take(SPAN)
    assert (words.asked, words.answered, words.cut) == (b"", [], True)


def test_of_an_answer_only_the_beginning_is_kept_and_nothing_after_a_gap():
    it = Overheard()
    heard = it.hear(trace(), b"question")
    heard(b"x" * ANSWER_BYTES)
    heard(b"y")
    heard(b"")
    words = it.take(SPAN)
    assert (len(b"".join(words.answered)), words.cut) == (ANSWER_BYTES, True)


def test_all_of_them_together_have_so_much_room_and_what_is_released_is_room_again():
    it = Overheard(room_bytes=10)
    it.hear(trace("1" * 16), b"12345678")
    it.hear(trace("2" * 16), b"too much")
    first, second = it.take("1" * 16), it.take("2" * 16)
    assert (first.asked, second.asked, second.cut) == (b"12345678", b"", True)
    for words in (first, second):
        words.release()
    it.hear(trace("3" * 16), b"0123456789")
    assert it.take("3" * 16).asked == b"0123456789"


def test_words_are_in_no_repr():
    it = Overheard()
    it.hear(trace(), b"question")
    assert "question" not in repr(it.take(SPAN))
