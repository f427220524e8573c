"""Prompts that are no messages: a text, an array of texts, tokens, or an array of tokens each (completions, embeddings).

Source: developers.openai.com/api/reference (embeddings: input; completions: prompt).
"""

from typing import Final

import msgspec
from msgspec import Raw

from broker.body import is_text, read_array
from broker.demand import Findings
from broker.errors import BadRequest

PROMPTS_MAX: Final = 2048  # the API's own bound of one request

_PROMPTS: Final = msgspec.json.Decoder(list[str | int | list[int]])


def judge_prompts(raw: Raw, param: str, found: Findings) -> int:
    """How many prompts there are. Texts cost their bytes, as everywhere; of tokens, each number is one.

    Raises:
        BadRequest: it is none of the four forms, or there are more than PROMPTS_MAX.
    """
    if is_text(raw):
        found.texts.append(raw)
        return 1
    try:
        prompts = _PROMPTS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _misshapen(param) from None
    kinds = {type(one) for one in prompts}
    if kinds == {int}:
        found.add_media(len(raw), len(prompts))
        return 1
    if len(kinds) > 1:
        raise _misshapen(param)
    if len(prompts) > PROMPTS_MAX:
        raise BadRequest(f"{param!r} has more than {PROMPTS_MAX} entries: send them in several requests", param=param)
    if kinds == {list}:
        found.add_media(len(raw), sum(len(one) for one in prompts if isinstance(one, list)))
    else:
        found.texts.extend(read_array(raw, param))
    return max(1, len(prompts))


def _misshapen(param: str) -> BadRequest:
    return BadRequest(f"{param!r} must be a text, an array of texts, an array of tokens, or an array of such arrays", param=param)
