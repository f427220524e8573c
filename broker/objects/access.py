"""AIAccessPolicy.spec: who may call a model, and how much."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta, field

from broker.grant import Feature
from broker.identity import InvalidSpiffeId, parse_spiffe_id
from broker.objects.reading import Part, Rule, Told, exactly_one
from broker.objects.routing import TokenCountMode
from broker.objects.words import INT64, Day, Label, Money, SecretKey, Subdomain, TargetRef, TrustDomain

EVERY_MODEL: Final = "*"
_KINDS_OF_SUBJECT: Final = ("spiffeID", "spiffeIDPrefix", "serviceAccount")
_UNITS: Final = ("tokens", "requests", "usd", "concurrent")
_OF_AN_ALLOW: Final = ("features", "maxStreamDuration")
_IS_LIMIT: Final = "(has(self.action) && self.action == 'Limit')"
_SEGMENT: Final = r"(\.{0,2}[A-Za-z0-9_-][A-Za-z0-9._-]*|\.{3}[A-Za-z0-9._-]*)"  # not empty, not `.`, not `..`
_MODEL_OR_ALL: Final = r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,252})$"

Action = Literal["Allow", "Deny", "Limit"]
ModelOrAll = Annotated[
    str, Meta(pattern=_MODEL_OR_ALL, max_length=253, extra={"must": 'the name of a model of this namespace, or "*" for all of them'})
]


class ServiceAccount(Part, frozen=True, kw_only=True):
    """The identity that SPIRE and Istio give a Kubernetes service account: spiffe://TRUSTDOMAIN/ns/NAMESPACE/sa/NAME."""

    name: Annotated[Subdomain, Meta(description="name of the service account")]
    namespace: Annotated[Label, Meta(description="its namespace")]
    trust_domain: Annotated[TrustDomain, Meta(description="the trust domain of its cluster")]


class Subject(Part, frozen=True, kw_only=True):
    """Whom a policy names. Exactly one of the three."""

    spiffe_id: Annotated[str, Meta(max_length=2048, description="one identity, whole")] | None = field(default=None, name="spiffeID")
    spiffe_id_prefix: Annotated[str, Meta(max_length=2048, description="every identity below this path; ends with /")] | None = field(
        default=None, name="spiffeIDPrefix"
    )
    service_account: Annotated[ServiceAccount, Meta(description="one Kubernetes service account")] | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("names", *_KINDS_OF_SUBJECT),
        Rule(
            f"!has(self.spiffeID) || self.spiffeID.matches(r'^spiffe://[a-z0-9._-]{{1,255}}(/{_SEGMENT})+$')",
            "must be a SPIFFE ID such as spiffe://example.org/ns/team1/sa/agent; for all of a trust domain use mtls.trustDomain",
            ".spiffeID",
        ),
        Rule(
            f"!has(self.spiffeIDPrefix) || self.spiffeIDPrefix.matches(r'^spiffe://[a-z0-9._-]{{1,255}}/({_SEGMENT}/)*$')",
            "must end with / : a prefix is whole path segments, such as spiffe://example.org/ns/team1/",
            ".spiffeIDPrefix",
        ),
    )

    @classmethod
    def misshapen(cls, raw: Mapping[str, object]) -> Told:
        given = [name for name in _KINDS_OF_SUBJECT if name in raw]
        if len(given) != 1:
            yield "", f"names exactly one of {', '.join(_KINDS_OF_SUBJECT)}, not {' and '.join(given) or 'none'}"

    def mistaken(self) -> Told:
        if self.spiffe_id is not None and (broken := _not_a_workload(self.spiffe_id)):
            yield "spiffeID", broken
        if self.spiffe_id_prefix is not None and (broken := _not_a_prefix(self.spiffe_id_prefix)):
            yield "spiffeIDPrefix", broken

    @property
    def trust_domain(self) -> str:
        if self.service_account is not None:
            return self.service_account.trust_domain
        return (self.spiffe_id or self.spiffe_id_prefix or "").removeprefix("spiffe://").partition("/")[0]

    def __str__(self) -> str:
        if self.service_account is not None:
            account = self.service_account
            return f"spiffe://{account.trust_domain}/ns/{account.namespace}/sa/{account.name}"
        return self.spiffe_id or f"{self.spiffe_id_prefix}*"


