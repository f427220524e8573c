"""A provider that does wrong on request: the model that is asked for says how.

ACTS = {"cut": lambda call: [call.head(length=100), b"{", "close"]}
async with HostileProvider(ACTS) as provider:
    ...  # a request for the model "cut", or "cut--" and anything, is answered so; or for a response by an id that has its name (kept_id)
"""

import asyncio
import contextlib
import json
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

from support.fake_provider import LAST_CHUNK, chunk

ACCOUNT = b"of-our-account"  # the value of headers that say whose account this is, or bind a caller to it
ACCOUNT_HEADERS = tuple(
    (name, b"x=" + ACCOUNT)
    for name in (
        *(b"set-cookie", b"set-cookie2", b"openai-organization", b"openai-project", b"anthropic-organization-id", b"www-authenticate"),
        *(b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-tokens", b"anthropic-ratelimit-tokens-limit", b"location", b"refresh"),
        *(b"cf-ray", b"server", b"via", b"alt-svc", b"access-control-allow-origin", b"strict-transport-security", b"x-aiaccess-exchange"),
    )
)
EARLY_BYTES = 64 << 10  # of a body, in which the model is named
_MODEL = re.compile(rb'"model": ?"([^"]+)"')
_KEPT = re.compile(rb"/responses/resp_hostile-([^/?]+)")

# Write these bytes; wait so many seconds; end the connection politely or not; say nothing until the other side leaves
Step = bytes | float | Literal["close", "reset", "hang"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and the words to answer it with.

    key: the credential that came with it. unread_bytes: of its body.
    """

    model: str
    method: str
    path: str
    streaming: bool
    key: bytes
    unread_bytes: int = 0

    @property
    def chat(self) -> bool:
        return self.path.endswith("/chat/completions")

    @property
    def responses(self) -> bool:
        return "/responses" in self.path

    @property
    def kept(self) -> str:
        """What a kept response is asked for by its id: DELETE, cancel, input_items, or GET; "" = nothing is, this makes one."""
        behind = self.path.partition("?")[0].partition(f"/{kept_id(self.model).decode()}")
        return behind[2].removeprefix("/") or self.method if behind[1] else ""

    def head(
        self, status: int = 200, kind: bytes = b"", headers: Iterable[tuple[bytes, bytes]] = (), *, length: int | None = None
    ) -> bytes:
        """A well-formed head, with everything about our account in it. No length = chunked."""
        kind = kind or (b"text/event-stream" if self.streaming else b"application/json")
        framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        lines = b"".join(b"%b: %b\r\n" % pair for pair in (*ACCOUNT_HEADERS, *headers))
        return b"HTTP/1.1 %d X\r\ncontent-type: %b\r\n%b%b\r\n\r\n" % (status, kind, lines, framing)

    def says(self, body: bytes, status: int = 200, kind: bytes = b"application/json", headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """A complete answer that is no stream."""
        return self.head(status, kind, headers, length=len(body)) + body

    def streams(self, *events: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> list[Step]:
        """A complete event stream, each event a chunk of its own."""
        return [self.head(kind=b"text/event-stream", headers=headers), *map(chunk, events), LAST_CHUNK]

    def body(self, usage: object = None, text: str = "hi") -> bytes:
        """What an honest provider says; `usage` is JSON as it stands, b"" = none."""
        words = json.dumps(text).encode()
        report = self.usage() if usage is None else usage
        assert isinstance(report, bytes)
        if self.kept == "DELETE":
            return b'{"id":"%b","object":"response","deleted":true}' % kept_id(self.model)
        if self.kept == "input_items":
            return b'{"object":"list","data":[%b],"first_id":"%b","last_id":"%b","has_more":false}' % (_SAID % words, ITEM_ID, ITEM_ID)
        if self.responses:
            return response(report, b"completed", _SAID % words).replace(RESPONSE_ID, kept_id(self.model) if self.kept else RESPONSE_ID)
        if self.chat:
            start = b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":%b}}]'
        else:
            start = b'{"id":"m","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":%b}],"stop_reason":"end_turn","stop_sequence":null'
        return start % words + (b',"usage":%b}' % report if report else b"}")

    def usage(self, into: str = "5", out: str = "2") -> bytes:
        if self.chat:
            total = int(into) + int(out) if into.isdigit() and out.isdigit() else 7
            return f'{{"prompt_tokens":{into},"completion_tokens":{out},"total_tokens":{total}}}'.encode()
        return f'{{"input_tokens":{into},"output_tokens":{out}}}'.encode()

    def events(self, usage: bytes | None = None, text: str = "hi", *, named: bool = True) -> list[bytes]:
        """What an honest provider streams: beginning, text, usage, end. `usage` as in `body`."""
        words = json.dumps(text).encode()
        report = self.usage() if usage is None else usage
        if self.responses:
            return [event(data, named=named) for data in response_events(report, words)]
        if self.chat:
            start = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
            told = [start + b'[],"usage":%b}\n\n' % report] if report else []
            return [start + b'[{"index":0,"delta":{"content":%b}}]}\n\n' % words, *told, b"data: [DONE]\n\n"]
        of_it = b',"usage":%b' % report if report else b""
        begun = b'{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null%b}}'
        datas = (
            begun % of_it,
            b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
            b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%b}}' % words,
            b'{"type":"content_block_stop","index":0}',
            b'{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null}%b}' % of_it,
            b'{"type":"message_stop"}',
        )
        return [event(data, named=named) for data in datas]

    def honest(self) -> list[Step]:
        return self.streams(*self.events()) if self.streaming else [self.says(self.body())]

    def whole(self) -> bytes:
        """The bytes of an honest answer."""
        return b"".join(step for step in self.honest() if isinstance(step, bytes))


Act = Callable[[Call], Iterable[Step]]

RESPONSE_ID, ITEM_ID = b"resp_hostile01", b"msg_hostile02"
RAW_ID = re.compile(rb"(?:resp|msg)_hostile")
_SAID = (
    b'{"type":"message","id":"%b","role":"assistant","status":"completed",'
    b'"content":[{"type":"output_text","text":%%b,"annotations":[],"logprobs":[]}]}' % ITEM_ID
)


def kept_id(model: str) -> bytes:
    """Of the one response that is kept of this model."""
    return b"resp_hostile-%b" % model.encode()


def response(usage: bytes, status: bytes, output: bytes = b"") -> bytes:
    """A response of OpenAI's. `usage` is JSON as it stands, b"" = none."""
    start = b'{"id":"%b","object":"response","created_at":1,"model":"m","status":"%b","error":null,"output":[%b]'
    return start % (RESPONSE_ID, status, output) + (b',"usage":%b}' % usage if usage else b"}")


def response_events(usage: bytes, words: bytes) -> tuple[bytes, ...]:
    """The data of a stream that makes one: the beginning, an item, its text, its end, and the end of all."""
    item = b'"output_index":0,"item":%b}'
    return (
        b'{"type":"response.created","sequence_number":0,"response":%b}' % response(b"null", b"in_progress"),
        b'{"type":"response.output_item.added","sequence_number":1,' + item % (_SAID % b'""'),
        b'{"type":"response.output_text.delta","sequence_number":2,"item_id":"%b","output_index":0,"content_index":0,"delta":%b}'
        % (ITEM_ID, words),
        b'{"type":"response.output_item.done","sequence_number":3,' + item % (_SAID % words),
        b'{"type":"response.completed","sequence_number":4,"response":%b}' % response(usage, b"completed", _SAID % words),
    )


def event(data: bytes, *, named: bool = True) -> bytes:
    return (b"event: %b\n" % data.split(b'"')[3] if named else b"") + b"data: %b\n\n" % data


class HostileProvider:
    """Answers each request as the act of its model says. Pieces are written one by one, as fast as the other side takes them.

    early: models whose requests are answered before their bodies are read.
    calls: the requests so far. connections: how many were accepted.
    written: bytes of the answers of each model so far. open: models whose last request's connection has not ended yet.
    """

    def __init__(self, acts: Mapping[str, Act], *, early: Iterable[str] = (), tls: ssl.SSLContext | None = None) -> None:
        self.calls: list[Call] = []
        self.connections = 0
        self.written: dict[str, int] = {}
        self.open: dict[str, asyncio.StreamWriter] = {}
        self._acts = acts
        self._early = frozenset(early)
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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while (call := await self._read(reader)) is not None:
                self.calls.append(call)
                self.open[call.model] = writer
                if not await self._answer(call, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            for model in [model for model, last in self.open.items() if last is writer]:
                del self.open[model]
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> Call | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        length = int(headers.get(b"content-length", b"0"))
        body = await reader.readexactly(min(length, EARLY_BYTES))
        method, path, _ = head.split(b" ", 2)
        found = _MODEL.search(body) or _KEPT.search(path)
        model = found[1].decode() if found else ""
        unread = length - len(body)
        if model.partition("--")[0] not in self._early:
            body += await reader.readexactly(unread)
            unread = 0
        key = re.search(rb"^(?:authorization: Bearer|x-api-key:) ?(.*?)\r$", head, re.MULTILINE | re.IGNORECASE)
        streaming = b'"stream":true' in body or b'"stream": true' in body or b"stream=true" in path
        return Call(model, method.decode(), path.decode(), streaming, key[1] if key else b"", unread)

    async def _answer(self, call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False = the connection is over."""
        for step in self._acts[call.model.partition("--")[0]](call):
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
                self.written[call.model] = self.written.get(call.model, 0) + len(step)
                await asyncio.sleep(0)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step == "hang":
                while await reader.read(1 << 16):
                    pass
                return False
            else:
                if step == "reset":
                    linger = struct.pack("ii", 1, 0)  # on, for no time: what is left is thrown away and RST says so
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                return False
        while call.unread_bytes and (rest := await reader.read(min(call.unread_bytes, EARLY_BYTES))):
            call = replace(call, unread_bytes=call.unread_bytes - len(rest))
        return not call.unread_bytes


class FullBacklog:
    """A port whose queue of connections is full, so that the next one is neither accepted nor refused."""

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port: int = self._listener.getsockname()[1]
        self._waiting = []
        for _ in range(8):
            one = socket.socket()
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", self.port))
            self._waiting.append(one)
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in (*self._waiting, self._listener):
            one.close()
