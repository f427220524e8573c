"""Events: one for the same thing whoever tells it, with the count of all; at their own pace, bounded, and never waited for."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any, Self

import pytest
from support.virtual_time import run

from broker.kube.connection import Away, Refused
from broker.kube.events import NOTE_BYTES, PACE, RESTING, WAITING, WAITING_OF_ONE, Events, Happening, Pace, Regarding, clipped

POLICY = Regarding("aiaccess.dev/v1alpha1", "AIAccessPolicy", "team1", "agents", "uid-1")
AGENT = "spiffe://example.org/ns/team1/sa/agent"
NOON = 1_795_262_400.0


def refusal(about: str = AGENT, **other: Any) -> Happening:
    given = {"regarding": POLICY, "reason": "Forbidden", "about": about, "note": "because", "action": "Refuse"}
    return Happening(**(given | other))


class Cluster:
    """The part of Writing that Events use, with what went wrong on demand."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.requests: list[tuple[float, str, str]] = []
        self.refuse: Callable[[str, str], Exception | None] = lambda what, path: None

    def _enter(self, what: str, path: str) -> None:
        self.requests.append((asyncio.get_running_loop().time(), what, path))
        if (refusal := self.refuse(what, path)) is not None:
            raise refusal

    def _stored(self, path: str, event: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.events[path] = {**event, "metadata": {**event["metadata"], "resourceVersion": str(self.version)}}
        return self.events[path]

    async def create(self, collection: str, fields: Any) -> Any:
        self._enter("create", collection)
        path = f"{collection}/{fields['metadata']['name']}"
        if path in self.events:
            raise Refused(409, "already exists")
        return self._stored(path, fields)

    async def read(self, path: str) -> Any:
        self._enter("read", path)
        return self.events.get(path)

    async def merge(self, path: str, fields: Any) -> Any:
        self._enter("merge", path)
        there = self.events.get(path)
        if there is None:
            raise Refused(404, "not found")
        if there["metadata"]["resourceVersion"] != fields["metadata"]["resourceVersion"]:
            raise Refused(409, "the object has been modified")
        return self._stored(path, {**there, "series": fields["series"]})

    @property
    def counts(self) -> list[int]:
        return [one.get("series", {"count": 1})["count"] for one in self.events.values()]

    def writes(self) -> int:
        return sum(what != "read" for _, what, _ in self.requests)


class Brokers:
    """Some of them at one API server."""

    def __init__(self, number: int = 1, pace: Pace = PACE) -> None:
        self.cluster = Cluster()
        loop = asyncio.get_running_loop()
        self.all = [
            Events(self.cluster, f"broker-{n}", lambda: 1.0, loop.time, lambda: NOON + loop.time() - 1000.0, pace) for n in range(number)
        ]
        self.first = self.all[0]
        self._tasks = [loop.create_task(one.keep()) for one in self.all]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def scenario(made: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], None]:
    def test() -> None:
        run(made())

    test.__name__ = made.__name__
    return test


@scenario
async def test_many_refusals_are_one_event_that_says_how_many():
    async with Brokers() as brokers:
        for _ in range(1000):
            brokers.first.tell(refusal())
        await asyncio.sleep(5)
        (event,) = brokers.cluster.events.values()
        assert brokers.cluster.writes() == 1
        assert event["series"] == {"count": 1000, "lastObservedTime": "2026-11-21T12:00:00.000000Z"}
        assert {
            name: event[name] for name in ("type", "reason", "action", "note", "regarding", "reportingController", "reportingInstance")
        } == {
            "type": "Warning",
            "reason": "Forbidden",
            "action": "Refuse",
            "note": "because",
            "regarding": {
                "apiVersion": "aiaccess.dev/v1alpha1",
                "kind": "AIAccessPolicy",
                "namespace": "team1",
                "name": "agents",
                "uid": "uid-1",
            },
            "reportingController": "aiaccess.dev/broker",
            "reportingInstance": "broker-0",
        }


@scenario
async def test_a_single_refusal_is_an_event_without_a_series():
    async with Brokers() as brokers:
        brokers.first.tell(refusal())
        await asyncio.sleep(5)
        (event,) = brokers.cluster.events.values()
        assert "series" not in event


@scenario
async def test_the_next_count_comes_later_each_time_and_never_later_than_ten_minutes():
    async with Brokers() as brokers:
        for _ in range(3600):
            brokers.first.tell(refusal())
            await asyncio.sleep(1)
        at = [round(when - 1000) for when, _, _ in brokers.cluster.requests]
        between = [b - a for a, b in pairwise(at)]
        assert between[:6] == [10, 20, 40, 80, 160, 320]
        assert set(between[6:]) == {600}
        assert brokers.cluster.counts[0] >= 3000


@scenario
async def test_the_count_of_several_brokers_is_the_sum_of_what_each_saw():
    async with Brokers(number=5) as brokers:
        for number, one in enumerate(brokers.all):
            for _ in range(number + 1):
                one.tell(refusal())
        await asyncio.sleep(60)
        for one in brokers.all:
            one.tell(refusal())
        await asyncio.sleep(600)
        assert brokers.cluster.counts == [1 + 2 + 3 + 4 + 5 + 5]


@pytest.mark.parametrize(
    "other",
    [
        refusal(about="spiffe://example.org/other"),
        refusal(reason="QuotaExhausted"),
        refusal(regarding=POLICY._replace(uid="uid-2")),
        refusal(regarding=POLICY._replace(name="others")),
    ],
    ids=["identity", "reason", "made anew", "policy"],
)
def test_what_is_not_the_same_is_another_event(other: Happening):
    assert other.name != refusal().name


