"""How much, how many, how long: the bounds of both sides of HTTP/1.1. Each has a default that fits a broker."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """What one door takes from its peers.

    connections: that are open. One more takes the place of one that asks for nothing; where there is none, it is told Busy.
    handshakes: that are under way. One more takes the place of the oldest. As many connections may be ending.
    bodies_bytes: of all bodies in flight together; the request that goes beyond it is refused as Busy.
    head_s: from the connection, or the first byte of a later request, to the end of the head.
    body_s: for the whole body; no byte extends it.
    write_s: how long a peer may leave our bytes unread.
    linger_s: how long we read on after a refusal, so that a TCP reset does not eat it.
    """

    head_bytes: int = 32 << 10
    header_count: int = 64
    body_bytes: int = 32 << 20
    bodies_bytes: int = 64 << 20
    connections: int = 1024
    handshakes: int = 256
    write_buffer_bytes: int = 64 << 10
    handshake_s: float = 10.0
    head_s: float = 10.0
    body_s: float = 60.0
    keep_alive_s: float = 75.0
    write_s: float = 60.0
    linger_s: float = 1.0


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """pool_idle_s must stay below the other side's own: a request into a closing connection cannot be sent again.

    sweep_s: how exact deadlines are. One timer looks at all of them; a timer a request would cost more than the request.
    """

    pool_idle_s: float = 30.0
    idle_connections: int = 256
    head_bytes: int = 32 << 10
    header_count: int = 128
    buffer_bytes: int = 64 << 10
    sweep_s: float = 0.25


USUAL: Final = ClientLimits()
