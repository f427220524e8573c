"""OpenAI's Responses with their state, as one account keeps it: whoever has an id reaches what it names, whoever made it.

account = Account(CANARY)
async with FakeProvider(script=account.answer) as provider:
    ...  # provider.seen: what was asked; account.reached: ids of kept state that a request got at

What the model says is what it heard, so that a thief is found out by his loot: "heard: a | b", with what came before by a kept id. A
request for a tool by name ("call get_weather") is a call of it, the result of one is read out. Hosted tools (code_interpreter, mcp) leave
the ids behind that the real ones leave. Source: developers.openai.com/api/reference/responses, as openai-python types it.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.fake_provider import Answer, Seen, json_answer, sse_answer

Json = dict[str, Any]
USAGE: Json = {
    "input_tokens": 5,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 7,
}
RAW_ID = re.compile(rb"\b[a-z]+_acct[0-9a-f]{16}")  # each id of an account, wherever it shows: a sealed one never looks so
STATES = ("queued", "in_progress", "completed")


class Refused(Exception):
    """The provider's own no."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass
class Kept:
    """One response: as it will be when done, what it was asked with, and how far a background job is."""

    done: Json
    input: list[Json]
    heard: list[str]
    stage: int = len(STATES) - 1
    cancelled: bool = False
    background: bool = False

    def shown(self) -> Json:
        if self.cancelled:
            return {**self.done, "status": "cancelled", "output": [], "usage": None}
        if STATES[self.stage] == "completed":
            return self.done
        return {**self.done, "status": STATES[self.stage], "output": [], "usage": None}


