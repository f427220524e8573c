"""Anthropic's messages, sent or only counted.

Source: platform.claude.com/docs/en/api/messages and the pages named below.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Raw

from broker import body as bodies
from broker.body import Members, given, read_text, reject, split
from broker.chat import Header
from broker.demand import LIMIT_ALIASES, Findings, Template
from broker.errors import BadRequest, FeatureNotGranted
from broker.features import refuse_id, refuse_unknown
from broker.grant import Feature, KeptId

# request, message, tool: room for the turns' marks, which are not documented; the JSON around them is counted too.
# tools: the system prompt that tools bring, 159 to 530 by model ("Tool use", pricing). context_window: 1,000,000 ("Context windows").
TEMPLATE: Final = Template(request=64, message=8, tool=64, tools=1024, context_window=1_000_000)
IMAGE_TOKENS: Final = 4_784  # the most that an image has after scaling, on the models with the highest resolution ("Images and vision")
HOSTED_PASSES: Final = 10  # the server's own loop over its tools stops there ("Server tools", pause_turn)
SCHEMA_TOKENS: Final = 1024  # a requested output format adds a system prompt of its own ("Structured outputs"; its size is not documented)
DEPTH: Final = 8  # of blocks within blocks; the API has three

# Tools whose schema Anthropic knows and that the caller runs. They add 245 (bash), 700 (text editor), 735 + 499 (computer) tokens
# ("Bash tool", "Text editor tool", "Computer use tool", pricing); memory adds its instructions.
CLIENT_TOOLS: Final = frozenset(
    {
        *("bash_20241022", "bash_20250124", "memory_20250818"),
        *("text_editor_20241022", "text_editor_20250124", "text_editor_20250429", "text_editor_20250728"),
        *("computer_20241022", "computer_20250124", "computer_20251124"),
    }
)
CLIENT_TOOL_TOKENS: Final = 1536

NEW_CONTAINER: Final = "leave it out, so that code runs in a new one"

PLAIN_BLOCKS: Final = frozenset({"text", "thinking", "redacted_thinking", "tool_use", "tool_reference"})
HOSTED_BLOCKS: Final = frozenset(
    {
        *("server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result", "mcp_tool_use"),
        *("mcp_tool_result", "bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result"),
    }
)
REFUSED_FIELDS: Final = {
    **LIMIT_ALIASES,
    "fallbacks": "it lets the provider pick a model that was not granted; name one in 'model'",
    "fallback_credit_token": "it belongs to fallbacks, which are not taken",
    "compaction": "its summary is billed outside of the usage that is reported; summarize in a request of its own",
    "billing_policy": "who pays is decided by the owner of the provider's account",
}
USUAL_SERVICE: Final = {"speed": b'"standard"', "inference_geo": b'"global"'}
EDITS: Final = frozenset({"clear_tool_uses_20250919", "clear_thinking_20251015"})  # of context_management; they only leave out

# Betas that change how a model answers, none of which reaches state, other hosts, other models or other accounts.
PLAIN_BETAS: Final = frozenset(
    {
        *("computer-use-2024-10-22", "computer-use-2025-01-24", "computer-use-2025-11-24"),
        *("output-128k-2025-02-19", "output-300k-2026-03-24", "context-1m-2025-08-07", "context-management-2025-06-27"),
        *("dev-full-thinking-2025-05-14", "interleaved-thinking-2025-05-14", "thinking-token-count-2026-05-13"),
        *("thinking-display-updates-2026-08-18", "model-context-window-exceeded-2025-08-26", "fast-mode-2026-02-01"),
        *("structured-outputs-2025-11-13", "task-budgets-2026-03-13", "prompt-caching-2024-07-31", "extended-cache-ttl-2025-04-11"),
        *("pdfs-2024-09-25", "token-counting-2024-11-01", "token-efficient-tools-2025-02-19", "message-batches-2024-09-24"),
    }
)
FEATURES_OF_BETAS: Final = {
    "code-execution-2025-05-22": Feature.HOSTED_TOOLS,
    "mcp-client-2025-04-04": Feature.HOSTED_TOOLS,
    "mcp-client-2025-11-20": Feature.HOSTED_TOOLS,
    "skills-2025-10-02": Feature.HOSTED_TOOLS,
    "files-api-2025-04-14": Feature.FILES,
}


def judge(members: Members) -> Findings:
    """What the request reaches beyond its own bytes."""
    found = Findings()
    _judge_state(members, found)
    if given(members, "output_config") is not None or given(members, "output_format") is not None:
        found.extra_tokens += SCHEMA_TOKENS
    if (system := given(members, "system")) is not None:
        _judge_content(system, "system", found, DEPTH)
    messages = given(members, "messages")
    if messages is None:
        raise BadRequest("the body has no messages: add the field 'messages'", param="messages")
    for message in found.split_each(messages, "messages"):
        found.messages += 1
        content = given(message, "content")
        if content is not None:
            _judge_content(content, "messages.content", found, DEPTH)
    if (tools := given(members, "tools")) is not None:
        for tool in found.split_each(tools, "tools"):
            _judge_tool(tool, found)
    return found


def _judge_state(members: Members, found: Findings) -> None:
    """Top-level fields that reach what outlives the request."""
    if given(members, "thread") is not None:
        raise refuse_id("thread")
    if (raw := given(members, "diagnostics")) is not None and given(split(raw, "diagnostics"), "previous_message_id") is not None:
        raise refuse_id("diagnostics.previous_message_id")
    if (raw := given(members, "container")) is not None:
        _judge_container(raw, found)
    if given(members, "mcp_servers") is not None:
        _found_hosted(found)
    if (raw := given(members, "context_management")) is not None:
        edits = given(split(raw, "context_management"), "edits")
        for edit in [] if edits is None else found.split_each(edits, "context_management.edits"):
            if _kind(edit, "context_management.edits.type") not in EDITS:
                reject("'context_management' may only clear: a summary is billed outside of the reported usage", "context_management")


def _judge_container(raw: Raw, found: Findings) -> None:
    """A new one, or one's own by its sealed id, with skills that Anthropic has made: any other skill is somebody's of the same account."""
    if bodies.is_text(raw):
        found.add_kept(KeptId(Feature.FILES, "container", read_text(raw, "container"), NEW_CONTAINER))
        _found_hosted(found)
        return
    container = split(raw, "container")
    if (id_ := given(container, "id")) is not None:
        found.add_kept(KeptId(Feature.FILES, "container", read_text(id_, "container.id"), NEW_CONTAINER))
    skills = given(container, "skills")
    for skill in [] if skills is None else found.split_each(skills, "container.skills"):
        if _kind(skill, "container.skills.type") != "anthropic":
            raise refuse_id("container.skills.skill_id")
    _found_hosted(found)


def _found_hosted(found: Findings) -> None:
    found.features.add(Feature.HOSTED_TOOLS)
    found.add_passes(HOSTED_PASSES)


def _kind(block: Members, param: str) -> str:
    raw = given(block, "type")
    return "" if raw is None else read_text(raw, param)


def _judge_content(content: Raw, param: str, found: Findings, depth: int) -> None:
    if bodies.is_text(content):
        found.texts.append(content)
        return
    if not depth:
        reject(f"{param!r} has too many blocks within blocks", param)
    for block in found.split_each(content, param):
        _judge_block(block, param, found, depth)


def _judge_block(block: Members, param: str, found: Findings, depth: int) -> None:
    kind = _kind(block, f"{param}.type")
    if kind in PLAIN_BLOCKS:
        if kind == "text" and (text := given(block, kind)) is not None and bodies.is_text(text):
            found.texts.append(text)
        return
    if kind in ("tool_result", "search_result"):
        if (content := given(block, "content")) is not None:
            _judge_content(content, f"{param}.content", found, depth - 1)
    elif kind in ("image", "document"):
        source = given(block, "source")
        if source is None:
            reject(f"{param}.source is missing", f"{param}.source")
        _judge_source(kind, split(source, f"{param}.source"), f"{param}.source", found, depth)
    elif kind in HOSTED_BLOCKS:
        _found_hosted(found)
    elif kind == "container_upload":
        raise refuse_id(f"{param}.file_id")
    else:
        raise refuse_unknown(kind, f"{param}.type")


def _judge_source(kind: str, source: Members, param: str, found: Findings, depth: int) -> None:
    how = _kind(source, f"{param}.type")
    data = given(source, "data")
    if how == "base64" and data is not None:
        found.add_media(len(data), IMAGE_TOKENS if kind == "image" else 0)
    elif how == "url":
        found.features.add(Feature.REMOTE_MEDIA)
        found.add_media(0, IMAGE_TOKENS if kind == "image" else 0)
    elif how == "file":
        raise refuse_id(f"{param}.file_id")
    elif how == "text" and kind == "document":
        return
    elif how == "content" and kind == "document" and (content := given(source, "content")) is not None:
        _judge_content(content, f"{param}.content", found, depth - 1)
        return
    else:
        raise refuse_unknown(how, f"{param}.type")
    if kind == "document":
        found.add_passes(1)  # a PDF unfolds to any number of pages


def _judge_tool(tool: Members, found: Findings) -> None:
    found.tools += 1
    kind = _kind(tool, "tools.type")
    if given(tool, "model") is not None:
        reject("a tool may not name a model: it would be one that was not granted", "tools.model")
    if kind in CLIENT_TOOLS:
        found.extra_tokens += CLIENT_TOOL_TOKENS
    elif kind not in ("", "custom"):
        _found_hosted(found)


def is_usually_priced(members: Members) -> bool:
    """False of what costs more than the model's price says: fast mode six times that, one country a tenth more ("Pricing")."""
    return all((raw := given(members, name)) is None or bytes(raw) == usual for name, usual in USUAL_SERVICE.items())


def features_of_headers(headers: Iterable[Header]) -> frozenset[Feature]:
    """Betas open doors, so an allow-list holds them. What a beta is for is judged in the body too, where it has a place there.

    Raises:
        FeatureNotGranted: a beta that nobody here has judged.
    """
    features: set[Feature] = set()
    for name, value in headers:
        if name != b"anthropic-beta":
            continue
        for beta in value.decode("latin-1").split(","):
            word = beta.strip()
            if word in FEATURES_OF_BETAS:
                features.add(FEATURES_OF_BETAS[word])
            elif word and word not in PLAIN_BETAS:
                raise FeatureNotGranted(
                    f"the beta {word[:64]!r} is not one that this broker knows to be harmless: leave it out of anthropic-beta "
                    "(no policy can grant it; the owner of the AIRoutingPolicy can add headers of his own)",
                    param="anthropic-beta",
                )
    return frozenset(features)
