"""What somebody wrote against our Structs: every fault at once, each with its path, and values as typed as they look."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.worlds import access, documents, routing, secret

from broker.grant import Feature
from broker.objects import AccessPolicy, RoutingPolicy, Stray, collect, read_document
from broker.objects.duration import seconds


def only(text: str, environment: dict[str, str] | None = None):
    (document,) = documents(text, environment=environment)
    return document


def faults(text: str) -> dict[str, str]:
    return {fault.path: fault.message for fault in only(text).about.faults}


def provider(spec: str) -> str:
    return f"apiVersion: aiaccess.dev/v1alpha1\nkind: AIProvider\nmetadata: {{name: p, namespace: team1}}\nspec: {spec}\n"


def test_every_field_of_an_access_policy_is_read():
    policy = only(
        access(
            spec="""
  subjects:
  - spiffeID: spiffe://example.org/ns/team1/sa/weather-agent
  - spiffeIDPrefix: spiffe://example.org/ns/team1/
  - serviceAccount: {name: planner, namespace: team1, trustDomain: example.org}
  models: [gpt-4o, "qwen2.5:3b"]
  action: Allow
  quotas:
  - {name: hourly, tokens: 100000, per: Hour, scope: Identity, tokenCountMode: InputToken, models: [gpt-4o], strict: true, cutOff: false}
  - {name: pace, requests: 60, per: Minute, scope: Policy}
  - {name: width, concurrent: 8}
  mode: Shadow
  features: [Storage, RemoteMedia]
  maxStreamDuration: 1h30m
  mtls: {trustDomain: example.org, trustBundleConfigMap: {name: b, namespace: spire-system}, serverCertRef: {name: c}}
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: ai-gateway}"""
        )
    )
    assert isinstance(policy, AccessPolicy)
    assert policy.about.faults == ()
    assert policy.spec is not None
    assert [str(subject) for subject in policy.spec.subjects or ()] == [
        "spiffe://example.org/ns/team1/sa/weather-agent",
        "spiffe://example.org/ns/team1/*",
        "spiffe://example.org/ns/team1/sa/planner",
    ]
    assert policy.spec.features == (Feature.STORAGE, Feature.REMOTE_MEDIA)
    assert (policy.spec.quotas[0].tokens, policy.spec.quotas[0].strict) == (100000, True)
    assert policy.spec.mtls is not None
    assert policy.spec.mtls.trust_bundle_config_map is not None
    assert policy.spec.mtls.trust_bundle_config_map.key == "bundle.spiffe"


def test_every_field_of_a_routing_policy_is_read():
    policy = only("""
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {name: routing, namespace: team1, labels: {a: b}}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: ai-gateway}
  providers:
  - name: openai
    schema: OpenAI
    endpoint: https://api.openai.com/v1
    protocol: HTTP
    credentials: {type: APIKey, secretRef: {name: openai-secret}}
    headers: [{name: OpenAI-Organization, value: org-1}]
    timeouts: {connect: 1s, firstByte: 2m, idle: 500ms}
  - {name: azure, schema: AzureOpenAI, azure: {apiVersion: "2025-01-01"}, endpoint: "https://x.openai.azure.com"}
  - {name: vertex, schema: VertexAI, vertex: {project: p, location: global}}
  - name: federated
    schema: Anthropic
    credentials: {type: WorkloadIdentity, audience: a, subjectToken: JWTSVID, subject: Agent, organizationId: o}
  models:
  - name: gpt-4o
    backends: [{provider: openai, priority: 1, weight: 3, price: {perRequest: "0.01"}}]
    rateLimit: {tokensPerHour: 10, tokenCountMode: OutputToken}
    failover: {retryOn: [429, ConnectFailure], maxRetries: 0, backoff: {base: 1s, max: 3s}}
    defaultOutputTokens: 10
    maxOutputTokens: 20
    price: {inputPerMillionTokens: "2.50", outputPerMillionTokens: "10", cachedInputPerMillionTokens: "1.25"}
  defaultFailover: {retryOn: [502]}
status: {observedGeneration: 3}
""")
    assert isinstance(policy, RoutingPolicy)
    assert policy.about.faults == ()
    assert policy.spec is not None
    assert policy.spec.providers[0].credentials.secret_ref is not None
    assert policy.spec.providers[0].credentials.secret_ref.key == "api-key"
    assert policy.spec.models[0].failover is not None
    assert policy.spec.models[0].failover.retry_on == (429, "ConnectFailure")
    assert policy.names == ("gpt-4o",)


def test_all_faults_of_an_object_are_told_at_once():
    found = faults("""
