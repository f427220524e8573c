import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.chat import Options, Usage
from broker.dialects import anthropic_messages
from broker.errors import BadRequest, FeatureNotGranted, ProviderUnavailable, QuotaExhausted
from broker.grant import Feature
from broker.judges import anthropic_messages as judged
from broker.providers import PROVIDERS
from broker.quota import Allowance, Held

GOLDEN = Path(__file__).parents[2] / "golden" / "anthropic_messages"
OPTIONS = PROVIDERS["Anthropic"].options
WINDOW = judged.TEMPLATE.context_window


def ask(**members: object) -> bytes:
    return json.dumps({"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **members}).encode()


def block(**members: object) -> bytes:
    return ask(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}, members]}])


def source(kind: str, **members: object) -> bytes:
    return block(type=kind, source=members)


# --- the body that goes out


def test_a_full_request_goes_out_as_written_down() -> None:
    question = anthropic_messages.read((GOLDEN / "full.json").read_bytes().strip())
    assert question.streaming
    assert question.features == frozenset()
    assert question.body("claude-opus-4-8", 3000, OPTIONS) == (GOLDEN / "full.out.json").read_bytes().strip()


@given(
    st.lists(st.sampled_from(["temperature", "x", "top_k", "inference_geo", "\u00e9"]), unique=True),
    st.sampled_from(["1e0", '"\\u0041"', "[1,  2]"]),
)
def test_every_field_that_is_not_edited_survives_byte_for_byte(names: list[str], raw: str) -> None:
    body = b'{"model":"claude","messages":[],"max_tokens":50' + b"".join(f',"{name}": {raw}'.encode() for name in names) + b"}"
    out = anthropic_messages.read(body).body("real", 20, Options(stream_usage=True, store=True))
    expected = b'{"model":"real","messages":[],"max_tokens":20' + b"".join(f',"{name}":{raw}'.encode() for name in names) + b"}"
    assert out == expected


def test_a_missing_limit_is_written() -> None:
    body = b'{"model":"claude","messages":[]}'
    assert json.loads(anthropic_messages.read(body).body("real", 4096, OPTIONS))["max_tokens"] == 4096


# --- what it may cost


@pytest.mark.parametrize(
    ("members", "most", "expected"),
    [
        ({}, None, (16, 100)),
        ({"max_tokens": 5}, None, (5, 5)),
        ({"max_tokens": 8000}, 500, (16, 500)),
        ({"max_tokens": None}, None, (16, 4096)),
        ({"max_tokens": 8000, "thinking": {"type": "enabled", "budget_tokens": 2000}}, None, (2001, 8000)),
        ({"max_tokens": 8000, "thinking": {"type": "enabled", "budget_tokens": 2000}}, 3000, (2001, 3000)),
        ({"max_tokens": 8000, "thinking": {"type": "adaptive"}}, None, (16, 8000)),
        ({"max_tokens": 1000, "thinking": {"type": "enabled", "budget_tokens": 2000}}, None, (1000, 1000)),
        ({"max_tokens": None, "thinking": {"type": "enabled", "budget_tokens": 2000}}, None, (2001, 6096)),
    ],
)
def test_output_is_what_the_caller_asked_for_and_at_least_his_thinking(
    members: dict[str, object], most: int | None, expected: tuple[int, int]
) -> None:
    demand = anthropic_messages.read(ask(**members)).demand(4096, most)
    assert (demand.min_output, demand.wanted_output) == expected


def test_a_thinking_budget_above_the_models_maximum_is_refused() -> None:
    question = anthropic_messages.read(ask(max_tokens=8000, thinking={"type": "enabled", "budget_tokens": 2000}))
    with pytest.raises(BadRequest, match="below this model's maximum output of 2000"):
        question.demand(4096, 2000)


@pytest.mark.parametrize("value", ["5", 0, -1, 5.0, 1e30, 10**30, True, [5]])
def test_a_limit_that_is_no_whole_number_is_refused_and_named(value: object) -> None:
    with pytest.raises(BadRequest) as caught:
        anthropic_messages.read(ask(max_tokens=value))
    assert caught.value.param == "max_tokens"
    with pytest.raises(BadRequest, match="budget_tokens"):
        anthropic_messages.read(ask(thinking={"type": "enabled", "budget_tokens": value}))


