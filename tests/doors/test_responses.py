"""OpenAI's Responses through both doors, asked by its SDK: with nothing of them kept, and nothing that others kept within reach.

With state: test_kept_responses.py; thieves of it: tests/security/test_stealing_state.py.
"""

import json

import openai
import pytest
from support.fake_provider import FakeProvider, json_answer, sse_answer
from support.objects_yaml import access, routing
from support.provider_words import RESPONSE, RESPONSE_EVENTS, RESPONSE_STREAM, RESPONSE_USAGE
from support.shared_account import write_keys
from support.stack import AGENT, CANARY, stack

PROVIDERS = """
  - {name: speaker, schema: OpenAI, responses: true, endpoint: "http://127.0.0.1:%d/v1", credentials: {type: APIKey, secretRef: {name: key}}}
"""
MODELS = """
  - {name: thinker, backends: [{provider: speaker, model: gpt-real}], defaultOutputTokens: 50}
  - {name: mixed, backends: [{provider: openai, model: gpt-real}, {provider: speaker, model: gpt-real, priority: 1}]}
"""
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


def honest(seen):
    if seen.header(b"authorization") != b"Bearer " + CANARY.encode():
        return json_answer(b'{"error":{"message":"wrong key"}}', 401)
    if seen.target != "/v1/responses":
        return json_answer(b'{"error":{"message":"no such path"}}', 404)
    return RESPONSE_STREAM if b'"stream":true' in seen.body else RESPONSE


def objects(provider, **more):
    return routing(provider.port, extra=PROVIDERS % provider.port, models=MODELS) + access(models="gpt, claude, thinker, mixed", **more)


async def ask(it, stream=False, model="thinker", **more):  # noqa: FBT002  as the parameter of most tests here
    got = await it.openai(AGENT).responses.create(**{"model": model, "input": "say hi", "stream": stream, **more})
    return [event async for event in got] if stream else got


@STREAMED
async def test_a_response_comes_through_and_nothing_of_it_is_kept(tmp_path, stream):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        got = await ask(it, stream)
        last = got[-1].response if stream else got
        assert (last.output_text, last.usage.total_tokens) == ("hi", 7)
        sent = json.loads(provider.seen[0].body)
        assert (sent["model"], sent["max_output_tokens"], sent["store"]) == ("gpt-real", 50, False)
        (line,) = await it.audited(1)
        assert (line["code"], line["dialect"], line["stream"]) == ("answered", "openai_responses", stream)
        assert (line["input_tokens"], line["output_tokens"], line["estimated"]) == (5, 2, False)


async def test_the_events_of_a_stream_pass_byte_for_byte(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        got = await it.http(AGENT).post("/v1/responses", json={"model": "thinker", "input": "hi", "stream": True})
        assert got.content == b"".join(RESPONSE_EVENTS)


async def test_the_streams_helper_of_the_sdk_reads_it_to_the_end(tmp_path):
    async with (
        FakeProvider(script=honest) as provider,
        stack(tmp_path, objects(provider)) as it,
        it.openai(AGENT).responses.stream(model="thinker", input="say hi") as stream,
    ):
        assert "".join([event.delta async for event in stream if event.type == "response.output_text.delta"]) == "hi"
        assert (await stream.get_final_response()).output_text == "hi"


async def test_a_conversation_goes_on_by_carrying_itself(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        first = await ask(it, include=["reasoning.encrypted_content"])
        said = [item.model_dump(exclude_none=True) for item in first.output]
        thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
        again = await ask(it, input=[{"role": "user", "content": "say hi"}, thought, *said, {"role": "user", "content": "again"}])
        assert again.output_text == "hi"
        assert json.loads(provider.seen[0].body)["include"] == ["reasoning.encrypted_content"]
        assert json.loads(provider.seen[1].body)["input"][1] == thought


REFUSED = {
    "an earlier response": ({"previous_response_id": "resp_of_another_agent"}, "previous_response_id"),
    "a conversation": ({"conversation": "conv_of_another_agent"}, "conversation"),
    "the background": ({"background": True}, "background"),
    "a stored prompt": ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    "an explicit store": ({"store": True}, "Storage"),
    "a reference": ({"input": [{"type": "item_reference", "id": "msg_of_another_agent"}]}, "input.id"),
    "a file": ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}, "file_id"),
    "vector stores": ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "vector_store_ids"),
    "a hosted tool": ({"tools": [{"type": "web_search"}]}, "HostedTools"),
    "a remote MCP server": ({"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x.example"}]}, "HostedTools"),
    "an image by URL": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "detail": "auto", "image_url": "https://x.example/1.png"}]}]},
        "RemoteMedia",
    ),
}


