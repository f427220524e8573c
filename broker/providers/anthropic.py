"""Anthropic. The version is the caller's own where it names one: SDKs differ, and answers follow it.

Source: platform.claude.com/docs/en/api (overview, versioning).
"""

from typing import Final

from broker.chat import Options
from broker.grant import Endpoint
from broker.providers.kind import Kind

KIND: Final = Kind(
    endpoint=Endpoint("https", "api.anthropic.com", 443, "/v1"),
    paths={"anthropic_messages": "/messages", "anthropic_count_tokens": "/messages/count_tokens"},
    auth=(b"x-api-key", b""),
    options=Options(),
    compatible=Options(),
    request_headers=frozenset({b"anthropic-version", b"anthropic-beta"}),
    headers=((b"anthropic-version", b"2023-06-01"),),
    bills_cache_writes=True,
)
