import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from broker import body as bodies
from broker.errors import BadRequest

KEYS = st.sampled_from(["model", "n", "mod\u00e9l", 'a"b', "x", "", "max_tokens", "stream", "a\nb", "\U0001f600"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-10, 10**12), st.text(max_size=6), st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6)


def written(pairs: list[tuple[str, object]], style: tuple[str, str, bool, str]) -> bytes:
    """A JSON object with these members, duplicates and all."""
    comma, colon, ascii_only, edge = style
    members = comma.join(
        f"{json.dumps(k, ensure_ascii=ascii_only)}{colon}{json.dumps(v, ensure_ascii=ascii_only, separators=(comma, colon))}"
        for k, v in pairs
    )
    return f"{edge}{{{members}}}{edge}".encode()


STYLES = st.tuples(
    st.sampled_from([",", ", ", ",\n  "]), st.sampled_from([":", ": ", " : "]), st.booleans(), st.sampled_from(["", "\n", " "])
)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=9), STYLES)
def test_an_object_opens_exactly_when_its_keys_are_unique(pairs: list[tuple[str, object]], style: tuple[str, str, bool, str]) -> None:
    body = written(pairs, style)
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        with pytest.raises(BadRequest, match="twice"):
            bodies.open_body(body)
    else:
        members = bodies.open_body(body)
        assert {name: json.loads(bytes(raw)) for name, raw in members.items()} == dict(pairs)


@given(st.lists(st.lists(st.tuples(KEYS, SCALARS), max_size=6), max_size=6), STYLES)
def test_the_objects_of_an_array_split_exactly_when_each_has_unique_keys(
    each: list[list[tuple[str, object]]], style: tuple[str, str, bool, str]
) -> None:
    raw = Raw(b"[" + style[0].encode().join(written(pairs, style) for pairs in each) + b"]")
    if any(len({key for key, _ in pairs}) < len(pairs) for pairs in each):
        with pytest.raises(BadRequest, match="twice"):
            bodies.split_each(raw, "messages")
    else:
        found = bodies.split_each(raw, "messages")
        assert [{name: json.loads(bytes(value)) for name, value in members.items()} for members in found] == [dict(p) for p in each]


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=6))
def test_what_is_joined_reads_as_what_was_given(members: dict[str, object]) -> None:
    joined = bodies.join({name: json.dumps(value).encode() for name, value in members.items()})
    assert json.loads(joined) == members


def test_a_second_key_that_makes_a_compact_body_as_long_as_a_spaced_one_is_found() -> None:
    compact = b'{"model":"a","b":1,"c":1,"d":1,"e":1,"f":1,"model":"hj"}'
    spaced = b'{"model": "a", "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}'
    assert abs(len(compact) - len(spaced)) <= 2  # near enough for a value's length to make them equal
    for padding in range(6):
        with pytest.raises(BadRequest, match="'model' twice"):
            bodies.open_body(compact.replace(b"hj", b"h" * padding))


@pytest.mark.parametrize("first", [b"model", b"\\u006dodel", b"mode\\u006c"])
def test_an_escaped_key_is_the_same_key(first: bytes) -> None:
    with pytest.raises(BadRequest, match="twice"):
        bodies.open_body(b'{"%b":"granted","model":"dear"}' % first)


@pytest.mark.parametrize("key", ["Model", "MODEL", "mo\\u0044el", "max_to\u212aens", "max_token\u017f", "l\u0131mit"])
def test_a_key_that_some_server_takes_for_another_one_is_refused(key: str) -> None:
    """Go's encoding/json, which Ollama reads requests with, takes the last of "model" and "Model", whichever was judged."""
    with pytest.raises(BadRequest, match="small letters"):
        bodies.open_body(f'{{"model":"granted","{key}":"dear"}}'.encode())
    for spaced in ("", " "):
        with pytest.raises(BadRequest, match="small letters"):
            bodies.split_each(Raw(f'[{{"type":{spaced}"message"}},{{"{key}":{spaced}"dear"}}]'.encode()), "input")


