"""Mistral: OpenAI's dialect with fewer fields, an unknown one is refused, and usage comes with the last chunk unasked.

Source: docs.mistral.ai/api (chat/completions: max_tokens, stream; embeddings; audio/transcriptions: the
fields of OpenAI's that are most used, and two of its own).
"""

from typing import Final

from broker.chat import Options
from broker.grant import Endpoint
from broker.providers.kind import Kind

KIND: Final = Kind(
    endpoint=Endpoint("https", "api.mistral.ai", 443, "/v1"),
    paths={"openai_chat": "/chat/completions", "embeddings": "/embeddings", "openai_transcriptions": "/audio/transcriptions"},
    auth=(b"authorization", b"Bearer "),
    options=Options(),
    compatible=Options(),
)
