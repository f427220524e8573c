"""Whom we call: data only. One file per kind (the schema of an AIProvider object): where it is, its paths, its headers."""

from typing import Final

from broker.grant import Backend, Provider
from broker.providers import anthropic, mistral, openai
from broker.providers.kind import Kind

__all__ = ["PROVIDERS", "Kind", "passes", "speaks", "vocabulary"]

PROVIDERS: Final[dict[str, Kind]] = {"OpenAI": openai.KIND, "Anthropic": anthropic.KIND, "Mistral": mistral.KIND}


def passes(provider: Provider, dialect: str) -> bool:
    """Requests of this dialect pass through to this provider."""
    return dialect in PROVIDERS[provider.kind].spoken_at(provider.endpoint.host, responses=provider.responses)


def speaks(kind: str, dialect: str) -> bool:
    """Providers of this kind speak this dialect, some of them at least."""
    return kind in PROVIDERS and dialect in PROVIDERS[kind].paths


def vocabulary(backend: Backend) -> str | None:
    """See Kind.vocabulary."""
    to = backend.provider
    return PROVIDERS[to.kind].vocabulary(to.endpoint.host, backend.model)
