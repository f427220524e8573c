"""Embeddings, legacy completions and counted messages through both doors, asked by the vendors' own SDKs."""

import base64
import json
import struct

import anthropic
import openai
import pytest
from support.fake_provider import FakeProvider, json_answer, sse_answer
from support.objects_yaml import access, routing
from support.stack import AGENT, CANARY, stack

MORE = """
  - {name: mistral, schema: Mistral, endpoint: "http://127.0.0.1:%d/v1", credentials: {type: APIKey, secretRef: {name: key}}}
"""
MISTRAL = "  - {name: mistral-embed, backends: [{provider: mistral, model: embed-real}]}"
GRANTED = "gpt, claude, mistral-embed"

VECTORS = [[0.5, -1.0], [2.0, 0.25]]


def embeddings(seen):
    asked = json.loads(seen.body)
    count = len(asked["input"]) if isinstance(asked["input"], list) and not isinstance(asked["input"][0], int) else 1
    packed = asked.get("encoding_format") == "base64"
    vectors = [base64.b64encode(struct.pack("<2f", *one)).decode() if packed else one for one in VECTORS[:count]]
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    said = {"object": "list", "data": data, "model": asked["model"], "usage": {"prompt_tokens": 5, "total_tokens": 5}}
    return json_answer(json.dumps(said).encode())


def text(piece, at=0, finish=None):
    return {"text": piece, "index": at, "logprobs": None, "finish_reason": finish}


def completions(seen):
    about = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-real"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    if b'"stream":true' not in seen.body:
        return json_answer(json.dumps({**about, "choices": [text("hi", finish="stop")], "usage": usage}).encode())
    chunks = [{**about, "choices": [text("h")]}, {**about, "choices": [text("i", finish="stop")]}, {**about, "choices": [], "usage": usage}]
    return sse_answer(*(b"data: %b\n\n" % json.dumps(one).encode() for one in chunks), b"data: [DONE]\n\n")


def honest(seen):
    """Answers as asked, when the key is the right one."""
    if CANARY.encode() not in (seen.header(b"authorization") or b"") + (seen.header(b"x-api-key") or b""):
        return json_answer(b'{"error":{"message":"wrong key"}}', 401)
    match seen.target:
        case "/v1/embeddings":
            return embeddings(seen)
        case "/v1/completions":
            return completions(seen)
        case "/v1/messages/count_tokens":
            return json_answer(b'{"input_tokens":14}')
    return json_answer(b'{"error":{"message":"no such path"}}', 404)


def objects(provider, **more):
    return routing(provider.port, extra=MORE % provider.port, models=MISTRAL) + access(models=GRANTED, **more)


@pytest.mark.parametrize("encoding", ["float", "base64", None], ids=str)
@pytest.mark.parametrize(("model", "real"), [("gpt", "gpt-real"), ("mistral-embed", "embed-real")])
async def test_embeddings_come_through_in_either_encoding(tmp_path, encoding, model, real):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        asked = {} if encoding is None else {"encoding_format": encoding}  # the SDK itself asks for base64, and unpacks it
        got = await it.openai(AGENT).embeddings.create(model=model, input=["one", "two"], **asked)
        vectors = [one.embedding for one in got.data]
        if encoding == "base64":
            vectors = [list(struct.unpack("<2f", base64.b64decode(one))) for one in vectors]
        assert vectors == VECTORS
        sent = json.loads(provider.seen[0].body)
        assert sent == {"model": real, "input": ["one", "two"], "encoding_format": encoding or "base64"}
        (line,) = await it.audited(1)
        assert (line["code"], line["dialect"], line["model"], line["provider_model"]) == ("answered", "embeddings", model, real)
        assert (line["input_tokens"], line["output_tokens"], line["estimated"]) == (5, 0, False)


@pytest.mark.parametrize("tokens", [[7] * 60, [[100257] * 30, [9] * 30]], ids=["one array", "two arrays"])
async def test_an_array_of_tokens_holds_as_many_as_it_has(tmp_path, tokens):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        await it.openai(AGENT).embeddings.create(model="gpt", input=tokens)
        (line,) = await it.audited(1)
        around = len(b'{"input":,"model":"gpt","encoding_format":"base64"}') + 8 * (1 if isinstance(tokens[0], int) else 2)
        assert line["held_tokens"] == 60 + around


