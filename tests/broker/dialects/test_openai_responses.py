"""Responses: what is refused, what is held for, what goes out, and what is learned from answers."""

import json

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sounds import wave

from broker.chat import Options, Usage
from broker.dialects import openai_responses
from broker.errors import BadRequest, FeatureNotGranted, Forbidden, ProviderUnavailable
from broker.grant import Feature
from broker.judges import openai as judged
from broker.judges.openai_responses import CLIENT_TOOL_TOKENS, TOOL_CALLS
from broker.metering import TEXTS_MAX, CutOff

WINDOW = judged.TEMPLATE.context_window
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def ask(**members):
    return json.dumps({"model": "gpt", "input": "hi", **members}).encode()


def item(**members):
    return ask(input=[{"role": "user", "content": "hi"}, members])


def part(**members):
    return item(role="user", content=[{"type": "input_text", "text": "hi"}, members])


def read(body):
    return openai_responses.read(body)


def features(body):
    return read(body).features


def bound(body):
    return read(body).demand(50, None).prompt_bound


# -- what no policy grants
STATE = {
    "a conversation": ask(conversation="conv_1"),
    "a conversation object": ask(conversation={"id": "conv_1"}),
    "a stored prompt": ask(prompt={"id": "pmpt_1"}),
    "an id for the response": ask(request_id="resp_1"),
    "a response to compare with": ask(prompt_cache_options={"comparison_response_id": "resp_1"}),
    "an image that was made": item(type="image_generation_call", id="ig_1", result="aGk="),
    "a search of files": item(type="file_search_call", id="fs_1", queries=["x"]),
    "an image by its id": part(type="input_image", file_id="file-1"),
    "a file by its id": part(type="input_file", file_id="file-1"),
    "a file by its id beside another": part(type="input_file", file_id="file-1", file_data="aGk="),
    "an image in a result": item(type="function_call_output", call_id="c", output=[{"type": "input_image", "file_id": "file-1"}]),
    "a screenshot by its id": item(type="computer_call_output", call_id="c", output={"type": "computer_screenshot", "file_id": "file-1"}),
    "vector stores": ask(tools=[{"type": "file_search", "vector_store_ids": ["vs_1"]}]),
    "files in a container": ask(tools=[{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]),
    "skills in a container": ask(tools=[{"type": "shell", "environment": {"type": "container_auto", "skills": []}}]),
    "a container of another kind than it says": ask(
        tools=[{"type": "code_interpreter", "container": {"type": "auto", "container_id": "c"}}]
    ),
    "a shell's container of another kind than it says": ask(
        tools=[{"type": "shell", "environment": {"type": "container_auto", "container_id": "cntr_1"}}]
    ),
    "a slot of llama.cpp's": ask(id_slot=3),
    "a tunnel": ask(tools=[{"type": "mcp", "server_label": "x", "tunnel_id": "tun_1"}]),
    "tools that come with the input": item(
        type="additional_tools", role="developer", tools=[{"type": "file_search", "vector_store_ids": ["v"]}]
    ),
}
UNKNOWN = {
    "a kind of item": item(type="telepathy"),
    "an item of no kind": item(text="hi"),
    "what stands for a shortened input": item(type="compaction", encrypted_content="eA=="),
    "a kind of part": part(type="input_video", video_url="data:,"),
    "a part of no kind": part(text="hi"),
    "a kind of tool": ask(tools=[{"type": "mind_reader"}]),
    "a tool of no kind": ask(tools=[{"name": "f"}]),
    "a kind of environment": ask(tools=[{"type": "shell", "environment": {"type": "moon"}}]),
    "a hosted tool in a namespace": ask(tools=[{"type": "namespace", "name": "n", "tools": [{"type": "web_search"}]}]),
    "a screenshot of another kind": item(type="computer_call_output", call_id="c", output={"type": "hologram"}),
}


@pytest.mark.parametrize("case", STATE)
def test_what_the_provider_keeps_for_its_account_is_refused(case):
    with pytest.raises(FeatureNotGranted, match="no policy can grant"):
        read(STATE[case])


# -- what a policy grants, and only a seal opens: the feature, the place and the id there
KEPT = {
    "an earlier response": (ask(previous_response_id="resp_1"), "Storage", "previous_response_id", "resp_1"),
    "a reference": (item(type="item_reference", id="msg_1"), "Storage", "input.id", "msg_1"),
    "a reference without a type": (item(id="msg_1"), "Storage", "input.id", "msg_1"),
    "a message that is nothing but an id": (item(type="message", role="assistant", id="msg_1"), "Storage", "input.id", "msg_1"),
    "a call that is nothing but an id": (item(type="function_call", id="fc_1"), "Storage", "input.id", "fc_1"),
    "a search that is nothing but an id": (item(type="web_search_call", id="ws_1"), "Storage", "input.id", "ws_1"),
    "an output that is nothing but an id": (item(type="function_call_output", id="fco_1"), "Storage", "input.id", "fco_1"),
    "a screenshot that is nothing but an id": (item(type="computer_call_output", id="cuo_1"), "Storage", "input.id", "cuo_1"),
    "tools that are nothing but an id": (item(type="additional_tools", id="at_1"), "Storage", "input.id", "at_1"),
    "found tools that are nothing but an id": (item(type="tool_search_output", id="tso_1"), "Storage", "input.id", "tso_1"),
    "an update that is nothing but an id": (item(type="configuration_update", id="cu_1"), "Storage", "input.id", "cu_1"),
    "reasoning by its id": (item(type="reasoning", id="rs_1", summary=[]), "Storage", "input.id", "rs_1"),
    "reasoning by its id, encrypted as nothing": (item(type="reasoning", id="rs_1", encrypted_content=""), "Storage", "input.id", "rs_1"),
    "reasoning by its id, with words of the caller's own": (
        item(type="reasoning", id="rs_1", content=[{"type": "reasoning_text", "text": "x"}]),
        *("Storage", "input.id", "rs_1"),
    ),
    "an approval": (
        item(type="mcp_approval_response", approval_request_id="mcpr_1", approve=True),
        *("Storage", "input.approval_request_id", "mcpr_1"),
    ),
    "a container that ran code": (
        item(type="code_interpreter_call", id="ci_1", container_id="cntr_1", code="1"),
        *("Files", "input.container_id", "cntr_1"),
    ),
    "a container by its id": (ask(tools=[{"type": "code_interpreter", "container": "cntr_1"}]), "Files", "tools.container", "cntr_1"),
    "a shell in a container": (
        ask(tools=[{"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_1"}}]),
        *("Files", "tools.environment.container_id", "cntr_1"),
    ),
    "a call in a container": (
        item(type="shell_call", call_id="c", action={}, environment={"type": "container_reference", "container_id": "cntr_1"}),
        *("Files", "input.environment.container_id", "cntr_1"),
    ),
    "tools of a container that come with the input": (
        item(type="additional_tools", role="developer", tools=[{"type": "code_interpreter", "container": "cntr_1"}]),
        *("Files", "tools.container", "cntr_1"),
    ),
}


