import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sounds import wave

from broker import sse
from broker.chat import Demand, Options, Usage
from broker.dialects import openai_chat
from broker.errors import BadRequest, FeatureNotGranted, ProviderUnavailable, QuotaExhausted
from broker.grant import Feature
from broker.judges import openai as judged
from broker.providers import PROVIDERS
from broker.quota import Allowance, Held

GOLDEN = Path(__file__).parents[2] / "golden" / "openai_chat"
OPENAI = PROVIDERS["OpenAI"].options
COMPATIBLE = PROVIDERS["OpenAI"].compatible
MISTRAL = PROVIDERS["Mistral"].options


def ask(**members: object) -> bytes:
    return json.dumps({"model": "gpt", "messages": [{"role": "user", "content": "hi"}], **members}).encode()


def part(**members: object) -> bytes:
    return ask(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}, members]}])


def sent(body: bytes, options: Options = OPENAI, granted: int = 50) -> dict[str, object]:
    return json.loads(openai_chat.read(body).body("real", granted, options))


# --- the body that goes out


@pytest.mark.parametrize(("target", "options"), [("out", OPENAI), ("compatible", COMPATIBLE), ("mistral", MISTRAL)])
def test_a_full_request_goes_out_as_written_down(target: str, options: Options) -> None:
    question = openai_chat.read((GOLDEN / "full.json").read_bytes().strip())
    assert question.body("gpt-4o-2024-11-20", 150, options) == (GOLDEN / f"full.{target}.json").read_bytes().strip()


EDITED = {"model", "max_tokens", "max_completion_tokens", "stream_options", "store"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
FREE_NAMES = st.text(max_size=8).filter(
    lambda name: (
        name.upper().casefold() == name
        and name
        not in EDITED
        | {"messages", "tools", "functions", "stream", "n"}
        | openai_chat.HOSTED_FIELDS
        | openai_chat.ID_FIELDS
        | openai_chat.REFUSED_FIELDS.keys()
    )
)


@given(
    extra=st.dictionaries(FREE_NAMES, VALUES, max_size=5),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]),
    stream=st.booleans(),
)
def test_every_field_that_is_not_edited_survives_byte_for_byte(
    extra: dict[str, object], separators: tuple[str, str], *, stream: bool
) -> None:
    raws = {json.dumps(name): json.dumps(value, separators=separators) for name, value in extra.items()}
    raws |= {'"model"': '"gpt"', '"messages"': '[ {"role" :"user","content":"h\\u0069"} ]', '"stream"': json.dumps(stream)}
    body = "{" + separators[0].join(f"{name}{separators[1]}{raw}" for name, raw in raws.items()) + "}"
    out = openai_chat.read(body.encode()).body("real", 20, OPENAI).decode()
    for name, raw in raws.items():
        if name != '"model"':
            written = json.dumps(json.loads(name), ensure_ascii=False)
            assert f"{written}:{raw}" in out or f"{name}:{raw}" in out
    parsed = json.loads(out)
    assert parsed.keys() - EDITED == (json.loads(body).keys() - EDITED)


@pytest.mark.parametrize(
    ("limits", "options", "out"),
    [
        ({}, OPENAI, {"max_completion_tokens": 50}),
        ({}, COMPATIBLE, {"max_tokens": 50}),
        ({"max_tokens": 99}, OPENAI, {"max_tokens": 50}),
        ({"max_completion_tokens": 99}, OPENAI, {"max_completion_tokens": 50}),
        ({"max_tokens": 99, "max_completion_tokens": 98}, OPENAI, {"max_tokens": 50, "max_completion_tokens": 50}),
        ({"max_completion_tokens": 99}, COMPATIBLE, {"max_tokens": 50}),
        ({"max_tokens": 99, "max_completion_tokens": 98}, MISTRAL, {"max_tokens": 50}),
        ({"max_tokens": None}, COMPATIBLE, {"max_tokens": 50}),
    ],
)
def test_the_grant_is_written_where_the_provider_reads_it(limits: dict[str, object], options: Options, out: dict[str, int]) -> None:
    found = sent(ask(**limits), options)
    assert {name: value for name, value in found.items() if name in openai_chat.LIMIT_FIELDS} == out


def test_the_grant_is_shared_by_all_choices() -> None:
    assert sent(ask(n=3, max_tokens=40), granted=100)["max_tokens"] == 33


