"""What an agent asks and what the provider billed, in no vendor's words."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider billed them (api.md, "Tokens").

    input_tokens: all prompt tokens, cache reads and writes included.
    output_tokens: all generated tokens, reasoning included.
    cached_tokens: the part of input_tokens that was read from a cache.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request may cost at most, before anything is sent. Token counts for all choices (`n`) together.

    prompt_bound: an upper bound of the input tokens of the request as it will be sent.
    min_output: below this many output tokens the request makes no sense (16, or the thinking budget + 1, times n).
    wanted_output: what the caller asked for, times n; or the model's default; never above the model's maximum.
    """

    prompt_bound: int
    min_output: int
    wanted_output: int
