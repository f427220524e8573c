"""What every dialect keeps, checked with the vendors' own SDKs: an error must raise the exception that an agent catches."""

import re
from typing import get_args

import anthropic
import httpx2
import openai
import pytest

from broker import errors
from broker.chat import Options
from broker.dialects import BY_ID, METHODS, ROUTES, Dialect, anthropic_messages, find_by_id, listing, openai_chat
from broker.quota import Allowance, Held

REFUSALS = [
    cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.BrokerError) and cls is not errors.BrokerError
]
EXCHANGE = "x-0123"


def answering(status: int, body: bytes, content_type: str = "application/json") -> httpx2.MockTransport:
    return httpx2.MockTransport(
        lambda _: httpx2.Response(status, content=body, headers={"content-type": content_type, "x-should-retry": "false"})
    )


def ask_openai(transport: httpx2.MockTransport, **more: object) -> object:
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1/v1", http_client=httpx2.Client(transport=transport), max_retries=0)
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], **more)


def ask_anthropic(transport: httpx2.MockTransport, **more: object) -> object:
    client = anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1", http_client=httpx2.Client(transport=transport), max_retries=0)
    return client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}], **more)


OPENAI_CLASSES = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    **dict.fromkeys((500, 502, 503, 504), openai.InternalServerError),
}
ANTHROPIC_CLASSES = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    422: anthropic.UnprocessableEntityError,
    429: anthropic.RateLimitError,
    **dict.fromkeys((500, 502, 503, 504), anthropic.InternalServerError),
}


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda cls: cls.__name__)
def test_every_refusal_raises_the_exception_of_its_status_in_the_openai_sdk(refusal: type[errors.BrokerError]) -> None:
    body = openai_chat.error(refusal("say what to do", param="n"), EXCHANGE)
    with pytest.raises(OPENAI_CLASSES.get(refusal.status, openai.APIStatusError)) as caught:
        ask_openai(answering(refusal.status, body))
    assert (caught.value.code, caught.value.param) == (refusal.code, "n")
    assert caught.value.type
    assert "say what to do" in str(caught.value)
    assert EXCHANGE in str(caught.value)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda cls: cls.__name__)
def test_every_refusal_raises_the_exception_of_its_status_in_the_anthropic_sdk(refusal: type[errors.BrokerError]) -> None:
    body = anthropic_messages.error(refusal("say what to do"), EXCHANGE)
    with pytest.raises(ANTHROPIC_CLASSES.get(refusal.status, anthropic.APIStatusError)) as caught:
        ask_anthropic(answering(refusal.status, body))
    assert "say what to do" in str(caught.value)
    assert refusal.code in str(caught.value)
    assert EXCHANGE in str(caught.value)


def test_every_anthropic_error_type_is_one_that_the_sdk_knows() -> None:
    known = set(get_args(anthropic.types.shared.ErrorType))
    for refusal in REFUSALS:
        written = re.search(rb'"error":\{"type":"(\w+)"', anthropic_messages.error(refusal("x"), EXCHANGE))
        assert written
        assert written.group(1).decode() in known | {"request_too_large"}  # the API documents it, the SDK's list lacks it


def test_an_error_inside_a_stream_raises_in_the_openai_sdk() -> None:
    stream = b'data: {"id":"c","object":"chat.completion.chunk","created":0,"model":"m","choices":[]}\n\n'
    stream += openai_chat.error_event(errors.Forbidden("cut off"), EXCHANGE)
    chunks = ask_openai(answering(200, stream, "text/event-stream"), stream=True)
    next(chunks)
    with pytest.raises(openai.APIError, match="cut off") as caught:
        next(chunks)
    assert caught.value.code == "forbidden"


def test_an_error_inside_a_stream_raises_in_the_anthropic_sdk() -> None:
    stream = b'event: ping\ndata: {"type":"ping"}\n\n' + anthropic_messages.error_event(errors.Forbidden("cut off"), EXCHANGE)
    events = ask_anthropic(answering(200, stream, "text/event-stream"), stream=True)
    with pytest.raises(anthropic.APIStatusError, match="cut off"):
        list(events)


def test_models_are_listed_as_the_openai_sdk_reads_them() -> None:
    client = openai.OpenAI(
        api_key="k", base_url="http://127.0.0.1/v1", http_client=httpx2.Client(transport=answering(200, openai_chat.models(("a", "b/c"))))
    )
    assert [model.id for model in client.models.list()] == ["a", "b/c"]
    one = openai.OpenAI(
        api_key="k", base_url="http://127.0.0.1/v1", http_client=httpx2.Client(transport=answering(200, openai_chat.one_model("a")))
    )
    assert one.models.retrieve("a").owned_by == "inference-broker"


