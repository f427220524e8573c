"""The hallway. Read `serve` and `answer` first: they are the whole product in two screens.

The order is the security argument. Nothing is parsed before the caller is identified, nothing is sent before it is granted
and held, no credential is touched before all of that said yes, and whatever happens there is one settlement and one audit line.
A door carries bytes to `serve` and back; it decides nothing.
"""

import asyncio
import logging
import math
from typing import Final

from broker import admission, dialects, features, kept, model_list, providers, unserved, upstream
from broker.chat import Header
from broker.dialects import BY_ID, METHODS, ROUTES, Question
from broker.errors import (
    BrokerError,
    Busy,
    Forbidden,
    Internal,
    MethodNotAllowed,
    NoBackend,
    TooSlow,
    Unidentified,
    UnknownRoute,
    Untranslatable,
)
from broker.exchange import UNBILLED, Exchange
from broker.house import Caller, House
from broker.http1.reply import CLOSE
from broker.metering import CutOff, Gauge
from broker.names import CLAMP_HEADER, EXCHANGE_HEADER, MODELS_PATH, SOURCE_HEADER
from broker.upstream import Answer, Failed

log = logging.getLogger(__name__)

OK: Final = 200
JSON: Final = (b"content-type", b"application/json")
EVENTS: Final = (b"content-type", b"text/event-stream; charset=utf-8")
PIECE_BYTES: Final = 256 << 10  # a larger answer is in memory once, not once more for the caller


async def serve(x: Exchange, house: House, caller: Caller) -> None:
    """One exchange: answered, refused, broken, cut off or hung up on; settled once, written to audit once."""
    x.task = asyncio.current_task()
    house.exchanges.add(x)
    try:
        x.trace = house.trace(x.method, x.path, x.headers, x.began_s, x.time_s)
        await answer(x, house, caller)
    except BrokerError as refusal:
        refusal.__traceback__ = None  # its frames hold what it is raised from: a circle, which would keep a whole answer in memory
        refuse(x, caller, refusal)
    except asyncio.CancelledError:
        if x.cause is None:
            x.code = "caller_left"
            raise
        refuse(x, caller, x.cause)
    except Exception:  # the last line before the caller, who learns nothing of it
        log.exception("exchange_failed", extra={"exchange": x.id})
        refuse(x, caller, Internal(f"the broker failed; its operator finds this exchange as {x.id}"))
    finally:
        house.exchanges.discard(x)
        admission.settle(x, house)
        write_down(x, house)


async def answer(x: Exchange, house: House, caller: Caller) -> None:
    """The steps, in the one order there is."""
    x.identity = house.identify(x.tls, x.time_s)
    house.audit.ready()
    if house.draining:
        raise Busy("this broker is shutting down; ask again", retry_after_s=1)
    if x.method == "GET" and (x.path == MODELS_PATH or x.path.startswith(f"{MODELS_PATH}/")):
        list_models(x, house, caller)
        return
    x.question = read(x, house)
    x.grant = house.snapshot().decide(x.identity, x.question.model)
    x.ends_s = x.began_s + x.grant.max_stream_s
    features.require(x.question.features | x.dialect.features_of_headers(x.headers), x.grant.features, x.question.kept)
    kept.open_ids(x, house)
    route(x, house)
    await admission.admit(x, house)
    await forwarded(x, house, caller)


def read(x: Exchange, house: House) -> Question:
    """What is asked: in a body, or of what a provider keeps by its id in the path."""
    dialect = ROUTES.get((x.method, x.path))
    if dialect is not None:
        return dialects.read(dialect, x.body, x.headers)
    path, sealed = dialects.find_by_id(x.path)
    if (x.method, path) in BY_ID:
        return kept.read(x, house, path, sealed)
    raise misrouted(x, path)


def misrouted(x: Exchange, path: str) -> BrokerError:
    """`path`: the one of BY_ID that it is, "" = none of them."""
    methods = ("GET",) if x.path == MODELS_PATH else METHODS.get(x.path, ())
    why = unserved.explain(x.path)
    if not methods and why is None:
        methods = tuple(method for method, known in BY_ID if known == path)
    if methods:
        return MethodNotAllowed(f"{path or x.path} takes {' and '.join(methods)} alone")
    served = sorted({*METHODS, *(known for _, known in BY_ID), MODELS_PATH})
    return UnknownRoute(why or f"this broker does not serve this path; it serves {', '.join(served)}")


def route(x: Exchange, house: House) -> None:
    """The ready backends that speak the caller's dialect, and which of them is asked first.

    Raises:
        FeatureNotGranted: none of them knows what the request names.
        Untranslatable: none of the model's backends speaks it, ready or not.
        NoBackend, ProviderRateLimited: those that do are not ready, or all of them rest.
    """
    x.candidates = tuple(b for b in x.grant.backends if providers.passes(b.provider, x.dialect.NAME))
    if x.candidates:
        kept.stay(x, house)
        x.backend = house.router.first(x.candidates)
        return
    if x.dialect.NAME in x.grant.configured:
        raise NoBackend(
            "no provider of this model is ready; the owner of its AIRoutingPolicy finds the reason in its status", retry_after_s=1
        )
    raise Untranslatable(f"no provider of this model speaks {x.dialect.NAME}; call it with the SDK of a dialect that one of them speaks")