def bound(body: bytes) -> int:
    return anthropic_messages.read(body).demand(100, None).prompt_bound


def test_text_is_bounded_by_its_bytes_and_the_template() -> None:
    body = ask(system="Be kind.", tools=[{"name": "f", "input_schema": {}}] * 2)
    template = judged.TEMPLATE
    assert bound(body) == len(body) + template.request + template.message + template.tools + 2 * template.tool


def test_an_image_counts_by_its_documented_bound_and_not_by_its_bytes() -> None:
    small = bound(source("image", type="base64", media_type="image/png", data="A" * 100))
    large = bound(source("image", type="base64", media_type="image/png", data="A" * 1_000_000))
    assert small == large > judged.IMAGE_TOKENS


def test_what_unfolds_or_loops_at_the_provider_is_bounded_by_context_windows() -> None:
    assert WINDOW < bound(source("document", type="base64", media_type="application/pdf", data="JVBERi0=")) < 2 * WINDOW
    assert WINDOW < bound(source("document", type="url", url="https://example.org/a.pdf")) < 2 * WINDOW
    assert bound(ask(tools=[{"type": "web_search_20250305", "name": "web_search"}])) > judged.HOSTED_PASSES * WINDOW


def test_client_tools_and_formats_add_their_prompts() -> None:
    plain = ask(tools=[{"name": "bash"}])
    known = ask(tools=[{"type": "bash_20250124", "name": "bash"}])
    assert bound(known) - len(known) == bound(plain) - len(plain) + judged.CLIENT_TOOL_TOKENS
    two = ask(tools=[{"type": "bash_20250124", "name": "bash"}, {"type": "memory_20250818", "name": "memory"}])
    assert bound(two) - len(two) == bound(known) - len(known) + judged.CLIENT_TOOL_TOKENS + judged.TEMPLATE.tool
    formatted = ask(output_config={"format": {"type": "json_schema"}})
    assert bound(formatted) - len(formatted) == bound(ask()) - len(ask()) + judged.SCHEMA_TOKENS


@pytest.mark.parametrize("field", sorted(judged.REFUSED_FIELDS))
def test_a_field_that_would_make_the_bound_or_the_grant_false_is_refused(field: str) -> None:
    with pytest.raises(BadRequest, match=f"{field}.*not taken here: "):
        anthropic_messages.read(ask(**{field: [{"model": "dear"}]}))
    anthropic_messages.read(ask(**{field: None}))


def test_context_management_may_only_clear() -> None:
    anthropic_messages.read(ask(context_management={"edits": [{"type": "clear_thinking_20251015"}]}))
    anthropic_messages.read(ask(context_management={}))
    with pytest.raises(BadRequest, match="may only clear"):
        anthropic_messages.read(ask(context_management={"edits": [{"type": "compact_20260112"}]}))


def test_a_clamp_is_known() -> None:
    assert anthropic_messages.read(ask(max_tokens=100)).clamped(50) == 50
    assert anthropic_messages.read(ask(max_tokens=100)).clamped(100) is None


@pytest.mark.parametrize(
    ("members", "priced"),
    [
        ({}, True),
        ({"speed": "standard", "inference_geo": "global", "service_tier": "standard_only"}, True),
        ({"speed": None, "inference_geo": None}, True),
        ({"speed": "fast"}, False),
        ({"inference_geo": "us"}, False),
        ({"speed": ["fast"]}, False),
    ],
)
def test_a_service_that_costs_more_than_the_models_price_says_so(members: dict[str, object], *, priced: bool) -> None:
    assert anthropic_messages.read(ask(**members)).demand(100, None).priced is priced


# --- what must be granted


