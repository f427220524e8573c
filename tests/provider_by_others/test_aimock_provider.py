"""The whole product before a provider that others wrote: aimock, which checks keys, answers in both dialects, and fails on request.

What it says is in fixtures.json, by the user's message. The figures of usage there are what the audit log must show.
"""

import json

import anthropic
import openai
import pytest
from support.aimock import FOLDER, aimock
from support.objects_yaml import access, routing
from support.stack import AGENT, CANARY, stack

HELD_OUTPUT = 50
QUOTA = "[{name: hourly, tokens: 100000, per: Hour}]"
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}, "required": ["city"]}
OPENAI_TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "of a city", "parameters": WEATHER}}]
ANTHROPIC_TOOLS = [{"name": "get_weather", "description": "of a city", "input_schema": WEATHER}]
LONG = 'One two three four five six seven eight nine ten, and é, 😀 and "quotes" on\nanother line.'
SPEAKERS = pytest.mark.parametrize("dialect", ["openai", "anthropic"])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    with aimock(tmp_path_factory.mktemp("aimock"), FOLDER / "fixtures.json", CANARY) as running:
        yield running


@pytest.fixture
async def it(provider, tmp_path):
    async with stack(tmp_path, routing(provider.port) + access(quotas=QUOTA)) as running:
        yield running


async def ask(it, dialect, text, *, stream=False, **more):
    """The text of the answer, as the vendor's own SDK puts it together."""
    messages = more.pop("messages", [{"role": "user", "content": text}])
    if dialect == "openai":
        client = it.openai(AGENT)
        if not stream:
            done = await client.chat.completions.create(model="gpt", messages=messages, **more)
            return done.choices[0].message.content
        pieces = [event async for event in await client.chat.completions.create(model="gpt", messages=messages, stream=True, **more)]
        assert all(piece.choices for piece in pieces), "the caller got the report of usage that only we asked for"
        return "".join(piece.choices[0].delta.content or "" for piece in pieces)
    more = {"max_tokens": HELD_OUTPUT, **more}
    client = it.anthropic(AGENT)
    if not stream:
        done = await client.messages.create(model="claude", messages=messages, **more)
        return "".join(block.text for block in done.content if block.type == "text")
    async with client.messages.stream(model="claude", messages=messages, **more) as events:
        return await events.get_final_text()


async def charged(it):
    (line,) = await it.audited(1)
    return line["input_tokens"], line["output_tokens"], line["estimated"]


@SPEAKERS
@STREAMED
@pytest.mark.parametrize(
    ("text", "said", "usage"),
    [
        ("a short answer", "Here it is.", (11, 7, False)),
        ("a long answer", LONG, (21, 34, False)),
        ("an answer after some thinking", "Done.", (5, 9, False)),
    ],
)
async def test_an_answer_arrives_whole_and_is_charged_as_it_was_reported(it, dialect, stream, text, said, usage):
    assert await ask(it, dialect, text, stream=stream) == said
    assert await charged(it) == usage


@STREAMED
async def test_the_figures_that_openai_sends_are_those_that_its_sdk_reads(it, stream):
    client = it.openai(AGENT)
    messages = [{"role": "user", "content": "a short answer"}]
    if stream:
        events = await client.chat.completions.create(model="gpt", messages=messages, stream=True, stream_options={"include_usage": True})
        *_, last = [event async for event in events]
        usage = last.usage
        assert last.choices == []
    else:
        usage = (await client.chat.completions.create(model="gpt", messages=messages)).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (11, 7)
    assert await charged(it) == (11, 7, False)


async def test_the_figures_that_anthropic_streams_are_those_that_its_sdk_reads(it):
    messages = [{"role": "user", "content": "a short answer"}]
    async with it.anthropic(AGENT).messages.stream(model="claude", max_tokens=HELD_OUTPUT, messages=messages) as events:
        usage = (await events.get_final_message()).usage
    assert (usage.input_tokens, usage.output_tokens) == (11, 7)


