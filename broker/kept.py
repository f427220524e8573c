"""State that a provider keeps for an agent: its ids leave sealed to that agent's identity, and come back under that seal alone.

Agents of different teams share a provider's account, where an id is all that it takes. So what opens an id is who asks, and nothing else;
the model is decided on anew by what the id says of itself; and only the one provider that knows it is asked.
"""

from broker import body as bodies
from broker import dialects, features
from broker.chat import Usage
from broker.dialects import Meter
from broker.dialects import openai_stored_responses as stored
from broker.dialects.openai_stored_responses import StoredQuestion
from broker.errors import BadRequest, NoBackend
from broker.exchange import Exchange
from broker.features import KEEPING
from broker.grant import Backend, Feature
from broker.house import House
from broker.ids import PLACES, Ids
from broker.metering import CutOff, Gauge
from broker.sealing import Home, Kind


def read(x: Exchange, house: House, route: str, sealed: str) -> StoredQuestion:
    """What is asked by the id in the path. It says of what model's answer; whether that is still granted is decided as for any other.

    Raises:
        FeatureNotGranted: the id is not one of this caller's, its model is offered no more, or there are no keys.
        BadRequest: see openai_stored_responses.read; or there is a body.
    """
    if house.seals is None:
        raise features.refuse_keyless()
    if x.body.strip() not in (b"", b"{}"):
        raise BadRequest("what is kept is asked for by its id, without a body: leave it out")
    ids = Ids(house.seals, x.identity.spiffe_id, PLACES[x.dialect.NAME])
    raw = ids.open(Kind.RESPONSE, sealed, stored.PARAM)
    x.tail, streaming = stored.read(x.method, raw, route.partition("{id}")[2], x.query, ids.open)
    x.ids = ids
    return StoredQuestion(_name(x, house, ids), sealed, streaming=streaming)


def _name(x: Exchange, house: House, ids: Ids) -> str:
    """What this caller calls the model that made what he asks for."""
    snapshot, home = house.snapshot(), ids.home
    for name in (home.model, f"{home.namespace}/{home.model}") if home else ():
        offer = snapshot.find(x.identity, name)
        if offer is not None and home is not None and (offer.namespace, offer.name) == (home.namespace, home.model):
            return name
    raise features.refuse_seal(stored.PARAM)


def open_ids(x: Exchange, house: House) -> None:
    """Where the grant lets something be kept: from here on the question has the provider's ids, and answers will have sealed ones.

    Raises:
        FeatureNotGranted: there are no keys for what is asked; or an id is not one of this caller's, here and now.
        BadRequest: something else stands where an id belongs.
    """
    if not x.grant.features & KEEPING or x.ids is not None:
        return
    places, asked = PLACES.get(x.dialect.NAME), x.question.features
    if places is None or (places.only_with and not places.only_with & asked):
        if x.question.kept:
            raise features.refuse_seal(x.question.kept[0].param)
        return
    if house.seals is None:
        if asked & KEEPING:
            raise features.refuse_keyless()
        return
    ids = x.ids = Ids(house.seals, x.identity.spiffe_id, places)
    body = ids.request(x.body)
    opened = ids.opened
    for place in x.question.kept:
        if place.id not in opened:
            raise features.refuse_seal(place.param)
    if ids.home is not None and ids.home.namespace != x.grant.namespace:
        raise features.refuse_seal(ids.where)
    if Feature.STORAGE in x.grant.features and places.keeps:
        body = _kept_unless_told(body)
    x.question = dialects.read(dialects.ROUTES[x.method, x.path], body, x.headers)


def _kept_unless_told(body: bytes) -> bytes:
    """As the API has it, so that a program which goes on by the id of an answer need not say that it will."""
    members = bodies.split(body, "the body")
    return body if bodies.given(members, "store") is not None else bodies.join({**members, "store": b"true"})


def stay(x: Exchange, house: House) -> None:
    """Only the provider that knows what the request names may be asked.

    Raises:
        FeatureNotGranted: it is none of those that may be asked at all.
        NoBackend: it is, and is not ready.
    """
    ids = x.ids
    if ids is None or ids.home is None:
        return
    home = ids.home
    x.candidates = tuple(b for b in x.candidates if _account(b) == (home.provider, home.endpoint))
    if x.tail:
        x.candidates = tuple(b for b in x.candidates if b.model == home.real_model) or x.candidates
    if not x.candidates:
        if _is_not_ready(home.provider, x, house):
            raise NoBackend("the provider that keeps what this request names is not ready", retry_after_s=1)
        raise features.refuse_seal(ids.where)


def _is_not_ready(provider: str, x: Exchange, house: House) -> bool:
    """Whether the model would be asked there, if it could be."""
    offer = house.snapshot().find(x.identity, x.question.model)
    lines = offer.lines if offer is not None else ()
    return any(line.backend is None and line.weight > 0 and f"{x.grant.namespace}/{line.provider}" == provider for line in lines)


def keep_here(x: Exchange) -> None:
    """What the backend that is asked now names in its answer is kept there, and looks as it did when it was made."""
    if x.ids is not None:
        provider, endpoint = _account(x.backend)
        made = x.ids.home if x.tail else None
        x.ids.keep_at(made or Home(x.grant.namespace, x.grant.model, provider, endpoint, x.backend.model))


def _account(backend: Backend) -> tuple[str, str]:
    to = backend.provider
    return f"{to.namespace}/{to.name}", str(to.endpoint)


def meter(x: Exchange, ceiling: Gauge | None = None) -> Meter:
    """The question's own; where ids are sealed, one whose events have them sealed."""
    inner = x.question.meter(ceiling)
    return inner if x.ids is None else SealedMeter(inner, x.ids)


def seal(x: Exchange, body: bytes) -> bytes:
    """A whole answer as the caller gets it.

    Raises:
        ProviderUnavailable: ids are sealed, and nobody can tell where in it they are.
    """
    return body if x.ids is None else x.ids.answer(body)


def seal_words(x: Exchange, body: bytes) -> bytes:
    """What the provider says in its own words of what the caller asked."""
    return body if x.ids is None else x.ids.words(body)


class SealedMeter:
    """Hands on what another meter does, with sealed ids. Satisfies dialects.Meter."""

    __slots__ = ("_ids", "_meter")

    def __init__(self, inner: Meter, ids: Ids) -> None:
        self._meter = inner
        self._ids = ids

    @property
    def usage(self) -> Usage | None:
        return self._meter.usage

    @property
    def done(self) -> bool:
        return self._meter.done

    @property
    def failed(self) -> bool:
        return self._meter.failed

    def content_type(self, said: bytes) -> bytes:
        return self._meter.content_type(said)

    def whole(self, body: bytes) -> Usage | None:
        return self._meter.whole(body)

    def stream(self, piece: bytes) -> bytes:
        try:
            return self._ids.events(self._meter.stream(piece))
        except CutOff as reached:
            raise CutOff(self._ids.events(reached.events)) from None

    def end(self) -> bytes:
        return self._ids.events(self._meter.end())
