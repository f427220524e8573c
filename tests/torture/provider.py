"""A provider that obeys its output limit, keeps its own ledger of what it read and wrote, and does not always say the truth about it.

What it reads: half a token for each byte of a text, or, of a dense question, one for each byte, which is the most that there can be; in edge
seeds what docs/quotas-exactness.md has as bound, to the token, and it mostly writes all that it may. It answers as two models, each with a
price of its own, and writes its invoice by these.
What it says it did is drawn from the seed and the question: the truth, too much, too little, nothing, or what is no figure at all;
it also breaks off, hangs up before it has said anything, and answers 503, which it does not bill.
"""

import asyncio
import json
import random
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal, Self

from broker.dialects import openai_chat

from .plan import NOTHING, Charge, Plan, Quota, billed, question

TEMPLATE_TOKENS: Final = 7
LOOK_S: Final = 0.03  # how long it goes on after a caller has gone
Lie = Literal["none", "too much", "too little", "silent", "no figure", "cut", "reset", "refused"]
LIES: Final[dict[Lie, int]] = {
    "none": 55,
    "too much": 9,
    "too little": 9,
    "silent": 8,
    "no figure": 6,
    "cut": 7,
    "reset": 3,
    "refused": 3,
}
FEW_LIES: Final[dict[Lie, int]] = {"none": 97, "refused": 3}
NO_FIGURES: Final[tuple[object, ...]] = (-1, 1.5, "7", True, 2**31, [7])
PIECES: Final = 4


@dataclass(slots=True, eq=False)
class Attempt:
    """One request that arrived whole.

    limit: tokens that it may write, for all choices together. written: so far. said: what it reported, once the report has left.
    """

    tag: str
    agent: str
    model: str
    read: int
    limit: int
    lie: Lie
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    written: int = 0
    said: tuple[int, int] | None = None

    @property
    def is_billed(self) -> bool:
        return self.lie != "refused"

    @property
    def done(self) -> Charge:
        """What it did, as far as it did not tell that it did less: that nobody can know but the provider."""
        if not self.is_billed:
            return NOTHING
        read, written = self.said or (self.read, self.written)
        return billed(self.model, min(read, self.read), min(written, self.written))

    @property
    def most(self) -> Charge:
        """What it may come to."""
        return billed(self.model, self.read, self.limit) if self.is_billed else NOTHING

    @property
    def concealed(self) -> int:
        return self.read + self.written - self.done.tokens if self.is_billed else 0

    def has_gone(self) -> bool:
        """The other side has closed the connection, whether our loop has heard of it or not."""
        if self.reader.at_eof() or self.reader.exception() or self.writer.is_closing():
            return True
        with self.writer.get_extra_info("socket").dup() as same:
            try:
                return same.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True


@dataclass
class Peak:
    """The most that a quota was ever exposed to: what was done, and for those in flight all that may be; and after how many requests."""

    amount: int = 0
    after: int = 0