@STREAMED
@pytest.mark.parametrize("case", REFUSED)
async def test_state_that_agents_share_is_out_of_reach(tmp_path, stream, case):
    asked, why = REFUSED[case]
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.BadRequestError, match=why) as caught:
            await ask(it, stream, **asked)
        assert caught.value.code == "feature_not_granted"
        assert provider.seen == []


@pytest.mark.parametrize("case", ["an earlier response", "a conversation", "a stored prompt", "a reference", "a file", "vector stores"])
async def test_no_policy_opens_a_raw_id(tmp_path, case):
    asked, why = REFUSED[case]
    everything = "  features: [Storage, Files, HostedTools, RemoteMedia, Background]"
    keys = write_keys(tmp_path / "sealing-keys", 1)
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider, extra=everything), sealing_keys=keys) as it:
        with pytest.raises(openai.BadRequestError, match=why):
            await ask(it, **asked)
        assert provider.seen == []


async def test_without_keys_nothing_is_kept_and_nothing_that_is_kept_is_within_reach(tmp_path):
    everything = "  features: [Storage, Files, HostedTools, RemoteMedia, Background]"
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider, extra=everything)) as it:
        responses = it.openai(AGENT).responses
        for asking in (responses.retrieve, responses.delete, responses.cancel, responses.input_items.list):
            with pytest.raises(openai.BadRequestError, match="--sealing-keys") as caught:
                await asking("resp_1")
            assert caught.value.code == "feature_not_granted"
        for keeping in ({"store": True}, {"background": True}, {"previous_response_id": "resp_1"}):
            with pytest.raises(openai.BadRequestError, match="--sealing-keys"):
                await ask(it, **keeping)
        assert provider.seen == []
        assert (await ask(it)).output_text == "hi"  # what needs no keys is served


async def test_a_limit_is_clamped_and_said(tmp_path):
    async with (
        FakeProvider(script=honest) as provider,
        stack(tmp_path, objects(provider, quotas="[{name: all, tokens: 400, per: Month}]")) as it,
    ):
        got = await it.openai(AGENT).responses.with_raw_response.create(model="thinker", input="say hi", max_output_tokens=4000)
        granted = json.loads(provider.seen[0].body)["max_output_tokens"]
        assert 16 <= granted < 400
        assert got.headers["x-aiaccess-max-output-tokens"] == str(granted)


async def test_a_stream_that_passes_its_hold_ends_as_one_at_its_limit(tmp_path):
    words = [RESPONSE_EVENTS[3].replace(b'"delta":"hi"', b'"delta":"%b"' % (b"word " * 200))] * 20
    async with FakeProvider(sse_answer(*RESPONSE_EVENTS[:3], *words)) as provider:
        quotas = "[{name: all, tokens: 5000, per: Month, cutOff: true}]"
        async with stack(tmp_path, objects(provider, quotas=quotas)) as it:
            events = await ask(it, stream=True, max_output_tokens=100)
            assert (events[-1].type, events[-1].response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")
            assert events[-1].response.output_text == "".join(one.delta for one in events if one.type == "response.output_text.delta")
            (line,) = await it.audited(1)
            assert (line["code"], line["output_tokens"], line["estimated"]) == ("cut_off", 100, True)


async def test_a_stream_that_breaks_off_tells_the_sdk(tmp_path):
    broken = sse_answer(*RESPONSE_EVENTS[:4])[:-1]
    async with FakeProvider((*broken, "reset")) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.APIError, match="broke off"):
            await ask(it, stream=True)
        (line,) = await it.audited(1)
        assert (line["code"], line["estimated"]) == ("provider_unavailable", True)