ADDED = {"role": "developer", "tools": [{"type": "web_search"}]}


@pytest.mark.parametrize("kind", ["additional_tools", "tool_search_output"])
@pytest.mark.parametrize("kept", [{"store": True}, {"background": True}, {"background": True, "store": False}])
def test_hosted_tools_are_not_kept_in_an_item(kind, kept):
    """A later request that goes on from it would have them, by a grant without them and a hold for one reading."""
    with pytest.raises(BadRequest, match="name them in 'tools'"):
        read(ask(input=[{"type": kind, **ADDED}], **kept))


def test_hosted_tools_may_stand_in_an_item_that_is_not_kept_and_in_the_tools_of_one_that_is():
    own = {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "f"}]}
    for asked in (
        ask(input=[{"type": "additional_tools", **ADDED}]),
        ask(input=[{"type": "additional_tools", **ADDED}], store=False, previous_response_id="resp_1"),
        ask(input=[own], tools=ADDED["tools"], store=True),
        ask(input=[{"type": "web_search_call", "id": "ws_1", "action": {}}, own], store=True),
    ):
        assert Feature.HOSTED_TOOLS in features(asked)


@pytest.mark.parametrize("case", KEPT)
def test_what_names_kept_state_needs_its_feature_and_is_held_as_a_context_window(case):
    body, feature, param, id_ = KEPT[case]
    question = read(body)
    assert [(place.feature, place.param, place.id) for place in question.kept] == [(feature, param, id_)]
    assert feature in question.features
    assert bound(body) > WINDOW


