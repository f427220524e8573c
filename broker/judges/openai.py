"""What OpenAI's dialects share: constants around a prompt, media, and fields that no dialect of theirs may carry.

Source: developers.openai.com/api/docs (guides named below); for what compatible servers add, the documentation of vLLM, SGLang,
llama.cpp and OpenRouter.
"""

from collections.abc import Iterable
from typing import Final

from broker.body import Members, given
from broker.chat import Header
from broker.demand import Findings, Template
from broker.errors import BadRequest
from broker.grant import Feature
from broker.judges import sounds

# request: the system text that templates write unasked (gpt-oss about 70 tokens, Qwen 2.5 and Llama 3 about 30).
# message: 3 and 1 for a name; the answer's opening 3 (OpenAI cookbook, "How to count tokens with tiktoken").
# tool: 19 around each and 6 for a property whose JSON has more bytes (same page); tools: the preambles of open templates (Qwen 2.5: 130).
# context_window: 1,050,000 is the largest in OpenAI's list of models.
TEMPLATE: Final = Template(request=128, message=8, tool=32, tools=512, context_window=1_050_000)

# The dearest documented image: 2,833 + 5,667 for each of at most 8 tiles (gpt-4o-mini; OpenAI, "Images and vision", costs).
IMAGE_TOKENS: Final = 48_169
# Speech is 10 tokens a second (OpenAI, "Managing costs", realtime); sounds.LEAST_RATE is 1,333 bytes a second in base64. What may have
# less, such as formats that pack silence to nothing, is bounded by the context window alone.
AUDIO_BYTES_PER_TOKEN: Final = 16

OTHER_MODEL: Final = "it lets the provider use a model that was not granted; name one in 'model'"
OTHER_SERVER: Final = "it names a server that the provider would connect to; have the server's operator set it"
OTHER_MODELS: Final = {
    **dict.fromkeys(("models", "fallbacks", "lora_path"), OTHER_MODEL),
    **dict.fromkeys(("bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key"), OTHER_SERVER),  # SGLang
}
# Of Google's servers that speak this dialect: what is cached stands in the prompt at any length, for whoever names it.
CACHED: Final = "it may name a cached prompt, which agents of one account share; send the fields of this dialect alone"
UNFOLDING: Final = {
    **dict.fromkeys(("extra_body", "google", "cached_content"), CACHED),
    "chat_template": "a template can make a prompt of any length; have the server's operator install it",
    "mm_processor_kwargs": "it can make any number of tokens of one image; have the server's operator set it",
    "media_io_kwargs": "it can make any number of tokens of one image; have the server's operator set it",
}

# "auto" is what the owner of the account chose for it; "on_demand" is Groq's usual one
USUAL_TIERS: Final = frozenset((b'"auto"', b'"default"', b'"flex"', b'"on_demand"'))


def is_usually_priced(members: Members) -> bool:
    """False where it asks for a tier that costs more than the model's price says (OpenAI, "Priority processing": twice that)."""
    tier = given(members, "service_tier")
    return tier is None or bytes(tier) in USUAL_TIERS


def features_of_headers(headers: Iterable[Header]) -> frozenset[Feature]:  # noqa: ARG001  no header changes what a body means
    return frozenset()


def judge_image(url: str, param: str, found: Findings) -> None:
    if _is_remote(url, param):
        found.features.add(Feature.REMOTE_MEDIA)
        found.add_media(0, IMAGE_TOKENS)
    else:
        found.add_media(len(url), IMAGE_TOKENS)


def judge_sound(sound: str, param: str, found: Findings) -> None:
    if ":" in sound and _is_remote(sound, param):  # plain base64 has no colon
        found.features.add(Feature.REMOTE_MEDIA)
        found.add_passes(1)
    elif sounds.keeps_rate(sound):
        found.add_media(len(sound), len(sound) // AUDIO_BYTES_PER_TOKEN + 1)
    else:
        found.add_media(len(sound), 0)
        found.add_passes(1)


def judge_file(data: str, param: str, found: Findings) -> None:
    if ":" in data and _is_remote(data, param):
        found.features.add(Feature.REMOTE_MEDIA)
    found.add_media(len(data), 0)
    found.add_passes(1)  # a PDF unfolds to any number of pages


def _is_remote(url: str, param: str) -> bool:
    """The provider would fetch it. A place that is neither inline nor on the web could be anything of the provider's own."""
    if url.startswith("data:"):
        return False
    if url.lower().startswith(("https://", "http://")):
        return True
    raise BadRequest(f"{param!r} must be a data: URL, or an https: URL where your policy grants RemoteMedia", param=param)
