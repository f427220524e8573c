"""What the controller writes below `status`, kind by kind. The CRDs are made from these Structs, as from those of `spec`.

Nothing of it is ever read to decide a request. Bounds are those of what may be written, not of what somebody wrote.
"""

from typing import Annotated, Literal

from msgspec import Meta, field

from broker.objects.reading import Part

_TIME = Meta(extra_json_schema={"format": "date-time"})

Time = Annotated[str, _TIME]  # RFC 3339, UTC
Count = Annotated[int, Meta(ge=0)]
Truth = Literal["True", "False", "Unknown"]
Unit = Literal["tokens", "requests", "usd", "concurrent"]
Dollars = Annotated[str, Meta(max_length=32, pattern=r"^[0-9]+\.[0-9]{2,6}$")]


class StatusCondition(Part, frozen=True, kw_only=True):
    """One thing that holds of the object or does not, and why. As metav1.Condition."""

    type: Annotated[str, Meta(max_length=316, description="what holds or does not, such as Accepted or Programmed")]
    status: Annotated[Truth, Meta(description="whether it holds")]
    reason: Annotated[str, Meta(min_length=1, max_length=1024, description="why, as one word for programs")]
    message: Annotated[str, Meta(max_length=32768, description="why, and what to do about it, for people")]
    last_transition_time: Annotated[Time, Meta(description="when `status` changed last")]
    observed_generation: Annotated[Count, Meta(description="the generation of the object that this is said of")] | None = None


class ReadyRow(Part, frozen=True, kw_only=True):
    """Whether one provider or one model is ready."""

    name: Annotated[str, Meta(max_length=253, description="which one")]
    ready: Annotated[bool, Meta(description="whether requests can go there")]
    reason: Annotated[str, Meta(max_length=1024, description="why, as one word for programs")]
    message: Annotated[str, Meta(max_length=32768, description="why, and what to do about it, for people")]


class QuotaUse(Part, frozen=True, kw_only=True):
    """How much of one quota is used."""

    name: Annotated[str, Meta(max_length=63, description="name of the quota in `spec.quotas`")]
    unit: Annotated[Unit, Meta(description="what is counted")]
    used: Annotated[str, Meta(max_length=32, description="used in this window, holds of running exchanges included; usd with a point")]
    limit: Annotated[str, Meta(max_length=32, description="the limit that holds for this window")]
    reset_time: Annotated[Time, Meta(description="when the window ends; absent for `concurrent`")] | None = None


class IdentityUse(Part, frozen=True, kw_only=True):
    """What one identity used under this policy."""

    identity: Annotated[str, Meta(max_length=2048, description="SPIFFE ID")]
    tokens24h: Annotated[Count, Meta(description="tokens of the last 24 hours")] = 0
    usd24h: Annotated[Dollars, Meta(description="US dollars of the last 24 hours; what has no price costs nothing here")] = "0.00"
    requests24h: Annotated[Count, Meta(description="requests of the last 24 hours")] = 0
    denied24h: Annotated[Count, Meta(description="refusals of the last 24 hours, of any kind")] = 0
    quotas: Annotated[tuple[QuotaUse, ...], Meta(max_length=16, description="what is used of each quota", extra={"key": "name"})] = ()


class ObjectStatus(Part, frozen=True, kw_only=True):
    """What the controller found."""

    observed_generation: Annotated[Count, Meta(description="the generation that this status is about")] | None = None
    conditions: Annotated[tuple[StatusCondition, ...], Meta(max_length=16, description="what holds of it", extra={"key": "type"})] = ()


class ProviderStatus(ObjectStatus, frozen=True, kw_only=True):
    """What the controller found: Accepted, Ready."""


class RoutingStatus(ObjectStatus, frozen=True, kw_only=True):
    """What the controller found: Accepted, ProvidersConfigured, RoutingActive, Programmed; with targetRef also GatewayBound."""

    model_summary: Annotated[str, Meta(max_length=512, description="the models in short, such as `gpt-4o +3`")] | None = None
    providers: Annotated[tuple[ReadyRow, ...], Meta(max_length=64, description="each provider of this object", extra={"key": "name"})] = ()
    models: Annotated[tuple[ReadyRow, ...], Meta(max_length=256, description="each model of this object", extra={"key": "name"})] = ()


class AccessStatus(ObjectStatus, frozen=True, kw_only=True):
    """What the controller found, and what the policy's subjects used.

    Conditions: Accepted, BundleReady, ModelsResolved, Programmed; with targetRef also GatewayBound and MTLSActive.
    """

    subject_summary: Annotated[str, Meta(max_length=4096, description="whom it names in short, such as `weather-agent +2`")] | None = None
    model_summary: Annotated[str, Meta(max_length=512, description="which models in short, such as `gpt-4o +3`")] | None = None
    identity_count: Annotated[Count, Meta(description="identities seen in the last 24 hours")] | None = None
    tokens24h: Annotated[Count, Meta(description="tokens of the last 24 hours")] | None = None
    usd24h: Annotated[Dollars, Meta(description="US dollars of the last 24 hours; what has no price costs nothing here")] | None = None
    requests24h: Annotated[Count, Meta(description="requests of the last 24 hours")] | None = None
    denied24h: Annotated[Count, Meta(description="refusals, of any kind, of identities that the subjects name")] | None = None
    shadow_denied24h: Annotated[Count, Meta(description="what would have been refused if mode were Enforce")] | None = field(
        default=None, name="shadowDenied24h"
    )
    last_used_time: Annotated[Time, Meta(description="when a request was last granted by this policy")] | None = None
    usage: Annotated[
        tuple[IdentityUse, ...], Meta(max_length=20, description="the identities that used most", extra={"key": "identity"})
    ] = ()
