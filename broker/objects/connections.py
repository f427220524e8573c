"""How a provider is reached: the spec of an AIProvider, and of an entry of AIRoutingPolicy.spec.providers."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta, field

from broker.objects.reading import Part, Rule, Told
from broker.objects.words import Hour, Label, Minute, SecretKey, Subdomain, Text

Schema = Literal["OpenAI", "AzureOpenAI", "Anthropic", "Gemini", "VertexAI", "Mistral", "Cohere", "AWSBedrock", "MCP", "A2A"]
CredentialType = Literal[
    "None", "APIKey", "Passthrough", "Inline", "WorkloadIdentity", "AWSCredentials", "AzureCredentials", "GCPCredentials"
]

# Each type has its own closed set of fields: those it needs, and those it may have besides.
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "APIKey": ("secretRef",),
    "Inline": ("value",),
    "WorkloadIdentity": ("audience", "subjectToken", "subject"),
    "AWSCredentials": ("region",),
    "AzureCredentials": ("tenantId", "clientId"),
    "GCPCredentials": ("project",),
}
_TAKES: Final[Mapping[str, tuple[str, ...]]] = {
    "WorkloadIdentity": ("tokenUrl", "identityProviderId", "serviceAccountId", "federationRuleId", "organizationId", "workspaceId"),
    "AWSCredentials": ("secretRef", "roleArn"),
    "AzureCredentials": ("clientSecretRef",),
    "GCPCredentials": ("audience", "serviceAccount", "secretRef"),
}
_TYPES: Final = ("None", "APIKey", "Passthrough", "Inline", *_TAKES)


def _closed_sets() -> Iterator[Rule]:
    for kind, needs in _NEEDS.items():
        of_kind = f"has(self.type) && self.type == '{kind}'"
        yield from (Rule(f"!({of_kind}) || has(self.{name})", f"{name} is required with type {kind}") for name in needs)
    fields = dict.fromkeys(name for fields in (*_NEEDS.values(), *_TAKES.values()) for name in fields)
    for name in fields:
        kinds = [kind for kind in _TYPES if name in _NEEDS.get(kind, ()) + _TAKES.get(kind, ())]
        listed = ", ".join(f"'{kind}'" for kind in kinds)
        text = f"belongs to type {', '.join(kinds)} alone; leave it out or change the type"
        yield Rule(f"!has(self.{name}) || (has(self.type) && self.type in [{listed}])", text, f".{name}")


# Credentials come from `credentials` alone, and the framing of a request from the broker alone.
_FORBIDDEN_HEADERS: Final = frozenset(
    (
        *("authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "x-amz-security-token", "cookie"),
        *("host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "keep-alive", "te"),
        *("trailer", "upgrade", "expect", "accept", "accept-encoding"),
    )
)
_STRIPPED: Final = ("x-aiaccess-", "x-forwarded-")


class SecretKeyRef(Part, frozen=True, kw_only=True):
    """One key of a Secret of the same namespace."""

    name: Annotated[Subdomain, Meta(description="name of the Secret, in the same namespace")]
    key: Annotated[SecretKey, Meta(description="key in the Secret")] = "api-key"


class Credentials(Part, frozen=True, kw_only=True):
    """How the broker proves itself to the provider."""

    type: Annotated[CredentialType, Meta(description="what kind of credential")] = "None"
    secret_ref: Annotated[SecretKeyRef, Meta(description="the Secret that holds the key")] | None = None
    value: Annotated[str, Meta(min_length=1, max_length=4096, description="the key itself, for type Inline")] | None = None
    region: Annotated[Text, Meta(description="AWS region")] | None = None
    role_arn: Annotated[Text, Meta(description="AWS role to assume")] | None = None
    tenant_id: Annotated[Text, Meta(description="Entra tenant")] | None = None
    client_id: Annotated[Text, Meta(description="Entra application")] | None = None
    client_secret_ref: Annotated[SecretKeyRef, Meta(description="the Secret that holds the application's secret")] | None = None
    project: Annotated[Text, Meta(description="Google Cloud project")] | None = None
    service_account: Annotated[Text, Meta(description="Google service account to act as")] | None = None
    audience: Annotated[Text, Meta(description="audience of the token that the broker presents")] | None = None
    token_url: Annotated[Text, Meta(description="where the token is exchanged")] | None = None
    subject_token: Annotated[Literal["JWTSVID", "X509SVID"], Meta(description="what proves the workload")] | None = None
    subject: Annotated[Literal["Broker", "Agent"], Meta(description="whose identity the provider sees")] | None = None
    identity_provider_id: Annotated[Text, Meta(description="the provider's id of our identity provider")] | None = None
    service_account_id: Annotated[Text, Meta(description="the provider's id of the service account")] | None = None
    federation_rule_id: Annotated[Text, Meta(description="the provider's id of the federation rule")] | None = None
    organization_id: Annotated[Text, Meta(description="the provider's id of the organization")] | None = None
    workspace_id: Annotated[Text, Meta(description="the provider's id of the workspace")] | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        *_closed_sets(),
        Rule(
            r"!has(self.value) || self.value.matches(r'^[ \t\r\n]*[\x21-\x7e]+[ \t\r\n]*$')",
            "has characters that no header can carry; give the key alone",
            ".value",
        ),
    )

    def __repr__(self) -> str:
        return f"Credentials(type={self.type!r})"  # an Inline value prints itself to nobody

    @classmethod
    def misshapen(cls, raw: Mapping[str, object]) -> Told:
        kind = raw.get("type", "None")
        if kind not in _TYPES or not isinstance(kind, str):
            return
        needs, takes = _NEEDS.get(kind, ()), _TAKES.get(kind, ())
        for name in needs:
            if name not in raw:
                yield name, f"is required with type {kind}"
        for name in raw:
            if name in cls.__struct_encode_fields__ and name not in ("type", *needs, *takes):
                other = ", ".join(one for one in _TYPES if name in _NEEDS.get(one, ()) + _TAKES.get(one, ()))
                yield name, f"does not belong to type {kind} but to {other}; leave it out or change the type"


class Header(Part, frozen=True, kw_only=True):
    """A header that the broker adds to each request to this provider."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$",
            max_length=128,
            description="name of the header",
            extra={"must": "a header's name"},
        ),
    ]
    value: Annotated[
        str,
        Meta(
            pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$",
            max_length=1024,
            description="its value",
            extra={"must": "printable ASCII without spaces at its ends"},
        ),
    ]

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!(self.name.lowerAscii() in [{', '.join(repr(name) for name in sorted(_FORBIDDEN_HEADERS))}])",
            "is set by the broker alone; a key belongs in credentials",
            ".name",
        ),
        *(
            Rule(f"!self.name.lowerAscii().startsWith('{prefix}')", "is a header that the broker strips; leave it out", ".name")
            for prefix in _STRIPPED
        ),
    )

    def mistaken(self) -> Told:
        name = self.name.lower()
        if name in _FORBIDDEN_HEADERS:
            yield "name", f"{name} is set by the broker alone; a key belongs in `credentials`"
        elif name.startswith(_STRIPPED):
            yield "name", f"{name} is a header that the broker strips; leave it out"