def test_reasoning_by_its_id_can_be_sent_encrypted_instead():
    assert "encrypted_content" in read(KEPT["reasoning by its id"][0]).kept[0].instead


def test_an_answer_in_the_background_is_kept_unless_the_caller_says_otherwise():
    assert features(ask(background=True)) == {Feature.BACKGROUND}
    for said, sent in ((None, True), (True, True), (False, False)):
        out = read(ask(background=True, store=said)).body("real", 50, Options())
        assert json.loads(out)["store"] is sent


@pytest.mark.parametrize("odd", [5, ["resp_1"], {"id": "resp_1"}, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda id_: ask(previous_response_id=id_),
        lambda id_: item(type="item_reference", id=id_),
        lambda id_: item(type="reasoning", id=id_),
        lambda id_: item(type="mcp_approval_response", approval_request_id=id_),
        lambda id_: item(type="code_interpreter_call", code="1", container_id=id_),
        lambda id_: ask(tools=[{"type": "shell", "environment": {"type": "container_reference", "container_id": id_}}]),
    ],
)
def test_an_id_is_a_text(make, odd):
    with pytest.raises(BadRequest):
        read(make(odd))


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_nobody_has_judged_is_refused(case):
    with pytest.raises(FeatureNotGranted, match="not a kind that this broker knows"):
        read(UNKNOWN[case])


@pytest.mark.parametrize("name", openai_responses.REFUSED_FIELDS)
def test_what_would_make_the_bounds_or_the_grant_false_is_refused(name):
    with pytest.raises(BadRequest, match=name):
        read(ask(**{name: 5}))


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m"}',
        ask(input=5),
        ask(input=["hi"]),
        ask(instructions=["hi"]),
        ask(reasoning={"mode": "pro"}),
        ask(tools=[{"type": "image_generation"}]),
        ask(tools=[{"type": "web_search", "model": "other"}]),
        ask(max_output_tokens=0),
        ask(max_tool_calls=0),
        ask(background="yes"),
        item(type="item_reference"),
        item(type="mcp_approval_response", approve=True),
        ask(tools=[{"type": "shell", "environment": {"type": "container_reference"}}]),
        item(role="user"),
        item(type="function_call", call_id="c", name="f"),
        part(type="input_image"),
        part(type="input_image", image_url="file-1"),
        part(type="input_file"),
        part(type="input_file", file_url="https://x.example/1.pdf", file_data="aGk="),
    ],
)
def test_what_no_provider_would_take_or_no_grant_covers_is_a_bad_request(body):
    with pytest.raises(BadRequest):
        read(body)


@pytest.mark.parametrize(
    "absent", [{"previous_response_id": None, "conversation": None, "prompt": None, "background": False, "store": False}]
)
def test_what_is_null_or_false_is_absent(absent):
    assert features(ask(**absent)) == frozenset()