async def forwarded(x: Exchange, house: House, caller: Caller) -> None:
    """Forward; where the operator wants to know what leavers cost, read on for a while after the caller has gone."""
    if not house.read_on_s:
        await forward(x, house, caller)
        return
    going = asyncio.get_running_loop().create_task(forward(x, house, caller))
    try:
        await asyncio.shield(going)
    finally:
        if not going.done():
            try:
                await asyncio.wait((going,), timeout=house.read_on_s if x.cause is None else 0)
            finally:  # also when this is ended while it reads on
                going.cancel()
                await asyncio.wait((going,))


async def forward(x: Exchange, house: House, caller: Caller) -> None:
    """Ask, until a provider answers or nobody is left to ask: then what came of the last attempt is the caller's answer."""
    while (failed := await attempt(x, house, caller)) is not None:
        if not await another(x, house, failed):
            conclude(x, caller, failed)
            return


async def attempt(x: Exchange, house: House, caller: Caller) -> Failed | None:
    """Ask one provider with its credential, and carry its answer to the caller while the meter reads it.

    Returns:
        Why nothing came of it, as long as nothing of it has gone to the caller.
    """
    before = x.sent, x.usage
    x.tried.append(x.backend)
    x.trace.ask(x.backend)
    x.sent, x.usage = True, None
    try:
        await ask(x, house, caller)
    except Failed as failed:
        x.trace.failed(failed.cause)
        # How one kept answer is read says nothing of how the next one is made: for nothing it could be asked for until others are kept out
        rest_s = 0.0 if x.tail else house.router.failed(x.backend, failed.cause, failed.retry_after_s)
        if rest_s:
            to = x.backend.provider
            about = {"provider": f"{to.namespace}/{to.name}", "model": x.backend.model, "cause": failed.cause, "rest_s": round(rest_s, 1)}
            log.warning("backend_rests", extra=about)
        if caller.begun and failed.refusal is not None:
            raise failed.refusal from failed
        if failed.cause == "ConnectFailure":
            x.sent, x.usage = before
        elif not failed.billable:
            x.usage = UNBILLED
        return failed
    if not x.tail:
        house.router.succeeded(x.backend)
    return None


async def ask(x: Exchange, house: House, caller: Caller) -> None:
    """One question, one answer of 200 to the end. Raises upstream.Failed."""
    to = x.backend.provider
    kind = providers.PROVIDERS[to.kind]
    kept.keep_here(x)
    if x.tail:
        got = await house.upstream.send_bare(to, x.method, kind.paths[x.dialect.NAME] + x.tail, x.headers, x.trace.headers)
    else:
        body = x.question.body(x.backend.model, x.held.granted_output, kind.options_at(to.endpoint.host))
        got = await house.upstream.send(to, kind.paths[x.dialect.NAME], x.headers, body, x.trace.headers)
    got.whose = x.identity.spiffe_id
    try:
        x.first_byte_s = house.now_s()
        if got.status != OK:
            raise await upstream.refused(to, got)
        if x.question.streaming:
            await stream(x, caller, got, await admission.gauge(x, house))
        else:
            await whole(x, caller, got)
    finally:
        got.close()


async def whole(x: Exchange, caller: Caller, got: Answer) -> None:
    body = await got.whole()
    meter = x.question.meter()
    usage = meter.whole(body)
    x.usage = usage if meter.done else None
    body = kept.seal(x, body)
    headers = [(b"content-type", meter.content_type(got.content_type)), *answer_headers(x, got)]
    if len(body) <= PIECE_BYTES:
        caller.whole(OK, headers, body)
    else:
        caller.begin(OK, headers, length=len(body))
        for at in range(0, len(body), PIECE_BYTES):
            caller.write(body[at : at + PIECE_BYTES])
            if caller.full:
                await caller.room()
        caller.end()
    x.code = "answered"


async def stream(x: Exchange, caller: Caller, got: Answer, ceiling: Gauge | None) -> None:
    """Piece by piece: what the provider sent is with the caller before we wait for more, and no faster than the caller reads.

    Nothing goes out before the provider has sent something of its stream: until then somebody else may be asked.
    """
    if not got.is_event_stream:
        raise upstream.malformed("the provider answered a request for a stream with something else")
    meter = kept.meter(x, ceiling)
    piece = await got.piece()
    caller.begin(OK, [EVENTS, *answer_headers(x, got)])
    try:
        while piece:
            if events := meter.stream(piece):
                caller.write(events)
                if caller.full:
                    await caller.room()
            piece = await got.piece()
        if rest := meter.end():
            caller.write(rest)
        x.code = "answered"
    except CutOff as reached:
        caller.write(reached.events)
        x.code = "cut_off"
    finally:
        x.usage = meter.usage if meter.done else None
    caller.end()


