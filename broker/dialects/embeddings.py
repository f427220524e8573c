"""OpenAI's Embeddings: text or tokens in, vectors out, as numbers or in base64. Only input is billed.

Source: developers.openai.com/api/reference/embeddings; for what compatible servers add, the documentation of vLLM and llama.cpp.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Raw

from broker import body as bodies
from broker.body import given, quote, read_flag
from broker.chat import Demand, Options
from broker.demand import Findings
from broker.errors import BadRequest
from broker.grant import Feature, KeptId
from broker.judges.openai import OTHER_MODELS, UNFOLDING, features_of_headers
from broker.judges.prompts import judge_prompts
from broker.metering import Gauge, StreamMeter, meter
from broker.spelling import longest_bytes
from broker.tallies.whole import WholeTally, embedded
from broker.wording.openai import error, error_event, models, one_model, rate_limit_headers

__all__ = ["NAME", "EmbeddingsQuestion", "error", "error_event", "features_of_headers", "models", "one_model", "rate_limit_headers", "read"]

NAME: Final = "embeddings"

# Marks at both ends (BERT and XLM-R have one each), and room for a task that a server writes in front ("search_document: " has four).
INPUT_TOKENS: Final = 8
REFUSED_FIELDS: Final = {
    **OTHER_MODELS,
    **UNFOLDING,
    "messages": "it may carry media whose tokens nobody can bound; send text in 'input'",
    "content": "it stands in some servers for 'input'; send 'input' alone",
}


class EmbeddingsQuestion:
    """Embeddings that were asked for. Satisfies dialects.Question."""

    __slots__ = ("_bound", "_members", "model", "texts")

    streaming = False
    features: frozenset[Feature] = frozenset()
    kept: Sequence[KeptId] = ()

    def __init__(self, body: bytes) -> None:
        members = bodies.open_body(body)
        self._members = members
        self.model = bodies.read_model(members)
        bodies.refuse_members(members, REFUSED_FIELDS)
        if read_flag(members, "stream"):
            raise BadRequest("embeddings are not streamed: leave 'stream' out", param="stream")
        prompts = given(members, "input")
        if prompts is None:
            raise BadRequest("the body has nothing to embed: add the field 'input'", param="input")
        found = Findings()
        inputs = judge_prompts(prompts, "input", found)
        self.texts: Sequence[Raw] = found.texts
        self._bound = longest_bytes(body) - found.media_bytes + found.extra_tokens + INPUT_TOKENS * inputs

    def demand(self, default_output: int, max_output: int | None) -> Demand:  # noqa: ARG002  there is no output
        return Demand(self._bound, 0, 0)

    def clamped(self, granted_output: int) -> int | None:  # noqa: ARG002  there is no output
        return None

    def body(self, model: str, granted_output: int, options: Options) -> bytes:  # noqa: ARG002  nothing is inserted
        return bodies.join({**self._members, "model": quote(model)})

    def meter(self, gauge: Gauge | None = None) -> StreamMeter:
        return meter(WholeTally(embedded), gauge)


def read(body: bytes) -> EmbeddingsQuestion:
    return EmbeddingsQuestion(body)
