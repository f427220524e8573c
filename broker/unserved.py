"""Paths of the vendors' APIs that have no route here, and what to do instead. Data alone.

Most of them make state at the provider's account, which agents of different teams share: ids of it are sealed to no identity, so nobody
gets any.
"""

from typing import Final

_SHARED: Final = "they are kept at the provider's account, which other agents share"
_BILLED: Final = "no quota here can count what they cost"
_STORED: Final = "an answer kept at the provider cannot be fetched, changed or ended here, since other agents share the provider's account"
_JOBS: Final = "send each request by itself, and as many at a time as your quota allows"
_FILES: Final = "send the file's content inside the request, as base64"
_MEMORY: Final = "keep the conversation in your program and send all of it, to /v1/responses or /v1/chat/completions"
_GOING_ON: Final = f"{_MEMORY}; or go on by previous_response_id, where your policy grants Storage"
_OUTSIDE: Final = "ask the people who run this broker for another way to the provider"

# From the most particular path to the most general: the first that is the path, or begins it, counts.
INSTEAD: Final[tuple[tuple[str, str, str], ...]] = (
    ("/v1/chat/completions", _STORED, "keep the answers in your program"),
    ("/v1/responses/input_tokens", "tokens are not counted here in this dialect", "count them in your program (tiktoken)"),
    (
        "/v1/responses/compact",
        "shortened conversations are billed outside of the reported usage",
        "shorten the input in your program",
    ),
    ("/v1/conversations", f"conversations are not offered: {_SHARED}", _GOING_ON),
    ("/v1/messages/batches", f"batches are not offered: {_SHARED}", _JOBS),
    ("/v1/batches", f"batches are not offered: {_SHARED}", _JOBS),
    ("/v1/files", f"files are not offered: {_SHARED}", _FILES),
    ("/v1/uploads", f"uploads are not offered: {_SHARED}", _FILES),
    ("/v1/vector_stores", f"vector stores are not offered: {_SHARED}", "search in your program (/v1/embeddings) and send what you found"),
    ("/v1/containers", f"containers are not offered: {_SHARED}", "run code in your own pod"),
    ("/v1/skills", f"skills are not offered: {_SHARED}", "send their text with the request"),
    ("/v1/assistants", f"assistants are not offered: {_SHARED}", _MEMORY),
    ("/v1/threads", f"threads are not offered: {_SHARED}", _MEMORY),
    ("/v1/chatkit", f"chat sessions are not offered: {_SHARED}", _MEMORY),
    ("/v1/sessions", f"sessions are not offered: {_SHARED}", _MEMORY),
    (
        "/v1/fine_tuning",
        f"fine-tuning is not offered: {_SHARED}",
        _OUTSIDE,
    ),
    ("/v1/evals", f"evaluations are not offered: {_SHARED}", "run them in your program"),
    ("/v1/realtime", f"realtime sessions are not offered: {_BILLED}", "ask /v1/responses or /v1/chat/completions for a stream"),
    ("/v1/audio/speech", f"made speech is not offered: {_BILLED}", _OUTSIDE),
    ("/v1/audio", f"voices are not offered: {_SHARED}", _OUTSIDE),
    ("/v1/images/edits", f"edited images are not offered: {_BILLED}", "describe the whole picture to /v1/images/generations"),
    ("/v1/images/variations", f"varied images are not offered: {_BILLED}", "describe the whole picture to /v1/images/generations"),
    ("/v1/images", f"kept images are not offered: {_SHARED}", "take the picture out of the answer"),
    ("/v1/videos", f"made videos are not offered: {_BILLED}", _OUTSIDE),
    ("/v1/moderations", "moderation is not offered: it has no model that could be granted", "have a granted model judge the text"),
    ("/v1/rerank", "reranking is not offered", "compare what /v1/embeddings gives"),
    ("/v1/complete", "Anthropic's text completions are not offered", "call /v1/messages"),
    ("/v1/organization", "the provider's account is not administered through this broker", _OUTSIDE),
    ("/v1/organizations", "the provider's account is not administered through this broker", _OUTSIDE),
)


def explain(path: str) -> str | None:
    """Why there is no such route, and what to do; None for a path that nobody here knows."""
    for begins, why, instead in INSTEAD:
        if path == begins or path.startswith(f"{begins}/"):
            return f"{why}; {instead}"
    return None
