"""The SPIFFE Workload API's FetchX509SVID: who this process is, and whom it may believe, for as long as it runs.

By hand on `h2`, because grpcio would cost every agent's pod 8 MB and two threads for one server stream whose messages have six
fields. What gRPC is here: one HTTP/2 POST, a body cut into length-prefixed messages, a status in the trailers.

A lost agent is not a lost identity: the last update stays good until its certificates expire. Only PERMISSION_DENIED withdraws it.
"""

import asyncio
import ipaddress
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from broker.grpc import INVALID_ARGUMENT, PERMISSION_DENIED, STATUS_NAMES, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN, BadFrame, Frames, frame
from broker.svids import FETCH_X509_SVID, SOCKET_PATH_BYTES, Update, decode

_READ_BYTES: Final = 65536


class WorkloadApiError(Exception):
    """The stream ended with a gRPC status, or in a way that gRPC maps to one."""

    def __init__(self, status: int, message: str) -> None:
        # printable and short: the text comes from the other side and goes to a log
        text = "".join(c if c.isprintable() else "?" for c in message)[:300]
        super().__init__(f"{STATUS_NAMES.get(status, status)}: {text}")
        self.status = status

    @property
    def fatal(self) -> bool:
        """These two say that we ask wrongly, so that asking again cannot help. Source: Workload Endpoint, appendix A."""
        return self.status in {INVALID_ARGUMENT, UNIMPLEMENTED}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the agent listens: a Unix socket's path, or host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Read `unix:///PATH` or `tcp://IP:PORT`. Nothing else may be set.

    Raises:
        ValueError: it is neither.

    Source: SPIFFE Workload Endpoint §4.
    """
    scheme, _, rest = text.partition("://")
    if scheme == "unix":
        if not rest.startswith("/") or not rest.strip("/") or any(c in "?#%" or not c.isprintable() for c in rest):
            raise ValueError("a Unix endpoint is unix:///PATH, with an absolute path and nothing else")
        if len(rest.encode()) > SOCKET_PATH_BYTES:
            raise ValueError(f"the path of a Unix socket has at most {SOCKET_PATH_BYTES} bytes")
        return Endpoint(path=rest)
    if scheme == "tcp":
        return _tcp_endpoint(rest)
    raise ValueError("an endpoint is unix:///PATH or tcp://IP:PORT")


def _tcp_endpoint(rest: str) -> Endpoint:
    host, colon, port = rest.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        address = None
    known = port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16
    if address is None or not colon or not known or bracketed != isinstance(address, ipaddress.IPv6Address):
        raise ValueError("a TCP endpoint is tcp://IP:PORT, with an address (IPv6 in brackets), a port, and nothing else")
    return Endpoint(host=str(address), port=int(port))


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait for what, in seconds.

    first_answer_s: an agent that accepts and then says nothing is as good as absent.
    ping_every_s: silence is normal between rotations, and only a ping tells a quiet agent from a dead one; but servers built on
        grpc-go answer pings more frequent than 5 min with GOAWAY "too_many_pings".
    pause_max_s: short, because a new pod waits for its entry to reach the agent (about 5 s).
    steady_s: a stream that lived this long was a good one: the pauses start anew.
    """

    connect_s: float = 5.0
    first_answer_s: float = 10.0
    ping_every_s: float = 330.0
    ping_answer_s: float = 20.0
    pause_min_s: float = 0.1
    pause_max_s: float = 5.0
    steady_s: float = 10.0


async def watch(endpoint: str, on_update: Callable[[Update | None], None], on_state: Callable[[str], None], pace: Pace = Pace()) -> None:
    """Hand over every update, for ever. None = "you have no identity any more" (Workload API §5.2.1: cease using it).

    on_update: may raise whatever an unfit update makes it raise; that is reported, and the watch goes on.
    on_state: told, in a line for a log, each time that something did not go well.

    Raises:
        WorkloadApiError: with `fatal`, and no other: the agent says that our request is wrong.
        ValueError: this is no endpoint.
    """
    place = parse_endpoint(endpoint)

    def message(raw: bytes) -> None:
        try:
            on_update(decode(raw))
        except Exception as failed:  # noqa: BLE001  a wrong key is an ssl.SSLError, so an OSError: no list would be complete, and one bad message must not end the watch
            on_state(f"update discarded: {failed}")

    loop = asyncio.get_running_loop()
    pause = pace.pause_min_s
    while True:
        began = loop.time()
        try:
            await _Call(pace, message).run(place)
        except WorkloadApiError as ended:
            if ended.fatal:
                raise
            on_state(str(ended))
            if ended.status == PERMISSION_DENIED:
                on_update(None)
        if loop.time() - began > pace.steady_s:
            pause = pace.pause_min_s
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  jitter, so that a node's pods do not return as one
        pause = min(pace.pause_max_s, pause * 2)


