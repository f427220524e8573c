"""Anthropic's words, in all of its dialects.

Source: platform.claude.com/docs/en/api (errors, rate limits, models).
"""

from datetime import UTC, datetime
from typing import Final

import msgspec

from broker.chat import Header
from broker.errors import BrokerError
from broker.quota import Held

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error(refusal: BrokerError, exchange_id: str) -> bytes:
    """Source: platform.claude.com/docs/en/api/errors. `code` and `param` are ours: SDKs show the whole body to a person."""
    return msgspec.json.encode(
        {
            "type": "error",
            "error": {
                "type": _TYPES.get(refusal.status, "invalid_request_error"),
                "message": str(refusal),
                "code": refusal.code,
                "param": refusal.param,
            },
            "request_id": exchange_id,
        }
    )


def error_event(refusal: BrokerError, exchange_id: str) -> bytes:
    return b"event: error\ndata: %b\n\n" % error(refusal, exchange_id)


def models(names: tuple[str, ...]) -> bytes:
    return msgspec.json.encode(
        {
            "data": [_model(name) for name in names],
            "has_more": False,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
        }
    )


def one_model(name: str) -> bytes:
    return msgspec.json.encode(_model(name))


def _model(name: str) -> dict[str, str]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z", "lifecycle": "active"}


def rate_limit_headers(held: Held, now: float) -> tuple[Header, ...]:
    headers: list[Header] = []
    for unit, allowance in ((b"tokens", held.tokens), (b"requests", held.requests)):
        if allowance is not None:
            prefix = b"anthropic-ratelimit-" + unit
            headers += (
                (prefix + b"-limit", b"%d" % allowance.limit),
                (prefix + b"-remaining", b"%d" % allowance.remaining),
                (prefix + b"-reset", _instant(now + allowance.reset_s)),
            )
    return tuple(headers)


def _instant(unix_s: float) -> bytes:
    """RFC 3339, rounded up to a second, so that nobody comes too early."""
    return datetime.fromtimestamp(-int(-unix_s // 1), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
