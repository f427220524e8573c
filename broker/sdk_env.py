"""What the SDKs of each dialect read from their environment: how an unmodified agent finds the local gateway. Data alone.

Source: the SDKs' and frameworks' own releases, run against a recording server (openai 2.54 and 3.52, anthropic 1.17 and 2.11,
langchain, llama-index, pydantic-ai, LiteLLM). They disagree on names, so each gets all that are read somewhere. What would change
other calls of the same program is never here: AWS_* and GOOGLE_APPLICATION_CREDENTIALS belong to more than models.
"""

from typing import Final

# In each value, {base} becomes http://127.0.0.1:PORT and {key} the placeholder key (SDKs refuse to start without one).
BY_DIALECT: Final[dict[str, dict[str, str]]] = {
    "openai_chat": {
        "OPENAI_BASE_URL": "{base}/v1",
        "OPENAI_API_BASE": "{base}/v1",  # llama-index and older LiteLLM read this one alone
        "OPENAI_API_KEY": "{key}",
    },
    "anthropic_messages": {
        "ANTHROPIC_BASE_URL": "{base}",  # the SDK adds /v1 itself
        "ANTHROPIC_API_URL": "{base}",  # langchain-anthropic
        "ANTHROPIC_API_BASE": "{base}",  # LiteLLM
        "ANTHROPIC_API_KEY": "{key}",
    },
}
# Dialects that the SDKs of another one speak too: the same base URL, the same key.
SAME_SDK: Final[dict[str, str]] = {
    **dict.fromkeys(("openai_responses", "openai_completions", "embeddings"), "openai_chat"),
    **dict.fromkeys(("openai_transcriptions", "openai_translations", "openai_images"), "openai_chat"),
    "anthropic_count_tokens": "anthropic_messages",
}
# A key that makes another one needless: Anthropic's SDK complains when it finds both.
INSTEAD: Final[dict[str, str]] = {"ANTHROPIC_API_KEY": "ANTHROPIC_AUTH_TOKEN"}

LOOPBACK: Final = ("127.0.0.1", "localhost")
NO_PROXY: Final = ("NO_PROXY", "no_proxy")  # a proxy in the pod would take even loopback calls


def of_dialect(dialect: str, port: int, key: str) -> dict[str, str]:
    """The variables for the SDKs of one dialect, where the local gateway listens on this port."""
    words = {"base": f"http://127.0.0.1:{port}", "key": key}
    return {name: value.format(**words) for name, value in BY_DIALECT[dialect].items()}


def keys(dialect: str) -> frozenset[str]:
    """Those of its variables that hold a key; the others hold a base URL."""
    return frozenset(name for name, value in BY_DIALECT[dialect].items() if value == "{key}")


def variables(port: int, key: str) -> dict[str, str]:
    """The whole environment of one agent whose local gateway listens on this port."""
    found = {name: value for dialect in BY_DIALECT for name, value in of_dialect(dialect, port, key).items()}
    return {**found, **dict.fromkeys(NO_PROXY, ",".join(LOOPBACK))}