@dataclass
class Account:
    """What one API key opens. `key`: whoever calls without it is refused.

    reached: ids of kept state that a request named and got at, in order.
    """

    key: str
    reached: list[str] = field(default_factory=list)
    responses: dict[str, Kept] = field(default_factory=dict)
    items: dict[str, Json] = field(default_factory=dict)
    containers: set[str] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_acct{next(self._numbers):016x}"

    def raw_ids(self) -> set[str]:
        """All that a thief could want."""
        return {*self.responses, *self.items, *self.containers}

    def answer(self, seen: Seen) -> Answer:
        if seen.header(b"authorization") != b"Bearer " + self.key.encode():
            return _error(Refused(401, "wrong key"))
        parts = urlsplit(seen.target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = [unquote(part) for part in parts.path.split("/")[1:]]
        try:
            return self._routed(seen, path, query)
        except Refused as refused:
            return _error(refused)

    def _routed(self, seen: Seen, path: list[str], query: Mapping[str, str]) -> Answer:
        match (seen.method, *path):
            case ("POST", "v1", "responses"):
                return self._create(json.loads(seen.body))
            case ("GET", "v1", "responses", one):
                return self._retrieve(self._find(one), query)
            case ("DELETE", "v1", "responses", one):
                self._find(one)
                del self.responses[one]
                return _json({"id": one, "object": "response", "deleted": True})
            case ("POST", "v1", "responses", one, "cancel"):
                return self._cancel(self._find(one))
            case ("GET", "v1", "responses", one, "input_items"):
                return self._input_items(self._find(one), query)
            case ("POST", "v1", "chat", "completions"):
                return self._chat(json.loads(seen.body))
        raise Refused(404, "no such path")

    def _find(self, id_: str) -> Kept:
        if id_ not in self.responses:
            raise Refused(404, f"Response with id '{id_}' not found.")
        self.reached.append(id_)
        return self.responses[id_]

    def _item(self, id_: str) -> Json:
        if id_ not in self.items:
            raise Refused(404, f"Item with id '{id_}' not found.")
        self.reached.append(id_)
        return self.items[id_]

    def _create(self, asked: Json) -> Answer:
        before: list[str] = []
        if previous := asked.get("previous_response_id"):
            if previous not in self.responses:
                raise Refused(400, f"Previous response with id '{previous}' not found.", "previous_response_not_found")
            before = self._find(previous).heard
        given = asked["input"]
        given = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given
        items = [self._resolved(item) for item in given]
        kept = Kept(self._response(asked), items, [*before, *filter(None, map(_text, items))])
        kept.done["output"] = self._output(asked, kept)
        kept.background = bool(asked.get("background"))
        if asked.get("store", True):
            self.responses[kept.done["id"]] = kept
            for item in (*items, *kept.done["output"]):
                self.items.setdefault(item.setdefault("id", self.new_id("msg")), item)
        if asked.get("stream"):
            return sse_answer(*map(_event, events(kept.done, background=kept.background)))
        kept.stage = 0 if kept.background else kept.stage
        return _json(kept.shown())

    def _resolved(self, item: Json) -> Json:
        """What an item of the input stands for: itself, or one that the account keeps."""
        kind = item.get("type")
        if kind == "item_reference" or (kind is None and "role" not in item):
            return self._item(item["id"])
        if kind == "reasoning" and item.get("id") and not item.get("encrypted_content"):
            return self._item(item["id"])
        if kind == "mcp_approval_response":
            self._item(item["approval_request_id"])
        if kind == "code_interpreter_call":
            self._container(item["container_id"])
        return dict(item)

    def _container(self, id_: str) -> str:
        if id_ not in self.containers:
            raise Refused(404, f"Container with id '{id_}' not found.")
        self.reached.append(id_)
        return id_

    def _response(self, asked: Json) -> Json:
        repeated = (
            "instructions",
            "max_output_tokens",
            "metadata",
            "model",
            "previous_response_id",
            "store",
            "text",
            "tools",
            "tool_choice",
        )
        return {
            "id": self.new_id("resp"),
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "top_p": 1.0,
            "background": bool(asked.get("background")),
            **dict.fromkeys(repeated),
            "metadata": {},
            "tool_choice": "auto",
            "tools": [],
            **{name: asked[name] for name in repeated if asked.get(name) is not None},
            "output": [],
            "usage": USAGE,
        }

    def _output(self, asked: Json, kept: Kept) -> list[Json]:
        last = kept.input[-1] if kept.input else {}
        if last.get("type") == "function_call_output":
            return [self._message(f"the tool said {last['output']}")]
        said = _text(last)
        wanted = next((one for one in asked.get("tools") or () if one.get("type") == "function" and f"call {one['name']}" in said), None)
        output = [self._thought()] if "think" in said else []
        if wanted is not None:
            call = {"type": "function_call", "id": self.new_id("fc"), "call_id": f"call_{next(self._numbers)}", "status": "completed"}
            return [*output, {**call, "name": wanted["name"], "arguments": json.dumps({"city": "Bremen"})}]
        for tool in (*(asked.get("tools") or ()), *(tool for item in kept.input for tool in item.get("tools") or ())):
            output += self._hosted(tool)
        text = f"heard: {' | '.join(kept.heard)}"
        shape = (asked.get("text") or {}).get("format") or {}
        if shape.get("type") == "json_schema":
            text = json.dumps(dict.fromkeys(shape["schema"]["properties"], text))
        message = self._message(text)
        if self.containers and output and output[-1].get("container_id"):
            cited = {"type": "container_file_citation", "container_id": output[-1]["container_id"], "file_id": self.new_id("cfile")}
            message["content"][0]["annotations"] = [{**cited, "filename": "a.csv", "start_index": 0, "end_index": 1}]
        return [*output, message]

    def _thought(self) -> Json:
        return {"type": "reasoning", "id": self.new_id("rs"), "summary": [{"type": "summary_text", "text": "a secret thought"}]}

    def _hosted(self, tool: Json) -> list[Json]:
        """What a hosted tool leaves in the output."""
        if tool.get("type") == "code_interpreter":
            if isinstance(tool["container"], str):
                container = self._container(tool["container"])
            else:
                self.containers.add(container := self.new_id("cntr"))
            call = {"type": "code_interpreter_call", "id": self.new_id("ci"), "container_id": container, "code": "1", "outputs": None}
            return [{**call, "status": "completed"}]
        if tool.get("type") == "shell" and tool["environment"]["type"] == "container_reference":
            self._container(tool["environment"]["container_id"])
        if tool.get("type") == "mcp":
            return [{"type": "mcp_approval_request", "id": self.new_id("mcpr"), "server_label": "x", "name": "pay", "arguments": "{}"}]
        return []

    def _message(self, text: str) -> Json:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "message", "id": self.new_id("msg"), "role": "assistant", "status": "completed", "content": [part]}

    def _chat(self, asked: Json) -> Answer:
        """A completion, of which a kept one has an id of the account's."""
        id_ = self.new_id("chatcmpl") if asked.get("store") else "chatcmpl-of-nobody"
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        about = {"id": id_, "created": 1, "model": asked["model"]}
        said = f"heard: {' | '.join(message['content'] for message in asked['messages'])}"
        if not asked.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
            return _json({**about, "object": "chat.completion", "choices": [choice], "usage": usage})
        pieces = [{"role": "assistant"}, *({"content": piece} for piece in re.findall(r"\S+\s*", said)), {}]
        chunks = [{"choices": [{"index": 0, "delta": piece, "finish_reason": None if piece else "stop"}]} for piece in pieces]
        events_ = [{**about, "object": "chat.completion.chunk", **chunk} for chunk in (*chunks, {"choices": [], "usage": usage})]
        return sse_answer(*(b"data: %b\n\n" % json.dumps(event).encode() for event in events_), b"data: [DONE]\n\n")

    def _retrieve(self, kept: Kept, query: Mapping[str, str]) -> Answer:
        if query.get("stream") == "true":
            after = int(query.get("starting_after", "-1"))
            later = [event for event in events(kept.done, background=kept.background) if event["sequence_number"] > after]
            return sse_answer(*map(_event, later))
        kept.stage = min(kept.stage + 1, len(STATES) - 1)
        return _json(kept.shown())

    def _cancel(self, kept: Kept) -> Answer:
        if not kept.background:
            raise Refused(400, "Cannot cancel a synchronous response.")
        kept.cancelled = STATES[kept.stage] != "completed"
        return _json(kept.shown())

    def _input_items(self, kept: Kept, query: Mapping[str, str]) -> Answer:
        items = kept.input if query.get("order") == "asc" else kept.input[::-1]
        if after := query.get("after"):
            items = items[[item["id"] for item in items].index(self._item(after)["id"]) + 1 :]
        limit = int(query.get("limit", "20"))
        page = [{"type": "message", **item, "content": _parts(item)} if "role" in item else item for item in items[:limit]]
        ids = [item["id"] for item in page] or [None]
        return _json({"object": "list", "data": page, "first_id": ids[0], "last_id": ids[-1], "has_more": len(items) > limit})


