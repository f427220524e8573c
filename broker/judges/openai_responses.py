"""What a request for a response reaches beyond its own bytes: stored state by id, hosted tools, media, other models.

An item of the input may stand for itself or, by its id, for one that the provider keeps for everybody of its account. So what is nothing
but an id needs a feature, and then passes sealed alone (broker/ids); beside the content that it names, an id needs none.

Source: developers.openai.com/api/reference/responses (create: input, tools) as openai-python 3.52 types them.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec import Raw

from broker import body as bodies
from broker.body import Members, given, read_count, read_flag, read_text, reject, split
from broker.demand import Findings
from broker.errors import BadRequest
from broker.features import refuse_id, refuse_unknown
from broker.grant import Feature, KeptId
from broker.judges.openai import judge_file, judge_image, judge_sound

# Calls of hosted tools in one response, where the caller names no number: each call is followed by one more reading of the whole input.
TOOL_CALLS: Final = 9
# What a tool that the caller runs and OpenAI describes adds to a prompt. It is not documented; those of Anthropic have up to 1,234.
CLIENT_TOOL_TOKENS: Final = 1536
NEW_CONTAINER: Final = 'send `"container": {"type": "auto"}`, or run the code in your own pod'

# No policy opens these
ID_FIELDS: Final = frozenset({"conversation", "prompt", "request_id", "id_slot", "session_params", "kv_transfer_params"})

# Items that say all there is to them, with the member that says it.
_PLAIN: Final = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "local_shell_call": "action",
    "local_shell_call_output": "output",
    "shell_call_output": "output",
    "apply_patch_call": "operation",
    "apply_patch_call_output": "status",
}
# The same of what hosted tools did in earlier responses.
_HOSTED: Final = {
    "web_search_call": "action",
    "mcp_list_tools": "tools",
    "mcp_call": "arguments",
    "mcp_approval_request": "arguments",
    "tool_search_call": "arguments",
    "program": "code",
    "program_output": "result",
    "code_interpreter_call": "code",
}
# Items of tools that nobody may use here.
_NEVER: Final = frozenset({"image_generation_call", "file_search_call"})
_TEXTS: Final = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_LOCAL_TOOLS: Final = frozenset({"function", "custom"})
_CLIENT_TOOLS: Final = frozenset({"local_shell", "apply_patch", "computer", "computer_use_preview"})
_HOSTED_TOOLS: Final = frozenset(
    {"web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11", "programmatic_tool_calling"}
)


class Judged(NamedTuple):
    """hosted_calls: how many calls of hosted tools the request is held for; 0 = it has none of those tools."""

    found: Findings
    hosted_calls: int


def judge(members: Members) -> Judged:
    found = Findings()
    _judge_state(members, found)
    if (instructions := given(members, "instructions")) is not None:
        if not bodies.is_text(instructions):
            raise BadRequest("'instructions' must be a string", param="instructions")
        found.texts.append(instructions)
    items = given(members, "input")
    if items is None:
        raise BadRequest("the body has no input: add the field 'input'", param="input")
    if bodies.is_text(items):
        found.messages += 1
        found.texts.append(items)
    else:
        for item in found.split_each(items, "input"):
            _judge_item(item, found)
    if found.lasting_tools and (read_flag(members, "store") or read_flag(members, "background")):
        reject("tools that the provider runs cannot stand in an item that is kept: name them in 'tools', or send `store: false`", "input")
    if (tools := given(members, "tools")) is not None:
        _judge_tools(tools, found)
    calls = read_count(members, "max_tool_calls") or TOOL_CALLS
    if Feature.HOSTED_TOOLS not in found.features:
        return Judged(found, 0)
    found.add_passes(1 + calls)
    return Judged(found, calls)


def _judge_state(members: Members, found: Findings) -> None:
    """Top-level fields that reach what outlives the request, or other models."""
    for name in members.keys() & ID_FIELDS:
        if given(members, name) is not None:
            raise refuse_id(name)
    if (raw := given(members, "prompt_cache_options")) is not None:
        cache = split(raw, "prompt_cache_options")
        if given(cache, "comparison_response_id") is not None:
            raise refuse_id("prompt_cache_options.comparison_response_id")
    _name_kept(members, "previous_response_id", "previous_response_id", found)
    if read_flag(members, "background"):
        found.features.add(Feature.BACKGROUND)
    if read_flag(members, "store"):
        found.features.add(Feature.STORAGE)
    if (raw := given(members, "reasoning")) is not None:
        mode = given(split(raw, "reasoning"), "mode")
        if mode is not None and read_text(mode, "reasoning.mode") != "standard":
            reject("'reasoning.mode' must be standard: nobody can bound what another one bills", "reasoning.mode")


def _read_kind(members: Members, param: str) -> str:
    raw = given(members, "type")
    return "" if raw is None else read_text(raw, param)


def _judge_item(item: Members, found: Findings) -> None:
    found.messages += 1
    kind = _read_kind(item, "input.type")
    if not kind and given(item, "role") is not None:
        kind = "message"
    if kind in _NEVER:
        raise refuse_id("input.id")
    if not kind and given(item, "id") is not None:
        kind = "item_reference"  # whose type may be left out
    content = _PLAIN.get(kind) or _HOSTED.get(kind)
    judge_of_kind = _ITEMS.get(kind)
    if content is not None:
        _find(item, content, found)
    elif judge_of_kind is None:
        raise refuse_unknown(kind, "input.type")
    else:
        judge_of_kind(item, found)
    if kind in _HOSTED:
        found.features.add(Feature.HOSTED_TOOLS)
    _name_kept(item, "container_id", "input.container_id", found)


def _name_kept(members: Members, name: str, param: str, found: Findings) -> bool:
    """The member names kept state, where it is there."""
    if (raw := given(members, name)) is None:
        return False
    found.add_kept(KeptId(Feature.FILES if name == "container_id" else Feature.STORAGE, param, read_text(raw, param)))
    return True


def _find(item: Members, content: str, found: Findings) -> Raw | None:
    """The member that says all of an item; None = the item is an id and nothing else."""
    raw = given(item, content)
    if raw is None and not _name_kept(item, "id", "input.id", found):
        raise BadRequest(f"an item of 'input' has no {content!r}", param="input")
    return raw


def _judge_message(item: Members, found: Findings) -> None:
    if (content := _find(item, "content", found)) is not None:
        _judge_content(content, "input.content", found)


def _judge_output(item: Members, found: Findings) -> None:
    if (output := _find(item, "output", found)) is not None:
        _judge_content(output, "input.output", found)


def _judge_screenshot(item: Members, found: Findings) -> None:
    if (output := _find(item, "output", found)) is None:
        return
    shot = split(output, "input.output")
    if _read_kind(shot, "input.output.type") not in ("computer_screenshot", "input_image"):
        raise refuse_unknown(_read_kind(shot, "input.output.type"), "input.output.type")
    _judge_image(shot, "input.output", found)


def _judge_computer_call(item: Members, found: Findings) -> None:
    _find(item, "action" if given(item, "action") is not None else "actions", found)


def _judge_reference(item: Members, found: Findings) -> None:
    if not _name_kept(item, "id", "input.id", found):
        raise BadRequest("a reference in 'input' has no 'id'", param="input.id")


def _judge_approval(item: Members, found: Findings) -> None:
    """It lets the provider run the call that it names."""
    found.features.add(Feature.HOSTED_TOOLS)
    if not _name_kept(item, "approval_request_id", "input.approval_request_id", found):
        raise BadRequest("an approval in 'input' has no 'approval_request_id'", param="input.approval_request_id")


_ENCRYPTED: Final = 'ask with `include: ["reasoning.encrypted_content"]` and send back what comes, or leave the item or its id out'


def _judge_reasoning(item: Members, found: Findings) -> None:
    """Encrypted reasoning is its text, encrypted, in base64: it has more bytes than tokens."""
    encrypted = given(item, "encrypted_content")
    if (encrypted is None or not read_text(encrypted, "input.encrypted_content")) and (raw := given(item, "id")) is not None:
        found.add_kept(KeptId(Feature.STORAGE, "input.id", read_text(raw, "input.id"), _ENCRYPTED))
    for name in ("content", "summary"):
        if (raw := given(item, name)) is not None:
            _judge_content(raw, f"input.{name}", found)


def _judge_shell_call(item: Members, found: Findings) -> None:
    _find(item, "action", found)
    if (raw := given(item, "environment")) is not None:
        _judge_environment(raw, "input.environment", found)


def _judge_added_tools(item: Members, found: Findings) -> None:
    """Whoever goes on from the item has its tools, with no word of them in his request."""
    if (tools := _find(item, "tools", found)) is not None:
        others = frozenset(found.features)
        found.features.discard(Feature.HOSTED_TOOLS)
        _judge_tools(tools, found)
        found.lasting_tools = found.lasting_tools or Feature.HOSTED_TOOLS in found.features
        found.features |= others


def _judge_found_tools(item: Members, found: Findings) -> None:
    found.features.add(Feature.HOSTED_TOOLS)
    _judge_added_tools(item, found)


def _judge_update(item: Members, found: Findings) -> None:
    """Another effort, or another form of answer, from here on: its own bytes and nothing else."""
    _find(item, "text" if given(item, "text") is not None else "reasoning", found)


_ITEMS: Final[dict[str, Callable[[Members, Findings], None]]] = {
    "message": _judge_message,
    "function_call_output": _judge_output,
    "custom_tool_call_output": _judge_output,
    "computer_call": _judge_computer_call,
    "computer_call_output": _judge_screenshot,
    "reasoning": _judge_reasoning,
    "item_reference": _judge_reference,
    "mcp_approval_response": _judge_approval,
    "shell_call": _judge_shell_call,
    "additional_tools": _judge_added_tools,
    "tool_search_output": _judge_found_tools,
    "configuration_update": _judge_update,
}


def _judge_content(content: Raw, param: str, found: Findings) -> None:
    if bodies.is_text(content):
        found.texts.append(content)
        return
    for part in found.split_each(content, param):
        _judge_part(part, param, found)


def _judge_part(part: Members, param: str, found: Findings) -> None:
    kind = _read_kind(part, f"{param}.type")
    if given(part, "uuid") is not None:  # of vLLM: see dialects/openai_chat.py
        raise refuse_id(f"{param}.uuid")
    if kind in _TEXTS:
        if (text := given(part, "text")) is not None and bodies.is_text(text):
            found.texts.append(text)
    elif kind == "input_image":
        _judge_image(part, param, found)
    elif kind == "input_file":
        _judge_file(part, param, found)
    elif kind == "input_audio" and (raw := given(part, "input_audio")) is not None:
        judge_sound(_read_place(split(raw, f"{param}.input_audio"), "data", f"{param}.input_audio"), f"{param}.input_audio", found)
    elif kind != "refusal":
        raise refuse_unknown(kind, f"{param}.type")


def _judge_image(part: Members, param: str, found: Findings) -> None:
    if given(part, "file_id") is not None:
        raise refuse_id(f"{param}.file_id")
    judge_image(_read_place(part, "image_url", param), f"{param}.image_url", found)


def _judge_file(part: Members, param: str, found: Findings) -> None:
    if given(part, "file_id") is not None:
        raise refuse_id(f"{param}.file_id")
    if given(part, "file_url") is not None:
        if given(part, "file_data") is not None:
            reject(f"{param!r} has both 'file_data' and 'file_url': send one", param)
        found.features.add(Feature.REMOTE_MEDIA)
        found.add_passes(1)
        return
    judge_file(_read_place(part, "file_data", param), f"{param}.file_data", found)


def _read_place(part: Members, name: str, param: str) -> str:
    raw = given(part, name)
    if raw is None:
        raise BadRequest(f"{param!r} has no {name!r}", param=param)
    return read_text(raw, f"{param}.{name}")


def _judge_tools(tools: Raw, found: Findings) -> None:
    for tool in found.split_each(tools, "tools"):
        _judge_tool(tool, found)


def _judge_tool(tool: Members, found: Findings) -> None:
    found.tools += 1
    kind = _read_kind(tool, "tools.type")
    if given(tool, "model") is not None or kind == "image_generation":
        reject("a tool may not use a model of its own: it would be one that was not granted", "tools")
    judge_of_kind = _TOOLS.get(kind)
    if kind in _CLIENT_TOOLS:
        found.extra_tokens += CLIENT_TOOL_TOKENS
    elif kind in _HOSTED_TOOLS:
        found.features.add(Feature.HOSTED_TOOLS)
    elif judge_of_kind is not None:
        judge_of_kind(tool, found)
    elif kind not in _LOCAL_TOOLS:
        raise refuse_unknown(kind, "tools.type")


def _judge_mcp(tool: Members, found: Findings) -> None:
    if given(tool, "tunnel_id") is not None:
        raise refuse_id("tools.tunnel_id")
    found.features.add(Feature.HOSTED_TOOLS)


def _judge_interpreter(tool: Members, found: Findings) -> None:
    container = given(tool, "container")
    if container is not None and not bodies.is_object(container):
        found.add_kept(KeptId(Feature.FILES, "tools.container", read_text(container, "tools.container"), NEW_CONTAINER))
    elif container is not None:
        _judge_container(split(container, "tools.container"), "tools.container")
    found.features.add(Feature.HOSTED_TOOLS)


def _judge_file_search(tool: Members, found: Findings) -> None:  # noqa: ARG001  as all judges of tools
    raise refuse_id("tools.vector_store_ids")


def _judge_shell(tool: Members, found: Findings) -> None:
    found.extra_tokens += CLIENT_TOOL_TOKENS
    environment = given(tool, "environment")
    if environment is None:
        found.features.add(Feature.HOSTED_TOOLS)
    else:
        _judge_environment(environment, "tools.environment", found)


def _judge_environment(raw: Raw, param: str, found: Findings) -> None:
    """Where a shell runs: at the caller's, or in a container of the provider's."""
    environment = split(raw, param)
    kind = _read_kind(environment, f"{param}.type")
    if kind == "container_auto":
        _judge_container(environment, param)
        found.features.add(Feature.HOSTED_TOOLS)
    elif kind == "container_reference":
        found.features.add(Feature.HOSTED_TOOLS)
        if not _name_kept(environment, "container_id", f"{param}.container_id", found):
            raise BadRequest(f"{param!r} has no 'container_id'", param=param)
    elif kind != "local":
        raise refuse_unknown(kind, f"{param}.type")


def _judge_container(container: Members, param: str) -> None:
    for name in ("file_ids", "skills", "id", "container_id"):
        if given(container, name) is not None:
            raise refuse_id(f"{param}.{name}")


def _judge_search(tool: Members, found: Findings) -> None:
    raw = given(tool, "execution")
    if raw is not None and read_text(raw, "tools.execution") == "client":
        found.extra_tokens += CLIENT_TOOL_TOKENS
    else:
        found.features.add(Feature.HOSTED_TOOLS)


def _judge_namespace(tool: Members, found: Findings) -> None:
    inner = given(tool, "tools")
    for one in [] if inner is None else found.split_each(inner, "tools.tools"):
        found.tools += 1
        if _read_kind(one, "tools.tools.type") not in _LOCAL_TOOLS:
            raise refuse_unknown(_read_kind(one, "tools.tools.type"), "tools.tools.type")


_TOOLS: Final[dict[str, Callable[[Members, Findings], None]]] = {
    "mcp": _judge_mcp,
    "code_interpreter": _judge_interpreter,
    "file_search": _judge_file_search,
    "shell": _judge_shell,
    "tool_search": _judge_search,
    "namespace": _judge_namespace,
}
