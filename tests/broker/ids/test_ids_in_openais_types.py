"""Every place of an id in the SDKs' own types of answers and events, filled with a marked one: none of them reaches the caller raw."""

import json

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.beta import BetaMessage, BetaRawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from openai.types.responses.response_item_list import ResponseItemList
from support.sdk_types import MARK, filled, models

from broker.ids import PLACES, Ids
from broker.ids.swapping import swap
from broker.sealing import Home, Key, Seals

OWNER = "spiffe://example.org/ns/team1/sa/agent"
HOME = Home("team1", "gpt", "team1/openai", "https://api.openai.com/v1", "gpt-real")


def ids_of(dialect: str) -> Ids:
    ids = Ids(Seals([Key(bytes(range(64)))]), OWNER, PLACES[dialect])
    ids.keep_at(HOME)
    return ids


EVENTS = [*dict.fromkeys(models(ResponseStreamEvent))]
ITEMS = [*dict.fromkeys(models(ResponseItem))]


def test_the_types_are_those_that_are_meant():
    assert len(EVENTS) > 50
    assert len(ITEMS) > 25
    assert MARK in json.dumps([*filled(Response)])


@pytest.mark.parametrize(
    "model", [Response, ResponseItemList, *ITEMS], ids=lambda model: f"{model.__module__.split('.')[-1]}.{model.__name__}"
)
def test_no_raw_id_is_left_in_an_answer_and_all_of_them_open_to_what_they_were(model):
    ids = ids_of("openai_responses")
    for value in filled(model):
        answer = {"data": [value]} if model in ITEMS else value
        sealed = ids.answer(json.dumps(answer).encode())
        assert MARK.encode() not in sealed
        opened = swap(sealed, PLACES["openai_responses"].answer, ids.open)
        assert json.loads(opened) == answer


@pytest.mark.parametrize("model", EVENTS, ids=lambda model: model.__name__)
def test_no_raw_id_is_left_in_an_event(model):
    ids = ids_of("openai_responses")
    for value in filled(model):
        data = json.dumps(value).encode()
        sealed = ids.events(b"event: %b\ndata: %b\n\n" % (str(value["type"]).encode(), data))
        assert MARK.encode() not in sealed
        name, written = sealed.removesuffix(b"\n\n").split(b"\ndata: ")
        assert name == b"event: " + str(value["type"]).encode()
        assert json.loads(swap(written, PLACES["openai_responses"].event, ids.open)) == value


@pytest.mark.parametrize("model", [ChatCompletion, ChatCompletionChunk])
def test_no_raw_id_of_a_kept_chat_is_left(model):
    ids = ids_of("openai_chat")
    (value, *_) = filled(model)
    value = {**value, "id": "chatcmpl-raw"}
    assert b"chatcmpl-raw" not in ids.answer(json.dumps(value).encode())
    assert b"chatcmpl-raw" not in ids.events(b"data: %b\n\n" % json.dumps(value).encode())


@pytest.mark.parametrize("model", [Message, BetaMessage], ids=lambda model: model.__name__)
def test_no_raw_id_of_a_container_or_a_file_is_left_in_a_message(model):
    ids = ids_of("anthropic_messages")
    values = [*filled(model)]
    assert MARK in json.dumps(values)
    for value in values:
        sealed = ids.answer(json.dumps(value).encode())
        assert MARK.encode() not in sealed
        assert json.loads(swap(sealed, PLACES["anthropic_messages"].answer, ids.open)) == value


@pytest.mark.parametrize("model", [*models(RawMessageStreamEvent), *models(BetaRawMessageStreamEvent)], ids=lambda model: model.__name__)
def test_no_raw_id_of_a_container_or_a_file_is_left_in_an_event_of_a_message(model):
    ids = ids_of("anthropic_messages")
    for value in filled(model):
        sealed = ids.events(b"event: x\ndata: %b\n\n" % json.dumps(value).encode())
        assert MARK.encode() not in sealed
        assert json.loads(swap(sealed[len(b"event: x\ndata: ") :], PLACES["anthropic_messages"].event, ids.open)) == value


STREAM = b"".join(b"event: x\ndata: %b\n\n" % json.dumps(next(filled(model))).encode() for model in EVENTS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_however_a_stream_is_cut_no_raw_id_is_left_in_it_and_it_is_the_same(cuts):
    from broker.dialects import openai_responses
    from broker.kept import SealedMeter

    def carried(at: list[int]) -> bytes:
        meter = SealedMeter(openai_responses.read(b'{"model":"gpt","input":"hi","stream":true}').meter(), ids_of("openai_responses"))
        pieces = [STREAM[begin:end] for begin, end in zip([0, *at], [*at, len(STREAM)], strict=True)]
        return b"".join([*map(meter.stream, pieces), meter.end()])

    got = carried(sorted(cuts))
    assert MARK.encode() not in got
    assert got == carried([])
