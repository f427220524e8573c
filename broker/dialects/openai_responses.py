"""OpenAI's Responses. Nothing of them is kept unless the caller asks for it and its policy grants it; what is kept is named by sealed ids.

Source: developers.openai.com/api/reference/responses; for what compatible servers add, the documentation of vLLM, Ollama and llama.cpp.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Raw

from broker import body as bodies
from broker.body import given, quote, read_count, read_flag
from broker.chat import Demand, Options
from broker.demand import LIMIT_ALIASES, Output
from broker.grant import Feature, KeptId
from broker.judges.openai import OTHER_MODEL, OTHER_MODELS, TEMPLATE, UNFOLDING, features_of_headers, is_usually_priced
from broker.judges.openai_responses import judge
from broker.metering import Gauge, StreamMeter, meter
from broker.spelling import longest_bytes
from broker.tallies.openai_responses import ResponsesTally
from broker.wording.openai import error, models, one_model, rate_limit_headers
from broker.wording.openai import response_error_event as error_event

__all__ = ["NAME", "ResponsesQuestion", "error", "error_event", "features_of_headers", "models", "one_model", "rate_limit_headers", "read"]

NAME: Final = "openai_responses"

LIMIT_FIELD: Final = "max_output_tokens"
REFUSED_FIELDS: Final = {
    **{name: why for name, why in LIMIT_ALIASES.items() if name != LIMIT_FIELD},
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), f"name the limit in {LIMIT_FIELD!r}, where it can be kept"),
    **OTHER_MODELS,
    **UNFOLDING,
    "moderation": OTHER_MODEL,
    "context_management": "its summaries are billed outside of the usage that is reported; shorten the input yourself",
    "messages": "it belongs to /v1/chat/completions; send 'input'",
    "previous_input_messages": "it is not judged here; send everything in 'input'",
    "n": "a response has one answer; ask again for another",
}


class ResponsesQuestion:
    """A response that was asked for. Satisfies dialects.Question."""

    __slots__ = ("_bound", "_hosted_calls", "_members", "_output", "features", "kept", "model", "streaming", "texts")

    def __init__(self, body: bytes) -> None:
        members = bodies.open_body(body)
        self._members = members
        self.model = bodies.read_model(members)
        bodies.refuse_members(members, REFUSED_FIELDS)
        self.streaming = read_flag(members, "stream") or False
        self._output = Output(read_count(members, LIMIT_FIELD), priced=is_usually_priced(members))
        found, self._hosted_calls = judge(members)
        self.features = frozenset(found.features)
        self.kept: Sequence[KeptId] = found.kept
        self.texts = found.texts
        self._bound = TEMPLATE.bound(longest_bytes(body), found)

    def demand(self, default_output: int, max_output: int | None) -> Demand:
        return self._output.demand(self._bound, default_output, max_output)

    def clamped(self, granted_output: int) -> int | None:
        return self._output.clamped(granted_output)

    def body(self, model: str, granted_output: int, options: Options) -> bytes:  # noqa: ARG002  all servers of this dialect read the same
        members: dict[str, bytes | Raw] = {**self._members, "model": quote(model), LIMIT_FIELD: b"%d" % granted_output}
        if given(self._members, "store") is None:
            kept = Feature.BACKGROUND in self.features  # who asks for it later finds nothing else
            members["store"] = b"true" if kept else b"false"  # responses are kept unless told otherwise
        if self._hosted_calls:
            members["max_tool_calls"] = b"%d" % self._hosted_calls
        return bodies.join(members)

    def meter(self, gauge: Gauge | None = None) -> StreamMeter:
        return meter(ResponsesTally(), gauge)


def read(body: bytes) -> ResponsesQuestion:
    return ResponsesQuestion(body)
