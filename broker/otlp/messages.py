"""What was asked and answered, as the GenAI conventions write messages down: roles, and parts of text, reasoning and tool calls. Pure.

Source: OpenTelemetry semantic conventions for generative AI, gen_ai.system_instructions, gen_ai.input.messages and gen_ai.output.messages,
and their JSON schemas. Of anything else (images, audio, files, hosted tools) only the kind is told. Ids are left out. Bodies are those that
passed, in a dialect that is known; what is not as that dialect has it is left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec

from broker import sse

Part = dict[str, str]
Json = Mapping[str, object]
STOP: Final = "stop"
_ENDS: Final = {
    "end_turn": STOP, "stop_sequence": STOP, "completed": STOP, "max_tokens": "length", "incomplete": "length",
    "tool_calls": "tool_call", "function_call": "tool_call", "tool_use": "tool_call", "refusal": "content_filter", "failed": "error",
}  # fmt: skip


class Message(NamedTuple):
    """One message. `end`: why it ended; "" for those that were asked, or where nobody said."""

    role: str
    parts: Sequence[Part]
    end: str = ""


class Asked(NamedTuple):
    """A request: what was said apart from the conversation, and the conversation."""

    instructions: Sequence[Part]
    messages: Sequence[Message]


class Reader(NamedTuple):
    """How one dialect says it. `events`: of a stream, each event's data."""

    asked: Callable[[Json], Asked]
    whole: Callable[[Json], Sequence[Message]]
    events: Callable[[Iterable[Json]], Sequence[Message]]


def asked(dialect: str, body: bytes) -> Asked:
    """What a request says."""
    reader = READERS.get(dialect)
    return reader.asked(_decoded(body)) if reader is not None else Asked((), ())


def answered(dialect: str, body: bytes, *, streaming: bool) -> Sequence[Message]:
    """What an answer says; of a stream that was cut, what it said until then."""
    reader = READERS.get(dialect)
    if reader is None:
        return ()
    if streaming:
        return reader.events(_decoded(sse.data(event)) for event in sse.split(body))
    return reader.whole(_decoded(body))


def text(content: str) -> Part:
    return {"type": "text", "content": content}


def _called(name: object, arguments: object) -> Part:
    said = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return {"type": "tool_call", "name": _str(name), "arguments": said}


def _returned(content: object) -> Part:
    said = content if isinstance(content, str) else "".join(_str(_map(part).get("text")) for part in _list(content))
    return {"type": "tool_call_response", "response": said}


def _decoded(data: bytes) -> Json:
    try:
        return _map(msgspec.json.decode(data)) if data else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # `[DONE]`, or the half of something
        return {}