# -- what a policy can grant
@pytest.mark.parametrize(
    ("body", "feature"),
    [
        (ask(store=True), Feature.STORAGE),
        (ask(tools=[{"type": "web_search"}]), Feature.HOSTED_TOOLS),
        (ask(tools=[{"type": "web_search_preview"}]), Feature.HOSTED_TOOLS),
        (ask(tools=[{"type": "mcp", "server_label": "x", "server_url": "https://x.example"}]), Feature.HOSTED_TOOLS),
        (ask(tools=[{"type": "code_interpreter", "container": {"type": "auto"}}]), Feature.HOSTED_TOOLS),
        (ask(tools=[{"type": "shell"}]), Feature.HOSTED_TOOLS),
        (ask(tools=[{"type": "shell", "environment": {"type": "container_auto"}}]), Feature.HOSTED_TOOLS),
        (ask(tools=[{"type": "tool_search"}]), Feature.HOSTED_TOOLS),
        (ask(tools=[{"type": "programmatic_tool_calling"}]), Feature.HOSTED_TOOLS),
        (item(type="web_search_call", id="ws_1", status="completed", action={"type": "search"}), Feature.HOSTED_TOOLS),
        (item(type="mcp_call", id="mcp_1", server_label="x", name="f", arguments="{}"), Feature.HOSTED_TOOLS),
        (item(type="additional_tools", role="developer", tools=[{"type": "web_search"}]), Feature.HOSTED_TOOLS),
        (item(type="tool_search_output", tools=[]), Feature.HOSTED_TOOLS),
        (part(type="input_image", image_url="https://pictures.example/1.png"), Feature.REMOTE_MEDIA),
        (part(type="input_file", file_url="https://papers.example/1.pdf"), Feature.REMOTE_MEDIA),
        (
            item(type="computer_call_output", call_id="c", output={"type": "computer_screenshot", "image_url": "https://x.example/1"}),
            Feature.REMOTE_MEDIA,
        ),
    ],
)
def test_what_a_policy_can_grant_is_named(body, feature):
    assert features(body) == {feature}


def test_hosted_tools_are_held_for_as_often_as_they_may_be_called():
    searches = [{"type": "web_search"}]
    assert bound(ask(tools=searches)) >= (1 + TOOL_CALLS) * WINDOW
    assert bound(ask(tools=searches, max_tool_calls=2)) < 4 * WINDOW
    sent = json.loads(read(ask(tools=searches)).body("real", 50, Options()))
    assert sent["max_tool_calls"] == TOOL_CALLS
    assert json.loads(read(ask(tools=searches, max_tool_calls=2)).body("real", 50, Options()))["max_tool_calls"] == 2
    assert "max_tool_calls" not in json.loads(read(ask()).body("real", 50, Options()))


# -- what needs nothing but itself
CONVERSED = [
    {"role": "developer", "content": "be brief"},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2+2?"}, {"type": "input_image", "image_url": PIXEL}]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "sum"}], "encrypted_content": "gAAA"},
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": "{}", "status": "completed"},
    {"type": "function_call_output", "call_id": "c1", "output": "4"},
    {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "4"}]},
    {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c2", "name": "t", "input": "x"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": "y"},
    {"type": "local_shell_call", "id": "lsh_1", "call_id": "c3", "action": {"type": "exec", "command": ["ls"]}, "status": "completed"},
    {"type": "local_shell_call_output", "id": "c3", "output": "a"},
    {"type": "shell_call", "call_id": "c4", "action": {"commands": ["ls"]}, "environment": {"type": "local"}},
    {"type": "shell_call_output", "call_id": "c4", "output": []},
    {"type": "apply_patch_call", "call_id": "c5", "status": "completed", "operation": {"type": "delete_file", "path": "a"}},
    {"type": "apply_patch_call_output", "call_id": "c5", "status": "completed"},
    {
        "type": "computer_call",
        "id": "cu_1",
        "call_id": "c6",
        "action": {"type": "wait"},
        "pending_safety_checks": [],
        "status": "completed",
    },
    {"type": "computer_call_output", "call_id": "c6", "output": {"type": "computer_screenshot", "image_url": PIXEL}},
    {"type": "configuration_update", "reasoning": {"effort": "low"}},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "4", "annotations": []}, {"type": "refusal", "refusal": "no"}],
    },
]
OWN_TOOLS = [
    {"type": "function", "name": "add", "parameters": {}},
    {"type": "custom", "name": "t"},
    {"type": "namespace", "name": "crm", "description": "", "tools": [{"type": "function", "name": "f"}]},
]
CLIENT_TOOLS = [
    {"type": "local_shell"},
    {"type": "apply_patch"},
    {"type": "computer"},
    {"type": "shell", "environment": {"type": "local"}},
    {"type": "tool_search", "execution": "client"},
]