async def another(x: Exchange, house: House, failed: Failed) -> bool:
    """Make ready for one more attempt: a backend, and a new hold where the provider may bill the last one. False = that was the last."""
    rules = x.grant.failover
    if len(x.tried) > rules.max_retries or (failed.cause not in rules.statuses and failed.cause not in rules.causes):
        return False
    found = house.router.next(x.candidates, x.tried, rules)
    if found is None:
        return False
    x.backend, wait_s = found
    if failed.billable:
        admission.spend(x, house)
    await asyncio.sleep(wait_s)  # also where that is 0: the settlement goes first, so that a CONCURRENT lease is free
    if failed.billable:
        try:
            await admission.admit(x, house)
        except BrokerError:
            return False  # no new hold, no retry
    return True


def conclude(x: Exchange, caller: Caller, failed: Failed) -> None:
    """The last attempt's failure as the answer: our refusal, or the provider's own words where they are the caller's to mend."""
    if failed.refusal is not None or failed.answer is None:
        raise failed.refusal or Internal(f"the broker failed; its operator finds this exchange as {x.id}")
    headers = [*answer_headers(x, failed.answer), (SOURCE_HEADER, b"provider")]
    if failed.answer.content_type:
        headers.append((b"content-type", failed.answer.content_type))
    caller.whole(failed.answer.status, headers, kept.seal_words(x, failed.body))
    x.code = "answered"


def answer_headers(x: Exchange, got: Answer) -> list[Header]:
    x.status = got.status
    headers = [*got.passed_headers, *x.dialect.rate_limit_headers(x.held, x.time_s), (EXCHANGE_HEADER, x.id.encode())]
    clamped = x.question.clamped(x.held.granted_output)
    if clamped is not None:
        headers.append((CLAMP_HEADER, b"%d" % clamped))
    return headers


def refuse(x: Exchange, caller: Caller, refusal: BrokerError) -> None:
    """Say no in the caller's dialect: as an answer, or as an event of the stream that has begun."""
    x.code = refusal.code
    if caller.begun:
        caller.write(x.dialect.error_event(refusal, x.id))
        caller.end()
        return
    x.status = refusal.status
    caller.whole(refusal.status, refusal_headers(refusal, x.id), x.dialect.error(refusal, x.id))


def refusal_headers(refusal: BrokerError, exchange_id: str) -> list[Header]:
    headers = [
        JSON,
        (EXCHANGE_HEADER, exchange_id.encode()),
        (SOURCE_HEADER, refusal.source.encode()),
        (b"x-should-retry", b"true" if refusal.sdk_may_retry else b"false"),
    ]
    if isinstance(refusal, Unidentified):
        headers.append(CLOSE)  # whoever called has to prove anew who it is
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(refusal.retry_after_s))))
    return headers


def list_models(x: Exchange, house: House, caller: Caller) -> None:
    """What this identity may call now; no hold."""
    body = model_list.body(x.path, x.dialect, x.identity, house.snapshot())
    x.code, x.status = "listed", OK
    caller.whole(OK, [JSON, (EXCHANGE_HEADER, x.id.encode())], body)


def write_down(x: Exchange, house: House) -> None:
    """The audit line, the figures, and the policies' own count of refusals."""
    now_s = house.now_s()
    line = x.record(now_s)
    house.audit.write(line)
    identity = getattr(x, "identity", None)
    first_byte_s = None if x.first_byte_s is None else x.first_byte_s - x.began_s
    house.telemetry.exchange_done(identity, x.call(), x.code, x.charged(), now_s - x.began_s, first_byte_s)
    x.trace.end(line, x.usage)
    if identity is not None and x.code not in NO_REFUSALS:
        house.settler.deny(house.snapshot().names_identity(identity), identity.spiffe_id)
        house.on_refusal(identity, x.code, x.question.model if hasattr(x, "question") else "")


NO_REFUSALS: Final = frozenset(("answered", "listed", "caller_left", "cut_off"))


def decide_again(house: House) -> None:
    """The world has changed: an exchange in flight that has lost its grant ends now, settled and told so."""
    snapshot = house.snapshot()
    for x in tuple(house.exchanges):
        if hasattr(x, "grant"):
            try:
                snapshot.decide(x.identity, x.question.model)
            except BrokerError as lost:
                x.end(Forbidden("the policy that allowed this was changed while it ran") if isinstance(lost, Forbidden) else lost)


def end_overdue(house: House) -> None:
    """A policy's maxStreamDuration bounds every exchange, whatever it waits for."""
    now_s = house.now_s()
    for x in tuple(house.exchanges):
        if x.ends_s < now_s:
            x.end(TooSlow("this exchange reached the longest duration that its policy allows"))
