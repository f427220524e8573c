"""When a status is written: once, soon, never in a storm, and for as long as it takes."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from support.stored_objects import snapshot_of
from support.virtual_time import run
from support.worlds import access, routing

from broker.controller.consumption import Consumption
from broker.controller.scribe import COUNTS_S, FIGHT_S, TOGETHER, WRITE_EVERY_S, Name, News, Scribe, Seen
from broker.kube.connection import Away, Refused

ROUTING = Name("AIRoutingPolicy", "team1", "routing")
ACCESS = Name("AIAccessPolicy", "team1", "access")


@dataclass
class Cluster:
    """Objects with their statuses, as an API server keeps them, and as a watch that may be late shows them."""

    texts: list[str]
    statuses: dict[Name, Seen] = field(default_factory=dict)
    writes: list[tuple[float, Name, Mapping[str, Any]]] = field(default_factory=list)
    trouble: Exception | None = None
    watch_is_late: bool = False
    version: int = 0
    at_once: int = 0
    most_at_once: int = 0
    seconds_each: float = 0.02
    used: dict[str, Consumption] | None = None

    def __post_init__(self) -> None:
        self.apply(*self.texts)

    def apply(self, *texts: str, generation: int = 1) -> None:
        snapshot = snapshot_of(*texts, generation=generation)
        self.told = {Name(s.about.kind, s.about.namespace or "", s.about.name): s for s in snapshot.statuses}
        for name in self.told:
            self.version += 1
            self.statuses[name] = Seen(str(self.version), self.statuses[name].status if name in self.statuses else {})
        self.shown = dict(self.statuses)

    def news(self) -> News:
        return News(self.told, self.used, self.shown)

    def overwrite(self, name: Name, status: dict[str, Any]) -> None:
        self.version += 1
        self.statuses[name] = self.shown[name] = Seen(str(self.version), status)

    async def write_status(self, name: Name, uid: str, status: Mapping[str, Any]) -> Seen:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.seconds_each)
        finally:
            self.at_once -= 1
        if self.trouble is not None:
            raise self.trouble
        self.version += 1
        self.writes.append((asyncio.get_running_loop().time(), name, status))
        self.statuses[name] = Seen(str(self.version), status)
        if not self.watch_is_late:
            self.shown[name] = self.statuses[name]
        return self.statuses[name]


async def kept(cluster: Cluster) -> tuple[Scribe, asyncio.Task[None]]:
    loop = asyncio.get_running_loop()
    scribe = Scribe(cluster, cluster.news, loop.time, loop.time, lambda: 0.5)
    return scribe, loop.create_task(scribe.keep())


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("watch_is_late", [False, True])
def test_each_object_is_told_once_and_then_left_alone(*, watch_is_late: bool):
    async def scenario():
        cluster = Cluster([routing(), access()], watch_is_late=watch_is_late)
        _, task = await kept(cluster)
        await asyncio.sleep(600)
        assert sorted(name for _, name, _ in cluster.writes) == [ACCESS, ROUTING]
        await stop(task)

    run(scenario())


def test_a_change_is_told_within_a_second():
    async def scenario():
        cluster = Cluster([routing(), access()])
        scribe, task = await kept(cluster)
        await asyncio.sleep(100)
        began_s = asyncio.get_running_loop().time()
        cluster.apply(routing(models=["other"]), access(), generation=2)
        scribe.wake()
        await asyncio.sleep(10)
        told = {name: at - began_s for at, name, status in cluster.writes[2:] if status["observedGeneration"] == 2}
        assert set(told) == {ROUTING, ACCESS}
        assert max(told.values()) < 1
        await stop(task)

    run(scenario())


def test_figures_are_written_every_half_minute_at_most():
    async def scenario():
        cluster = Cluster([access()], used={})
        scribe, task = await kept(cluster)
        for second in range(300):
            cluster.used = {"team1/access": Consumption(1, second, 0, second, 0, None, ())}
            scribe.wake()
            await asyncio.sleep(1)
        times = [at for at, _, _ in cluster.writes]
        assert len(times) == pytest.approx(300 / COUNTS_S, abs=1)
        assert min(b - a for a, b in pairwise(times)) >= COUNTS_S
        await stop(task)

    run(scenario())


def test_a_namespace_that_changes_all_the_time_keeps_no_other_from_being_told():
    async def scenario():
        noisy = [access(f"p{number}", "aa-noisy") for number in range(100)]
        cluster = Cluster([*noisy, access()])
        scribe, task = await kept(cluster)
        await asyncio.sleep(60)
        for generation in range(2, 32):  # more of them each second than can be told in one
            cluster.apply(*noisy, access(), generation=generation)
            cluster.writes.clear()
            scribe.wake()
            await asyncio.sleep(3)
            assert ACCESS in [name for _, name, _ in cluster.writes]
        await stop(task)

    run(scenario())


def test_five_hundred_policies_are_told_without_a_storm():
    async def scenario():
        cluster = Cluster([routing(), *(access(f"p{number}") for number in range(500))], seconds_each=0.1)
        _, task = await kept(cluster)
        await asyncio.sleep(60)
        assert len(cluster.writes) == 501
        assert cluster.most_at_once <= TOGETHER
        times = [at for at, _, _ in cluster.writes]
        assert max(sum(at <= other < at + 1 for other in times) for at in times) <= 1 / WRITE_EVERY_S + 1
        assert times[-1] - times[0] < 60
        await stop(task)

    run(scenario())


def test_conditions_go_before_figures():
    async def scenario():
        cluster = Cluster([routing(), *(access(f"p{number}") for number in range(100))], used={})
        scribe, task = await kept(cluster)
        await asyncio.sleep(60)
        told = len(cluster.writes)
        cluster.used = {f"team1/p{number}": Consumption(1, 1, 0, 1, 0, None, ()) for number in range(100)}
        cluster.told[ROUTING] = replace(cluster.told[ROUTING], conditions=cluster.told[ROUTING].conditions[:1])
        scribe.wake()
        await asyncio.sleep(60)
        assert cluster.writes[told][1] == ROUTING
        assert len(cluster.writes) == told + 101
        await stop(task)

    run(scenario())


@pytest.mark.parametrize("trouble", [Away("no answer"), Refused(503, "starting"), Refused(429, "slow down", 20.0)])
def test_an_api_server_that_is_away_is_asked_ever_less_often_and_told_everything_when_it_is_back(trouble: Exception, caplog):
    async def scenario():
        cluster = Cluster([routing(), access()], trouble=trouble)
        asked = 0
        write = cluster.write_status

        async def counted(*args: Any) -> Seen:
            nonlocal asked
            asked += 1
            return await write(*args)

        cluster.write_status = counted
        _, task = await kept(cluster)
        await asyncio.sleep(600)
        assert 10 < asked < 100
        cluster.trouble = None
        await asyncio.sleep(60)
        assert sorted(name for _, name, _ in cluster.writes) == [ACCESS, ROUTING]
        await stop(task)

    run(scenario())
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["status_not_written"]


def test_a_server_that_asks_for_time_gets_it():
    async def scenario():
        cluster = Cluster([access()], trouble=Refused(429, "slow down", 25.0))
        _, task = await kept(cluster)
        await asyncio.sleep(1)
        cluster.trouble = None
        await asyncio.sleep(20)
        assert cluster.writes == []
        await asyncio.sleep(10)
        assert len(cluster.writes) == 1
        await stop(task)

    run(scenario())


def test_an_object_whose_status_is_refused_keeps_nobody_else_waiting_and_is_said_once(caplog):
    async def scenario():
        cluster = Cluster([routing(), access()])
        write, asked = cluster.write_status, 0

        async def refusing(name: Name, uid: str, status: Mapping[str, Any]) -> Seen:
            nonlocal asked
            if name == ACCESS:
                asked += 1
                raise Refused(422, "status.conditions[0].reason: Invalid value")
            return await write(name, uid, status)

        cluster.write_status = refusing
        scribe, task = await kept(cluster)
        await asyncio.sleep(3600)
        assert [name for _, name, _ in cluster.writes] == [ROUTING]
        assert 10 < asked < 30
        assert scribe.failures == asked
        await stop(task)

    run(scenario())
    assert [record.message for record in caplog.records] == ["status_refused"]


@pytest.mark.parametrize("status", [404, 409, 410])
def test_an_object_that_is_gone_or_another_is_no_error(status: int, caplog):
    async def scenario():
        cluster = Cluster([access()], trouble=Refused(status, "no such object"))
        scribe, task = await kept(cluster)
        await asyncio.sleep(1)
        cluster.told = {}
        await asyncio.sleep(60)
        assert (scribe.failures, scribe.writes) == (0, 0)
        await stop(task)

    run(scenario())
    assert caplog.records == []


def test_an_object_that_was_made_anew_is_told_at_once():
    async def scenario():
        cluster = Cluster([access()], trouble=Refused(409, "another uid"))
        scribe, task = await kept(cluster)
        await asyncio.sleep(1)
        told = cluster.told[ACCESS]
        cluster.told = {ACCESS: replace(told, about=replace(told.about, version="uid-new/1"))}
        cluster.trouble = None
        scribe.wake()
        await asyncio.sleep(1)
        assert len(cluster.writes) == 1
        await stop(task)

    run(scenario())


def test_what_somebody_else_overwrites_is_said_again_but_not_in_a_race():
    async def scenario():
        cluster = Cluster([routing()])
        scribe, task = await kept(cluster)
        for _ in range(300):
            await asyncio.sleep(1)
            cluster.overwrite(
                ROUTING, {"conditions": [{"type": "Accepted", "status": "False", "lastTransitionTime": "2026-11-17T12:00:00Z"}]}
            )
            scribe.wake()
        assert 5 <= len(cluster.writes) <= 300 / FIGHT_S + 2
        await stop(task)

    run(scenario())


def test_a_condition_that_another_keeps_for_us_is_taken_away_once_and_not_for_ever():
    async def scenario():
        cluster = Cluster([routing()])
        theirs = {"type": "GatewayBound", "status": "True", "lastTransitionTime": "2026-11-17T12:00:00Z"}
        write = cluster.write_status

        async def beside(name: Name, uid: str, status: Mapping[str, Any]) -> Seen:
            await write(name, uid, status)
            cluster.overwrite(name, {**status, "conditions": [*status["conditions"], theirs]})
            return cluster.statuses[name]

        cluster.write_status = beside
        _, task = await kept(cluster)
        await asyncio.sleep(600)
        assert len(cluster.writes) <= 2
        await stop(task)

    run(scenario())


def test_an_object_that_the_watch_does_not_show_any_more_is_not_written():
    async def scenario():
        cluster = Cluster([access()])
        cluster.shown = {}
        _, task = await kept(cluster)
        await asyncio.sleep(60)
        assert cluster.writes == []
        await stop(task)

    run(scenario())
