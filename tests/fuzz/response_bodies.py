"""Bodies of the younger dialects: what goes out is what came in but for the documented fields, and no id slips through.

A second reader, which knows nothing of ours, looks for what must never pass: a key twice where it is judged, and an item that is
nothing but an id, unless the judge says so: then it has to be a sealed one.
"""

from types import ModuleType
from typing import Final

from fuzz.request_bodies import EVERY_OPTION, GRANTED, MODEL, Number, Pairs, names, parsed

from broker.dialects import anthropic_count_tokens, embeddings, openai_completions, openai_responses
from broker.errors import BadRequest, FeatureNotGranted
from broker.grant import Feature

WORDS = (
    *('{"model":"m"', ',"input":', '"hi"', "[", "]", "{", "}", "]}", ",", ":", "null", "true", "false", "[" * 50, '{"a":' * 50),
    *('"type":', '"message"', '"item_reference"', '"reasoning"', '"function_call"', '"function_call_output"', '"id":"x"', '"role":"user"'),
    *('"content":', '"input_text"', '"input_image"', '"input_file"', '"file_id":"f"', '"image_url":"data:,x"', '"text":"t"', '"output":'),
    *(',"tools":[', '{"type":"function"}', '{"type":"web_search"}', '"file_search"', '"code_interpreter"', '"container":', '"mcp"'),
    *(',"previous_response_id":', ',"conversation":', ',"background":', ',"store":', ',"stream":true', ',"max_output_tokens":', "9" * 12),
    *(',"max_tool_calls":2', '"encrypted_content":"e"', '"arguments":"{}"', "\\u0069d", "\\ud800", ',"model":"n"', ',"store":true'),
)
PROMPT_WORDS = (
    *('{"model":"m"', ',"input":', ',"prompt":', '"hi"', '"é"', "[", "]", "[1,2,3]", "[[1],[2,3]]", '["a","b"]', "}", ",", "null", "-1"),
    *(',"n":3', ',"best_of":', ',"max_tokens":', ',"echo":true', ',"stream":true', ',"stream_options":{', '"include_usage":true', "1.0"),
    *(',"encoding_format":"base64"', ',"dimensions":9', ',"messages":', "9" * 30, "1e999", "\\ud800", ',"model":"n"', "[" * 60, "true"),
)
EDITED: Final = {
    openai_responses: frozenset({"model", "max_output_tokens", "store", "max_tool_calls"}),
    openai_completions: frozenset({"model", "max_tokens", "stream_options"}),
    embeddings: frozenset({"model"}),
    anthropic_count_tokens: frozenset({"model"}),
}
MEDIA: Final = (b"data:", b"base64", b"file_data", b"input_audio")


def check_responses(data: bytes) -> None:
    written = check(data, openai_responses)
    if written is None:
        return
    body = dict(written)
    question = openai_responses.read(data)
    kept = {place.id for place in question.kept}
    assert not kept or question.features & {Feature.STORAGE, Feature.FILES}
    assert not {"conversation", "prompt"} & {name for name, value in body.items() if value is not None}
    assert body.get("previous_response_id") in (None, *kept), "an earlier response goes unnoticed"
    assert body.get("background") in (None, False) or Feature.BACKGROUND in question.features
    items = body["input"]
    for item in items if isinstance(items, list) else ():
        fields = {name: value for name, value in item if value is not None}
        assert len(names(item)) == len(set(names(item))), "accepted a key twice in an item"
        assert fields.get("type") not in ("file_search_call", "image_generation_call")
        if not set(fields) - {"id", "type", "status", "role", "summary"} or fields.get("type") == "item_reference":
            assert fields.get("id", "") in ("", *kept), "an item that is nothing but an id goes unnoticed"


def check_completions(data: bytes) -> None:
    check(data, openai_completions)


def check_embeddings(data: bytes) -> None:
    check(data, embeddings)


def check_count(data: bytes) -> None:
    check(data, anthropic_count_tokens)


def check(data: bytes, dialect: ModuleType) -> Pairs | None:
    """The body, where it was accepted."""
    try:
        question = dialect.read(data)
    except (BadRequest, FeatureNotGranted):
        return None
    try:
        written = parsed(data)
    except RecursionError:
        return None  # what is not judged may lie deeper than Python's json reads; it passes as it came
    assert isinstance(written, Pairs), "accepted what is no object"
    assert len(names(written)) == len(set(names(written))), "accepted a key twice"
    assert written.all("model") == [question.model]
    check_bound(question, data, dialect)
    for options in EVERY_OPTION:
        sent = parsed(question.body(MODEL, GRANTED, options))
        assert isinstance(sent, Pairs)
        before, after = dict(written), dict(sent)
        assert after["model"] == MODEL
        unedited = [(name, value) for name, value in written if name not in EDITED[dialect]]
        assert unedited == [(name, value) for name, value in sent if name not in EDITED[dialect]]
        if dialect is openai_responses:
            assert after["max_output_tokens"] == Number(GRANTED)
            asked = before.get("store")
            assert after["store"] is (before.get("background") is True if asked is None else asked)
        if dialect is openai_completions:
            assert 0 <= int(after["max_tokens"]) <= GRANTED
    return written


def check_bound(question: openai_responses.ResponsesQuestion, data: bytes, dialect: ModuleType) -> None:
    demand = question.demand(50, 4096)
    assert 0 <= demand.min_output <= demand.wanted_output
    if dialect in (embeddings, anthropic_count_tokens):
        assert demand.wanted_output == 0
    if dialect is openai_responses and not any(word in data for word in MEDIA):
        assert demand.prompt_bound >= len(data), "the bound is below the bytes of a text"
    if dialect is anthropic_count_tokens:
        assert demand.prompt_bound == 0
        return
    assert demand.prompt_bound >= 1
