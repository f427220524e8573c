"""Ids in numbers, or of a length, that no program and no provider has a use for: what they cost is bounded."""

import json

import pytest

from broker.errors import ProviderUnavailable
from broker.ids import PLACES, Ids
from broker.ids.sealed import REMEMBERED
from broker.ids.swapping import WRITTEN_BYTES
from broker.sealing import Home, Key, Kind, Seals

OWNER = "spiffe://example.org/ns/team1/sa/agent"
LONG_HOME = Home("team1", "gpt", "team1/openai", "https://api.example.com/" + "p" * 900, "gpt-real")
SEALS = Seals([Key(bytes(range(64)))])
MANY_FILES = {"tools": [{"container": {"file_ids": ["a"] * 50_000}}]}


def ids(opened=()):
    of = Ids(SEALS, OWNER, PLACES["openai_responses"])
    for raw in opened:
        of.open(Kind.ITEM, SEALS.seal(OWNER, Kind.ITEM, LONG_HOME, raw), "input.id")
    of.keep_at(LONG_HOME)
    return of


def test_what_came_in_keeps_its_look_however_much_is_sealed_besides():
    of = ids(f"msg_{n:08}" for n in range(REMEMBERED + 10))
    before = of.answer(b'{"output":[{"id":"msg_00000000"},{"id":"msg_new"}]}')
    for n in range(3):
        of.answer(json.dumps({"output": [{"id": f"fc_{n}_{m}"} for m in range(2000)]}).encode())
    assert of.answer(b'{"output":[{"id":"msg_00000000"},{"id":"msg_new"}]}') == before


def test_short_ids_that_become_long_ones_do_not_make_an_answer_hundreds_of_times_as_large():
    with pytest.raises(ProviderUnavailable):
        ids().answer(json.dumps(MANY_FILES).encode())
    with pytest.raises(ProviderUnavailable):
        ids().events(b'data: {"response":%b}\n\n' % json.dumps(MANY_FILES).encode())


def test_neither_do_they_in_many_events_that_come_at_once():
    event = b'data: {"response":%b}\n\n' % json.dumps({"tools": [{"container": {"file_ids": ["a"] * 1000}}]}).encode()
    assert len(ids().events(event)) < WRITTEN_BYTES
    with pytest.raises(ProviderUnavailable):
        ids().events(event * 100)
