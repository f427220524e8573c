"""The ids of one exchange: opened as its request comes in, sealed as its answers go out. Pure."""

import re
from dataclasses import replace
from typing import Final

from broker import sse
from broker.errors import BadRequest, ProviderUnavailable
from broker.features import refuse_seal
from broker.ids.swapping import WRITTEN_BYTES, Places, Unreadable, swap, swap_event
from broker.sealing import Home, Kind, NotYours, Seals, Unsealable

REMEMBERED: Final = 4096  # ids of one exchange; sealing one again costs time alone
WORDS_BYTES: Final = 64 << 10  # no refusal of a provider's is longer
_LIKE_AN_ID: Final = re.compile(rb"[A-Za-z0-9_-]{8,512}")  # what is shorter may stand in a text for something else


class Ids:
    """Opens what this owner was given, and nothing else; seals to him what answers name.

    home: of what was opened. All of it is at one provider and of one namespace, for nobody else knows the others.
    where: the first of it stood in the request.
    """

    __slots__ = ("_account", "_as_asked", "_at", "_opened", "_owner", "_places", "_sealed", "_seals", "home", "where")

    def __init__(self, seals: Seals, owner: str, places: Places) -> None:
        self.home: Home | None = None
        self.where = ""
        self._seals: Final = seals
        self._owner: Final = owner
        self._places: Final = places
        self._opened: dict[tuple[Kind, str], str] = {}
        self._as_asked: dict[tuple[Kind, str], str] = {}
        self._sealed: dict[tuple[Kind, str], str] = {}
        self._at: Home | None = None
        self._account: Home | None = None  # the same, whichever model is asked there

    def open(self, kind: Kind, sealed: str, at: str) -> str:
        """The provider's id. `at`: where the caller wrote it.

        Raises:
            FeatureNotGranted: it was not given to this owner as one of this kind, or another one of this request is at home elsewhere.
        """
        known = self._opened.get((kind, sealed))
        if known is not None:
            return known
        try:
            home, raw = self._seals.open(self._owner, kind, sealed)
        except NotYours:
            raise refuse_seal(at) from None
        if self.home is not None and not same_account(home, self.home):
            raise refuse_seal(at)
        if self.home is None:
            self.home, self.where = home, at
        self._opened[kind, sealed] = raw
        return raw

    @property
    def opened(self) -> frozenset[str]:
        """All of them, as the caller wrote them."""
        return frozenset(sealed for _, sealed in self._opened)

    def request(self, body: bytes) -> bytes:
        """The caller's body with the provider's ids.

        Raises:
            BadRequest, FeatureNotGranted
        """
        try:
            return swap(body, self._places.request, self.open)
        except Unreadable as where:
            raise BadRequest(f"{str(where) or 'the body'!r} is not what an id can be", param=str(where) or None) from None

    def keep_at(self, home: Home) -> None:
        """What answers name from now on is kept there. What was opened looks to the caller as it did."""
        if self._at != home:
            self._at = home
            self._account = replace(home, model="", real_model="")
            self._as_asked = {(kind, raw): sealed for (kind, sealed), raw in self._opened.items()}
            self._sealed.clear()

    def answer(self, body: bytes) -> bytes:
        """A whole answer as the owner gets it.

        Raises:
            ProviderUnavailable: nobody can tell where its ids are.
        """
        try:
            return swap(body, self._places.answer, self._seal)
        except (Unreadable, Unsealable):
            raise _malformed() from None

    def events(self, events: bytes) -> bytes:
        """Whole events as the owner gets them. Raises ProviderUnavailable as `answer` does."""
        written: list[bytes] = []
        room_bytes = WRITTEN_BYTES  # many small ones at once are as much as a large one
        try:
            for event in sse.split(events):
                written.append(swap_event(event, self._places.event, self._seal))
                room_bytes -= len(written[-1])
                if room_bytes < 0:
                    raise _malformed()
        except (Unreadable, Unsealable):
            raise _malformed() from None
        sealed = b"".join(written)
        return self.words(sealed) if b'"error"' in events else sealed

    def words(self, said: bytes) -> bytes:
        """What the provider said in its own words, with the owner's ids in place of those that he asked by."""
        if len(said) > WORDS_BYTES:
            return said
        asked_by = {raw.encode(): sealed.encode() for (_, sealed), raw in self._opened.items()}
        return _LIKE_AN_ID.sub(lambda found: asked_by.get(found[0], found[0]), said)

    def _seal(self, kind: Kind, raw: str, _at: str) -> str:
        if not raw:
            return raw  # some servers say so that there is none yet
        known = self._as_asked.get((kind, raw)) or self._sealed.get((kind, raw))
        if known is None:
            if len(self._sealed) >= REMEMBERED:
                self._sealed.clear()
            # Only an answer is asked for by its id alone, which then has to say of which model
            home = self._at if kind is Kind.RESPONSE else self._account
            assert home is not None  # noqa: S101  answers come after keep_at, for the type checkers
            known = self._sealed[kind, raw] = self._seals.seal(self._owner, kind, home, raw)
        return known


def same_account(one: Home, other: Home) -> bool:
    """What is kept at one is known to the other, and of the same namespace."""
    return (one.namespace, one.provider, one.endpoint) == (other.namespace, other.provider, other.endpoint)


def _malformed() -> ProviderUnavailable:
    return ProviderUnavailable(
        "the provider's answer is not well-formed, or too large for its ids to be sealed; ask again, or for a stream"
    )