class Timeouts(Part, frozen=True, kw_only=True):
    """How long one attempt waits."""

    connect: Annotated[Minute, Meta(description="for name, TCP and TLS")] = "5s"
    first_byte: Annotated[Hour, Meta(description="for the first byte of the answer, counted from the start of the attempt")] = "120s"
    idle: Annotated[Hour, Meta(description="between two bytes after the first")] = "60s"


class Azure(Part, frozen=True, kw_only=True):
    """What URLs of Azure OpenAI need."""

    api_version: Annotated[Text, Meta(description="what `api-version` of the URL says")]


class Vertex(Part, frozen=True, kw_only=True):
    """What URLs of Vertex AI need."""

    project: Annotated[Text, Meta(description="Google Cloud project")]
    location: Annotated[Text, Meta(description="region, or global")]
    publisher: Annotated[Text, Meta(description="publisher of the model")] = "google"


class ProviderSpec(Part, frozen=True, kw_only=True):
    """A connection to a provider."""

    schema: Annotated[Schema, Meta(description="whose wire format the provider speaks")]
    endpoint: (
        Annotated[str, Meta(min_length=1, max_length=2048, description="base URL; without a path the schema's usual one is used")] | None
    ) = None
    protocol: Annotated[Literal["HTTP", "HTTP2", "gRPC"], Meta(description="transport")] = "HTTP"
    azure: Annotated[Azure, Meta(description="what URLs of Azure OpenAI need")] | None = None
    vertex: Annotated[Vertex, Meta(description="what URLs of Vertex AI need")] | None = None
    credentials: Annotated[Credentials, Meta(description="how the broker proves itself to the provider")] = field(
        default_factory=Credentials
    )
    headers: Annotated[tuple[Header, ...], Meta(max_length=16, description="added to each request", extra={"key": "name"})] = ()
    timeouts: Annotated[Timeouts, Meta(description="how long one attempt waits")] = field(default_factory=Timeouts)
    responses: Annotated[bool, Meta(description="the server speaks OpenAI's Responses too, as OpenAI's own hosts do in any case")] = False

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.headers) || self.headers.all(one, self.headers.exists_one(other, other.name.lowerAscii() == one.name.lowerAscii()))",
            "has a name twice, in another spelling; leave one of the two out",
            ".headers",
        ),
        Rule("!has(self.azure) || self.schema == 'AzureOpenAI'", "belongs to schema AzureOpenAI; leave it out", ".azure"),
        Rule("!has(self.responses) || !self.responses || self.schema == 'OpenAI'", "belongs to schema OpenAI; leave it out", ".responses"),
        Rule("!has(self.vertex) || self.schema == 'VertexAI'", "belongs to schema VertexAI; leave it out", ".vertex"),
    )

    def mistaken(self) -> Told:
        names = [header.name.lower() for header in self.headers]
        for index, name in enumerate(names):
            if name in names[:index] and self.headers[index].name not in {header.name for header in self.headers[:index]}:
                yield f"headers[{index}].name", f"{name} is already there in another spelling; leave one of the two out"
        if self.azure is not None and self.schema != "AzureOpenAI":
            yield "azure", f"belongs to schema AzureOpenAI, not to {self.schema}; leave it out"
        if self.responses and self.schema != "OpenAI":
            yield "responses", f"belongs to schema OpenAI, not to {self.schema}; leave it out"
        if self.vertex is not None and self.schema != "VertexAI":
            yield "vertex", f"belongs to schema VertexAI, not to {self.schema}; leave it out"


class InlineProvider(ProviderSpec, frozen=True, kw_only=True):
    """A connection that one AIRoutingPolicy keeps to itself."""

    name: Annotated[Label, Meta(description="what backends call this provider")]


def clean_key(text: str) -> str | None:
    """A key as it goes into a header, without the line end that `echo` leaves; None when no header can carry it."""
    stripped = text.strip(" \t\r\n")
    return stripped if re.fullmatch(r"[\x21-\x7e]+", stripped) else None
