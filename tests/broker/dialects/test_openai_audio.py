"""Transcriptions and translations: one sound, one text, one request; a form that could be more is refused by name."""

import pytest
from openai.types.audio import transcription_create_params, translation_create_params

from broker.chat import UNBOUNDED, Options, Usage
from broker.dialects import openai_transcriptions, openai_translations, read
from broker.dialects.openai_transcriptions import _KNOWN, _LISTS
from broker.errors import BadRequest, ProviderUnavailable
from broker.forms import TEXT_BYTES, Form, Part
from broker.judges.openai_audio import FORMATS, READ_AS_TEXT, SAMPLE_BYTES
from broker.metering import StreamMeter, TextMeter

TYPE = b"multipart/form-data; boundary=B"
SOUND = Part("file", memoryview(b"RIFF"), "a.wav", "audio/wav")


def form(*more, model="m", sound=SOUND):
    named = () if model is None else (("model", model),)
    fields = [Part(name, memoryview(value.encode())) for name, value in (*named, *more)]
    return b"".join(Form([*fields, *([sound] if sound else [])]).pieces("B"))


def question(*more, dialect=openai_transcriptions, **other):
    return dialect.read(form(*more, **other), TYPE)


@pytest.mark.parametrize("dialect", [openai_transcriptions, openai_translations], ids=lambda dialect: dialect.NAME)
def test_a_form_is_one_request_for_its_model(dialect):
    asked = question(("prompt", "zwei\nzeilen"), dialect=dialect, model="team/m")
    assert (asked.model, asked.streaming, asked.features) == ("team/m", False, frozenset())
    assert asked.demand(50, 10) == UNBOUNDED
    assert asked.clamped(0) is None


def test_the_form_that_goes_out_has_another_model_and_is_otherwise_what_came():
    asked = question(("language", "de"), ("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment"))
    sent = asked.body("real", 0, Options())
    assert [(part.name, bytes(part.value)) for part in sent.parts] == [
        ("model", b"real"),
        ("language", b"de"),
        ("timestamp_granularities[]", b"word"),
        ("timestamp_granularities[]", b"segment"),
        ("file", b"RIFF"),
    ]
    assert asked.body("real", 0, Options()) is not sent


@pytest.mark.parametrize("headers", [[], [(b"content-type", b"application/json")]], ids=["no type", "JSON"])
def test_what_is_no_form_is_told_what_to_send(headers):
    with pytest.raises(BadRequest, match="multipart/form-data"):
        read(openai_transcriptions, b'{"model":"m"}', headers)
    assert read(openai_transcriptions, form(), [(b"content-type", TYPE)]).model == "m"


def test_every_field_of_openais_sdk_is_known():
    asked = set(transcription_create_params.TranscriptionCreateParamsBase.__annotations__)
    assert asked <= _KNOWN | _LISTS | {"file"}
    assert set(translation_create_params.TranslationCreateParams.__annotations__) <= openai_translations._KNOWN | {"file"}


