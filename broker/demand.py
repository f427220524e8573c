"""What a request may cost at most: the arithmetic that every dialect shares (docs/quotas-exactness.md). Pure.

The prompt's bound is the body's UTF-8 bytes, which is a true bound for text under byte-level BPE, since every token covers at
least one byte; what we edit into a body carries no prompt. Media are taken out of the bytes and put in by their documented
bounds. What a provider may unfold (PDF) or fetch is bounded by the largest context window alone.
"""

from dataclasses import dataclass, field
from typing import Final

from msgspec import Raw

from broker.body import OBJECTS_MAX, Members, split_each
from broker.chat import Demand
from broker.errors import BadRequest
from broker.grant import Feature, KeptId

LEAST_OUTPUT: Final = 16  # tokens of one choice; OpenAI's own smallest limit

# Other servers' names for limits: one that is obeyed beside ours would be a way round it (llama.cpp lets n_predict win).
_ALIAS: Final = "name the limit in the field of this dialect, where it can be kept"
LIMIT_ALIASES: Final = dict.fromkeys(("n_predict", "num_predict", "max_new_tokens", "max_output_tokens", "max_gen_len", "n_cmpl"), _ALIAS)


@dataclass(slots=True)
class Findings:
    """What reading a request's messages and tools brought to light.

    objects: how many objects were judged, of any kind.
    messages, tools: how many.
    media_bytes: the part of the body that is encoded media, not text.
    extra_tokens: the documented bounds of that media, and of what a tool or an option adds.
    passes: how often the provider may read a whole context window for this one request; 0 = text and bounded media only.
    texts: strings that the model reads as they are, as JSON has them: what a count can replace the bytes of. No media is among them.
    kept: where it names state that the provider keeps.
    lasting_tools: tools that the provider runs stand in an item, so that they are kept where the item is.
    """

    objects: int = 0
    messages: int = 0
    tools: int = 0
    media_bytes: int = 0
    extra_tokens: int = 0
    passes: int = 0
    features: set[Feature] = field(default_factory=set[Feature])
    texts: list[Raw] = field(default_factory=list[Raw])
    kept: list[KeptId] = field(default_factory=list[KeptId])
    lasting_tools: bool = False

    def split_each(self, raw: Raw, param: str) -> list[Members]:
        """The objects of an array to judge, counted: judging takes time.

        Raises:
            BadRequest: see body.split_each; or there are too many of them in this request.
        """
        each = split_each(raw, param)
        self.objects += len(each)
        if self.objects > OBJECTS_MAX:
            raise BadRequest(f"the request has more than {OBJECTS_MAX} messages, parts and tools", param=param)
        return each

    def add_media(self, encoded_bytes: int, tokens: int) -> None:
        self.media_bytes += encoded_bytes
        self.extra_tokens += tokens

    def add_kept(self, place: KeptId) -> None:
        """What it names may be as long as a context window."""
        self.kept.append(place)
        self.features.add(place.feature)
        self.add_passes(1)

    def add_passes(self, passes: int) -> None:
        self.passes = max(self.passes, passes)


@dataclass(frozen=True, slots=True)
class Template:
    """Tokens that a provider adds around what is in the body, per dialect (data; its source stands where it is written)."""

    request: int
    message: int
    tool: int
    tools: int
    context_window: int

    def bound(self, body_bytes: int, found: Findings) -> int:
        """An upper bound of the prompt's tokens."""
        text = body_bytes - found.media_bytes + self.request + self.message * found.messages
        if found.tools:
            text += self.tools + self.tool * found.tools
        return text + found.extra_tokens + found.passes * self.context_window


@dataclass(frozen=True, slots=True)
class Output:
    """How much output the caller asked for.

    limit: tokens of one choice, None where the caller named none.
    choices: answers to one prompt.
    thinking: a budget that is spent before the first visible token.
    priced: see chat.Demand.
    """

    limit: int | None
    choices: int = 1
    thinking: int = 0
    priced: bool = True

    def demand(self, prompt_bound: int, default_output: int, max_output: int | None) -> Demand:
        """See chat.Demand.

        Raises:
            BadRequest: the thinking budget does not fit below the model's maximum.
        """
        wanted = default_output + self.thinking if self.limit is None else self.limit
        least = min(max(LEAST_OUTPUT, self.thinking + 1), wanted)
        if max_output is not None and wanted > max_output:
            wanted = max_output
            if least > wanted and self.thinking:
                raise BadRequest(
                    f"the thinking budget must be below this model's maximum output of {max_output} tokens: lower it", param="thinking"
                )
            least = min(least, wanted)
        return Demand(prompt_bound, least * self.choices, wanted * self.choices, priced=self.priced)

    def clamped(self, granted_output: int) -> int | None:
        """The limit of one choice when it is below what the caller named."""
        share = granted_output // self.choices
        return share if self.limit is not None and share < self.limit else None