def _not_a_workload(text: str) -> str | None:
    try:
        identity = parse_spiffe_id(text)
    except InvalidSpiffeId as rule:
        return f"must be a SPIFFE ID such as spiffe://example.org/ns/team1/sa/agent: {rule}"
    return None if identity.path else "names a trust domain alone, which no workload has; use mtls.trustDomain for all of its identities"


def _not_a_prefix(text: str) -> str | None:
    if not text.endswith("/"):
        return "must end with / : a prefix is whole path segments, such as spiffe://example.org/ns/team1/"
    try:
        parse_spiffe_id(text.removesuffix("/"))
    except InvalidSpiffeId as rule:
        return f"must be the beginning of SPIFFE IDs, such as spiffe://example.org/ns/team1/ : {rule}"
    return None


class QuotaSpec(Part, frozen=True, kw_only=True):
    """A ceiling in one unit."""

    name: Annotated[Label, Meta(description="what the counters are called; a changed limit keeps the count")]
    tokens: Annotated[int, Meta(ge=1, le=INT64, description="tokens in a window")] | None = None
    requests: Annotated[int, Meta(ge=1, le=INT64, description="requests in a window")] | None = None
    usd: Annotated[Money, Meta(description="US dollars in a window")] | None = None
    concurrent: Annotated[int, Meta(ge=1, le=10_000, description="exchanges at once")] | None = None
    per: Annotated[Literal["Minute", "Hour", "Day", "Month"], Meta(description="calendar window, UTC")] | None = None
    token_count_mode: Annotated[TokenCountMode, Meta(description="which tokens count")] = "TotalToken"  # noqa: S105  tokens of a model
    scope: Annotated[Literal["Identity", "Policy"], Meta(description="each identity its own count, or all subjects together")] = "Identity"
    models: Annotated[tuple[ModelOrAll, ...], Meta(min_length=1, max_length=256, description="which models count", extra={"key": ""})] = (
        EVERY_MODEL,
    )
    overridable: Annotated[bool, Meta(description="a narrower policy's quota of this name may allow more, in its place")] = False
    strict: Annotated[bool, Meta(description="bound prompts by bytes even when counting tokens would fit more")] = False
    cut_off: Annotated[bool, Meta(description="end a stream at the ceiling")] = False

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("limits", *_UNITS),
        Rule("!has(self.concurrent) || !has(self.per)", "does not belong to concurrent, which has no window; leave it out", ".per"),
        Rule("has(self.concurrent) || has(self.per)", "per is required: Minute, Hour, Day or Month"),
        Rule("!has(self.tokenCountMode) || has(self.tokens)", "belongs to tokens; leave it out", ".tokenCountMode"),
    )

    @classmethod
    def misshapen(cls, raw: Mapping[str, object]) -> Told:
        given = [unit for unit in _UNITS if unit in raw]
        if len(given) != 1:
            yield "", f"limits exactly one of {', '.join(_UNITS)}, not {' and '.join(given) or 'none'}"
            return
        if given == ["concurrent"] and "per" in raw:
            yield "per", "does not belong to concurrent, which has no window; leave it out"
        if given != ["concurrent"] and "per" not in raw:
            yield "per", "is required: Minute, Hour, Day or Month"
        if given != ["tokens"] and "tokenCountMode" in raw:
            yield "tokenCountMode", f"belongs to tokens, not to {given[0]}; leave it out"


class ConfigMapKeyRef(Part, frozen=True, kw_only=True):
    """One key of a ConfigMap."""

    name: Annotated[Subdomain, Meta(description="name of the ConfigMap")]
    namespace: Annotated[Label, Meta(description="its namespace")]
    key: Annotated[SecretKey, Meta(description="key in the ConfigMap")] = "bundle.spiffe"


class CertRef(Part, frozen=True, kw_only=True):
    """A server certificate, for renderers."""

    name: Annotated[Subdomain, Meta(description="name of the Secret with the certificate")]


class Mtls(Part, frozen=True, kw_only=True):
    """Which trust domain the subjects are of."""

    trust_domain: Annotated[TrustDomain, Meta(description="the policy names identities of this trust domain only")]
    trust_bundle_config_map: (
        Annotated[ConfigMapKeyRef, Meta(description="where its bundle is, for renderers and status; never a trust anchor of the broker")]
        | None
    ) = None
    server_cert_ref: Annotated[CertRef, Meta(description="the gateway's certificate, for renderers")] | None = None


