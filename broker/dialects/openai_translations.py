"""OpenAI's translations: a file with sound in, what was said out, in English, as JSON, text or subtitles.

Source: developers.openai.com/api/reference/audio/translations.
"""

from typing import Final

from broker import forms
from broker.judges.openai import features_of_headers
from broker.judges.openai_audio import FIELDS, SAMPLING, AudioQuestion
from broker.tallies.openai_audio import AudioTally
from broker.wording.openai import error, error_event, models, one_model, rate_limit_headers

__all__ = ["NAME", "error", "error_event", "features_of_headers", "models", "one_model", "rate_limit_headers", "read"]

NAME: Final = "openai_translations"

_KNOWN: Final = FIELDS | SAMPLING | {"language", "to_language", "stream", "hotwords"}  # of vLLM but for FIELDS


def read(body: bytes, content_type: bytes = b"") -> AudioQuestion:
    return AudioQuestion(forms.read(body, content_type), _KNOWN, frozenset(), AudioTally)
