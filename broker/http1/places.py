"""Where an origin can be reached: the addresses of its names, which of them failed of late, and how a dead one is heard."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final

from broker.config import Address

RESOLVE_S: Final = 4.0
FIRST_REST_S: Final = 10.0
LONGEST_REST_S: Final = 160.0
RESTING: Final = 256  # addresses remembered
# A machine that dies sends no FIN: only what it does not acknowledge tells. Sockets accepted by a listener inherit its options
HEARING: Final = (
    ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
    ("TCP_KEEPIDLE", socket.IPPROTO_TCP, 15),  # seconds
    ("TCP_KEEPINTVL", socket.IPPROTO_TCP, 5),
    ("TCP_KEEPCNT", socket.IPPROTO_TCP, 3),
)


class Places:
    """The addresses of one origin, tried in turn. One that failed comes last for a while, longer each time it fails again.

    named: as the operator gave them; all addresses of a name count.
    """

    def __init__(self, named: tuple[Address, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self._named = named
        self._clock = clock
        self._turn = 0
        self._rests: dict[Address, tuple[float, float]] = {}  # until when, and how long that was

    async def in_turn(self) -> list[Address]:
        """IP addresses in the order to try them in.

        Raises:
            OSError: no name can be resolved.
        """
        found: list[Address] = []
        failed: OSError | None = None
        for place in self._named:
            try:
                found += [place] if _is_ip(place.host) else await _resolve(place)
            except OSError as error:
                failed = error
        if failed is not None and not found:
            raise failed
        self._turn += 1
        first = self._turn % max(1, len(found))
        return sorted(found[first:] + found[:first], key=self.rests)  # a stable sort

    def rests(self, place: Address) -> bool:
        return self._rests.get(place, (0.0, 0.0))[0] > self._clock()

    def failed(self, place: Address) -> None:
        """Several requests that meet one failure count once."""
        if self.rests(place):
            return
        if len(self._rests) >= RESTING:  # of names whose addresses change
            self._rests.clear()
        rest_s = min(LONGEST_REST_S, 2 * self._rests.get(place, (0.0, FIRST_REST_S / 2))[1])
        self._rests[place] = self._clock() + rest_s, rest_s

    def worked(self, place: Address) -> None:
        self._rests.pop(place, None)


async def _resolve(place: Address) -> list[Address]:
    try:
        async with asyncio.timeout(RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, "the name was not resolved in time") from None
    return [Address(str(where[0]), place.port) for *_, where in found]


def _is_ip(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def hear_silence(sock: socket.socket, unacknowledged_s: float) -> None:
    """Let the kernel end a connection whose other side has vanished. Not every system has every option.

    unacknowledged_s: how long the other side may leave what was sent unacknowledged, or refuse to take more of it.
    """
    for name, level, value in (*HEARING, ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, round(unacknowledged_s * 1000))):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(level, option, value)
