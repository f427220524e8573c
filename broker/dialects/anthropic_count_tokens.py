"""Anthropic's count of what a message would have: nothing is generated, nothing is billed, and the same is refused as in messages.

Source: platform.claude.com/docs/en/api/messages-count-tokens.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Raw

from broker import body as bodies
from broker.body import quote
from broker.chat import Demand, Options
from broker.grant import KeptId
from broker.judges.anthropic_messages import REFUSED_FIELDS, features_of_headers, judge
from broker.metering import Gauge, StreamMeter, meter
from broker.tallies.whole import WholeTally, counted
from broker.wording.anthropic import error, error_event, models, one_model, rate_limit_headers

__all__ = ["NAME", "CountQuestion", "error", "error_event", "features_of_headers", "models", "one_model", "rate_limit_headers", "read"]

NAME: Final = "anthropic_count_tokens"


class CountQuestion:
    """A count that was asked for: one request, and no tokens. Satisfies dialects.Question."""

    __slots__ = ("_members", "features", "kept", "model")

    streaming = False
    texts: Sequence[Raw] = ()

    def __init__(self, body: bytes) -> None:
        members = bodies.open_body(body)
        self._members = members
        self.model = bodies.read_model(members)
        bodies.refuse_members(members, REFUSED_FIELDS)
        found = judge(members)
        self.features = frozenset(found.features)
        self.kept: Sequence[KeptId] = found.kept

    def demand(self, default_output: int, max_output: int | None) -> Demand:  # noqa: ARG002  there is no output
        return Demand(0, 0, 0)

    def clamped(self, granted_output: int) -> int | None:  # noqa: ARG002  there is no output
        return None

    def body(self, model: str, granted_output: int, options: Options) -> bytes:  # noqa: ARG002  nothing is inserted
        return bodies.join({**self._members, "model": quote(model)})

    def meter(self, gauge: Gauge | None = None) -> StreamMeter:
        return meter(WholeTally(counted), gauge)


def read(body: bytes) -> CountQuestion:
    return CountQuestion(body)
