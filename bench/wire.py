"""Both ends of a measurement in one process: a provider that costs next to nothing, and 64 callers that never pause."""

import asyncio
import json
import ssl
import statistics
import time
from dataclasses import dataclass, field

import httptools

QUESTION = {"model": "bench-model", "max_tokens": 64, "messages": [{"role": "user", "content": "x" * 920}]}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "bench-model",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "y" * 740}}],
    "usage": {"prompt_tokens": 240, "completion_tokens": 40, "total_tokens": 280},
}


class Mock(asyncio.Protocol):
    """One connection to the provider. Counts itself and its requests."""

    BODY = json.dumps(ANSWER).encode()
    WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY

    def __init__(self, counts: "Counts") -> None:
        self._counts = counts
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  TCP gives the full kind
        self._counts.connections += 1

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._counts.requests += 1
        self._transport.write(self.WHOLE)


@dataclass
class Counts:
    connections: int = 0
    requests: int = 0


@dataclass
class Tally:
    """What one target's callers saw while it was measured."""

    answers: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def no(self, what: str) -> None:
        self.refused[what] = self.refused.get(what, 0) + 1

    @property
    def median_ms(self) -> float:
        return statistics.median(self.seconds) * 1000 if self.seconds else 0.0


class Caller(asyncio.Protocol):
    """One connection that asks again as soon as it has an answer, until it is told to stop."""

    def __init__(self, request: bytes, gone: "asyncio.Future[None]") -> None:
        self.tally: Tally | None = None
        self._request = request
        self._gone = gone
        self._parser = httptools.HttpResponseParser(self)
        self._stopping = False
        self._asked_s = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  TCP and TLS give the full kind
        self._ask()

    def _ask(self) -> None:
        self._asked_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self.tally:
            self.tally.answers += 1
            self.tally.seconds.append(time.perf_counter() - self._asked_s)
            status = self._parser.get_status_code()
            if status != 200:  # noqa: PLR2004  HTTP's OK
                self.tally.no(f"status {status}")
        if self._stopping:
            self._transport.close()
        else:
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self.tally and not self._stopping:
            self.tally.no(f"connection lost: {error}")
        if not self._gone.done():
            self._gone.set_result(None)

    def stop(self) -> None:
        self._stopping = True


class Callers:
    """All connections to one target."""

    def __init__(self, callers: list[Caller], gone: "list[asyncio.Future[None]]") -> None:
        self._callers = callers
        self._gone = gone

    @classmethod
    async def connect(cls, port: int, request: bytes, tls: ssl.SSLContext | None, connections: int) -> "Callers":
        loop = asyncio.get_running_loop()
        callers: list[Caller] = []
        gone = [loop.create_future() for _ in range(connections)]
        for future in gone:
            name = "broker" if tls else None
            _, caller = await loop.create_connection(lambda f=future: Caller(request, f), "127.0.0.1", port, ssl=tls, server_hostname=name)
            callers.append(caller)
        return cls(callers, gone)

    def count(self, tally: Tally | None) -> None:
        for caller in self._callers:
            caller.tally = tally

    async def stop(self) -> None:
        for caller in self._callers:
            caller.stop()
        await asyncio.wait(self._gone, timeout=5)


def request_for(host: str, headers: dict[str, str]) -> bytes:
    """The bytes of one request, 1 KB of body and the headers that an SDK sends."""
    body = json.dumps(QUESTION).encode()
    lines = [f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    return "".join(lines).encode() + b"\r\n" + body


SDK_HEADERS = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "user-agent": "OpenAI/Python 3.54.0",
    "x-stainless-lang": "python",
    "x-stainless-package-version": "3.54.0",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.7",
    "x-stainless-async": "false",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
    "authorization": "Bearer aiaccess-placeholder",
}
