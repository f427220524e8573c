"""Sound and pictures before a provider that others wrote. It cuts forms wherever their boundary stands, also in the middle of a line."""

import json

import httpx2 as httpx
import pytest
from support.aimock import aimock
from support.objects_yaml import access, routing
from support.stack import AGENT, CANARY, stack

USAGE = {"type": "tokens", "input_tokens": 14, "output_tokens": 3, "total_tokens": 17}
FIXTURES = [
    {
        "match": {"endpoint": "transcription", "model": "gpt-real"},
        "response": {"transcription": {"text": "Good day to you.", "usage": USAGE}},
    },
    {"match": {"endpoint": "translation", "model": "gpt-real"}, "response": {"transcription": {"text": "Good day."}}},
    {"match": {"endpoint": "image", "model": "gpt-real"}, "response": {"image": {"b64Json": "AAEC"}}},
]


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aimock")
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": FIXTURES}))
    with aimock(folder, folder / "fixtures.json", CANARY) as running:
        yield running


@pytest.fixture
async def it(provider, tmp_path):
    async with stack(tmp_path, routing(provider.port) + access()) as running:
        yield running


async def test_a_transcription_and_a_translation_arrive(it):
    client = it.openai(AGENT)
    got = await client.audio.transcriptions.create(model="gpt", file=("a.wav", b"RIFF"), prompt="zwei\nzeilen")
    assert (got.text, got.usage.total_tokens) == ("Good day to you.", 17)
    assert (await client.audio.translations.create(model="gpt", file=("a.wav", b"RIFF"))).text == "Good day."
    first, second = await it.audited(2)
    assert (first["input_tokens"], first["output_tokens"], first["estimated"]) == (14, 3, False)
    assert (second["code"], second["estimated"]) == ("answered", True)


async def test_a_transcription_is_streamed(it):
    stream = await it.openai(AGENT).audio.transcriptions.create(model="gpt", file=("a.wav", b"RIFF"), stream=True)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == "Good day to you."
    (line,) = await it.audited(1)
    assert (line["input_tokens"], line["output_tokens"], line["estimated"]) == (14, 3, False)


async def test_what_is_asked_for_as_text_arrives_as_what_the_server_has(it):
    got = await it.openai(AGENT).audio.transcriptions.with_raw_response.create(model="gpt", file=("a.wav", b"RIFF"), response_format="text")
    assert got.headers["content-type"] == "application/json"
    assert json.loads(got.text)["text"] == "Good day to you."


async def test_a_picture_arrives(it):
    got = await it.openai(AGENT).images.generate(model="gpt", prompt="a broker", response_format="b64_json")
    assert got.data[0].b64_json == "AAEC"


async def test_a_boundary_in_the_middle_of_a_sound_makes_no_second_model_of_it(it, provider):
    """This server looks for the boundary, not for its line: asked with the caller's own bytes it finds the other model first."""
    head = 'Content-Disposition: form-data; name="{}"{}\r\n\r\n'
    sound = "RIFF--B\r\n" + head.format("model", "") + "ungranted\r\n\r\nx--B\r\nRIFF"
    form = "--B\r\n" + head.format("file", '; filename="a.wav"') + sound + "\r\n--B\r\n" + head.format("model", "") + "gpt\r\n--B--\r\n"
    path, asked = "/v1/audio/transcriptions", {"content": form.encode(), "headers": {"content-type": "multipart/form-data; boundary=B"}}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{provider.port}", headers={"authorization": f"Bearer {CANARY}"}) as direct:
        await direct.post(path, **asked)
    assert "ungranted" in provider.last()["body"]["model"]
    passed = await it.http(AGENT).post(path, **asked)
    assert passed.json()["text"] == "Good day to you."
    assert provider.last()["body"]["model"] == "gpt-real"
