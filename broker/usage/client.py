"""`broker usage` as a client of the admin door: over the local socket, or over mutual TLS with this process's own SVID."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from aiohttp import BaseConnector, ClientConnectorError, ClientError, ClientSession, ClientTimeout, TCPConnector, UnixConnector

from broker import workload_api
from broker.svids import Update
from broker.trust import Trust
from broker.usage.desk import Changes, Order
from broker.usage.report import Report, Wanted

ANSWER_BYTES: Final = 64 << 20
ANSWER_S: Final = 60.0
CONNECT_S: Final = 5.0
SVID_S: Final = 10.0
_PIECE_BYTES: Final = 1 << 16

_Answer = TypeVar("_Answer")


class NoAnswer(OSError):
    """The door cannot be reached, or what answers is no admin door. The message says what to do."""


class Refused(Exception):
    """The door said no: its status and its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Where:
    """The admin door: a socket's path, or a URL with who must answer there and where our own SVID comes from."""

    socket: Path | None = None
    url: str = ""
    broker_spiffe_id: str = ""
    endpoint: str = ""


class _Error(msgspec.Struct):
    code: str
    message: str


class _Failure(msgspec.Struct):
    error: _Error


class Client:
    """Asks one door. Made by `connected`."""

    def __init__(self, session: ClientSession, where: Where) -> None:
        self._session = session
        self._where = where
        self._base = "http://broker" if where.socket else where.url.rstrip("/")

    async def report(self, wanted: Wanted) -> Report:
        """Raises NoAnswer, Refused."""
        asked = {"identity": wanted.identity, "policy": wanted.policy, "model": wanted.model, "since": str(wanted.since)}
        return await self._ask("GET", "/v1/usage", Report, {name: value for name, value in asked.items() if value})

    async def grant(self, order: Order) -> Changes:
        """Raises NoAnswer, Refused."""
        return await self._ask("POST", "/v1/usage/grant", Changes, order=order)

    async def reset(self, order: Order) -> Changes:
        """Raises NoAnswer, Refused."""
        return await self._ask("POST", "/v1/usage/reset", Changes, order=order)

    async def _ask(
        self, method: str, path: str, kind: type[_Answer], query: Mapping[str, str] | None = None, order: Order | None = None
    ) -> _Answer:
        body = None if order is None else msgspec.json.encode(order)
        headers = {} if body is None else {"Content-Type": "application/json"}
        place = self._where.socket or self._where.url
        try:
            asked = self._session.request(method, self._base + path, params=query, data=body, headers=headers, allow_redirects=False)
            async with asked as answer:
                said = bytearray()
                async for piece in answer.content.iter_chunked(_PIECE_BYTES):
                    said += piece
                    if len(said) > ANSWER_BYTES:
                        raise NoAnswer(f"{place} answers with more than {ANSWER_BYTES >> 20} MiB: ask for less with --identity or --policy")
                status = answer.status
        except (ClientError, OSError, TimeoutError) as problem:
            if isinstance(problem, NoAnswer):
                raise
            raise NoAnswer(f"no broker answers at {place} ({_why(problem)}): is it running with {self._switch}?") from problem
        try:
            if status == 200:  # noqa: PLR2004  the one good status
                return msgspec.json.decode(said, type=kind)
            refusal = msgspec.json.decode(said, type=_Failure).error
        except msgspec.DecodeError:
            raise NoAnswer(f"what answers at {place} is no admin door of a broker of this version") from None
        raise Refused(status, refusal.message)

    @property
    def _switch(self) -> str:
        return "--admin-socket" if self._where.socket else "--admin-mtls, and are we among its --admin-identities"


@asynccontextmanager
async def connected(where: Where) -> AsyncGenerator[Client]:
    """A client; over mutual TLS, with an SVID that is renewed as long as this is open.

    Raises:
        NoAnswer: there is no SVID.
    """
    if where.socket is not None:
        async with _session(UnixConnector(path=str(where.socket))) as session:
            yield Client(session, where)
        return
    trust, first = Trust(), asyncio.Event()
    notes: list[str] = []

    def apply(update: Update | None) -> None:
        trust.apply(update)
        first.set()

    watching = asyncio.get_running_loop().create_task(workload_api.watch(where.endpoint, apply, notes.append))
    try:
        try:
            async with asyncio.timeout(SVID_S):
                await first.wait()
        except TimeoutError:
            why = notes[-1] if notes else "the Workload API has not answered"
            raise NoAnswer(f"no SVID from {where.endpoint} ({why}): check the SPIFFE agent and this workload's entry") from None
        context = trust.client_context(lambda peer: peer.spiffe_id == where.broker_spiffe_id)
        async with _session(TCPConnector(ssl=context)) as session:
            yield Client(session, where)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _session(connector: BaseConnector) -> ClientSession:
    timeout = ClientTimeout(total=ANSWER_S, connect=CONNECT_S)
    return ClientSession(connector=connector, timeout=timeout, auto_decompress=False)


def _why(problem: BaseException) -> str:
    if isinstance(problem, ClientConnectorError) and problem.os_error.strerror:
        return problem.os_error.strerror
    return str(problem) or type(problem).__name__
