"""Raw bytes to a door of ours, and what came back: for tests of what no well-behaved client would send."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from broker.errors import BrokerError
from broker.http1 import rules
from broker.http1.server import Limits, Reply, Request, Server

QUICK = Limits(handshake_s=0.2, head_s=0.2, body_s=0.2, keep_alive_s=0.2, write_s=0.2, linger_s=0.2)
PATIENT = Limits(linger_s=0.3)


async def echo(request: Request, reply: Reply) -> None:
    reply.whole(200, [(b"content-type", b"application/octet-stream")], request.body)


def refuse(path: str, error: BrokerError) -> tuple[list[tuple[bytes, bytes]], bytes]:
    return [(b"content-type", b"application/json"), (b"x-code", error.code.encode())], f"{path}|{error}".encode()


@dataclass
class Door:
    """A server under test. `requests` are those that reached the handler; `judge` may be replaced once the port is known."""

    limits: Limits = PATIENT
    handler: Callable = echo
    judge: Callable[[rules.Head], None] = rules.judge_remote
    requests: list[Request] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    port: int = 0
    server: Server = field(init=False)

    async def handle(self, request: Request, reply: Reply) -> None:
        self.requests.append(request)
        try:
            await self.handler(request, reply)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.ended.set()

    async def open(self, ssl=None) -> "Door":
        self.server = Server(self.handle, self.limits, judge=lambda head: self.judge(head), refuse=refuse)  # noqa: PLW0108  it may be replaced
        self.port = await self.server.listen("127.0.0.1", 0, ssl)
        return self


@contextlib.asynccontextmanager
async def door(**options: object) -> AsyncIterator[Door]:
    """A door for the time of one test. local=True gives it the rules of the local gateway."""
    local, ssl = options.pop("local", False), options.pop("ssl", None)
    opened = await Door(**options).open(ssl)
    if local:
        opened.judge = rules.local_judge(opened.port)
    try:
        yield opened
    finally:
        await opened.server.drain(0)


async def send(port: int, *pieces: bytes, timeout_s: float = 5.0, ssl=None) -> bytes:
    """Send pieces, one TCP segment each as far as the kernel lets us, and read until the other side ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ssl, server_hostname="" if ssl else None)
    got = b""
    try:
        async with asyncio.timeout(timeout_s):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            while data := await reader.read(65536):
                got += data
    except ConnectionError:
        pass  # what was read before counts
    finally:
        writer.transport.abort()
    return got


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes], bytes]:
    """One answer with a Content-Length or chunks, from a connection that may stay open."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    status = int(lines[0].split(b" ")[1])
    if headers.get(b"transfer-encoding") == b"chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readexactly(2) == b"\r\n"
        return status, headers, body
    return status, headers, await reader.readexactly(int(headers.get(b"content-length", b"0")))


def statuses(got: bytes) -> list[int]:
    """The status of each answer in what a connection gave (bodies here never contain a status line)."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", got)]


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Let the loop run until a condition holds: for states of ours that nothing announces."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)
