"""Sound to text and words to pictures through both doors, asked by the vendor's own SDK."""

import base64
import io
import json
import struct
import wave
from email.parser import BytesParser
from email.policy import HTTP

import openai
import pytest
from support.fake_provider import FakeProvider, json_answer, sse_answer
from support.objects_yaml import access, routing
from support.stack import AGENT, CANARY, OTHER, stack

from broker import forms

PACE = "[{name: pace, requests: 3, per: Month}, {name: width, concurrent: 2}]"
PICTURE = base64.b64encode(bytes(range(256)) * 400)
DRAWN = b'{"created":1,"data":[{"b64_json":"%b"}],"usage":{"input_tokens":9,"output_tokens":272,"total_tokens":281,"input_tokens_details":{"text_tokens":9,"image_tokens":0}}}'
HEARD = b'{"text":"hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":3,"total_tokens":17}}'
VERBOSE = b'{"task":"transcribe","language":"english","duration":0.5,"text":"hi","segments":[],"usage":{"type":"duration","seconds":1}}'
SRT = "1\n00:00:00,000 --> 00:00:01,000\nhi é\n"
EVENTS = (
    b'data: {"type":"transcript.text.delta","delta":"h"}\n\n',
    b'data: {"type":"transcript.text.delta","delta":"i"}\n\n',
    b'data: {"type":"transcript.text.done","text":"hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":3,"total_tokens":17}}\n\n',
)


def sound(seconds=0.5):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(b"".join(struct.pack("<h", (at * 37) % 2000 - 1000) for at in range(int(16_000 * seconds))))
    return file.getvalue()