@pytest.mark.parametrize(
    ("body", "features"),
    [
        (ask(metadata={"user_id": "u"}, diagnostics={"previous_message_id": None}, container=None, thread=None), set()),
        (ask(tools=[{"name": "f", "input_schema": {}}, {"type": "custom", "name": "g"}]), set()),
        (ask(tools=[{"type": name, "name": "x"} for name in sorted(judged.CLIENT_TOOLS)]), set()),
        (ask(tools=[{"type": "web_search_20250305", "name": "web_search"}]), {Feature.HOSTED_TOOLS}),
        (ask(tools=[{"type": "code_execution_20250825", "name": "c"}]), {Feature.HOSTED_TOOLS}),
        (ask(tools=[{"type": "mcp_toolset", "mcp_server_name": "m"}]), {Feature.HOSTED_TOOLS}),
        (ask(tools=[{"type": "tool_of_tomorrow", "name": "x"}]), {Feature.HOSTED_TOOLS}),
        (ask(mcp_servers=[{"type": "url", "url": "https://example.org"}]), {Feature.HOSTED_TOOLS}),
        (ask(container={"skills": [{"type": "anthropic", "skill_id": "pdf"}]}), {Feature.HOSTED_TOOLS}),
        (block(type="server_tool_use", id="s", name="web_search", input={}), {Feature.HOSTED_TOOLS}),
        (block(type="web_search_tool_result", tool_use_id="s", content=[]), {Feature.HOSTED_TOOLS}),
        (source("image", type="base64", media_type="image/png", data="AA"), set()),
        (source("image", type="url", url="https://example.org/a.png"), {Feature.REMOTE_MEDIA}),
        (source("document", type="url", url="https://example.org/a.pdf"), {Feature.REMOTE_MEDIA}),
        (source("document", type="text", media_type="text/plain", data="x"), set()),
        (source("document", type="content", content="x"), set()),
        (
            source("document", type="content", content=[{"type": "image", "source": {"type": "url", "url": "https://x"}}]),
            {Feature.REMOTE_MEDIA},
        ),
        (
            block(type="tool_result", tool_use_id="t", content=[{"type": "image", "source": {"type": "url", "url": "https://x"}}]),
            {Feature.REMOTE_MEDIA},
        ),
        (block(type="tool_result", tool_use_id="t"), set()),
        (block(type="search_result", source="s", title="t", content=[{"type": "text", "text": "x"}]), set()),
        (ask(system=[{"type": "text", "text": "x"}]), set()),
    ],
)
def test_a_request_says_which_features_it_needs(body: bytes, features: set[Feature]) -> None:
    assert anthropic_messages.read(body).features == features


@pytest.mark.parametrize("container", ["container_1", {"id": "container_1"}, {"id": "container_1", "skills": []}])
def test_a_container_by_its_id_needs_files_and_is_named(container):
    question = anthropic_messages.read(ask(container=container))
    assert question.features == {Feature.FILES, Feature.HOSTED_TOOLS}
    assert [(place.param, place.id) for place in question.kept] == [("container", "container_1")]


@pytest.mark.parametrize(
    "body",
    [
        source("image", type="file", file_id="file_1"),
        source("document", type="file", file_id="file_1"),
        block(type="tool_result", tool_use_id="t", content=[{"type": "document", "source": {"type": "file", "file_id": "f"}}]),
        block(type="container_upload", file_id="file_1"),
        ask(container={"skills": [{"type": "custom", "skill_id": "skill_1", "version": "latest"}]}),
        ask(container={"skills": [{"type": "anthropic", "skill_id": "pdf"}, {"skill_id": "skill_1"}]}),
        ask(thread={"type": "create"}),
        ask(thread={"type": "continue", "previous_message_id": "msg_1"}),
        ask(diagnostics={"previous_message_id": "msg_1"}),
    ],
)
def test_a_raw_id_of_state_at_the_provider_is_refused_whatever_is_granted(body: bytes) -> None:
    with pytest.raises(FeatureNotGranted, match="send the content itself"):
        anthropic_messages.read(body)


