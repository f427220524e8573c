import pytest

from broker.dialects import BY_ID, ROUTES
from broker.providers import PROVIDERS


def test_every_kind_speaks_a_dialect_that_has_a_route() -> None:
    names = {dialect.NAME for dialect in (*ROUTES.values(), *BY_ID.values())}
    for kind in PROVIDERS.values():
        assert kind.paths
        assert kind.paths.keys() <= names


MEDIA = {"openai_transcriptions", "openai_translations", "openai_images"}
RESPONSES = {"openai_responses", "openai_stored_responses"}
OPENAI = {"openai_chat", "openai_completions", "embeddings", *RESPONSES, *MEDIA}


@pytest.mark.parametrize(
    ("kind", "base", "paths", "auth"),
    [
        (
            "OpenAI",
            "https://api.openai.com/v1",
            {
                "openai_chat": "/chat/completions",
                "openai_responses": "/responses",
                "openai_stored_responses": "/responses",
                "openai_completions": "/completions",
                "embeddings": "/embeddings",
                "openai_transcriptions": "/audio/transcriptions",
                "openai_translations": "/audio/translations",
                "openai_images": "/images/generations",
            },
            b"authorization: Bearer KEY",
        ),
        (
            "Anthropic",
            "https://api.anthropic.com/v1",
            {"anthropic_messages": "/messages", "anthropic_count_tokens": "/messages/count_tokens"},
            b"x-api-key: KEY",
        ),
        (
            "Mistral",
            "https://api.mistral.ai/v1",
            {"openai_chat": "/chat/completions", "embeddings": "/embeddings", "openai_transcriptions": "/audio/transcriptions"},
            b"authorization: Bearer KEY",
        ),
    ],
)
def test_a_kind_is_called_where_its_vendor_documents_it(kind: str, base: str, paths: dict[str, str], auth: bytes) -> None:
    found = PROVIDERS[kind]
    assert (str(found.endpoint), dict(found.paths)) == (base, paths)
    name, prefix = found.auth
    assert name + b": " + prefix + b"KEY" == auth


@pytest.mark.parametrize(
    ("host", "responses", "spoken"),
    [
        ("api.openai.com", False, OPENAI),
        ("eu.api.openai.com", False, OPENAI),
        ("evil-api.openai.com", False, OPENAI - RESPONSES),
        ("ollama.team1.svc", False, OPENAI - RESPONSES),
        ("ollama.team1.svc", True, OPENAI),
    ],
)
def test_a_compatible_server_is_asked_for_responses_only_where_its_object_says_so(host: str, responses: bool, spoken: set[str]) -> None:  # noqa: FBT001  as pytest gives it
    assert PROVIDERS["OpenAI"].spoken_at(host, responses=responses) == spoken


@pytest.mark.parametrize(
    ("host", "field", "store"),
    [
        ("api.openai.com", "max_completion_tokens", True),
        ("eu.api.openai.com", "max_completion_tokens", True),
        ("evil-api.openai.com", "max_tokens", False),
        ("ollama.team1.svc", "max_tokens", False),
    ],
)
def test_only_the_vendors_own_hosts_are_told_what_only_they_understand(host: str, field: str, *, store: bool) -> None:
    options = PROVIDERS["OpenAI"].options_at(host)
    assert (options.limit_field, options.store) == (field, store)


def test_no_kind_is_sent_a_limit_that_it_overlooks() -> None:
    for kind in PROVIDERS.values():
        for options in (kind.options, kind.compatible):
            assert options.limit_field in options.limit_fields


def test_mistral_is_never_sent_a_field_that_it_refuses() -> None:
    options = PROVIDERS["Mistral"].options_at("api.mistral.ai")
    assert not options.stream_usage
    assert not options.store
    assert options.limit_fields == {"max_tokens"}


def test_no_kind_passes_on_a_header_that_carries_a_credential() -> None:
    for kind in PROVIDERS.values():
        assert kind.auth[0] not in kind.request_headers
        assert not kind.request_headers & {b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"cookie", b"proxy-authorization"}
        assert not {name for name, _ in kind.headers} & {kind.auth[0]}


@pytest.mark.parametrize(
    ("host", "model", "vocabulary"),
    [
        ("api.openai.com", "gpt-4o", "o200k_base"),
        ("eu.api.openai.com", "gpt-4o-mini-2024-07-18", "o200k_base"),
        ("api.openai.com", "gpt-5.1", "o200k_base"),
        ("api.openai.com", "o3", "o200k_base"),
        ("api.openai.com", "o3-mini", "o200k_base"),
        ("api.openai.com", "gpt-4.1", "o200k_base"),
        ("api.openai.com", "gpt-4", "cl100k_base"),
        ("api.openai.com", "gpt-4-turbo-2024-04-09", "cl100k_base"),
        ("api.openai.com", "gpt-3.5-turbo", "cl100k_base"),
        ("api.openai.com", "ft:gpt-4o-mini:acme::x", "o200k_base"),
        ("api.openai.com", "ft:gpt-4-0613:acme::x", "cl100k_base"),
        ("api.openai.com", "gpt-4.7", None),
        ("api.openai.com", "o30", None),
        ("api.openai.com", "gpt-6", None),
        ("api.openai.com", "", None),
        ("ollama.team1.svc", "gpt-4o", None),
        ("evil-api.openai.com", "gpt-4o", None),
    ],
)
def test_a_vocabulary_is_known_only_of_the_vendors_own_models(host: str, model: str, vocabulary: str | None) -> None:
    assert PROVIDERS["OpenAI"].vocabulary(host, model) == vocabulary


@pytest.mark.parametrize(("kind", "model"), [("Anthropic", "claude-opus-5"), ("Mistral", "gpt-4o")])
def test_a_vendor_that_publishes_no_vocabulary_has_none(kind: str, model: str) -> None:
    assert PROVIDERS[kind].vocabulary(PROVIDERS[kind].endpoint.host, model) is None
