"""Bytes of an API server into pages, events and objects; whoever may write objects decides what is in them."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kube.decoding import DEPTH, Lines, Unreadable, read_event, read_object, read_page, read_status, shallow

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def same(fields: dict[str, object]) -> dict[str, object]:
    return fields


def deep(levels: int) -> bytes:
    return b'{"junk": ' + b"[" * levels + b"]" * levels + b', "kept": 1}'


@given(JSON)
def test_what_is_not_deep_stays_as_it_is(value):
    data = json.dumps(value).encode()
    assert shallow(data) == data


@given(st.integers(0, 200), st.text(), st.binary(max_size=20))
def test_what_is_deep_is_cut_and_nothing_beside_it(levels, text, junk):
    around = {"before": text, "junk": 0, "after": [text, {"[": "{"}, '\\"]'], "bytes": junk.hex()}
    value: object = text
    for level in range(levels):
        value = [value] if level % 2 else {"]": value, '"{': text}
    cut = json.loads(shallow(json.dumps({**around, "junk": value}).encode()))
    assert {**cut, "junk": 0} == around
    if levels < DEPTH:
        assert cut["junk"] == value


@pytest.mark.parametrize("levels", [*range(880, 1010, 3), 10_000, 200_000])
def test_no_depth_of_an_object_is_too_much(levels):
    def make(fields: dict[str, object]) -> object:
        msgspec.json.encode(fields)  # what is done with an object may go as deep as it does
        return fields["kept"]

    assert read_object(msgspec.Raw(deep(levels)), make) == 1


@pytest.mark.parametrize("levels", [900, 990, 10_000])
def test_no_depth_of_one_object_spoils_a_page_or_an_event(levels):
    page = read_page(b'{"metadata": {"resourceVersion": "7"}, "items": [%s, {"a": 1}]}' % deep(levels))
    assert [sorted(read_object(raw, same)) for raw in page.items or ()] == [["junk", "kept"], ["a"]]
    event = read_event(b'{"type": "ADDED", "object": %s}' % deep(levels))
    assert read_object(event.object, lambda fields: fields["kept"]) == 1


def test_a_page_says_where_the_next_one_begins():
    page = read_page(b'{"items": [], "metadata": {"continue": "abc", "resourceVersion": "7", "remainingItemCount": 5}}')
    assert (page.metadata.more, page.metadata.version, page.items) == ("abc", "7", ())


def test_a_list_of_nothing_may_say_null():
    assert read_page(b'{"metadata": {}, "items": null}').items is None


def test_a_field_that_nobody_knows_is_there():
    assert read_object(msgspec.Raw(b'{"spec": {"new": [1, {"x": null}]}}'), same) == {"spec": {"new": [1, {"x": None}]}}


@given(st.binary() | st.sampled_from([b"", b"[]", b"1", b'"a"', b'{"type": 1}', b'{"type": "ADDED"}', b'{"metadata": {}, "items": 5}']))
def test_what_is_none_of_it_is_unreadable_and_nothing_worse(data):
    for read in (read_page, read_event, lambda raw: read_object(msgspec.Raw(raw), same)):
        with contextlib.suppress(Unreadable):
            read(data)
    assert isinstance(read_status(data)[0], int)


@given(st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line)), st.data())
def test_lines_are_the_same_however_the_bytes_come(expected, data):
    stream = b"".join(line + b"\n" for line in expected)
    lines, found, at = Lines(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        found += lines.feed(stream[at : at + size])
        at += size
    assert found == expected


def test_a_line_without_an_end_is_not_kept_for_ever():
    lines = Lines(most_bytes=100)
    assert list(lines.feed(b"x" * 90)) == []
    with pytest.raises(Unreadable, match="100"):
        list(lines.feed(b"x" * 90))


def test_a_status_that_is_none_says_nothing():
    assert read_status(b"<html>") == (0, "")
    assert read_status(b'{"code": 410, "message": "too old"}') == (410, "too old")