@pytest.mark.parametrize(
    ("asked", "options", "out"),
    [
        ({"stream": True}, OPENAI, {"include_usage": True}),
        ({"stream": True, "stream_options": None}, COMPATIBLE, {"include_usage": True}),
        ({"stream": True, "stream_options": {"include_usage": False, "x": 1}}, OPENAI, {"include_usage": True, "x": 1}),
        ({"stream": True, "stream_options": {"include_usage": True, "x": 1}}, OPENAI, {"include_usage": True, "x": 1}),
        ({"stream": True}, MISTRAL, None),
        ({"stream": False}, OPENAI, None),
        ({}, OPENAI, None),
    ],
)
def test_a_stream_reports_its_usage_where_the_provider_can(asked: dict[str, object], options: Options, out: object) -> None:
    assert sent(ask(**asked), options).get("stream_options") == out


@pytest.mark.parametrize(
    ("asked", "options", "out"),
    [
        ({}, OPENAI, False),
        ({"store": None}, OPENAI, False),
        ({"store": False}, OPENAI, False),
        ({"store": True}, OPENAI, True),
        ({}, COMPATIBLE, None),
    ],
)
def test_answers_are_kept_only_when_asked(asked: dict[str, object], options: Options, out: object) -> None:
    assert sent(ask(**asked), options).get("store") is out


# --- what it may cost


def bound(body: bytes) -> int:
    return openai_chat.read(body).demand(100, None).prompt_bound


@pytest.mark.parametrize(
    ("members", "most", "expected"),
    [
        ({}, None, (16, 4096)),
        ({}, 1000, (16, 1000)),
        ({}, 8, (8, 8)),
        ({"max_tokens": 7}, None, (7, 7)),
        ({"max_completion_tokens": 300}, 200, (16, 200)),
        ({"max_tokens": 300, "max_completion_tokens": 200, "n": 3}, None, (48, 600)),
        ({"n": 2}, 100, (32, 200)),
        ({"n": None, "max_tokens": 2**31 - 1}, None, (16, 2**31 - 1)),
    ],
)
def test_output_is_what_the_caller_asked_for_times_n_at_most_the_models_own(
    members: dict[str, object], most: int | None, expected: tuple[int, int]
) -> None:
    demand = openai_chat.read(ask(**members)).demand(4096, most)
    assert (demand.min_output, demand.wanted_output) == expected


def test_text_is_bounded_by_its_bytes_and_the_template() -> None:
    body = ask(messages=[{"role": "user", "content": "ä" * 100}] * 2)
    template = openai_chat.TEMPLATE
    assert bound(body) == len(body) + template.request + 2 * template.message


def test_tools_add_what_a_template_writes_around_them() -> None:
    body = ask(tools=[{"type": "function", "function": {"name": "f"}}] * 3)
    template = openai_chat.TEMPLATE
    assert bound(body) == len(body) + template.request + template.message + template.tools + 3 * template.tool


def test_old_functions_count_as_tools() -> None:
    assert bound(ask(functions=[{"name": "f"}])) > len(ask(functions=[{"name": "f"}])) + openai_chat.TEMPLATE.tools


def test_an_image_counts_by_its_documented_bound_and_not_by_its_bytes() -> None:
    small = bound(part(type="image_url", image_url={"url": "data:image/png;base64," + "A" * 100}))
    large = bound(part(type="image_url", image_url={"url": "data:image/png;base64," + "A" * 1_000_000}))
    assert small == large > judged.IMAGE_TOKENS


def test_sound_counts_by_the_time_that_its_bytes_can_last() -> None:
    body = part(type="input_audio", input_audio={"data": wave(15), "format": "wav"})
    assert 10_000 < bound(body) < 11_000
    assert bound(part(type="input_audio", input_audio={"data": wave(3600, 1), "format": "wav"})) > openai_chat.TEMPLATE.context_window


def test_what_unfolds_at_the_provider_is_bounded_by_the_context_window() -> None:
    window = openai_chat.TEMPLATE.context_window
    assert bound(part(type="file", file={"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"})) > window
    assert bound(part(type="input_audio", input_audio={"data": "T2dnUw==", "format": "wav"})) > window
    assert bound(ask(web_search_options={})) > window


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize("value", ["5", 0, -1, 5.0, 1e30, 10**30, True, [5], {"a": 5}])
def test_a_limit_that_is_no_whole_number_is_refused_and_named(field: str, value: object) -> None:
    with pytest.raises(BadRequest) as caught:
        openai_chat.read(ask(**{field: value}))
    assert caught.value.param == field


