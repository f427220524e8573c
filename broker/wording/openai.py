"""OpenAI's words, in all of its dialects.

Source: openai-python, `_exceptions.APIError` and `_streaming.Stream`; developers.openai.com/api/docs/guides/rate-limits (headers).
"""

from typing import Final

import msgspec

from broker.chat import Header
from broker.errors import BrokerError
from broker.quota import Allowance, Held

SERVER_ERROR: Final = 500


def error(refusal: BrokerError, exchange_id: str) -> bytes:
    """Message, type, param and code are read; the class of the exception follows the status."""
    return msgspec.json.encode(
        {
            "error": {
                "message": f"{refusal} (exchange {exchange_id})",
                "type": _error_type(refusal),
                "param": refusal.param,
                "code": refusal.code,
            }
        }
    )


def _error_type(refusal: BrokerError) -> str:
    if refusal.code in ("quota_exhausted", "exceeds_quota"):
        return "insufficient_quota"
    if refusal.status >= SERVER_ERROR:
        return "server_error"
    return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(refusal.status, "invalid_request_error")


def error_event(refusal: BrokerError, exchange_id: str) -> bytes:
    """No `[DONE]` after it: SDKs stop at the error, and nobody may take the stream for complete."""
    return b"data: %b\n\n" % error(refusal, exchange_id)


def response_error_event(refusal: BrokerError, exchange_id: str) -> bytes:
    """Within a stream of a response: `code` and `message` where its documented event has them, `error` where SDKs look before they raise.

    Nobody here knows the number of the event before it, so this one has none to speak of.
    """
    said = {
        "type": "error",
        "sequence_number": 0,
        "code": refusal.code,
        "message": f"{refusal} (exchange {exchange_id})",
        "param": refusal.param,
    }
    return b'event: error\ndata: %b,"error":%b}\n\n' % (msgspec.json.encode(said)[:-1], error(refusal, exchange_id)[len(b'{"error":') : -1])


def models(names: tuple[str, ...]) -> bytes:
    return msgspec.json.encode({"object": "list", "data": [_model(name) for name in names]})


def one_model(name: str) -> bytes:
    return msgspec.json.encode(_model(name))


def _model(name: str) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "inference-broker"}


def rate_limit_headers(held: Held, now: float) -> tuple[Header, ...]:  # noqa: ARG001  this dialect says how long, not when
    headers: list[Header] = []
    for unit, allowance in ((b"tokens", held.tokens), (b"requests", held.requests)):
        if allowance is not None:
            headers += (
                (b"x-ratelimit-limit-" + unit, b"%d" % allowance.limit),
                (b"x-ratelimit-remaining-" + unit, b"%d" % allowance.remaining),
                (b"x-ratelimit-reset-" + unit, _duration(allowance)),
            )
    return tuple(headers)


def _duration(allowance: Allowance) -> bytes:
    """As the API writes it: `6m0s`, `1h0m0s`, `8s`. Rounded up, so that nobody comes too early."""
    seconds = max(0, -int(-allowance.reset_s // 1))
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, seconds)
    return b"%dm%ds" % (minutes, seconds) if minutes else b"%ds" % seconds