@pytest.mark.parametrize(
    "body",
    [
        block(type="compaction", content="x"),
        block(type="video"),
        block(text="no type"),
        source("image", type="s3", uri="s3://b/k"),
        source("image", type="text", data="x"),
        source("image", type="content", content="x"),
        source("image", media_type="image/png", data="AA"),
        ask(system=[{"type": "mcp_thing"}]),
    ],
)
def test_a_block_that_nobody_has_judged_is_refused(body: bytes) -> None:
    with pytest.raises(FeatureNotGranted, match="is not a kind that this broker knows"):
        anthropic_messages.read(body)


def test_a_tool_may_not_bring_a_model_of_its_own() -> None:
    with pytest.raises(BadRequest, match="may not name a model"):
        anthropic_messages.read(ask(tools=[{"type": "advisor_20260301", "name": "advisor", "model": "dear"}]))


def test_blocks_within_blocks_have_an_end() -> None:
    nested: dict[str, object] = {"type": "text", "text": "x"}
    for _ in range(20):
        nested = {"type": "tool_result", "tool_use_id": "t", "content": [nested]}
    with pytest.raises(BadRequest, match="too many blocks within blocks"):
        anthropic_messages.read(block(**nested))


@pytest.mark.parametrize(
    "messages",
    [
        b'[{"role":"user","content":"hi","content":[{"type":"image"}]}]',
        b'[{"role":"user","content":[{"type":"text","type":"image"}]}]',
        b'[{"role":"user","content":[{"type":"image","source":{"type":"base64","data":"A","type":"url"}}]}]',
        b'[{"role":"user","content":[{"type":"image"}]}]',
        b'[{"role":"user","content":[{"type":"image","source":"https://x"}]}]',
        b'[{"role":"user","content":["hi"]}]',
        b'{"role":"user"}',
    ],
)
def test_messages_that_two_parsers_could_read_in_two_ways_are_refused(messages: bytes) -> None:
    with pytest.raises(BadRequest):
        anthropic_messages.read(b'{"model":"claude","max_tokens":9,"messages":%b}' % messages)


def test_no_messages_are_refused() -> None:
    with pytest.raises(BadRequest, match="add the field 'messages'"):
        anthropic_messages.read(b'{"model":"claude"}')


@pytest.mark.parametrize(
    ("betas", "features"),
    [
        ([], set()),
        ([b"context-1m-2025-08-07"], set()),
        ([b"context-1m-2025-08-07, mcp-client-2025-11-20", b"files-api-2025-04-14"], {Feature.HOSTED_TOOLS, Feature.FILES}),
        ([b"", b" , "], set()),
    ],
)
def test_betas_say_which_features_they_open(betas: list[bytes], features: set[Feature]) -> None:
    headers = [(b"anthropic-version", b"2023-06-01"), *((b"anthropic-beta", beta) for beta in betas)]
    assert anthropic_messages.features_of_headers(headers) == features


@pytest.mark.parametrize(
    "beta", [b"message-threads-2026-08-12", b"server-side-fallback-2026-07-01", b"compact-2026-01-12", b"context-1m-2027-01-01", b"\xff"]
)
def test_a_beta_that_nobody_has_judged_is_refused(beta: bytes) -> None:
    with pytest.raises(FeatureNotGranted, match="leave it out of anthropic-beta"):
        anthropic_messages.features_of_headers([(b"anthropic-beta", b"context-1m-2025-08-07," + beta)])


# --- metering

START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":9,'
    b'"cache_creation_input_tokens":3,"cache_read_input_tokens":20,"output_tokens":1}}}\n\n'
)
WORD = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}\n\n'
DELTA = b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def meter():
    return anthropic_messages.read(ask(stream=True)).meter()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@given(cuts=st.lists(st.integers(0, 600), max_size=10))
def test_a_stream_passes_whole_whatever_its_pieces_and_is_counted(end: bytes, cuts: list[int]) -> None:
    raw = (START + b": ping\n\n" + WORD + DELTA + STOP).replace(b"\n", end)
    counting = meter()
    places = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    out = b"".join(counting.stream(raw[a:b]) for a, b in itertools.pairwise(places)) + counting.end()
    assert out == raw
    assert (counting.usage, counting.done) == (Usage(32, 7, 20, 3), True)


