"""A provider on loopback that says exactly the bytes it was told to, for faults that no real server would make on request.

async with FakeProvider(json_answer(b'{"id": 1}'), [b"HTTP/1.1 200 OK\\r\\n", "reset"]) as provider:
    ...  # the first request gets the first answer, each later one the last
    assert provider.seen[0].header(b"authorization") == b"Bearer canary"
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

# What to do next: write these bytes; wait for this event; end the connection politely or not; say nothing until the caller leaves.
Step = bytes | asyncio.Event | Literal["close", "reset", "hang"]
Answer = Sequence[Step]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived. `connection` counts from 0."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    connection: int

    def header(self, name: bytes) -> bytes | None:
        """The only value of a header, or None. Two of them are a fault of the sender."""
        values = [value for other, value in self.headers if other.lower() == name]
        assert len(values) < 2, f"{name!r} came twice"
        return values[0] if values else None


def json_answer(body: bytes, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n" % (status, len(body), lines)
    return (head + body,)


def sse_head(headers: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n%b\r\n" % lines


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


LAST_CHUNK = b"0\r\n\r\n"


def sse_answer(*events: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """Each event a chunk of its own, all complete."""
    return (sse_head(headers), *(chunk(event) for event in events), LAST_CHUNK)


class FakeProvider:
    """Answers in order, the last one for ever; or what `script` says to a request.

    seen: the requests so far.
    connections: how many were accepted.
    left: set when a caller closed while an answer was under way.
    """

    def __init__(self, *answers: Answer, script: Callable[[Seen], Answer] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.left = asyncio.Event()
        self.arrived = asyncio.Condition()
        self._answers = answers
        self._script = script
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def requests(self, count: int, timeout_s: float = 5) -> None:
        """Wait until that many requests have come in whole."""
        async with asyncio.timeout(timeout_s), self.arrived:
            await self.arrived.wait_for(lambda: len(self.seen) >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        self._writers.add(writer)
        try:
            while (seen := await self._read(reader, number)) is not None:
                async with self.arrived:
                    self.seen.append(seen)
                    self.arrived.notify_all()
                if not await self._answer(seen, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, connection: int) -> Seen | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head[:-4].split(b"\r\n")
        method, target, _ = first.decode().split(" ")
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(b":") for line in lines))
        length = next((int(value) for name, value in headers if name.lower() == b"content-length"), 0)
        return Seen(method, target, headers, await reader.readexactly(length), connection)

    async def _answer(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False = the connection is over."""
        steps = self._script(seen) if self._script else self._answers[min(len(self.seen), len(self._answers)) - 1]
        for step in steps:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, asyncio.Event):
                if not await self._wait(step, reader):
                    return False
            elif step == "hang":
                await reader.read(1)
                self.left.set()
                return False
            else:
                if step == "reset":
                    linger = struct.pack("ii", 1, 0)  # on, for no time: what is left is thrown away and RST says so
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                return False
        return True

    async def _wait(self, event: asyncio.Event, reader: asyncio.StreamReader) -> bool:
        """Wait for the event, and notice when the caller leaves before it."""

        async def gone() -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read(1)

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(event.wait())
            leaving = group.create_task(gone())
            await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            leaving.cancel()
        if not event.is_set():
            self.left.set()
        return event.is_set()
