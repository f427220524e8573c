"""The wire formats that agents speak. A dialect is a module with these functions; adding one is a file here and a line in ROUTES.

Same dialect on both sides: the bytes pass through, unknown fields intact; only the model's name, the output limit, the
stream options, `store` and ids of kept state are edited. A dialect knows bodies and the few headers that change what a body
means, never hosts, credentials or HTTP heads. Dialects do not import each other.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from msgspec import Raw

from broker.chat import Demand, Header, Options, Usage
from broker.dialects import (
    anthropic_count_tokens,
    anthropic_messages,
    embeddings,
    openai_chat,
    openai_completions,
    openai_images,
    openai_responses,
    openai_stored_responses,
    openai_transcriptions,
    openai_translations,
)
from broker.errors import BrokerError
from broker.forms import Form
from broker.grant import Feature, KeptId
from broker.metering import Gauge
from broker.quota import Held


class Meter(Protocol):
    """Reads usage out of one answer while it passes. Made anew for each attempt at a provider.

    `whole` takes a complete body, which passes unchanged, as what `content_type` makes of the provider's own word for it. `stream`
    takes bytes of an event stream as they come and gives the bytes to hand on: whole events only, so that an error event can be put
    in at any time; events that only we asked for are taken out. `end` is called at the end of a complete stream and gives what was
    still held back.

    usage: what is known so far; final only when `done` is true. No figure ever goes down.
    done: the provider has said its last word on usage. Not done = the whole hold is spent.
    failed: the provider said, inside a stream of status 200, that it failed.

    Raises:
        ProviderUnavailable: the answer is not well-formed, or one event is larger than sse.EVENT_BYTES.
        metering.CutOff: by `stream`, where it was made with a gauge.
    """

    @property
    def usage(self) -> Usage | None: ...
    @property
    def done(self) -> bool: ...
    @property
    def failed(self) -> bool: ...

    def content_type(self, said: bytes) -> bytes: ...
    def whole(self, body: bytes) -> Usage | None: ...
    def stream(self, piece: bytes) -> bytes: ...
    def end(self) -> bytes: ...


class Question(Protocol):
    """One request, read once.

    model: the name that the agent asked for.
    streaming: the agent wants server-sent events.
    features: what must have been granted for this request to pass (docs/objects.md, `features`).
    texts, kept: see demand.Findings.
    """

    @property
    def model(self) -> str: ...
    @property
    def streaming(self) -> bool: ...
    @property
    def features(self) -> frozenset[Feature]: ...
    @property
    def texts(self) -> Sequence[Raw]: ...
    @property
    def kept(self) -> Sequence[KeptId]: ...

    def demand(self, default_output: int, max_output: int | None) -> Demand:
        """What this may cost at most. See chat.Demand for the bounds, docs/quotas-exactness.md for the rules.

        Raises:
            BadRequest: what the caller needs at least does not fit the model's maximum.
        """
        ...

    def body(self, model: str, granted_output: int, options: Options) -> bytes | Form:
        """The body as it goes out: another model name, the granted limit (all choices together; divided by n), stream options."""
        ...

    def clamped(self, granted_output: int) -> int | None:
        """The limit of one choice that the provider was given, when it is below what the caller named; else None."""
        ...

    def meter(self, gauge: Gauge | None = None) -> Meter:
        """`gauge`: what ends a stream at the ceiling; see metering.CutOff."""
        ...


class Words(Protocol):
    """What is said in a dialect by ourselves, and what its headers mean."""

    @property
    def NAME(self) -> str: ...  # noqa: N802  a module's constant, seen as a property so that Final satisfies it

    def features_of_headers(self, headers: Iterable[Header]) -> frozenset[Feature]:
        """What the caller's headers (names in lower case) ask for beyond the body.

        Raises:
            FeatureNotGranted: a header opens what no policy can grant.
        """
        ...

    def error(self, refusal: BrokerError, exchange_id: str) -> bytes:
        """The body of a refusal, as this dialect's SDKs read it."""
        ...

    def error_event(self, refusal: BrokerError, exchange_id: str) -> bytes:
        """The same within a stream that has begun."""
        ...

    def models(self, names: tuple[str, ...]) -> bytes: ...
    def one_model(self, name: str) -> bytes: ...

    def rate_limit_headers(self, held: Held, now: float) -> tuple[Header, ...]:
        """`now` is the wall clock in Unix seconds, for dialects that say when instead of how long."""
        ...


class Dialect(Words, Protocol):
    def read(self, body: bytes) -> Question:
        """Judge a body.

        Raises:
            BadRequest: not well-formed, or something that would make the bounds false.
            FeatureNotGranted: what no policy can grant: ids of state at the provider that no route here makes, kinds of parts and
                tools that nobody here knows.
        """
        ...


ROUTES: Final[dict[tuple[str, str], Dialect]] = {
    ("POST", "/v1/chat/completions"): openai_chat,
    ("POST", "/v1/responses"): openai_responses,
    ("POST", "/v1/completions"): openai_completions,
    ("POST", "/v1/embeddings"): embeddings,
    ("POST", "/v1/audio/transcriptions"): openai_transcriptions,
    ("POST", "/v1/audio/translations"): openai_translations,
    ("POST", "/v1/images/generations"): openai_images,
    ("POST", "/v1/messages"): anthropic_messages,
    ("POST", "/v1/messages/count_tokens"): anthropic_count_tokens,
}

# By the id of what a provider keeps, which stands in the path under its owner's seal: kept.py reads these
BY_ID: Final[dict[tuple[str, str], Words]] = {
    ("GET", "/v1/responses/{id}"): openai_stored_responses,
    ("DELETE", "/v1/responses/{id}"): openai_stored_responses,
    ("POST", "/v1/responses/{id}/cancel"): openai_stored_responses,
    ("GET", "/v1/responses/{id}/input_items"): openai_stored_responses,
}

METHODS: Final[dict[str, tuple[str, ...]]] = {path: tuple(method for method, other in ROUTES if other == path) for _, path in ROUTES}


_WITH_ID: Final = {path: re.compile(re.escape(path).replace(r"\{id\}", "([^/]+)")) for _, path in BY_ID}


def find_by_id(path: str) -> tuple[str, str]:
    """The path as BY_ID has it, and the id in it; ("", "") where it is none of those."""
    for known, pattern in _WITH_ID.items():
        if found := pattern.fullmatch(path):
            return known, found[1]
    return "", ""


class _FormDialect(Protocol):
    """A dialect whose bodies are forms: what separates their parts is in Content-Type."""

    def read(self, body: bytes, content_type: bytes) -> Question: ...


_FORMS: Final[dict[str, _FormDialect]] = {
    openai_transcriptions.NAME: openai_transcriptions,
    openai_translations.NAME: openai_translations,
}


def read(dialect: Dialect, body: bytes, headers: Iterable[Header]) -> Question:
    """As Dialect.read, for those as well that have to know what kind of body it is."""
    form = _FORMS.get(dialect.NAME)
    if form is None:
        return dialect.read(body)
    return form.read(body, next((value for name, value in headers if name == b"content-type"), b""))


def listing(headers: Iterable[Header]) -> Dialect:
    """Whose list `GET /v1/models` asks for: both vendors use the same path, and only Anthropic's SDKs send a version."""
    return anthropic_messages if any(name == b"anthropic-version" for name, _ in headers) else openai_chat