@STREAMED
async def test_an_openai_agent_calls_a_tool_and_goes_on_with_its_result(it, stream):
    client = it.openai(AGENT)
    messages = [{"role": "user", "content": "the weather"}]
    if stream:
        async with client.chat.completions.stream(model="gpt", messages=messages, tools=OPENAI_TOOLS) as events:
            message = (await events.get_final_completion()).choices[0].message
    else:
        message = (await client.chat.completions.create(model="gpt", messages=messages, tools=OPENAI_TOOLS)).choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Bremen", "unit": "celsius"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    asked = {
        "role": "assistant",
        "tool_calls": [{"id": call.id, "type": "function", "function": call.function.model_dump(include={"name", "arguments"})}],
    }
    assert await ask(it, "openai", "", stream=stream, messages=[*messages, asked, result], tools=OPENAI_TOOLS) == "It rains."
    first, second = await it.audited(2)
    assert [(one["input_tokens"], one["output_tokens"]) for one in (first, second)] == [(30, 12), (40, 4)]


@STREAMED
async def test_an_anthropic_agent_calls_a_tool_and_goes_on_with_its_result(it, stream):
    client = it.anthropic(AGENT)
    messages = [{"role": "user", "content": "the weather"}]
    more = {"model": "claude", "max_tokens": HELD_OUTPUT, "tools": ANTHROPIC_TOOLS}
    if stream:
        async with client.messages.stream(messages=messages, **more) as events:
            message = await events.get_final_message()
    else:
        message = await client.messages.create(messages=messages, **more)
    call = next(block for block in message.content if block.type == "tool_use")
    assert (call.name, call.input) == ("get_weather", {"city": "Bremen", "unit": "celsius"})
    asked = {"role": "assistant", "content": [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]}
    assert await ask(it, "anthropic", "", stream=stream, messages=[*messages, asked, result], tools=ANTHROPIC_TOOLS) == "It rains."
    first, second = await it.audited(2)
    assert [(one["input_tokens"], one["output_tokens"]) for one in (first, second)] == [(30, 12), (40, 4)]


async def test_the_provider_gets_the_real_models_name_and_the_limit_that_was_granted(it, provider):
    await ask(it, "openai", "a short answer", stream=True)
    seen = provider.last()
    assert (seen["path"], seen["body"]["model"], seen["body"]["stream_options"]) == (
        "/v1/chat/completions",
        "gpt-real",
        {"include_usage": True},
    )
    assert [seen["body"][name] for name in ("max_tokens", "max_completion_tokens") if name in seen["body"]] == [HELD_OUTPUT]
    await ask(it, "anthropic", "a short answer")
    seen = provider.last()
    assert (seen["path"], seen["body"]["model"], seen["body"]["max_tokens"]) == ("/v1/messages", "claude-real", HELD_OUTPUT)


@SPEAKERS
async def test_a_provider_that_checks_keys_was_given_ours(it, provider, dialect):
    before = len(provider.journal())
    assert await ask(it, dialect, "a short answer") == "Here it is."
    (seen,) = provider.journal()[before:]
    assert seen["response"]["status"] == 200
    assert {"authorization", "x-api-key"} & set(seen["headers"]) == {"authorization" if dialect == "openai" else "x-api-key"}


@SPEAKERS
@STREAMED
async def test_a_key_that_the_provider_refuses_is_our_fault_and_costs_nothing(provider, tmp_path, dialect, stream):
    async with stack(tmp_path, routing(provider.port) + access(quotas=QUOTA), environ={"KEY": "sk-another"}) as it:
        with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
            await ask(it, dialect, "a short answer", stream=stream)
        assert (caught.value.status_code, caught.value.response.headers["x-should-retry"]) == (502, "false")
        assert "provider_auth" in caught.value.response.text
        assert "sk-another" not in caught.value.response.text
        assert await charged(it) == (0, 0, False)


