"""One connection to an origin: idle in its pool, or serving exactly one exchange."""

import asyncio
import math
import select
import ssl
from collections.abc import Sequence
from typing import Final, Protocol

import httptools

from broker.http1.answer import Answer, ExchangeFailed, Lost, Malformed, TooBig, TooLate
from broker.http1.limits import ClientLimits

JOIN_BYTES: Final = 64 << 10  # a body up to this goes out in one write with its head; a larger one in slices of it
CLOSE_S: Final = 1.0  # for the other side's close_notify
INTERIM_ANSWERS: Final = 8  # 1xx before the answer
_BODILESS: Final = frozenset((204, 304))


class Owner(Protocol):
    """The pool, as its connections see it.

    buffer: what they all read into: what was read is used up before the next read.
    """

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def limits(self) -> ClientLimits: ...
    @property
    def buffer(self) -> memoryview: ...
    @property
    def generation(self) -> int: ...

    def add(self, connection: "Connection") -> None: ...
    def remove(self, connection: "Connection") -> None: ...
    def forget(self, connection: "Connection") -> None: ...
    def give_back(self, connection: "Connection", *, usable: bool) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """Idle in the pool, or serving exactly one exchange. `deadline` is only a number; the pool's sweep looks at it."""

    __slots__ = (
        "_answer", "_barren_bytes", "_begun", "_complete", "_head_bytes", "_heard", "_idle_s", "_interim", "_keep", "_leaving", "_lost",
        "_parser", "_parts", "_paused", "_pool", "_sending", "_transport", "_writable", "deadline", "full", "generation", "served", "tls",
    )  # fmt: skip

    def __init__(self, pool: Owner) -> None:
        self._pool = pool
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: Answer | None = None
        self._parts: list[bytes] = []
        self._paused = self._lost = self._leaving = self._sending = self._begun = self._complete = self._keep = False
        self._head_bytes = self._barren_bytes = self._interim = 0
        self._idle_s = 0.0
        self._heard = select.poll()
        self._writable: asyncio.Future[None] | None = None
        self.tls: ssl.SSLObject | None = None
        self.generation = pool.generation
        self.deadline = math.inf
        self.full = False
        self.served = 0

    # -- from asyncio
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  asyncio's own promise, for the type checkers
        self._transport = transport
        transport.set_write_buffer_limits(self._pool.limits.buffer_bytes)
        self.tls = transport.get_extra_info("ssl_object")
        self._heard.register(transport.get_extra_info("socket"), select.POLLIN)
        self._pool.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._lost = True
        self._pool.remove(self)
        self.fail(Lost(first=self.served == 0, begun=self._begun))
        # asyncio's TLS keeps our bound methods: a circle, which would keep 100 KB until some later garbage collection
        del self._transport
        self.tls = None

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio's signature
        return self._pool.buffer

    def buffer_updated(self, nbytes: int) -> None:
        parser, answer = self._parser, self._answer
        if parser is None or answer is None:
            self._transport.abort()  # bytes that nobody asked for: out of step, never to be used again
            return
        self._begun = True
        try:
            parser.feed_data(self._pool.buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._complete:
                cause = error.__context__  # httptools wraps what a callback raised
                self.fail(cause if isinstance(cause, ExchangeFailed) else Malformed("the answer is not well-formed HTTP/1.1"))
                return
        if not self._parts and not self._complete and self._is_barren(nbytes):
            self.fail(TooBig("the answer has too much around its body"))
            return
        self._hand_over(answer)
        if answer.status:
            answer.wake()

    def _is_barren(self, nbytes: int) -> bool:
        """Head, trailers, chunk extensions: the parser keeps a line until it ends, so a line without end must be counted here."""
        self._barren_bytes += nbytes
        return self._barren_bytes > self._pool.limits.head_bytes * 2

    def _hand_over(self, answer: Answer) -> None:
        """What one read brought: to the answer, which wakes only then. And the next deadline."""
        if self._parts:
            parts, self._parts = self._parts, []
            self._barren_bytes = 0
            if answer.take(parts) > self._pool.limits.buffer_bytes and not self._complete:
                self._paused = True
                self._transport.pause_reading()
        if self._complete:
            self._finish(answer)
        elif self._paused:
            self.deadline = math.inf  # the caller's slowness, not the other side's
        elif answer.status:
            self.deadline = self._pool.loop.time() + self._idle_s

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._let_write()

    # -- from httptools
    def on_header(self, name: bytes, value: bytes) -> None:
        answer = self._answer
        if answer is None or self._complete:
            return
        limits = self._pool.limits
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > limits.head_bytes or len(answer.headers) >= limits.header_count:
            raise TooBig("the answer's head is too large")
        if not answer.status:  # else a trailer: counted and dropped
            answer.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or parser is None or self._complete:
            return
        status = parser.get_status_code()
        if status < 200:  # noqa: PLR2004  interim: the answer is still to come
            self._interim += 1
            if status == 101 or self._interim > INTERIM_ANSWERS:  # noqa: PLR2004  nobody asked to switch protocols
                raise Malformed("there are interim answers that nobody asked for")
            answer.headers.clear()
            return
        coding = answer.header(b"transfer-encoding")
        if coding is not None and coding.strip().lower() != b"chunked":
            raise Malformed("the answer has a transfer encoding other than chunked")
        if coding is None and status not in _BODILESS and answer.header(b"content-length") is None:
            raise Malformed("the answer has no length")
        answer.status = status

    def on_body(self, piece: bytes) -> None:
        if not self._complete:
            self._parts.append(piece)

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep = False  # a second answer to one question

    def on_message_complete(self) -> None:
        if self._answer is not None and self._answer.status and not self._complete and self._parser is not None:
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # asked later it says no: the parser has begun anew

    # -- from the pool and the answer
    def ask(self, first_byte_s: float, idle_s: float) -> Answer:
        """Begin an exchange; what comes will be this answer."""
        self._parser = httptools.HttpResponseParser(self)
        answer = self._answer = Answer(self)
        self._begun = self._complete = False
        self._head_bytes = self._barren_bytes = self._interim = 0
        self._idle_s = idle_s
        self.deadline = self._pool.loop.time() + first_byte_s
        return answer

    async def say(self, head: bytes, body: bytes | Sequence[bytes | memoryview]) -> None:
        """Write the request: in one go when it is small, else in slices as the other side takes them."""
        if isinstance(body, bytes) and len(body) <= JOIN_BYTES:
            self._transport.write(head + body)
            return
        self._sending = True
        self._transport.write(head)
        for piece in (body,) if isinstance(body, bytes) else body:
            view = memoryview(piece)
            for at in range(0, len(view), JOIN_BYTES):
                if self._lost or self._answer is None or self._complete:
                    return  # an early answer: the rest is nobody's, and the connection will not be used again
                self._transport.write(view[at : at + JOIN_BYTES])
                if self.full:
                    self._writable = self._pool.loop.create_future()
                    await self._writable
        self._sending = False

    def resume(self) -> None:
        if self._paused and not self._lost:
            self._paused = False
            self.deadline = self._pool.loop.time() + self._idle_s
            self._transport.resume_reading()

    def abort(self) -> None:
        self._answer = self._parser = None
        if not self._lost:
            self._transport.abort()

    @property
    def lost(self) -> bool:
        return self._lost

    @property
    def usable(self) -> bool:
        """Idle, and the other side has said nothing: neither its end nor anything else, not even what the loop has yet to read."""
        return not self._lost and not self._transport.is_closing() and not self._heard.poll(0)

    def let_go(self) -> None:
        """End politely, and soon."""
        if self._lost:
            return
        self._leaving = True
        self.deadline = self._pool.loop.time() + CLOSE_S
        self._transport.close()

    def expire(self) -> None:
        """The deadline has passed, whatever it was for."""
        if self._leaving:
            self.abort()
        elif self._answer is None:
            self._pool.forget(self)
            self.let_go()
        elif self._answer.status:
            self.fail(TooLate("idle"))
        else:
            self.fail(TooLate("first_byte"))

    def fail(self, error: ExchangeFailed) -> None:
        answer = self._answer
        self.abort()
        self._let_write()
        if answer is not None:
            answer.finish(error)
            answer.wake()

    def _finish(self, answer: Answer) -> None:
        self._answer = self._parser = None
        self.served += 1
        answer.finish(None)
        usable = self._keep and not self.full and not self._sending
        self._let_write()
        self._pool.give_back(self, usable=usable)

    def _let_write(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