def test_a_conversation_that_carries_all_of_itself_passes_unchanged():
    body = ask(input=CONVERSED, tools=[*OWN_TOOLS, *CLIENT_TOOLS], include=["reasoning.encrypted_content"], reasoning={"effort": "low"})
    question = read(body)
    assert question.features == frozenset()
    sent = json.loads(question.body("real", 50, Options()))
    assert sent == {**json.loads(body), "model": "real", "max_output_tokens": 50, "store": False}


def test_the_bound_is_that_of_the_bytes_and_of_what_tools_and_images_add():
    for body in (ask(), ask(input="é" * 500), ask(input=[{"role": "user", "content": "x" * 900}], instructions="y" * 90)):
        assert len(body) < bound(body) < len(body) + 200
    plain = ask(input=[{"role": "user", "content": [{"type": "input_image", "image_url": PIXEL}]}])
    assert judged.IMAGE_TOKENS < bound(plain) < judged.IMAGE_TOKENS + len(plain) + 200
    assert bound(ask(tools=CLIENT_TOOLS)) - bound(ask(tools=[])) >= len(CLIENT_TOOLS) * CLIENT_TOOL_TOKENS
    assert bound(part(type="input_file", file_data="data:application/pdf;base64,aGk=")) >= WINDOW
    assert bound(part(type="input_audio", input_audio={"data": wave(0.15), "format": "wav"})) < 1200


def test_texts_are_what_a_count_may_replace():
    texts = [bytes(raw) for raw in read(ask(input=CONVERSED, instructions="be kind")).texts]
    assert {b'"be kind"', b'"be brief"', b'"2+2?"', b'"sum"', b'"4"'} <= set(texts)
    assert not any(PIXEL.encode() in text for text in texts)


@pytest.mark.parametrize(("asked", "sent", "clamped"), [(None, 40, None), (100, 40, 40), (40, 40, None), (30, 30, None)])
def test_the_granted_limit_is_where_the_provider_reads_it(asked, sent, clamped):
    question = read(ask() if asked is None else ask(max_output_tokens=asked))
    granted = min(40, asked or 40)
    assert json.loads(question.body("real", granted, Options()))["max_output_tokens"] == sent
    assert question.clamped(granted) == clamped
    assert question.demand(50, 4096).wanted_output == (asked or 50)


@pytest.mark.parametrize(("asked", "sent"), [({}, False), ({"store": None}, False), ({"store": False}, False), ({"store": True}, True)])
def test_nothing_is_kept_that_nobody_asked_to_keep(asked, sent):
    assert json.loads(read(ask(**asked)).body("real", 50, Options()))["store"] is sent


# -- answers
def event(kind, **members):
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **members}).encode())


USAGE = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 3, "total_tokens": 12}
CREATED = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "real",
    "status": "in_progress",
    "output": [],
    "error": None,
    "usage": None,
}
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}


def text_delta(words, at=0, part_at=0, number=5):
    return event(
        "response.output_text.delta",
        delta=words,
        item_id="msg_1",
        output_index=at,
        content_index=part_at,
        logprobs=[],
        sequence_number=number,
    )


def begun(*items):
    added = [event("response.output_item.added", item=one, output_index=at, sequence_number=2) for at, one in enumerate(items)]
    return event("response.created", response=CREATED, sequence_number=1) + b"".join(added)


def meter(gauge=None):
    return read(ask(stream=True)).meter(gauge)