REFUSED = {
    "too many requests": (429, "provider_rate_limited", "true"),
    "a failure": (502, "provider_unavailable", "true"),
    "an overload": (502, "provider_unavailable", "true"),
    "a dropped request": (502, "provider_unavailable", "true"),
}


@SPEAKERS
@STREAMED
@pytest.mark.parametrize("text", REFUSED)
async def test_a_provider_that_says_no_is_told_apart_from_us_and_not_charged(it, dialect, stream, text):
    status, code, retry = REFUSED[text]
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
        await ask(it, dialect, text, stream=stream)
    headers = caught.value.response.headers
    assert (caught.value.status_code, headers["x-should-retry"], headers["x-aiaccess-source"]) == (status, retry, "provider")
    assert code in caught.value.response.text
    if status == 429:
        assert headers["retry-after"] == "7"
        assert "x-ratelimit-limit-requests" not in headers, "the provider's account is nobody's business"
    assert await charged(it) == (0, 0, False)


@SPEAKERS
@STREAMED
async def test_what_the_agent_did_wrong_he_hears_in_the_providers_words(it, dialect, stream):
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="That parameter is wrong"):
        await ask(it, dialect, "a mistake of mine", stream=stream)
    assert await charged(it) == (0, 0, False)


@SPEAKERS
@STREAMED
@pytest.mark.parametrize("text", ["nonsense", "silence"])
async def test_an_answer_that_is_none_is_an_error_and_the_whole_hold_is_spent(it, dialect, stream, text):
    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)) as caught:
        await ask(it, dialect, text, stream=stream)
    assert caught.value.status_code == 502
    assert "provider_unavailable" in caught.value.response.text
    (line,) = await it.audited(1)
    assert line["estimated"] is True
    assert line["input_tokens"] + line["output_tokens"] == line["held_tokens"] > HELD_OUTPUT


@SPEAKERS
async def test_a_stream_that_the_provider_cuts_ends_in_an_error_that_the_sdk_raises(it, dialect):
    with pytest.raises((openai.APIError, anthropic.APIError)) as caught:
        await ask(it, dialect, "half an answer", stream=True)
    assert "provider_unavailable" in str(caught.value.body) or "provider" in str(caught.value)
    (line,) = await it.audited(1)
    assert line["estimated"] is True
    assert line["input_tokens"] + line["output_tokens"] == line["held_tokens"] > HELD_OUTPUT


@STREAMED
async def test_figures_that_the_provider_makes_up_itself_are_charged_too(it, stream):
    """Without usage in the fixture, aimock counts a token for every four characters."""
    assert await ask(it, "openai", "no figures", stream=stream) == "Count it yourself."
    assert await charged(it) == (3, 5, False)


@SPEAKERS
@STREAMED
async def test_a_figure_that_cannot_be_is_no_report(it, dialect, stream):
    assert await ask(it, dialect, "more figures than fit", stream=stream) == "Much."
    (line,) = await it.audited(1)
    assert line["estimated"] is True
    assert line["input_tokens"] + line["output_tokens"] == line["held_tokens"]


@SPEAKERS
async def test_nothing_that_only_the_provider_sends_in_headers_reaches_the_agent(it, dialect):
    body = {
        "model": "gpt" if dialect == "openai" else "claude",
        "max_tokens": HELD_OUTPUT,
        "messages": [{"role": "user", "content": "a short answer"}],
    }
    path = "/v1/chat/completions" if dialect == "openai" else "/v1/messages"
    answer = await it.http(AGENT).post(path, json=body)
    assert answer.status_code == 200
    ours = {name for name in answer.headers if "ratelimit" in name or name.startswith("x-aiaccess-")}
    assert len(ours) == 4
    assert set(answer.headers) - ours <= {"content-type", "content-length", "x-request-id", "date", "connection"}
