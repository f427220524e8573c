"""What one identity may do with one model, right now: policy's answer, and all that the later rooms need to know of the objects."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from broker.credentials import SecretRef
from broker.money import Price, dollars


class Unit(StrEnum):
    """What a quota counts. The values are part of counter names: never change one."""

    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOTAL_TOKENS = "total_tokens"
    REQUESTS = "requests"
    USD = "usd"
    CONCURRENT = "concurrent"


class Per(StrEnum):
    """Calendar windows in UTC of the store's clock. The values are part of counter names."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class Feature(StrEnum):
    """What agents of one provider account share, and a policy may grant (docs/objects.md, `features`)."""

    STORAGE = "Storage"
    FILES = "Files"
    HOSTED_TOOLS = "HostedTools"
    REMOTE_MEDIA = "RemoteMedia"
    BACKGROUND = "Background"


@dataclass(frozen=True, slots=True)
class KeptId:
    """A place of a request that names state kept at the provider: the feature that opens it, the id there, what can be sent instead."""

    feature: Feature
    param: str
    id: str
    instead: str = "send the content itself"


@dataclass(frozen=True, slots=True)
class Budget:
    """One quota as one caller meets it.

    counter: the counter's name without its window: `{namespace}/<kind>/<policy>/<quota or model>/<unit>/<per>/<scope>/<identity or ->`
        (the braces are literal, they are the Redis hash tag: docs/quotas.md, "Redis Cluster").
    limit: tokens, requests, micro-dollars, or exchanges at once.
    per: None with CONCURRENT only.
    shadow: counted and recorded; never refuses, clamps or shows in rate-limit headers.
    strict: prompts are bounded by bytes even when counting tokens would fit more.
    cut_off: a stream whose text passes what was held for it is ended.
    """

    counter: str
    unit: Unit
    limit: int
    per: Per | None
    shadow: bool = False
    strict: bool = False
    cut_off: bool = False

    @property
    def amount(self) -> str:
        """The limit as people write it."""
        return f"{dollars(self.limit)} USD" if self.unit is Unit.USD else str(self.limit)


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """An object that took part in a decision, as audit names it. `version` is `uid/generation`, or `sha256:…` of a file's document."""

    namespace: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider is. `path` is the base without a trailing slash ("/v1"), already with the schema's default."""

    scheme: Literal["https", "http"]
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        default = 443 if self.scheme == "https" else 80
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{'' if self.port == default else f':{self.port}'}{self.path}"


@dataclass(frozen=True, slots=True)
class Provider:
    """A connection to a provider, resolved from an object. Holds the name of a credential, never its value.

    kind: the schema, a key of broker.providers.PROVIDERS ("OpenAI", "Anthropic", …).
    own_service: the endpoint is a Service of the object's own namespace, so that a private address is expected.
    responses: its object says that it speaks OpenAI's Responses; OpenAI's own hosts do in any case.
    """

    namespace: str
    name: str
    kind: str
    endpoint: Endpoint
    auth: Literal["None", "APIKey", "Passthrough", "Inline"]
    secret: SecretRef | None
    headers: tuple[tuple[str, str], ...] = ()
    connect_s: float = 5.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0
    own_service: bool = False
    responses: bool = False


@dataclass(frozen=True, slots=True)
class Backend:
    """A provider and the real model there. Ready ones only ever reach a Grant.

    price: None = nobody said what it bills.
    """

    provider: Provider
    model: str
    priority: int = 0
    weight: int = 1
    price: Price | None = None


# Why an attempt came to nothing: the status of a complete answer; no connection, so that nothing was sent; the connection ended,
# or a deadline passed, before the answer was complete; or an answer that is none, which nobody else is asked after.
Cause = int | Literal["ConnectFailure", "Reset", "Timeout", "Malformed"]


@dataclass(frozen=True, slots=True)
class Failover:
    """After what, how often and how soon a model's backends are asked again, as the objects say (docs/failover.md).

    statuses: of a provider's answer, 400 to 599.
    causes: "ConnectFailure", "Reset", "Timeout".
    """

    statuses: frozenset[int] = frozenset({429, 502, 503, 504, 529})
    causes: frozenset[str] = frozenset({"ConnectFailure"})
    max_retries: int = 2
    backoff_base_s: float = 0.1
    backoff_max_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What one identity may do with one model, under one snapshot. There is no Denial twin: a no is raised.

    model: the virtual model's own name, without a namespace in front.
    backends: the ready ones that may be asked, by priority; empty = none is ready.
    configured: dialects of all that may be asked, ready or not, to tell "cannot say this" (422) from "not ready" (503).
    policies: every policy that matched, Deny and Shadow ones included, for audit.
    granting: those that grant (their usage is tallied per identity).
    would_refuse: codes that shadow rules would have refused with.
    """

    namespace: str
    model: str
    backends: tuple[Backend, ...]
    configured: tuple[str, ...]
    budgets: tuple[Budget, ...]
    features: frozenset[Feature]
    default_output_tokens: int
    max_output_tokens: int | None
    max_stream_s: float
    policies: tuple[PolicyRef, ...]
    granting: tuple[PolicyRef, ...]
    would_refuse: tuple[str, ...] = ()
    failover: Failover = field(default_factory=Failover)
