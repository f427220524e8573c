"""OpenAI, and every server that speaks its dialect (vLLM, Ollama, SGLang, llama.cpp …) at an endpoint of its own.

Source: developers.openai.com/api/reference/chat-completions (create: max_completion_tokens, store, stream_options); the vocabularies
as tiktoken 0.14 has them (tiktoken/model.py, MODEL_PREFIX_TO_ENCODING). A family that is not listed counts as unknown.
"""

from typing import Final

from broker.chat import Options
from broker.grant import Endpoint
from broker.providers.kind import Kind

KIND: Final = Kind(
    endpoint=Endpoint("https", "api.openai.com", 443, "/v1"),
    paths={
        "openai_chat": "/chat/completions",
        "openai_responses": "/responses",
        "openai_stored_responses": "/responses",
        "openai_completions": "/completions",
        "embeddings": "/embeddings",
        "openai_transcriptions": "/audio/transcriptions",
        "openai_translations": "/audio/translations",
        "openai_images": "/images/generations",
    },
    stated=frozenset({"openai_responses", "openai_stored_responses"}),
    auth=(b"authorization", b"Bearer "),
    options=Options(
        limit_field="max_completion_tokens",  # reasoning models refuse max_tokens
        limit_fields=frozenset({"max_completion_tokens", "max_tokens"}),
        stream_usage=True,
        store=True,  # new organizations keep chat completions unless told otherwise
    ),
    compatible=Options(stream_usage=True),  # Ollama reads max_tokens and overlooks max_completion_tokens
    vocabularies=(
        *((family, "o200k_base") for family in ("gpt-5", "gpt-4.5-", "gpt-4.1-", "gpt-4o-", "chatgpt-4o-", "o1-", "o3-", "o4-mini-")),
        *((family, "o200k_base") for family in ("ft:gpt-4o", "ft:gpt-4.1")),
        *((family, "cl100k_base") for family in ("gpt-4-", "gpt-3.5-turbo-", "ft:gpt-4", "ft:gpt-3.5-turbo")),
    ),
)
