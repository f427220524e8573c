"""OpenAI, and every server that speaks its dialect (vLLM, Ollama, SGLang, llama.cpp …) at an endpoint of its own.

Source: developers.openai.com/api/reference/chat-completions (create: max_completion_tokens, store, stream_options).
"""

from typing import Final

from broker.chat import Options
from broker.grant import Endpoint
from broker.providers.kind import Kind

KIND: Final = Kind(
    endpoint=Endpoint("https", "api.openai.com", 443, "/v1"),
    paths={"openai_chat": "/chat/completions"},
    auth=(b"authorization", b"Bearer "),
    options=Options(
        limit_field="max_completion_tokens",  # reasoning models refuse max_tokens
        limit_fields=frozenset({"max_completion_tokens", "max_tokens"}),
        stream_usage=True,
        store=True,  # new organizations keep chat completions unless told otherwise
    ),
    compatible=Options(stream_usage=True),  # Ollama reads max_tokens and overlooks max_completion_tokens
)
