"""The bytes of a text, as a tokenizer may spell it: never fewer than any normal form of it has."""

import json
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.dialects import anthropic_messages, embeddings, openai_completions
from broker.spelling import CHARACTER_GROWTH, ESCAPE_BYTES, ESCAPE_GROWTH, LOOKED_AT_BYTES, longest_bytes

FORMS = ("NFC", "NFKC")
LIGATURE = "\ufdfa"  # 3 bytes, 33 in form KC
NOTE = "\U0001d160"  # 4 bytes, 12 in form C


def spelt(text: str) -> int:
    return max(len(unicodedata.normalize(form, text).encode()) for form in FORMS)


@given(st.text(), st.booleans())
@example(text=LIGATURE * 3 + NOTE, escaped=True)
@example(text="e\u0301\u0344\ufb2c", escaped=False)
@example(text="\\ufdfa", escaped=True)
def test_it_is_never_less_than_a_normal_form_has(text, escaped):
    body = json.dumps(text, ensure_ascii=escaped).encode()
    assert longest_bytes(body) >= max(len(body), spelt(text))


@pytest.mark.parametrize("text", ["plain", "Grüße, 北京, Привет, नमस्ते, 😀", "\u200b", "e\u0301"])
@pytest.mark.parametrize("escaped", [True, False])
def test_what_people_write_costs_its_own_bytes(text, escaped):
    body = json.dumps(text, ensure_ascii=escaped).encode()
    assert longest_bytes(body) == len(body)


def test_each_character_that_becomes_longer_is_counted_as_often_as_it_stands_there():
    assert longest_bytes(f'"{LIGATURE * 5} and {NOTE}"'.encode()) == len(f'"{LIGATURE * 5} and {NOTE}"'.encode()) + 5 * 30 + 8
    assert longest_bytes(b'"\\ufdfa\\uFDFA"') == 14 + 2 * 27


def test_the_bounds_for_what_is_too_much_to_look_at_are_bounds():
    for number in range(0x80, sys.maxunicode + 1):
        character = chr(number)
        if not 0xD800 <= number <= 0xDFFF and not unicodedata.is_normalized("NFKC", character):
            size, written_in = spelt(character), len(character.encode())
            assert size <= (1 + CHARACTER_GROWTH) * written_in
            assert size <= (ESCAPE_BYTES + ESCAPE_GROWTH if number < 0x10000 else 2 * ESCAPE_BYTES)


def test_more_than_a_context_window_is_bounded_without_a_look():
    many = LIGATURE * (LOOKED_AT_BYTES // 3 + 1)
    assert longest_bytes(many.encode()) == 11 * len(many.encode()) == spelt(many)
    assert longest_bytes(b"\\ufdfa" * (LOOKED_AT_BYTES // 6 + 1)) == 33 * (LOOKED_AT_BYTES // 6 + 1)


@pytest.mark.parametrize(
    ("dialect", "asked"),
    [
        (anthropic_messages, {"max_tokens": 9, "messages": [{"role": "user", "content": LIGATURE * 1000}]}),
        (openai_completions, {"prompt": LIGATURE * 1000}),
        (embeddings, {"input": [LIGATURE * 1000]}),
    ],
    ids=lambda of: getattr(of, "NAME", ""),
)
@pytest.mark.parametrize("escaped", [True, False])
def test_a_prompt_is_held_as_the_longest_that_a_tokenizer_makes_of_it(dialect, asked, escaped):
    body = json.dumps({"model": "m", **asked}, ensure_ascii=escaped).encode()
    assert dialect.read(body).demand(9, None).prompt_bound >= 33_000
