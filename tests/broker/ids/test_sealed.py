"""The ids of one exchange, both ways."""

import json
from dataclasses import replace

import pytest

from broker.errors import BadRequest, FeatureNotGranted, ProviderUnavailable
from broker.ids import PLACES, Ids
from broker.ids.sealed import REMEMBERED
from broker.sealing import Home, Key, Kind, Seals

OWNER, THIEF = "spiffe://example.org/ns/team1/sa/agent", "spiffe://example.org/ns/team1/sa/thief"
HOME = Home("team1", "gpt", "team1/openai", "https://api.openai.com/v1", "gpt-real")
SEALS = Seals([Key(bytes(range(64)))])


def ids(owner=OWNER, dialect="openai_responses"):
    return Ids(SEALS, owner, PLACES[dialect])


def seal(kind=Kind.RESPONSE, raw="resp_1", owner=OWNER, home=HOME):
    return SEALS.seal(owner, kind, home if kind is Kind.RESPONSE else replace(home, model="", real_model=""), raw)


def ask(**members):
    return json.dumps({"model": "gpt", "input": "hi", **members}).encode()


def answer(of, home=HOME, **members):
    of.keep_at(home)
    return json.loads(of.answer(json.dumps({"id": "resp_2", **members}).encode()))


def test_a_request_goes_on_with_the_providers_ids_and_says_where_they_are_at_home():
    of = ids()
    body = ask(
        previous_response_id=seal(),
        input=[{"type": "item_reference", "id": seal(Kind.ITEM, "msg_1")}],
        tools=[{"type": "code_interpreter", "container": seal(Kind.CONTAINER, "cntr_1")}],
    )
    sent = json.loads(of.request(body))
    assert (sent["previous_response_id"], sent["input"][0]["id"], sent["tools"][0]["container"]) == ("resp_1", "msg_1", "cntr_1")
    assert (of.home, of.where) == (HOME, "previous_response_id")
    assert of.opened == {seal(), seal(Kind.ITEM, "msg_1"), seal(Kind.CONTAINER, "cntr_1")}


def test_a_request_without_ids_is_at_home_nowhere():
    of = ids()
    assert json.loads(of.request(b" " + ask() + b"\n")) == json.loads(ask())
    assert of.home is None


NOT_YOURS = {
    "raw": "resp_1",
    "another agent's": seal(owner=THIEF),
    "of another kind": seal(Kind.ITEM),
    "altered": seal()[:-2] + "AA",
    "empty": "",
    "too long": seal() * 20,
}


@pytest.mark.parametrize("case", NOT_YOURS)
def test_what_is_not_ones_own_is_refused_in_the_same_words(case):
    with pytest.raises(FeatureNotGranted) as refused:
        ids().request(ask(previous_response_id=NOT_YOURS[case]))
    assert str(refused.value) == "".join(
        "previous_response_id is no id that this broker gave you for what you ask here: send one as it came, to a model of the namespace "
        "and of the provider that it came from; or send the content itself"
    )
    assert refused.value.param == "previous_response_id"


@pytest.mark.parametrize(
    "other",
    [
        Home("team2", "gpt", "team1/openai", "https://api.openai.com/v1", "gpt-real"),
        Home("team1", "gpt", "team1/other", "https://api.openai.com/v1", "gpt-real"),
        Home("team1", "gpt", "team1/openai", "https://eu.api.openai.com/v1", "gpt-real"),
    ],
)
def test_two_homes_in_one_request_are_refused_in_the_same_words(other):
    with pytest.raises(FeatureNotGranted, match="no id that this broker gave you") as refused:
        ids().request(ask(previous_response_id=seal(), input=[{"id": seal(Kind.ITEM, home=other)}]))
    assert refused.value.param == "input.id"


def test_two_models_of_one_provider_are_one_home():
    of = ids()
    of.request(ask(previous_response_id=seal(), input=[{"id": seal(Kind.ITEM, home=Home("team1", "mini", *HOMES, "mini-real"))}]))
    assert of.home == HOME


HOMES = ("team1/openai", "https://api.openai.com/v1")


@pytest.mark.parametrize("odd", [5, True, {"id": "x"}, [5]])
def test_what_is_no_id_at_all_is_a_bad_request(odd):
    with pytest.raises(BadRequest, match="previous_response_id"):
        ids().request(ask(previous_response_id=odd))


