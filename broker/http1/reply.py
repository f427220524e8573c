"""What a handler is given: one whole request, and the pen to answer it with."""

import asyncio
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

_FIRST_LINES: Final = {status.value: b"HTTP/1.1 %d %b" % (status, status.phrase.encode("ascii")) for status in HTTPStatus}
CLOSE: Final = (b"connection", b"close")  # among an answer's headers: no further request on this connection
_BODILESS: Final = frozenset((204, 304))

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True, eq=False, repr=False)
class Request:
    """One request, complete. Header names are lower case.

    path: as it was sent, with the percent-escapes that `rules` lets pass in a model's name.
    tls: whom we talk to; None on a plain door.
    """

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes
    tls: ssl.SSLObject | None = None

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Wire(Protocol):
    """The connection, as a Reply sees it."""

    full: bool
    writable: asyncio.Future[None] | None

    @property
    def keeps(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...
    def answered(self, *, keep: bool) -> None: ...


class Reply:
    """Answers one request, once: `whole`, or `begin`, any number of `write`, `end`; or `cut` at any time.

    When the peer has gone, writing does nothing (and the handler's task is being cancelled).
    """

    __slots__ = ("_bare", "_chunked", "_head", "_keep", "_left", "_wire", "begun", "ended", "held", "path", "task")

    task: asyncio.Task[None]

    def __init__(self, wire: Wire, path: str, *, keep: bool, held: int) -> None:
        self._wire = wire
        self._keep = keep
        self._chunked = False
        self._bare = False  # of a status that has no body
        self._left = 0
        self._head = b""  # waits for the first piece, to go out with it
        self.path = path
        self.held = held
        self.begun = False
        self.ended = False

    @property
    def full(self) -> bool:
        """The peer reads slower than we write: await `room`."""
        return self._wire.full

    def begin(self, status: int, headers: Headers, *, length: int | None = None) -> None:
        """Say the head. It goes out with the first piece, or with the next `room` or `end`. length None = chunked.

        The connection ends after an answer that has CLOSE among its headers.

        Raises:
            ValueError: a header has a line break in it; nothing was said.
            RuntimeError: there is a head already.
        """
        self._head = self._line(status, headers, length)

    def write(self, piece: bytes) -> None:
        """Say a piece of the body. An empty one says nothing (and lets a waiting head go out)."""
        if not self.begun or self.ended:
            raise RuntimeError("there is no answer to write to")
        head, self._head = self._head, b""
        if not self._chunked:
            self._left -= len(piece)
            if self._left < 0:
                self.cut()
                raise RuntimeError("the answer is longer than announced")
            if head or piece:
                self._wire.write(head + piece)
        elif piece:
            self._wire.write(b"%b%x\r\n%b\r\n" % (head, len(piece), piece))
        elif head:
            self._wire.write(head)

    async def room(self) -> None:
        """Return once the peer has read enough of what was written. The server's deadline for that ends the connection, not this wait."""
        if self._head:
            self.write(b"")
        writable = self._wire.writable
        if writable is not None:
            await writable

    def end(self) -> None:
        if not self.begun or self.ended:
            raise RuntimeError("there is no answer to end")
        self.ended = True
        if self._left:
            self._wire.abort()
            raise RuntimeError("the answer is shorter than announced")
        head, self._head = self._head, b""
        if self._chunked:
            self._wire.write(head + b"0\r\n\r\n")
        elif head:
            self._wire.write(head)
        self._wire.answered(keep=self._keep)

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer in one write. Raises as `begin`."""
        head = self._line(status, headers, len(body))
        self.ended = True
        self._wire.write(head if self._bare else head + body)
        self._wire.answered(keep=self._keep)

    def cut(self) -> None:
        """End the connection at once: the peer must see that something is missing. Nothing is, once the answer is complete."""
        if not self.ended:
            self.ended = True
            self._wire.abort()

    def cancel(self) -> None:
        """The peer has gone."""
        self.task.cancel()

    def _line(self, status: int, headers: Headers, length: int | None) -> bytes:
        if self.begun:
            raise RuntimeError("there is an answer already")
        lines = [_FIRST_LINES.get(status) or b"HTTP/1.1 %d -" % status]
        lines += [b"%b: %b" % header for header in headers]
        if status in _BODILESS:
            self._bare = True
            length = 0
        elif length is None:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked")
        else:
            lines.append(b"content-length: %d" % length)
        if CLOSE in headers:
            self._keep = False
        elif not (self._keep and self._wire.keeps):
            self._keep = False
            lines.append(b"connection: close")
        head = b"\r\n".join(lines)
        if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
            raise ValueError("a header has a line break in it")
        self.begun = True
        self._left = length or 0
        return head + b"\r\n\r\n"
