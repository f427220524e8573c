"""The plain part of YAML, with a place for everything, and refusals for what surprises people."""

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from broker.objects import UNREADABLE
from broker.objects.yamltext import DEPTH, InvalidYaml, read_yaml


def value(text: str) -> object:
    (document,) = read_yaml(text.encode())
    assert document.faults == []
    return document.value


def test_each_field_and_item_has_its_line_and_column():
    first, second = read_yaml(b"a: 1\nb:\n  - c: 2\n---\n\nd: 3\n")
    assert first.marks == {"": (1, 1), "a": (1, 1), "b": (2, 1), "b[0]": (3, 5), "b[0].c": (3, 5)}
    assert second.marks["d"] == (6, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("1:30", "1:30"),
        ("0100", "0100"),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        ("12", 12),
        ("-3", -3),
        ("5.00", 5.0),
        ("'12'", "12"),
        ("~", None),
        ("|\n  x\n", "x\n"),
        ("=", "="),
    ],
)
def test_words_mean_what_yaml_1_2_says(text: str, expected: object):
    assert value(f"a: {text}") == {"a": expected}
    assert type(value(f"a: {text}")["a"]) is type(expected)  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &x 1", "anchor"),
        ("a: 1\nb: *x", "alias"),
        ("a: !!python/name:os.system x", "tag"),
        ("a: !!str 1", "tag"),
        ("a: {<<: {b: 1}}", "merge key"),
        ("a: {1: 2}", "no text"),
        ("a: {[b]: 2}", "no text"),
        ("a: 1\na: 2", "written twice, first in line 1"),
    ],
)
def test_what_surprises_is_refused_where_it_stands(text: str, told: str):
    (document,) = read_yaml(text.encode())
    assert told in document.faults[0].message
    assert document.faults[0].path in document.marks


def test_a_refused_value_is_neither_of_the_two_that_were_written():
    (document,) = read_yaml(b"action: Allow\naction: Deny")
    assert document.value == {"action": UNREADABLE}


@pytest.mark.parametrize("data", [b"a: [", b"a: b: c", b"\xff\xfe\x00", b"a: \x00", b"\ta: 1", b"a: 1\n b: 2"])
def test_a_text_that_is_no_yaml_says_where(data: bytes):
    with pytest.raises(InvalidYaml) as raised:
        read_yaml(data)
    assert raised.value.line >= 1


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_depth_is_bounded_before_the_parser_pays_for_it(opening: str):
    with pytest.raises(InvalidYaml, match=f"deeper than {DEPTH}"):
        read_yaml(opening.encode() * 300_000)


def test_aliases_never_multiply():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    (document,) = read_yaml("\n".join(lines).encode())
    assert document.value == {f"a{n}": UNREADABLE for n in range(20)}


def test_empty_documents_are_passed_over():
    assert read_yaml(b"---\n---\n# nothing\n") == ()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1), inner, max_size=4)
    ),
    max_leaves=15,
)


class Quoting(yaml.SafeDumper):
    """Writes text in quotes: PyYAML's own idea of what needs them is that of YAML 1.1."""

    def ignore_aliases(self, data: object) -> bool:
        return True


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@given(plain)
def test_what_is_dumped_is_read_back(written: object):
    assert value(yaml.dump({"a": written}, Dumper=Quoting, width=10_000)) == {"a": written}


@given(st.binary(max_size=200) | st.text(alphabet="ab:-[]{}&*!#|>'\"\n ,?%@`").map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes):
    with contextlib.suppress(InvalidYaml):
        assert isinstance(read_yaml(data), tuple)