def test_more_choices_than_the_api_has_are_refused() -> None:
    with pytest.raises(BadRequest, match="from 1 to 128"):
        openai_chat.read(ask(n=129))


@pytest.mark.parametrize("field", sorted(openai_chat.REFUSED_FIELDS))
def test_a_field_that_would_make_the_bound_false_is_refused_with_the_reason(field: str) -> None:
    with pytest.raises(BadRequest, match=f"{field}.*not taken here: "):
        openai_chat.read(ask(**{field: [1]}))
    openai_chat.read(ask(**{field: None}))


def test_a_clamp_is_known_only_where_the_caller_named_a_limit() -> None:
    assert openai_chat.read(ask(max_tokens=100, n=2)).clamped(100) == 50
    assert openai_chat.read(ask(max_tokens=100, n=2)).clamped(200) is None
    assert openai_chat.read(ask()).clamped(20) is None


# --- what must be granted


@pytest.mark.parametrize(
    ("body", "features"),
    [
        (ask(), set()),
        (ask(store=False, metadata={"a": "b"}, user="u", prompt_cache_key="k", safety_identifier="s"), set()),
        (ask(store=True), {Feature.STORAGE}),
        (ask(web_search_options={"search_context_size": "low"}), {Feature.HOSTED_TOOLS}),
        (ask(web_search_options=None, conversation=None), set()),
        (ask(enable_search=False), set()),
        (ask(enable_search=True), {Feature.HOSTED_TOOLS}),
        (ask(tools=[{"type": "function", "function": {}}, {"type": "custom", "custom": {}}]), set()),
        (ask(tools=[{"type": "function", "function": {}}, {"type": "web_search"}]), {Feature.HOSTED_TOOLS}),
        (ask(tools=[{"type": "code_interpreter"}], store=True), {Feature.HOSTED_TOOLS, Feature.STORAGE}),
        (ask(tools=[{"function": {}}]), {Feature.HOSTED_TOOLS}),
        (part(type="image_url", image_url={"url": "data:image/png;base64,AA"}), set()),
        (part(type="image_url", image_url="data:image/png;base64,AA"), set()),
        (part(type="image_url", image_url={"url": "https://example.org/a.png"}), {Feature.REMOTE_MEDIA}),
        (part(type="image_url", image_url="HTTP://example.org/a.png"), {Feature.REMOTE_MEDIA}),
        (part(type="input_audio", input_audio={"data": "AAAA", "format": "wav"}), set()),
        (part(type="input_audio", input_audio="https://example.org/a.mp3"), {Feature.REMOTE_MEDIA}),
        (part(type="file", file={"file_data": "JVBERi0="}), set()),
        (part(type="file", file={"file_data": "https://example.org/a.pdf"}), {Feature.REMOTE_MEDIA}),
        (part(type="refusal", refusal="no"), set()),
    ],
)
def test_a_request_says_which_features_it_needs(body: bytes, features: set[Feature]) -> None:
    assert openai_chat.read(body).features == features


@pytest.mark.parametrize(
    "body",
    [
        part(type="file", file={"file_id": "file-1"}),
        part(type="file", file={"file_id": "file-1", "file_data": "JVBERi0="}),
        ask(messages=[{"role": "assistant", "audio": {"id": "audio_1"}}]),
        *(ask(**{field: "x"}) for field in sorted(openai_chat.ID_FIELDS)),
    ],
)
def test_a_raw_id_of_state_at_the_provider_is_refused_whatever_is_granted(body: bytes) -> None:
    with pytest.raises(FeatureNotGranted, match="send the content itself"):
        openai_chat.read(body)


@pytest.mark.parametrize("kind", ["video_url", "document_url", "image_file", "input_image", "", "TEXT", "text ", "constructor"])
def test_a_part_that_nobody_has_judged_is_refused(kind: str) -> None:
    with pytest.raises(FeatureNotGranted, match="is not a kind that this broker knows"):
        openai_chat.read(part(type=kind, **{kind.lower(): {"url": "data:,"}}) if kind else part(image_url={"url": "https://example.org"}))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "s3://b/k", " https://example.org/", "//example.org", "", "DATA:image/png,", "gs://a"]
)
def test_a_place_that_is_neither_inline_nor_on_the_web_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="must be a data: URL"):
        openai_chat.read(part(type="image_url", image_url={"url": url}))


