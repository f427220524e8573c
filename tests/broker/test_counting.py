"""Counts are upper bounds of a prompt and lower bounds of a stream, in bounded time, beside everything else that runs."""

import asyncio
import contextlib
import itertools
import random
import threading
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from broker import counting
from broker.chat import Usage
from broker.counting import BYTES_PER_BOUND, BYTES_PER_TOKEN, MARGIN, SLACK, USUAL, WINDOW, WORTH_BYTES, Counting, OutputGauge, bounds

VOCABULARIES = ("o200k_base", "cl100k_base")
COUNTS = {name: counting.load(name) for name in VOCABULARIES}
PROSE = "The broker counts what a prompt costs, and holds it before anything is sent to a provider.\n" * 40


def tokens(text: str, vocabulary: str = USUAL) -> int:
    return COUNTS[vocabulary](text)


def raw(text: str) -> Raw:
    return Raw(msgspec.json.encode(text))


@pytest.fixture
def counter():
    one = Counting()
    yield one
    one.close()


# --- windows

# Words, digits, contractions, marks, scripts without spaces, and every kind of white space: what the vocabularies' patterns tell apart.
PIECES = st.sampled_from(
    [
        *[
            "a",
            "B",
            "unbelie",
            "thesis",
            "tokenize",
            "1",
            "12345",
            "'s",
            "'",
            "-",
            "/",
            "//",
            "_",
            ".",
            "。",
            "é",
            "e\u0301",
            "漢",
            "漢字",
            "ไทย",
            "ß",
        ],
        *[
            " ",
            "  ",
            "\t",
            "\n",
            "\r\n",
            "\n\n",
            "\r",
            "\u00a0",
            "\u3000",
            "\x1c",
            "\x85",
            "\u2028",
            "🙂",
            "½",
            "٣",
            "<|endoftext|>",
            "\x00",
        ],
    ]
)
TEXTS = st.lists(PIECES | st.characters(exclude_categories=["Cs"]), max_size=60).map("".join)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@settings(max_examples=400, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), window=st.sampled_from([1, 2, 7, 16, 64, WINDOW]))
@example(texts=["so unbelie", "thesis is"], window=WINDOW)
@example(texts=["t", "abcdefghijklmnopqrstuvwxyz is"], window=WINDOW)
@example(texts=["a 12\n345", "67 8"], window=WINDOW)
def test_what_is_counted_is_never_less_than_what_the_text_costs_whatever_it_stands_beside(vocabulary, texts, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "WINDOW", window)
        found = [list(bounds(text, lambda part: tokens(part, vocabulary))) for text in texts]
    assert tokens("".join(texts), vocabulary) <= sum(bound for each in found for _, bound in each)
    assert [sum(size for size, _ in each) for each in found] == [len(text.encode()) for text in texts]
    assert all(bound <= size for each in found for size, bound in each)


def test_a_count_of_texts_that_a_template_puts_together_would_be_too_low():
    texts = ["so unbelie", "thesis is"]
    naive = sum(tokens(text, "cl100k_base") for text in texts)
    assert naive < tokens("".join(texts), "cl100k_base")


def test_a_count_of_pieces_cut_anywhere_would_be_too_low():
    def naive(text: str, window: int) -> int:
        return sum(tokens(text[at : at + window], "cl100k_base") for at in range(0, len(text), window))

    text = " unbeliethesis" * 50
    assert naive(text, 14) == tokens(text, "cl100k_base")
    assert naive(text, 8) < tokens(text, "cl100k_base") <= sum(bound for _, bound in bounds(text, tokens))


def test_prose_is_counted_within_a_few_tokens_of_the_truth():
    text = PROSE * 20
    assert len(text) > 3 * WINDOW
    assert 0 <= sum(bound for _, bound in bounds(text, tokens)) - tokens(text) <= len("The" + " provider.\n")


@pytest.mark.parametrize("text", ["a" * 100_000, " " * 100_000, "\n" * 100_000, "🙂" * 30_000, "漢字" * 30_000, "a1." * 30_000])
def test_a_text_without_a_place_to_cut_has_its_bytes_and_is_never_counted_whole(text):
    longest = 0

    def count(part: str) -> int:
        nonlocal longest
        longest = max(longest, len(part))
        return tokens(part)

    assert sum(bound for _, bound in bounds(text, count)) == len(text.encode())
    assert longest == 0


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_no_window_is_larger_than_a_window(seed):
    draw = random.Random(seed)  # noqa: S311  a text, no secret
    text = "".join(draw.choice("ab1 \n.漢") for _ in range(30_000))
    longest = 0

    def count(part: str) -> int:
        nonlocal longest
        longest = max(longest, len(part))
        return 0

    list(bounds(text, count))
    assert 0 < longest <= WINDOW


