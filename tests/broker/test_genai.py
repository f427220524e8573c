"""The names that spans and metrics go by are those of OpenTelemetry's registry, as far as its package still has them."""

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as registry
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes

from broker import genai
from broker.dialects import BY_ID, ROUTES


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (genai.OPERATION, registry.GEN_AI_OPERATION_NAME),
        (genai.PROVIDER, registry.GEN_AI_PROVIDER_NAME),
        (genai.REQUEST_MODEL, registry.GEN_AI_REQUEST_MODEL),
        (genai.TOKEN_TYPE, registry.GEN_AI_TOKEN_TYPE),
        (genai.INPUT_TOKENS, registry.GEN_AI_USAGE_INPUT_TOKENS),
        (genai.OUTPUT_TOKENS, registry.GEN_AI_USAGE_OUTPUT_TOKENS),
        (genai.ERROR_TYPE, error_attributes.ERROR_TYPE),
        (genai.METHOD, http_attributes.HTTP_REQUEST_METHOD),
        (genai.ROUTE, http_attributes.HTTP_ROUTE),
        (genai.STATUS, http_attributes.HTTP_RESPONSE_STATUS_CODE),
        (genai.SERVER_ADDRESS, server_attributes.SERVER_ADDRESS),
        (genai.SERVER_PORT, server_attributes.SERVER_PORT),
    ],
)
def test_a_name_is_the_registrys(ours: str, theirs: str) -> None:
    assert ours == theirs


@pytest.mark.parametrize("kind", ["OpenAI", "Anthropic", "Mistral", "Gemini", "VertexAI", "AWSBedrock", "AzureOpenAI"])
def test_every_schema_has_a_well_known_provider(kind: str) -> None:
    assert genai.provider(kind) in {each.value for each in registry.GenAiProviderNameValues}


def test_every_dialect_that_generates_text_has_a_well_known_operation() -> None:
    known = {each.value for each in registry.GenAiOperationNameValues}
    unknown = {dialect.NAME for dialect in (*ROUTES.values(), *BY_ID.values()) if genai.operation(dialect.NAME) not in known}
    assert unknown <= {"anthropic_count_tokens", "openai_stored_responses", "openai_transcriptions", "openai_translations", "openai_images"}
