"""Every place of an id in the SDK's own types of what is asked: a raw one never reaches the provider, an own one does where a route takes it."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from openai.types.responses import ResponseInputItem, Tool
from support.hallway import AGENT, FIRST, Got, World, grant, walk
from support.sdk_types import MARK, filled, models

from broker.dialects import openai_responses
from broker.exchange import Exchange
from broker.grant import Feature
from broker.ids import PLACES
from broker.ids.swapping import swap
from broker.sealing import Home, Key, Seals

SEALS = Seals([Key(bytes(range(64)))])
HOME = Home("team1", "gpt", "team1/openai", str(FIRST.provider.endpoint), FIRST.model)
ITEMS = [*dict.fromkeys(models(ResponseInputItem))]
TOOLS = [*dict.fromkeys(models(Tool))]
# Items and tools that no route takes, and those that some member makes one: a part by its file's id, a tunnel, a tool among others
NEVER = {
    *("ImageGenerationCall", "ResponseFileSearchToolCall", "ImageGeneration", "FileSearchTool", "Mcp", "Message", "ComputerCallOutput"),
    *("ResponseToolSearchOutputItemParam", "AdditionalTools", "ResponseCompactionItemParam", "CompactionTrigger"),
}
both = pytest.mark.parametrize("model", [*ITEMS, *TOOLS], ids=lambda model: f"{model.__module__.split('.')[-1]}.{model.__name__}")


def asked(model: type, value: dict[str, object]) -> bytes:
    body: dict[str, object] = {"model": "gpt", "input": "hi", "max_output_tokens": 50}
    return json.dumps({**body, "input": [value]} if model in ITEMS else {**body, "tools": [value]}).encode()


async def sent(body: bytes, features: frozenset[Feature]) -> bytes | None:
    """What the provider is asked; None when it is not."""
    bodies: list[bytes] = []
    world = World(Got(b'{"id":"resp_1","usage":{"input_tokens":1,"output_tokens":1}}'), seals=SEALS)
    decided = grant(limit=100_000_000)
    world.decision = SimpleNamespace(**{name: getattr(decided, name) for name in decided.__dataclass_fields__})
    world.decision.features = features
    sending = world.send

    async def send(provider: object, path: str, headers: object, body: bytes, trace: object = ()) -> object:
        bodies.append(body)
        return await sending(provider, path, headers, body, trace)

    world.house.upstream = SimpleNamespace(send=send)
    caller = await walk(world, Exchange("x1", "POST", "/v1/responses", [], body, None, openai_responses, 100.0, 1_000_000.0))
    assert caller.status in (200, 400)
    return bodies[0] if bodies else None


@both
async def test_no_raw_id_reaches_the_provider_whatever_is_granted(model):
    for value in filled(model):
        body = asked(model, value)
        got = await sent(body, frozenset(Feature))
        assert got is None or MARK.encode() not in body


@both
async def test_an_own_id_does_where_a_route_takes_it(model):
    seal: Callable[..., str] = lambda kind, raw, _: SEALS.seal(AGENT.spiffe_id, kind, HOME, raw)  # noqa: E731  as swap takes it
    gone_on = 0
    for value in filled(model):
        body = asked(model, value)
        got = await sent(swap(body, PLACES["openai_responses"].request, seal), frozenset(Feature))
        if got is not None:
            gone_on += 1
            name = "input" if model in ITEMS else "tools"
            assert json.loads(got)[name] == json.loads(body)[name]
    assert gone_on or model.__name__ in NEVER


@both
async def test_without_a_grant_of_state_an_id_passes_only_beside_what_it_names(model):
    """What is left when all but the ids is taken away never reaches the provider."""
    for value in filled(model):
        ids = {name: inner for name, inner in value.items() if name in ("type", "id") or name.endswith("_id")}
        if MARK in json.dumps(ids):
            assert await sent(asked(model, ids), frozenset({Feature.HOSTED_TOOLS, Feature.REMOTE_MEDIA})) is None