async def test_embeddings_spend_a_quota_of_tokens_and_stop_at_it(tmp_path):
    async with (
        FakeProvider(script=honest) as provider,
        stack(tmp_path, objects(provider, quotas="[{name: all, tokens: 90, per: Month}]")) as it,
    ):
        with pytest.raises(openai.BadRequestError, match="more than its quota"):
            await it.openai(AGENT).embeddings.create(model="gpt", input="x" * 90)
        got = await it.openai(AGENT).embeddings.with_raw_response.create(model="gpt", input="x")
        assert got.headers["x-ratelimit-limit-tokens"] == "90"
        with pytest.raises(openai.RateLimitError):
            for _ in range(9):
                await it.openai(AGENT).embeddings.create(model="gpt", input="x" * 20)


@pytest.mark.parametrize("prompt", ["say hi", ["say hi"], [1, 2, 3], [[1, 2, 3]]], ids=["text", "texts", "tokens", "arrays of tokens"])
async def test_a_legacy_completion_comes_through(tmp_path, prompt):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        got = await it.openai(AGENT).completions.create(model="gpt", prompt=prompt)
        assert (got.choices[0].text, got.usage.total_tokens) == ("hi", 7)
        assert json.loads(provider.seen[0].body) == {"model": "gpt-real", "prompt": prompt, "max_tokens": 50}
        (line,) = await it.audited(1)
        assert (line["code"], line["dialect"], line["input_tokens"], line["output_tokens"]) == ("answered", "openai_completions", 5, 2)


async def test_a_legacy_completion_is_streamed_and_its_usage_is_ours_alone(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        stream = await it.openai(AGENT).completions.create(model="gpt", prompt="say hi", stream=True, max_tokens=20)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "hi"
        assert [chunk.usage for chunk in chunks] == [None, None]
        sent = json.loads(provider.seen[0].body)
        assert (sent["max_tokens"], sent["stream_options"]) == (20, {"include_usage": True})
        (line,) = await it.audited(1)
        assert (line["input_tokens"], line["output_tokens"], line["estimated"]) == (5, 2, False)


async def test_every_answer_that_a_legacy_completion_makes_is_held_for(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        client = it.openai(AGENT)
        await client.completions.create(model="gpt", prompt=["a", "b"], max_tokens=100)
        await client.completions.create(model="gpt", prompt=["a", "b"], max_tokens=100, n=2, best_of=5)
        one, many = await it.audited(2)
        assert many["held_tokens"] - one["held_tokens"] == 2 * (5 - 1) * 100 + len(',"n":2,"best_of":5')
        assert [json.loads(seen.body)["max_tokens"] for seen in provider.seen] == [100, 100]


async def test_counting_a_message_needs_the_grant_and_costs_one_request_and_no_tokens(tmp_path):
    quotas = "[{name: all, tokens: 1, per: Month}, {name: pace, requests: 2, per: Month}]"
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider, quotas=quotas)) as it:
        client = it.anthropic(AGENT)
        messages = [{"role": "user", "content": "hi " * 100}]
        for _ in range(2):
            assert (await client.messages.count_tokens(model="claude", messages=messages)).input_tokens == 14
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.count_tokens(model="claude", messages=messages)
        with pytest.raises(anthropic.PermissionDeniedError):
            await client.messages.count_tokens(model="ungranted", messages=messages)
        assert json.loads(provider.seen[0].body) == {"model": "claude-real", "messages": messages}
        first, *_, last = await it.audited(4)
        assert (first["code"], first["dialect"], first["held_tokens"]) == ("answered", "anthropic_count_tokens", 0)
        assert (first["input_tokens"], first["output_tokens"], first["estimated"]) == (0, 0, False)
        assert last["code"] == "forbidden"


async def test_what_may_not_be_sent_may_not_be_counted_either(tmp_path):
    image = {"type": "image", "source": {"type": "url", "url": "https://pictures.example/1.png"}}
    file = {"type": "document", "source": {"type": "file", "file_id": "file_011"}}
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        for part, why in ((image, "RemoteMedia"), (file, "file_id")):
            with pytest.raises(anthropic.BadRequestError, match=why):
                await it.anthropic(AGENT).messages.count_tokens(model="claude", messages=[{"role": "user", "content": [part]}])
        assert provider.seen == []


async def test_a_provider_of_the_other_vendor_is_never_asked(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.UnprocessableEntityError, match="speaks embeddings"):
            await it.openai(AGENT).embeddings.create(model="claude", input="x")
        with pytest.raises(openai.UnprocessableEntityError, match="speaks openai_completions"):
            await it.openai(AGENT).completions.create(model="mistral-embed", prompt="x")
        with pytest.raises(anthropic.UnprocessableEntityError, match="speaks anthropic_count_tokens"):
            await it.anthropic(AGENT).messages.count_tokens(model="gpt", messages=[])
        assert provider.seen == []
