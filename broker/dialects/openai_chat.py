"""OpenAI's Chat Completions: the dialect of most SDKs and of every compatible server.

Source: developers.openai.com/api/reference/chat-completions; for what compatible servers add, the documentation of vLLM, SGLang,
Ollama and OpenRouter.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Raw

from broker import body as bodies
from broker.body import Members, given, quote, read_array, read_count, read_flag, read_text, split
from broker.chat import Demand, Header, Options
from broker.demand import LIMIT_ALIASES, Findings, Output, Template
from broker.errors import BadRequest, BrokerError
from broker.features import refuse_id, refuse_unknown
from broker.grant import Feature
from broker.metering import Gauge, StreamMeter, meter
from broker.quota import Allowance, Held
from broker.tallies.openai_chat import ChatTally

NAME: Final = "openai_chat"

CHOICES_MAX: Final = 128  # the API's own bound of `n`

# request: the system text that templates write unasked (gpt-oss about 70 tokens, Qwen 2.5 and Llama 3 about 30).
# message: 3 and 1 for a name; the answer's opening 3 (OpenAI cookbook, "How to count tokens with tiktoken").
# tool: 19 around each and 6 for a property whose JSON has more bytes (same page); tools: the preambles of open templates (Qwen 2.5: 130).
# context_window: 1,050,000 is the largest in OpenAI's list of models.
TEMPLATE: Final = Template(request=128, message=8, tool=32, tools=512, context_window=1_050_000)

# The dearest documented image: 2,833 + 5,667 for each of at most 8 tiles (gpt-4o-mini; OpenAI, "Images and vision", costs).
IMAGE_TOKENS: Final = 48_169
# Speech is 10 tokens a second (OpenAI, "Managing costs", realtime); MP3 has at least 8 kbit/s, in base64 1,333 bytes a second,
# and WAV more. Formats that pack silence to nothing are bounded by the context window alone. Base64 of RIFF, ID3 and a frame's sync.
AUDIO_BYTES_PER_TOKEN: Final = 16
AUDIO_OPENINGS: Final = ("UklGR", "SUQz", "//")

_OTHER_MODEL: Final = "it lets the provider use a model that was not granted; name one in 'model'"
HOSTED_FIELDS: Final = frozenset({"web_search_options", "search_parameters", "plugins", "mcp_servers", "data_sources", "enable_search"})
ID_FIELDS: Final = frozenset({"previous_response_id", "conversation", "session_params", "id_slot", "kv_transfer_params"})
REFUSED_FIELDS: Final = {
    **LIMIT_ALIASES,
    "best_of": "it makes answers that are billed and never seen; use 'n'",
    "use_beam_search": "it makes answers that are billed and never seen; use 'n'",
    "prediction": "it cannot be combined with an output limit, which every request here carries",
    "chat_template": "a template can make a prompt of any length; have the server's operator install it",
    "mm_processor_kwargs": "it can make any number of tokens of one image; have the server's operator set it",
    "media_io_kwargs": "it can make any number of tokens of one image; have the server's operator set it",
    "models": _OTHER_MODEL,
    "fallbacks": _OTHER_MODEL,
    "lora_path": _OTHER_MODEL,
}
TEXT_PARTS: Final = frozenset({"text", "refusal", "thinking"})
LOCAL_TOOLS: Final = frozenset({"function", "custom"})
LIMIT_FIELDS: Final = ("max_completion_tokens", "max_tokens")


class ChatQuestion:
    """A chat completion that was asked for. Satisfies dialects.Question."""

    __slots__ = ("_asked_usage", "_bound", "_limits", "_members", "_output", "_stream_options", "features", "model", "streaming", "texts")

    def __init__(self, body: bytes) -> None:
        members = bodies.open_body(body)
        self._members = members
        self.model = bodies.read_model(members)
        bodies.refuse_members(members, REFUSED_FIELDS)
        self.streaming = read_flag(members, "stream") or False
        self._limits = {name: limit for name in LIMIT_FIELDS if (limit := read_count(members, name)) is not None}
        self._output = Output(limit=min(self._limits.values(), default=None), choices=read_count(members, "n", most=CHOICES_MAX) or 1)
        raw = given(members, "stream_options")
        self._stream_options = {} if raw is None else split(raw, "stream_options")
        self._asked_usage = read_flag(self._stream_options, "include_usage") or False
        found = _judge(members)
        self.features = frozenset(found.features)
        self.texts = found.texts
        self._bound = TEMPLATE.bound(len(body), found)

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


def features_of_headers(headers: Iterable[Header]) -> frozenset[Feature]:  # noqa: ARG001  no header changes what a body means
    return frozenset()


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
    url = _read_place(value, "image_url", "url")
    if _is_remote(url, "messages.content.image_url"):
        found.features.add(Feature.REMOTE_MEDIA)
        found.add_media(0, IMAGE_TOKENS)
    else:
        found.add_media(len(url), IMAGE_TOKENS)


def _judge_audio(value: Raw, found: Findings) -> None:
    sound = _read_place(value, "input_audio", "data")
    if ":" in sound and _is_remote(sound, "messages.content.input_audio"):  # plain base64 has no colon
        found.features.add(Feature.REMOTE_MEDIA)
        found.add_passes(1)
    elif sound.startswith(AUDIO_OPENINGS):
        found.add_media(len(sound), len(sound) // AUDIO_BYTES_PER_TOKEN + 1)
    else:
        found.add_media(len(sound), 0)
        found.add_passes(1)


def _judge_file(value: Raw, found: Findings) -> None:
    file = split(value, "messages.content.file")
    if given(file, "file_id") is not None:
        raise refuse_id("messages.content.file.file_id")
    data = _read_place(value, "file", "file_data")
    if ":" in data and _is_remote(data, "messages.content.file"):
        found.features.add(Feature.REMOTE_MEDIA)
    found.add_media(len(data), 0)
    found.add_passes(1)  # a PDF unfolds to any number of pages


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


def _is_remote(url: str, param: str) -> bool:
    """The provider would fetch it. A place that is neither inline nor on the web could be anything of the provider's own."""
    if url.startswith("data:"):
        return False
    if url.lower().startswith(("https://", "http://")):
        return True
    raise BadRequest(f"{param!r} must be a data: URL, or an https: URL where your policy grants RemoteMedia", param=param)


