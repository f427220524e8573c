"""Pictures: one of each request, from one model, within the answer."""

import json

import pytest
from openai.types import image_generate_params

from broker.chat import UNBOUNDED, Options, Usage
from broker.dialects import openai_images
from broker.dialects.openai_images import KNOWN, REFUSED_FIELDS
from broker.errors import BadRequest


def question(**more):
    return openai_images.read(json.dumps({"model": "m", "prompt": "a broker", **more}).encode())


def test_a_picture_is_one_request_for_its_model():
    asked = question(n=1, size="1024x1024", quality="high", output_format="webp", response_format="b64_json", stream=False)
    assert (asked.model, asked.streaming, asked.features) == ("m", False, frozenset())
    assert asked.demand(50, 10) == UNBOUNDED
    assert asked.clamped(0) is None


def test_what_goes_out_has_another_model_and_is_otherwise_what_came():
    asked = openai_images.read(b'{"prompt" : "a\\u00e9" ,"model":"m", "seed": 1.50 }')
    assert asked.body("real", 0, Options(store=True, stream_usage=True)) == b'{"prompt":"a\\u00e9","model":"real","seed":1.50}'


def test_every_field_of_openais_sdk_is_known_or_refused_by_name():
    assert set(image_generate_params.ImageGenerateParamsBase.__annotations__) <= KNOWN | set(REFUSED_FIELDS)
    assert not KNOWN & set(REFUSED_FIELDS)


@pytest.mark.parametrize("field", [*REFUSED_FIELDS, "image", "mask", "unheard_of"])
def test_what_may_be_more_than_one_picture_is_refused_by_name(field):
    with pytest.raises(BadRequest, match=field) as caught:
        question(**{field: 1})
    assert caught.value.param == field


@pytest.mark.parametrize("field", [*REFUSED_FIELDS, "unheard_of"])
def test_what_is_not_given_is_not_refused(field):
    assert question(**{field: None}).model == "m"


REFUSED = {
    "no prompt": ({"prompt": None}, "add the field 'prompt'", "prompt"),
    "prompts": ({"prompt": ["a", "b"]}, "must be a string", "prompt"),
    "two": ({"n": 2}, "must be 1", "n"),
    "ten": ({"n": 10}, "must be 1", "n"),
    "none": ({"n": 0}, "whole number", "n"),
    "one and a half": ({"n": 1.5}, "whole number", "n"),
    "one in words": ({"n": "1"}, "whole number", "n"),
    "a stream": ({"stream": True}, "not streamed", "stream"),
    "a film": ({"output_format": "gif"}, "png or webp or jpeg", "output_format"),
    "a drawing by another model": ({"output_format": "svg"}, "png or webp or jpeg", "output_format"),
    "a model that moderates": ({"moderation": {"model": "x"}}, "must be a string", "moderation"),
    "another moderation": ({"moderation": "x"}, "auto or low", "moderation"),
    "a place": ({"response_format": "url"}, "b64_json", "response_format"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_single_picture_is_refused(what):
    fields, why, param = REFUSED[what]
    with pytest.raises(BadRequest, match=why) as caught:
        question(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_a_still_picture_of_any_format_passes(kind):
    assert question(output_format=kind).model == "m"


USAGES = {
    b'{"data":[{"b64_json":"%b"}],"usage":{"input_tokens":9,"output_tokens":272,"total_tokens":281}}' % (b"A" * 1_000_000): Usage(9, 272),
    b'{"data":[]}': None,
    b'{"data":[],"usage":{"input_tokens":9}}': None,
    b'{"data":[],"usage":{"input_tokens":9,"output_tokens":4294967296}}': None,
}


@pytest.mark.parametrize("answer", USAGES, ids=["reported", "not reported", "half", "beyond"])
def test_usage_is_read_where_it_is_reported(answer):
    meter = question().meter()
    assert meter.whole(answer) == USAGES[answer]
    assert meter.done == (USAGES[answer] is not None)
