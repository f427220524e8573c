"""Does a broker run here, what does it say itself, and can operators get in."""

import asyncio
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from broker.config import Address, BrokerSettings
from broker.doctor.finding import Finding, fail, ok, warn
from broker.identity import InvalidSpiffeId, parse_spiffe_id

ANSWER_S: Final = 5.0
ANSWER_BYTES: Final = 64 << 10
_PORT: Final = "admin port"
_DOOR: Final = "admin door"
_READY: Final = b"HTTP/1.1 200 "


async def examine_port(at: Address) -> Sequence[Finding]:
    """Ask /readyz of whatever listens there."""
    where = Address("127.0.0.1" if at.host in ("", "0.0.0.0", "::") else at.host, at.port)  # noqa: S104  compared, not bound
    try:
        async with asyncio.timeout(ANSWER_S):
            head, _, body = (await _ready(where)).partition(b"\r\n\r\n")
    except ConnectionRefusedError:
        return [
            warn(_PORT, f"nothing listens at {where}: no broker runs here", "start one with these switches, or look from where it runs")
        ]
    except (OSError, asyncio.IncompleteReadError) as failed:  # TimeoutError is one
        reason = getattr(failed, "strerror", None) or "no answer in time"
        return [fail(_PORT, f"{where}: {reason}", "look whether it is a broker that listens there")]
    if head.startswith(_READY):
        return [ok(_PORT, f"the broker at {where} is ready")]
    said = [line for line in body.decode(errors="replace").splitlines() if line and not line.startswith("remark:")]
    if not head.startswith(b"HTTP/1.1 503 ") or not said:
        return [fail(_PORT, f"what listens at {where} is no broker's admin port", "name the right --admin, or free the port")]
    return [fail(_PORT, f"the broker at {where} is not ready: {line}", "it says itself what to do") for line in said[:8]]


async def _ready(where: Address) -> bytes:
    reader, writer = await asyncio.open_connection(where.host, where.port)
    try:
        writer.write(f"GET /readyz HTTP/1.1\r\nhost: {where}\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        answer = b""
        while len(answer) < ANSWER_BYTES and (piece := await reader.read(ANSWER_BYTES)):
            answer += piece
        return answer
    finally:
        writer.transport.abort()


def examine_doors(settings: BrokerSettings) -> Iterator[Finding]:
    """The two ways in of `broker usage`."""
    if settings.admin_socket is None and settings.admin_mtls is None:
        yield ok(_DOOR, "closed: neither --admin-socket nor --admin-mtls is given, so `broker usage` cannot ask this broker")
    if settings.admin_socket is not None:
        yield _socket(settings.admin_socket)
    if settings.admin_mtls is not None or settings.admin_identities:
        yield from _mtls(settings)


def _socket(path: Path) -> Finding:
    if not path.parent.is_dir():
        return fail(_DOOR, f"the folder {path.parent} of --admin-socket is not there", "make it, or mount the volume")
    if not os.path.lexists(path):
        if os.access(path.parent, os.W_OK | os.X_OK):
            return ok(_DOOR, f"{path} can be made; no broker has it open now")
        return fail(_DOOR, f"this user may not make a socket in {path.parent}", "give the folder to the broker's user")
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return fail(_DOOR, f"{path} is a file of another kind", "name a path where nothing is")
    return _knock(path)


def _knock(path: Path) -> Finding:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return ok(_DOOR, f"{path} was left by a broker that has ended; the next one replaces it")
        except OSError as wrong:
            return fail(_DOOR, f"{path}: {wrong.strerror or 'no answer in time'}", "it is for the broker's own user and root alone")
    return ok(_DOOR, f"a broker listens at {path}")


def _mtls(settings: BrokerSettings) -> Iterator[Finding]:
    if settings.admin_mtls is None:
        yield warn(_DOOR, "--admin-identities names operators, and --admin-mtls no address where they come in", "give both")
        return
    if not settings.admin_identities:
        yield fail(_DOOR, "--admin-mtls is open for nobody", "list the operators' SPIFFE IDs with --admin-identities")
        return
    for one in settings.admin_identities:
        try:
            parse_spiffe_id(one)
        except InvalidSpiffeId as wrong:
            yield fail(_DOOR, f"--admin-identities has an entry that is no SPIFFE ID: {wrong}", "write spiffe://TRUST_DOMAIN/PATH")
            return
    yield ok(_DOOR, f"{settings.admin_mtls} is for {len(settings.admin_identities)} identities")