def _judge_tool(tool: Members, found: Findings) -> None:
    found.tools += 1
    raw = given(tool, "type")
    if raw is None or read_text(raw, "tools.type") not in LOCAL_TOOLS:
        _found_hosted(found)


def error(refusal: BrokerError, exchange_id: str) -> bytes:
    """Source: openai-python, `_exceptions.APIError`: message, type, param and code are read; the class follows the status."""
    return msgspec.json.encode(
        {
            "error": {
                "message": f"{refusal} (exchange {exchange_id})",
                "type": _error_type(refusal),
                "param": refusal.param,
                "code": refusal.code,
            }
        }
    )


def _error_type(refusal: BrokerError) -> str:
    if refusal.code in ("quota_exhausted", "exceeds_quota"):
        return "insufficient_quota"
    if refusal.status >= 500:  # noqa: PLR2004  server errors
        return "server_error"
    return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(refusal.status, "invalid_request_error")


def error_event(refusal: BrokerError, exchange_id: str) -> bytes:
    """No `[DONE]` after it: SDKs stop at the error, and nobody may take the stream for complete."""
    return b"data: %b\n\n" % error(refusal, exchange_id)


def models(names: tuple[str, ...]) -> bytes:
    return msgspec.json.encode({"object": "list", "data": [_model(name) for name in names]})


def one_model(name: str) -> bytes:
    return msgspec.json.encode(_model(name))


def _model(name: str) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "inference-broker"}


def rate_limit_headers(held: Held, now: float) -> tuple[Header, ...]:  # noqa: ARG001  this dialect says how long, not when
    headers: list[Header] = []
    for unit, allowance in ((b"tokens", held.tokens), (b"requests", held.requests)):
        if allowance is not None:
            headers += (
                (b"x-ratelimit-limit-" + unit, b"%d" % allowance.limit),
                (b"x-ratelimit-remaining-" + unit, b"%d" % allowance.remaining),
                (b"x-ratelimit-reset-" + unit, _duration(allowance)),
            )
    return tuple(headers)


def _duration(allowance: Allowance) -> bytes:
    """As the API writes it: `6m0s`, `1h0m0s`, `8s`. Rounded up, so that nobody comes too early."""
    seconds = max(0, -int(-allowance.reset_s // 1))
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, seconds)
    return b"%dm%ds" % (minutes, seconds) if minutes else b"%ds" % seconds