# --- prompts


async def test_a_prompt_that_does_not_fit_by_bytes_fits_by_its_count(counter):
    text = raw(PROSE)
    bound = await counter.bound(len(text) + 100, 2000, [text], {USUAL})
    assert tokens(PROSE) + 100 <= bound <= tokens(PROSE) + 130
    assert bound < 2000 < len(text)


async def test_the_largest_count_of_those_that_may_be_asked_is_the_bound(counter):
    text = raw("ไทย ภาษาไทย\n" * 300)
    each = [await counter.bound(len(text), len(text), [text], {name}) for name in VOCABULARIES]
    assert each[0] != each[1]
    for both in (VOCABULARIES, VOCABULARIES[::-1]):
        assert await counter.bound(len(text), len(text), [text], both) == max(each)


async def test_an_unknown_vocabulary_has_a_margin(counter):
    text = raw(PROSE)
    exact = await counter.bound(len(text), len(text), [text], {USUAL})
    bound = await counter.bound(len(text), len(text), [text], {None})
    assert max(MARGIN * tokens(PROSE), len(PROSE) // BYTES_PER_BOUND) <= bound <= min(MARGIN * exact, len(text))


@pytest.mark.parametrize("text", [("a" + " " * 79) * 100, ("x\n" + "-" * 64 + "\ny\n") * 100])
async def test_no_text_is_held_below_half_its_bytes_where_the_vocabulary_is_unknown(counter, text):
    one = raw(text)
    bound = await counter.bound(len(one), len(one), [one], {None})
    naive = MARGIN * tokens(text)
    assert naive * BYTES_PER_BOUND < len(text)
    assert bound * BYTES_PER_BOUND >= len(text)


async def test_short_texts_and_all_that_is_no_text_keep_their_bytes(counter):
    texts = [raw("word " * 5)] * 10
    assert len(texts[0]) < WORTH_BYTES
    assert await counter.bound(1000, 1000, texts, {USUAL}) == 1000


@pytest.mark.parametrize("room", [None, 0, 50, 99])
async def test_nothing_is_counted_where_no_count_could_fit(room):
    def load(_):
        raise AssertionError

    one = Counting(load)
    text = raw(PROSE)
    assert await one.bound(len(text) + 100, room, [text], {USUAL}) is None
    one.close()


async def test_a_count_ends_as_soon_as_it_cannot_fit():
    windows = []

    def load(_):
        return lambda part: windows.append(part) or len(part)

    one = Counting(load)
    text = raw(PROSE * 100)
    assert await one.bound(len(text), WINDOW + 100, [text], {USUAL}) is None
    assert len(windows) == 2
    one.close()


async def test_without_the_package_bytes_stay(monkeypatch):
    monkeypatch.setattr(counting, "PACKAGE", "no_such_package_here")
    one = Counting()
    text = raw(PROSE)
    assert await one.bound(len(text), 2000, [text], {USUAL}) is None
    assert not (await one.gauge(Usage(1, 10), USUAL)).passes(0, "x" * 10 * BYTES_PER_TOKEN)
    one.close()


async def test_a_package_that_is_broken_is_said_once_and_bytes_stay(caplog):
    def load(_):
        raise ImportError("a shared object is missing")

    one = Counting(load)
    text = raw(PROSE)
    assert [await one.bound(len(text), 2000, [text], {USUAL}) for _ in range(3)] == [None] * 3
    assert [record.message for record in caplog.records] == ["counting_unavailable"]
    one.close()


async def test_a_count_that_takes_too_long_is_given_up_and_ends(monkeypatch):
    monkeypatch.setattr(counting, "DEADLINE_S", 0.05)
    hang, calls = threading.Event(), []

    def load(_):
        return lambda part: (calls.append(part), hang.wait(10))[0] or 0

    one = Counting(load)
    text = raw(PROSE * 100)
    assert await one.bound(len(text), len(text), [text], {USUAL}) is None
    hang.set()
    monkeypatch.setattr(counting, "DEADLINE_S", 10)
    assert await one.bound(len(raw("x" * 100)), 1000, [raw("x" * 100)], {USUAL}) == 100  # the thread is free again
    assert len(calls) == 1
    one.close()


async def test_more_counts_at_once_than_may_wait_keep_their_bytes():
    hang = threading.Event()

    def load(_):
        hang.wait(10)
        return tokens

    one = Counting(load)
    text = raw(PROSE)
    waiting = [asyncio.create_task(one.bound(len(text), len(text), [text], {USUAL})) for _ in range(counting.WAITING_MOST)]
    await asyncio.sleep(0)
    assert await one.bound(len(text), len(text), [text], {USUAL}) is None
    hang.set()
    assert None not in await asyncio.gather(*waiting)
    assert await one.bound(len(text), len(text), [text], {USUAL}) is not None
    one.close()


async def test_a_caller_that_leaves_ends_its_count():
    began, hang, calls = threading.Event(), threading.Event(), []

    def load(_):
        return lambda part: (calls.append(part), began.set(), hang.wait(10))[0] or 0

    one = Counting(load)
    text = raw(PROSE * 100)
    task = asyncio.create_task(one.bound(len(text), len(text), [text], {USUAL}))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hang.set()
    assert await one.bound(100, 1000, [raw("x" * 98)], {USUAL}) == 98
    assert len(calls) == 1
    one.close()


async def test_the_thread_rests_as_long_as_it_worked_so_that_the_loop_runs_on(monkeypatch):
    began, rested = itertools.count(), []
    clock = SimpleNamespace(perf_counter=lambda: next(began) * 0.001, sleep=rested.append)
    monkeypatch.setattr(counting, "time", clock)
    one = Counting(lambda _: tokens)
    text = raw(PROSE * 100)
    assert await one.bound(len(text), len(text), [text], {USUAL}) < len(text)
    assert len(rested) >= len(text) // WINDOW
    assert rested == pytest.approx([0.001] * len(rested))
    one.close()


async def test_the_loop_has_its_turn_between_any_two_windows(counter):
    text = raw(PROSE * 200)
    counted = asyncio.create_task(counter.bound(len(text), len(text), [text], {USUAL}))
    rounds = 0
    while not counted.done():
        await asyncio.sleep(0)
        rounds += 1
    assert counted.result() < len(text)
    assert rounds > len(text) // WINDOW


# --- streams


def deltas(text: str) -> list[str]:
    """As a server writes it: a token at a time, or more where a character needs more."""
    encoder, pieces, pending = COUNTS[USUAL].__self__, [], []
    for token in encoder.encode(text):
        pending.append(token)
        with contextlib.suppress(ValueError):
            pieces.append(encoder.decode(pending))
            pending = []
    assert "".join(pieces) == text
    return pieces


@settings(max_examples=150, deadline=None)
@given(text=TEXTS.filter(bool), choices=st.integers(1, 3))
@example(text=PROSE * 3, choices=2)
def test_a_stream_that_keeps_to_its_hold_is_never_cut(text, choices):
    most = tokens(text)
    gauge = OutputGauge(Usage(0, most * choices), tokens, 1)
    assert not any(gauge.passes(choice, piece) for piece in deltas(text) for choice in range(choices))


@pytest.mark.parametrize("most", [1, 16, 100, 700])
def test_a_stream_that_passes_its_hold_is_cut_at_the_token(most):
    gauge = OutputGauge(Usage(0, most), tokens, 1)
    pieces = deltas(PROSE)
    passed = next(at for at, piece in enumerate(pieces, start=1) if gauge.passes(0, piece))
    assert passed == most + 1


@pytest.mark.parametrize("piece", ["a", "漢", "🙂", " ", "\n", "a " * 50_000, "x" * 300_000])
def test_a_stream_that_never_ends_is_cut_whatever_it_says(piece):
    gauge = OutputGauge(Usage(0, 1000), tokens, 1)
    assert any(gauge.passes(at, piece) for at in range(3) for _ in range(200_000))


def test_few_counts_make_a_long_stream():
    counted = []

    def count(part: str) -> int:
        counted.append(len(part))
        return tokens(part)

    gauge = OutputGauge(Usage(0, tokens(PROSE)), count, 1)
    for piece in deltas(PROSE):
        gauge.passes(0, piece)
    assert len(counted) < 100
    assert sum(counted) < 2 * len(PROSE)


def test_a_provider_that_names_ever_new_texts_takes_no_memory():
    gauge = OutputGauge(Usage(0, 10**6), tokens, 1)
    for at in range(5000):
        gauge.passes(at, "x")
    assert len(gauge._news) <= 257


async def test_a_stream_of_an_unknown_vocabulary_has_the_margin(counter):
    most = tokens(PROSE)
    gauge = await counter.gauge(Usage(0, most), None)
    assert not any(gauge.passes(0, piece) for piece in deltas(PROSE) * SLACK)
    assert any(gauge.passes(0, piece) for piece in deltas(PROSE))
