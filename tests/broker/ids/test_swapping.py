"""JSON in, the same JSON with other ids out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.ids.swapping import PLACES_MAX, VALUES_MAX, Shape, Unreadable, swap, swap_event
from broker.sealing import Kind

INNER = Shape({"id": Kind.ITEM})
SHAPE = Shape(
    {"id": Kind.RESPONSE, "ids": Kind.FILE}, {"items": INNER, "one": INNER, "either": Shape({"id": Kind.CONTAINER}, text=Kind.CONTAINER)}
)


def loud(kind, id_, at):
    return f"{kind}:{at}:{id_.upper()}"


def swapped(value, shape=SHAPE):
    return json.loads(swap(value if isinstance(value, bytes) else json.dumps(value).encode(), shape, loud))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"id": "a"}, {"id": "response:id:A"}),
        ({"id": None, "ids": None, "items": None, "either": None}, {"id": None, "ids": None, "items": None, "either": None}),
        ({"ids": ["a", None, "b"]}, {"ids": ["file:ids:A", None, "file:ids:B"]}),
        ({"items": [{"id": "a"}, {"x": "b"}]}, {"items": [{"id": "item:items.id:A"}, {"x": "b"}]}),
        ({"items": "a text", "one": {"id": "a", "y": {"id": "b"}}}, {"items": "a text", "one": {"id": "item:one.id:A", "y": {"id": "b"}}}),
        ({"either": "a"}, {"either": "container:either:A"}),
        ({"either": {"id": "a"}}, {"either": {"id": "container:either.id:A"}}),
        ({"x": {"id": "a"}, "y": 5.50}, {"x": {"id": "a"}, "y": 5.50}),
        ({"id": 'a"\\\u00e9'}, {"id": 'response:id:A"\\\u00c9'}),
        ({"items": [5, "t", None, True]}, {"items": [5, "t", None, True]}),
        ({"x": [[{"id": "a"}]]}, {"x": [[{"id": "a"}]]}),
        ({}, {}),
    ],
)
def test_ids_are_found_by_the_names_of_their_places(value, expected):
    assert swapped(value) == expected


def test_all_else_passes_byte_for_byte():
    value = b'{"n":1.50e3,"id":"a","text":"\\u00e9\\/","o":{ "id" : "b" },"items":[{"id":"c","t":[ 1 , 2 ]}]}'
    expected = value.replace(b'"a"', b'"response:id:A"').replace(b'"c"', b'"item:items.id:C"')
    assert swap(value, SHAPE, loud) == expected


@pytest.mark.parametrize("value", [b'{"id":"a","id":null}', b'{"id":"a","i\\u0064":"b"}', b'{"items":[{"id":"a","id":"b"}],"items":null}'])
def test_a_second_member_of_the_same_name_hides_nothing(value):
    assert b'"a"' not in swap(value, SHAPE, loud)


@pytest.mark.parametrize(
    "value",
    [b"", b"null", b"5", b'"text"', b"{", b'{"id":5}', b'{"id":{}}', b'{"id":true}', b'{"ids":[{}]}', b'{"items":[[{"id":"a"}]]}', b'{"items":[[]]}', b'{"id":"a"} x', b'{"id":"\xff"}',
     b'{"items":' + b"[" * 100_000, b'{"items":' + b"[" * 5000 + b"]" * 5000 + b"}"],
)  # fmt: skip
def test_what_nobody_can_read_is_refused(value):
    with pytest.raises(Unreadable):
        swap(value, SHAPE, loud)


@pytest.mark.parametrize(
    "value",
    [
        b'{"items":[%b{}]}' % (b"{}," * PLACES_MAX),
        b'{"ids":[%b"a"]}' % (b'"a",' * PLACES_MAX),
        b'{"x":[%b1]}' % (b"1," * (VALUES_MAX + 1)),
        b'{"items":[%b[]]}' % (b"[]," * (VALUES_MAX + 1)),
    ],
    ids=["objects", "ids", "values elsewhere", "values in a place"],
)
def test_what_would_take_too_long_is_refused(value):
    with pytest.raises(Unreadable):
        swap(value, SHAPE, loud)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_what_has_no_ids_in_its_places_means_what_it_meant(value):
    nested = isinstance(value, list) and any(isinstance(each, list) for each in value)
    items = None if nested else value
    assert swapped({"items": items, "x": value}, Shape({"nowhere": Kind.ITEM}, {"items": Shape({"nor here\0": Kind.ITEM})})) == {
        "items": items,
        "x": value,
    }


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b'data: {"id":"a"}\n\n', b'data: {"id":"response:id:A"}\n\n'),
        (b'event: e\ndata: {"id":"a"}\n\n', b'event: e\ndata: {"id":"response:id:A"}\n\n'),
        (b'data:{"id":"a"}\r\nevent:e\r\n\r\n', b'event: e\ndata: {"id":"response:id:A"}\n\n'),
        (b'id: raw\nretry: 5\n: raw\ndata: {"id":"a"}\n\n', b'data: {"id":"response:id:A"}\n\n'),
        (b'data: {"x": 1,\ndata: "id":\ndata: "a"}\n\n', b'data: {"x":1,"id":"response:id:A"}\n\n'),
        (b'\xef\xbb\xbfdata:  {"id":"a"} \n\n', b'data: {"id":"response:id:A"}\n\n'),
        (b"data: [DONE]\n\n", b"data: [DONE]\n\n"),
        (b"id: raw\n: raw\ndata: [DONE]\n\n", b"data: [DONE]\n\n"),
        (b": here I am, raw\n\n", b":\n\n"),
        (b'{"id":"raw"}\n\n', b":\n\n"),
        (b"event: raw\nid: raw\nretry: 5\n\n", b":\n\n"),
        (b"\n", b"\n"),
    ],
)
def test_of_an_event_its_name_and_its_data_go_on(event, expected):
    assert swap_event(event, SHAPE, loud) == expected


@pytest.mark.parametrize("data", [b"text", b"[1]", b'"a"', b"{", b'{"id":5}', b"null", b'{"x":\ndata: 5'])
def test_an_event_that_nobody_can_read_is_refused(data):
    with pytest.raises(Unreadable):
        swap_event(b"data: %b\n\n" % data, SHAPE, loud)