@pytest.mark.parametrize("end", ["response.completed", "response.incomplete", "response.failed"])
def test_usage_comes_with_the_last_event_however_it_ended(end):
    it = meter()
    raw = begun(MESSAGE) + text_delta("hi") + event(end, response={**CREATED, "usage": USAGE}, sequence_number=9)
    assert it.stream(raw) + it.end() == raw
    assert (it.usage, it.done, it.failed) == (Usage(9, 3, 4), True, end == "response.failed")


def test_usage_is_found_beside_an_output_that_is_larger_than_any_report():
    it = meter()
    it.stream(event("response.completed", response={**CREATED, "output": [{"text": "x" * 100_000}], "usage": USAGE}))
    assert (it.usage, it.done) == (Usage(9, 3, 4), True)


@pytest.mark.parametrize(
    "response",
    [
        None,
        [],
        "usage",
        {},
        {"usage": None},
        {"usage": []},
        {"usage": {"input_tokens": 9}},
        {"usage": {"input_tokens": -1, "output_tokens": 3}},
        {"usage": {"input_tokens": True, "output_tokens": 3}},
        {"usage": {"input_tokens": 9, "output_tokens": 2**31}},
        {"usage": {**USAGE, "total_tokens": "12"}},
        {"usage": {**USAGE, "x": "y" * 100_000}},
    ],
)
def test_an_end_without_a_report_that_can_be_leaves_the_whole_hold_spent(response):
    it = meter()
    raw = event("response.completed", response=response)
    assert it.stream(raw) == raw
    assert (it.usage, it.done) == (None, False)


def test_an_error_in_the_stream_is_seen_and_passed_on():
    it = meter()
    raw = event("error", code="server_error", message="no", param=None, sequence_number=3)
    assert it.stream(raw) == raw
    assert it.failed


def test_what_is_no_json_is_a_broken_answer():
    with pytest.raises(ProviderUnavailable):
        meter().stream(b"event: response.completed\ndata: {response.completed\n\n")


def test_a_plain_answer_reports_in_its_body():
    it = read(ask()).meter()
    assert it.whole(json.dumps({**CREATED, "status": "completed", "usage": USAGE}).encode()) == Usage(9, 3, 4)
    assert it.done


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_an_answer_that_is_still_being_made_has_reported_nothing_whatever_it_says(status):
    """Else a job in the background would cost nothing at a server that begins its report with noughts."""
    it = read(ask(background=True)).meter()
    nought = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    assert it.whole(json.dumps({**CREATED, "status": status, "usage": nought}).encode()) is None
    assert not it.done


@pytest.mark.parametrize("odd", [b"[]", b"{}", b"5", b"true", b"null"])
def test_a_kind_or_a_status_that_is_no_text_is_nothing_to_stumble_over(odd):
    event = b'data: {"type":%b,"error":{"message":"no"}}\n\n' % odd
    it = meter()
    assert it.stream(event) == event
    assert it.failed
    whole = b'{"type":%b,"status":%b,"usage":{"input_tokens":3,"output_tokens":4}}' % (odd, odd)
    assert read(ask()).meter().whole(whole) == Usage(3, 4)


figures = st.integers(0, 2**31 - 1)


@given(prompt=figures, output=figures, total=figures, cached=figures)
def test_no_total_and_no_cache_takes_tokens_away(prompt, output, total, cached):
    reported = {"input_tokens": prompt, "output_tokens": output, "total_tokens": total, "input_tokens_details": {"cached_tokens": cached}}
    used = read(ask()).meter().whole(json.dumps({"usage": reported}).encode())
    assert used is not None
    assert used.input_tokens == prompt
    assert used.output_tokens == max(output, total - prompt)
    assert used.cached_tokens <= prompt


# -- words of our own
def sdk(stream):
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=stream, headers={"content-type": "text/event-stream"}))
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1/v1", http_client=httpx2.Client(transport=transport), max_retries=0)
    return client.responses.create(model="gpt", input="hi", stream=True)


