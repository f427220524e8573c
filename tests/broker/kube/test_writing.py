"""What is sent to the API server, and what is made of its answers."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from support.fake_apiserver import TOKEN, FakeApiServer

from broker.kube.connection import Away, Connection, Refused
from broker.kube.writing import Lease, Writing

STATUS = {"conditions": [{"type": "Accepted", "status": "True"}]}


class Desk(FakeApiServer):
    """Takes what is written, and answers what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[int, bytes]] = []
        self.taken: list[tuple[str, str, dict[str, str], str, Any]] = []
        self.headers: list[dict[str, str]] = []

    async def up(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        sent = json.loads(body) if body else None
        self.taken.append((request.method, request.path, dict(request.query), request.content_type, sent))
        self.headers.append(dict(request.headers))
        await asyncio.sleep(self.delay_s)
        status, answer = self.answers.pop(0) if self.answers else (200, b'{"metadata": {"resourceVersion": "7"}}')
        return web.Response(status=status, body=answer, content_type="application/json")


@pytest.fixture
async def desk():
    desk = Desk()
    await desk.up()
    yield desk
    await desk.down()


@pytest.fixture
async def writing(desk: Desk, tmp_path):
    connection = await Connection.open(desk.kubeconfig(tmp_path), {})
    yield Writing(connection, deadline_s=2.0)
    await connection.close()


async def test_a_status_is_applied_as_ours_to_the_object_that_was_meant(desk: Desk, writing: Writing):
    found = await writing.apply_status("AIAccessPolicy", "aiaccesspolicies", ("team1", "a"), "uid-1", STATUS)
    assert found["metadata"]["resourceVersion"] == "7"
    (taken,) = desk.taken
    assert taken == (
        "PATCH",
        "/apis/aiaccess.dev/v1alpha1/namespaces/team1/aiaccesspolicies/a/status",
        {"fieldManager": "inference-broker", "force": "true"},
        "application/apply-patch+yaml",
        {
            "apiVersion": "aiaccess.dev/v1alpha1",
            "kind": "AIAccessPolicy",
            "metadata": {"namespace": "team1", "name": "a", "uid": "uid-1"},
            "status": STATUS,
        },
    )
    assert desk.headers[0]["Authorization"] == f"Bearer {TOKEN}"


async def test_each_way_of_writing_has_its_method_and_its_media_type(desk: Desk, writing: Writing):
    await writing.create("/api/v1/namespaces/a/events", {"x": 1})
    await writing.replace("/api/v1/namespaces/a/events/b", {"x": 2})
    await writing.merge("/api/v1/namespaces/a/events/b", {"x": None})
    assert [(method, media, sent) for method, _, _, media, sent in desk.taken] == [
        ("POST", "application/json", {"x": 1}),
        ("PUT", "application/json", {"x": 2}),
        ("PATCH", "application/merge-patch+json", {"x": None}),
    ]


async def test_what_is_created_is_answered_with_201(desk: Desk, writing: Writing):
    desk.answers = [(201, b'{"metadata": {}}')]
    assert await writing.create("/api/v1/namespaces/a/events", {"x": 1}) == {"metadata": {}}


@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 422, 429, 503])
async def test_a_no_is_told_with_its_status_and_the_servers_words(desk: Desk, writing: Writing, status: int):
    desk.answers = [(status, b'{"kind": "Status", "message": "because of this"}')]
    with pytest.raises(Refused, match="because of this") as no:
        await writing.merge("/x", {"a": 1})
    assert no.value.status == status


async def test_what_is_not_there_is_read_as_nothing_and_any_other_no_is_one(desk: Desk, writing: Writing):
    desk.answers = [(404, b"{}"), (403, b"{}")]
    assert await writing.read("/x") is None
    with pytest.raises(Refused):
        await writing.read("/x")


async def test_a_server_that_does_not_answer_is_away_after_the_deadline(desk: Desk, tmp_path):
    desk.delay_s = 30.0
    connection = await Connection.open(desk.kubeconfig(tmp_path), {})
    with pytest.raises(Away):
        await Writing(connection, deadline_s=0.1).merge("/x", {"a": 1})
    await connection.close()


async def test_a_server_that_is_down_is_away(desk: Desk, writing: Writing):
    await desk.down()
    with pytest.raises(Away):
        await writing.create("/x", {"a": 1})


@pytest.mark.parametrize(("answer", "words"), [(b"no json", "cannot be read"), (b"[]", "no mapping"), (b"x" * (9 << 20), "has more than")])
async def test_an_answer_that_is_none_is_as_good_as_no_answer(desk: Desk, writing: Writing, answer: bytes, words: str):
    desk.answers = [(200, answer)]
    with pytest.raises(Away, match=words):
        await writing.merge("/x", {"a": 1})


async def test_a_lease_keeps_what_it_does_not_know(desk: Desk, writing: Writing):
    lease = Lease(writing, "broker-system", "broker-controller")
    await lease.create({"holderIdentity": "one"})
    found = {"metadata": {"resourceVersion": "5", "labels": {"a": "b"}}, "spec": {"holderIdentity": "one"}}
    await lease.replace(found, {"holderIdentity": "two"})
    (_, made, _, _, created), (method, path, _, _, sent) = desk.taken
    assert made == "/apis/coordination.k8s.io/v1/namespaces/broker-system/leases"
    assert created["metadata"] == {"namespace": "broker-system", "name": "broker-controller"}
    assert (method, path) == ("PUT", f"{made}/broker-controller")
    assert sent == {**found, "spec": {"holderIdentity": "two"}}


async def test_names_cannot_lead_elsewhere(desk: Desk, writing: Writing):
    await writing.apply_status("AIProvider", "aiproviders", ("team1", "../../x?y"), "u", {})
    assert desk.taken[0][1] == "/apis/aiaccess.dev/v1alpha1/namespaces/team1/aiproviders/../../x?y/status"
    assert "y" not in desk.taken[0][2]