def test_output_is_known_only_from_the_delta_on_and_final_with_the_stop() -> None:
    counting = meter()
    counting.stream(START + WORD)
    assert (counting.usage, counting.done) == (None, False)
    counting.stream(DELTA)
    assert (counting.usage, counting.done) == (Usage(32, 7, 20, 3), False)
    counting.stream(DELTA.replace(b"7", b"4"))
    counting.stream(DELTA.replace(b'{"output_tokens":7}', b'{"output_tokens":8,"input_tokens":12,"cache_read_input_tokens":null}'))
    counting.stream(STOP)
    assert (counting.usage, counting.done) == (Usage(35, 8, 20, 3), True)


@pytest.mark.parametrize("figure", [b"-1", b"7.0", b'"7"', b"true", b"2147483648"])
@pytest.mark.parametrize("name", [b'"output_tokens":7', b'"cache_read_input_tokens":20', b'"input_tokens":9'])
def test_one_figure_that_cannot_be_spoils_the_report(name: bytes, figure: bytes) -> None:
    counting = meter()
    counting.stream((START + DELTA + STOP).replace(name, name.split(b":")[0] + b":" + figure))
    assert (counting.usage, counting.done) == (None, False)


def test_a_stop_without_figures_is_not_done() -> None:
    counting = meter()
    counting.stream(WORD + STOP)
    assert not counting.done


def test_an_error_inside_a_stream_is_passed_and_known() -> None:
    counting = meter()
    event = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    assert counting.stream(event) == event
    assert (counting.failed, counting.done) == (True, False)


def test_a_whole_answer_says_its_usage() -> None:
    counting = anthropic_messages.read(ask()).meter()
    body = b'{"type":"message","usage":{"input_tokens":9,"cache_creation_input_tokens":null,"cache_read_input_tokens":2,"output_tokens":7}}'
    assert counting.whole(body) == Usage(11, 7, 2)
    assert counting.done


def test_a_whole_answer_that_is_no_object_is_a_fault_of_the_provider() -> None:
    with pytest.raises(ProviderUnavailable):
        anthropic_messages.read(ask()).meter().whole(b"<html>")


# --- words of our own


def test_an_error_has_the_shape_that_sdks_read() -> None:
    refusal = QuotaExhausted("wait an hour", retry_after_s=3600)
    assert json.loads(anthropic_messages.error(refusal, "x1")) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "wait an hour", "code": "quota_exhausted", "param": None},
        "request_id": "x1",
    }
    assert anthropic_messages.error_event(refusal, "x1") == b"event: error\ndata: " + anthropic_messages.error(refusal, "x1") + b"\n\n"


def test_rate_limits_are_said_as_this_dialect_says_them() -> None:
    held = Held("h", 5, tokens=None, requests=Allowance(60, 59, 30.5), leased=False)
    assert anthropic_messages.rate_limit_headers(held, 1_790_000_000.0) == (
        (b"anthropic-ratelimit-requests-limit", b"60"),
        (b"anthropic-ratelimit-requests-remaining", b"59"),
        (b"anthropic-ratelimit-requests-reset", b"2026-09-21T14:13:51Z"),
    )


def test_the_texts_of_messages_can_be_counted_and_nothing_else() -> None:
    texts = ["of the system", "of a user", "a block", "a result", "a part of a result"]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": texts[0]}}
    blocks = [
        {"type": "text", "text": texts[2]},
        {"type": "text", "text": ["no text"]},
        image,
        {"type": "tool_use", "id": "1", "name": "f", "input": {"of": "a call"}},
        {"type": "thinking", "thinking": "of before", "signature": "s"},
        {"type": "tool_result", "tool_use_id": "1", "content": texts[3]},
        {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": texts[4]}, image]},
        {"type": "document", "source": {"type": "text", "data": "of a document"}},
    ]
    tools = [{"name": "f", "description": "of the tool", "input_schema": {}}]
    asked = [{"role": "user", "content": texts[1]}, {"role": "user", "content": blocks}]
    question = anthropic_messages.read(ask(system=texts[0], messages=asked, tools=tools))
    assert [json.loads(bytes(raw)) for raw in question.texts] == texts