@pytest.mark.parametrize("names", [("a", "b/c"), ()])
def test_models_are_listed_as_the_anthropic_sdk_reads_them(names: tuple[str, ...]) -> None:
    client = anthropic.Anthropic(
        api_key="k", base_url="http://127.0.0.1", http_client=httpx2.Client(transport=answering(200, anthropic_messages.models(names)))
    )
    assert [model.id for model in client.models.list()] == list(names)
    one = anthropic.Anthropic(
        api_key="k", base_url="http://127.0.0.1", http_client=httpx2.Client(transport=answering(200, anthropic_messages.one_model("a")))
    )
    assert (one.models.retrieve("a").display_name, one.models.retrieve("a").lifecycle) == ("a", "active")


def test_a_meters_stream_is_read_by_the_openai_sdk_with_and_without_usage() -> None:
    head = b'{"id":"c","object":"chat.completion.chunk","created":0,"model":"m",'
    chunk = head + b'"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}'
    usage = head + b'"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
    raw = b"data: " + chunk + b"\n\ndata: " + usage + b"\n\ndata: [DONE]\n\n"
    for asked, expected in ((b"true", [None, 2]), (b"false", [None])):
        meter = openai_chat.read(b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":%b}}' % asked).meter()
        chunks = ask_openai(answering(200, meter.stream(raw) + meter.end(), "text/event-stream"), stream=True)
        assert [c.usage.total_tokens if c.usage else None for c in chunks] == expected


def test_the_routes_name_dialects_and_their_methods() -> None:
    dialects: list[Dialect] = list(ROUTES.values())
    assert {path: dialect.NAME for (_, path), dialect in zip(ROUTES, dialects, strict=True)} == {
        "/v1/chat/completions": "openai_chat",
        "/v1/responses": "openai_responses",
        "/v1/completions": "openai_completions",
        "/v1/embeddings": "embeddings",
        "/v1/audio/transcriptions": "openai_transcriptions",
        "/v1/audio/translations": "openai_translations",
        "/v1/images/generations": "openai_images",
        "/v1/messages": "anthropic_messages",
        "/v1/messages/count_tokens": "anthropic_count_tokens",
    }
    assert dict.fromkeys((path for _, path in ROUTES), ("POST",)) == METHODS


def test_the_routes_by_an_id_are_told_from_those_that_only_look_so() -> None:
    assert {words.NAME for words in BY_ID.values()} == {"openai_stored_responses"}
    assert find_by_id("/v1/responses/resp_1") == ("/v1/responses/{id}", "resp_1")
    assert find_by_id("/v1/responses/resp_1/cancel") == ("/v1/responses/{id}/cancel", "resp_1")
    assert find_by_id("/v1/responses/{id}/input_items") == ("/v1/responses/{id}/input_items", "{id}")
    for other in (
        "",
        "/v1/responses",
        "/v1/responses/",
        "/v1/responses//cancel",
        "/v1/responses/a/b",
        "/v1/responses/a/",
        "/x/v1/responses/a",
    ):
        assert find_by_id(other) == ("", "")


def test_the_list_of_models_is_in_the_dialect_of_the_sdk_that_asks() -> None:
    assert listing([(b"host", b"x")]) is openai_chat
    assert listing([(b"anthropic-version", b"2026-10-21")]) is anthropic_messages


@pytest.mark.parametrize("dialect", [openai_chat, anthropic_messages], ids=lambda dialect: dialect.NAME)
def test_a_dialect_says_what_it_read(dialect: Dialect) -> None:
    question = dialect.read(b'{"model":"team/m","messages":[],"stream":true,"max_tokens":40}')
    assert (question.model, question.streaming, question.features) == ("team/m", True, frozenset())
    assert b'"model":"m"' in question.body("m", 20, Options())
    assert b'"max_tokens":20' in question.body("m", 20, Options())
    assert question.meter() is not question.meter()


@pytest.mark.parametrize("dialect", list(ROUTES.values()), ids=lambda dialect: dialect.NAME)
@pytest.mark.parametrize("space", [b"", b"  "])
@pytest.mark.parametrize(
    "place", [b'"x":%b', b'"messages":%b', b'"messages":[{"content":%b}]', b'"messages":[{"x":%b}]', b'"tools":[{"y":%b}]']
)
def test_no_depth_of_nesting_becomes_a_defect_of_ours(dialect: Dialect, space: bytes, place: bytes) -> None:
    refused = 0
    for depth in range(700, 1000):
        nested = b'{"messages":%b[],"model":"m",%b}' % (space, place % (b"[" * depth + b"]" * depth))
        try:
            dialect.read(nested.replace(b'"messages":%b[],' % space, b"", 1) if b"messages" in place else nested)
        except errors.BadRequest:
            refused += 1
    assert refused


@pytest.mark.parametrize("dialect", list(ROUTES.values()), ids=lambda dialect: dialect.NAME)
def test_tokens_and_requests_are_both_said(dialect: Dialect) -> None:
    held = Held("h", 5, tokens=Allowance(100, 40, 60), requests=Allowance(60, 59, 30), leased=False)
    written = dict(dialect.rate_limit_headers(held, 0))
    assert len(written) == 6
    assert {b"100", b"40", b"60", b"59"} <= set(written.values())