class AccessSpec(Part, frozen=True, kw_only=True):
    """Who may call a model, and how much."""

    subjects: (
        Annotated[
            tuple[Subject, ...],
            Meta(
                min_length=1,
                max_length=256,
                description="whom it names; without it, every identity of mtls.trustDomain, or every identity in a Limit without mtls",
            ),
        ]
        | None
    ) = None
    models: (
        Annotated[
            tuple[ModelOrAll, ...], Meta(min_length=1, max_length=256, description="virtual models of this namespace", extra={"key": ""})
        ]
        | None
    ) = None
    action: Annotated[
        Action, Meta(description="Deny wins over every Allow; Limit grants nothing, and its quotas count for whom an Allow grants")
    ] = "Allow"
    mode: Annotated[Literal["Enforce", "Shadow"], Meta(description="Shadow decides and records, and refuses nothing")] = "Enforce"
    quotas: Annotated[tuple[QuotaSpec, ...], Meta(max_length=16, description="how much", extra={"key": "name"})] = ()
    features: Annotated[
        tuple[Feature, ...], Meta(max_length=5, description="what is shared by all users of a provider account", extra={"key": ""})
    ] = ()
    max_stream_duration: Annotated[Day, Meta(description="bounds a whole exchange")] = "1h"
    mtls: Annotated[Mtls, Meta(description="the trust domain of the subjects")] | None = None
    target_ref: Annotated[TargetRef, Meta(description="a Gateway to render this policy for as well")] | None = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"has(self.subjects) || has(self.mtls) || {_IS_LIMIT}",
            "names nobody: give subjects, or mtls.trustDomain for every identity of a trust domain",
        ),
        Rule(
            "has(self.models) || !has(self.subjects) || (has(self.action) && self.action != 'Allow')",
            'models is required with subjects: list models of this namespace, or "*" for all of them',
        ),
        Rule(
            f"!({_IS_LIMIT}) || (has(self.quotas) && size(self.quotas) > 0)",
            "quotas is required with action Limit: without quotas it limits nothing",
        ),
        Rule(
            "!has(self.models) || '*' in self.models || !has(self.quotas) || self.quotas.all(quota, !has(quota.models) || "
            "quota.models.all(model, model == '*' || model in self.models))",
            "has a quota for a model that is not among the policy's models",
            ".quotas",
        ),
        *(
            Rule(f"!({_IS_LIMIT}) || !has(self.{name})", "belongs to a policy that grants; leave it out", f".{name}")
            for name in _OF_AN_ALLOW
        ),
        Rule(  # of an update: `kubectl apply` takes an emptied `subjects:` for one that is to be removed
            "!has(oldSelf.subjects) || has(self.subjects)",
            "an update that drops subjects would mean every identity; delete the object and create it anew if that is meant",
        ),
    )

    @classmethod
    def misshapen(cls, raw: Mapping[str, object]) -> Told:
        action = raw.get("action", "Allow")
        if "subjects" not in raw and "mtls" not in raw and action != "Limit":
            yield "", "names nobody: give subjects, or mtls.trustDomain for every identity of a trust domain"
        if "models" not in raw and "subjects" in raw and action == "Allow":
            yield "models", 'is required with subjects: list models of this namespace, or "*" for all of them'
        if action == "Limit":
            yield from _no_limit(raw)

    def mistaken(self) -> Told:
        if self.models is None or EVERY_MODEL in self.models:
            return
        for index, quota in enumerate(self.quotas):
            for place, model in enumerate(quota.models):
                if model != EVERY_MODEL and model not in self.models:
                    yield f"quotas[{index}].models[{place}]", f"{model} is not among the policy's models"


def _no_limit(raw: Mapping[str, object]) -> Told:
    """A Limit is its quotas. One without them is a slip, and would leave everybody without the limit that was meant."""
    if not raw.get("quotas"):
        yield "quotas", "is required with action Limit: without quotas it limits nothing"
    for name in _OF_AN_ALLOW:
        if name in raw:
            yield name, "belongs to a policy that grants, and action Limit grants nothing; leave it out"
