"""One request on its way through the house: what is known so far, and nothing secret."""

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime

from broker.audit import Line
from broker.chat import Demand, Usage
from broker.dialects import Dialect, Meter, Question
from broker.errors import BrokerError
from broker.grant import Backend, Grant
from broker.identity import Identity
from broker.quota import Held


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
    dialect: Dialect
    began_s: float
    time_s: float
    # identify, read, authorize, route, admit
    identity: Identity = field(init=False)
    question: Question = field(init=False)
    grant: Grant = field(init=False)
    backend: Backend = field(init=False)
    demand: Demand = field(init=False)
    held: Held = field(init=False)
    # forward, meter
    meter: Meter = field(init=False)
    usage: Usage | None = None  # final, or None while nobody knows
    sent: bool = False  # bytes of this exchange may have reached a provider
    first_byte_s: float | None = None
    status: int = 0
    code: str = ""
    # ended from outside, while in flight: the first cause wins
    task: asyncio.Task[None] | None = None
    ends_s: float = float("inf")
    cause: BrokerError | None = None

    def end(self, cause: BrokerError) -> None:
        """End this exchange now, whatever it waits for, and say why."""
        if self.cause is None and self.task is not None and not self.task.done():
            self.cause = cause
            self.task.cancel()

    def charged(self) -> Usage | None:
        """What the quotas are charged: what the provider billed, the whole hold where nobody knows, None without a hold or a byte sent."""
        if not self.sent or not hasattr(self, "held"):
            return None
        return self.usage or Usage(self.demand.prompt_bound, self.held.granted_output)

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
            attempts=int(self.sent),
            policies=grant.policies if grant else (),
            features=tuple(question.features) if question else (),
            would_refuse=(*grant.would_refuse, *held.would_refuse) if grant and held else (),
            held_tokens=self.demand.prompt_bound + held.granted_output if held else 0,
            input_tokens=charged.input_tokens,
            output_tokens=charged.output_tokens,
            cached_tokens=charged.cached_tokens,
            estimated=self.sent and self.usage is None,
            first_byte_ms=None if self.first_byte_s is None else round((self.first_byte_s - self.began_s) * 1000, 3),
            total_ms=round((now_s - self.began_s) * 1000, 3),
        )


NOTHING = Usage(0, 0)