REFUSED = {
    "no model": (form(model=None), "names no model", "model"),
    "an empty model": (form(model=""), "1 to", "model"),
    "a model with a line break": (form(model="m\nn"), "control", "model"),
    "two models": (form(("model", "n")), "twice", "model"),
    "a list of models": (form(("model[]", "n")), "not taken here", "model[]"),
    "a model that is a file": (
        b"".join(Form([Part("model", memoryview(b"m"), "a"), SOUND]).pieces("B")),
        "filename",
        "model",
    ),
    "no sound": (form(sound=None), "add the part 'file'", "file"),
    "two sounds": (b"".join(Form([Part("model", memoryview(b"m")), SOUND, SOUND]).pieces("B")), "twice", "file"),
    "a sound without a filename": (form(("file", "RIFF"), sound=None), "filename", "file"),
    "another file": (
        b"".join(Form([Part("model", memoryview(b"m")), SOUND, Part("image", memoryview(b"x"), "b")]).pieces("B")),
        "not taken here",
        "image",
    ),
    "a sound by URL": (form(("url", "https://x.example/a.wav")), "fetch it", "url"),
    "a sound by Mistral's name of a URL": (form(("file_url", "https://x.example/a.wav")), "fetch it", "file_url"),
    "a kept sound": (form(("file_id", "file-1")), "other agents share", "file_id"),
    "several texts": (form(("n", "2")), "one text", "n"),
    "an unknown field": (form(("unheard_of", "1")), "leave it out", "unheard_of"),
    "a charset for all": (form(("_charset_", "utf-7")), "leave it out", "_charset_"),
    "an unknown format": (form(("response_format", "html")), "one of", "response_format"),
    "a format twice": (form(("response_format", "json"), ("response_format", "text")), "twice", "response_format"),
    "a stream of another word": (form(("stream", "1")), "true or false", "stream"),
    "a stream in capitals": (form(("stream", "True")), "true or false", "stream"),
    "a long field": (form(("prompt", "x" * (TEXT_BYTES + 1))), "longer", "prompt"),
    "a long entry of a list": (form(("keywords[]", "x" * (TEXT_BYTES + 1))), "longer", "keywords[]"),
    "a voice by URL": (form(("known_speaker_references[]", "https://x.example/a.wav")), "data:", "known_speaker_references"),
    "a voice that is too long": (
        form(("known_speaker_references[]", "data:" + "x" * SAMPLE_BYTES)),
        "longer",
        "known_speaker_references[]",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_more_than_one_text_of_one_sound_is_refused_by_name(what):
    body, why, param = REFUSED[what]
    with pytest.raises(BadRequest, match=why) as caught:
        openai_transcriptions.read(body, TYPE)
    assert caught.value.param == param


def test_a_translation_does_not_take_what_only_a_transcription_has():
    with pytest.raises(BadRequest, match="not taken here"):
        question(("timestamp_granularities[]", "word"), dialect=openai_translations)


def test_voices_may_be_longer_than_a_field():
    assert question(("known_speaker_references[]", "data:audio/wav;base64," + "A" * 400_000), ("known_speaker_names[]", "a")).model == "m"


@pytest.mark.parametrize("answers", sorted(FORMATS))
@pytest.mark.parametrize("stream", ["true", "false"])
def test_only_a_text_that_is_not_streamed_is_read_as_one(answers, stream):
    meter = question(("response_format", answers), ("stream", stream)).meter()
    assert (type(meter) is TextMeter) == (answers in READ_AS_TEXT and stream == "false")


def test_usage_of_a_transcription_is_read():
    meter = question().meter()
    assert meter.whole(b'{"text":"x","usage":{"type":"tokens","input_tokens":14,"output_tokens":3,"total_tokens":17}}') == Usage(14, 3)
    assert meter.done


USAGES = {
    b"{}": None,
    b'{"usage":null}': None,
    b'{"usage":{"type":"duration","seconds":3}}': Usage(0, 0),
    b'{"usage":{"type":"tokens","input_tokens":1}}': None,
    b'{"usage":{"type":"tokens","input_tokens":-1,"output_tokens":2}}': None,
    b'{"usage":{"type":"tokens","input_tokens":true,"output_tokens":2}}': None,
    b'{"usage":{"input_tokens":4,"output_tokens":5,"total_tokens":"9"}}': None,
    b'{"usage":{"prompt_tokens":4,"completion_tokens":5}}': Usage(4, 5),
}


@pytest.mark.parametrize("answer", USAGES)
def test_what_was_not_reported_is_not_made_up(answer):
    meter = question().meter()
    assert meter.whole(answer) == USAGES[answer]
    assert meter.done == (USAGES[answer] is not None)


def test_usage_of_a_stream_comes_with_its_last_event():
    meter = question(("stream", "true")).meter()
    delta = b'data: {"type":"transcript.text.delta","delta":"the word \\"usage\\" is no report"}\n\n'
    assert meter.stream(delta) == delta
    assert not meter.done
    end = b'data: {"type":"transcript.text.done","text":"x","usage":{"type":"tokens","input_tokens":14,"output_tokens":3}}\n\n'
    assert meter.stream(end) == end
    assert (meter.usage, meter.done, meter.failed) == (Usage(14, 3), True, False)


def test_a_stream_as_vllm_has_it_is_read():
    meter = question(("stream", "true"), ("stream_include_usage", "true")).meter()
    events = (
        b'data: {"object":"transcription.chunk","choices":[{"delta":{"content":"x"}}],"usage":null}\n\n'
        b'data: {"object":"transcription.chunk","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
    )
    assert meter.stream(events) + meter.end() == events
    assert (meter.usage, meter.done) == (Usage(7, 2), True)


def test_an_answer_and_a_stream_as_mistral_has_them_are_read():
    usage = b'"usage":{"prompt_audio_seconds":4,"prompt_tokens":9,"completion_tokens":5,"total_tokens":64}'
    assert question(("diarize", "true"), ("context_bias", "SPIFFE")).meter().whole(b'{"model":"x","text":"x",%b}' % usage) == Usage(59, 5)
    meter = question(("stream", "true")).meter()
    events = b'data: {"type":"transcription.text.delta","text":"x"}\n\ndata: {"type":"transcription.done","text":"x",%b}\n\n' % usage
    assert meter.stream(events) + meter.end() == events
    assert (meter.usage, meter.done) == (Usage(59, 5), True)


def test_a_failure_within_a_stream_is_noticed():
    meter = question(("stream", "true")).meter()
    meter.stream(b'data: {"error":{"message":"x"}}\n\n')
    assert meter.failed


TYPES = {
    b"text/plain": b"text/plain; charset=utf-8",
    b"Text/Plain; charset=latin-1": b"text/plain; charset=utf-8",
    b"text/vtt;charset=UTF-8": b"text/vtt; charset=utf-8",
    b"application/x-subrip": b"application/x-subrip; charset=utf-8",
    b"application/json": b"application/json",
}


@pytest.mark.parametrize("said", TYPES)
def test_a_text_is_what_it_may_be_to_the_caller(said):
    assert question(("response_format", "vtt")).meter().content_type(said) == TYPES[said]


@pytest.mark.parametrize("said", [b"", b"text/html", b"application/javascript", b"text/plain, text/html", b"image/svg+xml", b"text/xml"])
def test_what_a_browser_would_run_does_not_pass_as_a_text(said):
    with pytest.raises(ProviderUnavailable, match="something else"):
        question(("response_format", "text")).meter().content_type(said)


def test_a_text_says_nothing_of_usage_and_is_utf8():
    meter = question(("response_format", "text")).meter()
    assert meter.whole("für 5 usage".encode()) is None
    assert not meter.done
    with pytest.raises(ProviderUnavailable):
        meter.whole(b"\xff\xfe")


def test_an_answer_that_should_be_json_is_read_as_json_whatever_it_is_called():
    meter = question(("response_format", "verbose_json")).meter()
    assert isinstance(meter, StreamMeter)
    assert meter.content_type(b"text/html") == b"application/json"
    with pytest.raises(ProviderUnavailable):
        meter.whole(b"<html>")