async def test_only_a_server_that_says_so_is_asked_for_a_response(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.UnprocessableEntityError, match="speaks openai_responses"):
            await ask(it, model="gpt")
        with pytest.raises(openai.UnprocessableEntityError, match="speaks openai_responses"):
            await ask(it, model="claude")
        assert provider.seen == []
        await ask(it, model="mixed")
        (*_, line) = await it.audited(3)
        assert (line["code"], line["provider"], line["attempts"]) == ("answered", "speaker", 1)


def ending(usage, kind=b"response.completed"):
    """The last event, with a report of the provider's own making."""
    return RESPONSE_EVENTS[7].replace(b"response.completed", kind).replace(RESPONSE_USAGE, usage)


LYING = {
    # what the provider streams: (code, tokens in and out that are charged, None = the whole hold)
    "no end": (RESPONSE_EVENTS[:7], "answered", None),
    "no report": ((*RESPONSE_EVENTS[:7], ending(b"null")), "answered", None),
    "a report below nothing": ((*RESPONSE_EVENTS[:7], ending(b'{"input_tokens":-5,"output_tokens":2}')), "answered", None),
    "a report in the first event alone": (
        (RESPONSE_EVENTS[0].replace(b'"usage":null', b'"usage":' + RESPONSE_USAGE), *RESPONSE_EVENTS[1:7]),
        "answered",
        None,
    ),
    "less, then more": (
        (ending(b'{"input_tokens":5,"output_tokens":1}'), ending(b'{"input_tokens":5,"output_tokens":9}')),
        "answered",
        (5, 9),
    ),
    "more, then less": (
        (ending(b'{"input_tokens":5,"output_tokens":9}'), ending(b'{"input_tokens":1,"output_tokens":1}')),
        "answered",
        (5, 9),
    ),
    "output in the total alone": ((ending(b'{"input_tokens":5,"output_tokens":2,"total_tokens":30}'),), "answered", (5, 25)),
    "a failure that it bills": ((*RESPONSE_EVENTS[:4], ending(RESPONSE_USAGE, b"response.failed")), "answered", (5, 2)),
    "an end at its limit": ((*RESPONSE_EVENTS[:4], ending(RESPONSE_USAGE, b"response.incomplete")), "answered", (5, 2)),
    "an event without measure": ((RESPONSE_EVENTS[0], b"data: {" + b"x" * (1 << 20)), "provider_unavailable", None),
    "no JSON in the end": ((RESPONSE_EVENTS[0], b"data: response.completed\n\n"), "provider_unavailable", None),
    "our key": ((RESPONSE_EVENTS[3].replace(b'"hi"', b'"%b"' % CANARY.encode()),), "provider_unavailable", None),
}


@pytest.mark.parametrize("case", LYING)
async def test_a_stream_that_lies_is_charged_by_what_can_be_true_and_else_as_held(tmp_path, case):
    events, code, charged = LYING[case]
    async with FakeProvider(sse_answer(*events)) as provider, stack(tmp_path, objects(provider)) as it:
        got = await it.http(AGENT).post("/v1/responses", json={"model": "thinker", "input": "hi", "stream": True})
        assert CANARY.encode() not in got.content
        if code == "answered":
            assert got.content == b"".join(events)
        else:
            assert f'"code":"{code}"'.encode() in got.content
        (line,) = await it.audited(1)
        assert (line["code"], line["estimated"]) == (code, charged is None)
        tokens = line["input_tokens"], line["output_tokens"]
        assert tokens == charged if charged else sum(tokens) == line["held_tokens"]


async def test_a_plain_answer_to_who_asked_for_a_stream_is_none(tmp_path):
    async with FakeProvider(RESPONSE) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.InternalServerError, match="something else"):
            await ask(it, stream=True)
