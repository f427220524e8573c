"""The door's side of HTTP/1.1: connections in, whole requests to a handler, answers out; every stage with a bound and a deadline.

A handler gets a request whose body is complete, and runs as a task that its connection owns: when the peer goes away before
the answer is complete, the task is cancelled at once. Nothing that was not asked for survives: a pipelined request is never
begun, and after any refusal the connection ends.
"""

import asyncio
import asyncio.sslproto
import contextlib
import logging
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final

from broker.errors import BrokerError, Busy, Internal
from broker.http1 import rules
from broker.http1.inbound import STOPPING, Connection
from broker.http1.limits import Limits
from broker.http1.listener import Listener
from broker.http1.reply import Reply, Request

__all__ = ("Handler", "Judge", "Limits", "Refuse", "Reply", "Request", "Server", "shrink_tls_buffers")

log = logging.getLogger(__name__)

READ_BYTES: Final = 64 << 10
# asyncio gives every TLS connection a read buffer of 256 KB, 14 MB for 64 of them; a TLS record has 16 KB at most
TLS_READ_BYTES: Final = 32 << 10
SETTLE_S: Final = 5.0  # for handlers to tidy up in after they were cancelled

Handler = Callable[[Request, Reply], Coroutine[Any, Any, None]]
Judge = Callable[[rules.Head], None]
Refuse = Callable[[str, BrokerError], tuple[rules.Headers, bytes]]


class Server:
    """One door: listens, keeps its connections within its limits, and lets them go when it is drained.

    handler: answers one request. One that returns without an answer, or raises, is a defect: logged, and answered as Internal.
    judge: what this door demands of a head beyond well-formed HTTP/1.1; raises a BrokerError.
    refuse: words a refusal for the path asked for ("" when it is not known): headers with the content type, and a body.
    """

    def __init__(self, handler: Handler, limits: Limits, *, judge: Judge, refuse: Refuse) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.judge = judge
        self.leaving = self.draining = False
        # One for all: what was read is used up before the next read. A memoryview, since slices of a bytearray are copies
        self.buffer = memoryview(bytearray(READ_BYTES))
        self._handler = handler
        self._refuse = refuse
        self._connections: set[Connection] = set()
        self._replies: dict[asyncio.Task[None], Reply] = {}
        self._bodies_bytes = 0
        self._listeners: list[Listener] = []
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._tick_s = min(1.0, min(limits.head_s, limits.body_s, limits.keep_alive_s, limits.write_s, limits.linger_s) / 4)

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def handshakes(self) -> int:
        """Connections that are not open yet: under TLS, whose handshake is under way."""
        return sum(listener.opening for listener in self._listeners)

    @property
    def exchanges(self) -> int:
        """Handlers that run: an exchange may outlive its connection by what it has to settle."""
        return len(self._replies)

    async def listen(self, host: str, port: int, ssl: ssl.SSLContext | None = None) -> int:
        """Begin to serve; the port, which is of use where 0 was asked for.

        Raises:
            OSError: the address cannot be bound.
        """
        if ssl is not None:
            shrink_tls_buffers()
        listener = Listener((host, port), lambda: Connection(self), self.limits, ssl)
        self._listeners.append(listener)
        if self._sweep_timer is None:
            self._sweep_timer = self.loop.call_later(self._tick_s, self._sweep)
        return listener.port

    async def leave(self, most_s: float) -> None:
        """Take no more connections, and end each of those that there are with its next answer; until none is left, or so long.

        Comes before `drain` where clients keep connections: one that is closed while a request is on its way loses that request.
        """
        self.leaving = True
        for listener in self._listeners:
            listener.shut()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                for listener in self._listeners:
                    await listener.opened()
                await self._gone()

    async def drain(self, deadline_s: float) -> None:
        """Take no more, let what runs end, cancel what still runs at the deadline. Nothing of the server is left afterwards."""
        self.leaving = self.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self._connections):
            connection.close_idle()
        try:
            if self._replies:
                await asyncio.wait(tuple(self._replies), timeout=deadline_s)
            await self._cancel_rest()
        finally:
            await self._close_rest()

    async def _cancel_rest(self) -> None:
        running = tuple(self._replies)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=SETTLE_S)

    async def _close_rest(self) -> None:
        """Let last bytes go out for as long as we linger, then cut."""
        for connection in tuple(self._connections):
            connection.close_idle()
        try:
            async with asyncio.timeout(self.limits.linger_s):
                await self._gone()
        except TimeoutError:
            for connection in tuple(self._connections):
                connection.abort()
            await self._gone()
        finally:
            if self._sweep_timer is not None:
                self._sweep_timer.cancel()

    async def _gone(self) -> None:
        while self._connections:
            self._empty.clear()
            await self._empty.wait()

    # -- for connections
    def add(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self.draining:  # its handshake was under way
            connection.close_idle()
        elif len(self._connections) > self.limits.connections:
            self._make_room(connection)

    def _make_room(self, newcomer: Connection) -> None:
        """Those who ask for nothing go first, so that hoarding connections keeps nobody out; where all are busy, we are full.

        Connections that are being ended take nobody's place, and are bounded too.
        """
        ending = [c for c in self._connections if c.closing]
        if len(self._connections) - len(ending) > self.limits.connections:
            useless = min((c for c in self._connections if c.useless and c is not newcomer), key=_deadline, default=None)
            if useless is None:
                newcomer.refuse_full()
            else:
                useless.abort()
        if len(ending) > self.limits.handshakes:
            min(ending, key=_deadline).abort()

    def remove(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def hold_body(self, size: int) -> None:
        """Raises Busy when all bodies together are too many bytes. What was counted is given back with the connection's body."""
        self._bodies_bytes += size
        if self._bodies_bytes > self.limits.bodies_bytes:
            raise Busy("This replica holds as many request bodies as it may. Ask again.", retry_after_s=1)

    def release_body(self, size: int) -> None:
        self._bodies_bytes -= size

    def start(self, request: Request, reply: Reply) -> None:
        task = reply.task = self.loop.create_task(self._handler(request, reply))
        self._replies[task] = reply
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        reply = self._replies.pop(task)
        self._bodies_bytes -= reply.held
        error = None if task.cancelled() else task.exception()
        if reply.ended and error is None:
            return
        if error is not None or not task.cancelled():
            # the type alone: an exception's text may quote what it was given
            log.error("handler_failed", extra={"error": type(error).__name__ if error else "returned without an answer"})
        if reply.begun:
            reply.cut()
        elif task.cancelled():  # the peer has gone and reads nothing of this, or we are being stopped
            self.word(reply, Busy(STOPPING, retry_after_s=1))
        else:
            self.word(reply, Internal("This is a defect of ours: report it."))

    def word(self, reply: Reply, error: BrokerError) -> None:
        headers, body = self._refuse(reply.path, error)
        reply.whole(error.status, headers, body)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in [c for c in self._connections if c.deadline < now]:
            connection.expire()
        self._sweep_timer = self.loop.call_later(self._tick_s, self._sweep)


def _deadline(connection: Connection) -> float:
    return connection.deadline


def shrink_tls_buffers() -> None:
    """A private name of asyncio's, so a test sees that it still works. There is no other way to it."""
    asyncio.sslproto.SSLProtocol.max_size = TLS_READ_BYTES
