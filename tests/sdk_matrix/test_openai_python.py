"""Responses that the provider keeps, asked for by OpenAI's SDK through gateway and broker: all calls of it, by ids that are its agent's alone."""

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from support.shared_account import INTERPRETER, MCP, OWNER, TOOL, require_no_raw_id, thieves


class Plans(BaseModel):
    city: str


@pytest.fixture
async def it(tmp_path):
    async with thieves(tmp_path) as running:
        yield running


@pytest.fixture
async def client(it):
    """The SDK as an agent makes it: told by its environment, and by nothing else."""
    async with AsyncOpenAI(max_retries=0, timeout=20) as client:
        yield client


def sent(it):
    return json.loads(it.provider.seen[-1].body)


async def test_a_conversation_goes_on_by_the_id_of_its_last_response(it, client):
    first = await client.responses.create(model="thinker", input="one")
    second = await client.responses.create(model="thinker", input="two", previous_response_id=first.id)
    third = await client.responses.create(model="thinker", input="three", previous_response_id=second.id)
    assert third.output_text == "heard: one | two | three"
    assert (third.previous_response_id, second.previous_response_id) == (second.id, first.id)
    assert sent(it)["previous_response_id"] in it.account.responses
    require_no_raw_id(third.model_dump_json().encode())


async def test_a_streamed_conversation_does_and_its_ids_are_the_same_in_each_event(it, client):
    first = [event async for event in await client.responses.create(model="thinker", input="think: one", stream=True)]
    for event in first:
        require_no_raw_id(event.model_dump_json().encode())
    ids = {event.response.id for event in first if hasattr(event, "response")}
    assert len(ids) == 1
    added = {event.output_index: event.item.id for event in first if event.type == "response.output_item.added"}
    assert len(set(added.values())) == 2
    for event in first:
        if hasattr(event, "item_id"):
            assert event.item_id == added[event.output_index]
        if event.type == "response.output_item.done":
            assert event.item.id == added[event.output_index]
    last = first[-1].response
    assert {item.id for item in last.output} == set(added.values())
    async with client.responses.stream(model="thinker", input="two", previous_response_id=last.id) as stream:
        second = await stream.get_final_response()
    assert second.output_text == "heard: think: one | two"
    assert second.previous_response_id == last.id
    kept = await client.responses.retrieve(last.id)
    assert (kept.id, [item.id for item in kept.output]) == (last.id, [item.id for item in last.output])


async def test_an_answer_is_parsed_into_a_model_and_goes_on(it, client):
    first = await client.responses.parse(model="thinker", input="one", text_format=Plans)
    assert first.output_parsed == Plans(city="heard: one")
    second = await client.responses.parse(model="thinker", input="two", text_format=Plans, previous_response_id=first.id)
    assert second.output_parsed == Plans(city="heard: one | two")
    async with client.responses.stream(model="thinker", input="three", text_format=Plans, previous_response_id=second.id) as stream:
        assert (await stream.get_final_response()).output_parsed == Plans(city="heard: one | two | three")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_is_called_and_its_result_sent_alone(it, client, stream):
    async def ask(**more):
        if not stream:
            return await client.responses.create(model="thinker", tools=[TOOL], **more)
        async with client.responses.stream(model="thinker", tools=[TOOL], **more) as events:
            return await events.get_final_response()

    (call,) = (await ask(input="call get_weather")).output
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Bremen"})
    assert call.call_id.startswith("call_")
    kept = [response for response in it.account.responses.values() if response.done["output"][0]["type"] == "function_call"]
    assert kept[-1].done["output"][0]["call_id"] == call.call_id  # the caller's own, not state
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    previous = (await client.responses.create(model="thinker", tools=[TOOL], input="call get_weather")).id
    assert (await ask(input=[result], previous_response_id=previous)).output_text == "the tool said rain"


async def test_items_are_referred_to_by_their_ids(it, client):
    first = await client.responses.create(model="thinker", input="think: one")
    thought, said = first.output
    references = [{"type": "item_reference", "id": thought.id}, {"type": "item_reference", "id": said.id}]
    again = await client.responses.create(model="thinker", input=[*references, {"role": "user", "content": "two"}])
    assert again.output_text == "heard: a secret thought | heard: think: one | two"
    whole = [item.model_dump(exclude_none=True) for item in first.output]
    assert (
        "a secret thought" in (await client.responses.create(model="thinker", input=[*whole, {"role": "user", "content": "x"}])).output_text
    )


async def test_an_answer_that_was_kept_is_read_again_and_deleted(it, client):
    made = await client.responses.create(model="thinker", input="one", instructions="be brief", metadata={"mine": "resp_yes"})
    assert (await client.responses.retrieve(made.id)) == made
    gone = await client.with_options(max_retries=0).responses.delete(made.id)
    assert gone is None
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.retrieve(made.id)
    require_no_raw_id(caught.value.response.content)


async def test_the_deletion_says_the_id_that_the_agent_knows(it, client):
    made = await client.responses.create(model="thinker", input="one")
    status, told = await it.ask(OWNER, "DELETE", f"/v1/responses/{made.id}")
    assert (status, json.loads(told)) == (200, {"id": made.id, "object": "response", "deleted": True})