class _Call:
    """One connection, one stream, until it ends."""

    def __init__(self, pace: Pace, on_message: Callable[[bytes], None]) -> None:
        self._pace = pace
        self._on_message = on_message
        self._frames = Frames()
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._deadline = 0.0
        self._waiting = True  # for a first answer, or for a ping's

    async def run(self, place: Endpoint) -> None:
        """Always ends by raising WorkloadApiError: an end is never a success here."""
        try:
            async with asyncio.timeout(self._pace.connect_s):
                reader, writer = await _connect(place)
        except OSError as failed:  # TimeoutError is one
            raise WorkloadApiError(UNAVAILABLE, f"{place}: {failed.strerror or 'cannot be reached'}") from failed
        try:
            self._ask()
            while True:
                self._take(await self._exchange(reader, writer))
        except BadFrame as failed:
            raise WorkloadApiError(UNAVAILABLE, str(failed)) from failed
        except h2.exceptions.ProtocolError as failed:
            raise WorkloadApiError(UNAVAILABLE, f"HTTP/2: {failed}") from failed
        except OSError as failed:
            raise WorkloadApiError(UNAVAILABLE, f"connection lost: {failed.strerror or 'reset'}") from failed
        finally:
            writer.transport.abort()  # nothing of ours is worth flushing, and a hung agent must not hold us

    def _ask(self) -> None:
        self._http.initiate_connection()
        self._http.update_settings({h2.settings.SettingCodes.ENABLE_PUSH: 0})
        self._http.send_headers(1, [
            (":method", "POST"), (":scheme", "http"), (":path", FETCH_X509_SVID), (":authority", "localhost"), ("te", "trailers"),
            ("content-type", "application/grpc"), ("workload.spiffe.io", "true"),
        ])  # fmt: skip
        self._http.send_data(1, frame(b""), end_stream=True)  # X509SVIDRequest has no fields
        self._deadline = asyncio.get_running_loop().time() + self._pace.first_answer_s

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Send what is due, and wait for the next bytes; ask with a ping when there were none for long."""
        while True:
            writer.write(self._http.data_to_send())
            try:
                async with asyncio.timeout_at(self._deadline):
                    await writer.drain()
                    data = await reader.read(_READ_BYTES)
            except TimeoutError:
                if self._waiting:
                    raise WorkloadApiError(UNAVAILABLE, "the agent is silent") from None
                self._http.ping(b"liveness")
                self._wait(self._pace.ping_answer_s, waiting=True)
                continue
            if not data:
                raise WorkloadApiError(UNAVAILABLE, "the agent closed the connection")
            return data

    def _wait(self, seconds: float, *, waiting: bool) -> None:
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._waiting = waiting

    def _take(self, data: bytes) -> None:
        for event in self._http.receive_data(data):
            match event:
                case h2.events.ResponseReceived():
                    _check_response(event)
                case h2.events.DataReceived():
                    # Without this the window of 64 KB is used up after a few rotations and the agent goes silent for good
                    self._http.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                    for message in self._frames.feed(event.data or b""):
                        self._on_message(message)
                        self._wait(self._pace.ping_every_s, waiting=False)
                case h2.events.PingAckReceived():
                    self._wait(self._pace.ping_every_s, waiting=False)
                case h2.events.TrailersReceived():
                    raise _ended(_headers(event))
                case h2.events.StreamReset() | h2.events.StreamEnded():
                    raise WorkloadApiError(UNAVAILABLE, f"{type(event).__name__} without a status")
                case h2.events.ConnectionTerminated():
                    # also sent by an agent that shuts down politely; h2 takes nothing after it, so neither do we
                    raise WorkloadApiError(UNAVAILABLE, f"GOAWAY {event.error_code} {event.additional_data!r}")
                case _:
                    pass


async def _connect(place: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if place.path:
        return await asyncio.open_unix_connection(place.path)
    return await asyncio.open_connection(place.host, place.port)


def _headers(event: h2.events.ResponseReceived | h2.events.TrailersReceived) -> dict[str, str]:
    return {str(name): str(value) for name, value in event.headers or ()}


def _check_response(event: h2.events.ResponseReceived) -> None:
    headers = _headers(event)
    status = headers.get(":status")
    if status != "200":  # something that is no gRPC server, or a proxy's own page
        raise WorkloadApiError(UNIMPLEMENTED if status == "404" else UNAVAILABLE, f"HTTP status {status}")
    if "grpc-status" in headers:  # "trailers only": how most refusals look
        raise _ended(headers)


def _ended(headers: dict[str, str]) -> WorkloadApiError:
    status = headers.get("grpc-status", "")
    known = status.isascii() and status.isdecimal() and len(status) < 4  # noqa: PLR2004  gRPC has 17
    message = unquote(headers.get("grpc-message", ""), errors="replace") or "the stream ended"
    return WorkloadApiError(int(status) if known else UNKNOWN, message)