@pytest.mark.parametrize(
    "messages",
    [
        b'[{"role":"user","content":"hi","content":[]}]',
        b'[{"role":"user","content":[{"type":"text","type":"image_url","image_url":"https://x"}]}]',
        b'[{"role":"user","content":[{"type":"text","\\u0074ype":"image_url","image_url":"https://x"}]}]',
        b'[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,","url":"https://x"}}]}]',
        b'[{"role":"user","content":[{"type":"file","file":{"file_data":"A","file_data":"https://x"}}]}]',
        b'[{"role":"user","content":"hi"},{"role":"assistant","audio":null,"audio":{"id":"a"}}]',
        b'{"0":{"role":"user"}}',
        b'"hi"',
        b'["hi"]',
        b"[null]",
        b'[{"role":"user","content":5}]',
        b'[{"role":"user","content":{"type":"text"}}]',
        b'[{"role":"user","content":[{"type":5}]}]',
        b'[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]',
        b'[{"role":"user","content":[{"type":"image_url","image_url":{"url":5}}]}]',
        b'[{"role":"user","content":[{"type":"image_url","image_url":5}]}]',
    ],
)
def test_messages_that_two_parsers_could_read_in_two_ways_are_refused(messages: bytes) -> None:
    with pytest.raises(BadRequest):
        openai_chat.read(b'{"model":"gpt","messages":%b}' % messages)


def test_an_escaped_word_is_the_same_word() -> None:
    escaped = (
        b'{"model":"gpt","m\\u0065ssages":[{"role":"user","con\\u0074ent":'
        b'[{"\\u0074ype":"\\u0069mage_url","image\\u005furl":{"ur\\u006c":"htt\\u0070s:\\/\\/x"}}]}]}'
    )
    assert openai_chat.read(escaped).features == {Feature.REMOTE_MEDIA}


def test_no_messages_are_refused() -> None:
    with pytest.raises(BadRequest, match="add the field 'messages'"):
        openai_chat.read(b'{"model":"gpt"}')


def test_tools_with_a_key_twice_are_refused() -> None:
    with pytest.raises(BadRequest, match="twice"):
        openai_chat.read(b'{"model":"gpt","messages":[],"tools":[{"type":"function","type":"web_search"}]}')


def test_objects_are_counted_over_the_whole_request() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": ""}] * 9_000}] * 3
    with pytest.raises(BadRequest, match="more than 20000 messages, parts and tools"):
        openai_chat.read(ask(messages=messages))


def test_no_header_changes_what_a_body_means() -> None:
    assert openai_chat.features_of_headers([(b"openai-beta", b"assistants=v2")]) == frozenset()


# --- one reading for all parsers

MEMBER_NAMES = st.sampled_from(
    [
        '"model"',
        '"mod\\u0065l"',
        '"max_tokens"',
        '"max_completion_tokens"',
        '"n"',
        '"stream"',
        '"store"',
        '"stream_options"',
        '"messages"',
        '"tools"',
        '"x"',
    ]
)
MEMBER_VALUES = st.sampled_from(
    [
        *('"gpt"', '"g\\u0070t"', '"dear"', "5", "7", "70000", "true", "false", "null", '"5"', "5.0", "[]", "{}"),
        *(
            '{"include_usage":true}',
            '{"include_usage":false,"include_usage":true}',
            '{ "include_usage" : false }',
            '[{"type":"web_search"}]',
        ),
        '[{"role":"user","content":"hi"}]',
        '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x"}}]}]',
        '[{"role":"user","content":[{"type":"text","text":"","type":"image_url","image_url":"https://x"}]}]',
        '[{"role":"user","content":"hi","content":[{"type":"file","file":{"file_id":"f"}}]}]',
    ]
)


def first_wins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def reached(body: dict[str, object]) -> set[object]:
    """An independent and simple-minded reading of what a parsed body reaches."""
    messages = json.dumps(body.get("messages"))
    found: set[object] = set()
    if "https://" in messages:
        found.add(Feature.REMOTE_MEDIA)
    if "file_id" in messages:
        found.add("never")
    if any(tool.get("type") not in ("function", "custom") for tool in body.get("tools") or []):
        found.add(Feature.HOSTED_TOOLS)
    if body.get("store"):
        found.add(Feature.STORAGE)
    return found


JUDGED = EDITED | {"messages", "stream", "n"}