async def test_a_provider_that_does_not_know_an_id_does_not_give_it_away(it, client):
    made = await client.responses.create(model="thinker", input="one")
    it.account.responses.clear()
    for asking in (client.responses.retrieve, client.responses.cancel, client.responses.input_items.list, client.responses.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            await asking(made.id)
        require_no_raw_id(caught.value.response.content)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="thinker", input="two", previous_response_id=made.id)
    require_no_raw_id(caught.value.response.content)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="thinker", input="two", previous_response_id=made.id, stream=True)
    require_no_raw_id(caught.value.response.content)


async def test_the_input_of_an_answer_is_listed_page_by_page(it, client):
    asked = [{"role": "user", "content": str(number)} for number in range(5)]
    made = await client.responses.create(model="thinker", input=asked)
    page = await client.responses.input_items.list(made.id, limit=2, order="asc")
    assert [item.content[0].text for item in page.data] == ["0", "1"]
    assert (page.first_id, page.last_id) == (page.data[0].id, page.data[1].id)
    require_no_raw_id(page.model_dump_json().encode())
    everything = [item async for item in client.responses.input_items.list(made.id, limit=2, order="asc")]
    assert [item.content[0].text for item in everything] == ["0", "1", "2", "3", "4"]


async def test_a_job_in_the_background_is_waited_for(it, client):
    job = await client.responses.create(model="thinker", input="one", background=True)
    assert (job.status, job.usage) == ("queued", None)
    seen = [job.status]
    while job.status in ("queued", "in_progress"):
        job = await client.responses.retrieve(job.id)
        seen.append(job.status)
    assert seen == ["queued", "in_progress", "completed"]
    assert job.output_text == "heard: one"
    begun = (await it.it.audited(3))[0]
    assert begun["estimated"] is True
    assert begun["input_tokens"] + begun["output_tokens"] == begun["held_tokens"] > 0


async def test_a_job_in_the_background_is_cancelled(it, client):
    job = await client.responses.create(model="thinker", input="one", background=True)
    gone = await client.responses.cancel(job.id)
    assert (gone.id, gone.status) == (job.id, "cancelled")
    plain = await client.responses.create(model="thinker", input="one")
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        await client.responses.cancel(plain.id)


async def test_a_streamed_job_in_the_background_is_taken_up_again_where_it_broke_off(it, client):
    stream = await client.responses.create(model="thinker", input="one two", background=True, stream=True)
    events = []
    async for event in stream:
        events.append(event)
        if event.sequence_number == 4:
            break
    await stream.close()
    id_ = events[0].response.id
    assert events[1].type == "response.queued"
    async for event in await client.responses.retrieve(id_, stream=True, starting_after=4):
        require_no_raw_id(event.model_dump_json().encode())
        events.append(event)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "heard: one two"
    assert events[-1].response.id == id_


async def test_what_hosted_tools_leave_behind_is_used_again(it, client):
    computed = await client.responses.create(model="thinker", input="compute", tools=[INTERPRETER])
    container = computed.output[0].container_id
    cited = computed.output[-1].content[0].annotations[0]
    require_no_raw_id(computed.model_dump_json().encode())
    assert cited.container_id == container
    again = await client.responses.create(model="thinker", input="again", tools=[{"type": "code_interpreter", "container": container}])
    assert again.output[0].container_id == container
    assert again.tools[0].container == container
    async for event in await client.responses.create(model="thinker", input="again", tools=[INTERPRETER], stream=True):
        require_no_raw_id(event.model_dump_json().encode())
    wanted = await client.responses.create(model="thinker", input="pay", tools=[MCP])
    answer = {"type": "mcp_approval_response", "approval_request_id": wanted.output[0].id, "approve": True}
    await client.responses.create(model="thinker", tools=[MCP], previous_response_id=wanted.id, input=[answer])
    assert it.account.reached[-1] == sent(it)["input"][0]["approval_request_id"]


async def test_an_agent_that_wants_nothing_kept_still_says_so(it, client):
    await client.responses.create(model="thinker", input="one", store=False)
    assert sent(it)["store"] is False
    assert it.account.responses == {}


async def test_the_plain_client_does_what_the_asynchronous_one_does(it):
    def talk():
        with OpenAI(max_retries=0, timeout=20) as client:
            first = client.responses.create(model="thinker", input="one")
            with client.responses.stream(model="thinker", input="two", previous_response_id=first.id) as stream:
                second = stream.get_final_response()
            items = list(client.responses.input_items.list(second.id))
            client.responses.delete(first.id)
            return second.output_text, len(items)

    assert await asyncio.to_thread(talk) == ("heard: one | two", 1)


async def test_reading_what_was_kept_costs_a_request_and_no_tokens(it, client):
    made = await client.responses.create(model="thinker", input="one")
    await client.responses.retrieve(made.id)
    await client.responses.input_items.list(made.id)
    async for _ in await client.responses.retrieve(made.id, stream=True):
        pass
    await client.responses.delete(made.id)
    first, *rest = await it.it.audited(5)
    assert (first["input_tokens"], first["output_tokens"]) == (5, 2)
    for line in rest:
        assert (line["code"], line["model"], line["provider"]) == ("answered", "thinker", "openai")
        assert (line["input_tokens"], line["output_tokens"]) == (0, 0)
