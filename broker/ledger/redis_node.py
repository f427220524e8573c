"""One Redis server as the ledger sees it: fit and connected, or away. While it is away every question is refused at once."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

from hiredis import ProtocolError, ReplyError

from broker.errors import Unavailable
from broker.ledger.database import CannotOpen
from broker.ledger.redis_scripts import Scripts
from broker.ledger.redis_target import Address, Target
from broker.ledger.redis_wire import Reply, Wire, pack

log = logging.getLogger(__name__)

CONNECT_S: Final = 1.0  # TCP, TLS and the first questions; nobody waits for it but the start
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.5  # within redis_scripts.QUIET_S every broker is back
OLDEST: Final = (7, 0)
INFO: Final = pack((b"INFO", b"server", b"memory", b"replication", b"cluster"))
_STARTING: Final = ("LOADING", "CLUSTERDOWN", "MASTERDOWN")
_NOT_NOW: Final = (*_STARTING, "READONLY", "NOAUTH")  # a new connection finds out more


class Facts(NamedTuple):
    """What a server says of itself. `run_id` is of this one run of this one process."""

    run_id: bytes
    is_cluster: bool


class Node:
    """A circuit breaker: after a failure one probe at a time tries again, with pauses, until the server is there and fit.

    Args:
        on_up: what to do first on a new connection that came of a probe.
        on_down: called with each probe that fails, so that a cluster may have moved on.
    """

    def __init__(
        self,
        address: Address,
        target: Target,
        scripts: Scripts,
        deadline_s: float,
        on_up: Callable[["Node"], Awaitable[None]],
        on_down: Callable[[], Awaitable[None]],
    ) -> None:
        self.address = address
        self.wire: Wire | None = None
        self.facts: Facts
        self._target = target
        self._scripts = scripts
        self._deadline_s = deadline_s
        self._on_up = on_up
        self._on_down = on_down
        self._probing: asyncio.Task[None] | None = None
        self._refusals: set[str] = set()  # said since it was last up
        self._is_failing = False
        self._is_closed = False

    async def open(self) -> None:
        """Try once to connect; when the server is away, go on trying.

        Raises:
            CannotOpen: it is there, but cannot serve.
        """
        if self.wire is not None:
            return
        try:
            await self._connect()
        except CannotOpen:
            raise
        except ssl.SSLError as problem:
            raise CannotOpen(
                f"The quota store {self._target} does not prove who it is: {problem}. Check its certificate and ca-file."
            ) from None
        except OSError as problem:
            self._fail(problem)

    @property
    def is_retired(self) -> bool:
        """Nothing of it is left to wait for."""
        return self._is_closed and (self._probing is None or self._probing.done())

    def seek(self) -> None:
        """Connect, without waiting for it, unless that is done or under way."""
        self._is_closed = False
        if self.wire is None and (self._probing is None or self._probing.done()):
            self._probing = asyncio.get_running_loop().create_task(self._probe())

    def retire(self) -> None:
        """Nobody will ask it any more, unless it is sought again."""
        self._is_closed = True
        if self.wire is not None:
            self.wire.give_up(ConnectionError("not needed any more"))

    async def ask(self, *parts: bytes | str | int) -> Reply:
        """Ask one question.

        Raises:
            Unavailable: no answer, at all or in time.
        """
        wire = self.wire
        if wire is None:
            raise away()
        try:
            return await wire.ask(pack(parts))
        except (OSError, ProtocolError):
            raise away() from None

    def refuse(self, said: str) -> Unavailable:
        """What an error that Redis answers means for who asked: no. One that is the server's own state ends the connection."""
        if said.startswith(_NOT_NOW) and self.wire is not None:
            self.wire.give_up(ConnectionError(said))
        elif (kind := said.split(" ", 1)[0]) not in self._refusals:
            self._refusals.add(kind)
            log.error("quota_store_refused", extra={"node": str(self.address), "answer": said})
        return away()

    async def inspect(self) -> None:
        """Give the connection up if the server is not fit any more, since somebody may change it while it runs."""
        wire = self.wire
        if wire is None:
            return
        with suppress(OSError, ProtocolError):
            info = await wire.ask(INFO)
            try:
                self._judge(info)
            except CannotOpen as unfit:
                wire.give_up(unfit)

    async def close(self) -> None:
        self._is_closed = True
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        if self.wire is not None:
            await self.wire.drain()

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                wire = await self._dial()
                try:
                    await self._greet(wire)
                except BaseException:
                    wire.give_up(ConnectionError("not used"))
                    raise
        except TimeoutError:
            raise ConnectionError(f"no connection within {CONNECT_S} s") from None
        except ProtocolError as problem:
            raise ConnectionError(str(problem)) from None
        if self.wire is not None or self._is_closed:
            wire.give_up(ConnectionError("not needed any more"))
            return
        self.wire = wire
        self._refusals.clear()

    async def _dial(self) -> Wire:
        loop = asyncio.get_running_loop()
        context, address = self._target.tls_context(), self.address

        def build() -> Wire:
            return Wire(self._deadline_s, self._lost)

        if not address.port:
            return (await loop.create_unix_connection(build, address.host))[1]
        return (await loop.create_connection(build, address.host, address.port, ssl=context))[1]

    async def _greet(self, wire: Wire) -> None:
        """Say who we are, and see whether the server can serve.

        Raises:
            CannotOpen, OSError, ProtocolError.
        """
        target, questions = self._target, list[asyncio.Future[Reply]]()
        password = target.read_password()
        if password:
            questions.append(wire.ask(pack((b"AUTH", target.user or "default", password))))
        if target.database:
            questions.append(wire.ask(pack((b"SELECT", target.database))))
        info = wire.ask(INFO)
        questions += [info, *(wire.ask(pack((b"SCRIPT", b"LOAD", script.text))) for script in self._scripts.all())]
        for reply in await asyncio.gather(*questions):
            if isinstance(reply, ReplyError):
                raise self._turned_away(str(reply))
        self.facts = self._judge(info.result())

    def _turned_away(self, said: str) -> OSError:
        if said.startswith(_STARTING):
            return ConnectionError(said)
        return CannotOpen(f"The quota store {self._target} does not let us in: {said}. Check the user, its password and its rights.")

    def _judge(self, reply: Reply) -> Facts:
        """Raises CannotOpen when this server must not keep quotas."""
        text = reply.decode(errors="replace") if isinstance(reply, bytes) else ""
        info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        where = f"The quota store {self._target} ({self.address})"
        version = info.get("redis_version", "")
        if tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2]) < OLDEST:
            raise CannotOpen(f"{where} is Redis {version or 'of no known version'}: use 7.0 or newer.")
        policy = info.get("maxmemory_policy", "unknown")
        if policy != "noeviction":
            raise CannotOpen(
                f"{where} may forget counts to save memory: set its maxmemory-policy to noeviction (it is {policy}), or use another Redis."
            )
        is_cluster = info.get("cluster_enabled") == "1"
        if info.get("role") != "master" and not is_cluster:  # a cluster's nodes say who is the primary
            raise CannotOpen(f"{where} is a replica: name the primary.")
        return Facts(info.get("run_id", "").encode(), is_cluster)

    def _lost(self, wire: Wire, problem: Exception) -> None:
        if wire is self.wire:
            self.wire = None
            self._fail(problem)

    def _fail(self, problem: Exception) -> None:
        if not self._is_closed:
            self._report(problem)
            self.seek()

    def _report(self, problem: Exception | None) -> None:
        """Once when the server begins to fail, once when it is back: a line for each request would be a second outage."""
        node = str(self.address)
        if problem is not None and not self._is_failing:
            log.error("quota_store_failed", extra={"node": node, "reason": f"{type(problem).__name__}: {problem}"})
        elif problem is None and self._is_failing:
            log.warning("quota_store_back", extra={"node": node})
        self._is_failing = problem is not None

    async def _probe(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self.wire is None and not self._is_closed:
            await asyncio.sleep(pause_s)
            try:
                await self._connect()
            except OSError as problem:
                self._report(problem)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                await self._on_down()
            else:
                pause_s = FIRST_PAUSE_S
                self._report(None)
                await self._on_up(self)


def away() -> Unavailable:
    return Unavailable("The quota store does not answer: try again.", retry_after_s=1.0)
