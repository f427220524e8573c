"""Chats that the provider keeps, asked for by OpenAI's SDK, and conversations that go on at another model of the same account."""

import json

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from support.shared_account import NEIGHBOUR, OWNER, THIEF, require_no_raw_id
from support.stateful_provider import RAW_ID

pytestmark = pytest.mark.asyncio(loop_scope="module")

HI = [{"role": "user", "content": "one"}]


@pytest_asyncio.fixture(loop_scope="module")
async def client(it):
    async with AsyncOpenAI(max_retries=0, timeout=20) as client:
        yield client


def sent(it):
    return json.loads(it.provider.seen[-1].body)


async def test_the_id_of_a_chat_that_is_kept_is_sealed(it, client):
    got = await client.chat.completions.create(model="thinker", messages=HI, store=True)
    assert sent(it)["store"] is True
    assert got.choices[0].message.content == "heard: one"
    assert got.id.startswith("chatcmpl_")
    require_no_raw_id(got.model_dump_json().encode())


@pytest.mark.parametrize("usage", [None, {"include_usage": True}])
async def test_it_is_the_same_in_each_chunk_of_a_stream(it, client, usage):
    more = {"stream_options": usage} if usage else {}
    stream = await client.chat.completions.create(model="thinker", messages=HI, store=True, stream=True, **more)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "heard: one"
    assert len({chunk.id for chunk in chunks}) == 1
    assert (chunks[-1].usage is not None) is (usage is not None)
    for chunk in chunks:
        assert chunk.id.startswith("chatcmpl_")
        require_no_raw_id(chunk.model_dump_json().encode())


@pytest.mark.parametrize("more", [{}, {"store": False}, {"store": None}], ids=["unsaid", "false", "null"])
async def test_a_chat_is_not_kept_unless_it_is_to_be_and_its_id_stays_as_it_is(it, client, more):
    """As the API has it, which keeps responses unless told otherwise, and chats only when told."""
    got = await client.chat.completions.create(model="thinker", messages=HI, **more)
    assert not sent(it).get("store")
    assert got.id == "chatcmpl-of-nobody"


async def test_no_two_agents_get_the_same_id_of_anything(it):
    ids = [(await it.it.openai(agent).chat.completions.create(model="thinker", messages=HI, store=True)).id for agent in (OWNER, THIEF)]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("how", ["retrieve", "delete", "update", "messages"])
async def test_a_kept_chat_is_not_fetched_by_its_id_be_it_sealed_or_raw(it, client, how):
    """No route here leads to it, nor to a list of them, so whoever has an id has nothing."""
    sealed = (await client.chat.completions.create(model="thinker", messages=HI, store=True)).id
    asked = len(it.provider.seen)
    chats = client.chat.completions
    for id_ in (sealed, "chatcmpl_acct0000000000000001"):
        with pytest.raises(openai.NotFoundError, match="keep the answers in your program"):
            if how == "messages":
                await chats.messages.list(id_)
            elif how == "update":
                await chats.update(id_, metadata={})
            else:
                await getattr(chats, how)(id_)
    with pytest.raises(openai.APIStatusError, match="takes POST alone"):
        await chats.list()
    assert len(it.provider.seen) == asked


async def test_an_agent_goes_on_at_another_model_of_the_same_namespace_and_provider(it, client):
    first = await client.responses.create(model="thinker", input="think: one")
    second = await client.responses.create(model="second", input="two", previous_response_id=first.id)
    assert (sent(it)["model"], second.output_text) == ("gpt-second", "heard: think: one | two")
    assert second.previous_response_id == first.id
    stream = await client.responses.create(model="thinker", input="three", previous_response_id=second.id, stream=True)
    events = [event async for event in stream]
    assert (sent(it)["model"], events[-1].response.output_text) == ("gpt-real", "heard: think: one | two | three")
    assert {event.response.previous_response_id for event in events if hasattr(event, "response")} == {second.id}
    references = [{"type": "item_reference", "id": item.id} for item in first.output]
    got = await client.responses.create(model="second", input=[*references, {"role": "user", "content": "four"}])
    assert got.output_text == "heard: a secret thought | heard: think: one | four"
    again = await client.responses.retrieve(second.id)
    assert again.id == second.id
    require_no_raw_id(again.model_dump_json().encode())
    # Sealed as what the second model knows, so it looks otherwise than the first one's own id, and leads to the same
    assert (await client.responses.retrieve(again.previous_response_id)).output_text == first.output_text


@pytest.mark.parametrize(("agent", "model"), [(THIEF, "second"), (NEIGHBOUR, "second"), (OWNER, "elsewhere"), (OWNER, "team2/second")])
async def test_nobody_else_does_and_nowhere_else(it, client, agent, model):
    first = await client.responses.create(model="thinker", input="one")
    asked = len(it.provider.seen)
    with pytest.raises(openai.BadRequestError, match="previous_response_id is no id that this broker gave you"):
        await it.it.openai(agent).responses.create(model=model, input="two", previous_response_id=first.id)
    assert len(it.provider.seen) == asked
    assert not RAW_ID.search(first.id.encode())
