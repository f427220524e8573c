"""What comes back from the way out: an answer, piece by piece, or the reason why there is none."""

import asyncio
from collections.abc import Callable
from io import BytesIO
from typing import Final, Literal, Protocol

Headers = list[tuple[bytes, bytes]]
Stage = Literal["name", "connect", "tls", "timeout"]


class ExchangeFailed(Exception):
    """No complete answer. The message names no header, no body and no address."""


class NotSent(ExchangeFailed):
    """The origin was not reached: no byte of the request left. `stage` says what failed."""

    def __init__(self, stage: Stage, message: str) -> None:
        super().__init__(message)
        self.stage: Final = stage


class Lost(ExchangeFailed):
    """The connection ended before the answer was complete.

    first: it had never carried an answer; under TLS 1.3 that is all that a client learns whom the server does not trust.
    begun: a byte of this answer had come.
    """

    def __init__(self, *, first: bool, begun: bool) -> None:
        super().__init__("the connection ended before the answer was complete")
        self.first: Final = first
        self.begun: Final = begun


class TooLate(ExchangeFailed):
    """A deadline passed after something may have been sent."""

    def __init__(self, stage: Literal["first_byte", "idle"]) -> None:
        super().__init__(f"the deadline for the answer passed ({stage})")
        self.stage: Final = stage


class Malformed(ExchangeFailed):
    """The answer is not well-formed HTTP/1.1, or has no length: where it ends with the connection, a cut looks like an end."""


class TooBig(ExchangeFailed):
    """The answer's head, or a body that was asked for as a whole, is beyond its limit."""


class Source(Protocol):
    """The connection, as its answer sees it."""

    def resume(self) -> None: ...
    def abort(self) -> None: ...


class Answer:
    """An answer whose head is here. Take it by `piece` or as a `whole`, and `close` it whatever happens."""

    __slots__ = ("_complete", "_connection", "_error", "_parts", "_size", "_waiter", "headers", "status")

    def __init__(self, connection: Source) -> None:
        self._connection: Source | None = connection
        self._parts: list[bytes] = []
        self._size = 0
        self._complete = False
        self._error: ExchangeFailed | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.status = 0
        self.headers: Headers = []

    @property
    def complete(self) -> bool:
        """Nothing more is to come from the network; `piece` may still have bytes."""
        return self._complete

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    async def begun(self) -> None:
        """Return when the head is here.

        Raises:
            Lost, TooLate, Malformed, TooBig: it will not be.
        """
        while not self.status and self._error is None:
            await self._more()
        if self._error is not None and not self.status:
            raise self._error

    async def piece(self) -> bytes:
        """All bytes that have come, as soon as there are any; b"" at the end.

        Raises:
            Lost, TooLate, Malformed: after the bytes that came before it.
        """
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            await self._more()
        parts = self._parts
        piece = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._size = 0
        if self._connection is not None:
            self._connection.resume()
        return piece

    async def whole(self, limit_bytes: int, keep: Callable[[int], None] | None = None) -> bytes:
        """The body as one.

        keep: is told how many bytes more are kept, each time; what it raises is raised here.

        Raises:
            TooBig: more than limit_bytes; the connection is ended.
            Lost, TooLate, Malformed: as `piece`.
        """
        first = piece = await self.piece()
        size = 0
        with BytesIO() as body:  # what it has written is its value, without a copy; a list of small pieces would be many times the body
            while piece:
                size += len(piece)
                if size > limit_bytes:
                    self.close()
                    raise TooBig(f"the answer is larger than {limit_bytes} bytes")
                if keep is not None:
                    keep(len(piece))
                body.write(piece)
                piece = await self.piece()
            return first if len(first) == size else body.getvalue()

    def close(self) -> None:
        """An answer that is not complete ends its connection at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._error = Lost(first=False, begun=True)  # for whoever still waits for a piece
            connection.abort()
            self.wake()

    async def _more(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None

    # -- from the connection
    def take(self, parts: list[bytes]) -> int:
        """Bytes that wait to be fetched, with these."""
        self._parts += parts
        self._size += sum(map(len, parts))
        return self._size

    def finish(self, error: ExchangeFailed | None) -> None:
        self._complete = error is None
        self._error = error
        self._connection = None

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
