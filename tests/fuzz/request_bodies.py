"""Request bodies: what goes out is what came in but for the documented fields, and no key that is judged is there twice."""

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Final

from broker.chat import Options
from broker.dialects import anthropic_messages, openai_chat
from broker.errors import BadRequest, FeatureNotGranted

WORDS = (
    *(
        '{"model":"m"',
        '"messages":[',
        '{"role":"user","content":',
        '"hi"',
        '[{"type":"text","text":"x"}]',
        "}",
        "]}",
        ",",
        ":",
        "[" * 50,
        '{"a":' * 50,
    ),
    *(
        ',"stream":true',
        ',"stream_options":{',
        '"include_usage":true',
        ',"max_tokens":',
        ',"max_completion_tokens":',
        ',"n":',
        ',"store":',
        "null",
    ),
    *(
        ',"tools":[{"type":"function","function":{}}]',
        ',"thinking":{"budget_tokens":1024}',
        '"image_url":{"url":"data:,x"}',
        "\\u006dodel",
        "\\ud800",
    ),
    *(
        "1e999",
        "9" * 30,
        "-0",
        "1.0",
        "NaN",
        "Infinity",
        "\\",
        '"',
        "\t",
        "é",
        "\ufeff",
        ',"model":"n"',
        ',"max_tokens":1',
        '"type":"tool_result"',
    ),
)
GRANTED: Final = 640
MODEL: Final = 'real/"m\\odel"'
EVERY_OPTION: Final = (
    Options(),
    Options(
        limit_field="max_completion_tokens", limit_fields=frozenset({"max_tokens", "max_completion_tokens"}), stream_usage=True, store=True
    ),
    Options(limit_field="max_tokens", stream_usage=True),
)
EDITED: Final = frozenset({"model", "max_tokens", "max_completion_tokens", "stream_options", "store"})


class Pairs(list[tuple[str, object]]):
    """An object with every member that was written, duplicates included."""

    def all(self, name: str) -> list[object]:
        return [value for key, value in self if key == name]


class Number(str):
    """A number by its digits: two that are equal as floats are not the same bytes."""

    __slots__ = ()


def check_openai(data: bytes) -> None:
    check(data, openai_chat)


def check_anthropic(data: bytes) -> None:
    check(data, anthropic_messages)


def check(data: bytes, dialect: ModuleType) -> None:
    try:
        question = dialect.read(data)
    except (BadRequest, FeatureNotGranted):
        return
    try:
        written = parsed(data)
    except RecursionError:
        return  # what is not judged may lie deeper than Python's json reads; it passes as it came
    assert isinstance(written, Pairs), "accepted what is no object"
    for what, names in judged(written, dialect):
        assert len(set(names)) == len(names), f"accepted a key twice in {what}"
    assert written.all("model") == [question.model]
    check_demand(question, data)
    for options in EVERY_OPTION:
        sent = parsed(question.body(MODEL, GRANTED, options))
        assert isinstance(sent, Pairs)
        assert len({name for name, _ in sent}) == len(sent), "what goes out has a key twice"
        if dialect is openai_chat:
            check_openai_edit(written, sent, options)
        else:
            assert dict(sent) == {**dict(written), "model": MODEL, "max_tokens": Number(GRANTED)}


def parsed(data: bytes) -> object:
    """As Python's json reads it: another parser, which must never refuse what ours took."""
    try:
        return json.loads(data.decode(), object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=refuse)
    except ValueError as error:
        raise AssertionError(f"a second parser refuses what ours took: {error}") from None


def refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def judged(body: Pairs, dialect: ModuleType) -> Iterator[tuple[str, list[str]]]:
    """The objects in which a second key could change what was granted or what it costs."""
    yield "the body", names(body)
    fields = dict(body)
    for field in ("stream_options",) if dialect is openai_chat else ("thinking", "container", "diagnostics", "context_management"):
        if isinstance(inner := fields.get(field), Pairs):
            yield field, names(inner)
    for field in ("messages", "tools"):
        for item in fields.get(field) or ():
            yield field, names(item)
            yield from parts(dict(item).get("content"), dialect) if field == "messages" else ()


def parts(content: object, dialect: ModuleType) -> Iterator[tuple[str, list[str]]]:
    for part in content if isinstance(content, list) and not isinstance(content, Pairs) else ():
        yield "a part of a message", names(part)
        fields = dict(part)
        if dialect is openai_chat:
            kind = fields.get("type")
            if kind in ("image_url", "input_audio", "file") and isinstance(inner := fields.get(str(kind)), Pairs):
                yield f"a part's {kind}", names(inner)
        elif fields.get("type") in ("image", "document"):
            yield "a part's source", names(fields["source"])
        elif fields.get("type") in ("tool_result", "search_result"):
            yield from parts(fields.get("content"), dialect)


def names(item: object) -> list[str]:
    assert isinstance(item, Pairs), "accepted something else where an object belongs"
    return [name for name, _ in item]


def check_demand(question: openai_chat.ChatQuestion, data: bytes) -> None:
    try:
        demand = question.demand(50, 4096)
    except BadRequest:
        return
    assert 1 <= demand.min_output <= demand.wanted_output
    assert demand.prompt_bound >= 1
    if b"data:" not in data and b"base64" not in data and b"input_audio" not in data and b"file" not in data:
        assert demand.prompt_bound >= len(data), "the bound is below the bytes of a text"
    clamped = question.clamped(demand.min_output)
    assert clamped is None or clamped >= 1


def check_openai_edit(written: Pairs, sent: Pairs, options: Options) -> None:
    before, after = dict(written), dict(sent)
    assert {k: v for k, v in before.items() if k not in EDITED} == {k: v for k, v in after.items() if k not in EDITED}
    assert [name for name, _ in written if name not in EDITED] == [name for name, _ in sent if name not in EDITED]
    assert after["model"] == MODEL
    choices = int(before["n"]) if isinstance(before.get("n"), Number) else 1
    limits = {name: after[name] for name in ("max_tokens", "max_completion_tokens") if after.get(name) is not None}
    assert set(limits) & options.limit_fields, "no limit that the provider obeys"
    assert all(limit == Number(GRANTED // choices) for limit in limits.values()), "a limit that was not granted"
    streaming, asked = before.get("stream") is True, dict(before.get("stream_options") or ()).get("include_usage") is True
    if streaming and options.stream_usage:
        assert dict(after["stream_options"]) == {**dict(before.get("stream_options") or ()), "include_usage": True}
    else:
        assert after.get("stream_options") == before.get("stream_options")
    assert asked <= (dict(after.get("stream_options") or ()).get("include_usage") is True)
    if options.store and before.get("store") is None:
        assert after["store"] is False
    else:
        assert after.get("store") == before.get("store")