def test_what_is_not_judged_may_have_capitals() -> None:
    bodies.open_body(b'{"metadata":{"Key":1},"tools":[{"function":{"parameters":{"properties":{"Stadt":{}}}}}]}')


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not well-formed"),
        (b"{", "not well-formed"),
        (b"null", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"a":1} {"a":1}', "not well-formed"),
        (b'{"a":NaN}', "not well-formed"),
        (b'{"a":Infinity}', "not well-formed"),
        (b'{"a":[-Infinity]}', "not well-formed"),
        (b'{"a":1e999}', "beyond range"),
        (b'{"a":-1E309}', "beyond range"),
        (b'{"a":01}', "not well-formed"),
        (b'{"a":+1}', "not well-formed"),
        (b"{'a':1}", "not well-formed"),
        (b'{"a":1,}', "not well-formed"),
        (b'{"a":1/**/}', "not well-formed"),
        (b'{"a":"\x00"}', "not well-formed"),
        (b'\xef\xbb\xbf{"a":1}', "not well-formed"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":{"b":["\xc3"]}}', "not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a":"\\ud83d"}', "surrogate"),
        (b'{"a":["\\uDE00"]}', "surrogate"),
        (b'{"a":"\\ud83d\\u0041"}', "surrogate"),
        (b'{"a":"\\\\\\ud83d"}', "surrogate"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "nested too deeply"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b"{" + b",".join(b'"a%d":1' % i for i in range(1001)) + b"}", "more than 1000 members"),
        (b'{"a":[' + b"0," * 500_001 + b"0]}", "too many values"),
    ],
)
def test_a_hostile_body_is_refused_with_a_reason(body: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        bodies.open_body(body)


@pytest.mark.parametrize(
    "text", [b"\\ud83d\\ude00", b"\\\\ud83d", "\U0001f600".encode(), b"\\u00e9\\n", b"C:\\\\ud", b"\\\\\\ud83d\\uDE00"]
)
def test_whole_characters_pass_however_they_are_written(text: bytes) -> None:
    bodies.open_body(b'{"a":"%b"}' % text)


@pytest.mark.parametrize("number", [b"1e308", b"-1.5e-999", b"12345", b"0.1"])
def test_numbers_within_range_pass(number: bytes) -> None:
    bodies.open_body(b'{"a":%b}' % number)


@pytest.mark.parametrize(
    "model",
    [b"null", b"5", b'["gpt"]', b'{"name":"gpt"}', b'""', b'"a\\nb"', b'"a\\u0000"', b'"a\\u2028b"', b'"\\u007f"', b'"%b"' % (b"m" * 318)],
)
def test_what_is_no_model_name_is_refused_and_says_which_field(model: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        bodies.read_model(bodies.open_body(b'{"model":%b}' % model))
    assert caught.value.param == "model"


def test_a_body_without_a_model_says_what_to_add() -> None:
    with pytest.raises(BadRequest, match="add the field 'model'"):
        bodies.read_model(bodies.open_body(b"{}"))


@pytest.mark.parametrize("model", ["gpt-4o", "team/gpt-4o", "qwen2.5:3b", "m" * 317, "modèle"])
def test_a_model_name_is_read_as_it_is(model: str) -> None:
    assert bodies.read_model(bodies.open_body(json.dumps({"model": model}).encode())) == model


@pytest.mark.parametrize(
    "count", [b'"5"', b"0", b"-1", b"-0", b"5.0", b"1e3", b"2147483648", b"1" * 5000, b"true", b"[5]", b"{}", b'"\\u0035"']
)
def test_what_only_looks_like_a_count_is_refused(count: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        bodies.read_count(bodies.open_body(b'{"n":%b}' % count), "n")
    assert caught.value.param == "n"


def test_a_count_that_is_null_is_absent() -> None:
    members = bodies.open_body(b'{"n":null,"m":2147483647}')
    assert bodies.read_count(members, "n") is None
    assert bodies.read_count(members, "o") is None
    assert bodies.read_count(members, "m") == 2147483647
    assert bodies.read_count(bodies.open_body(b'{"n":1}'), "n") == 1


@pytest.mark.parametrize("flag", [b"1", b'"true"', b"[]", b"0"])
def test_what_only_looks_like_a_flag_is_refused(flag: bytes) -> None:
    with pytest.raises(BadRequest, match="must be true or false"):
        bodies.read_flag(bodies.open_body(b'{"stream":%b}' % flag), "stream")


def test_a_refused_member_passes_while_it_says_nothing() -> None:
    bodies.refuse_members(bodies.open_body(b'{"a":null,"b":false}'), {"a": "no", "b": "no"})
    with pytest.raises(BadRequest, match="'a' is not taken here: it costs"):
        bodies.refuse_members(bodies.open_body(b'{"a":0}'), {"a": "it costs"})


def test_too_many_objects_are_refused_before_each_is_judged() -> None:
    with pytest.raises(BadRequest, match="more than 20000 entries"):
        bodies.split_each(Raw(b"[" + b"{} ," * 20_001 + b"{}]"), "messages")


@pytest.mark.parametrize("raw", [b"{}", b'"a"', b"[1]", b'[{},"a"]', b"null"])
def test_what_is_no_array_of_objects_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="array of objects"):
        bodies.split_each(Raw(raw), "messages")


def test_an_array_of_bottomless_objects_is_refused() -> None:
    with pytest.raises(BadRequest, match="nested too deeply"):
        bodies.split_each(Raw(b'[{"a":' + b"[" * 100_000), "messages")


def test_what_is_no_array_is_refused() -> None:
    assert [bytes(raw) for raw in bodies.read_array(Raw(b"[1,2]"), "functions")] == [b"1", b"2"]
    with pytest.raises(BadRequest, match="must be an array"):
        bodies.read_array(Raw(b"{}"), "functions")
