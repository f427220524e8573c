"""A cluster as the source of objects: what is not known yet is not guessed, and no namespace waits for another."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.fake_apiserver import FakeApiServer, access, routing
from support.kube_world import KubeWorld, agent, following
from support.raw_http import until

from broker.kube import source
from broker.kube.connection import Connection
from broker.kube.essence import essence
from broker.kube.holdings import Room
from broker.kube.source import Cluster, Scope
from broker.kube.watching import Pace
from broker.objects import Resources

BRISK = Pace(pause_min_s=0.01, pause_max_s=0.05, steady_s=0.5, forbidden_s=0.2)


@asynccontextmanager
async def world_of(connection: Connection, *namespaces: str, max_stale_s: float | None = None) -> AsyncIterator[KubeWorld]:
    async with following(Cluster(connection, Scope.of("inference-broker", (), namespaces), max_stale_s, BRISK)) as world:
        yield world


def within(namespace: str, plural: str = ""):
    return lambda path, query: (403, {}) if f"/{namespace}/{plural}" in path else None


def put_team(server: FakeApiServer, *namespaces: str) -> None:
    for namespace in namespaces:
        server.put(routing(namespace=namespace))
        server.put(access("agents", namespace=namespace))


async def test_before_anything_is_read_nothing_is_known(connection):
    cluster = Cluster(connection, Scope.of("inference-broker", ("shared",), ("team1",)))
    assert cluster.read().pending == {"inference-broker", "shared", "team1"}
    assert len(cluster.why_not_ready()) == 3
    assert cluster.read().access == ()


async def test_what_is_written_is_granted_and_what_is_deleted_is_not(server, connection):
    put_team(server, "team1")
    async with world_of(connection, "team1") as world:
        await until(lambda: world.answer("team1") == "granted")
        server.delete("AIAccessPolicy", "team1", "agents")
        await until(lambda: world.answer("team1") == "forbidden")


async def test_until_the_brokers_own_namespace_is_read_nothing_is_served(server, connection):
    put_team(server, "team1")
    server.refuse = lambda path, query: (503, {}) if "inference-broker" in path else None
    async with world_of(connection, "team1") as world:
        await until(lambda: world.resources.access)
        assert world.answer("team1") == "unavailable"
        assert any("aiaccesspolicies of namespace inference-broker" in reason for reason in world.cluster.why_not_ready())
        server.refuse = lambda path, query: None
        await until(lambda: world.answer("team1") == "granted")
        assert world.ready


async def test_a_namespace_whose_lists_are_not_in_yet_keeps_nobody_else_waiting(server, connection):
    put_team(server, "team1", "team2")
    server.refuse = lambda path, query: (503, {}) if "team2/airoutingpolicies" in path else None
    async with world_of(connection, "team1", "team2") as world:
        await until(lambda: world.answer("team1") == "granted")
        assert world.answer("team2") == "unavailable"
        assert world.ready
        assert any("airoutingpolicies of namespace team2" in remark for remark in world.cluster.remarks())
        server.refuse = lambda path, query: None
        await until(lambda: world.answer("team2") == "granted")


@pytest.mark.parametrize("plural", ["aiaccesspolicies", "airoutingpolicies", "aiproviders"])
async def test_a_namespace_that_may_not_be_read_is_told_and_blocks_no_other(server, connection, plural):
    put_team(server, "team1", "team2")
    server.refuse = within("team2", plural)
    async with world_of(connection, "team1", "team2") as world:
        await until(lambda: world.answer("team1") == "granted" and "team2" in world.resources.unreadable)
        assert world.answer("team2") == "unavailable"
        assert world.ready
        [remark] = world.cluster.remarks()
        assert "Role" in remark
        assert "403" in remark


async def test_the_brokers_own_namespace_that_may_not_be_read_is_why_it_is_not_ready(server, connection):
    server.refuse = within("inference-broker")
    async with world_of(connection, "team1") as world:
        await until(lambda: any("Role" in reason for reason in world.cluster.why_not_ready()))
        assert world.answer("team1") == "unavailable"


async def test_a_namespace_that_nobody_listed_is_not_read(server, connection):
    put_team(server, "team1", "team9")
    async with world_of(connection, "team1") as world:
        await until(lambda: world.answer("team1") == "granted")
        assert world.answer("team9") == "forbidden"
    assert [one for one in server.requests if "team9" in one.path] == []


async def test_all_namespaces_are_read_with_one_list_a_kind(server, connection):
    put_team(server, "team1", "team2")
    async with world_of(connection, "*") as world:
        await until(lambda: world.answer("team1") == world.answer("team2") == "granted")
    assert len(server.asked(watch=False)) == 3
    assert not any("namespaces" in one.path for one in server.requests)


async def test_all_namespaces_that_may_not_be_read_are_why_it_is_not_ready(server, connection):
    server.refuse = lambda path, query: (403, {})
    async with world_of(connection, "*") as world:
        await until(lambda: "inference-broker" in world.resources.unreadable)
        assert world.answer("team1") == "unavailable"
        assert len(world.cluster.why_not_ready()) == 3


@pytest.mark.parametrize("namespaces", [("*",), ("team1", "team2")], ids=["one list", "lists of each"])
async def test_a_namespace_that_has_too_much_is_refused_and_told_and_blocks_no_other(server, connection, monkeypatch, namespaces):
    monkeypatch.setattr(source, "ROOMS", dict.fromkeys(source.KINDS, Room(objects=2)))
    put_team(server, "team1", "team2")
    async with world_of(connection, *namespaces) as world:
        await until(lambda: world.answer("team1") == world.answer("team2") == "granted" and world.ready)
        for number in range(3):
            server.put(routing(f"r{number}", "team1", models=(f"m{number}",)))
        await until(lambda: world.answer("team1") == "unavailable")
        assert world.answer("team2") == "granted"
        assert {one.about.namespace for one in world.resources.access} == {"team2"}
        (remark,) = world.cluster.remarks()
        assert remark.startswith("namespace team1 has more airoutingpolicies than brokers have room for (2 or ")
        assert world.ready


@pytest.mark.parametrize("namespaces", [("*",), ()], ids=["one list", "lists of each"])
async def test_when_there_is_too_much_in_the_brokers_own_namespace_nothing_is_served(server, connection, monkeypatch, namespaces):
    monkeypatch.setattr(source, "ROOMS", dict.fromkeys(source.KINDS, Room(objects=2)))
    for number in range(3):
        server.put(access(f"deny{number}", "inference-broker", action="Deny"))
    async with world_of(connection, *namespaces) as world:
        await until(lambda: world.builds and not world.resources.pending)
        assert world.answer("team1") == "unavailable"
        (reason,) = world.cluster.why_not_ready()
        assert reason.startswith("namespace inference-broker has more aiaccesspolicies")


def test_the_own_namespace_and_the_shared_ones_are_always_read():
    assert Scope.of("own", ("shared",), ("team1", "own")).lists == ("own", "shared", "team1")
    assert Scope.of("own", ("shared",), ("*",)).lists == (None,)


async def test_a_deny_in_the_brokers_own_namespace_cuts_off_at_once(server, connection):
    put_team(server, "team1")
    async with world_of(connection, "team1") as world:
        await until(lambda: world.answer("team1") == "granted")
        deny = access("cut-off", namespace="inference-broker", subjects=[{"spiffeID": agent("team1")}], action="Deny")
        del deny["spec"]["models"]
        server.put(deny)
        await until(lambda: world.answer("team1") == "forbidden", 1.0)


async def test_an_object_that_is_wrong_is_there_with_its_faults(server, connection):
    server.put(access("wrong", surprise="!"))
    async with world_of(connection, "team1") as world:
        await until(lambda: world.resources.access)
    [found] = world.resources.access
    assert [fault.path for fault in found.about.faults] == ["spec.surprise"]
    assert found.about.version.endswith("/1")


async def test_a_burst_of_changes_is_one_change(server, connection):
    async with world_of(connection, "team1") as world:
        await until(lambda: world.ready and len(server.watches) == 6)
        await asyncio.sleep(0.1)
        before = world.builds
        for number in range(100):
            server.put(access(f"p{number}"))
        await until(lambda: len(world.resources.access) == 100)
        assert world.builds - before < 20


async def test_status_and_metadata_alone_build_nothing(server, connection):
    put_team(server, "team1")
    async with world_of(connection, "team1") as world:
        await until(lambda: world.answer("team1") == "granted" and len(server.watches) == 6)
        await asyncio.sleep(0.1)
        before = world.builds
        for number in range(5):
            server.put({**access("agents"), "status": {"conditions": [{"n": number}]}}, labels={"n": str(number)})
        server.put(access("last"))
        await until(lambda: len(world.resources.access) == 2)
        assert world.builds - before == 1


async def test_when_the_server_goes_what_was_read_stays_in_force_and_is_said_to_be_old(server, connection):
    put_team(server, "team1")
    async with world_of(connection, "team1") as world:
        await until(lambda: world.answer("team1") == "granted")
        await server.down()
        await until(lambda: len(world.cluster.remarks()) == 6)
        assert world.answer("team1") == "granted"
        assert world.ready
        assert all("nothing is heard of" in remark for remark in world.cluster.remarks())
        server.forget_history()
        server.delete("AIAccessPolicy", "team1", "agents")
        await server.up()
        await until(lambda: world.answer("team1") == "forbidden" and not world.cluster.remarks())


async def test_what_is_too_old_is_not_served_until_the_server_is_back(server, connection, monkeypatch):
    monkeypatch.setattr("broker.kube.source.LOOK_S", 0.02)
    put_team(server, "team1")
    async with world_of(connection, "team1", max_stale_s=0.5) as world:
        await until(lambda: world.answer("team1") == "granted")
        await server.down()
        await until(lambda: world.answer("team1") == "unavailable")
        assert all("--max-staleness" in reason for reason in world.cluster.why_not_ready())
        await server.up()
        await until(lambda: world.answer("team1") == "granted" and world.ready)


async def test_a_namespace_that_is_too_old_takes_no_other_with_it(server, connection, monkeypatch):
    monkeypatch.setattr("broker.kube.source.LOOK_S", 0.02)
    put_team(server, "team1", "team2")
    async with world_of(connection, "team1", "team2", max_stale_s=0.5) as world:
        await until(lambda: world.answer("team1") == world.answer("team2") == "granted")
        server.refuse = lambda path, query: (503, {}) if "team2" in path else None
        for watch in server.watches:
            if watch.namespace == "team2":
                watch.transport.abort()

        def at_rest() -> bool:
            server.bookmark()  # all others are heard of
            return world.answer("team2") == "unavailable"

        await until(at_rest)
        assert world.answer("team1") == "granted"
        assert world.ready


async def test_how_old_it_is_is_told_by_kind_and_namespace(server, connection):
    async with world_of(connection, "team1") as world:
        await until(lambda: world.ready)
        ages = world.cluster.stale_s()
        assert set(ages) == {
            (kind, name) for kind in ("AIAccessPolicy", "AIRoutingPolicy", "AIProvider") for name in ("inference-broker", "team1")
        }
        await server.down()
        await until(lambda: min(world.cluster.stale_s().values()) > 0.3)


async def test_a_change_while_one_is_taken_in_is_not_lost(server, connection):
    cluster = Cluster(connection, Scope.of("inference-broker", (), ("team1",)), pace=BRISK)
    found: list[Resources] = []
    async for resources in cluster.changes():
        found.append(resources)
        if len(resources.access) < 5:
            server.put(access(f"p{len(resources.access)}"))
        else:
            break
    assert len(found[-1].access) == 5


async def test_who_makes_us_work_long_leaves_us_four_times_as_long_to_serve(server, connection):
    took_s, ended_s, waited_s = 0.2, None, []
    cluster = Cluster(connection, Scope.of("inference-broker", (), ("team1",)), pace=BRISK)
    async for resources in cluster.changes():
        if ended_s is not None:
            waited_s.append(time.monotonic() - ended_s)
        if len(resources.access) == 3:
            break
        server.put(access(f"p{len(resources.access)}"))
        await asyncio.sleep(took_s)
        ended_s = time.monotonic()
    assert min(waited_s) >= source.WORK_SHARE * took_s


async def test_who_stops_asking_leaves_nothing_behind(server, connection):
    before = asyncio.all_tasks()
    changes = Cluster(connection, Scope.of("inference-broker", (), ("team1",)), pace=BRISK).changes()
    await anext(changes)
    await changes.aclose()
    assert {task for task in asyncio.all_tasks() - before if "Reflector" in repr(task)} == set()


async def test_a_defect_in_a_watch_is_not_silence(server, connection, monkeypatch):
    def broken(*_: object) -> None:
        raise LookupError("a defect")

    monkeypatch.setattr("broker.kube.watching.read_page", broken)
    with pytest.raises(LookupError):
        await anext(Cluster(connection, Scope.of("inference-broker", (), ()), pace=BRISK).changes())


def test_what_counts_of_an_object_is_what_its_owner_wrote():
    raw = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "s",
            "namespace": "team1",
            "uid": "u",
            "resourceVersion": "7",
            "managedFields": [],
            "labels": {"a": "b"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "the key itself", "aiaccess.dev/hosts": "api.openai.com"},
        },
        "data": {"api-key": "eA=="},
        "unknown": 1,
        "status": {"x": 1},
    }
    assert essence(raw) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "team1", "uid": "u", "annotations": {"aiaccess.dev/hosts": "api.openai.com"}},
        "data": {"api-key": "eA=="},
        "unknown": 1,
    }