@given(st.lists(st.tuples(MEMBER_NAMES, MEMBER_VALUES), max_size=7), st.sampled_from([",", ", ", " ,\n"]), st.sampled_from([":", ": "]))
def test_what_passes_means_the_same_to_the_first_and_the_last_of_two_keys(members: list[tuple[str, str]], comma: str, colon: str) -> None:
    pairs = [('"model"', '"gpt"'), ('"messages"', "[]"), *members] if len(members) % 2 else members
    body = ("{" + comma.join(f"{name}{colon}{value}" for name, value in pairs) + "}").encode()
    try:
        question = openai_chat.read(body)
    except (BadRequest, FeatureNotGranted):
        return
    out = question.body("real", 40, OPENAI)
    last = json.loads(out)
    first = json.loads(out, object_pairs_hook=first_wins)
    assert {name: last.get(name) for name in JUDGED} == {name: first.get(name) for name in JUDGED}
    assert last.keys() == first.keys()
    assert reached(first) <= question.features
    assert last["model"] == "real"
    assert question.streaming == bool(last.get("stream"))
    share = 40 // (last.get("n") or 1)
    assert {last[name] for name in openai_chat.LIMIT_FIELDS if last.get(name) is not None} == {share}
    assert reached(last) <= question.features
    assert not question.streaming or last["stream_options"]["include_usage"] is True


# --- metering

EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":5}}}\n\n'
DONE = b"data: [DONE]\n\n"


def meter(*, asked: bool = False):
    options = {"include_usage": True} if asked else {}
    return openai_chat.read(ask(stream=True, stream_options=options)).meter()


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@given(cuts=st.lists(st.integers(0, 400), max_size=10))
def test_a_stream_passes_whole_whatever_its_pieces_and_only_our_own_chunk_is_taken_out(*, asked: bool, end: bytes, cuts: list[int]) -> None:
    raw = (b": wait\n\n" + EVENT + EVENT + USAGE + DONE).replace(b"\n", end)
    expected = raw if asked else raw.replace(USAGE.replace(b"\n", end), b"")
    counting = meter(asked=asked)
    places = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    out = b"".join(counting.stream(raw[a:b]) for a, b in itertools.pairwise(places)) + counting.end()
    assert asked is False or out == expected
    # Where a piece ends between CR and LF, the LF of the chunk that was taken out stays: an empty line more, which means nothing.
    assert [sse.data(event) for event in sse.split(out) if event.strip()] == [sse.data(event) for event in sse.split(expected)]
    assert counting.done
    assert counting.usage == Usage(9, 4, 5)
    assert not counting.failed


def test_a_null_usage_on_every_chunk_is_passed_unread() -> None:
    counting = meter()
    event = EVENT.replace(b"}\n\n", b',"usage":null}\n\n')
    assert counting.stream(event) == event
    assert counting.stream(event.replace(b'"usage":null', b'"usage": null')) == event.replace(b'"usage":null', b'"usage": null')
    assert counting.usage is None


def test_usage_on_the_last_chunk_with_choices_is_final_only_with_the_end() -> None:
    counting = meter()
    event = EVENT.replace(b"}\n\n", b',"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n')
    assert counting.stream(event) == event
    assert (counting.usage, counting.done) == (Usage(9, 4), False)
    assert counting.stream(DONE) == DONE
    assert counting.done


def test_a_stream_that_broke_off_is_never_done() -> None:
    counting = meter()
    counting.stream(EVENT)
    assert (counting.end(), counting.done, counting.usage) == (b"", False, None)


def test_done_without_usage_is_not_done() -> None:
    counting = meter()
    counting.stream(EVENT + DONE)
    assert not counting.done


def test_figures_never_go_down() -> None:
    counting = meter()
    counting.stream(USAGE)
    counting.stream(USAGE.replace(b"9", b"3").replace(b"4", b"8"))
    assert counting.usage == Usage(9, 8, 5)


@pytest.mark.parametrize("figure", [b"-1", b"4.0", b'"4"', b"true", b"2147483648", b"[4]", b"null"])
@pytest.mark.parametrize("name", [b'"prompt_tokens":9', b'"completion_tokens":4'])
def test_one_figure_that_cannot_be_spoils_the_report(name: bytes, figure: bytes) -> None:
    counting = meter()
    counting.stream(USAGE)
    counting.stream(USAGE.replace(name, name.split(b":")[0] + b":" + figure))
    counting.stream(USAGE + DONE)
    assert counting.usage is None
    assert not counting.done


def test_an_error_inside_a_stream_is_passed_and_known() -> None:
    counting = meter()
    event = b'data: {"error":{"message":"overloaded","type":"server_error","code":null,"param":null}}\n\n'
    assert counting.stream(event) == event
    assert (counting.failed, counting.done) == (True, False)


