"""Every way we say no, and the HTTP status and code each one becomes (docs/commands.md, "Refusals").

Four readers keep this hierarchy honest: the dialect that words it for the caller, the door that sends its headers, the
audit line and the refusal counter (`code`). A class that nobody reads differently must not exist.
"""

from typing import ClassVar, Literal

Source = Literal["gateway", "broker", "provider"]


class BrokerError(Exception):
    """A refusal. `str(error)` is shown to the caller: it says what to do next, and holds no secret and no policy detail.

    Attributes:
        retry_after_s: seconds until asking again makes sense, or None.
        param: the field of the request that is to blame, where one is.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    sdk_may_retry: ClassVar[bool] = False
    source: ClassVar[Source] = "broker"

    def __init__(self, message: str, *, retry_after_s: float | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.param = param


class Unidentified(BrokerError):
    """No SVID, a bad one, an expired one, or one of a trust domain that we hold no bundle of."""

    status, code = 401, "unidentified"


class UnknownRoute(BrokerError):
    status, code = 404, "unknown_route"


class MethodNotAllowed(BrokerError):
    status, code = 405, "method_not_allowed"


class BadRequest(BrokerError):
    """Not well-formed: HTTP, JSON, duplicate keys, no model, a value of a wrong kind."""

    status, code = 400, "bad_request"


class HeadersTooLarge(BrokerError):
    status, code = 431, "headers_too_large"


class TooLarge(BrokerError):
    status, code = 413, "too_large"


class TooSlow(BrokerError):
    status, code = 408, "too_slow"


class FeatureNotGranted(BrokerError):
    """State or fetching at the provider that agents share, which the policy does not grant (docs/objects.md, `features`)."""

    status, code = 400, "feature_not_granted"


class Forbidden(BrokerError):
    """No policy names this identity and this model. Never says which one was close."""

    status, code = 403, "forbidden"


class Untranslatable(BrokerError):
    """No backend of this model speaks the caller's dialect."""

    status, code = 422, "untranslatable"


class ExceedsQuota(BrokerError):
    """This request can never fit, however long one waits. `prompt_room` as in QuotaExhausted."""

    status, code = 400, "exceeds_quota"
    prompt_room: int | None = None


class QuotaExhausted(BrokerError):
    """Used up for now.

    prompt_room: the longest prompt, in tokens, that would have been held just now; None where a shorter one would not have helped.
    """

    status, code = 429, "quota_exhausted"
    prompt_room: int | None = None


class ConcurrencyFull(BrokerError):
    status, code, sdk_may_retry = 429, "concurrency_full", True


class Busy(BrokerError):
    """This replica is full or draining."""

    status, code, sdk_may_retry = 503, "busy", True


class NoBackend(BrokerError):
    status, code, sdk_may_retry = 503, "no_backend", True


class ProviderAuth(BrokerError):
    """The provider refused our credential: nothing that the caller could mend."""

    status, code = 502, "provider_auth"
    source: ClassVar[Source] = "provider"


class ProviderUnavailable(BrokerError):
    """Unreachable, 5xx, 3xx, or an answer that is not well-formed."""

    status, code, sdk_may_retry = 502, "provider_unavailable", True
    source: ClassVar[Source] = "provider"


class ProviderTimeout(BrokerError):
    status, code, sdk_may_retry = 504, "provider_timeout", True
    source: ClassVar[Source] = "provider"


class ProviderRateLimited(BrokerError):
    status, code, sdk_may_retry = 429, "provider_rate_limited", True
    source: ClassVar[Source] = "provider"


class Internal(BrokerError):
    """A defect of ours: the caller learns the exchange id and nothing else."""

    status, code, sdk_may_retry = 500, "internal", True


class Unavailable(BrokerError):
    """The quota store, the policy snapshot of this namespace, or the audit sink is away: unknown means no."""

    status, code, sdk_may_retry = 503, "unavailable", True


class BrokerUnavailable(BrokerError):
    status, code, sdk_may_retry = 503, "broker_unavailable", True
    source: ClassVar[Source] = "gateway"


class NoSvid(BrokerError):
    status, code, sdk_may_retry = 503, "no_svid", True
    source: ClassVar[Source] = "gateway"


class NotLocal(BrokerError):
    status, code = 403, "not_local"
    source: ClassVar[Source] = "gateway"
