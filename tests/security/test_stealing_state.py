"""Every place of a request that can name what the provider keeps, and every id that a thief could put there.

Owner, thief and neighbour share one account at a provider that gives anything to whoever names it. A theft has failed when the broker
refused it and the provider never heard of it.
"""

import base64

import pytest
import pytest_asyncio
from support.shared_account import INTERPRETER, MCP, NEIGHBOUR, OWNER, THIEF, require_no_raw_id, secret_of, thieves

from broker.sealing import Home, Key, Kind, Seals

pytestmark = pytest.mark.asyncio(loop_scope="module")

# place: the kind of id that belongs there, and the request that has it there
BODIES = {
    "previous_response_id": ("response", lambda id_: {"previous_response_id": id_}),
    "previous_response_id, of a background job": ("background", lambda id_: {"previous_response_id": id_}),
    "item_reference": ("message", lambda id_: {"input": [{"type": "item_reference", "id": id_}]}),
    "item_reference without a type": ("message", lambda id_: {"input": [{"id": id_}]}),
    "item_reference whose type is null": ("message", lambda id_: {"input": [{"type": None, "id": id_}]}),
    "item_reference to a call": ("call", lambda id_: {"input": [{"type": "item_reference", "id": id_}]}),
    "item_reference among messages": ("message", lambda id_: {"input": [{"role": "user", "content": "hi"}, {"id": id_}]}),
    "reasoning without its content": ("reasoning", lambda id_: {"input": [{"type": "reasoning", "id": id_, "summary": []}]}),
    "a message with its content": (
        "message",
        lambda id_: {"input": [{"type": "message", "role": "assistant", "id": id_, "content": [{"type": "output_text", "text": "x"}]}]},
    ),
    "approval_request_id": (
        "approval",
        lambda id_: {"tools": [MCP], "input": [{"type": "mcp_approval_response", "approval_request_id": id_, "approve": True}]},
    ),
    "the interpreter's container": ("container", lambda id_: {"tools": [{"type": "code_interpreter", "container": id_}]}),
    "the shell's container": (
        "container",
        lambda id_: {"tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": id_}}]},
    ),
    "the container of an earlier call": (
        "container",
        lambda id_: {"input": [{"type": "code_interpreter_call", "container_id": id_, "code": "1", "status": "completed"}]},
    ),
    "the container of a tool in the input": (
        "container",
        lambda id_: {
            "store": False,  # hosted tools are not kept in an item
            "input": [{"type": "additional_tools", "role": "developer", "tools": [{"type": "code_interpreter", "container": id_}]}],
        },
    ),
}
PATHS = {
    "GET": ("GET", "/v1/responses/{}"),
    "GET, as a stream": ("GET", "/v1/responses/{}?stream=true"),
    "GET, from a later event": ("GET", "/v1/responses/{}?stream=true&starting_after=2"),
    "GET with include": ("GET", "/v1/responses/{}?include=reasoning.encrypted_content"),
    "DELETE": ("DELETE", "/v1/responses/{}"),
    "cancel": ("POST", "/v1/responses/{}/cancel"),
    "input_items": ("GET", "/v1/responses/{}/input_items"),
    "input_items, in order": ("GET", "/v1/responses/{}/input_items?order=asc&limit=100"),
}
NEVER = {  # what no policy opens
    "a conversation": lambda id_: {"conversation": id_},
    "a conversation by its object": lambda id_: {"conversation": {"id": id_}},
    "a stored prompt": lambda id_: {"prompt": {"id": id_}},
    "an answer to compare the cache with": lambda id_: {"prompt_cache_options": {"comparison_response_id": id_}},
    "a file": lambda id_: {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": id_}]}]},
    "an image": lambda id_: {"input": [{"role": "user", "content": [{"type": "input_image", "detail": "auto", "file_id": id_}]}]},
    "a file in a tool's output": lambda id_: {
        "input": [{"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_file", "file_id": id_}]}]
    },
    "files of a container": lambda id_: {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": [id_]}}]},
    "vector stores": lambda id_: {"tools": [{"type": "file_search", "vector_store_ids": [id_]}]},
    "a made image": lambda id_: {"input": [{"type": "image_generation_call", "id": id_, "status": "completed", "result": None}]},
    "a made search of files": lambda id_: {"input": [{"type": "file_search_call", "id": id_, "queries": [], "status": "completed"}]},
    "a skill": lambda id_: {"tools": [{"type": "shell", "environment": {"type": "container_auto", "skills": [{"type": "skill_reference", "skill_id": id_}]}}]},
    "a tunnel": lambda id_: {"tools": [{**MCP, "tunnel_id": id_}]},
}  # fmt: skip
KINDS = ("response", "background", "message", "reasoning", "call", "approval", "container", "file")
SEALED_AS = {"response": "response", "background": "response", "container": "container", "file": "file"}  # all others are items
CONFUSED = [
    (place, kind) for place, (right, _) in BODIES.items() for kind in KINDS if SEALED_AS.get(kind, "item") != SEALED_AS.get(right, "item")
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def it(tmp_path_factory):
    async with thieves(tmp_path_factory.mktemp("thieves")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loot(it):
    return await it.loot()


def asked(place: str, id_: object, model: str = "thinker") -> dict[str, object]:
    make = BODIES[place][1] if place in BODIES else NEVER[place]
    return {"model": model, "input": "and then?", "store": True, **make(id_)}


@pytest.mark.parametrize("place", BODIES)
async def test_the_owner_uses_it(it, loot, place):
    """Without this the rest would prove nothing."""
    reached = len(it.account.reached)
    status, got = await it.ask(OWNER, "POST", "/v1/responses", asked(place, loot.sealed[BODIES[place][0]]))
    assert status == 200, got
    assert len(it.account.reached) > reached or "content" in place, "the id did not lead anywhere"
    require_no_raw_id(got)


@pytest.mark.parametrize("place", [place for place in PATHS if place not in ("DELETE", "cancel")])
async def test_the_owner_reads_it(it, loot, place):
    method, path = PATHS[place]
    status, got = await it.ask(OWNER, method, path.format(loot.sealed["background" if place == "cancel" else "response"]))
    assert status == 200, got
    require_no_raw_id(got)


@pytest.mark.parametrize("place", BODIES)
@pytest.mark.parametrize("agent", [OWNER, THIEF, NEIGHBOUR])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_raw_id_is_refused(it, loot, place, agent, stream):
    told = await it.refused(agent, "POST", "/v1/responses", {**asked(place, loot.raw[BODIES[place][0]]), "stream": stream})
    assert told.code == "feature_not_granted"


@pytest.mark.parametrize("place", PATHS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("agent", [OWNER, THIEF, NEIGHBOUR])
async def test_a_raw_id_in_a_path_is_refused(it, loot, place, kind, agent):
    method, path = PATHS[place]
    assert (await it.refused(agent, method, path.format(loot.raw[kind]))).code == "feature_not_granted"


@pytest.mark.parametrize("place", BODIES)
@pytest.mark.parametrize("agent", [THIEF, NEIGHBOUR])
async def test_an_id_sealed_for_another_agent_is_refused(it, loot, place, agent):
    told = await it.refused(agent, "POST", "/v1/responses", asked(place, loot.sealed[BODIES[place][0]]))
    assert told.code == "feature_not_granted"


@pytest.mark.parametrize("place", PATHS)
@pytest.mark.parametrize("kind", ["response", "background"])
@pytest.mark.parametrize("agent", [THIEF, NEIGHBOUR])
async def test_an_id_sealed_for_another_agent_is_refused_in_a_path(it, loot, place, kind, agent):
    method, path = PATHS[place]
    assert (await it.refused(agent, method, path.format(loot.sealed[kind]))).code == "feature_not_granted"


@pytest.mark.parametrize("place", BODIES)
@pytest.mark.parametrize("model", ["team2/thinker", "elsewhere", "team2/elsewhere"])
async def test_an_id_of_another_namespace_or_provider_is_refused_even_to_its_owner(it, loot, place, model):
    told = await it.refused(OWNER, "POST", "/v1/responses", asked(place, loot.sealed[BODIES[place][0]], model))
    assert told.code == "feature_not_granted"


async def test_ids_of_two_providers_in_one_request_are_refused(it, loot):
    elsewhere = await it.loot(model="elsewhere")
    both = {"previous_response_id": loot.sealed["response"], "input": [{"type": "item_reference", "id": elsewhere.sealed["message"]}]}
    for model in ("thinker", "elsewhere"):
        await it.refused(OWNER, "POST", "/v1/responses", {"model": model, "store": True, **both})


@pytest.mark.parametrize(("place", "kind"), CONFUSED)
async def test_an_id_of_another_kind_is_refused_even_to_its_owner(it, loot, place, kind):
    told = await it.refused(OWNER, "POST", "/v1/responses", asked(place, loot.sealed[kind]))
    assert told.code == "feature_not_granted"


@pytest.mark.parametrize("place", PATHS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("response", "background")])
async def test_an_id_of_another_kind_is_refused_in_a_path_even_to_its_owner(it, loot, place, kind):
    method, path = PATHS[place]
    assert (await it.refused(OWNER, method, path.format(loot.sealed[kind]))).code == "feature_not_granted"


@pytest.mark.parametrize("place", NEVER)
@pytest.mark.parametrize("kind", ["response", "message", "file", "container"])
@pytest.mark.parametrize("form", ["raw", "sealed"])
async def test_what_nobody_may_name_is_refused_to_all(it, loot, place, kind, form):
    id_ = getattr(loot, form)[kind]
    for agent in (OWNER, THIEF):
        await it.refused(agent, "POST", "/v1/responses", asked(place, id_))


@pytest.mark.parametrize("name", ["after", "before"])
async def test_a_page_of_ones_own_list_does_not_begin_at_what_others_keep(it, loot, name):
    own = (await it.loot(THIEF)).sealed
    path = f"/v1/responses/{own['response']}/input_items?{name}="
    for id_ in (loot.raw["message"], loot.sealed["message"], loot.raw["response"], own["response"], loot.sealed["call"], "msg_1", ""):
        await it.refused(THIEF, "GET", path + id_)


def alterations(sealed: str) -> dict[str, str]:
    """The same id with a change in each of its parts."""
    prefix, _, text = sealed.partition("_")
    blob = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    def flipped(at: int, bit: int = 1) -> str:
        changed = bytearray(blob)
        changed[at] ^= bit
        return f"{prefix}_{base64.urlsafe_b64encode(changed).rstrip(b'=').decode()}"

    spare = text[:-1] + chr(ord(text[-1]) + 1)  # the last letter may have bits that say nothing
    return {
        "version": flipped(0),
        "version 0": flipped(0, blob[0]),
        "key": flipped(1),
        "key's end": flipped(4),
        "tag": flipped(5),
        "tag's end": flipped(20),
        "first byte": flipped(21),
        "middle": flipped(len(blob) // 2),
        "last byte": flipped(-1, 128),
        "last letter": f"{prefix}_{spare}",
        "one letter less": sealed[:-1],
        "four letters less": sealed[:-4],
        "the tag alone": sealed[: len(prefix) + 29],
        "the key alone": sealed[: len(prefix) + 8],
        "nothing": f"{prefix}_",
        "one letter more": f"{sealed}A",
        "twice": sealed + sealed,
        "twice, joined": f"{sealed}_{text}",
        "another prefix": f"msg_{text}",
        "no prefix": text,
        "an upper prefix": f"{prefix.upper()}_{text}",
        "upper case": sealed.upper(),
        "lower case": sealed.lower(),
        "two underscores": f"{prefix}__{text}",
        "a dash": f"{prefix}-{text}",
        "padding": f"{sealed}=",
        "more padding": f"{sealed}==",
        "a dot": f"{sealed}.",
        "a star": f"{sealed}*",
        "a comma and another": f"{sealed},{sealed}",
    }


ALTERED = tuple(alterations("resp_" + "A" * 200))


@pytest.mark.parametrize("how", ALTERED)
async def test_an_altered_id_is_refused_even_to_its_owner(it, loot, how):
    altered = alterations(loot.sealed["response"])[how]
    told = await it.refused(OWNER, "POST", "/v1/responses", asked("previous_response_id", altered))
    assert told.code == "feature_not_granted"
    for method, path in PATHS.values():
        await it.refused(OWNER, method, path.format(altered))


SHAPES = {
    "a list": lambda id_: [id_],
    "an object": lambda id_: {"id": id_},
    "a number": lambda id_: 1,
    "true": lambda id_: True,
    "empty": lambda id_: "",
    "a space before": lambda id_: f" {id_}",
    "a space after": lambda id_: f"{id_} ",
    "a line's end after": lambda id_: f"{id_}\n",
    "a NUL after": lambda id_: f"{id_}\0",
    "a slash after": lambda id_: f"{id_}/",
    "a path": lambda id_: f"x/../{id_}",
    "a quote": lambda id_: f'{id_}"',
    "percent-encoded": lambda id_: id_.replace("_", "%5F"),
    "wide letters": lambda id_: "".join(chr(ord(letter) + 0xFEE0) for letter in id_),
    "very long": lambda id_: id_ + "A" * 100_000,
}


@pytest.mark.parametrize("form", ["raw", "sealed"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", ["previous_response_id", "item_reference", "the interpreter's container"])
async def test_an_id_in_another_shape_is_refused(it, loot, shape, form, place):
    await it.refused(THIEF, "POST", "/v1/responses", asked(place, SHAPES[shape](getattr(loot, form)[BODIES[place][0]])))


@pytest.mark.parametrize(
    "written",
    [
        b'{"model":"thinker","input":"x","store":true,"previous_response_id":"%b","previous_response_id":null}',
        b'{"model":"thinker","input":"x","store":true,"previous_response_id":null,"previous_response_id":"%b"}',
        b'{"model":"thinker","input":"x","store":true,"previous\\u005fresponse_id":"%b"}',
        b'{"model":"thinker","store":true,"input":[{"type":"item_reference","id":"%b"}]}',
        b'{"model":"thinker","store":true,"input":[{"ty\\u0070e":"item\\u005freference","i\\u0064":"%b"}]}',
        b'{"model":"thinker","store":true,"input":[{"type":"message","type":"item_reference","role":"user","content":"x","id":"%b"}]}',
        b'{"model":"thinker","store":true,"input":[{"type":"reasoning","summary":[],"encrypted_content":null,"id":"%b"}]}',
        b'{"model":"thinker","store":true,"input":[{"type":"reasoning","summary":[],"encrypted_content":"","id":"%b"}]}',
        b'{"model":"thinker","store":true,"input":[{"role":"user","content":null,"id":"%b"}]}',
        b'{"model":"thinker","store":false,"input":"x","previous_response_id":"%b"}',
        b'{"model":"thinker","background":true,"input":"x","previous_response_id":"%b"}',
    ],
)
async def test_an_id_written_in_an_odd_way_is_refused(it, loot, written):
    for form in (loot.raw, loot.sealed):
        for kind in ("response", "message", "reasoning"):
            await it.refused(THIEF, "POST", "/v1/responses", written % form[kind].encode())


async def test_an_id_sealed_with_a_key_of_ones_own_is_refused(it, loot):
    endpoint = f"http://127.0.0.1:{it.provider.port}/v1"
    home = Home("team1", "thinker", "team1/openai", endpoint, "gpt-real")
    forged = Seals((Key(secret_of(99)),)).seal(THIEF, Kind.RESPONSE, home, loot.raw["response"])
    await it.refused(THIEF, "POST", "/v1/responses", asked("previous_response_id", forged))
    await it.refused(THIEF, "GET", f"/v1/responses/{forged}")
    ours = Seals((Key(secret_of(1)),)).seal(THIEF, Kind.RESPONSE, home, loot.raw["response"])
    assert (await it.ask(THIEF, "GET", f"/v1/responses/{ours}"))[0] == 200  # only the key kept the other one out


async def test_the_refusal_does_not_say_what_is_wrong_with_an_id(it, loot):
    """A thief who tries ids learns nothing of which of them there are."""
    altered = alterations(loot.sealed["response"])
    sealed = Seals((Key(secret_of(99)),)).seal(THIEF, Kind.RESPONSE, Home("a", "b", "a/c", "https://d", "e"), "resp_1")
    tried = [loot.raw["response"], loot.sealed["response"], loot.sealed["message"], "resp_never_there", sealed, *altered.values()]
    in_bodies = [await it.refused(THIEF, "POST", "/v1/responses", asked("previous_response_id", id_)) for id_ in tried]
    in_paths = [await it.refused(THIEF, "GET", f"/v1/responses/{id_}") for id_ in tried]
    assert len(set(in_bodies)) == 1
    assert len(set(in_paths)) == 1


async def test_a_thief_has_what_he_made_himself(it):
    own = (await it.loot(THIEF)).sealed
    for place in ("GET", "input_items", "DELETE"):
        method, path = PATHS[place]
        assert (await it.ask(THIEF, method, path.format(own["response"])))[0] == 200
    assert (await it.ask(THIEF, "POST", f"/v1/responses/{own['background']}/cancel"))[0] == 200


async def test_the_same_thing_looks_another_to_each_agent(it, loot):
    """So nobody can tell by an id that another has it too."""
    create = it.it.openai(THIEF).responses.create
    await create(model="thinker", input="x", tools=[INTERPRETER], store=True)
    theirs = (await it.loot(THIEF)).sealed
    assert not set(theirs.values()) & set(loot.sealed.values())