@pytest.mark.parametrize("event", [b'data: {"usage":\n\n', b'data: "usage"\n\n', b'data: {"usage":"\xff"}\n\n'])
def test_an_event_about_usage_that_is_not_well_formed_is_a_fault_of_the_provider(event: bytes) -> None:
    with pytest.raises(ProviderUnavailable):
        meter().stream(event)


def test_an_end_without_an_empty_line_is_mended_and_half_an_event_is_a_fault() -> None:
    counting = meter()
    assert counting.stream(USAGE + b"data: [DONE]") == b""
    assert counting.end() == b"data: [DONE]\n\n"
    assert counting.done
    counting = meter()
    assert counting.stream(EVENT + b'data: {"id":"c","cho') == EVENT
    with pytest.raises(ProviderUnavailable):
        counting.end()


def test_a_whole_answer_says_its_usage() -> None:
    counting = openai_chat.read(ask()).meter()
    usage = counting.whole(
        b'{"id":"c","choices":[{}],"usage":{"prompt_tokens":9,"completion_tokens":4,"completion_tokens_details":{"reasoning_tokens":3}}}'
    )
    assert usage == counting.usage == Usage(9, 4, 0)
    assert counting.done


@pytest.mark.parametrize("body", [b"{}x", b"[]", b"", b"<html>", b'{"a":"\xff"}'])
def test_a_whole_answer_that_is_no_object_is_a_fault_of_the_provider(body: bytes) -> None:
    with pytest.raises(ProviderUnavailable):
        openai_chat.read(ask()).meter().whole(body)


def test_a_whole_answer_without_usage_is_not_done() -> None:
    counting = openai_chat.read(ask()).meter()
    assert counting.whole(b'{"choices":[]}') is None
    assert not counting.done


# --- words of our own


def test_an_error_has_the_shape_that_sdks_read() -> None:
    refusal = QuotaExhausted("wait an hour", retry_after_s=3600, param=None)
    assert json.loads(openai_chat.error(refusal, "x1")) == {
        "error": {"message": "wait an hour (exchange x1)", "type": "insufficient_quota", "param": None, "code": "quota_exhausted"}
    }
    assert openai_chat.error_event(refusal, "x1") == b"data: " + openai_chat.error(refusal, "x1") + b"\n\n"


@pytest.mark.parametrize(
    ("reset_s", "written"), [(360, b"6m0s"), (0.2, b"1s"), (59.5, b"1m0s"), (3600, b"1h0m0s"), (90061, b"25h1m1s"), (-1, b"0s")]
)
def test_rate_limits_are_said_as_this_dialect_says_them(reset_s: float, written: bytes) -> None:
    held = Held("h", 5, tokens=Allowance(100, 40, reset_s), requests=None, leased=False)
    assert openai_chat.rate_limit_headers(held, 0) == (
        (b"x-ratelimit-limit-tokens", b"100"),
        (b"x-ratelimit-remaining-tokens", b"40"),
        (b"x-ratelimit-reset-tokens", written),
    )


def test_no_quota_no_rate_limit_headers() -> None:
    assert openai_chat.rate_limit_headers(Held("h", 5, tokens=None, requests=None, leased=False), 0) == ()


def test_the_demand_has_no_more_output_than_asked() -> None:
    assert openai_chat.read(ask(max_tokens=20)).demand(4096, None) == Demand(bound(ask(max_tokens=20)), 16, 20)


def test_the_texts_of_messages_can_be_counted_and_nothing_else() -> None:
    texts = ["of the system", "a part", "no", "of a tool"]
    places = [f"data:image/png;base64,{texts[0]}", "UklGR of a sound", "of a file"]
    parts = [
        {"type": "text", "text": texts[1]},
        {"type": "refusal", "refusal": texts[2]},
        {"type": "text", "text": {"no": "text"}},
        {"type": "image_url", "image_url": {"url": places[0]}},
        {"type": "image_url", "image_url": places[0]},
        {"type": "input_audio", "input_audio": {"data": places[1], "format": "wav"}},
        {"type": "file", "file": {"file_data": f"data:{places[2]}"}},
    ]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"of": "a call"}'}}
    asked = [
        {"role": "system", "content": texts[0], "name": "a name"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": texts[3], "tool_call_id": "1"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "description": "of the function"}}]
    question = openai_chat.read(ask(messages=asked, tools=tools))
    assert [json.loads(bytes(raw)) for raw in question.texts] == texts
