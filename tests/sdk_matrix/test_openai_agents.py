"""OpenAI's Agents SDK, unmodified: agents with tools, handed over, streamed, and with their conversation kept at the provider."""

import json

import agents
import openai
import pytest
import pytest_asyncio
from agents import Agent, CodeInterpreterTool, ModelSettings, Runner, SQLiteSession, function_tool
from agents.models import openai_provider
from pydantic import BaseModel
from support.shared_account import INTERPRETER, THIEF, require_no_raw_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


class Plans(BaseModel):
    city: str


@function_tool
def get_weather(city: str) -> str:
    """Of a city."""
    return f"rain in {city}"


@pytest_asyncio.fixture(autouse=True, loop_scope="module", scope="module")
async def _connections_are_closed():
    """The SDK shares one client among all agents of a process, and leaves it to the end of that."""
    agents.set_tracing_disabled(disabled=True)
    yield
    if openai_provider._http_client is not None:
        await openai_provider._http_client.aclose()


async def run(stream, agent, said, **more):
    if not stream:
        return await Runner.run(agent, said, **more)
    result = Runner.run_streamed(agent, said, **more)
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            require_no_raw_id(event.data.model_dump_json().encode())
    return result


def agent(**more):
    return Agent(**{"name": "planner", "model": "thinker", **more})


def sent(it, back=1):
    return json.loads(it.provider.seen[-back].body)


@STREAMED
async def test_an_agent_answers(it, stream):
    result = await run(stream, agent(instructions="be brief"), "one")
    assert result.final_output == "heard: one"
    assert sent(it)["instructions"] == "be brief"


@STREAMED
async def test_an_agent_answers_in_a_shape(it, stream):
    assert (await run(stream, agent(output_type=Plans), "one")).final_output == Plans(city="heard: one")


@STREAMED
@pytest.mark.parametrize("said", ["call get_weather", "think: call get_weather"])
async def test_an_agent_uses_its_tool(it, stream, said):
    result = await run(stream, agent(tools=[get_weather]), said)
    assert result.final_output == "the tool said rain in Bremen"


@STREAMED
@pytest.mark.parametrize("said", ["call get_weather", "think: call get_weather"])
async def test_an_agent_that_lets_the_provider_keep_its_turns_sends_each_result_alone(it, stream, said):
    result = await run(stream, agent(tools=[get_weather]), said, auto_previous_response_id=True)
    assert result.final_output == "the tool said rain in Bremen"
    assert sent(it)["previous_response_id"] in it.account.responses
    assert [item["type"] for item in sent(it)["input"]] == ["function_call_output"]


@STREAMED
async def test_an_agent_goes_on_from_its_last_response(it, stream):
    first = await run(stream, agent(), "one")
    second = await run(stream, agent(), "two", previous_response_id=first.last_response_id)
    third = await run(stream, agent(), "three", previous_response_id=second.last_response_id)
    assert third.final_output == "heard: one | two | three"
    assert len(sent(it)["input"]) == 1


@STREAMED
async def test_an_agent_goes_on_by_sending_all_that_was_said(it, stream):
    first = await run(stream, agent(tools=[get_weather]), "think: call get_weather")
    second = await run(stream, agent(), [*first.to_input_list(), {"role": "user", "content": "two"}])
    assert second.final_output.endswith("| two")
    assert "a secret thought" in second.final_output


@STREAMED
async def test_an_agent_remembers_by_a_session_of_its_own(it, stream):
    session = SQLiteSession("one")
    try:
        await run(stream, agent(), "one", session=session)
        assert (await run(stream, agent(), "two", session=session)).final_output == "heard: one | heard: one | two"
    finally:
        session.close()


@STREAMED
async def test_an_agent_hands_over_to_another(it, stream):
    other = agent(name="helper", handoff_description="helps", instructions="help")
    result = await run(stream, agent(handoffs=[other]), "call transfer_to_helper")
    assert result.last_agent is other
    assert result.final_output.startswith("the tool said")


@STREAMED
async def test_an_agent_computes_at_the_provider_and_goes_on(it, stream):
    computing = agent(tools=[CodeInterpreterTool(tool_config=INTERPRETER)])
    first = await run(stream, computing, "compute")
    container = first.new_items[0].raw_item.container_id
    reached = len(it.account.reached)
    second = await run(stream, computing, [*first.to_input_list(), {"role": "user", "content": "two"}])
    assert second.final_output.endswith("| two")
    assert len(it.account.reached) > reached
    require_no_raw_id(container.encode())


@STREAMED
async def test_an_agent_that_has_nothing_kept_carries_its_thoughts_itself(it, stream):
    settings = ModelSettings(store=False, response_include=["reasoning.encrypted_content"])
    kept = len(it.account.responses)
    assert (await run(stream, agent(model_settings=settings), "one")).final_output == "heard: one"
    assert len(it.account.responses) == kept
    assert sent(it)["store"] is False


async def test_an_agent_does_not_go_on_from_another_agents_response(it, monkeypatch):
    first = await Runner.run(agent(), "one")
    for name, value in it.it.environment(THIEF).items():
        monkeypatch.setenv(name, value)
    seen = len(it.provider.seen)
    for id_ in (first.last_response_id, next(reversed(it.account.responses))):
        with pytest.raises(openai.BadRequestError, match="previous_response_id") as caught:
            await Runner.run(agent(), "two", previous_response_id=id_)
        assert caught.value.code == "feature_not_granted"
    assert len(it.provider.seen) == seen