def parts(seen):
    """A form as Python's own mail parser reads it: name to values, of a file its filename, type and bytes."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: %b\r\n\r\n%b" % (seen.header(b"content-type"), seen.body))
    found = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        value = part.get_payload(decode=True)
        one = value.decode() if part.get_filename() is None else (part.get_filename(), part.get_content_type(), value)
        found.setdefault(name, []).append(one)
    return found


def answer_in(content_type, text, status=200):
    body = text.encode()
    return (b"HTTP/1.1 %d X\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, content_type, len(body), body),)


def honest(seen):
    """Answers as asked, when the key is the right one."""
    if CANARY.encode() not in (seen.header(b"authorization") or b""):
        return json_answer(b'{"error":{"message":"wrong key"}}', 401)
    if seen.target == "/v1/images/generations":
        return json_answer(DRAWN % PICTURE)
    if seen.target not in ("/v1/audio/transcriptions", "/v1/audio/translations"):
        return json_answer(b'{"error":{"message":"no such path"}}', 404)
    return heard(parts(seen))


def heard(asked):
    match asked.get("response_format", ["json"])[0]:
        case "json" if asked.get("stream") == ["true"]:
            return sse_answer(*EVENTS)
        case "json":
            return json_answer(HEARD)
        case "verbose_json":
            return json_answer(VERBOSE)
    return answer_in(b"text/plain; charset=utf-8", SRT)


def objects(provider, quotas=PACE, models="", more=""):
    return routing(provider.port, models=models) + access(quotas=quotas) + more


async def test_a_transcription_comes_through_and_costs_one_request(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        got = await it.openai(AGENT).audio.transcriptions.with_raw_response.create(
            model="gpt", file=("rede.wav", sound(), "audio/x-wav"), language="de", timestamp_granularities=["word", "segment"]
        )
        assert got.parse().text == "hi"
        assert got.headers["x-ratelimit-remaining-requests"] == "2"
        (seen,) = provider.seen
        assert parts(seen) == {
            "model": ["gpt-real"],
            "language": ["de"],
            "timestamp_granularities[]": ["word", "segment"],
            "file": [("rede.wav", "audio/x-wav", sound())],
        }
        (line,) = await it.audited(1)
        assert (line["code"], line["dialect"], line["provider_model"]) == ("answered", "openai_transcriptions", "gpt-real")
        assert (line["held_tokens"], line["input_tokens"], line["output_tokens"], line["estimated"]) == (0, 14, 3, False)


async def test_a_translation_comes_through(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        got = await it.openai(AGENT).audio.translations.create(model="gpt", file=("rede.mp3", b"ID3" + bytes(range(256)), "audio/mpeg"))
        assert got.text == "hi"
        assert provider.seen[0].target == "/v1/audio/translations"
        assert parts(provider.seen[0])["file"] == [("rede.mp3", "audio/mpeg", b"ID3" + bytes(range(256)))]
        (line,) = await it.audited(1)
        assert line["dialect"] == "openai_translations"


@pytest.mark.parametrize("kind", ["text", "srt", "vtt"])
async def test_a_transcription_that_is_no_json_comes_through_as_it_is(tmp_path, kind):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        raw = await it.openai(AGENT).audio.transcriptions.with_raw_response.create(
            model="gpt", file=("a.wav", sound()), response_format=kind
        )
        assert raw.headers["content-type"] == "text/plain; charset=utf-8"
        assert raw.text == SRT
        (line,) = await it.audited(1)
        assert (line["code"], line["estimated"]) == ("answered", True)


@pytest.mark.parametrize("kind", [b"text/html", b"application/octet-stream", b""])
async def test_an_answer_of_a_type_that_no_text_has_does_not_pass(tmp_path, kind):
    async with FakeProvider(answer_in(kind, "<script>alert(1)</script>")) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.InternalServerError, match="something else") as caught:
            await it.openai(AGENT).audio.transcriptions.create(model="gpt", file=("a.wav", sound()), response_format="text")
        assert caught.value.code == "provider_unavailable"


async def test_a_text_with_our_key_in_it_does_not_pass(tmp_path):
    async with FakeProvider(answer_in(b"text/plain", f"the key is {CANARY}")) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.InternalServerError, match="credential"):
            await it.openai(AGENT).audio.transcriptions.create(model="gpt", file=("a.wav", sound()), response_format="text")


async def test_sound_that_is_billed_by_its_duration_takes_no_tokens(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        got = await it.openai(AGENT).audio.transcriptions.create(model="gpt", file=("a.wav", sound()), response_format="verbose_json")
        assert (got.text, got.duration) == ("hi", 0.5)
        (line,) = await it.audited(1)
        assert (line["input_tokens"], line["output_tokens"], line["estimated"]) == (0, 0, False)


async def test_a_transcription_is_streamed_and_its_usage_is_read(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        stream = await it.openai(AGENT).audio.transcriptions.create(model="gpt", file=("a.wav", sound()), stream=True)
        events = [event async for event in stream]
        assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
        (line,) = await it.audited(1)
        assert (line["stream"], line["input_tokens"], line["output_tokens"], line["estimated"]) == (True, 14, 3, False)


async def test_a_picture_comes_through_and_costs_one_request(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        got = await it.openai(AGENT).images.generate(model="gpt", prompt="a broker", n=1, size="1024x1024", quality="low")
        assert base64.b64decode(got.data[0].b64_json) == bytes(range(256)) * 400
        assert json.loads(provider.seen[0].body) == {
            "model": "gpt-real",
            "prompt": "a broker",
            "n": 1,
            "size": "1024x1024",
            "quality": "low",
        }
        (line,) = await it.audited(1)
        assert (line["code"], line["dialect"], line["held_tokens"]) == ("answered", "openai_images", 0)
        assert (line["input_tokens"], line["output_tokens"], line["estimated"]) == (9, 272, False)


async def test_requests_are_a_ceiling_for_sound_and_pictures_together(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        client = it.openai(AGENT)
        await client.images.generate(model="gpt", prompt="x")
        await client.audio.transcriptions.create(model="gpt", file=("a.wav", b"RIFF"))
        await client.audio.translations.create(model="gpt", file=("a.wav", b"RIFF"))
        for asking in (
            client.images.generate(model="gpt", prompt="x"),
            client.audio.transcriptions.create(model="gpt", file=("a.wav", b"RIFF")),
        ):
            with pytest.raises(openai.RateLimitError) as caught:
                await asking
            assert caught.value.code == "quota_exhausted"
        assert len(provider.seen) == 3
        assert "aiaccess_tokens_over_hold_total 0.0" in await it.metrics()


UNCOUNTABLE = {
    "tokens": ("[{name: all, tokens: 1000000, per: Month}]", "`requests`"),
    "output": ("[{name: out, tokens: 1000000, tokenCountMode: OutputToken, per: Month}]", "`requests`"),
    "dollars": ('[{name: money, usd: "5.00", per: Month}]', "`perRequest`"),
}


@pytest.mark.parametrize("quotas", UNCOUNTABLE)
async def test_a_quota_that_cannot_be_kept_refuses_and_says_what_its_owner_does(tmp_path, quotas):
    quota, why = UNCOUNTABLE[quotas]
    price = 'price: {inputPerMillionTokens: "2.50", outputPerMillionTokens: "10"}'
    models = f"  - {{name: priced, backends: [{{provider: openai, model: gpt-real}}], {price}}}"
    async with (
        FakeProvider(script=honest) as provider,
        stack(tmp_path, routing(provider.port, models=models) + access(models="priced", quotas=quota)) as it,
    ):
        for asking in (
            it.openai(AGENT).images.generate(model="priced", prompt="x"),
            it.openai(AGENT).audio.transcriptions.create(model="priced", file=("a.wav", b"RIFF")),
        ):
            with pytest.raises(openai.BadRequestError, match=why) as caught:
                await asking
            assert caught.value.code == "exceeds_quota"
        assert provider.seen == []
        assert [line["decision"] for line in await it.audited(2)] == ["refused"] * 2


async def test_a_price_of_each_request_alone_is_counted_in_dollars(tmp_path):
    price = 'price: {inputPerMillionTokens: "0", outputPerMillionTokens: "0", perRequest: "0.04"}'
    models = f"  - {{name: painter, backends: [{{provider: openai, model: gpt-real}}], {price}}}"
    quota = '[{name: money, usd: "0.10", per: Month}]'
    async with (
        FakeProvider(script=honest) as provider,
        stack(tmp_path, routing(provider.port, models=models) + access(models="painter", quotas=quota)) as it,
    ):
        client = it.openai(AGENT)
        for _ in range(2):
            await client.images.generate(model="painter", prompt="x")
        with pytest.raises(openai.RateLimitError):
            await client.images.generate(model="painter", prompt="x")
        assert [line["cost_microusd"] for line in await it.audited(3)] == [40_000, 40_000, 0]


async def test_a_quota_in_shadow_that_could_not_be_kept_refuses_nothing_and_is_written_down(tmp_path):
    async with (
        FakeProvider(script=honest) as provider,
        stack(
            tmp_path, objects(provider, more=access(name="watched", quotas="[{name: all, tokens: 1, per: Month}]", extra="  mode: Shadow"))
        ) as it,
    ):
        await it.openai(AGENT).images.generate(model="gpt", prompt="x")
        (line,) = await it.audited(1)
        assert (line["code"], line["would_refuse"]) == ("answered", ["exceeds_quota"])


async def test_the_grant_is_needed(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider), [AGENT, OTHER]) as it:
        for asking in (
            it.openai(AGENT).images.generate(model="secret", prompt="x"),
            it.openai(AGENT).audio.transcriptions.create(model="secret", file=("a.wav", b"RIFF")),
        ):
            with pytest.raises(openai.PermissionDeniedError):
                await asking
        assert provider.seen == []


async def test_a_provider_of_another_kind_is_never_asked(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.UnprocessableEntityError, match="speaks openai_images"):
            await it.openai(AGENT).images.generate(model="claude", prompt="x")
        with pytest.raises(openai.UnprocessableEntityError, match="speaks openai_transcriptions"):
            await it.openai(AGENT).audio.transcriptions.create(model="claude", file=("a.wav", b"RIFF"))
        assert provider.seen == []


async def test_25_megabytes_of_sound_arrive_as_they_are(tmp_path):
    long = sound(0.1) + bytes(range(256)) * (25 * 4000)
    async with FakeProvider(script=lambda _: json_answer(HEARD)) as provider, stack(tmp_path, objects(provider)) as it:
        await it.openai(AGENT).audio.transcriptions.create(model="gpt", file=("long.wav", long))
        (seen,) = provider.seen
        (file,) = [part for part in forms.read(seen.body, seen.header(b"content-type")) if part.filename]
        assert file.value == long


async def test_a_form_fails_over_whole(tmp_path):
    busy = json_answer(b'{"error":{"message":"busy"}}', 503)
    async with FakeProvider(busy) as first, FakeProvider(script=honest) as second:
        more = f"""
  - {{name: second, schema: OpenAI, endpoint: "http://127.0.0.1:{second.port}/v1", credentials: {{type: APIKey, secretRef: {{name: key}}}}}}"""
        models = "  - {name: two, backends: [{provider: openai, model: a}, {provider: second, model: b, priority: 1}]}"
        resources = routing(first.port, extra=more, models=models) + access(models="two", quotas=PACE)
        hosts = f'"http://127.0.0.1:{first.port}"'
        resources = resources.replace(hosts, f'"http://127.0.0.1:{first.port},http://127.0.0.1:{second.port}"')
        async with stack(tmp_path, resources) as it:
            got = await it.openai(AGENT).audio.transcriptions.create(model="two", file=("a.wav", sound()))
            assert got.text == "hi"
            (before,), (after,) = first.seen, second.seen
            assert parts(before) == parts(after) | {"model": ["a"]}
            assert before.header(b"content-type") != after.header(b"content-type")
            (line,) = await it.audited(1)
            assert (line["attempts"], line["input_tokens"], line["provider_model"]) == (2, 14, "b")
            assert got.usage.total_tokens == 17


async def test_what_a_provider_says_of_a_bad_sound_is_the_agents_to_read(tmp_path):
    said = json_answer(b'{"error":{"message":"Invalid file format.","type":"invalid_request_error","param":null,"code":null}}', 400)
    async with FakeProvider(said) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.BadRequestError, match="Invalid file format"):
            await it.openai(AGENT).audio.transcriptions.create(model="gpt", file=("a.wav", b"no sound"))
        (line,) = await it.audited(1)
        assert (line["input_tokens"], line["estimated"]) == (0, False)


async def test_a_picture_beyond_the_bound_of_an_answer_does_not_pass(tmp_path):
    huge = b'{"created":1,"data":[{"b64_json":"%b"}]}' % (b"A" * ((32 << 20) + 1))
    async with FakeProvider(json_answer(huge)) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.InternalServerError) as caught:
            await it.openai(AGENT).images.generate(model="gpt", prompt="x")
        assert caught.value.code == "provider_unavailable"


async def test_who_leaves_before_the_picture_is_there_pays_the_request(tmp_path):
    async with (
        FakeProvider(("hang",)) as provider,
        stack(tmp_path, objects(provider, quotas="[{name: pace, requests: 1, per: Month}]")) as it,
    ):
        client = it.openai(AGENT)
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.3).images.generate(model="gpt", prompt="x")
        (line,) = await it.audited(1)
        assert (line["code"], line["estimated"], line["input_tokens"]) == ("caller_left", True, 0)
        with pytest.raises(openai.RateLimitError):
            await client.images.generate(model="gpt", prompt="x")


async def test_a_stream_that_the_provider_does_not_have_is_told(tmp_path):
    async with FakeProvider(json_answer(HEARD)) as provider, stack(tmp_path, objects(provider)) as it:
        with pytest.raises(openai.InternalServerError, match="request for a stream"):
            await it.openai(AGENT).audio.transcriptions.create(model="gpt", file=("a.wav", sound()), stream=True)


async def test_the_models_are_listed_for_whoever_makes_pictures_with_them(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, objects(provider)) as it:
        assert "gpt" in [model.id async for model in it.openai(AGENT).models.list()]


@pytest.mark.parametrize("features", ["Storage", "Background, Files, HostedTools, RemoteMedia"])
async def test_what_else_a_policy_grants_changes_nothing_here(tmp_path, features):
    granted = access(quotas=PACE, extra=f"  features: [{features}]")
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + granted) as it:
        client = it.openai(AGENT)
        assert (await client.audio.transcriptions.create(model="gpt", file=("a.wav", sound()), response_format="srt")) == SRT
        stream = await client.audio.transcriptions.create(model="gpt", file=("a.wav", sound()), stream=True)
        assert [event.type async for event in stream][-1] == "transcript.text.done"
        assert (await client.images.generate(model="gpt", prompt="x")).data[0].b64_json == PICTURE.decode()
