"""AIRoutingPolicy.spec: what can be called, and how to reach it."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from broker.objects.connections import InlineProvider
from broker.objects.duration import seconds
from broker.objects.reading import Part, Rule, Told
from broker.objects.words import INT32, INT64, Label, Minute, ModelName, Money, TargetRef, Text

TokenCountMode = Literal["InputToken", "OutputToken", "TotalToken"]
Cause = Literal["ConnectFailure", "Reset", "Timeout"]


class Price(Part, frozen=True, kw_only=True):
    """What the provider bills, in US dollars."""

    input_per_million_tokens: Annotated[Money, Meta(description="for a million input tokens")] | None = None
    output_per_million_tokens: Annotated[Money, Meta(description="for a million output tokens")] | None = None
    cached_input_per_million_tokens: Annotated[Money, Meta(description="for a million input tokens read from a cache")] | None = None
    cache_write_per_million_tokens: Annotated[Money, Meta(description="for a million input tokens written to a cache")] | None = None
    per_request: Annotated[Money, Meta(description="for each request")] | None = None


class BackendSpec(Part, frozen=True, kw_only=True):
    """A provider, and the real model there."""

    provider: Annotated[Label, Meta(description="a provider of this object, else an AIProvider of this namespace")]
    model: Annotated[Text, Meta(description="the real model's name; without it the name asked for")] | None = None
    priority: Annotated[int, Meta(ge=0, le=INT32, description="lower is tried first")] = 0
    weight: Annotated[int, Meta(ge=0, le=1_000_000, description="share among backends of the same priority; 0 = none")] = 1
    price: Annotated[Price, Meta(description="what this backend bills, instead of the model's price")] | None = None


class RateLimit(Part, frozen=True, kw_only=True):
    """Tokens an hour for all callers of a model together."""

    tokens_per_hour: Annotated[int, Meta(ge=1, le=INT64, description="tokens that all callers together may use in a calendar hour (UTC)")]
    token_count_mode: Annotated[TokenCountMode, Meta(description="which tokens count")] = "TotalToken"  # noqa: S105  tokens of a model


class Backoff(Part, frozen=True, kw_only=True):
    """How long to wait before the next attempt."""

    base: Annotated[Minute, Meta(description="before the first further attempt")] = "100ms"
    max: Annotated[Minute, Meta(description="before any further attempt")] = "2s"

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "duration(has(self.base) ? self.base : '100ms') <= duration(has(self.max) ? self.max : '2s')",
            "is longer than max (100ms and 2s where they are not given)",
            ".base",
        ),
    )

    def mistaken(self) -> Told:
        if seconds(self.base) > seconds(self.max):
            yield "base", f"is longer than max ({self.max})"


class FailoverSpec(Part, frozen=True, kw_only=True):
    """When another backend of the model is tried."""

    retry_on: Annotated[
        tuple[Annotated[int, Meta(ge=400, le=599)] | Cause, ...],
        Meta(max_length=32, description="statuses from 400 to 599, and ConnectFailure, Reset, Timeout"),
    ] = (429, 502, 503, 504, 529, "ConnectFailure")
    max_retries: Annotated[int, Meta(ge=0, le=5, description="further attempts after the first")] = 2
    backoff: Annotated[Backoff, Meta(description="how long to wait between attempts")] = field(default_factory=Backoff)


class ModelSpec(Part, frozen=True, kw_only=True):
    """A virtual model: the name agents ask for, and what answers to it."""

    name: Annotated[ModelName, Meta(description="the virtual model's name, which agents ask for")]
    backends: Annotated[tuple[BackendSpec, ...], Meta(min_length=1, max_length=16, description="what answers")]
    rate_limit: Annotated[RateLimit, Meta(description="tokens an hour for all callers of this model together")] | None = None
    failover: Annotated[FailoverSpec, Meta(description="when another backend is tried")] | None = None
    default_output_tokens: Annotated[int, Meta(ge=1, le=INT32, description="written into a request that names no output limit")] = 4096
    max_output_tokens: Annotated[int, Meta(ge=1, le=INT32, description="no request gets more output than this")] | None = None
    price: Annotated[Price, Meta(description="of backends that have none of their own")] | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.defaultOutputTokens) || !has(self.maxOutputTokens) || self.defaultOutputTokens <= self.maxOutputTokens",
            "is above maxOutputTokens",
            ".defaultOutputTokens",
        ),
    )

    @classmethod
    def misshapen(cls, raw: Mapping[str, object]) -> Told:
        default, most = raw.get("defaultOutputTokens"), raw.get("maxOutputTokens")
        if isinstance(default, int) and isinstance(most, int) and default > most:
            yield "defaultOutputTokens", f"is above maxOutputTokens ({most})"


class RoutingSpec(Part, frozen=True, kw_only=True):
    """What can be called, and how to reach it."""

    target_ref: Annotated[TargetRef, Meta(description="a Gateway to render this policy for as well")] | None = None
    providers: Annotated[
        tuple[InlineProvider, ...], Meta(max_length=64, description="connections that this object alone sees", extra={"key": "name"})
    ] = ()
    models: Annotated[tuple[ModelSpec, ...], Meta(max_length=256, description="what agents may ask for", extra={"key": "name"})] = ()
    default_failover: Annotated[FailoverSpec, Meta(description="for models without a failover of their own")] | None = None
