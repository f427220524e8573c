"""What one seed decides: the quotas, what each caller asks and when it loses patience, what is broken when. Nothing else is random.

Only the processes' own timing differs between two runs of a seed; every choice is drawn from the seed and from who chooses.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Literal, NamedTuple

from broker.chat import Usage
from broker.money import PICO, Price, Rates, dearest, dollars, read_microusd

BROKERS: Final = 4
CALLERS: Final = 200
AGENTS: Final = tuple(f"spiffe://example.org/ns/team1/sa/agent-{number}" for number in range(3))
WIDTH: Final = 24  # of each agent; a broker that is killed takes its share of it along for half a minute
LOAD_S: Final = 10.0  # in which all events are
# bytes of a question's text: so many sizes, a prime number of them, that no two of an agent's questions have the same
LEAST_TEXT, SIZES = 80, 1009
OUTPUTS: Final = (1, 20, 60, 200)
PATIENT_S: Final = 30.0
PATIENCES_S: Final = (0.05, 0.3, 1.0, PATIENT_S, PATIENT_S, PATIENT_S, PATIENT_S)
# What the two backends bill: dollars for a million tokens read and written, and for a request. Neither is dearer in all.
PRICES: Final = {"gpt-a": ("1.500007", "6.25", "0.0001"), "gpt-b": ("0.3", "12.500001", "0")}

Kind = Literal["lossy", "strict", "counted", "edge"]
Unit = Literal["tokens", "output", "requests", "usd", "concurrent"]
Deed = Literal["kill", "pause", "restart", "save", "lose"]
KINDS: Final[tuple[Kind, ...]] = ("lossy", "strict", "counted", "edge")
# Callers go on until all is used up, or, on a machine with other things to do, so long
MOST_S: Final[dict[Kind, float]] = {"lossy": LOAD_S, "strict": 25.0, "counted": 25.0, "edge": 60.0}


def price(model: str) -> Price:
    read, written, request = map(read_microusd, PRICES[model])
    return Price(read, written, cached_input=read, cache_write=read, request=request * PICO)


def rates(backends: Iterable[str]) -> Rates:
    """What any of them bills at most."""
    found = dearest(map(price, backends))
    assert found is not None
    return found


DEAREST: Final = rates(PRICES)._replace(request=0)


class Charge(NamedTuple):
    """Tokens, and what they cost in micro-dollars."""

    read: int
    written: int
    microusd: int

    @property
    def tokens(self) -> int:
        return self.read + self.written

    def __add__(self, other: object) -> "Charge":
        assert isinstance(other, Charge)
        return Charge(self.read + other.read, self.written + other.written, self.microusd + other.microusd)

    def fits(self, holds: "Charge", saved: int = 0, rest: int = 0) -> bool:
        """It is these holds, or less by what a count of prompts saved, or more by what was left when the output was parted among answers."""
        inexact = 1 if saved or rest else 0  # each sum is rounded once
        return (
            0 <= holds.read - self.read <= saved
            and 0 <= self.written - holds.written <= rest
            and -inexact <= self.microusd - holds.microusd + DEAREST.microusd(saved, 0)
            and self.microusd - holds.microusd <= DEAREST.microusd(0, rest) + inexact
        )


def billed(model: str, read: int, written: int) -> Charge:
    return Charge(read, written, price(model).cost(Usage(read, written)))


NOTHING: Final = Charge(0, 0, 0)


@dataclass(frozen=True)
class Quota:
    name: str
    unit: Unit
    limit: int
    shared: bool = False

    def cost(self, charge: Charge, requests: int) -> int:
        """What one request takes of it."""
        match self.unit:
            case "tokens":
                return charge.tokens
            case "output":
                return charge.written
            case "usd":
                return charge.microusd
            case "requests":
                return requests
            case "concurrent":
                return 1

    def yaml(self, *, strict: bool) -> str:
        if self.unit == "concurrent":
            return f"{{name: {self.name}, concurrent: {self.limit}}}"
        what = {
            "tokens": f"tokens: {self.limit}",
            "output": f"tokenCountMode: OutputToken, tokens: {self.limit}",
            "requests": f"requests: {self.limit}",
            "usd": f'usd: "{dollars(self.limit)}"',
        }[self.unit]
        more = f"{', scope: Policy' if self.shared else ''}{', strict: true' if strict and self.is_counted else ''}"
        return f"{{name: {self.name}, {what}, per: Month{more}}}"

    @property
    def is_counted(self) -> bool:
        """A prompt that is counted instead of bounded takes less of it."""
        return self.unit in ("tokens", "usd")


@dataclass(frozen=True)
class Question:
    """One request of one caller. The provider finds its agent and its tag in the text."""

    tag: str
    agent: str
    size: int
    streaming: bool
    limit: int
    choices: int
    patience_s: float

    def body(self) -> bytes:
        text = (f"{self.agent} {self.tag} " + "weather " * self.size)[: self.size]
        body: dict[str, object] = {"model": "gpt", "max_tokens": self.limit, "messages": [{"role": "user", "content": text}]}
        body |= ({"stream": True} if self.streaming else {}) | ({"n": self.choices} if self.choices > 1 else {})
        return json.dumps(body).encode()


@dataclass(frozen=True)
class Event:
    """At `at_s` of the load something is done, to these brokers or to the store; what was taken away is back after `for_s`."""

    at_s: float
    deed: Deed
    for_s: float = 0.0
    brokers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """backends: in the order in which they are asked. tight: the quota that is to be used up first, where that is planned."""

    seed: int
    kind: Kind
    quotas: tuple[Quota, ...]
    events: tuple[Event, ...]
    backends: tuple[str, ...]
    tight: str = ""

    def held(self, read: int, written: int) -> Charge:
        """As a broker holds it, that does not know which backend will answer."""
        return Charge(read, written, rates(self.backends).microusd(read, written))

    @property
    def width(self) -> Quota:
        return next(quota for quota in self.quotas if quota.unit == "concurrent")


def plan(seed: int) -> Plan:
    drawn = random.Random(seed)  # noqa: S311  dice, no secret
    kind = KINDS[seed % len(KINDS)]
    more = 4 if kind == "lossy" else 1  # what is lost must be found before all is used up
    quotas = (
        Quota("each", "tokens", more * drawn.randint(40_000, 200_000)),
        Quota("all", "tokens", more * drawn.randint(120_000, 500_000), shared=True),
        Quota("said", "output", more * drawn.randint(5_000, 50_000)),
        Quota("asked", "requests", more * drawn.randint(60, 400)),
        Quota("paid", "usd", more * drawn.randint(150_000, 600_000)),
        Quota("width", "concurrent", WIDTH),
    )
    events = tuple(sorted(_events(drawn, kind), key=lambda event: event.at_s))
    backends = tuple(drawn.sample(sorted(PRICES), len(PRICES)))
    return _tightened(seed, Plan(seed, kind, quotas, events, backends))


def _tightened(seed: int, it: Plan) -> Plan:
    """In an edge seed one quota is used up, each in its turn, before any other stands in the way, and what uses it up is use.

    It has one backend, since what is held for several is a price that none of them has.
    """
    if it.kind != "edge":
        return it
    limits = {"each": 60_000, "all": 180_000, "said": 9_001, "asked": 150, "paid": 250_001}
    tight = list(limits)[seed // len(KINDS) % len(limits)]
    quotas = (
        replace(quota, limit=limits.get(quota.name, quota.limit) * (1 if quota.name in (tight, "width") else 20)) for quota in it.quotas
    )
    return replace(it, quotas=tuple(quotas), tight=tight, backends=it.backends[:1])


def _events(drawn: random.Random, kind: Kind) -> list[Event]:
    """In a lossy seed one broker at least lives that was told of what is lost: where none does, nobody can know (docs/quotas.md)."""
    last_s = LOAD_S - 2
    if kind == "lossy":
        early = [Event(drawn.uniform(0.5, 2), "kill", drawn.uniform(0.1, 1), (drawn.randrange(BROKERS),))]
        along = tuple(drawn.sample(range(BROKERS), drawn.randint(0, 2)))
        return [*early, Event(drawn.uniform(3, 4), "save"), Event(drawn.uniform(5, 6), "lose", drawn.uniform(0.1, 0.5), along)]
    if kind == "edge":
        return [Event(drawn.uniform(0.5, last_s), "pause", drawn.uniform(0.1, 1.5)), Event(drawn.uniform(1, 4), "restart", 0.1)]
    kills = [
        Event(drawn.uniform(0.5, last_s), "kill", drawn.uniform(0.1, 1), (drawn.randrange(BROKERS),)) for _ in range(drawn.randint(1, 3))
    ]
    pauses = [Event(drawn.uniform(0.5, last_s), "pause", drawn.uniform(0.1, 1.5)) for _ in range(drawn.randint(1, 2))]
    return [*kills, *pauses, Event(drawn.uniform(1, last_s - 2), "restart", drawn.uniform(0.05, 0.5))]


def questions(seed: int, caller: int) -> Iterator[Question]:
    """All that one caller asks, one after the other."""
    hurried = KINDS[seed % len(KINDS)] != "edge"
    drawn = random.Random(f"{seed}/caller/{caller}")  # noqa: S311  dice, no secret
    agent, fellows = caller % len(AGENTS), -(-CALLERS // len(AGENTS))
    number = 0
    while True:
        index = number * fellows + caller // len(AGENTS)
        yield Question(
            tag=f"{caller:03}-{number:03}",
            agent=f"agent-{agent}",
            size=LEAST_TEXT + index * 37 % SIZES,
            streaming=drawn.random() < 0.5,
            limit=drawn.choice(OUTPUTS),
            choices=drawn.choice((1, 1, 1, 2, 3)),
            patience_s=drawn.choice(PATIENCES_S) if hurried else PATIENT_S,
        )
        number += 1


def question(seed: int, tag: str) -> Question:
    caller, number = map(int, tag.split("-"))
    return next(islice(questions(seed, caller), number, None))
