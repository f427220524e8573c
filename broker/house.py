"""What an exchange may use, and where its answer goes: the long-lived things of a broker, and the door's end of one exchange."""

from collections.abc import Callable
from dataclasses import dataclass, field
from ssl import SSLObject
from typing import Protocol

from broker.audit import Audit
from broker.chat import Header
from broker.counting import Counting
from broker.exchange import Exchange
from broker.identity import Identity
from broker.ledger.settling import Settler
from broker.policy import Snapshot
from broker.quota import Ledger
from broker.routing import Router
from broker.sealing import Seals
from broker.telemetry import Telemetry
from broker.tracing import Begin, untraced
from broker.upstream import Upstream


def _tell_nobody(_identity: Identity, _code: str, _model: str) -> None: ...


class Caller(Protocol):
    """The door's end of one exchange: where the answer goes. Writing to a caller that has gone does nothing."""

    @property
    def begun(self) -> bool: ...
    @property
    def full(self) -> bool: ...
    def begin(self, status: int, headers: list[Header], *, length: int | None = None) -> None: ...
    def write(self, piece: bytes) -> None: ...
    async def room(self) -> None: ...
    def end(self) -> None: ...
    def whole(self, status: int, headers: list[Header], body: bytes) -> None: ...


@dataclass(slots=True, eq=False, repr=False)
class House:
    """The long-lived things that a request may use. Built once, in wiring.py."""

    snapshot: Callable[[], Snapshot]
    identify: Callable[[SSLObject, float], Identity]
    ledger: Ledger
    settler: Settler
    upstream: Upstream
    counting: Counting
    audit: Audit
    telemetry: Telemetry
    now_s: Callable[[], float]  # monotonic
    wall_s: Callable[[], float]
    router: Router
    on_refusal: Callable[[Identity, str, str], None] = _tell_nobody  # identity, code, model as the caller wrote it
    trace: Begin = untraced
    seals: Seals | None = None  # None: there are no keys, so nothing that needs sealing is let through
    read_on_s: float = 0.0
    leaving: bool = False  # being stopped: not ready any more
    draining: bool = False  # and takes no new request either
    exchanges: set[Exchange] = field(default_factory=set[Exchange])
