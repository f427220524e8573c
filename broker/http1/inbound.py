"""One connection to a door: head, body, exchange, head ... every stage with a bound and a deadline."""

import asyncio
import math
import ssl
from collections.abc import Callable
from typing import Final, Protocol

from broker.errors import BadRequest, BrokerError, Busy, TooSlow
from broker.http1 import rules
from broker.http1.body import Chunked, Sized
from broker.http1.limits import Limits
from broker.http1.reply import Reply, Request

STOPPING: Final = "This replica is being stopped. Ask again: another one will answer."
SURPLUS_BYTES: Final = 64 << 10  # dropped while an exchange runs; a peer that sends more is cut off


class Door(Protocol):
    """The server, as its connections see it.

    buffer: what they all read into: what was read is used up before the next read.
    """

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def buffer(self) -> memoryview: ...
    @property
    def leaving(self) -> bool: ...
    @property
    def draining(self) -> bool: ...

    @property
    def judge(self) -> Callable[[rules.Head], None]: ...
    def add(self, connection: "Connection") -> None: ...
    def remove(self, connection: "Connection") -> None: ...
    def hold_body(self, size: int) -> None: ...
    def release_body(self, size: int) -> None: ...
    def start(self, request: Request, reply: Reply) -> None: ...
    def word(self, reply: Reply, error: BrokerError) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """One peer: head, body, exchange, head ... A deadline is only a number here; the server's sweep looks at all of them."""

    __slots__ = (
        "_body", "_head", "_held", "_partial", "_server", "_surplus", "_transport",
        "closing", "deadline", "full", "gone", "reply", "tls", "writable",
    )  # fmt: skip

    def __init__(self, server: Door) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._partial = b""
        self._head: rules.Head | None = None
        self._body: Sized | Chunked | None = None
        self._held = 0  # bytes of this body that the server has counted
        self._surplus = 0
        self.tls: ssl.SSLObject | None = None
        self.closing = False  # our last word is said
        self.deadline = 0.0
        self.reply: Reply | None = None
        self.full = False  # our bytes pile up
        self.gone = False
        self.writable: asyncio.Future[None] | None = None

    # -- from asyncio
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  asyncio's own promise, for the type checkers
        server = self._server
        self._transport = transport
        transport.set_write_buffer_limits(server.limits.write_buffer_bytes)
        self.tls = transport.get_extra_info("ssl_object")
        self.deadline = server.loop.time() + server.limits.head_s
        server.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self.gone = True
        self._drop_body()
        self._server.remove(self)
        self.full = False  # nobody reads any more: an exchange that goes on without its caller must not wait for him
        self._let_write()
        reply, self.reply = self.reply, None
        if reply is not None:
            reply.cancel()
        # asyncio's TLS keeps our bound methods: a circle, which would keep 100 KB until some later garbage collection
        del self._transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio's signature
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.closing:
            return  # lingering: read and drop
        data = bytes(self._server.buffer[:nbytes])
        if self.reply is not None:
            self._note_surplus(len(data))
            return
        try:
            self._collect(data)
        except BrokerError as error:
            self._refuse(error)

    def eof_received(self) -> bool:
        """A peer that has said its last is gone: it may be waiting for an answer, but nobody could tell it from one that is not."""
        if self.reply is not None:
            self._transport.abort()
        return False

    def pause_writing(self) -> None:
        self.full = True
        self.writable = self._server.loop.create_future()
        if not self.closing:
            self.deadline = self._server.loop.time() + self._server.limits.write_s

    def resume_writing(self) -> None:
        self.full = False
        self._let_write()
        if not self.closing:
            self.deadline = math.inf if self.reply is not None else self._server.loop.time() + self._server.limits.keep_alive_s

    def _let_write(self) -> None:
        writable, self.writable = self.writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # -- the request
    def _collect(self, data: bytes) -> None:
        server = self._server
        body = self._body
        if body is None:
            if self._partial:
                data = self._partial + data
            else:
                self.deadline = server.loop.time() + server.limits.head_s  # from the first byte; later ones do not extend it
            self._partial = data  # what a refusal is worded by
            end = rules.end_of_head(data, server.limits.head_bytes)
            if not end:
                return
            body = self._begin(data[:end])
            data = data[end:]
        rest = body.feed(data)
        news, self._held = body.held - self._held, body.held
        if news:
            server.hold_body(news)
        if rest is not None:
            self._start(body, len(rest))

    def _begin(self, raw: bytes) -> Sized | Chunked:
        server, limits = self._server, self._server.limits
        head = rules.read(raw, header_count=limits.header_count, body_bytes=limits.body_bytes)
        server.judge(head)
        if server.draining:
            raise Busy(STOPPING, retry_after_s=1)
        if self.full:
            raise BadRequest("The answer before this request has not been read.")
        self._head, self._partial = head, b""
        body = Chunked(limits.body_bytes) if head.chunked else Sized(head.length)
        self._body = body
        if head.chunked or head.length:
            self.deadline = server.loop.time() + limits.body_s
            if head.expect:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return body

    def _start(self, body: Sized | Chunked, surplus: int) -> None:
        head = self._head
        assert head is not None  # noqa: S101  a body has a head, for the type checkers
        self._surplus = surplus
        self._body = self._head = None
        self.deadline = math.inf
        request = Request(head.method, head.path, head.query, head.headers, body.whole(), self.tls)
        reply = Reply(self, head.path, keep=head.keep, held=self._held)
        self._held = 0
        self.reply = reply
        self._server.start(request, reply)

    def _note_surplus(self, size: int) -> None:
        """A pipelined request: never begun, so the peer may safely send it again. The connection ends after this answer."""
        self._surplus += size
        if self._surplus > SURPLUS_BYTES:
            self._transport.abort()

    def _drop_body(self) -> None:
        self._server.release_body(self._held)
        self._held = 0
        self._body = None

    # -- the answer
    @property
    def keeps(self) -> bool:
        return not self._surplus and not self._server.leaving

    def write(self, data: bytes) -> None:
        if not self.gone:
            self._transport.write(data)

    def abort(self) -> None:
        self.closing = True
        if not self.gone:
            self.gone = True
            self._transport.abort()

    def answered(self, *, keep: bool) -> None:
        """The answer is complete: on to the next request, or the end."""
        self.reply = None
        if not (keep and self.keeps):
            self._end(linger=bool(self._surplus))
            return
        limits = self._server.limits
        self.deadline = self._server.loop.time() + (limits.write_s if self.full else limits.keep_alive_s)

    @property
    def useless(self) -> bool:
        """Nobody would miss it: no exchange runs, no body is under way, nothing of ours is unread."""
        return self.reply is None and self._body is None and not self.closing and not self._transport.get_write_buffer_size()

    def refuse_full(self) -> None:
        self._refuse(Busy("There are too many connections to this replica.", retry_after_s=1))

    def _refuse(self, error: BrokerError) -> None:
        path = self._head.path if self._head else rules.path_of(self._partial)
        self._drop_body()
        self._partial = b""
        reply = Reply(self, path, keep=False, held=0)
        self._surplus = 1  # what is still to come is nobody's
        self._server.word(reply, error)

    def _end(self, *, linger: bool) -> None:
        self.closing = True
        if self.gone:
            return
        limits = self._server.limits
        unread = self._transport.get_write_buffer_size() > 0
        self.deadline = self._server.loop.time() + (limits.write_s if unread else limits.linger_s)
        if not linger:
            self._transport.close()
        elif self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except OSError:  # it has hung up already
                self._transport.abort()

    def close_idle(self) -> None:
        if self.reply is None and self._body is None and not self._partial and not self.closing:
            self._end(linger=False)

    def expire(self) -> None:
        """The deadline has passed, whatever it was for."""
        if self.closing or self.full or self.reply is not None:
            self._transport.abort()
        elif self._partial or self._body is not None:
            self._refuse(TooSlow("The request did not arrive in time."))
        else:
            self.close_idle()
