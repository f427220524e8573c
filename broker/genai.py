"""The names that spans and metrics go by: OpenTelemetry's, and below `aiaccess.` ours. Nothing else in the house spells them out.

Sources: OpenTelemetry semantic conventions for generative AI (status: development, semantic-conventions-genai), HTTP, and errors.
"""

from typing import Final

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  a name
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"  # these three with --otel-content alone
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105  a name
OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
TIME_TO_FIRST_TOKEN: Final = "gen_ai.server.time_to_first_token"  # noqa: S105  a name

ERROR_TYPE: Final = "error.type"
METHOD: Final = "http.request.method"
ROUTE: Final = "http.route"
STATUS: Final = "http.response.status_code"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE: Final = "service.instance.id"

EXCHANGE: Final = "aiaccess.exchange"  # the id that audit and the answer's x-aiaccess-exchange have
CODE: Final = "aiaccess.code"
DECISION: Final = "aiaccess.decision"
DIALECT: Final = "aiaccess.dialect"
SPIFFE_ID: Final = "aiaccess.spiffe_id"
POLICIES: Final = "aiaccess.policies"
NAMESPACE: Final = "aiaccess.namespace"  # of the model
PROVIDER_OBJECT: Final = "aiaccess.provider"  # namespace/name
ATTEMPTS: Final = "aiaccess.attempts"
FIRST_BYTE: Final = "aiaccess.first_byte_seconds"
CHARGED_INPUT: Final = "aiaccess.charged.input_tokens"
CHARGED_OUTPUT: Final = "aiaccess.charged.output_tokens"
CHARGED_ESTIMATED: Final = "aiaccess.charged.estimated"
CONTENT_CUT: Final = "aiaccess.content.cut"

# by the schema of an AIProvider object, and by dialect; what is not listed goes by its own name in lower case
_PROVIDERS: Final = {
    "AWSBedrock": "aws.bedrock",
    "AzureOpenAI": "azure.ai.openai",
    "Gemini": "gcp.gemini",
    "Mistral": "mistral_ai",
    "VertexAI": "gcp.vertex_ai",
}
_OPERATIONS: Final = {
    "anthropic_messages": "chat",
    "gemini": "generate_content",
    "openai_chat": "chat",
    "openai_completions": "text_completion",
    "openai_responses": "chat",
}


def provider(kind: str) -> str:
    """The provider's well-known name, from the schema of its object."""
    return _PROVIDERS.get(kind) or kind.lower()


def operation(dialect: str) -> str:
    """What is asked in this dialect."""
    return _OPERATIONS.get(dialect, dialect)
