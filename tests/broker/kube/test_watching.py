"""Whatever a watch meets: afterwards we know what is there, and nothing that is gone; and we never ask in a hot loop."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from support.fake_apiserver import FakeApiServer, access
from support.raw_http import until

from broker.kube.connection import Connection
from broker.kube.essence import essence
from broker.kube.holdings import ROOM, Room
from broker.kube.watching import Collection, Pace, Reading, Reflector
from broker.names import API_VERSION

POLICIES = Collection(API_VERSION, "AIAccessPolicy", "aiaccesspolicies", "team1")
BRISK = Pace(watch_s=30.0, pause_min_s=0.01, pause_max_s=0.05, steady_s=0.5, forbidden_s=0.3)


class Watched:
    """A reflector that runs, and how often it told of a change."""

    def __init__(self, connection: Connection, what: Collection, pace: Pace, room: Room = ROOM) -> None:
        self.told = 0
        self.reflector = Reflector(connection, what, Reading(essence, lambda fields: fields, room), self._tell, pace)

    def _tell(self) -> None:
        self.told += 1

    def names(self) -> list[str]:
        return sorted(one["metadata"]["name"] for one in self.reflector.objects)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Watched"]:
        task = asyncio.get_running_loop().create_task(self.reflector.run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def watched(server: FakeApiServer, connection: Connection):
    async with Watched(connection, POLICIES, BRISK).running() as running:
        await until(lambda: running.reflector.synced and server.watches)
        yield running


async def test_what_comes_changes_and_goes_is_known(server, watched):
    server.put(access("a"))
    server.put(access("b"))
    await until(lambda: watched.names() == ["a", "b"])
    server.put(access("a", models=["other"]))
    await until(lambda: any(one["spec"]["models"] == ["other"] for one in watched.reflector.objects))
    server.delete("AIAccessPolicy", "team1", "a")
    await until(lambda: watched.names() == ["b"])
    assert len(server.asked(watch=False)) == 1


async def test_a_list_of_many_pages_is_one_list(server, connection):
    server.page_objects = 2
    for number in range(7):
        server.put(access(f"p{number}"))
    async with Watched(connection, POLICIES, BRISK).running() as watched:
        await until(lambda: watched.reflector.synced)
    assert watched.names() == [f"p{number}" for number in range(7)]
    assert watched.told == 1
    assert len(server.asked(watch=False)) == 4


async def test_objects_of_another_namespace_are_not_there(server, watched):
    server.put(access("elsewhere", namespace="team2"))
    server.put(access("here"))
    await until(lambda: watched.names() == ["here"])


async def test_a_dropped_connection_loses_nothing(server, watched):
    server.put(access("a"))
    await until(lambda: watched.names() == ["a"])
    server.drop()
    server.put(access("b"))
    server.delete("AIAccessPolicy", "team1", "a")
    await until(lambda: watched.names() == ["b"])
    assert len(server.asked(watch=False)) == 1


async def test_what_was_deleted_while_the_server_was_away_and_forgot_it_vanishes(server, watched):
    server.put(access("a"))
    server.put(access("b"))
    await until(lambda: watched.names() == ["a", "b"])
    await server.down()
    server.delete("AIAccessPolicy", "team1", "a")
    server.forget_history()
    await server.up()
    await until(lambda: watched.names() == ["b"])


async def test_what_was_read_stays_while_the_server_is_away(server, watched):
    server.put(access("a"))
    await until(lambda: watched.names() == ["a"])
    await server.down()
    await until(lambda: watched.reflector.trouble)
    assert watched.names() == ["a"]
    assert watched.reflector.synced


async def test_410_as_an_answer_leads_to_a_new_list(server, watched):
    server.put(access("a"))
    await until(lambda: watched.names() == ["a"])
    server.objects.clear()  # and no event of it
    gone = iter([(410, {})])
    server.refuse = lambda path, query: next(gone, None) if "watch" in query else None
    server.drop()
    await until(lambda: watched.names() == [])


async def test_410_as_an_event_leads_to_a_new_list(server, watched):
    server.put(access("a"))
    await until(lambda: watched.names() == ["a"])
    server.objects.clear()
    server.send(json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}).encode() + b"\n")
    await until(lambda: watched.names() == [])


async def test_a_server_that_always_says_410_is_not_asked_in_a_hot_loop(server, connection):
    server.refuse = lambda path, query: (410, {}) if "watch" in query else None
    async with Watched(connection, POLICIES, Pace(pause_min_s=0.05, pause_max_s=10.0)).running():
        await asyncio.sleep(0.5)
        assert len(server.requests) < 14
        await until(lambda: len(server.asked(watch=False)) > 1)


async def test_a_server_that_says_503_is_asked_ever_less_often(server, connection):
    server.refuse = lambda path, query: (503, {})
    async with Watched(connection, POLICIES, Pace(pause_min_s=0.05, pause_max_s=10.0)).running() as watched:
        await asyncio.sleep(0.5)
        assert len(server.requests) < 8
        await until(lambda: len(server.requests) > 1)
        assert not watched.reflector.synced
        server.put(access("a"))
        server.refuse = lambda path, query: None
        await until(lambda: watched.names() == ["a"])


async def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(server, connection):
    server.refuse = lambda path, query: (429, {"Retry-After": "20"})
    async with Watched(connection, POLICIES, BRISK).running() as watched:
        await until(lambda: watched.reflector.trouble)
        await asyncio.sleep(0.3)
    assert len(server.requests) == 1


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_in_a_hot_loop(server, connection):
    server.answer_watches = lambda: False
    async with Watched(connection, POLICIES, Pace(pause_min_s=0.05, pause_max_s=10.0)).running() as watched:
        await asyncio.sleep(0.5)
        assert len(server.asked(watch=True)) < 8
        await until(lambda: len(server.asked(watch=True)) > 1)
        assert len(server.asked(watch=False)) == 1
        assert watched.reflector.synced


async def test_a_watch_that_ends_in_its_time_goes_on_from_the_last_bookmark_without_a_list(server, watched):
    server.bookmark()
    version = str(server.version)
    server.end_watches()
    await until(lambda: len(server.asked(watch=True)) == 2 and server.watches)
    assert server.requests[-1].query["resourceVersion"] == version
    assert len(server.asked(watch=False)) == 1


async def test_a_bookmark_alone_is_a_sign_of_life_and_no_change(server, watched):
    told, reflector = watched.told, watched.reflector
    await until(lambda: reflector.stale_s > 0.2)
    server.bookmark()
    await until(lambda: reflector.stale_s < 0.1)
    assert watched.told == told


async def test_silence_makes_it_stale(server, watched):
    await server.down()
    await until(lambda: watched.reflector.stale_s > 0.3)


async def test_an_object_of_900_kilobytes_passes(server, watched):
    server.put(access("large", note="x" * 900_000))
    await until(lambda: watched.names() == ["large"])
    assert not watched.reflector.trouble


async def test_pages_that_are_too_large_are_asked_for_smaller(server, connection, monkeypatch):
    monkeypatch.setattr("broker.kube.watching.PAGE_BYTES", 100_000)
    for number in range(6):
        server.put(access(f"p{number}", note="x" * 40_000))
    async with Watched(connection, POLICIES, BRISK).running() as watched:
        await until(lambda: watched.reflector.synced)
    assert len(watched.names()) == 6


async def test_one_object_nested_without_end_keeps_no_other_from_being_read(server, watched):
    deep = "[" * 5_000 + "]" * 5_000
    server.put(access("before"))
    line = json.dumps(
        {"type": "ADDED", "object": {**access("deep"), "metadata": {"name": "deep", "namespace": "team1", "resourceVersion": "900"}}}
    )
    server.send(line.replace('"models"', f'"junk": {deep}, "models"').encode() + b"\n")
    server.version = 900
    server.put(access("after"))
    await until(lambda: watched.names() == ["after", "before", "deep"])
    assert "junk" in next(one for one in watched.reflector.objects if one["metadata"]["name"] == "deep")["spec"]
    assert len(server.asked(watch=False)) == 1


async def test_status_and_metadata_alone_change_nothing(server, watched):
    server.put(access("a"))
    await until(lambda: watched.names() == ["a"])
    told = watched.told
    server.put({**access("a"), "status": {"conditions": []}}, labels={"x": "y"}, annotations={"kubectl.kubernetes.io/last-applied": "{}"})
    version = str(server.version)
    server.end_watches()
    await until(lambda: server.watches and server.requests[-1].query.get("resourceVersion") == version)
    assert watched.told == told


async def test_an_annotation_of_ours_is_a_change(server, watched):
    server.put(access("a"))
    await until(lambda: watched.names() == ["a"])
    told = watched.told
    server.put(access("a"), annotations={"aiaccess.dev/hosts": "api.openai.com"})
    await until(lambda: watched.told == told + 1)


async def test_an_object_deleted_and_made_again_between_two_lists_is_another_object(server, watched):
    server.put(access("a"))
    await until(lambda: watched.names() == ["a"])
    uid = watched.reflector.objects[0]["metadata"]["uid"]
    await server.down()
    server.delete("AIAccessPolicy", "team1", "a")
    server.put(access("a"))
    server.forget_history()
    await server.up()
    await until(lambda: watched.names() == ["a"] and watched.reflector.objects[0]["metadata"]["uid"] != uid)


async def test_403_from_the_start_is_a_refusal_and_is_asked_again(server, connection):
    server.refuse = lambda path, query: (403, {})
    server.put(access("a"))
    async with Watched(connection, POLICIES, BRISK).running() as watched:
        await until(lambda: "403" in watched.reflector.refusal)
        assert not watched.reflector.synced
        server.refuse = lambda path, query: None
        await until(lambda: watched.names() == ["a"])
        assert watched.reflector.refusal == ""


async def test_a_short_403_of_a_server_that_starts_takes_nothing_away(server, watched):
    server.put(access("a"))
    await until(lambda: watched.names() == ["a"])
    refused = iter([(403, {})] * 2)
    server.refuse = lambda path, query: next(refused, None)
    server.drop()
    asked = len(server.requests)
    await until(lambda: len(server.requests) >= asked + 3 and server.watches)
    assert watched.names() == ["a"]
    assert watched.reflector.refusal == ""


async def test_a_403_that_lasts_takes_what_was_known(server, watched):
    server.put(access("a"))
    await until(lambda: watched.names() == ["a"])
    server.refuse = lambda path, query: (403, {})
    server.drop()
    await until(lambda: watched.names() == [])
    assert "403" in watched.reflector.refusal
    assert not watched.reflector.synced


async def test_what_may_not_be_read_is_asked_for_ever_less_often(server, connection):
    server.refuse = lambda path, query: (403, {})
    async with Watched(connection, POLICIES, Pace(pause_min_s=0.05, pause_max_s=0.05, forbidden_s=10.0)).running() as watched:
        await asyncio.sleep(0.5)
        assert len(server.requests) < 8
        await until(lambda: len(server.requests) > 1)
        server.put(access("a"))
        server.refuse = lambda path, query: None
        await until(lambda: watched.names() == ["a"])


async def test_a_namespace_that_grows_beyond_its_room_is_let_go_and_comes_back_with_a_list(server, connection, caplog):
    everywhere = replace(POLICIES, namespace=None)
    server.put(access("other", namespace="team2"))
    async with Watched(connection, everywhere, Pace(list_s=0.0, pause_min_s=0.01), Room(objects=2)).running() as watched:
        await until(lambda: watched.names() == ["other"] and server.watches)
        for name in ("a", "b", "c"):
            server.put(access(name))
        await until(lambda: watched.reflector.crowded == {"team1"})
        assert watched.names() == ["other"]
        assert "namespace_crowded" in caplog.text
        told = watched.told
        server.put(access("d"))
        server.put(access("last", namespace="team2"))
        await until(lambda: watched.names() == ["last", "other"])
        assert watched.told == told + 1
        for name in ("c", "d"):
            server.delete("AIAccessPolicy", "team1", name)
        server.end_watches()
        await until(lambda: watched.names() == ["a", "b", "last", "other"])
        assert watched.reflector.crowded == frozenset()


async def test_a_namespace_that_has_too_much_keeps_no_list_from_being_read(server, connection, monkeypatch):
    monkeypatch.setattr("broker.kube.watching.OBJECTS", 3)
    for number in range(9):
        server.put(access(f"p{number}"))
    server.put(access("other", namespace="team2"))
    async with Watched(connection, replace(POLICIES, namespace=None), BRISK, Room(objects=2)).running() as watched:
        await until(lambda: watched.names() == ["other"])


async def test_a_line_that_is_no_event_leads_to_a_new_list(server, watched):
    server.objects.clear()
    server.send(b'{"type": "ADDED", "object": [1]}\n')
    await until(lambda: len(server.asked(watch=False)) == 2)


async def test_more_objects_than_anybody_can_mean_are_not_taken_in(server, connection, monkeypatch):
    monkeypatch.setattr("broker.kube.watching.OBJECTS", 3)
    for number in range(4):
        server.put(access(f"p{number}"))
    async with Watched(connection, POLICIES, BRISK).running() as watched:
        await until(lambda: "ResourceQuota" in watched.reflector.trouble)
    assert not watched.reflector.synced


async def test_even_a_good_watch_is_checked_against_a_list_from_time_to_time(server, connection):
    async with Watched(connection, POLICIES, Pace(list_s=0.1, pause_min_s=0.01)).running() as watched:
        server.put(access("missed"))
        await until(lambda: watched.names() == ["missed"])
        server.objects.clear()  # an event that never came
        await until(lambda: watched.reflector.stale_s > 0.15)
        server.end_watches()
        await until(lambda: watched.names() == [])


async def test_a_secret_is_watched_by_its_name_so_that_rbac_may_name_it(server, connection):
    what = Collection("v1", "Secret", "secrets", "team1", "openai")
    for name in ("openai", "other"):
        server.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "team1"}, "data": {}})
    async with Watched(connection, what, BRISK).running() as watched:
        await until(lambda: watched.names() == ["openai"] and server.watches)
        server.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other", "namespace": "team1"}, "data": {"a": "b"}})
        server.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "openai", "namespace": "team1"}, "data": {"c": "d"}})
        await until(lambda: watched.reflector.objects[0].get("data") == {"c": "d"})
    assert watched.reflector.objects[0]["kind"] == "Secret"
    assert {one.query["fieldSelector"] for one in server.requests} == {"metadata.name=openai"}


async def test_a_watch_asks_for_bookmarks_and_for_an_end(server, watched):
    query = server.asked(watch=True)[0].query
    assert query["allowWatchBookmarks"] == "true"
    assert 24 <= int(query["timeoutSeconds"]) <= 36


async def test_no_two_watches_end_at_the_same_time(server, connection):
    server.answer_watches = lambda: False
    async with Watched(connection, POLICIES, Pace(pause_min_s=0.001, pause_max_s=0.001)).running():
        await until(lambda: len(server.asked(watch=True)) >= 10)
    assert len({one.query["timeoutSeconds"] for one in server.asked(watch=True)}) > 1


def test_how_long_ago_is_counted_from_the_start(monkeypatch):
    reflector = Reflector(None, POLICIES, Reading(essence, dict), lambda: None)  # type: ignore[arg-type]  not asked yet
    began_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began_s + 50)
    assert 49 < reflector.stale_s < 51