apiVersion: aiaccess.dev/v1
kind: AIAccessPolicy
metadata: {name: Agents, namespace: team1}
spec:
  subjects:
  - {spiffeID: "spiffe://example.org/a", spiffeIDPrefix: "spiffe://example.org/b/"}
  - {spiffeIDPrefix: "spiffe://example.org/b"}
  models: []
  actoin: Deny
  quotas:
  - {name: hourly, tokens: 0, per: Day}
  - {name: hourly, tokens: 1, requests: 2}
  - {name: pace, requests: "60", per: Fortnight}
""")
    assert set(found) == {
        "apiVersion",
        "metadata.name",
        "spec.actoin",
        "spec.models",
        "spec.subjects[0]",
        "spec.subjects[1].spiffeIDPrefix",
        "spec.quotas[0].tokens",
        "spec.quotas[1]",
        "spec.quotas[1].name",
        "spec.quotas[2].requests",
        "spec.quotas[2].per",
    }
    assert found["spec.actoin"].endswith("did you mean action?")


def test_a_fault_says_its_line_and_column():
    text = access(spec="\n  subjects:\n  - spiffeID: 7\n  models: ['*']")
    about = only(text).about
    assert [about.place(fault.path) for fault in about.faults] == ["x.yaml:7:5"]


def test_a_field_that_is_missing_is_said_where_it_should_stand():
    about = only(access(spec="\n  mtls: {}")).about
    assert [(fault.path, about.place(fault.path)) for fault in about.faults] == [("spec.mtls.trustDomain", "x.yaml:6:3")]


@pytest.mark.parametrize(
    ("spec", "path", "told"),
    [
        ("{models: ['*']}", "spec", "names nobody"),
        ("{subjects: [], models: ['*']}", "spec.subjects", "at least 1 entry"),
        ("{subjects: [{spiffeID: 'spiffe://example.org/a'}]}", "spec.models", "is required with subjects"),
        ("{subjects: [{}], models: [a]}", "spec.subjects[0]", "exactly one of"),
        ("{subjects: [{spiffeID: 'spiffe://example.org'}], models: [a]}", "spec.subjects[0].spiffeID", "trust domain alone"),
        ("{subjects: [{spiffeID: 'spiffe://Example.org/a'}], models: [a]}", "spec.subjects[0].spiffeID", "SPIFFE ID"),
        ("{subjects: [{spiffeIDPrefix: 'spiffe://example.org/../'}], models: [a]}", "spec.subjects[0].spiffeIDPrefix", "SPIFFE ID"),
        ("{subjects: [{serviceAccount: {name: a, namespace: b}}], models: [a]}", "spec.subjects[0].serviceAccount.trustDomain", "required"),
        ("{mtls: {}}", "spec.mtls.trustDomain", "required"),
        ("{mtls: {trustDomain: a}, action: allow}", "spec.action", "did you mean Allow?"),
        ("{mtls: {trustDomain: a}, mode: null}", "spec.mode", "must be one of"),
        ("{mtls: {trustDomain: a}, models: [a, a]}", "spec.models[1]", "already at spec.models[0]"),
        ("{mtls: {trustDomain: a}, models: [' a']}", "spec.models[0]", "the name of a model"),
        ("{mtls: {trustDomain: a}, features: [Everything]}", "spec.features[0]", "must be one of"),
        ("{mtls: {trustDomain: a}, maxStreamDuration: 0s}", "spec.maxStreamDuration", "longer than 0s"),
        ("{mtls: {trustDomain: a}, maxStreamDuration: 25h}", "spec.maxStreamDuration", "at most 24h"),
        ("{mtls: {trustDomain: a}, maxStreamDuration: 1 hour}", "spec.maxStreamDuration", "a duration such as"),
        ("{mtls: {trustDomain: a}, quotas: [{name: q, tokens: 1}]}", "spec.quotas[0].per", "is required"),
        ("{mtls: {trustDomain: a}, quotas: [{name: q, concurrent: 1, per: Hour}]}", "spec.quotas[0].per", "no window"),
        ("{mtls: {trustDomain: a}, quotas: [{name: q, concurrent: 10001}]}", "spec.quotas[0].concurrent", "at most 10000"),
        (
            "{mtls: {trustDomain: a}, quotas: [{name: q, requests: 1, per: Day, tokenCountMode: InputToken}]}",
            "spec.quotas[0].tokenCountMode",
            "belongs to tokens",
        ),
        ("{mtls: {trustDomain: a}, quotas: [{name: q, tokens: 1.0, per: Day}]}", "spec.quotas[0].tokens", "a whole number"),
        ("{mtls: {trustDomain: a}, quotas: [{name: q, tokens: true, per: Day}]}", "spec.quotas[0].tokens", "a whole number"),
        ("{mtls: {trustDomain: a}, quotas: [{name: q, tokens: 1, per: Day, strict: yes}]}", "spec.quotas[0].strict", "true or false"),
        (
            "{mtls: {trustDomain: a}, models: [a], quotas: [{name: q, tokens: 1, per: Day, models: [b]}]}",
            "spec.quotas[0].models[0]",
            "not among",
        ),
        ("{mtls: {trustDomain: a}, quotas: [{name: q, usd: 5.00, per: Day}]}", "spec.quotas[0].usd", "put it in quotes"),
        ("{mtls: [a]}", "spec.mtls", "a mapping of fields"),
        ("text", "spec", "a mapping of fields"),
    ],
)
def test_a_wrong_access_policy_says_what_to_do(spec: str, path: str, told: str):
    found = faults(access(spec=spec))
    assert list(found) == [path]
    assert told in found[path]


@pytest.mark.parametrize(
    ("spec", "path", "told"),
    [
        ("{}", "spec.schema", "is required"),
        ("{schema: Openai}", "spec.schema", "did you mean OpenAI?"),
        ("{schema: OpenAI, credentials: {type: Key, secretRef: {name: a}}}", "spec.credentials.type", "must be one of"),
        ("{schema: OpenAI, headers: a}", "spec.headers", "must be a list, not text"),
        ("{schema: OpenAI, endpoint: " + "x" * 2049 + "}", "spec.endpoint", "at most 2048"),
        ("{schema: OpenAI, headers: [" + "a," * 16 + "a]}", "spec.headers", "has 17 entries"),
        ("{schema: OpenAI, endpoint: ''}", "spec.endpoint", "must not be empty"),
        ("{schema: OpenAI, azure: {apiVersion: a}}", "spec.azure", "belongs to schema AzureOpenAI"),
        ("{schema: OpenAI, vertex: {project: a, location: b}}", "spec.vertex", "belongs to schema VertexAI"),
        ("{schema: OpenAI, credentials: {type: APIKey}}", "spec.credentials.secretRef", "required with type APIKey"),
        ("{schema: OpenAI, credentials: {secretRef: {name: a}}}", "spec.credentials.secretRef", "does not belong to type None"),
        ("{schema: OpenAI, credentials: {type: Inline}}", "spec.credentials.value", "required with type Inline"),
        ("{schema: OpenAI, credentials: {type: Inline, value: 'a b'}}", "spec.credentials.value", "no header can carry"),
        (
            "{schema: OpenAI, credentials: {type: AWSCredentials, region: a, tenantId: b}}",
            "spec.credentials.tenantId",
            "to AzureCredentials",
        ),
        (
            "{schema: OpenAI, credentials: {type: APIKey, secretRef: {name: a, namespace: b}}}",
            "spec.credentials.secretRef.namespace",
            "not a field",
        ),
        ("{schema: OpenAI, headers: [{name: Authorization, value: x}]}", "spec.headers[0].name", "by the broker alone"),
        ("{schema: OpenAI, headers: [{name: X-Aiaccess-Exchange, value: x}]}", "spec.headers[0].name", "strips"),
        ('{schema: OpenAI, headers: [{name: a, value: "x\\ny"}]}', "spec.headers[0].value", "printable ASCII"),
        ("{schema: OpenAI, headers: [{name: a, value: b}, {name: A, value: c}]}", "spec.headers[1].name", "another spelling"),
        ("{schema: OpenAI, headers: [{name: a, value: b}, {name: a, value: c}]}", "spec.headers[1].name", "already at"),
        ("{schema: OpenAI, timeouts: {connect: 2m}}", "spec.timeouts.connect", "at most 60s"),
    ],
)
def test_a_wrong_provider_says_what_to_do(spec: str, path: str, told: str):
    found = faults(provider(spec))
    assert list(found) == [path]
    assert told in found[path]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("{name: a}", "backends"),
        ("{name: a, backends: []}", "backends"),
        ("{name: -a, backends: [{provider: p}]}", "name"),
        ("{name: a, backends: [{provider: p, weight: -1}]}", "backends[0].weight"),
        ("{name: a, backends: [{provider: p}], failover: {retryOn: [200]}}", "failover.retryOn[0]"),
        ("{name: a, backends: [{provider: p}], failover: {retryOn: [Reset, Never]}}", "failover.retryOn[1]"),
        ("{name: a, backends: [{provider: p}], failover: {maxRetries: 6}}", "failover.maxRetries"),
        ("{name: a, backends: [{provider: p}], failover: {backoff: {base: 3s}}}", "failover.backoff.base"),
        ("{name: a, backends: [{provider: p}], defaultOutputTokens: 9, maxOutputTokens: 3}", "defaultOutputTokens"),
        ("{name: a, backends: [{provider: p}], price: {perRequest: '1.1234567'}}", "price.perRequest"),
        ("{name: a, backends: [{provider: p}], rateLimit: {tokensPerMinute: 3, tokensPerHour: 3}}", "rateLimit.tokensPerMinute"),
    ],
)
def test_a_wrong_model_says_where(model: str, path: str):
    text = routing(models=()).replace("models: []", f"models: [{model}]")
    assert list(faults(text)) == [f"spec.models[0].{path}"]


def test_an_unknown_field_at_any_depth_is_a_fault_of_its_own_reason():
    text = access(spec="{mtls: {trustDomain: a, trustDomian: b}}") + "extra: 1\n"
    assert {(fault.path, fault.reason) for fault in only(text).about.faults} == {
        ("extra", "UnknownField"),
        ("spec.mtls.trustDomian", "UnknownField"),
    }


def test_the_names_in_a_rejected_routing_object_are_known():
    policy = only(routing(models=("a", "b"), extra="  unknown: 1"))
    assert policy.spec is not None
    assert not policy.about.accepted
    assert policy.names == ("a", "b")
    broken = only(routing(models=()).replace("models: []", "models: [{name: c, backends: 3}, 7, {name: [x]}]"))
    assert broken.spec is None
    assert broken.names == ("c",)


@pytest.mark.parametrize(
    ("spec", "denies"),
    [
        ("{action: Allow, unknown: 1}", False),
        ("{unknown: 1}", False),
        ("{action: Deny, unknown: 1}", True),
        ("{action: deny}", True),
        ("{action: Limit}", True),
        ("{action: limit}", True),
        ("{action: [Deny]}", True),
        ("{action: null}", True),
        ("{action: &a Deny}", True),
        ("[{action: Deny}]", True),
        ("&a {action: Allow}", True),
        ("null", False),
    ],
)
def test_what_may_be_a_deny_remains_one(spec: str, *, denies: bool):
    assert (only(access(spec=spec)).remains is not None) == denies


def test_a_denys_subjects_remain_only_when_all_of_them_can_be_read():
    readable = only(access(spec="{action: Deny, subjects: [{spiffeID: 'spiffe://a/b'}], unknown: 1}")).remains
    assert [str(subject) for subject in readable.subjects] == ["spiffe://a/b"]
    half = only(
        access(spec="{action: Deny, subjects: [{spiffeID: 'spiffe://a/b'}, {spiffeId: 'spiffe://a/c'}], mtls: {trustDomain: a}}")
    ).remains
    assert half.subjects is None
    assert half.trust_domain == "a"


def test_documents_of_other_kinds_are_strays():
    strays = documents(
        """