def test_an_error_inside_a_stream_raises_in_the_sdk():
    events = sdk(begun() + openai_responses.error_event(Forbidden("cut off"), "x-1"))
    assert next(events).type == "response.created"
    with pytest.raises(openai.APIError, match="cut off") as caught:
        next(events)
    assert (caught.value.code, caught.value.type) == ("forbidden", "permission_error")


def test_an_error_inside_a_stream_has_what_the_documented_event_has():
    said = json.loads(openai_responses.error_event(Forbidden("cut off", param="model"), "x-1").split(b"data: ")[1])
    assert said["type"] == "error"
    assert (said["code"], said["param"]) == ("forbidden", "model")
    assert "cut off" in said["message"]


class Words:
    """A gauge that takes a word for a token."""

    hold = Usage(30, 4)

    def __init__(self):
        self.texts = {}

    def passes(self, text, piece):
        self.texts[text] = self.texts.get(text, "") + piece
        return sum(len(one.split()) for one in self.texts.values()) > self.hold.output_tokens


def ended(*pieces):
    it, got = meter(Words()), b""
    with pytest.raises(CutOff) as reached:
        for piece in pieces:
            got += it.stream(piece)
    return got + reached.value.events


def test_a_response_that_passes_its_hold_ends_as_one_at_its_limit_for_the_sdk():
    call = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": ""}
    done = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    thought = event("response.output_item.done", item=done, output_index=0, sequence_number=4)
    raw = ended(begun({**done, "encrypted_content": None}, MESSAGE, call), thought, *[text_delta("word ", at=1)] * 9)
    *_, last = list(sdk(raw))
    assert (last.type, last.sequence_number) == ("response.incomplete", 6)
    response = last.response
    assert (response.id, response.status, response.incomplete_details.reason) == ("resp_1", "incomplete", "max_output_tokens")
    assert [item.type for item in response.output] == ["reasoning", "message"]  # half a call is none
    assert (response.output_text, response.output[1].id, response.output[1].status) == ("word " * 4, "msg_1", "incomplete")
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (30, 4, 34)


@pytest.mark.parametrize(
    "kind",
    [
        *("response.output_text.delta", "response.refusal.delta", "response.reasoning_text.delta"),
        *("response.function_call_arguments.delta", "response.custom_tool_call_input.delta", "response.mcp_call_arguments.delta"),
        *("response.code_interpreter_call_code.delta", "response.shell_call_command.delta"),
    ],
)
def test_all_that_a_model_writes_counts(kind):
    assert b"max_output_tokens" in ended(event(kind, delta="w w w w w", output_index=0))


@pytest.mark.parametrize(
    "raw",
    [
        event("response.reasoning_summary_text.delta", delta="w w w w w w"),
        event("response.output_text.done", text="w w w w w w"),
        event("response.output_text.delta", delta="w", obfuscation="w w w w w w"),
        event("response.output_item.added", item={**MESSAGE, "name": "w w w w w w"}),
        b": w w w w w w\n\n",
        b"data: [DONE]\n\n",
    ],
)
def test_what_a_model_does_not_write_does_not_count(raw):
    it = meter(Words())
    assert it.stream(raw) == raw


def test_last_words_are_text_whatever_came_before():
    broken = begun(MESSAGE).replace(b"resp_1", b"resp_\xff").replace(b"msg_1", b"msg_\xff")
    last = json.loads(ended(broken, *[text_delta("word ")] * 9).split(b"data: ")[-1])
    assert (last["response"]["status"], last["response"]["output"][0]["content"][0]["text"]) == ("incomplete", "word " * 4)


def test_more_texts_than_a_response_has_are_not_kept():
    it = meter(Words())
    for at in range(3 * TEXTS_MAX):
        it.stream(event("response.output_item.added", item=MESSAGE, output_index=at))
    with pytest.raises(CutOff) as reached:
        it.stream(b"".join(text_delta("w", at=0, part_at=at) for at in range(9)))
    assert reached.value.events.count(b'"msg_1"') <= TEXTS_MAX + 9