def test_an_answer_says_what_came_in_as_it_came_in_and_the_same_thing_the_same_way_each_time():
    of = ids()
    of.request(ask(previous_response_id=seal(home=Home("team1", "mini", *HOMES, "mini-real"))))
    got = answer(of, previous_response_id="resp_1", output=[{"id": "msg_1"}, {"id": "msg_1"}])
    assert got["previous_response_id"] == seal(home=Home("team1", "mini", *HOMES, "mini-real"))
    assert got["output"][0]["id"] == got["output"][1]["id"] == seal(Kind.ITEM, "msg_1")
    assert of.events(b'data: {"item_id":"msg_1"}\n\n') == b'data: {"item_id":"%b"}\n\n' % got["output"][0]["id"].encode()


def test_an_item_looks_the_same_whichever_model_of_its_provider_is_asked():
    of = ids()
    first = answer(of, output=[{"id": "msg_1"}])["output"]
    assert answer(of, replace(HOME, model="mini", real_model="mini-real"), output=[{"id": "msg_1"}])["output"] == first


def test_what_another_provider_names_is_kept_there():
    of = ids()
    first = answer(of)["id"]
    second = answer(of, Home("team1", "gpt", "team1/other", "https://other.example/v1", "real"))["id"]
    assert (SEALS.open(OWNER, Kind.RESPONSE, first)[0].provider, SEALS.open(OWNER, Kind.RESPONSE, second)[0].provider) == (
        "team1/openai",
        "team1/other",
    )


def test_no_id_yet_is_no_id():
    assert answer(ids(), id="", previous_response_id=None) == {"id": "", "previous_response_id": None}


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"id":5}', b'{"id":"a/../b"}', b'{"id":"' + b"a" * 600 + b'"}', b'{"output":[{"id":[{}]}]}']
)
def test_an_answer_whose_ids_nobody_can_seal_is_malformed(body):
    of = ids()
    of.keep_at(HOME)
    with pytest.raises(ProviderUnavailable, match="not well-formed"):
        of.answer(body)


@pytest.mark.parametrize(
    "data", [b"<html>", b"[]", b'{"item_id":5}', b'{"item_id":"a b"}', b'{"item":{"id":[{}]}}', b'{"response":{"id":""']
)
def test_an_event_whose_ids_nobody_can_seal_is_malformed(data):
    of = ids()
    of.keep_at(HOME)
    with pytest.raises(ProviderUnavailable, match="not well-formed"):
        of.events(b"data: {}\n\ndata: %b\n\n" % data)


def test_a_stream_of_ever_new_ids_is_not_remembered_for_ever():
    of = ids()
    of.request(ask(previous_response_id=seal(home=Home("team1", "mini", *HOMES, "mini-real"))))
    of.keep_at(HOME)
    first = of.events(b'data: {"item_id":"msg_0"}\n\n')
    for number in range(2 * REMEMBERED):
        of.events(b'data: {"item_id":"msg_%d"}\n\n' % number)
        assert len(of._sealed) <= REMEMBERED + 1
    assert of.events(b'data: {"item_id":"msg_0"}\n\n') == first
    assert answer(of, id="resp_1")["id"] == seal(home=Home("team1", "mini", *HOMES, "mini-real"))


def test_a_providers_own_words_name_what_the_caller_asked_by():
    of = ids()
    of.request(ask(previous_response_id=seal(raw="resp_123")))
    said = of.words(b'{"error":{"message":"Previous response with id \'resp_123\' not found."}}')
    assert json.loads(said)["error"]["message"] == f"Previous response with id '{seal(raw='resp_123')}' not found."


def test_an_error_within_a_stream_names_what_the_caller_asked_by():
    of, sealed = ids(), seal(raw="resp_123")
    of.request(ask(previous_response_id=sealed))
    of.keep_at(HOME)
    said = of.events(b'data: {"type":"error","message":"resp_123 has expired"}\n\n')
    assert said == b'data: {"type":"error","message":"%b has expired"}\n\n' % sealed.encode()


def test_an_id_of_a_few_letters_spoils_no_words():
    of = ids()
    of.request(ask(previous_response_id=seal(raw="e")))
    assert of.words(b'{"error":"e"}') == b'{"error":"e"}'


def test_words_without_end_are_left_as_they_are():
    of = ids()
    of.request(ask(previous_response_id=seal(raw="resp_123")))
    assert b"resp_123" in of.words(b"resp_123 " * 10_000)