def _map(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()


def _str(value: object) -> str:
    return value if isinstance(value, str) else ""


def _parts(content: object) -> Sequence[Part]:
    """A message's content: a text, or a list of parts."""
    if isinstance(content, str):
        return (text(content),) if content else ()
    return [_part(_map(part)) for part in _list(content)]


def _part(part: Json) -> Part:
    kind = _str(part.get("type"))
    match kind:
        case "text" | "input_text" | "output_text" | "summary_text" | "reasoning_text":
            return text(_str(part.get("text")))
        case "refusal":
            return text(_str(part.get("refusal")))
        case "thinking":
            return {"type": "reasoning", "content": _str(part.get("thinking"))}
        case "tool_use":
            return _called(part.get("name"), part.get("input"))
        case "tool_result":
            return _returned(part.get("content"))
        case _:
            return {"type": kind or "unknown"}


def _end(reason: object) -> str:
    said = _str(reason)
    return _ENDS.get(said, said)


def _chat_asked(body: Json) -> Asked:
    return Asked((), [_chat_message(_map(one)) for one in _list(body.get("messages"))])


def _chat_message(one: Json, end: object = None) -> Message:
    role = _str(one.get("role"))
    if role == "tool":
        return Message(role, (_returned(one.get("content")),))
    parts = [*_parts(one.get("content")), *_parts(one.get("refusal"))]
    calls = (_map(_map(call).get("function")) for call in _list(one.get("tool_calls")))
    parts += [_called(call.get("name"), call.get("arguments")) for call in calls]
    return Message(role, parts, _end(end))


def _chat_whole(body: Json) -> Sequence[Message]:
    choices = map(_map, _list(body.get("choices")))
    return [_chat_message(_map(choice.get("message")), choice.get("finish_reason")) for choice in choices]


class _Growing:
    """A message whose parts come piece by piece, each by its place."""

    def __init__(self) -> None:
        self.parts: dict[object, dict[str, list[str]]] = {}
        self.end = ""

    def add(self, place: object, kind: str, field: str, piece: object) -> None:
        if isinstance(piece, str) and piece:
            part = self.parts.setdefault(place, {"type": [kind], "name": []} if kind == "tool_call" else {"type": [kind]})
            part.setdefault(field, []).append(piece)

    def message(self) -> Message:
        parts = [{field: "".join(pieces) for field, pieces in part.items()} for part in self.parts.values()]
        return Message("assistant", parts, self.end)


def _chat_events(events: Iterable[Json]) -> Sequence[Message]:
    found: dict[object, _Growing] = {}
    for choice in (_map(one) for event in events for one in _list(event.get("choices"))):
        growing = found.setdefault(choice.get("index"), _Growing())
        delta = _map(choice.get("delta"))
        growing.add("text", "text", "content", delta.get("content"))
        growing.add("refusal", "text", "content", delta.get("refusal"))
        growing.add("text", "text", "content", choice.get("text"))
        for call in map(_map, _list(delta.get("tool_calls"))):
            function = _map(call.get("function"))
            growing.add(("call", call.get("index")), "tool_call", "name", function.get("name"))
            growing.add(("call", call.get("index")), "tool_call", "arguments", function.get("arguments"))
        growing.end = _end(choice.get("finish_reason")) or growing.end
    return [growing.message() for growing in found.values()]


def _completions_asked(body: Json) -> Asked:
    prompt = body.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else [one for one in _list(prompt) if isinstance(one, str)]
    return Asked((), [Message("user", (text(one),)) for one in prompts])


def _completions_whole(body: Json) -> Sequence[Message]:
    choices = map(_map, _list(body.get("choices")))
    return [Message("assistant", _parts(choice.get("text")), _end(choice.get("finish_reason"))) for choice in choices]


def _anthropic_asked(body: Json) -> Asked:
    conversation = map(_map, _list(body.get("messages")))
    return Asked(_parts(body.get("system")), [Message(_str(one.get("role")), _parts(one.get("content"))) for one in conversation])


def _anthropic_whole(body: Json) -> Sequence[Message]:
    return [Message("assistant", _parts(body.get("content")), _end(body.get("stop_reason")))]


def _anthropic_events(events: Iterable[Json]) -> Sequence[Message]:
    growing = _Growing()
    for event in events:
        place = event.get("index")
        block, delta = _map(event.get("content_block")), _map(event.get("delta"))
        if block.get("type") == "tool_use":
            growing.add(place, "tool_call", "name", block.get("name"))
        growing.add(place, "text", "content", delta.get("text"))
        growing.add(place, "reasoning", "content", delta.get("thinking"))
        growing.add(place, "tool_call", "arguments", delta.get("partial_json"))
        growing.end = _end(delta.get("stop_reason")) or growing.end
    return [growing.message()]


def _responses_asked(body: Json) -> Asked:
    given = body.get("input")
    messages = [Message("user", (text(given),))] if isinstance(given, str) else [_item(_map(one)) for one in _list(given)]
    return Asked(_parts(body.get("instructions")), messages)


def _item(item: Json) -> Message:
    match _str(item.get("type")) or "message":
        case "message":
            return Message(_str(item.get("role")), _parts(item.get("content")))
        case "function_call":
            return Message("assistant", (_called(item.get("name"), item.get("arguments")),))
        case "function_call_output":
            return Message("tool", (_returned(item.get("output")),))
        case "reasoning":
            said = "".join(_str(_map(part).get("text")) for part in _list(item.get("summary")))
            return Message("assistant", ({"type": "reasoning", "content": said},))
        case other:
            return Message("assistant", ({"type": other},))


def _responses_whole(body: Json) -> Sequence[Message]:
    """One message: what the provider lists are its parts."""
    parts = [part for one in _list(body.get("output")) for part in _item(_map(one)).parts]
    return [Message("assistant", parts, _end(body.get("status")))]


def _responses_events(events: Iterable[Json]) -> Sequence[Message]:
    """The last event has everything; until then there are the pieces of it."""
    growing = _Growing()
    for event in events:
        kind, place = _str(event.get("type")), event.get("output_index")
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            return _responses_whole(_map(event.get("response")))
        if kind == "response.output_text.delta":
            growing.add(place, "text", "content", event.get("delta"))
        elif kind == "response.output_item.added":
            growing.add(place, "tool_call", "name", _map(event.get("item")).get("name"))
        elif kind == "response.function_call_arguments.delta":
            growing.add(place, "tool_call", "arguments", event.get("delta"))
    return [growing.message()]


READERS: Final[Mapping[str, Reader]] = {
    "anthropic_messages": Reader(_anthropic_asked, _anthropic_whole, _anthropic_events),
    "openai_chat": Reader(_chat_asked, _chat_whole, _chat_events),
    "openai_completions": Reader(_completions_asked, _completions_whole, _chat_events),
    "openai_responses": Reader(_responses_asked, _responses_whole, _responses_events),
}
