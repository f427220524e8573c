"""The other objects of a namespace, asked for while an API server waits."""

import asyncio
import contextlib
import time

import pytest
from support.fake_apiserver import access, api_server, routing

from broker.kube.connection import Connection
from broker.objects import read_document
from webhook import neighbours
from webhook.neighbours import Neighbours


@contextlib.asynccontextmanager
async def asked(tmp_path):
    async with api_server() as server:
        connection = await Connection.open(server.kubeconfig(tmp_path), {})
        try:
            yield server, Neighbours(connection)
        finally:
            await connection.close()


def paths(server):
    return [one.path.rpartition("/namespaces/")[2] for one in server.requests]


POLICY, ROUTING = read_document(access("agents")), read_document(routing())
PROVIDER = read_document(
    {
        "apiVersion": "aiaccess.dev/v1alpha1",
        "kind": "AIProvider",
        "metadata": {"name": "p", "namespace": "team1"},
        "spec": {"schema": "OpenAI"},
    }
)


async def test_each_kind_asks_for_those_that_it_refers_to_and_no_others(tmp_path):
    async with asked(tmp_path) as (server, it):
        server.put(routing("one"))
        server.put(routing("elsewhere", "team2"))
        assert [one.about.name for one in await it.of(POLICY)] == ["one"]
        assert paths(server) == ["team1/airoutingpolicies"]
        await it.of(ROUTING)
        assert paths(server)[1:] == ["team1/airoutingpolicies", "team1/aiproviders"]
        assert await it.of(PROVIDER) == ()
        assert len(paths(server)) == 3


async def test_what_is_there_and_broken_is_among_them(tmp_path):
    async with asked(tmp_path) as (server, it):
        server.put(routing() | {"spec": {"wrong": 1}})
        (found,) = await it.of(POLICY)
        assert not found.about.accepted


async def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_the_bound(tmp_path):
    async with asked(tmp_path) as (server, it):
        server.delay_s = 60
        began_s = time.monotonic()
        assert await it.of(POLICY) is None
        assert time.monotonic() - began_s < 30


@pytest.mark.parametrize("status", [403, 404, 429, 500])
async def test_a_server_that_refuses_leaves_it_unknown_and_says_so_once(tmp_path, status, caplog):
    async with asked(tmp_path) as (server, it):
        server.refuse = lambda path, query: (status, {})
        assert [await it.of(POLICY) for _ in range(3)] == [None] * 3
        assert [record.message for record in caplog.records if record.name == "webhook.neighbours"] == ["neighbours_unknown"]
        server.refuse = lambda path, query: None
        assert await it.of(POLICY) == []


async def test_a_namespace_that_has_too_much_is_unknown(tmp_path, monkeypatch):
    async with asked(tmp_path) as (server, it):
        server.put(routing())
        monkeypatch.setattr(neighbours, "LIST_BYTES", 100)
        assert await it.of(POLICY) is None
        monkeypatch.undo()
        server.put(routing("second"))
        server.page_objects = 1
        assert await it.of(POLICY) is None


async def test_without_an_api_server_nothing_is_known():
    it = Neighbours(None)
    assert await it.of(POLICY) is None
    assert await it.of(PROVIDER) == ()


class Waiting:
    """A connection whose answer, an empty list, waits to be let go. open, most: questions under way, and the most that ever were."""

    def __init__(self):
        self.open = self.most = 0
        self.full, self.go = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def request(self, path, query, timeout):  # noqa: ASYNC109  as Connection has it
        self.open += 1
        self.most = max(self.most, self.open)
        if self.open == neighbours.AT_ONCE:
            self.full.set()
        try:
            await self.go.wait()
            yield self.chunks()
        finally:
            self.open -= 1

    async def chunks(self):
        yield b'{"metadata": {}, "items": []}'


async def test_few_ask_at_once_and_those_behind_them_get_their_turn(monkeypatch):
    monkeypatch.setattr(neighbours, "DEADLINE_S", 60.0)  # a busy machine is not the question
    connection = Waiting()
    it = Neighbours(connection)
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(it.of(POLICY)) for _ in range(3 * neighbours.AT_ONCE)]
        await connection.full.wait()
        connection.go.set()
    assert [task.result() for task in asking] == [[]] * len(asking)
    assert connection.most == neighbours.AT_ONCE


async def test_those_behind_wait_no_longer_than_the_bound(monkeypatch):
    monkeypatch.setattr(neighbours, "DEADLINE_S", 0.1)
    connection = Waiting()
    it = Neighbours(connection)
    found = await asyncio.gather(*(it.of(POLICY) for _ in range(3 * neighbours.AT_ONCE)))
    assert found == [None] * len(found)
    assert connection.most <= neighbours.AT_ONCE
    assert connection.open == 0
