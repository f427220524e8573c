"""Everything that is fuzzed. A target takes any bytes, and raises AssertionError when a promise about them is broken.

hypothesis (test_fuzz_targets.py, a part of `make test`) and a coverage-guided fuzzer (run.py, `make fuzz`) drive the same functions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuzz import (
    event_streams,
    http_answers,
    http_requests,
    media_bodies,
    policy_files,
    request_bodies,
    response_bodies,
    sealed_ids,
    spiffe_ids,
    workload_messages,
)

CORPUS: Final = Path(__file__).parent / "corpus"


@dataclass(frozen=True, slots=True)
class Target:
    """One function, and the words of its language, of which inputs are made up."""

    name: str
    check: Callable[[bytes], None]
    words: tuple[str, ...]
    longest_bytes: int = 1024

    @property
    def corpus(self) -> list[Path]:
        """Inputs that are kept: examples to begin from, and every one that once broke something."""
        return sorted((CORPUS / self.name).iterdir())


TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for target in (
        Target("spiffe_id", spiffe_ids.check, spiffe_ids.WORDS, 2200),
        Target("http_request", http_requests.check, http_requests.WORDS),
        Target("http_answer", http_answers.check, http_answers.WORDS),
        Target("openai_events", event_streams.check_openai, event_streams.WORDS, 512),
        Target("anthropic_events", event_streams.check_anthropic, event_streams.WORDS, 512),
        Target("completions_events", event_streams.check_completions, event_streams.WORDS, 512),
        Target("responses_events", event_streams.check_responses, event_streams.RESPONSE_WORDS, 512),
        Target("audio_events", event_streams.check_audio, event_streams.WORDS, 512),
        Target("openai_body", request_bodies.check_openai, request_bodies.WORDS, 2048),
        Target("anthropic_body", request_bodies.check_anthropic, request_bodies.WORDS, 2048),
        Target("responses_body", response_bodies.check_responses, response_bodies.WORDS, 2048),
        Target("completions_body", response_bodies.check_completions, response_bodies.PROMPT_WORDS, 1024),
        Target("embeddings_body", response_bodies.check_embeddings, response_bodies.PROMPT_WORDS, 1024),
        Target("count_body", response_bodies.check_count, request_bodies.WORDS, 2048),
        Target("form_body", media_bodies.check_form, media_bodies.FORM_WORDS, 1024),
        Target("images_body", media_bodies.check_images, media_bodies.IMAGE_WORDS, 1024),
        Target("ids_request", sealed_ids.check_request, sealed_ids.REQUEST_WORDS, 1024),
        Target("ids_answer", sealed_ids.check_answer, sealed_ids.ANSWER_WORDS, 1024),
        Target("ids_events", sealed_ids.check_events, sealed_ids.EVENT_WORDS, 512),
        Target("stored_query", sealed_ids.check_query, sealed_ids.QUERY_WORDS, 512),
        Target("sealed_id", sealed_ids.check_sealed, sealed_ids.SEALED_WORDS, 1024),
        Target("policy_file", policy_files.check, policy_files.WORDS, 2048),
        Target("svid_der", workload_messages.check_der, workload_messages.WORDS),
        Target("svid_message", workload_messages.check_message, workload_messages.WORDS),
        Target("grpc_frames", workload_messages.check_frames, workload_messages.WORDS),
    )
}
