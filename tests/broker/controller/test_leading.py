"""One controller leads: who, for how long, and who next."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from support.virtual_time import run

from broker.controller.leading import LEASE_S, RENEW_DEADLINE_S, RETRY_S, Leadership
from broker.kube.connection import Away, Refused


class Server:
    """One Lease, as the API server keeps it; `away` for whom it does not answer."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.away: set[str] = set()
        self.silent: set[str] = set()
        self.writes = 0

    def of(self, holder: str) -> "Client":
        return Client(self, holder)

    @property
    def holder(self) -> str:
        return self.lease["spec"]["holderIdentity"] if self.lease else ""

    def keep(self, spec: Mapping[str, object]) -> dict[str, Any]:
        self.version += 1
        self.writes += 1
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(spec)}
        return self.lease


class Client:
    def __init__(self, server: Server, holder: str) -> None:
        self.server, self.holder = server, holder

    async def read(self):
        await self._reach()
        return self.server.lease

    async def create(self, spec):
        await self._reach()
        if self.server.lease is not None:
            raise Refused(409, "already exists")
        return self.server.keep(spec)

    async def replace(self, lease, spec):
        await self._reach()
        if lease != self.server.lease:
            raise Refused(409, "the object has been modified")
        return self.server.keep(spec)

    async def _reach(self) -> None:
        if self.holder in self.server.silent:
            await asyncio.sleep(3600)
        if self.holder in self.server.away:
            raise Away("no answer")
        await asyncio.sleep(0.01)


class Controller:
    """Leads when it may, and writes down when it did."""

    def __init__(self, server: Server, name: str, wall_s: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        self.led: list[tuple[str, float]] = []
        self.leadership = Leadership(server.of(name), name, loop.time, lambda: wall_s + loop.time(), lambda: 0.5)
        self.task = loop.create_task(self.leadership.follow(self._lead))

    async def _lead(self) -> None:
        self.led.append(("from", asyncio.get_running_loop().time()))
        try:
            await asyncio.sleep(float("inf"))
        finally:
            self.led.append(("to", asyncio.get_running_loop().time()))

    async def stop(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


def test_the_first_leads_and_says_so_every_two_seconds():
    async def scenario():
        server = Server()
        one, other = Controller(server, "one"), Controller(server, "other")
        await asyncio.sleep(60)
        assert server.holder == "one"
        assert (one.leadership.leads, other.leadership.leads, other.led) == (True, False, [])
        assert server.writes == pytest.approx(60 / RETRY_S, rel=0.1)
        assert server.lease is not None
        assert server.lease["spec"]["leaseTransitions"] == 0
        await one.stop()
        await other.stop()

    run(scenario())


def test_one_that_is_stopped_gives_the_lease_back_after_its_work_and_is_followed_at_once():
    async def scenario():
        server = Server()
        one = Controller(server, "one")
        await asyncio.sleep(5)
        other = Controller(server, "other")
        await asyncio.sleep(5)
        at = asyncio.get_running_loop().time()
        await one.stop()
        assert (server.holder, one.led[-1][0]) == ("", "to")
        await asyncio.sleep(2 * RETRY_S)
        assert server.holder == "other"
        assert other.led[0][1] - at < 2 * RETRY_S
        assert server.lease is not None
        assert server.lease["spec"]["leaseTransitions"] == 1
        await other.stop()

    run(scenario())


@pytest.mark.parametrize("trouble", ["away", "silent"])
def test_one_that_cannot_renew_stops_leading_before_another_may_begin(trouble: str):
    async def scenario():
        server = Server()
        one = Controller(server, "one")
        await asyncio.sleep(5)
        other = Controller(server, "other")
        await asyncio.sleep(5)
        at = asyncio.get_running_loop().time()
        getattr(server, trouble).add("one")
        await asyncio.sleep(30)
        (ended,) = [when for what, when in one.led if what == "to"]
        (began,) = [when for what, when in other.led if what == "from"]
        assert ended - at <= RENEW_DEADLINE_S
        assert began - at >= LEASE_S - RETRY_S
        assert ended < began
        getattr(server, trouble).clear()
        await asyncio.sleep(30)
        assert (server.holder, one.leadership.leads) == ("other", False)
        await one.stop()
        await other.stop()

    run(scenario())


def test_no_clock_of_another_machine_is_believed():
    """A controller whose clock is an hour off neither takes over too early nor waits for ever."""

    async def scenario():
        server = Server()
        one, late, early = Controller(server, "one"), Controller(server, "late", -3600), Controller(server, "early", 3600)
        await asyncio.sleep(60)
        assert (server.holder, late.led, early.led) == ("one", [], [])
        server.away.add("one")
        await asyncio.sleep(2 * LEASE_S)
        assert server.holder in ("late", "early")
        for each in (one, late, early):
            await each.stop()

    run(scenario())


def test_a_lease_that_was_taken_or_deleted_under_the_leader_is_noticed():
    async def scenario():
        server = Server()
        one = Controller(server, "one")
        await asyncio.sleep(5)
        server.keep({"holderIdentity": "somebody", "leaseDurationSeconds": LEASE_S, "renewTime": "now"})
        await asyncio.sleep(RETRY_S + 1)
        assert not one.leadership.leads
        await asyncio.sleep(LEASE_S + RETRY_S)
        assert one.leadership.leads
        server.lease = None
        await asyncio.sleep(RETRY_S + 1)
        assert (server.holder, one.leadership.leads) == ("one", True)
        await one.stop()

    run(scenario())


def test_a_defect_in_what_the_leader_does_is_not_swallowed():
    async def scenario():
        loop = asyncio.get_running_loop()
        leadership = Leadership(Server().of("one"), "one", loop.time, loop.time, lambda: 0.5)

        async def broken() -> None:
            raise KeyError("defect")

        with pytest.raises(KeyError):
            await leadership.follow(broken)

    run(scenario())


def test_trouble_with_the_lease_is_said_once(caplog: pytest.LogCaptureFixture):
    async def scenario():
        server = Server()
        server.away.add("one")
        one = Controller(server, "one")
        await asyncio.sleep(120)
        await one.stop()

    run(scenario())
    assert [record.message for record in caplog.records] == ["lease_not_held"]
