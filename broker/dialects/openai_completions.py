"""OpenAI's legacy Completions: one or many prompts, each with any number of answers.

Source: developers.openai.com/api/reference/completions; for what compatible servers add, the documentation of vLLM and llama.cpp.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Raw

from broker import body as bodies
from broker.body import given, quote, read_count, read_flag, split
from broker.chat import Demand, Options
from broker.demand import LIMIT_ALIASES, Findings, Output
from broker.grant import Feature, KeptId
from broker.judges.openai import OTHER_MODELS, UNFOLDING, features_of_headers, is_usually_priced
from broker.judges.prompts import judge_prompts
from broker.metering import Gauge, StreamMeter, meter
from broker.spelling import longest_bytes
from broker.tallies.openai_completions import CompletionsTally
from broker.wording.openai import error, error_event, models, one_model, rate_limit_headers

__all__ = [
    "NAME",
    "CompletionsQuestion",
    "error",
    "error_event",
    "features_of_headers",
    "models",
    "one_model",
    "rate_limit_headers",
    "read",
]

NAME: Final = "openai_completions"

CHOICES_MAX: Final = 128  # the API's own bound of `n`; that of `best_of` is 20
PROMPT_TOKENS: Final = 8  # of one prompt: its beginning, its end, and the marks around a suffix
REFUSED_FIELDS: Final = {
    **LIMIT_ALIASES,
    **OTHER_MODELS,
    **UNFOLDING,
    "max_completion_tokens": "name the limit in 'max_tokens', where it can be kept",
    "messages": "it belongs to /v1/chat/completions; send text in 'prompt'",
    "use_beam_search": "it makes answers that are billed and never seen; use 'n'",
    "prompt_embeds": "nobody can tell how many tokens it stands for; send text in 'prompt'",
    "session_params": "it names state of the server that agents share; send the whole prompt",
    "id_slot": "it names state of the server that agents share; send the whole prompt",
    "kv_transfer_params": "it names state of the server that agents share; send the whole prompt",
}


class CompletionsQuestion:
    """Completions that were asked for. Satisfies dialects.Question."""

    __slots__ = ("_asked_usage", "_bound", "_echoes", "_members", "_output", "_stream_options", "model", "streaming", "texts")

    features: frozenset[Feature] = frozenset()
    kept: Sequence[KeptId] = ()

    def __init__(self, body: bytes) -> None:
        members = bodies.open_body(body)
        self._members = members
        self.model = bodies.read_model(members)
        bodies.refuse_members(members, REFUSED_FIELDS)
        self.streaming = read_flag(members, "stream") or False
        raw = given(members, "stream_options")
        self._stream_options = {} if raw is None else split(raw, "stream_options")
        self._asked_usage = read_flag(self._stream_options, "include_usage") or False
        found = Findings()
        prompts = 1 if (raw := given(members, "prompt")) is None else judge_prompts(raw, "prompt", found)
        answers = max(read_count(members, name, most=CHOICES_MAX) or 1 for name in ("n", "best_of"))
        limit = read_count(members, "max_tokens")
        self._output = Output(limit, choices=prompts * answers, priced=is_usually_priced(members))
        self._echoes = read_flag(members, "echo") or False
        self.texts: Sequence[Raw] = found.texts
        bound = longest_bytes(body) - found.media_bytes + found.extra_tokens + PROMPT_TOKENS * prompts
        self._bound = bound * (1 + answers) if self._echoes else bound  # a server may bill what it repeats

    def demand(self, default_output: int, max_output: int | None) -> Demand:
        return self._output.demand(self._bound, default_output, max_output)

    def clamped(self, granted_output: int) -> int | None:
        return self._output.clamped(granted_output)

    def body(self, model: str, granted_output: int, options: Options) -> bytes:
        members: dict[str, bytes | Raw] = {**self._members, "model": quote(model)}
        members["max_tokens"] = b"%d" % (granted_output // self._output.choices)
        if self.streaming and options.stream_usage and not self._asked_usage:
            members["stream_options"] = bodies.join({**self._stream_options, "include_usage": b"true"})
        return bodies.join(members)

    def meter(self, gauge: Gauge | None = None) -> StreamMeter:
        return meter(CompletionsTally(asked_usage=self._asked_usage, echoes=self._echoes), gauge)


def read(body: bytes) -> CompletionsQuestion:
    return CompletionsQuestion(body)
