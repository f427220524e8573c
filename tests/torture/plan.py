"""What one seed decides: the quotas, what each caller asks and when it loses patience, what is broken when. Nothing else is random.

Only the processes' own timing differs between two runs of a seed; every choice is drawn from the seed and from who chooses.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

BROKERS: Final = 4
CALLERS: Final = 200
AGENTS: Final = tuple(f"spiffe://example.org/ns/team1/sa/agent-{number}" for number in range(3))
WIDTH: Final = 24  # of each agent; a broker that is killed takes its share of it along for half a minute
LOAD_S: Final = 10.0  # in which all events are; callers go on until all is used up,
MOST_S: Final = 25.0  # or, on a machine with other things to do, so long
# bytes of a question's text: so many sizes, a prime number of them, that no two of an agent's questions have the same
LEAST_TEXT, SIZES = 80, 1009
OUTPUTS: Final = (1, 20, 60, 200)
PATIENCES_S: Final = (0.05, 0.3, 1.0, 30.0, 30.0, 30.0, 30.0)

Kind = Literal["lossy", "strict", "counted"]
Unit = Literal["tokens", "output", "requests", "concurrent"]
Deed = Literal["kill", "pause", "restart", "save", "lose"]
KINDS: Final[tuple[Kind, ...]] = ("lossy", "strict", "counted")


@dataclass(frozen=True)
class Quota:
    name: str
    unit: Unit
    limit: int
    shared: bool = False

    def cost(self, read: int, written: int, requests: int) -> int:
        """What one request takes of it."""
        match self.unit:
            case "tokens":
                return read + written
            case "output":
                return written
            case "requests":
                return requests
            case "concurrent":
                return 1

    def yaml(self, *, strict: bool) -> str:
        if self.unit == "concurrent":
            return f"{{name: {self.name}, concurrent: {self.limit}}}"
        what = {"tokens": "", "output": "tokenCountMode: OutputToken, ", "requests": ""}[self.unit]
        counted = "requests" if self.unit == "requests" else "tokens"
        scope = ", scope: Policy" if self.shared else ""
        return f"{{name: {self.name}, {what}{counted}: {self.limit}, per: Month{scope}{', strict: true' if strict else ''}}}"


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
    seed: int
    kind: Kind
    quotas: tuple[Quota, ...]
    events: tuple[Event, ...]

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
        Quota("width", "concurrent", WIDTH),
    )
    return Plan(seed, kind, quotas, tuple(sorted(_events(drawn, kind), key=lambda event: event.at_s)))


def _events(drawn: random.Random, kind: Kind) -> list[Event]:
    """In a lossy seed one broker at least lives that was told of what is lost: where none does, nobody can know (docs/quotas.md)."""
    last_s = LOAD_S - 2
    if kind == "lossy":
        early = [Event(drawn.uniform(0.5, 2), "kill", drawn.uniform(0.1, 1), (drawn.randrange(BROKERS),))]
        along = tuple(drawn.sample(range(BROKERS), drawn.randint(0, 2)))
        return [*early, Event(drawn.uniform(3, 4), "save"), Event(drawn.uniform(5, 6), "lose", drawn.uniform(0.1, 0.5), along)]
    kills = [
        Event(drawn.uniform(0.5, last_s), "kill", drawn.uniform(0.1, 1), (drawn.randrange(BROKERS),)) for _ in range(drawn.randint(1, 3))
    ]
    pauses = [Event(drawn.uniform(0.5, last_s), "pause", drawn.uniform(0.1, 1.5)) for _ in range(drawn.randint(1, 2))]
    return [*kills, *pauses, Event(drawn.uniform(1, last_s - 2), "restart", drawn.uniform(0.05, 0.5))]


def questions(seed: int, caller: int) -> Iterator[Question]:
    """All that one caller asks, one after the other."""
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
            patience_s=drawn.choice(PATIENCES_S),
        )
        number += 1
