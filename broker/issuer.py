"""`broker dev`'s own SPIFFE agent: the Workload API on one Unix socket a workload, from an authority in memory.

Whoever may open a workload's socket *is* that workload here: the sockets lie in a directory that only our user can enter. A real
agent asks the kernel who calls instead. What is spoken on them is the real thing: gRPC over HTTP/2, a complete message first and
after each rotation, so that any SPIFFE library takes its identity from here.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from broker.authority import Authority, Issued
from broker.grpc import INVALID_ARGUMENT, UNIMPLEMENTED, frame
from broker.svids import FETCH_X509_BUNDLES, FETCH_X509_SVID, SOCKET_PATH_BYTES, Update, X509Svid, encode, encode_bundles

log = logging.getLogger(__name__)

CONNECTIONS: Final = 32  # of one workload at a time
STREAMS: Final = 16  # of one connection at a time
IDLE_S: Final = 60.0  # without an open stream
UNSENT_BYTES: Final = 4 << 20  # what a client that does not read may leave with us
_READ_BYTES: Final = 65536


class Issuer:
    """A trust domain's authority and its workloads' sockets.

    directory: made if it is absent, and closed to everybody else. Socket names are short, since a path has 107 bytes.
    clock: the wall clock, in epoch seconds.

    Raises:
        OSError: the directory cannot be made or made private.
        InvalidSpiffeId: that is no trust domain.
    """

    def __init__(
        self,
        trust_domain: str,
        directory: Path,
        *,
        svid_ttl_s: float = 3600.0,
        rotate_ca_every_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._authority = Authority(trust_domain, clock(), svid_ttl_s=svid_ttl_s, rotate_ca_every_s=rotate_ca_every_s)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._directory = directory
        self._clock = clock
        self._federated: dict[str, tuple[bytes, ...]] = {}
        self._workloads: dict[str, _Workload] = {}
        self._changed = asyncio.Event()

    @property
    def bundle(self) -> tuple[bytes, ...]:
        """Our trust domain's CA certificates, DER, for another issuer to federate with."""
        return self._authority.bundle

    async def serve(self, spiffe_id: str) -> Path:
        """Open the socket of a workload, and give its path. A second call gives the same one.

        Raises:
            ValueError: that is no workload of this trust domain, or the path is too long.
            OSError: the socket cannot be opened.
        """
        known = self._workloads.get(spiffe_id)
        if known is not None:
            return known.path
        path = self._directory / f"{hashlib.sha256(spiffe_id.encode()).hexdigest()[:16]}.sock"
        if len(str(path).encode()) > SOCKET_PATH_BYTES:
            raise ValueError(f"{path} is too long for a socket: choose a shorter state folder")
        workload = _Workload(path, self._authority.issue(spiffe_id, self._clock()))
        self._workloads[spiffe_id] = workload
        workload.publish(self._authority, self._federated)
        await workload.open()
        self._changed.set()
        return path

    def rotate_ca(self) -> None:
        """Begin to use a new CA, without a gap (see Authority)."""
        self._authority.rotate(self._clock())
        self._publish()

    def federate(self, trust_domain: str, bundle: tuple[bytes, ...]) -> None:
        """Hand this bundle of another trust domain to every workload; an empty one trusts nobody there."""
        self._federated[f"spiffe://{trust_domain}"] = bundle
        self._publish()

    async def run(self, stop: asyncio.Event) -> None:
        """Renew SVIDs at half their life, and CAs, until `stop` is set."""
        while not stop.is_set():
            self._renew(self._clock())
            self._changed.clear()
            await self._pause(stop)

    async def _pause(self, stop: asyncio.Event) -> None:
        """Until something is due, something has changed, or the end."""
        now = self._clock()
        due = min([self._authority.due_s(now), *(workload.issued.renew_s for workload in self._workloads.values())])
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(event.wait()) for event in (stop, self._changed)]
        try:
            # at most ten seconds, since the wall clock may be put forward while the loop's is not
            await asyncio.wait(waits, timeout=min(max(due - now, 0.01), 10.0), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _renew(self, now: float) -> None:
        moved = self._authority.advance(now)
        for workload in self._workloads.values():
            renewed = now >= workload.issued.renew_s
            if renewed:
                workload.issued = self._authority.issue(workload.issued.spiffe_id, now)
                log.info("svid_issued", extra={"spiffe_id": workload.issued.spiffe_id, "expires": workload.issued.not_after})
            if renewed or moved:
                workload.publish(self._authority, self._federated)

    def _publish(self) -> None:
        for workload in self._workloads.values():
            workload.publish(self._authority, self._federated)
        self._changed.set()

    async def close(self) -> None:
        """End every stream and take the sockets away."""
        for workload in self._workloads.values():
            await workload.close()
        self._workloads.clear()


class _Workload:
    """One workload's socket, its current SVID, and the connections on it."""

    def __init__(self, path: Path, issued: Issued) -> None:
        self.path = path
        self.issued = issued
        self.messages: dict[str, bytes] = {}  # framed, by method
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    def publish(self, authority: Authority, federated: Mapping[str, tuple[bytes, ...]]) -> None:
        """Make the messages anew, and send them on every open stream."""
        svid = X509Svid(self.issued.spiffe_id, self.issued.chain, self.issued.key, authority.bundle, "")
        bundles = {f"spiffe://{authority.trust_domain}": authority.bundle, **federated}
        self.messages = {
            FETCH_X509_SVID: frame(encode(Update((svid,), dict(federated)))),
            FETCH_X509_BUNDLES: frame(encode_bundles(bundles)),
        }
        for connection in tuple(self._connections):
            connection.publish()

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        self.path.chmod(0o600)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS:
            writer.transport.abort()
            return
        connection = _Connection(self, writer)
        self._connections.add(connection)
        try:
            await connection.run(reader)
        finally:
            self._connections.discard(connection)
            writer.transport.abort()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.gather(*(connection.ended.wait() for connection in tuple(self._connections)))
            await self._server.wait_closed()
        self.path.unlink(missing_ok=True)


class _Stream:
    """One call. `unsent` is the rest of the message that is being sent; of later ones only the newest matters."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.unsent = b""
        self.stale = True  # the newest message has not been begun


class _Connection:
    """One HTTP/2 connection of a workload."""

    def __init__(self, workload: _Workload, writer: asyncio.StreamWriter) -> None:
        self._workload = workload
        self._writer = writer
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._http.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS}
        )
        self._streams: dict[int, _Stream] = {}
        self.ended = asyncio.Event()

    async def run(self, reader: asyncio.StreamReader) -> None:
        self._http.initiate_connection()
        try:
            while True:
                self._flush()
                async with asyncio.timeout(None if self._streams else IDLE_S):
                    data = await reader.read(_READ_BYTES)
                if not data:
                    return
                for event in self._http.receive_data(data):
                    self._take(event)
        except h2.exceptions.ProtocolError:
            self._flush()  # h2 has prepared a GOAWAY that says why
        except OSError:  # the client has gone, or (TimeoutError is one) was idle
            pass
        finally:
            self.ended.set()

    def publish(self) -> None:
        """There is a newer message for every stream."""
        try:
            for number, stream in self._streams.items():
                stream.stale = True
                self._send(number, stream)
        except h2.exceptions.ProtocolError:  # the client has said goodbye
            self.abort()
        self._flush()

    def abort(self) -> None:
        self._writer.transport.abort()

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())
        if self._writer.transport.get_write_buffer_size() > UNSENT_BYTES:
            self.abort()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=int(number), headers=headers):
                self._begin(number, {str(name): str(value) for name, value in headers or ()})
            case h2.events.DataReceived(stream_id=int(number), flow_controlled_length=int(size)):
                self._http.acknowledge_received_data(size, number)  # both requests are empty messages: there is nothing to read
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                for number, stream in self._streams.items():
                    self._send(number, stream)
            case h2.events.StreamReset(stream_id=int(number)):
                self._streams.pop(number, None)
            case _:
                pass

    def _begin(self, number: int, headers: Mapping[str, str]) -> None:
        method = headers.get(":path", "")
        if headers.get(":method") != "POST" or not headers.get("content-type", "").startswith("application/grpc"):
            self._http.send_headers(number, [(":status", "415")], end_stream=True)
        elif headers.get("workload.spiffe.io") != "true":
            # Workload Endpoint §6.1: what a browser or a confused deputy cannot be made to send
            self._refuse(number, INVALID_ARGUMENT, "security header missing from request")
        elif method not in self._workload.messages:
            self._refuse(number, UNIMPLEMENTED, "this issuer serves X509-SVIDs and X.509 bundles")
        else:
            self._http.send_headers(number, [(":status", "200"), ("content-type", "application/grpc")])
            stream = self._streams[number] = _Stream(method)
            self._send(number, stream)

    def _refuse(self, number: int, status: int, message: str) -> None:
        self._http.send_headers(
            number,
            [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", str(status)), ("grpc-message", message)],
            end_stream=True,
        )

    def _send(self, number: int, stream: _Stream) -> None:
        """As much as the client's windows take; the rest when they open."""
        while stream.unsent or stream.stale:
            if not stream.unsent:
                stream.unsent, stream.stale = self._workload.messages[stream.method], False
            room = min(self._http.local_flow_control_window(number), self._http.max_outbound_frame_size)
            if room <= 0:
                return
            self._http.send_data(number, stream.unsent[:room])
            stream.unsent = stream.unsent[room:]
