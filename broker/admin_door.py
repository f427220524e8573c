"""The operator's door: what was used, and commands that change it, for the machine's own user and for identities that the operator lists.

Two ways in, both off unless switched on: a Unix socket, whose peers the kernel names (our own user and root, nobody else), and mutual
TLS, where anybody not listed ends in the handshake and every request is judged anew. JSON over HTTP: GET reads, POST changes. What
changes something is in the audit log before its answer goes out, and is refused while that log cannot be written.
"""

import asyncio
import logging
import os
import socket
import ssl
import stat
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from broker.admin import PATIENCE_S, keep_private, runner_of
from broker.config import BrokerSettings, ConfigError
from broker.errors import BadRequest, BrokerError, Forbidden, Internal, TooSlow, Unidentified
from broker.house import House
from broker.http1.limits import Limits
from broker.http1.listener import Listener
from broker.identity import InvalidSpiffeId, parse_spiffe_id
from broker.svids import SOCKET_PATH_BYTES
from broker.trust import Trust
from broker.usage.desk import Desk, Order
from broker.usage.report import Wanted

log = logging.getLogger(__name__)

DEADLINE_S: Final = 30.0  # for an answer: a reset of many counters takes its time
BODY_BYTES: Final = 16 << 10
LINE_BYTES: Final = 8 << 10
BACKLOG: Final = 64
_PEER: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_FILTERS: Final = frozenset(("identity", "policy", "model", "since"))
_LIMITS: Final = Limits(handshakes=32, handshake_s=5.0)

_WHO: Final = web.RequestKey("who", str)
_encode: Final = msgspec.json.Encoder().encode
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Body = TypeVar("_Body")


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the door opens. Both None: nowhere.

    identities: SPIFFE IDs that may come in over mutual TLS.
    """

    socket: Path | None = None
    mtls: tuple[str, int] | None = None
    identities: frozenset[str] = frozenset()


class AdminDoor:
    """One per broker. `open` it, and `close` it before what `desk` needs is closed."""

    def __init__(self, desk: Desk, trust: Trust, doors: Doors, now: Callable[[], float]) -> None:
        self._desk = desk
        self._trust = trust
        self._doors = doors
        self._now = now
        self._unix: asyncio.Server | None = None
        self._inode = 0
        self._listener: Listener | None = None
        app = web.Application(middlewares=[self._guarded], client_max_size=BODY_BYTES)
        app.router.add_get("/v1/usage", self._usage)
        app.router.add_post("/v1/usage/grant", self._grant)
        app.router.add_post("/v1/usage/reset", self._reset)
        self._runner = runner_of(app, "broker.admin_door.http", LINE_BYTES, PATIENCE_S)

    async def open(self) -> int:
        """Listen where the operator said. Returns the port of mutual TLS, 0 without it.

        Raises:
            OSError: the address or the path is taken, or not ours.
            ValueError: the path is too long for a socket.
        """
        await self._runner.setup()
        if self._doors.socket is not None:
            await self._open_socket(self._doors.socket)
        if self._doors.mtls is not None:
            tls = self._trust.server_context(lambda peer: peer.spiffe_id in self._doors.identities)
            self._listener = Listener(self._doors.mtls, self._protocol, _LIMITS, tls)
            return self._listener.port
        return 0

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._unix is not None and self._doors.socket is not None:
            self._unix.close()
            with suppress(OSError):
                if self._doors.socket.stat().st_ino == self._inode:  # else another broker has its own there by now
                    self._doors.socket.unlink()
        await self._runner.cleanup()

    def _protocol(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None:
            raise ConnectionError("the door is closed")
        return server()

    async def _open_socket(self, path: Path) -> None:
        sock, self._inode = _bind(path)
        self._unix = await asyncio.get_running_loop().create_unix_server(self._protocol, sock=sock, backlog=BACKLOG)

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Whoever it is, is known before anything else; every refusal is worded; no page reads an answer."""
        try:
            request[_WHO] = self._who(request)
            async with asyncio.timeout(DEADLINE_S):
                response = await handler(request)
        except BrokerError as refusal:
            response = _refused(refusal)
        except TimeoutError:
            response = _refused(TooSlow("the quota store took too long over this: what of it was changed is in the audit log"))
        except web.HTTPException as wrong:
            said = "this door has GET /v1/usage, POST /v1/usage/grant and POST /v1/usage/reset"
            response = _json(wrong.status, {"error": {"code": "not_here", "message": said}})
        except Exception:
            log.exception("admin_failed", extra={"path": request.path})
            response = _refused(Internal("the broker failed; its log says how"))
        keep_private(response)
        return response

    def _who(self, request: web.Request) -> str:
        """The caller as audit names him.

        Raises:
            Unidentified, Unavailable, Forbidden: he is nobody, nobody can tell, or he may not be here.
        """
        transport = request.transport
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object") if transport else None
        if tls is not None:
            peer = self._trust.judge(tls, self._now())
            if peer.spiffe_id not in self._doors.identities:
                raise Forbidden("this identity is none of --admin-identities: the operator of the broker lists who may come in")
            return peer.spiffe_id
        uid = _uid(transport)
        if uid not in (os.geteuid(), 0):
            raise Forbidden("this socket is for the broker's own user and for root")
        return f"uid:{uid}"

    async def _usage(self, request: web.Request) -> web.Response:
        if request.query.keys() - _FILTERS or len(set(request.query)) < len(request.query):
            raise BadRequest(f"this takes {', '.join(sorted(_FILTERS))}, each once")
        try:
            since = float(request.query.get("since", "0"))
        except ValueError:
            raise BadRequest("since is in Unix seconds") from None
        asked = {name: request.query.get(name, "") for name in ("identity", "policy", "model")}
        return _json(200, await self._desk.report(Wanted(**asked, since=since)))

    async def _grant(self, request: web.Request) -> web.Response:
        return _json(200, await self._desk.grant(await _read(request, Order), request[_WHO]))

    async def _reset(self, request: web.Request) -> web.Response:
        return _json(200, await self._desk.reset(await _read(request, Order), request[_WHO]))


