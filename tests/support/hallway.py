"""A house of small rooms, to walk the hallway in: each says when it was entered, and the provider is a list of pieces."""

import asyncio
from types import SimpleNamespace

from broker.counting import Counting
from broker.dialects import openai_chat
from broker.errors import ProviderUnavailable, Unidentified
from broker.exchange import Exchange
from broker.grant import Backend, Budget, Endpoint, Grant, Per, PolicyRef, Provider, Unit
from broker.house import House
from broker.identity import parse_spiffe_id
from broker.ledger.memory import MemoryLedger
from broker.ledger.settling import Settler
from broker.pipeline import serve
from broker.routing import Router
from broker.upstream import Failed

AGENT = parse_spiffe_id("spiffe://example.org/ns/team1/sa/agent")
PROVIDER = Provider("team1", "openai", "OpenAI", Endpoint("https", "api.openai.com", 443, "/v1"), "None", None)
COUNTER = "{team1}/policy/p/hourly/total_tokens/hour/identity/a"
POLICY = PolicyRef("team1", "p", "1")
BODY = b'{"model":"gpt","messages":[{"role":"user","content":"hi"}],"max_tokens":20}'
STREAMED = BODY[:-1] + b',"stream":true}'
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'

FIRST = Backend(PROVIDER, "gpt-real")


def grant(*, backends=(FIRST,), limit=10_000, more_budgets=(), **more):
    budgets = (Budget(COUNTER, Unit.TOTAL_TOKENS, limit, Per.HOUR), *more_budgets)
    return Grant("team1", "gpt", backends, ("openai_chat",), budgets, frozenset(), 50, None, 3600.0, (POLICY,), (POLICY,), **more)


CUT = Failed("Reset", ProviderUnavailable("cut"))


class Caller:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.status = 0
        self.headers = []
        self.body = b""
        self.begun = self.ended = self.full = False

    def begin(self, status, headers, *, length=None):
        self.begun, self.status = True, status

    def write(self, piece):
        self.body += piece

    async def room(self):
        pass

    def end(self):
        self.ended = True

    def whole(self, status, headers, body):
        self.begun = self.ended = True
        self.status, self.headers, self.body = status, headers, body


class Got:
    """A provider's answer: its pieces, with events to wait for in between."""

    def __init__(self, *pieces, status=200, stream=False):
        self.pieces, self.status, self.is_event_stream = list(pieces), status, stream
        self.passed_headers = []
        self.content_type = b"application/json"
        self.closed = False

    def retry_after_s(self):
        return None

    async def piece(self):
        while self.pieces:
            piece = self.pieces.pop(0)
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif isinstance(piece, Exception):
                raise piece
            else:
                return piece
        return b""

    async def whole(self):
        parts = []
        while part := await self.piece():
            parts.append(part)
        return b"".join(parts)

    async def unchecked(self):
        return await self.whole()

    def leaks(self, body):
        return False

    def close(self):
        self.closed = True


class World:
    """A house whose rooms say in which order they were entered."""

    def __init__(self, *got, **more):
        self.steps: list[str] = []
        self.lines = []
        self.gots = list(got) or [Got(ANSWER)]  # what each attempt meets; the last goes on
        self.decision = grant()
        self.refuse_identity = False
        self.clock = 100.0
        ledger = MemoryLedger(lambda: 1_000_000.0)
        self.ledger = ledger
        self.counting = Counting()
        telemetry = SimpleNamespace(exchange_done=lambda *_: None)
        audit = SimpleNamespace(ready=lambda: self.steps.append("audit ready"), write=self.lines.append)
        self.house = House(
            snapshot=lambda: SimpleNamespace(decide=self.decide, names_identity=lambda _: (POLICY,)),
            identify=self.identify,
            ledger=SimpleNamespace(hold=self.hold),
            settler=Settler(ledger),
            upstream=SimpleNamespace(send=self.send),
            counting=self.counting,
            audit=audit,
            telemetry=telemetry,
            now_s=lambda: self.clock,
            wall_s=lambda: 1_000_000.0,
            router=Router(lambda: self.clock, lambda: 0.0),
            **more,
        )

    def identify(self, tls, now):
        self.steps.append("identify")
        if self.refuse_identity:
            raise Unidentified("no")
        return AGENT

    def decide(self, identity, model):
        self.steps.append("decide")
        if isinstance(self.decision, Exception):
            raise self.decision
        return self.decision

    async def hold(self, ask):
        self.steps.append("hold")
        return await self.ledger.hold(ask)

    async def send(self, provider, path, headers, body, trace=()):
        self.steps.append("send")
        self.got = self.gots.pop(0) if len(self.gots) > 1 else self.gots[0]
        if isinstance(self.got, Exception):
            raise self.got
        return self.got

    async def spent(self):
        await self.house.settler.drain(1)
        return {reading.counter: reading.used for reading in await self.ledger.readings()}.get(COUNTER, 0)


def exchange(body=BODY):
    return Exchange("x1", "POST", "/v1/chat/completions", [], body, None, openai_chat, 100.0, 1_000_000.0)


async def walk(world, x=None, caller=None):
    caller = caller or Caller()
    await serve(x or exchange(), world.house, caller)
    return caller