class Provider:
    """Listens on loopback.

    attempts: all that ever arrived. peaks: by quota and whom it counts.
    """

    def __init__(self, plan: Plan) -> None:
        self.attempts: list[Attempt] = []
        self.peaks: dict[tuple[str, str], Peak] = {}
        self.alive: set[Attempt] = set()
        self._plan = plan
        self._over: Counter[tuple[str, str]] = Counter()
        self._asked: Counter[str] = Counter()
        self._serving: set[asyncio.StreamWriter] = set()
        self.port = 0
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in tuple(self._serving):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(writer)
        try:
            while body := await _read(reader):
                attempt = self._arrive(body, reader, writer)
                try:
                    goes_on = await self._answer(attempt, streaming=bool(body.get("stream")), choices=body.get("n") or 1)
                finally:
                    self._end(attempt)
                if not goes_on:
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass  # a caller that has gone; its attempt says how far it came
        finally:
            self._serving.discard(writer)
            writer.transport.abort()

    def _arrive(self, body: dict, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Attempt:
        text = body["messages"][0]["content"]
        agent, tag, _ = text.split(" ", 2)
        drawn = random.Random(f"{self._plan.seed}/provider/{tag}/{self._asked[tag]}")  # noqa: S311  dice, no secret
        is_edge = self._plan.kind == "edge"
        lies = FEW_LIES if is_edge else LIES
        lie = drawn.choices(list(lies), list(lies.values()))[0]
        is_dense = drawn.random() < 0.5
        read = bound(self._plan.seed, tag) if is_edge else TEMPLATE_TOKENS + (len(text) if is_dense else len(text) // 2)
        attempt = Attempt(tag, agent, body["model"], read, body["max_tokens"] * (body.get("n") or 1), lie, reader, writer)
        self.attempts.append(attempt)
        self.alive.add(attempt)
        self._asked[tag] += 1
        if self._asked[tag] == 1:
            for quota in self._plan.quotas:
                self._over[quota.name, "-" if quota.shared else agent] += quota.unit == "requests"
        for quota in self._plan.quotas:
            self._look(quota, "-" if quota.shared else agent)
        return attempt

    def _end(self, attempt: Attempt) -> None:
        self.alive.discard(attempt)
        for quota in self._plan.quotas:
            if quota.unit not in ("requests", "concurrent"):
                self._over[quota.name, "-" if quota.shared else attempt.agent] += quota.cost(attempt.done, 1)

    def _look(self, quota: Quota, whom: str) -> None:
        """How near to its limit is it now?"""
        mine = [attempt for attempt in self.alive if whom in ("-", attempt.agent)]
        if quota.unit == "concurrent" and len(mine) > quota.limit:
            mine = [attempt for attempt in mine if not attempt.has_gone()]
        counted = 0 if quota.unit == "requests" else sum(quota.cost(attempt.most, 1) for attempt in mine if attempt.is_billed)
        peak = self.peaks.setdefault((quota.name, whom), Peak())
        now = counted + self._over[quota.name, whom]
        if now > peak.amount:
            peak.amount, peak.after = now, len(self.attempts)

    async def _answer(self, attempt: Attempt, *, streaming: bool, choices: int) -> bool:
        """Whether the connection goes on."""
        drawn = random.Random(f"{self._plan.seed}/answer/{attempt.tag}/{self._asked[attempt.tag]}")  # noqa: S311  dice, no secret
        lengths = (5, 10**9, 10**9, 10**9) if self._plan.kind == "edge" else (0, 5, 50, 400)
        wanted, took_s = min(attempt.limit, drawn.choice(lengths)), drawn.choice((0.0, 0.1, 0.3, 0.8))
        if not await _rest(attempt, took_s / PIECES):
            return False
        if attempt.lie == "refused":
            attempt.writer.write(_whole(b'{"error":{"message":"not now"}}', 503))
            return True
        if attempt.lie == "reset":
            return False
        if streaming:
            return await self._stream(attempt, drawn, wanted, took_s, choices)
        if not await _rest(attempt, took_s):
            return False
        attempt.written = wanted
        usage = _usage(attempt, drawn)
        choice = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "w " * wanted}}]
        answer = _whole(_json({"id": "c", "object": "chat.completion", "choices": choice, **usage}))
        if attempt.lie == "cut":
            answer = answer[: len(answer) // 2]
        attempt.writer.write(answer)
        await attempt.writer.drain()
        return attempt.lie != "cut"

    async def _stream(self, attempt: Attempt, drawn: random.Random, wanted: int, took_s: float, choices: int) -> bool:
        write = attempt.writer.write
        write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in range(PIECES):
            words = wanted * (piece + 1) // PIECES - attempt.written
            attempt.written += words
            delta = [{"index": piece % choices, "delta": {"content": "w " * words}, "finish_reason": None}]
            write(_event({"id": "c", "object": "chat.completion.chunk", "choices": delta, "usage": None}))
            await attempt.writer.drain()
            if not await _rest(attempt, took_s / PIECES):
                return False
        if attempt.lie == "cut":
            return False
        usage = _usage(attempt, drawn)
        if usage:
            write(_event({"id": "c", "object": "chat.completion.chunk", "choices": [], **usage}))
        write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await attempt.writer.drain()
        return True


def bound(seed: int, tag: str) -> int:
    """Of a question's prompt, by its bytes: the most that it can be billed as, and what is held for it."""
    return openai_chat.read(question(seed, tag).body()).demand(1, None).prompt_bound


async def _read(reader: asyncio.StreamReader) -> dict | None:
    """The body of the next request; None when there is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return json.loads(await reader.readexactly(length))


async def _rest(attempt: Attempt, seconds: float) -> bool:
    """Work on it for so long; False as soon as the caller has gone."""
    while seconds > 0 and not attempt.has_gone():
        await asyncio.sleep(min(LOOK_S, seconds))
        seconds -= LOOK_S
    return not attempt.has_gone()


def _usage(attempt: Attempt, drawn: random.Random) -> dict[str, object]:
    """The report, as the answer's member; and what it says goes into the books, should it count."""
    read, written = attempt.read, attempt.written
    match attempt.lie:
        case "silent" | "cut":
            return {}
        case "no figure":
            return {"usage": {"prompt_tokens": read, "completion_tokens": drawn.choice(NO_FIGURES), "total_tokens": read + written}}
        case "too much":
            written = 2 * written + 5
        case "too little":
            read, written = read // 3, written // 2
        case _:
            pass
    attempt.said = read, written
    return {"usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}}


def _json(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _whole(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def _event(value: dict[str, object]) -> bytes:
    return _chunk(b"data: %b\n\n" % _json(value))


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
