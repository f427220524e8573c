"""What an agent asks, what a provider understands and what it billed, in no vendor's words."""

from dataclasses import dataclass
from typing import Final

Header = tuple[bytes, bytes]  # name in lower case, value


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider billed them (docs/quotas-exactness.md, "What providers report").

    input_tokens: all prompt tokens, cache reads and writes included.
    output_tokens: all generated tokens, reasoning included.
    cached_tokens, cache_write_tokens: the parts of input_tokens that were read from a cache, or written to one.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request may cost at most, before anything is sent. Token counts for all choices (`n`) together.

    prompt_bound: an upper bound of the input tokens of the request as it will be sent.
    min_output: below this many output tokens the request makes no sense (16, or the thinking budget + 1, times n).
    wanted_output: what the caller asked for, times n; or the model's default; never above the model's maximum.
    bounded: False = nothing bounds its tokens, so none are held, and it passes no quota that counts them (quota.uncountable).
    priced: False = it asks for a service that its provider bills dearer than the model's price says, so it passes no quota of money.
    """

    prompt_bound: int
    min_output: int
    wanted_output: int
    bounded: bool = True
    priced: bool = True


UNBOUNDED: Final = Demand(0, 0, 0, bounded=False)


@dataclass(frozen=True, slots=True)
class Options:
    """What one provider reads beyond the plain dialect, so that no field is sent that it would refuse or overlook.

    limit_field: where the output limit goes when the caller named none.
    limit_fields: every output limit that the provider obeys. A caller's limit in another field is moved to `limit_field`:
        one that is overlooked would be no ceiling.
    stream_usage: takes `stream_options.include_usage`.
    store: keeps answers unless told `store: false`.
    """

    limit_field: str = "max_tokens"
    limit_fields: frozenset[str] = frozenset({"max_tokens"})
    stream_usage: bool = False
    store: bool = False
