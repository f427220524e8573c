"""Kept state on its way through the hallway: opened after the grant, asked for where it is at home, sealed on its way out."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.hallway import AGENT, CUT, POLICY, PROVIDER, Got, World, grant, walk

from broker import dialects
from broker.errors import Forbidden
from broker.exchange import Exchange
from broker.grant import Backend, Budget, Endpoint, Feature, Per, Unit
from broker.ids import PLACES
from broker.sealing import Home, Key, Kind, Seals
from broker.server import dialect_of

SEALS = Seals([Key(bytes(range(64)))])
OPENAI, REAL = "https://api.openai.com/v1", "gpt-real"
HOME = Home("team1", "gpt", "team1/openai", OPENAI, REAL)
OTHER = replace(PROVIDER, name="other", endpoint=Endpoint("https", "eu.api.openai.com", 443, "/v1"))
ANSWER = {
    "id": "resp_2",
    "previous_response_id": None,
    "output": [{"id": "msg_2", "type": "message"}],
    "usage": {"input_tokens": 3, "output_tokens": 4},
}
EVENTS = (
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_2","output":[]}}\n\n',
    b'event: response.output_item.added\ndata: {"type":"response.output_item.added","output_index":0,"item":{"id":"msg_2","type":"message"}}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","item_id":"msg_2","output_index":0,"content_index":0,"delta":"%b"}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","response":%b}\n\n' % json.dumps(ANSWER).encode(),
)
ALL = frozenset({Feature.STORAGE, Feature.BACKGROUND, Feature.FILES, Feature.HOSTED_TOOLS})


def at(kind, home=HOME):
    """What is no answer is at home at a provider, whichever model is asked there."""
    return home if kind is Kind.RESPONSE else replace(home, model="", real_model="")


def seal(raw="resp_1", kind=Kind.RESPONSE, home=HOME, owner=AGENT.spiffe_id):
    return SEALS.seal(owner, kind, at(kind, home), raw)


def opened(sealed, kind=Kind.RESPONSE):
    return SEALS.open(AGENT.spiffe_id, kind, sealed)


def whole(**members):
    return Got(json.dumps({**ANSWER, **members}).encode())


def a_world(*got, features=ALL, seals=SEALS, **more):
    world = World(*(got or [whole()]), seals=seals)
    world.asked = []
    world.decision = replace(
        grant(limit=100_000_000, **more), features=features, configured=("openai_responses", "openai_stored_responses")
    )
    sending = world.send

    async def send(provider, path, headers, body, trace=()):
        world.asked.append((provider.name, "POST", path, json.loads(body)))
        return await sending(provider, path, headers, body, trace)

    async def send_bare(provider, method, path, headers, trace=()):
        world.asked.append((provider.name, method, path, None))
        return await sending(provider, path, headers, b"", trace)

    world.house.upstream = SimpleNamespace(send=send, send_bare=send_bare)
    offer = SimpleNamespace(namespace="team1", name="gpt", lines=())
    world.found = {"gpt": offer}
    world.house.snapshot = lambda: SimpleNamespace(
        decide=world.decide, names_identity=lambda _: (POLICY,), find=lambda _, name: world.found.get(name)
    )
    return world


def ask(**members):
    return exchange("POST", "/v1/responses", json.dumps({"model": "gpt", "input": "hi", "max_output_tokens": 50, **members}).encode())


def exchange(method, path, body=b"", query=""):
    return Exchange("x1", method, path, [], body, None, dialect_of(path, []), 100.0, 1_000_000.0, query)


async def told(world, x):
    caller = await walk(world, x)
    return caller.status, json.loads(caller.body)


async def refused(world, x, why="no id that this broker gave you"):
    status, said = await told(world, x)
    assert (status, said["error"]["code"]) == (400, "feature_not_granted")
    assert why in said["error"]["message"]
    assert "hold" not in world.steps
    assert world.asked == []
    return said["error"]


async def test_what_is_kept_goes_on_under_seals():
    world = a_world(whole(previous_response_id="resp_1"))
    status, got = await told(world, ask(previous_response_id=seal(), store=True))
    ((_, _, path, sent),) = world.asked
    assert (status, path, sent["previous_response_id"], sent["store"]) == (200, "/responses", "resp_1", True)
    assert got["previous_response_id"] == seal()
    assert opened(got["id"]) == (HOME, "resp_2")
    assert opened(got["output"][0]["id"], Kind.ITEM) == (at(Kind.ITEM), "msg_2")
    assert world.steps == ["identify", "audit ready", "decide", "hold", "send"]
    (line,) = world.lines
    assert (line.code, line.input_tokens, line.output_tokens, set(line.features)) == ("answered", 3, 4, {"Storage"})


@pytest.mark.parametrize("store", [True, False])
async def test_with_a_grant_of_state_ids_are_sealed_whether_or_not_this_answer_is_kept(store):
    world = a_world()
    _, got = await told(world, ask(store=store))
    assert world.asked[0][3]["store"] is store
    assert opened(got["id"])[1] == "resp_2"


@pytest.mark.parametrize(
    ("features", "kept"), [({Feature.STORAGE}, True), ({Feature.BACKGROUND}, False), ({Feature.FILES}, False), (set(), False)]
)
async def test_with_a_grant_of_storage_an_answer_is_kept_unless_the_caller_says_otherwise(features, kept):
    for absent in ({}, {"store": None}):
        world = a_world(features=frozenset(features))
        await walk(world, ask(**absent))
        assert world.asked[0][3]["store"] is kept
        assert (world.lines[0].features == (Feature.STORAGE,)) is kept


async def test_without_keys_nothing_is_kept_that_nobody_asked_to_keep():
    world = a_world(seals=None)
    await walk(world, ask())
    assert world.asked[0][3]["store"] is False


async def test_a_stream_has_the_same_ids_in_all_its_events():
    delta = EVENTS[2] % b"hi"
    world = a_world(Got(EVENTS[0], EVENTS[1] + delta[:9], delta[9:], EVENTS[3], stream=True))
    caller = await walk(world, ask(stream=True))
    assert b"resp_2" not in caller.body
    assert b"msg_2" not in caller.body
    assert caller.body.count(seal("msg_2", Kind.ITEM).encode()) == 3
    assert caller.body.count(seal("resp_2").encode()) == 2
    assert world.lines[0].output_tokens == 4


async def test_a_stream_that_is_cut_off_has_its_last_words_sealed():
    ceiling = Budget("{team1}/policy/p/cut/total_tokens/hour/identity/a", Unit.TOTAL_TOKENS, 10_000_000, Per.HOUR, cut_off=True)
    world = a_world(Got(*EVENTS[:2], EVENTS[2] % (b"word " * 500), EVENTS[3], stream=True), more_budgets=(ceiling,))
    caller = await walk(world, ask(stream=True))
    assert world.lines[0].code == "cut_off"
    assert b"response.incomplete" in caller.body
    assert seal("resp_2").encode() in caller.body.rpartition(b"event: ")[2]
    assert b"resp_2" not in caller.body
    assert b"msg_2" not in caller.body


async def test_a_last_event_without_its_end_is_sealed_too():
    world = a_world(Got(EVENTS[0], EVENTS[3].rstrip(), stream=True))
    caller = await walk(world, ask(stream=True))
    assert b"response.completed" in caller.body
    assert b"resp_2" not in caller.body


@pytest.mark.parametrize("event", [b"data: no json\n\n", b'data: {"item_id":7}\n\n', b'data: {"response":{"id":"a b"}}\n\n'])
async def test_an_event_that_nobody_can_seal_ends_the_stream(event):
    world = a_world(Got(EVENTS[0], event, EVENTS[3], stream=True))
    caller = await walk(world, ask(stream=True))
    assert b"provider_unavailable" in caller.body
    assert b"response.completed" not in caller.body
    assert (world.lines[0].code, world.lines[0].estimated) == ("provider_unavailable", True)


async def test_an_answer_that_nobody_can_seal_is_malformed_and_charged_as_reported():
    world = a_world(whole(id={"no": "text"}))
    status, said = await told(world, ask())
    assert (status, said["error"]["code"]) == (502, "provider_unavailable")
    assert (world.lines[0].input_tokens, world.lines[0].output_tokens) == (3, 4)


RAW = {
    "previous_response_id": {"previous_response_id": "resp_1"},
    "a reference": {"input": [{"type": "item_reference", "id": "msg_1"}]},
    "an id beside its content": {"input": [{"type": "message", "role": "assistant", "id": "msg_1", "content": "hi"}]},
    "an annotation": {
        "input": [{"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": [{"type": "file_path", "file_id": "file-1"}]}]}]
    },
    "a container": {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
}  # fmt: skip


@pytest.mark.parametrize("case", RAW)
async def test_a_raw_id_is_refused_before_anything_is_held(case):
    await refused(a_world(), ask(**RAW[case]))


async def test_an_id_that_is_judged_and_in_no_place_that_is_known_is_refused(monkeypatch):
    """The judge and the list of places are two; what one of them forgets does not pass."""
    places = replace(PLACES["openai_responses"], request=replace(PLACES["openai_responses"].request, ids={}))
    monkeypatch.setattr("broker.kept.PLACES", {"openai_responses": places})
    for id_ in ("resp_1", seal()):
        await refused(a_world(), ask(previous_response_id=id_))
    monkeypatch.setattr("broker.kept.PLACES", {})
    await refused(a_world(), ask(previous_response_id=seal()))


@pytest.mark.parametrize("feature", [Feature.STORAGE, Feature.BACKGROUND, Feature.FILES])
async def test_each_feature_that_keeps_something_makes_ids_sealed_ones(feature):
    world = a_world(features=frozenset({feature}))
    await refused(world, ask(**RAW["an id beside its content"]))
    assert opened((await told(world, ask()))[1]["id"])[1] == "resp_2"


async def test_without_such_a_feature_an_id_beside_its_content_passes_and_answers_stay_as_they_are():
    world = a_world(features=frozenset({Feature.HOSTED_TOOLS}))
    asked = RAW["an id beside its content"]
    assert await told(world, ask(**asked)) == (200, ANSWER)
    assert world.asked[0][3]["input"] == asked["input"]


@pytest.mark.parametrize(
    ("asked", "feature", "param"),
    [
        ({"previous_response_id": seal()}, "Storage", "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "Storage", "input.id"),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "Files, HostedTools", "tools.container"),
        ({"store": True}, "Storage", None),
        ({"background": True}, "Background", None),
    ],
)
async def test_what_is_not_granted_is_named_with_who_can_grant_it(asked, feature, param):
    error = await refused(a_world(features=frozenset()), ask(**asked), f"`features: [{feature}]`")
    assert error["param"] == param


async def test_background_includes_storage():
    for asked in ({"store": True}, {"background": True}, {"background": True, "store": True, "previous_response_id": seal()}):
        world = a_world(features=frozenset({Feature.BACKGROUND}))
        assert (await told(world, ask(**asked)))[0] == 200
        assert world.asked[0][3]["store"] is True


@pytest.mark.parametrize(
    "asked",
    [
        {"store": True},
        {"background": True},
        {"previous_response_id": seal()},
        {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
    ],
)
async def test_without_keys_nothing_is_kept_whatever_is_granted(asked):
    await refused(a_world(seals=None), ask(**asked), "--sealing-keys")


async def test_without_keys_what_keeps_nothing_passes_as_without_the_feature():
    world = a_world(seals=None)
    assert await told(world, ask(**RAW["an id beside its content"])) == (200, ANSWER)


async def test_an_id_of_another_namespaces_model_is_refused():
    await refused(a_world(), ask(previous_response_id=seal(home=replace(HOME, namespace="team2"))))


@pytest.mark.parametrize("home", [replace(HOME, provider="team1/gone"), replace(HOME, endpoint="https://eu.api.openai.com/v1")])
async def test_an_id_whose_provider_may_not_be_asked_is_refused(home):
    await refused(a_world(), ask(previous_response_id=seal(home=home)))


@pytest.mark.parametrize(("weight", "code"), [(1, (503, "no_backend")), (0, (400, "feature_not_granted"))])
async def test_a_provider_that_is_not_ready_is_waited_for_and_one_that_is_asked_no_more_is_not(weight, code):
    world = a_world()
    gone = SimpleNamespace(provider="gone", weight=weight, backend=None)
    world.found["gpt"] = SimpleNamespace(namespace="team1", name="gpt", lines=(gone,))
    status, said = await told(world, ask(previous_response_id=seal(home=replace(HOME, provider="team1/gone"))))
    assert (status, said["error"]["code"]) == code
    assert world.asked == []


async def test_only_the_provider_that_knows_it_is_asked_however_it_fares():
    backends = (Backend(OTHER, "eu-real"), Backend(PROVIDER, REAL, priority=1))
    world = a_world(CUT, whole(), backends=backends)
    world.decision = replace(world.decision, failover=replace(world.decision.failover, causes=frozenset({"Reset"})))
    status, _ = await told(world, ask(previous_response_id=seal()))
    assert status == 200
    assert {name for name, *_ in world.asked} == {"openai"}


async def test_what_is_not_at_home_anywhere_fails_over_and_is_kept_where_it_was_answered():
    world = a_world(CUT, whole(), backends=(Backend(OTHER, "eu-real"), Backend(PROVIDER, REAL, priority=1)))
    world.decision = replace(world.decision, failover=replace(world.decision.failover, causes=frozenset({"Reset"})))
    _, got = await told(world, ask(store=True))
    assert [name for name, *_ in world.asked] == ["other", "openai"]
    assert opened(got["id"])[0] == HOME


async def test_a_providers_refusal_names_what_the_caller_asked_by():
    world = a_world(Got(b'{"error":{"message":"Previous response with id \'resp_123\' not found."}}', status=404))
    status, said = await told(world, ask(previous_response_id=seal("resp_123")))
    assert (status, said["error"]["message"]) == (404, f"Previous response with id '{seal('resp_123')}' not found.")


# -- by an id in the path
BY_ID = {
    "GET": ("GET", "", "", "/responses/resp_1"),
    "GET of a stream": ("GET", "", "stream=true", "/responses/resp_1?stream=true"),
    "DELETE": ("DELETE", "", "", "/responses/resp_1"),
    "cancel": ("POST", "/cancel", "", "/responses/resp_1/cancel"),
    "input_items": ("GET", "/input_items", f"after={seal('msg_1', Kind.ITEM)}", "/responses/resp_1/input_items?after=msg_1"),
}


def by_id(case, sealed=None, body=b""):
    method, behind, query, _ = BY_ID[case]
    return exchange(method, f"/v1/responses/{sealed or seal()}{behind}", body, query)


@pytest.mark.parametrize("case", BY_ID)
async def test_it_is_asked_for_by_the_providers_own_id_and_costs_no_tokens(case):
    streamed = "stream" in case
    world = a_world(Got(*EVENTS[:2], EVENTS[3], stream=True) if streamed else whole(id="resp_1"))
    caller = await walk(world, by_id(case))
    assert world.asked == [("openai", BY_ID[case][0], BY_ID[case][3], None)]
    assert caller.status == 200
    assert b"resp_1" not in caller.body
    assert b"msg_2" not in caller.body
    if not streamed:
        assert json.loads(caller.body)["id"] == seal()
    (line,) = world.lines
    assert (line.code, line.dialect, line.model, line.provider, line.provider_model) == (
        *("answered", "openai_stored_responses", "gpt", "openai", REAL),
    )
    assert (line.held_tokens, line.input_tokens, line.output_tokens, line.estimated, line.stream) == (0, 0, 0, False, streamed)
    assert await world.spent() == 0


async def test_it_takes_one_of_a_quota_of_requests_and_is_no_stream_that_passes_its_hold():
    requests = Budget("{team1}/policy/p/pace/requests/hour/identity/a", Unit.REQUESTS, 1, Per.HOUR)
    ceiling = Budget("{team1}/policy/p/cut/total_tokens/hour/identity/a", Unit.TOTAL_TOKENS, 10, Per.HOUR, cut_off=True)
    world = a_world(Got(*EVENTS[:2], EVENTS[2] % (b"word " * 500), EVENTS[3], stream=True), more_budgets=(requests, ceiling))
    caller = await walk(world, by_id("GET of a stream"))
    assert b"response.completed" in caller.body
    again = by_id("GET")
    again.id = "x2"
    status, said = await told(world, again)
    assert (status, said["error"]["code"]) == (429, "quota_exhausted")


@pytest.mark.parametrize("case", BY_ID)
@pytest.mark.parametrize("sealed", ["resp_1", seal(kind=Kind.ITEM), seal(owner="spiffe://example.org/ns/team1/sa/other")])
async def test_by_an_id_that_is_not_ones_own_nothing_is_decided(case, sealed):
    world = a_world()
    error = await refused(world, by_id(case, sealed))
    assert error["param"] == "response_id"
    assert "decide" not in world.steps


async def test_the_model_is_decided_on_anew():
    world = a_world()
    world.decision = Forbidden("no")
    assert (await told(world, by_id("GET")))[0] == 403
    assert world.asked == []


async def test_a_model_is_found_by_its_namespace_where_its_name_leads_elsewhere():
    world = a_world()
    world.found = {"gpt": SimpleNamespace(namespace="agents", name="gpt"), "team1/gpt": SimpleNamespace(namespace="team1", name="gpt")}
    assert (await told(world, by_id("GET")))[0] == 200
    assert world.lines[0].model == "team1/gpt"


async def test_a_model_that_is_offered_no_more_is_refused():
    world = a_world()
    world.found = {}
    await refused(world, by_id("GET"))


async def test_it_needs_storage_or_background():
    error = await refused(a_world(features=frozenset({Feature.HOSTED_TOOLS})), by_id("GET"), "`features: [Storage]`")
    assert error["param"] == "response_id"
    assert (await told(a_world(features=frozenset({Feature.BACKGROUND})), by_id("GET")))[0] == 200


async def test_without_keys_nothing_is_asked_for_by_id():
    await refused(a_world(seals=None), by_id("GET"), "--sealing-keys")


async def test_of_two_models_at_one_provider_the_one_that_answered_is_named():
    world = a_world(backends=(Backend(PROVIDER, "other-real"), Backend(PROVIDER, REAL, priority=1)))
    await told(world, by_id("GET"))
    assert world.lines[0].provider_model == REAL


async def test_what_is_read_again_looks_as_it_did_when_it_was_made_whatever_the_model_is_called_today():
    world = a_world(backends=(Backend(PROVIDER, "newer-real"),))
    world.gots = [whole(id="resp_1", previous_response_id="resp_0")]
    _, got = await told(world, by_id("GET"))
    assert (got["id"], got["previous_response_id"], got["output"][0]["id"]) == (seal(), seal("resp_0"), seal("msg_2", Kind.ITEM))


@pytest.mark.parametrize(("body", "status"), [(b"", 200), (b"{}", 200), (b" {} ", 200), (b'{"x":1}', 400), (b"x", 400)])
async def test_what_is_asked_by_id_has_no_body(body, status):
    assert (await told(a_world(), by_id("cancel", body=body)))[0] == status


async def test_an_item_of_another_home_is_no_place_to_begin_a_page_at():
    elsewhere = seal("msg_1", Kind.ITEM, replace(HOME, provider="team1/other"))
    await refused(a_world(), exchange("GET", f"/v1/responses/{seal()}/input_items", query=f"after={elsewhere}"))


@pytest.mark.parametrize(
    ("method", "path", "status", "why"),
    [
        ("POST", "/v1/responses/x", 405, "takes GET and DELETE alone"),
        ("DELETE", "/v1/responses/x/cancel", 405, "takes POST alone"),
        ("POST", "/v1/responses/compact", 404, "shorten the input"),
        ("POST", "/v1/responses/input_tokens", 404, "tiktoken"),
        ("GET", "/v1/responses/x/output_items", 404, "/v1/responses/{id}/input_items"),
        ("GET", "/v1/responses", 405, "takes POST alone"),
    ],
)
async def test_what_is_no_route_says_what_is(method, path, status, why):
    got, said = await told(a_world(), exchange(method, path))
    assert got == status
    assert why in said["error"]["message"]


# -- chats
CHAT = {"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}


@pytest.mark.parametrize("store", [True, False])
async def test_a_chat_that_is_kept_and_no_other_has_a_sealed_id(store):
    world = a_world(Got(json.dumps(CHAT).encode()))
    body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "store": store}
    _, got = await told(world, exchange("POST", "/v1/chat/completions", json.dumps(body).encode()))
    if store:
        assert opened(got["id"]) == (HOME, "chatcmpl-1")
    else:
        assert got == CHAT


async def test_a_chat_that_would_be_kept_is_refused_without_keys():
    body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "store": True}
    await refused(a_world(seals=None), exchange("POST", "/v1/chat/completions", json.dumps(body).encode()), "--sealing-keys")


# -- messages
CLAUDE = replace(PROVIDER, name="claude", kind="Anthropic", endpoint=Endpoint("https", "api.anthropic.com", 443, "/v1"))
CLAUDES_HOME = Home("team1", "gpt", "team1/claude", "https://api.anthropic.com/v1", "claude-real")
SAID = {
    "id": "msg_1",
    "container": {"id": "container_1", "expires_at": ""},
    "content": [],
    "usage": {"input_tokens": 3, "output_tokens": 4},
}
INTERPRETER = {"type": "code_execution_20250825", "name": "code_execution"}


def message(path="/v1/messages", **members):
    body = {"model": "gpt", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}], **members}
    return exchange("POST", path, json.dumps(body).encode())


def a_world_of_claude(*got, **more):
    world = a_world(*(got or [Got(json.dumps(SAID).encode())]), backends=(Backend(CLAUDE, "claude-real"),), **more)
    world.decision = replace(world.decision, configured=("anthropic_messages", "anthropic_count_tokens"))
    return world


async def test_the_container_of_a_message_is_used_again_by_its_sealed_id_alone():
    world = a_world_of_claude()
    _, got = await told(world, message(tools=[INTERPRETER]))
    sealed = got["container"]["id"]
    assert opened(sealed, Kind.CONTAINER) == (at(Kind.CONTAINER, CLAUDES_HOME), "container_1")
    assert got["id"] == "msg_1"
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        for container in (sealed, {"id": sealed, "skills": []}):
            world = a_world_of_claude()
            assert (await told(world, message(path, container=container, tools=[INTERPRETER])))[0] == 200
            assert "container_1" in json.dumps(world.asked[0][3]["container"])
        for container in ("container_1", {"id": "container_1"}):
            await refused(a_world_of_claude(), message(path, container=container, tools=[INTERPRETER]))
    await refused(a_world_of_claude(features=frozenset({Feature.HOSTED_TOOLS})), message(container=sealed), "`features: [Files]`")
    await refused(a_world_of_claude(seals=None), message(container=sealed), "--sealing-keys")


async def test_a_file_that_code_left_is_sealed_and_comes_back_sealed():
    result = {"type": "code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": {"content": [{"file_id": "file_1"}]}}
    world = a_world_of_claude(Got(json.dumps({**SAID, "content": [result]}).encode()))
    _, got = await told(world, message(tools=[INTERPRETER]))
    assert opened(got["content"][0]["content"]["content"][0]["file_id"], Kind.FILE)[1] == "file_1"
    again = [{"role": "assistant", "content": got["content"]}]
    world = a_world_of_claude()
    await told(world, message(messages=again))
    assert world.asked[0][3]["messages"] == [{"role": "assistant", "content": [result]}]
    await refused(a_world_of_claude(), message(messages=[{"role": "assistant", "content": [result]}]))


async def test_a_message_without_hosted_tools_passes_as_it_is():
    world = a_world_of_claude(Got(json.dumps(SAID, indent=1).encode()))
    caller = await walk(world, message())
    assert caller.body == json.dumps(SAID, indent=1).encode()


def test_every_dialect_that_keeps_something_has_a_route():
    assert PLACES.keys() <= {words.NAME for routes in (dialects.ROUTES, dialects.BY_ID) for words in routes.values()}