def events(done: Json, *, background: bool = False) -> list[Json]:
    """What streams this response, numbered."""
    begun = {**done, "status": "in_progress", "output": [], "usage": None}
    found: list[Json] = [{"type": "response.created", "response": {**begun, "status": "queued"} if background else begun}]
    if background:
        found.append({"type": "response.queued", "response": {**begun, "status": "queued"}})
    found.append({"type": "response.in_progress", "response": begun})
    for index, item in enumerate(done["output"]):
        grow: Callable[[Json, Json], Iterator[Json]] = _GROWING.get(item["type"], _at_once)
        bare = {name: value for name, value in item.items() if name not in ("content", "arguments", "summary")}
        empty = {name: type(item[name])() for name in ("content", "arguments", "summary") if name in item}
        found.append({"type": "response.output_item.added", "output_index": index, "item": {**bare, **empty, "status": "in_progress"}})
        found += grow(item, {"item_id": item["id"], "output_index": index})
        found.append({"type": "response.output_item.done", "output_index": index, "item": item})
    found.append({"type": "response.completed", "response": done})
    return [{**event, "sequence_number": number} for number, event in enumerate(found)]


def _message_grows(item: Json, place: Json) -> Iterator[Json]:
    (part,) = item["content"]
    place = {**place, "content_index": 0}
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": "", "annotations": []}}
    for piece in re.findall(r"\S+\s*", part["text"]):
        yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
    for number, annotation in enumerate(part["annotations"]):
        yield {"type": "response.output_text.annotation.added", **place, "annotation_index": number, "annotation": annotation}
    yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}


def _call_grows(item: Json, place: Json) -> Iterator[Json]:
    yield {"type": "response.function_call_arguments.delta", **place, "delta": item["arguments"]}
    yield {"type": "response.function_call_arguments.done", **place, "name": item["name"], "arguments": item["arguments"]}


def _thought_grows(item: Json, place: Json) -> Iterator[Json]:
    (part,) = item["summary"]
    place = {**place, "summary_index": 0}
    yield {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
    yield {"type": "response.reasoning_summary_text.delta", **place, "delta": part["text"]}
    yield {"type": "response.reasoning_summary_text.done", **place, "text": part["text"]}
    yield {"type": "response.reasoning_summary_part.done", **place, "part": part}


def _at_once(item: Json, place: Json) -> Iterator[Json]:
    yield from ()


_GROWING = {"message": _message_grows, "function_call": _call_grows, "reasoning": _thought_grows}


def _parts(item: Json) -> list[Json]:
    content = item["content"]
    kind = "output_text" if item["role"] == "assistant" else "input_text"
    return [{"type": kind, "text": content}] if isinstance(content, str) else content


def _text(item: Json) -> str:
    """What a model hears of an item."""
    if item.get("type") == "reasoning":
        return " ".join(part["text"] for part in item.get("summary", ()))
    content = item.get("content", "")
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _event(value: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), json.dumps(value).encode())


def _json(value: Json) -> Answer:
    return json_answer(json.dumps(value).encode())


def _error(refused: Refused) -> Answer:
    error = {"message": str(refused), "type": "invalid_request_error", "param": None, "code": refused.code}
    return json_answer(json.dumps({"error": error}).encode(), refused.status)
