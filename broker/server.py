"""The front door: mutual TLS in, an Exchange to the pipeline, its answer out. It decides nothing."""

import secrets
from collections.abc import Iterable

from broker import dialects, pipeline
from broker.chat import Header
from broker.dialects import BY_ID, ROUTES, Words, find_by_id
from broker.errors import BrokerError
from broker.exchange import Exchange
from broker.house import House
from broker.http1 import rules
from broker.http1.reply import Reply, Request
from broker.http1.server import Limits, Server
from broker.series import NO_CALL

_BY_PATH: dict[str, Words] = {path: words for routes in (ROUTES, BY_ID) for (_, path), words in routes.items()}


def dialect_of(path: str, headers: Iterable[Header]) -> Words:
    """Whose words an answer on this path is given in; where the path says nothing, the headers do."""
    return _BY_PATH.get(path) or _BY_PATH.get(find_by_id(path)[0]) or dialects.listing(headers)


def exchange_id() -> str:
    return secrets.token_hex(12)


def open_door(house: House, limits: Limits) -> Server:
    """The mTLS door of this house, not listening yet."""

    async def handle(request: Request, reply: Reply) -> None:
        assert request.tls is not None  # noqa: S101  this door listens with TLS alone
        x = Exchange(
            id=exchange_id(),
            method=request.method,
            path=request.path,
            headers=request.headers,
            body=request.body,
            tls=request.tls,
            dialect=dialect_of(request.path, request.headers),
            began_s=house.now_s(),
            time_s=house.wall_s(),
            query=request.query,
        )
        await pipeline.serve(x, house, reply)

    def refuse(path: str, refusal: BrokerError) -> tuple[list[Header], bytes]:
        """What is no well-formed request is no exchange: worded here, counted, and not audited, since nobody was identified by it."""
        x_id = exchange_id()
        house.telemetry.exchange_done(None, NO_CALL, refusal.code, None, 0.0, None)
        return pipeline.refusal_headers(refusal, x_id), dialect_of(path, ()).error(refusal, x_id)

    return Server(handle, limits, judge=rules.judge_remote, refuse=refuse)