async def open_doors(settings: BrokerSettings, house: House, trust: Trust, closing: AsyncExitStack) -> int:
    """Open what the operator asked for; closed with the stack. Returns the port of mutual TLS, 0 without it.

    Raises:
        ConfigError: the settings do not fit together.
        OSError, ValueError: as `AdminDoor.open`.
    """
    mtls, identities = settings.admin_mtls, frozenset(settings.admin_identities)
    if bool(mtls) != bool(identities):
        raise ConfigError("--admin-mtls and --admin-identities go together: where to listen, and who may come in")
    for identity in identities:
        try:
            parse_spiffe_id(identity)
        except InvalidSpiffeId as wrong:
            raise ConfigError(f"--admin-identities {identity}: {wrong}") from wrong
    if mtls is None and settings.admin_socket is None:
        return 0
    doors = Doors(settings.admin_socket, (mtls.host, mtls.port) if mtls else None, identities)
    door = AdminDoor(Desk(house.ledger, house.snapshot, house.audit, house.wall_s), trust, doors, house.wall_s)
    closing.push_async_callback(door.close)
    return await door.open()


def _bind(path: Path) -> tuple[socket.socket, int]:
    """A socket for our own user alone, not listening yet, and the inode of its path.

    Raises:
        OSError, ValueError: as `AdminDoor.open`.
    """
    if len(bytes(path)) > SOCKET_PATH_BYTES:
        raise ValueError(f"--admin-socket {path}: a socket's path has at most {SOCKET_PATH_BYTES} bytes")
    _make_way(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.bind(str(path))
        path.chmod(0o600)  # before it listens: until then nobody can connect
        return sock, path.stat().st_ino
    except BaseException:
        sock.close()
        raise


def _make_way(path: Path) -> None:
    """Remove the socket that a broker left behind, and nothing else.

    Raises:
        OSError: something else has this name, or a process that runs listens there.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(f"--admin-socket {path}: that is a file of another kind; name a path where nothing is")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(f"--admin-socket {path}: another process listens there; give each broker its own")


def _uid(transport: asyncio.Transport | None) -> int:
    """Who is at the other end of a Unix socket, as the kernel knows it. Raises Unidentified: there is no such socket."""
    sock: socket.socket | None = transport.get_extra_info("socket") if transport else None
    if sock is None or sock.family != socket.AF_UNIX:
        raise Unidentified("this connection was never identified")
    peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    uid: int = _PEER.unpack(peer)[1]
    return uid


async def _read(request: web.Request, kind: type[_Body]) -> _Body:
    """Raises BadRequest, web.HTTPException."""
    if request.content_type != "application/json":
        raise BadRequest("send JSON, with content-type: application/json")
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise BadRequest(f"this is not what the command takes: {wrong}") from None


def _json(status: int, said: object) -> web.Response:
    return web.Response(status=status, body=_encode(said), content_type="application/json")


def _refused(refusal: BrokerError) -> web.Response:
    return _json(refusal.status, {"error": {"code": refusal.code, "message": str(refusal)}})
