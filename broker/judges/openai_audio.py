"""Sound to text, as OpenAI's two routes take it: a form with one file and a closed set of fields.

A request is one sound and one text, whatever it costs in tokens, so it is held as one request. A field that nobody here knows could make
it more, or reach beyond it: it is refused by name.

Source: developers.openai.com/api/reference/audio (transcriptions, translations), as openai-python writes its forms; for what compatible
servers add, the documentation of vLLM (speech to text), Mistral and Groq.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from msgspec import Raw

from broker.body import judge_model
from broker.chat import UNBOUNDED, Demand, Options
from broker.errors import BadRequest
from broker.forms import Form, Part
from broker.grant import Feature, KeptId
from broker.metering import Gauge, StreamMeter, Tally, TextMeter

FORMAT: Final = "response_format"
READ_AS_TEXT: Final = frozenset({"text", "srt", "vtt"})
FORMATS: Final = READ_AS_TEXT | {"json", "verbose_json", "diarized_json"}
FIELDS: Final = frozenset({"model", "prompt", FORMAT, "temperature"})
# Of vLLM: how the text is sampled, and where it ends
SAMPLING: Final = frozenset(
    {
        *("seed", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"),
        *("max_completion_tokens", "stream_include_usage", "stream_continuous_usage_stats"),
    }
)
REFERENCES: Final = "known_speaker_references"
SAMPLE_BYTES: Final = 2 << 20  # of one such reference: ten seconds of sound in base64 have 1.2 MiB at 44.1 kHz

_FILE: Final = "file"
_STREAM: Final = "stream"
_REFUSED: Final = {
    "url": "the provider would fetch it; send the sound itself in 'file'",
    "file_url": "the provider would fetch it; send the sound itself in 'file'",
    "file_id": "it names state kept at the provider's account, which other agents share; send the sound itself in 'file'",
    "n": "one request is one text; ask once for each",
}
_FLAGS: Final = {"true": True, "false": False}


class AudioQuestion:
    """A text that was asked for. Satisfies dialects.Question.

    fields, lists: the names that a route knows, of what may stand there once, and any number of times (with `[]` behind it or not).
    tally: a new one for each answer.

    Raises:
        BadRequest: see forms.read; or a part is missing, there twice, or not known.
    """

    __slots__ = ("_is_text", "_parts", "_tally", "model", "streaming")

    features: frozenset[Feature] = frozenset()
    kept: Sequence[KeptId] = ()
    texts: Sequence[Raw] = ()

    def __init__(self, parts: list[Part], fields: frozenset[str], lists: frozenset[str], tally: Callable[[], Tally]) -> None:
        said = dict(_judge(parts, fields, lists))
        if "model" not in said:
            raise BadRequest("the form names no model: add the field 'model'", param="model")
        if _FILE not in said:
            raise BadRequest("the form has no sound: add the part 'file' with a filename and the sound as it is", param=_FILE)
        self._parts = parts
        self._tally = tally
        self.model = judge_model(said["model"])
        self.streaming = _read_flag(said.get(_STREAM, "false"))
        answers = said.get(FORMAT, "json")
        if answers not in FORMATS:
            raise BadRequest(f"{FORMAT!r} must be one of {', '.join(sorted(FORMATS))}", param=FORMAT)
        self._is_text = answers in READ_AS_TEXT

    def demand(self, default_output: int, max_output: int | None) -> Demand:  # noqa: ARG002  no field limits the output of every server
        return UNBOUNDED

    def clamped(self, granted_output: int) -> int | None:  # noqa: ARG002  no output is granted
        return None

    def body(self, model: str, granted_output: int, options: Options) -> Form:  # noqa: ARG002  nothing is inserted
        named = memoryview(model.encode())
        return Form([replace(part, value=named) if part.name == "model" else part for part in self._parts])

    def meter(self, gauge: Gauge | None = None) -> StreamMeter:  # noqa: ARG002  no quota that ends a stream lets this one begin
        return TextMeter(self._tally()) if self._is_text and not self.streaming else StreamMeter(self._tally())


def _judge(parts: list[Part], fields: frozenset[str], lists: frozenset[str]) -> Iterator[tuple[str, str]]:
    """The fields that may stand there once, with their values; of the file that it is there."""
    seen: set[str] = set()
    for part in parts:
        name = part.name
        if (whole := name.removesuffix("[]")) in lists:
            _judge_entry(part, whole)
            continue
        if name in seen:
            raise BadRequest(f"the part {name!r} is there twice: send it once", param=name)
        seen.add(name)
        if name == _FILE:
            if part.filename is None:
                raise BadRequest("the part 'file' has no filename: give it one that says the format, such as audio.wav", param=_FILE)
            yield name, ""
        elif name in fields:
            yield name, part.text()
        else:
            why = _REFUSED.get(name, "no broker of this version knows the field, so it cannot say what it reaches or costs; leave it out")
            raise BadRequest(f"{name!r} is not taken here: {why}", param=name)


def _judge_entry(part: Part, name: str) -> None:
    if name != REFERENCES:
        part.text()
    elif not part.text(SAMPLE_BYTES).startswith("data:"):
        raise BadRequest(f"{name!r} must be data: URLs: send the sound itself", param=name)


def _read_flag(said: str) -> bool:
    if said not in _FLAGS:
        raise BadRequest(f"{_STREAM!r} must be true or false", param=_STREAM)
    return _FLAGS[said]
