"""Anthropic's Messages.

Source: platform.claude.com/docs/en/api/messages; event names and usage as anthropic-python types them.
"""

from collections.abc import Sequence
from typing import Final

from broker import body as bodies
from broker.body import Members, given, quote, read_count, read_flag, split
from broker.chat import Demand, Options
from broker.demand import Output
from broker.grant import KeptId
from broker.judges.anthropic_messages import REFUSED_FIELDS, TEMPLATE, features_of_headers, is_usually_priced, judge
from broker.metering import Gauge, StreamMeter, meter
from broker.spelling import longest_bytes
from broker.tallies.anthropic_messages import MessagesTally
from broker.wording.anthropic import error, error_event, models, one_model, rate_limit_headers

__all__ = ["NAME", "MessagesQuestion", "error", "error_event", "features_of_headers", "models", "one_model", "rate_limit_headers", "read"]

NAME: Final = "anthropic_messages"


class MessagesQuestion:
    """A message that was asked for. Satisfies dialects.Question."""

    __slots__ = ("_bound", "_members", "_output", "features", "kept", "model", "streaming", "texts")

    def __init__(self, body: bytes) -> None:
        members = bodies.open_body(body)
        self._members = members
        self.model = bodies.read_model(members)
        bodies.refuse_members(members, REFUSED_FIELDS)
        self.streaming = read_flag(members, "stream") or False
        limit = read_count(members, "max_tokens")
        self._output = Output(limit, thinking=_read_thinking(members), priced=is_usually_priced(members))
        found = judge(members)
        self.features = frozenset(found.features)
        self.kept: Sequence[KeptId] = found.kept
        self.texts = found.texts
        self._bound = TEMPLATE.bound(longest_bytes(body), found)

    def demand(self, default_output: int, max_output: int | None) -> Demand:
        return self._output.demand(self._bound, default_output, max_output)

    def clamped(self, granted_output: int) -> int | None:
        return self._output.clamped(granted_output)

    def body(self, model: str, granted_output: int, options: Options) -> bytes:  # noqa: ARG002  this dialect has no options
        return bodies.join({**self._members, "model": quote(model), "max_tokens": b"%d" % granted_output})

    def meter(self, gauge: Gauge | None = None) -> StreamMeter:
        return meter(MessagesTally(), gauge)


def read(body: bytes) -> MessagesQuestion:
    return MessagesQuestion(body)


def _read_thinking(members: Members) -> int:
    raw = given(members, "thinking")
    return 0 if raw is None else read_count(split(raw, "thinking"), "budget_tokens") or 0
