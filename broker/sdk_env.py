"""What the SDKs of each dialect read from their environment: how an unmodified agent finds the local gateway. Data alone.

Source: the SDKs' and frameworks' own releases, run against a recording server (openai 2.54 and 3.52, anthropic 1.17 and 2.11,
langchain, llama-index, pydantic-ai, LiteLLM). They disagree on names, so each gets all that are read somewhere.
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
NO_PROXY: Final = "127.0.0.1,localhost"  # a proxy in the pod would take even loopback calls


def variables(port: int, key: str) -> dict[str, str]:
    """The whole environment of one agent whose local gateway listens on this port."""
    words = {"base": f"http://127.0.0.1:{port}", "key": key}
    found = {name: value.format(**words) for names in BY_DIALECT.values() for name, value in names.items()}
    return {**found, "NO_PROXY": NO_PROXY, "no_proxy": NO_PROXY}
