"""Responses and embeddings before a provider that others wrote. What it says is in fixtures.json, by the user's message."""

import json

import openai
import pytest
from support.aimock import FOLDER, aimock
from support.objects_yaml import access, routing
from support.stack import AGENT, CANARY, stack

SPEAKER = """
  - {name: speaker, schema: OpenAI, responses: true, endpoint: "http://127.0.0.1:%d/v1", credentials: {type: APIKey, secretRef: {name: key}}}
"""
MODEL = "  - {name: thinker, backends: [{provider: speaker, model: gpt-real}], defaultOutputTokens: 50}"
TOOLS = [
    {
        "type": "function",
        "name": "get_weather",
        "strict": False,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    with aimock(tmp_path_factory.mktemp("aimock"), FOLDER / "fixtures.json", CANARY) as running:
        yield running


@pytest.fixture
async def it(provider, tmp_path):
    objects = routing(provider.port, extra=SPEAKER % provider.port, models=MODEL) + access(models="thinker, gpt")
    async with stack(tmp_path, objects) as running:
        yield running


async def respond(it, stream, **more):
    client = it.openai(AGENT)
    if not stream:
        return await client.responses.create(model="thinker", **more)
    async with client.responses.stream(model="thinker", **more) as events:
        return await events.get_final_response()


STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@STREAMED
@pytest.mark.parametrize(
    ("text", "said", "usage"),
    [("a short answer", "Here it is.", (11, 7, False)), ("an answer after some thinking", "Done.", (5, 9, False))],
)
async def test_a_response_arrives_whole_and_is_charged_as_it_was_reported(it, stream, text, said, usage):
    assert (await respond(it, stream, input=text)).output_text == said
    (line,) = await it.audited(1)
    assert (line["input_tokens"], line["output_tokens"], line["estimated"]) == usage


@STREAMED
async def test_an_agent_calls_a_tool_and_goes_on_with_its_result_by_sending_all_of_it(it, stream):
    asked = [{"role": "user", "content": "the weather"}]
    first = await respond(it, stream, input=asked, tools=TOOLS)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)["city"]) == ("get_weather", "Bremen")
    known = {"call_id", "name", "arguments", "id", "type", "status"}
    said = [{key: value for key, value in call.model_dump().items() if key in known and value is not None}]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    assert (await respond(it, stream, input=[*asked, *said, result], tools=TOOLS)).output_text == "It rains."
    assert [(one["input_tokens"], one["output_tokens"]) for one in await it.audited(2)] == [(30, 12), (40, 4)]


async def test_embeddings_arrive_and_only_their_input_is_charged(it):
    got = await it.openai(AGENT).embeddings.create(model="gpt", input=["words to embed", "and more of them"])
    assert [one.embedding for one in got.data] == [[0.5, -1.0, 2.0]] * 2
    (line,) = await it.audited(1)
    assert (line["code"], line["output_tokens"]) == ("answered", 0)


async def test_an_error_of_the_provider_is_told_as_such(it):
    with pytest.raises(openai.RateLimitError) as caught:
        await respond(it, stream=False, input="too many requests")
    assert caught.value.response.headers["x-aiaccess-source"] == "provider"
