"""OpenAI's Chat Completions: the dialect of most SDKs and of every compatible server.

Source: developers.openai.com/api/reference/chat-completions; for what compatible servers add, the documentation of vLLM, SGLang,
Ollama and OpenRouter.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Raw

from broker import body as bodies
from broker.body import Members, given, quote, read_array, read_count, read_flag, read_text, split
from broker.chat import Demand, Options
from broker.demand import LIMIT_ALIASES, Findings, Output
from broker.errors import BadRequest
from broker.features import refuse_id, refuse_unknown
from broker.grant import Feature, KeptId
from broker.judges import openai
from broker.judges.openai import OTHER_MODEL, OTHER_MODELS, TEMPLATE, UNFOLDING, features_of_headers, is_usually_priced
from broker.metering import Gauge, StreamMeter, meter
from broker.spelling import longest_bytes
from broker.tallies.openai_chat import ChatTally
from broker.wording.openai import error, error_event, models, one_model, rate_limit_headers

__all__ = ["NAME", "ChatQuestion", "error", "error_event", "features_of_headers", "models", "one_model", "rate_limit_headers", "read"]

NAME: Final = "openai_chat"

CHOICES_MAX: Final = 128  # the API's own bound of `n`

HOSTED_FIELDS: Final = frozenset({"web_search_options", "search_parameters", "plugins", "mcp_servers", "data_sources", "enable_search"})
ID_FIELDS: Final = frozenset({"previous_response_id", "conversation", "session_params", "id_slot", "kv_transfer_params"})
REFUSED_FIELDS: Final = {
    **LIMIT_ALIASES,
    **OTHER_MODELS,
    **UNFOLDING,
    "best_of": "it makes answers that are billed and never seen; use 'n'",
    "use_beam_search": "it makes answers that are billed and never seen; use 'n'",
    "moderation": OTHER_MODEL,
    "prediction": "it cannot be combined with an output limit, which every request here carries",
}
TEXT_PARTS: Final = frozenset({"text", "refusal", "thinking"})
LOCAL_TOOLS: Final = frozenset({"function", "custom"})
LIMIT_FIELDS: Final = ("max_completion_tokens", "max_tokens")


class ChatQuestion:
    """A chat completion that was asked for. Satisfies dialects.Question."""

    __slots__ = ("_asked_usage", "_bound", "_limits", "_members", "_output", "_stream_options", "features", "model", "streaming", "texts")

    kept: Sequence[KeptId] = ()

    def __init__(self, body: bytes) -> None:
        members = bodies.open_body(body)
        self._members = members
        self.model = bodies.read_model(members)
        bodies.refuse_members(members, REFUSED_FIELDS)
        self.streaming = read_flag(members, "stream") or False
        self._limits = {name: limit for name in LIMIT_FIELDS if (limit := read_count(members, name)) is not None}
        choices = read_count(members, "n", most=CHOICES_MAX) or 1
        self._output = Output(min(self._limits.values(), default=None), choices, priced=is_usually_priced(members))
        raw = given(members, "stream_options")
        self._stream_options = {} if raw is None else split(raw, "stream_options")
        self._asked_usage = read_flag(self._stream_options, "include_usage") or False
        found = _judge(members)
        self.features = frozenset(found.features)
        self.texts = found.texts
        self._bound = TEMPLATE.bound(longest_bytes(body), found)

    def demand(self, default_output: int, max_output: int | None) -> Demand:
        return self._output.demand(self._bound, default_output, max_output)

    def clamped(self, granted_output: int) -> int | None:
        return self._output.clamped(granted_output)

    def body(self, model: str, granted_output: int, options: Options) -> bytes:
        members: dict[str, bytes | Raw] = {**self._members, "model": quote(model)}
        obeyed = [name for name in self._limits if name in options.limit_fields] or [options.limit_field]
        for name in self._limits:
            del members[name]
        for name in obeyed:
            members[name] = b"%d" % (granted_output // self._output.choices)
        if self.streaming and options.stream_usage and not self._asked_usage:
            members["stream_options"] = bodies.join({**self._stream_options, "include_usage": b"true"})
        if options.store and given(self._members, "store") is None:
            members["store"] = b"false"
        return bodies.join(members)

    def meter(self, gauge: Gauge | None = None) -> StreamMeter:
        return meter(ChatTally(asked_usage=self._asked_usage), gauge)


def read(body: bytes) -> ChatQuestion:
    return ChatQuestion(body)


def _judge(members: Members) -> Findings:
    """What the request reaches beyond its own bytes."""
    found = Findings()
    _judge_state(members, found)
    messages = given(members, "messages")
    if messages is None:
        raise BadRequest("the body has no messages: add the field 'messages'", param="messages")
    for message in found.split_each(messages, "messages"):
        _judge_message(message, found)
    if (raw := given(members, "tools")) is not None:
        for tool in found.split_each(raw, "tools"):
            _judge_tool(tool, found)
    if (raw := given(members, "functions")) is not None:
        found.tools += len(read_array(raw, "functions"))
    return found


def _judge_state(members: Members, found: Findings) -> None:
    """Top-level fields that reach what outlives the request, or other hosts."""
    for name in members.keys() & ID_FIELDS:
        if given(members, name) is not None:
            raise refuse_id(name)
    if read_flag(members, "store"):
        found.features.add(Feature.STORAGE)
    for name in members.keys() & HOSTED_FIELDS:
        if (raw := given(members, name)) is not None and bytes(raw) != b"false":
            _found_hosted(found)


def _found_hosted(found: Findings) -> None:
    found.features.add(Feature.HOSTED_TOOLS)
    found.add_passes(1)


def _judge_message(message: Members, found: Findings) -> None:
    found.messages += 1
    if given(message, "audio") is not None:
        raise refuse_id("messages.audio.id")
    content = given(message, "content")
    if content is None:
        return
    if bodies.is_text(content):
        found.texts.append(content)
        return
    for part in found.split_each(content, "messages.content"):
        _judge_part(part, found)


def _judge_part(part: Members, found: Findings) -> None:
    if given(part, "uuid") is not None:  # vLLM takes what it has of that name, or any medium that stands in the part, whatever its type
        raise refuse_id("messages.content.uuid")
    raw = given(part, "type")
    kind = "" if raw is None else read_text(raw, "messages.content.type")
    if kind in TEXT_PARTS:
        if (text := given(part, kind)) is not None and bodies.is_text(text):
            found.texts.append(text)
        return
    judge = _PARTS.get(kind)
    if judge is None or (value := given(part, kind)) is None:
        raise refuse_unknown(kind, "messages.content.type")
    judge(value, found)


def _judge_image(value: Raw, found: Findings) -> None:
    openai.judge_image(_read_place(value, "image_url", "url"), "messages.content.image_url", found)


def _judge_audio(value: Raw, found: Findings) -> None:
    openai.judge_sound(_read_place(value, "input_audio", "data"), "messages.content.input_audio", found)


def _judge_file(value: Raw, found: Findings) -> None:
    if given(split(value, "messages.content.file"), "file_id") is not None:
        raise refuse_id("messages.content.file.file_id")
    openai.judge_file(_read_place(value, "file", "file_data"), "messages.content.file", found)


_PARTS: Final = {"image_url": _judge_image, "input_audio": _judge_audio, "file": _judge_file}


def _read_place(value: Raw, name: str, member: str) -> str:
    """Where a part's media is: the one member of it that says so, or, as some servers take it, the value itself."""
    param = f"messages.content.{name}"
    if bodies.is_text(value):
        return read_text(value, param)
    raw = given(split(value, param), member)
    if raw is None:
        raise BadRequest(f"{param!r} has no {member!r}", param=param)
    return read_text(raw, f"{param}.{member}")


def _judge_tool(tool: Members, found: Findings) -> None:
    found.tools += 1
    raw = given(tool, "type")
    if raw is None or read_text(raw, "tools.type") not in LOCAL_TOOLS:
        _found_hosted(found)