apiVersion: apps/v1
kind: Deployment
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccesPolicy
---
apiVersion: v1
kind: List
items: []
---
- a
---
kind: ConfigMap
"""
    )
    assert all(isinstance(one, Stray) for one in strays)
    assert [one.ours for one in strays] == [False, True, True, True, True]


def test_the_same_object_twice_rejects_both():
    found = collect([*documents(access(), "a.yaml"), *documents(access(), "b.yaml"), *documents(secret() + secret())])
    assert [policy.about.accepted for policy in found.access] == [False, False]
    assert {policy.about.faults[0].message for policy in found.access} == {
        "AIAccessPolicy team1/access is also at b.yaml:2:1; an object is there once",
        "AIAccessPolicy team1/access is also at a.yaml:2:1; an object is there once",
    }
    assert [one.keys for one in found.secrets] == [frozenset(), frozenset()]
    assert found.credentials == {}


def test_versions_follow_what_is_said_and_not_how_it_is_laid_out():
    first, second, other = (
        only(text).about.version
        for text in (access(), access().replace("spec:", "# a comment\nspec:\n "), access(spec="{mtls: {trustDomain: a}}"))
    )
    assert first == second
    assert first != other
    assert first.startswith("sha256:")
    raw = {
        "apiVersion": "aiaccess.dev/v1alpha1",
        "kind": "AIAccessPolicy",
        "metadata": {"name": "a", "namespace": "b", "uid": "u", "generation": 3},
    }
    assert read_document(raw).about.version == "u/3"


@pytest.mark.parametrize(("text", "expected"), [("500ms", 0.5), ("5s", 5), ("10m", 600), ("1h30m", 5400), ("1s500ms", 1.5)])
def test_durations_are_read_in_seconds(text: str, expected: float):
    assert seconds(text) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "models", "type", "spec", "quotas", "x"]) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(kind=st.sampled_from(["AIRoutingPolicy", "AIAccessPolicy", "AIProvider", "Secret"]), spec=json_values, metadata=json_values)
def test_whatever_is_written_is_read_or_told_what_is_wrong(kind: str, spec: object, metadata: object):
    fields = {"data": spec} if kind == "Secret" else {"spec": spec}
    document = read_document(
        {"apiVersion": "v1" if kind == "Secret" else "aiaccess.dev/v1alpha1", "kind": kind, "metadata": metadata, **fields}
    )
    assert not isinstance(document, Stray)
    assert document.about.faults or (isinstance(metadata, dict) and metadata.get("name"))
