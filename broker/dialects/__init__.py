"""The wire formats that agents speak. A dialect is a module with these functions; adding one is a file here and a line in DIALECTS.

Same dialect on both sides: the bytes pass through, unknown fields intact; only the model's name, the output limit and the
stream options are edited. A dialect knows bodies, never hosts, credentials or HTTP heads.
"""

from collections.abc import Iterator
from typing import Protocol

from broker.chat import Demand, Usage
from broker.errors import BrokerError
from broker.grant import Feature


class Question(Protocol):
    """One request body, read once.

    model: the name that the agent asked for.
    streaming: the agent wants server-sent events.
    features: what must have been granted for this request to pass (design.md, "One key, many agents").
    """

    @property
    def model(self) -> str: ...
    @property
    def streaming(self) -> bool: ...
    @property
    def features(self) -> frozenset[Feature]: ...

    def demand(self, default_output: int, max_output: int | None) -> Demand:
        """What this may cost at most. See chat.Demand for the bounds, design.md "Quota" for the rules."""
        ...

    def body(self, model: str, granted_output: int, provider_options: "Options") -> bytes:
        """The body as it goes out: another model name, the granted limit (all choices together; divided by n), stream options."""
        ...


class Options(Protocol):
    """What a provider understands beyond the plain dialect (broker.providers): never send it a field that it does not know."""

    @property
    def stream_usage(self) -> bool: ...          # takes stream_options.include_usage
    @property
    def store(self) -> bool: ...                 # keeps answers unless told `store: false`


class Meter(Protocol):
    """Reads usage out of one answer while it passes.

    `stream` takes bytes as they come and gives the bytes to hand on: whole events only, so that an error event can be put in
    at any time; events that only we asked for are taken out. `usage` is final only when `done` is true.
    Raises ProviderUnavailable for what is not well-formed, or an event of more than EVENT_BYTES.
    """

    @property
    def usage(self) -> Usage | None: ...
    @property
    def done(self) -> bool: ...

    def whole(self, body: bytes) -> Usage | None: ...
    def stream(self, piece: bytes) -> bytes: ...
    def end(self) -> bytes: ...


class Dialect(Protocol):
    NAME: str

    def read(self, body: bytes) -> Question:
        """Raises BadRequest, or FeatureNotGranted for what no policy can grant."""
        ...

    def meter(self, question: Question) -> Meter: ...

    def error(self, refusal: BrokerError, exchange_id: str) -> bytes:
        """The body of a refusal, as this dialect's SDKs read it."""
        ...

    def error_event(self, refusal: BrokerError, exchange_id: str) -> bytes:
        """The same within a stream that has begun."""
        ...

    def models(self, names: tuple[str, ...]) -> bytes: ...
    def one_model(self, name: str) -> bytes: ...
    def rate_limit_headers(self, *args: object) -> Iterator[tuple[bytes, bytes]]: ...
