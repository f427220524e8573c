"""OpenAI's pictures made of words: a prompt in, one picture out.

A request is one picture, whatever it costs in tokens, so it is held as one request. A field that nobody here knows could make it more, or
reach beyond it: it is refused by name.

Source: developers.openai.com/api/reference/images (generate); for what compatible servers add, the documentation of LocalAI and vLLM-Omni.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Raw

from broker import body as bodies
from broker.body import Members, given, quote, read_count, read_flag, read_text
from broker.chat import UNBOUNDED, Demand, Options, Usage
from broker.errors import BadRequest
from broker.grant import Feature, KeptId
from broker.judges.openai import OTHER_MODEL, features_of_headers
from broker.metering import Gauge, StreamMeter, as_object
from broker.tallies.openai_audio import made
from broker.tallies.whole import WholeTally
from broker.wording.openai import error, error_event, models, one_model, rate_limit_headers

__all__ = ["NAME", "ImageQuestion", "error", "error_event", "features_of_headers", "models", "one_model", "rate_limit_headers", "read"]

NAME: Final = "openai_images"

KNOWN: Final = frozenset(
    {
        *("model", "prompt", "n", "stream", "size", "quality", "style", "background", "complexity", "moderation"),
        *("output_format", "output_compression", "response_format", "user", "safety_identifier", "negative_prompt", "seed"),
    }
)
_SEVERAL: Final = "one request is one picture; ask once for each"
REFUSED_FIELDS: Final = {
    "models": OTHER_MODEL,
    "svg": OTHER_MODEL,
    "partial_images": "each of them is billed, and pictures come whole here",
    "frame_count": _SEVERAL,
    "frame_duration_ms": _SEVERAL,
    "batch_size": _SEVERAL,
    "num_images": _SEVERAL,
    "num_outputs": _SEVERAL,
}
_ONE_OF: Final = {
    "output_format": (("png", "webp", "jpeg"), "others are more than one picture"),
    "response_format": (("b64_json",), "at a URL the picture would be kept at the provider, for everybody who has it"),
    "moderation": (("auto", "low"), "anything else may ask a model that was not granted"),
}
_UNKNOWN: Final = "no broker of this version knows the field, so it cannot say what it reaches or costs; leave it out"


class ImageQuestion:
    """A picture that was asked for. Satisfies dialects.Question."""

    __slots__ = ("_members", "model")

    streaming = False
    features: frozenset[Feature] = frozenset()
    kept: Sequence[KeptId] = ()
    texts: Sequence[Raw] = ()

    def __init__(self, body: bytes) -> None:
        members = bodies.open_body(body)
        self._members = members
        self.model = bodies.read_model(members)
        bodies.refuse_members(members, {name: REFUSED_FIELDS.get(name, _UNKNOWN) for name in members.keys() - KNOWN})
        _judge(members)

    def demand(self, default_output: int, max_output: int | None) -> Demand:  # noqa: ARG002  no field limits it
        return UNBOUNDED

    def clamped(self, granted_output: int) -> int | None:  # noqa: ARG002  no output is granted
        return None

    def body(self, model: str, granted_output: int, options: Options) -> bytes:  # noqa: ARG002  nothing is inserted
        return bodies.join({**self._members, "model": quote(model)})

    def meter(self, gauge: Gauge | None = None) -> StreamMeter:  # noqa: ARG002  there is no stream
        return StreamMeter(WholeTally(_drawn))


def read(body: bytes) -> ImageQuestion:
    return ImageQuestion(body)


def _judge(members: Members) -> None:
    """Raises BadRequest for what is more than one picture, or another way to get it than in the answer."""
    prompt = given(members, "prompt")
    if prompt is None:
        raise BadRequest("the body does not say what to draw: add the field 'prompt'", param="prompt")
    read_text(prompt, "prompt")
    if (read_count(members, "n") or 1) > 1:
        raise BadRequest(f"'n' must be 1: {_SEVERAL}", param="n")
    if read_flag(members, "stream"):
        raise BadRequest("pictures are not streamed: leave 'stream' out", param="stream")
    for name, (values, why) in _ONE_OF.items():
        if (raw := given(members, name)) is not None and read_text(raw, name) not in values:
            raise BadRequest(f"{name!r} must be {' or '.join(values)}: {why}", param=name)


def _drawn(value: Mapping[str, object]) -> Usage | None:
    return made(as_object(value.get("usage")))