def test_the_note_makes_no_other_event_and_the_name_is_one_that_may_be():
    assert refusal(note="else").name == refusal().name
    long = refusal(regarding=POLICY._replace(name="a" * 199 + ".b"))
    assert len(long.name) <= 253
    assert ".." not in long.name


@scenario
async def test_an_event_that_has_run_out_begins_anew():
    async with Brokers() as brokers:
        brokers.first.tell(refusal())
        await asyncio.sleep(4000)
        brokers.cluster.events.clear()
        brokers.first.tell(refusal())
        await asyncio.sleep(5)
        (event,) = brokers.cluster.events.values()
        assert ("series" in event, event["eventTime"]) == (False, "2026-11-21T13:06:40.000000Z")


@scenario
async def test_what_happens_once_is_written_once_by_whichever_broker_is_first():
    async with Brokers(number=3) as brokers:
        for _ in range(3):
            for one in brokers.all:
                one.tell(refusal(once=True))
            await asyncio.sleep(700)
        assert [("series" in event) for event in brokers.cluster.events.values()] == [False]
        assert [what for _, what, _ in brokers.cluster.requests].count("merge") == 0


@scenario
async def test_what_finds_the_queue_full_is_counted_and_lost():
    async with Brokers() as brokers:
        brokers.cluster.refuse = lambda what, path: Away("no answer")
        for number in range(WAITING + 7):
            brokers.first.tell(refusal(f"spiffe://example.org/{number}", regarding=POLICY._replace(namespace=f"team{number % 9}")))
        brokers.first.tell(refusal("spiffe://example.org/0", regarding=POLICY._replace(namespace="team0")))
        assert brokers.first.dropped == 7


@scenario
async def test_the_many_agents_of_one_namespace_leave_room_for_those_of_others():
    async with Brokers() as brokers:
        for number in range(WAITING):
            brokers.first.tell(refusal(f"spiffe://example.org/{number}"))
        assert brokers.first.dropped == WAITING - WAITING_OF_ONE
        brokers.first.tell(refusal(regarding=POLICY._replace(namespace="team2")))
        assert brokers.first.dropped == WAITING - WAITING_OF_ONE
        await asyncio.sleep(WAITING_OF_ONE)  # they are written, and there is room again
        for number in range(WAITING_OF_ONE):
            brokers.first.tell(refusal(f"spiffe://example.org/again/{number}"))
        assert brokers.first.dropped == WAITING - WAITING_OF_ONE


@scenario
async def test_while_the_api_server_is_away_nothing_is_lost_and_it_is_asked_less_and_less():
    async with Brokers() as brokers:
        brokers.cluster.refuse = lambda what, path: Away("no answer")
        for _ in range(60):
            brokers.first.tell(refusal())
            await asyncio.sleep(5)
        assert 5 < brokers.cluster.writes() < 20
        brokers.cluster.refuse = lambda what, path: None
        await asyncio.sleep(60)
        assert (brokers.cluster.counts, brokers.first.dropped) == ([60], 0)


@scenario
async def test_a_server_that_asks_to_wait_is_left_alone_for_so_long():
    async with Brokers() as brokers:
        brokers.cluster.refuse = lambda what, path: Refused(429, "too many", 20.0) if len(brokers.cluster.requests) == 1 else None
        brokers.first.tell(refusal())
        await asyncio.sleep(60)
        (first, *_), (second, *_) = brokers.cluster.requests
        assert second - first >= 20
        assert brokers.cluster.counts == [1]


@scenario
async def test_a_namespace_where_we_may_not_write_is_asked_again_after_ten_minutes_and_holds_nobody_up():
    elsewhere = refusal(regarding=POLICY._replace(namespace="team2"))
    async with Brokers() as brokers:
        brokers.cluster.refuse = lambda what, path: Refused(403, "forbidden") if "team1" in path else None
        for _ in range(500):
            brokers.first.tell(refusal())
            brokers.first.tell(elsewhere)
            await asyncio.sleep(1)
        assert sum("team1" in path for _, _, path in brokers.cluster.requests) == 1
        assert len(brokers.cluster.events) == 1
        assert brokers.first.dropped > 0


@scenario
async def test_a_broker_that_cannot_win_the_event_tries_again_later():
    async with Brokers() as brokers:
        brokers.cluster.refuse = lambda what, path: (
            Refused(409, "modified") if what != "read" and len(brokers.cluster.requests) < 30 else None
        )
        brokers.first.tell(refusal())
        await asyncio.sleep(300)
        assert brokers.cluster.counts == [1]


@scenario
async def test_many_things_at_once_are_written_at_a_pace():
    async with Brokers() as brokers:
        for number in range(100):
            brokers.first.tell(refusal(f"spiffe://example.org/{number}"))
        await asyncio.sleep(60)
        at = [when for when, *_ in brokers.cluster.requests]
        assert len(brokers.cluster.events) == 100
        assert min(b - a for a, b in pairwise(at)) >= 0.19


@scenario
async def test_what_is_remembered_is_bounded():
    async with Brokers(pace=Pace(write_s=0.0)) as brokers:
        for number in range(3 * RESTING):
            brokers.first.tell(refusal(f"spiffe://example.org/{number}"))
            await asyncio.sleep(2)
        assert brokers.first.written == 3 * RESTING
        assert len(brokers.first._resting) <= RESTING


@pytest.mark.parametrize("text", ["a" * 3000, "ä" * 3000, "short"])
def test_a_note_has_no_more_bytes_than_the_api_server_takes(text: str):
    assert len(clipped(text).encode()) <= NOTE_BYTES
    assert clipped(text).startswith(text[:5])
