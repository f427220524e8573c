"""One controller of several leads: a Lease of coordination.k8s.io, held as client-go holds it.

Who leads says so every 2 seconds, stops leading 10 seconds after it last could, and is followed by another 15 seconds after that
other saw its last word. Both measure by their own monotonic clock: no clock of another machine is believed. A leader that is
stopped says so, and is followed at once.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from broker.kube.connection import Away, Refused
from broker.kube.writing import CONFLICT, micro_time
from broker.objects.reading import as_mapping

LEASE_S: Final = 15  # as long nobody else takes a lease over
RENEW_DEADLINE_S: Final = 10.0  # as long one leads without having renewed it
RETRY_S: Final = 2.0
RELEASE_DEADLINE_S: Final = 2.0
_JITTER: Final = 0.2

log = logging.getLogger(__name__)

Lease = Mapping[str, Any]
Lead = Callable[[], Coroutine[Any, Any, None]]


class Leases(Protocol):
    """Where the one Lease is. Each method has a deadline of its own and raises Away; Refused where the server says no."""

    async def read(self) -> Lease | None: ...

    async def create(self, spec: Mapping[str, object]) -> Lease:
        """Refused with status 409 when somebody else was first."""
        ...

    async def replace(self, lease: Lease, spec: Mapping[str, object]) -> Lease:
        """Refused with status 409 when it is not what it was when it was read."""
        ...


class Leadership:
    """The lease of one group of controllers, as one of them sees it.

    Args:
        leases: the Lease.
        holder: who we are; no two processes are called the same.
        now_s: a monotonic clock.
        wall_s: Unix time, which people read and nobody decides by.
        random: from 0 to 1, so that several do not ask in step.
    """

    def __init__(
        self, leases: Leases, holder: str, now_s: Callable[[], float], wall_s: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self._leases = leases
        self._holder = holder
        self._now_s = now_s
        self._wall_s = wall_s
        self._random = random
        self._mine: Lease | None = None
        self._seen: tuple[object, ...] = ()
        self._seen_s = 0.0
        self._renewed_s = 0.0
        self._away = ""
        self.leads = False

    def why_not_ready(self) -> list[str]:
        """One that waits for its turn is ready."""
        return [f"the lease cannot be asked for: {self._away}"] if self._away else []

    async def follow(self, lead: Lead) -> None:
        """For ever: wait for the lease, and run `lead` for as long as it is ours. When this is cancelled the lease is given back."""
        try:
            while True:
                while not await self._try():  # noqa: ASYNC110  what is waited for happens elsewhere
                    await asyncio.sleep(RETRY_S * (1 + _JITTER * self._random()))
                await self._lead(lead)
        finally:
            await self._release()

    async def _lead(self, lead: Lead) -> None:
        log.info("leading", extra={"holder": self._holder})
        self.leads = True
        leading = asyncio.get_running_loop().create_task(lead())
        try:
            while True:
                done, _ = await asyncio.wait((leading,), timeout=min(RETRY_S, self._left_s()))
                if done:
                    leading.result()
                    return
                if not await self._renewed() and (self._mine is None or self._left_s() <= 0):
                    log.warning("leadership_lost", extra={"holder": self._holder})
                    return
        finally:
            self.leads = False
            leading.cancel()
            await asyncio.wait((leading,))

    def _left_s(self) -> float:
        """How long we may lead without another word of ours."""
        return max(0.0, RENEW_DEADLINE_S - (self._now_s() - self._renewed_s))

    async def _renewed(self) -> bool:
        """Whether the lease was renewed before the rest of our time is over."""
        try:
            async with asyncio.timeout(self._left_s()):
                return await self._try()
        except TimeoutError:
            return False

    async def _try(self) -> bool:
        """Take the lease, or keep it. False = it is another's, or nobody can know."""
        began_s = self._now_s()
        try:
            self._mine = await self._take()
        except Away as away:
            self._say(str(away))
            return False
        except Refused as no:
            if no.status != CONFLICT:
                self._say(str(no))
                return False
            self._mine = None
        else:
            self._away = ""
            self._renewed_s = began_s
        return self._mine is not None

    async def _take(self) -> Lease | None:
        found = await self._leases.read()
        if found is None:
            return await self._leases.create(self._spec({}))
        spec = as_mapping(found.get("spec")) or {}
        said = tuple(spec.get(name) for name in ("holderIdentity", "renewTime", "acquireTime", "leaseTransitions"))
        if said != self._seen:
            self._seen, self._seen_s = said, self._now_s()
        holder, lasts_s = spec.get("holderIdentity"), spec.get("leaseDurationSeconds")
        ends_s = self._seen_s + (lasts_s if isinstance(lasts_s, int) else LEASE_S)
        if holder and holder != self._holder and self._now_s() < ends_s:
            return None
        return await self._leases.replace(found, self._spec(spec))

    def _spec(self, before: Mapping[str, object]) -> dict[str, object]:
        now = micro_time(self._wall_s())
        ours = before.get("holderIdentity") == self._holder
        turns = before.get("leaseTransitions")
        return {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": LEASE_S,
            "acquireTime": before.get("acquireTime") or now if ours else now,
            "renewTime": now,
            "leaseTransitions": (turns if isinstance(turns, int) else 0) + (0 if ours or not before else 1),
        }

    async def _release(self) -> None:
        mine, self._mine = self._mine, None
        if mine is None:
            return
        now = micro_time(self._wall_s())
        spec = {**(as_mapping(mine.get("spec")) or {}), "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now}
        with suppress(Away, Refused, TimeoutError):
            async with asyncio.timeout(RELEASE_DEADLINE_S):
                await self._leases.replace(mine, spec)
                log.info("leadership_given_back", extra={"holder": self._holder})

    def _say(self, problem: str) -> None:
        """Each trouble once, until it is over or another."""
        if problem != self._away:
            log.warning("lease_not_held", extra={"problem": problem})
        self._away = problem
