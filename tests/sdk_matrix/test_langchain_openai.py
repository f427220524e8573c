"""LangChain's ChatOpenAI over Responses, unmodified: plain and streamed, with tools, and with its conversation kept at the provider."""

import asyncio
import json

import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from support.shared_account import INTERPRETER, THIEF, require_no_raw_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
VERSIONS = pytest.mark.parametrize("version", ["v0", "responses/v1", "v1"])
KEPT = pytest.mark.parametrize("kept", [False, True], ids=["carried", "kept"])


class Plans(BaseModel):
    """Where to."""

    city: str


@tool
def get_weather(city: str) -> str:
    """Of a city."""
    return f"rain in {city}"


def model(**more):
    return ChatOpenAI(**{"model": "thinker", "use_responses_api": True, "max_retries": 0, "timeout": 20, **more})


async def say(stream, chat, messages):
    if not stream:
        answer = await chat.ainvoke(messages)
    else:
        chunks = [chunk async for chunk in chat.astream(messages)]
        answer = chunks[0]
        for chunk in chunks[1:]:
            answer += chunk
    require_no_raw_id(answer.model_dump_json().encode())
    return answer


def sent(it):
    return json.loads(it.provider.seen[-1].body)


@STREAMED
@VERSIONS
async def test_a_model_answers(it, stream, version):
    answer = await say(stream, model(output_version=version), [SystemMessage("be brief"), HumanMessage("one")])
    assert answer.text == "heard: be brief | one"
    assert answer.usage_metadata["total_tokens"] == 7


@STREAMED
@VERSIONS
@KEPT
async def test_a_conversation_goes_on(it, stream, version, kept):
    chat = model(output_version=version, use_previous_response_id=kept)
    talk = [HumanMessage("think: one")]
    for said in ("two", "three"):
        talk += [await say(stream, chat, talk), HumanMessage(said)]
    answer = await say(stream, chat, talk)
    assert answer.text.endswith("| three")
    assert "one" in answer.text
    assert "two" in answer.text
    assert (sent(it).get("previous_response_id") in it.account.responses) is kept
    assert (len(sent(it)["input"]) == 1) is kept


@STREAMED
@VERSIONS
@KEPT
@pytest.mark.parametrize("said", ["call get_weather", "think: call get_weather"])
async def test_a_model_uses_a_tool(it, stream, version, kept, said):
    chat = model(output_version=version, use_previous_response_id=kept).bind_tools([get_weather])
    talk = [HumanMessage(said)]
    asked = await say(stream, chat, talk)
    (call,) = asked.tool_calls
    result = await get_weather.ainvoke(call)
    assert isinstance(result, ToolMessage)
    assert (await say(stream, chat, [*talk, asked, result])).text == "the tool said rain in Bremen"
    assert (len(sent(it)["input"]) == 1) is kept


@KEPT
async def test_a_model_answers_in_a_shape(it, kept):
    chat = model(use_previous_response_id=kept).with_structured_output(Plans)
    assert await chat.ainvoke("one") == Plans(city="heard: one")


@STREAMED
@VERSIONS
async def test_a_model_computes_at_the_provider_and_goes_on(it, stream, version):
    chat = model(output_version=version).bind_tools([INTERPRETER])
    first = await say(stream, chat, [HumanMessage("compute")])
    assert (await say(stream, chat, [HumanMessage("compute"), first, HumanMessage("two")])).text.endswith("| two")


async def test_the_plain_calls_do_what_the_asynchronous_ones_do(it):
    chat = model(use_previous_response_id=True)

    def talk():
        first = chat.invoke("one")
        second = list(chat.stream([HumanMessage("one"), first, HumanMessage("two")]))
        return "".join(chunk.text for chunk in second)

    assert await asyncio.to_thread(talk) == "heard: one | two"


async def test_many_conversations_at_a_time_do_not_meet(it):
    chat = model(use_previous_response_id=True)
    firsts = await chat.abatch([[HumanMessage(f"mine {number}")] for number in range(8)])
    again = await chat.abatch([[HumanMessage("x"), first, HumanMessage("and then?")] for first in firsts])
    assert [answer.text for answer in again] == [f"heard: mine {number} | and then?" for number in range(8)]


async def test_nobody_goes_on_from_another_agents_response(it, monkeypatch):
    first = await model().ainvoke("one")
    for name, value in it.it.environment(THIEF).items():
        monkeypatch.setenv(name, value)
    seen = len(it.provider.seen)
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        await model(use_previous_response_id=True).ainvoke([HumanMessage("one"), first, HumanMessage("two")])
    assert len(it.provider.seen) == seen
