"""Every way to get more than a quota that users of other gateways have found. Each is tried on our brokers, and on a store that one would
write first, which it cheats: so the trick is one, and the test would notice.

The judge is the provider: it does what it is asked, and bills all of it by its own clock.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
from support.clock import Clock
from support.hallway import Caller, Got
from support.ledgers import open_ledger
from support.worlds import access, routing, who, world

from broker.counting import Counting
from broker.dialects import anthropic_messages, openai_chat
from broker.exchange import Exchange
from broker.house import House
from broker.ledger.settling import Settler
from broker.pipeline import serve
from broker.routing import Router

LIMIT = 1500  # tokens an hour
OUTPUT = 200
AGENT = "spiffe://example.org/ns/team1/sa/agent"
HOUR_S = 3600
COUNTED = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
ROUTES = {
    "chat": (openai_chat, "/v1/chat/completions"),
    "messages": (anthropic_messages, "/v1/messages"),
}
CLAUDE = """---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {name: claude, namespace: team1}
spec:
  providers: [{name: a, schema: Anthropic}]
  models: [{name: claude, backends: [{provider: a, model: real}]}]
"""


def question(model: str = "gpt", output: int = OUTPUT, text: str = "hello", **more: object) -> bytes:
    return json.dumps({"model": model, "max_tokens": output, "messages": [{"role": "user", "content": text}], **more}).encode()


class Provider:
    """Reads a token in every byte, says `words` or all that it may, and bills it when it begins. A stream waits for `go` before it reports.

    report: what its usage is in its answers, given the tokens in and out; None = none.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.billed = Counter[int]()
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.words = 10**9
        self.asked = 0
        self.report: Callable[[int, int], object] = lambda read, written: {"prompt_tokens": read, "completion_tokens": written}
        self._clock = clock

    @property
    def dearest_hour(self) -> int:
        return max(self.billed.values(), default=0)

    async def send(self, _provider: object, path: str, _headers: object, body: bytes, _trace: object = ()) -> Got:
        asked = json.loads(body)  # of a key that is there twice, the last one counts
        written = min(self.words, asked["max_tokens"]) * asked.get("n", 1)
        read = len(asked["messages"][0]["content"])
        self.billed[int(self._clock() // HOUR_S)] += read + written
        self.asked += 1
        self.began.set()
        usage = self.report(read, written)
        if not asked.get("stream"):
            return Got(json.dumps({"choices": [], "content": [], "usage": usage}).encode())
        is_asked = asked.get("stream_options", {}).get("include_usage") and usage is not None
        told = b'data: {"choices":[],"usage":%b}\n\n' % json.dumps(usage).encode() if is_asked else b""
        return Got(b'data: {"choices":[{"index":0,"delta":{"content":"w"}}]}\n\n', self.go, told + b"data: [DONE]\n\n", stream=True)


class LooksFirst:
    """The store that one would write first: looks what was used, and adds what was reported when the answer is there.

    It counts in its own process, in the hours of its own clock, for the model by the name that was asked for.
    """

    def __init__(self, provider: Provider, clock: Callable[[], float], skew_s: float) -> None:
        self.used = Counter[tuple[str, int]]()
        self._provider = provider
        self._clock = clock
        self._skew_s = skew_s

    def hour(self) -> int:
        return int((self._clock() + self._skew_s) // HOUR_S)

    async def forward(self, body: bytes) -> int:
        """The tokens that the answer reports."""
        got = await self._provider.send(None, "", None, body)
        answer = b""
        while piece := await got.piece():
            answer += piece
        said = answer.removeprefix(b"data: ").split(b"\n\ndata: ") if got.is_event_stream else [answer]
        usages = [json.loads(one).get("usage") or {} for one in said if one.startswith(b"{")]
        return sum(usage.get(name, 0) for usage in usages for name in COUNTED)

    async def ask(self, body: bytes, route: str = "chat") -> bool:
        window = json.loads(body)["model"], self.hour()
        used = self.used[window]
        await asyncio.sleep(0)
        if used >= LIMIT:
            return False
        reported = await self.forward(body)
        self.used[window] += reported
        return True

    async def close(self) -> None:
        """Nothing to close."""


class GivesBack(LooksFirst):
    """The one after that: takes the most that a request may cost, and gives the rest back when the answer is there."""

    async def ask(self, body: bytes, route: str = "chat") -> bool:
        asked = json.loads(
            body, object_pairs_hook=lambda pairs: dict(reversed(pairs))
        )  # of a key that is there twice, the first one counts
        most = len(body) + asked["max_tokens"]
        if self.used["", self.hour()] + most > LIMIT:
            return False
        self.used["", self.hour()] += most
        reported = await self.forward(body)
        self.used["", self.hour()] -= most - min(most, reported)
        return True


class Broker:
    """Ours: the whole way of a request, with a quota store that all brokers share."""

    def __init__(self, provider: Provider, clock: Callable[[], float], skew_s: float, ledger: object) -> None:
        quotas = f"[{{name: hourly, tokens: {LIMIT}, per: Hour, strict: true}}]"
        snapshot = world(routing(), CLAUDE, access(spec=f"{{subjects: [{{spiffeID: '{AGENT}'}}], models: ['*'], quotas: {quotas}}}"))
        self._settler, self._counting = Settler(ledger), Counting()
        self._asked = 0
        self._house = House(
            snapshot=lambda: snapshot,
            identify=lambda _tls, _now: who(AGENT),
            ledger=ledger,
            settler=self._settler,
            upstream=provider,
            counting=self._counting,
            audit=SimpleNamespace(ready=lambda: None, write=lambda _: None),
            telemetry=SimpleNamespace(exchange_done=lambda *_: None),
            now_s=lambda: 100.0,
            wall_s=lambda: clock() + skew_s,
            router=Router(lambda: 100.0, lambda: 0.0),
        )

    async def ask(self, body: bytes, route: str = "chat") -> bool:
        dialect, path = ROUTES[route]
        self._asked += 1
        caller = Caller()
        await serve(Exchange(f"{id(self)}-{self._asked}", "POST", path, [], body, None, dialect, 100.0, 0.0), self._house, caller)
        await self._settler.drain(5)
        return caller.status == 200

    async def close(self) -> None:
        self._counting.close()


Gate = LooksFirst | Broker


class Stage:
    """Two replicas, of which the second's clock is an hour ahead, before one provider."""

    def __init__(self, clock: Clock, provider: Provider, gates: list[Gate]) -> None:
        self.clock = clock
        self.provider = provider
        self.gates = gates

    async def ask(self, *bodies: bytes, route: str = "chat") -> int:
        """One after the other, of the first replica. How many it let through."""
        return sum([await self.gates[0].ask(body, route) for body in bodies])

    async def hang_up(self, body: bytes) -> None:
        """Leave when the answer has begun."""
        self.provider.began.clear()
        asking = asyncio.create_task(self.gates[0].ask(body))
        beginning = asyncio.create_task(self.provider.began.wait())
        await asyncio.wait((asking, beginning), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        for task in (asking, beginning):
            task.cancel()
        await asyncio.wait((asking, beginning))


async def all_at_once(stage: Stage) -> None:
    await asyncio.gather(*(stage.gates[0].ask(question()) for _ in range(64)))


async def at_every_replica(stage: Stage) -> None:
    for gate in stage.gates:
        while await gate.ask(question()):
            pass


async def a_replica_whose_clock_is_ahead(stage: Stage) -> None:
    for ahead in (0, 1, 0, 1):
        for _ in range(10):
            await stage.gates[ahead].ask(question())


async def hanging_up_before_the_usage(stage: Stage) -> None:
    for _ in range(20):
        await stage.hang_up(question(stream=True))


async def a_stream_that_asks_for_no_usage(stage: Stage) -> None:
    stage.provider.go.set()
    await stage.ask(*[question(stream=True)] * 20)


async def a_provider_that_reports_nothing(stage: Stage) -> None:
    stage.provider.report = lambda _read, _written: None
    await stage.ask(*[question()] * 20)


async def a_provider_that_reports_less_than_nothing(stage: Stage) -> None:
    stage.provider.report = lambda read, written: {"prompt_tokens": read, "completion_tokens": -written}
    await stage.ask(*[question()] * 20)


async def many_answers_to_one_question(stage: Stage) -> None:
    await stage.ask(question(n=128))


async def a_limit_that_is_there_twice(stage: Stage) -> None:
    await stage.ask(*[question().replace(b'"max_tokens": 200', b'"max_tokens": 1, "max_tokens": 2000')] * 3)


async def a_limit_of_its_own_for_each_parser(stage: Stage) -> None:
    await stage.ask(*[question().replace(b'"max_tokens": 200', b'"max_tokens": 1, "max_token\\u0073": 2000')] * 3)


async def a_model_by_all_its_names(stage: Stage) -> None:
    for name in ("gpt", "team1/gpt"):
        await stage.ask(*[question(name)] * 20)


async def a_prompt_that_is_read_from_a_cache(stage: Stage) -> None:
    stage.provider.report = lambda read, written: {"input_tokens": 10, "cache_read_input_tokens": read - 10, "output_tokens": written}
    await stage.ask(*[question("claude", 20, "x" * 300)] * 20, route="messages")


async def what_ends_in_the_next_window(stage: Stage) -> None:
    """Begun before the hour, ended after it: what is given back belongs to the hour before."""
    stage.clock.move(HOUR_S - 1)
    stage.provider.words = 1
    short = question(stream=True, stream_options={"include_usage": True})
    asking = [asyncio.create_task(stage.gates[0].ask(short)) for _ in range(10)]
    while stage.provider.asked + sum(task.done() for task in asking) < len(asking):
        await asyncio.sleep(0)
    stage.clock.move(2)
    stage.provider.go.set()
    await asyncio.gather(*asking)
    stage.provider.words = 10**9
    await stage.ask(*[question()] * 20)


Cheat = Callable[[Stage], Awaitable[None]]
CHEATS: dict[Cheat, type[LooksFirst]] = {
    all_at_once: LooksFirst,
    at_every_replica: LooksFirst,
    a_replica_whose_clock_is_ahead: LooksFirst,
    hanging_up_before_the_usage: LooksFirst,
    a_stream_that_asks_for_no_usage: LooksFirst,
    a_provider_that_reports_nothing: LooksFirst,
    a_provider_that_reports_less_than_nothing: LooksFirst,
    many_answers_to_one_question: LooksFirst,
    a_limit_that_is_there_twice: GivesBack,
    a_limit_of_its_own_for_each_parser: GivesBack,
    a_model_by_all_its_names: LooksFirst,
    a_prompt_that_is_read_from_a_cache: LooksFirst,
    what_ends_in_the_next_window: GivesBack,
}
REFUSED = {many_answers_to_one_question, a_limit_that_is_there_twice, a_limit_of_its_own_for_each_parser}
SKEWS_S = (0.0, float(HOUR_S))


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
async def test_no_cheat_gets_a_token_above_the_quota(cheat, tmp_path):
    clock = Clock()
    provider = Provider(clock)
    ledgers = [await open_ledger("redis", tmp_path, clock) for _ in SKEWS_S]
    gates = [Broker(provider, clock, skew_s, ledger) for skew_s, ledger in zip(SKEWS_S, ledgers, strict=True)]
    await cheat(Stage(clock, provider, gates))
    assert provider.dearest_hour <= LIMIT
    assert bool(provider.billed) == (cheat not in REFUSED)
    for one in (*gates, *ledgers):
        await one.close()


@pytest.mark.parametrize(("cheat", "naive"), CHEATS.items(), ids=lambda one: one.__name__)
async def test_the_same_cheat_gets_more_of_a_naive_store(cheat, naive):
    clock = Clock()
    provider = Provider(clock)
    await cheat(Stage(clock, provider, [naive(provider, clock, skew_s) for skew_s in SKEWS_S]))
    assert provider.dearest_hour > LIMIT
