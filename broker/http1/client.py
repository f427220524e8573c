"""The way out: pooled HTTP/1.1 connections to one origin. Where that is, and how it is proven, is the business of `dial`.

One request, one write; one read, one piece. Every stage has a deadline, and a connection that saw anything unusual is never
used again. Cancelling whoever waits here ends the connection at once: the other side must stop working, and billing.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

from broker.http1.answer import Answer, ExchangeFailed, Lost, Malformed, NotSent, TooBig, TooLate
from broker.http1.limits import USUAL, ClientLimits
from broker.http1.outbound import Connection
from broker.http1.server import READ_BYTES, shrink_tls_buffers

__all__ = ("Answer", "ClientLimits", "Dial", "ExchangeFailed", "Fit", "Lost", "Malformed", "NotSent", "Pool", "TooBig", "TooLate")

Fit = Callable[[ssl.SSLObject | None], bool]
Dial = Callable[[Callable[[], asyncio.BufferedProtocol]], Awaitable[object]]


class Pool:
    """Connections to one origin.

    dial: opens one connection for the protocol that the factory makes, its TLS handshake included.
    fit: asked before a connection is used again whether its other end is still believed; None = once was enough.
    opened, reused: connections made, and requests that needed none.
    """

    def __init__(self, dial: Dial, limits: ClientLimits = USUAL, *, fit: Fit | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.generation = 0
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.opened = 0
        self.reused = 0
        self._dial = dial
        self._fit = fit
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._closed = False
        shrink_tls_buffers()

    async def send(
        self, head: bytes, body: bytes | Sequence[bytes | memoryview], *, connect_s: float, first_byte_s: float, idle_s: float
    ) -> Answer:
        """Send one request; return when the answer's head is here. `head` ends with its empty line and says the body's length.

        body: whole, or in pieces.
        first_byte_s: from now to the head of the answer, the sending included.
        idle_s: between two bytes after that; not while the caller leaves bytes unread.

        Raises:
            NotSent: the origin was not reached.
            Lost, TooLate, Malformed, TooBig: it may have acted on the request.
        """
        connection = self._take()
        if connection is None:
            connection = await self._open(connect_s)
        else:
            self.reused += 1
        answer = connection.ask(first_byte_s, idle_s)
        try:
            await connection.say(head, body)
            await answer.begun()
        except BaseException:
            answer.close()  # not the connection: complete in the meantime, it may be serving somebody else
            raise
        return answer

    @property
    def busy(self) -> bool:
        """An exchange is under way."""
        return len(self._connections) > len(self._idle)

    def retire(self) -> None:
        """Connections made so far are not used again; those that are busy go when their exchange ends."""
        self.generation += 1
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.let_go()

    async def close(self) -> None:
        """End all connections at once."""
        self._closed = True
        for connection in tuple(self._connections):
            connection.fail(Lost(first=False, begun=True))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while self._connections:
                    self._empty.clear()
                    await self._empty.wait()

    async def _open(self, connect_s: float) -> Connection:
        made: list[Connection] = []

        def make() -> Connection:
            made.append(Connection(self))
            return made[-1]

        if self._closed:
            raise NotSent("connect", "this pool is closed")
        try:
            async with asyncio.timeout(connect_s):
                await self._dial(make)
        except BaseException as error:
            for connection in self._connections.intersection(made):  # made, but not in time for whoever asked
                connection.abort()
            if not isinstance(error, OSError):
                raise
            raise _not_sent(error) from error
        if made[-1].lost:  # between its handshake and now
            raise NotSent("connect", "the connection ended at once")
        self.opened += 1
        return made[-1]

    def _take(self) -> Connection | None:
        """The youngest idle one, so that the others can age out."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and (self._fit is None or self._fit(connection.tls)):
                return connection
            connection.let_go()
        return None

    # -- for connections
    def add(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._sweep_timer is None:
            self._sweep_timer = self.loop.call_later(self.limits.sweep_s, self._sweep)

    def remove(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.forget(connection)
        if not self._connections:
            self._empty.set()
            if self._sweep_timer is not None:
                self._sweep_timer.cancel()
                self._sweep_timer = None

    def forget(self, connection: Connection) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def give_back(self, connection: Connection, *, usable: bool) -> None:
        fits = len(self._idle) < self.limits.idle_connections
        if usable and fits and connection.generation == self.generation and not self._closed:
            connection.deadline = self.loop.time() + self.limits.pool_idle_s
            self._idle.append(connection)
        else:
            connection.let_go()

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in [c for c in self._connections if c.deadline < now]:
            connection.expire()
        self._sweep_timer = self.loop.call_later(self.limits.sweep_s, self._sweep) if self._connections else None


def _not_sent(error: OSError) -> NotSent:
    if isinstance(error, TimeoutError):
        return NotSent("timeout", "the connection was not there in time")
    if isinstance(error, socket.gaierror):
        return NotSent("name", "the name cannot be resolved")
    if isinstance(error, ssl.SSLError):
        why = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
        return NotSent("tls", f"the TLS handshake failed: {why or 'it was cut off'}")
    return NotSent("connect", f"the connection failed: {error.strerror or type(error).__name__}")
