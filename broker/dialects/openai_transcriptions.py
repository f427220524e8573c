"""OpenAI's transcriptions: a file with sound in, what was said out, as JSON, text or subtitles, or streamed.

Source: developers.openai.com/api/reference/audio/transcriptions.
"""

from typing import Final

from broker import forms
from broker.judges.openai import features_of_headers
from broker.judges.openai_audio import FIELDS, REFERENCES, SAMPLING, AudioQuestion
from broker.tallies.openai_audio import AudioTally
from broker.wording.openai import error, error_event, models, one_model, rate_limit_headers

__all__ = ["NAME", "error", "error_event", "features_of_headers", "models", "one_model", "rate_limit_headers", "read"]

NAME: Final = "openai_transcriptions"

_CHUNKING: Final = "chunking_strategy"
_KNOWN: Final = FIELDS | SAMPLING | {"language", "stream", _CHUNKING, "hotwords", "diarize"}  # of vLLM and of Mistral besides
_KNOWN_CHUNKING: Final = frozenset(f"{_CHUNKING}[{name}]" for name in ("type", "threshold", "prefix_padding_ms", "silence_duration_ms"))
_LISTS: Final = frozenset(
    {"timestamp_granularities", "include", "keywords", "languages", "known_speaker_names", REFERENCES, "context_bias"}
)


def read(body: bytes, content_type: bytes = b"") -> AudioQuestion:
    return AudioQuestion(forms.read(body, content_type), _KNOWN | _KNOWN_CHUNKING, _LISTS, AudioTally)
