"""The targets of the fuzzer within `make test`: each kept input is a case, and hypothesis makes some hundred more out of them."""

from pathlib import Path

import pytest
from fuzz.targets import CORPUS, TARGETS, Target
from hypothesis import given
from hypothesis import strategies as st

KEPT = [(target, path) for target in TARGETS.values() for path in target.corpus]


@pytest.mark.parametrize(("target", "path"), KEPT, ids=[f"{target.name}-{path.name}" for target, path in KEPT])
def test_a_kept_input_breaks_no_promise(target: Target, path: Path):
    target.check(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_no_mutation_of_a_kept_input_breaks_a_promise(target: Target):
    mutated = mutations(tuple(path.read_bytes() for path in target.corpus), tuple(word.encode("utf-8") for word in target.words))
    given(mutated)(target.check)()


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_no_heap_of_words_breaks_a_promise(target: Target):
    words = st.sampled_from([word.encode("utf-8") for word in target.words])
    given(st.lists(words | st.binary(max_size=3), max_size=30).map(b"".join))(target.check)()


def test_every_folder_of_kept_inputs_belongs_to_a_target():
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


def test_kept_inputs_are_few_and_small():
    assert all(len(target.corpus) <= 60 for target in TARGETS.values())
    assert all(path.stat().st_size <= target.longest_bytes for target, path in KEPT)


@st.composite
def mutations(draw: st.DrawFn, kept: tuple[bytes, ...], words: tuple[bytes, ...]) -> bytes:
    """A kept input after a few cuts, copies and insertions of the kind that people and proxies make."""
    data = draw(st.sampled_from(kept))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        new = draw(st.sampled_from(words) | st.binary(max_size=4) | st.just(data[start:end] * 2))
        data = data[:start] + new + data[end:]
    return data
