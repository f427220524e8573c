"""The doorstep: takes connections off a listening socket, and bounds those whose TLS handshake is under way.

asyncio's own servers bound a handshake in time alone, so that a peer that opens connections and says nothing could have as many
as it likes. Here one too many costs the oldest its place: an honest handshake is over long before it is the oldest.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from broker.http1.limits import Limits
from broker.http1.places import hear_silence

log = logging.getLogger(__name__)

BACKLOG: Final = 512
ACCEPTS: Final = 16  # at a time: when a thousand honest peers come at once, their handshakes must end faster than new ones begin
SILENCE_S: Final = 30.0  # beyond our own deadline for peers that do not read
PAUSE_S: Final = 1.0  # when there is no descriptor left
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Listener:
    """One listening socket. Each connection gets a protocol of `make`, under TLS once its handshake has ended well.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self, address: tuple[str, int], make: Callable[[], asyncio.BaseProtocol], limits: Limits, tls: ssl.SSLContext | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._limits = limits
        self._tls = tls
        both = not address[0] and socket.has_dualstack_ipv6()  # a cluster may have IPv6 alone
        family = socket.AF_INET6 if both or ":" in address[0] else socket.AF_INET
        self._sock = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
        hear_silence(self._sock, limits.write_s + SILENCE_S)
        self._sock.setblocking(False)  # noqa: FBT003  its only parameter
        self._opening: dict[asyncio.Task[None], None] = {}  # in the order in which they came
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._sock, self._accept)

    @property
    def port(self) -> int:
        port: int = self._sock.getsockname()[1]
        return port

    @property
    def opening(self) -> int:
        """Connections that are not open yet."""
        return len(self._opening)

    def shut(self) -> None:
        """Take no more. Handshakes that are under way go on: a client's is over before ours, and it may have asked already."""
        if self._sock.fileno() < 0:
            return  # it is shut
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    async def opened(self) -> None:
        """Wait until no handshake is under way."""
        if self._opening:
            await asyncio.wait(tuple(self._opening))

    def close(self) -> None:
        """Take no more, and end the handshakes that are under way, so that their clients go elsewhere."""
        self.shut()
        for task in tuple(self._opening):
            task.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                log.error("cannot_accept", extra={"reason": errno.errorcode[error.errno]})  # noqa: TRY400  the traceback says no more
                self._loop.remove_reader(self._sock)  # it would be reported ready for ever
                self._pause = self._loop.call_later(PAUSE_S, self._loop.add_reader, self._sock, self._accept)
                return
            self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        if len(self._opening) >= self._limits.handshakes:
            oldest = next(iter(self._opening))
            del self._opening[oldest]
            oldest.cancel()
        task = self._loop.create_task(self._open(sock))
        self._opening[task] = None
        task.add_done_callback(self._opened)

    async def _open(self, sock: socket.socket) -> None:
        limits = self._limits
        try:
            if self._tls is None:
                await self._loop.connect_accepted_socket(self._make, sock)
            else:
                await self._loop.connect_accepted_socket(
                    self._make, sock, ssl=self._tls, ssl_handshake_timeout=limits.handshake_s, ssl_shutdown_timeout=limits.linger_s
                )
        except BaseException as error:
            sock.close()  # without an SVID there never was a transport to do so
            # Its frames hold what it is raised from: a circle, which would keep 100 KB of TLS until some later garbage collection
            error.__traceback__ = None
            if not isinstance(error, OSError):  # that is a peer's doing, and counted by the context
                raise

    def _opened(self, task: "asyncio.Task[None]") -> None:
        self._opening.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("cannot_open", extra={"error": type(error).__name__})
