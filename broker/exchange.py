"""One request on its way through the house: what is known so far, and nothing secret."""

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from broker import genai
from broker.audit import Line
from broker.chat import Demand, Usage
from broker.dialects import Question, Words
from broker.errors import BrokerError
from broker.grant import Backend, Grant
from broker.identity import Identity
from broker.ids import Ids
from broker.money import Rates
from broker.quota import Held
from broker.series import NO_CALL, Call
from broker.tracing import UNTRACED, Trace

NOTHING: Final = Usage(0, 0)
UNBILLED: Final = Usage(0, 0)  # of an attempt that nobody bills: the request counts, tokens do not, and it costs nothing


@dataclass(slots=True, eq=False, repr=False)
class Exchange:
    """Facts are set once, by the step that learns them, in the order below.

    A fact read before its step ran raises AttributeError: that is a bug in the pipeline, never a state to handle.
    No field ever holds a credential: `headers` are the caller's, cut to an allow-list by the door unless Passthrough needs more.

    began_s: monotonic seconds, as all durations here; time_s: wall clock, for audit alone.
    """

    # the door
    id: str
    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    tls: ssl.SSLObject
    dialect: Words
    began_s: float
    time_s: float
    query: str = ""
    # identify, read, authorize, route, admit
    identity: Identity = field(init=False)
    question: Question = field(init=False)
    grant: Grant = field(init=False)
    candidates: tuple[Backend, ...] = ()
    ids: Ids | None = None  # opens the request's, seals the answers'; None = nothing is kept for this caller
    tail: str = ""  # of the provider's path: the id of what is asked for, where that is kept; never shown
    backend: Backend = field(init=False)
    rates: Rates | None = None  # what any of the candidates bills at most; None = one of them has no price
    demand: Demand = field(init=False)
    hold_id: str = ""  # the open one's
    held: Held = field(init=False)
    held_tokens: int = 0  # of all holds
    # forward, meter
    tried: list[Backend] = field(default_factory=list[Backend])  # one for each attempt
    spent: Usage | None = None  # holds of earlier attempts, which the provider may have billed
    spent_microusd: int = 0
    usage: Usage | None = None  # final, or None while nobody knows
    sent: bool = False  # bytes may have reached a provider under the open hold
    first_byte_s: float | None = None
    status: int = 0
    code: str = ""
    # ended from outside, while in flight: the first cause wins
    task: asyncio.Task[None] | None = None
    ends_s: float = float("inf")
    cause: BrokerError | None = None
    trace: Trace = UNTRACED

    def end(self, cause: BrokerError) -> None:
        """End this exchange now, whatever it waits for, and say why."""
        if self.cause is None and self.task is not None and not self.task.done():
            self.cause = cause
            self.task.cancel()

    def bound(self) -> Usage:
        """The open hold, spent whole."""
        return Usage(self.demand.prompt_bound, self.held.granted_output)

    def charged(self) -> Usage | None:
        """What the quotas are charged: what the provider billed, each hold whole where nobody knows; None when nothing was sent."""
        now = (self.usage or self.bound()) if self.sent else None
        was = self.spent
        if was is None or now is None:
            return was or now
        return Usage(was.input_tokens + now.input_tokens, was.output_tokens + now.output_tokens, was.cached_tokens + now.cached_tokens)

    def cost(self) -> int | None:
        """Micro-dollars that the open hold was billed, at the price of the backend that answered; None where nobody knows."""
        if self.usage is None or self.usage is UNBILLED:
            return None if self.usage is None else 0
        return self.backend.price.cost(self.usage) if self.backend.price and self.demand.priced else None

    def charged_microusd(self) -> int | None:
        """As charged, of money; None where nobody knows a price."""
        if not self.sent:
            return self.spent_microusd if self.rates else None
        now = self.cost()
        if now is None:
            if self.rates is None:
                return None
            now = self.rates.microusd(self.demand.prompt_bound, self.held.granted_output)
        return self.spent_microusd + now

    def call(self) -> Call:
        """What was asked of whom, as metrics name it."""
        if not hasattr(self, "grant"):
            return NO_CALL
        provider = genai.provider(self.tried[-1].provider.kind) if self.tried else ""
        return Call(self.grant.model, provider, genai.operation(self.dialect.NAME))

    def record(self, now_s: float) -> Line:
        """The audit line of whatever facts are known: a request that stopped half way shows how far it came."""
        charged = self.charged() or NOTHING
        grant = getattr(self, "grant", None)
        held = getattr(self, "held", None)
        question = getattr(self, "question", None)
        identity = getattr(self, "identity", None)
        backend = getattr(self, "backend", None)
        return Line(
            time=datetime.fromtimestamp(self.time_s, UTC),
            exchange=self.id,
            code=self.code,
            status=self.status,
            decision="allowed" if held or self.code == "listed" else "refused",
            spiffe_id=identity.spiffe_id if identity else "",
            dialect=self.dialect.NAME,
            stream=question.streaming if question else False,
            model=question.model if question else "",
            namespace=grant.namespace if grant else "",
            provider=backend.provider.name if backend else "",
            provider_model=backend.model if backend else "",
            attempts=len(self.tried),
            policies=grant.policies if grant else (),
            features=tuple(question.features) if question else (),
            would_refuse=(*grant.would_refuse, *held.would_refuse) if grant and held else (),
            held_tokens=self.held_tokens,
            input_tokens=charged.input_tokens,
            output_tokens=charged.output_tokens,
            cached_tokens=charged.cached_tokens,
            cost_microusd=self.charged_microusd(),
            estimated=self.spent is not None or (self.sent and self.usage is None),
            first_byte_ms=None if self.first_byte_s is None else round((self.first_byte_s - self.began_s) * 1000, 3),
            total_ms=round((now_s - self.began_s) * 1000, 3),
        )
