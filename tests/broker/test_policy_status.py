"""What each object is told, and what a provider lacks."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.worlds import SETTINGS, access, condition, documents, routing, secret, status, who, world

from broker.addresses import parse_hosts
from broker.objects import collect
from broker.policy import Settings, Snapshot, build

KAGENTI = Path(__file__).parents[1] / "golden" / "kagenti"


def provider(fields: str, *others: str, settings: Settings = SETTINGS) -> tuple[str, str]:
    """Reason and message of a provider with these fields in team1."""
    text = f"---\napiVersion: aiaccess.dev/v1alpha1\nkind: AIProvider\nmetadata: {{name: p, namespace: team1}}\nspec: {{{fields}}}\n"
    ready = condition(world(text, *others, settings=settings), "p", "Ready")
    assert (ready.status == "True") is (ready.reason == "Ready")
    return ready.reason, ready.message


KEY = "credentials: {type: APIKey, secretRef: {name: keys}}"


@pytest.mark.parametrize(
    ("fields", "others", "reason"),
    [
        ("schema: OpenAI", [], "Ready"),
        ("schema: Anthropic", [], "Ready"),
        ("schema: Mistral", [], "Ready"),
        ("schema: OpenAI, credentials: {type: Passthrough}", [], "Ready"),
        *(
            (f"schema: {schema}", [], "NotSupported")
            for schema in ("AzureOpenAI", "Gemini", "VertexAI", "Cohere", "AWSBedrock", "MCP", "A2A")
        ),
        ("schema: OpenAI, protocol: gRPC", [], "NotSupported"),
        ("schema: OpenAI, credentials: {type: AWSCredentials, region: r}", [], "NotSupported"),
        ("schema: OpenAI, credentials: {type: GCPCredentials, project: p}", [], "NotSupported"),
        (f"schema: OpenAI, {KEY}", [], "CredentialSecretNotFound"),
        (f"schema: OpenAI, {KEY}", [secret(namespace="team2")], "CredentialSecretNotFound"),
        (f"schema: OpenAI, {KEY}", [secret(data="{other: x}")], "CredentialKeyMissing"),
        (f"schema: OpenAI, {KEY}", [secret(data="{api-key: '${env:UNSET}'}")], "CredentialKeyMissing"),
        (f"schema: OpenAI, {KEY}", [secret()], "Ready"),
        (f"schema: OpenAI, {KEY}", [secret(hosts="")], "HostNotAllowed"),
        (f"schema: OpenAI, endpoint: 'https://llm.example', {KEY}", [secret()], "HostNotAllowed"),
        (f"schema: OpenAI, endpoint: 'https://llm.example', {KEY}", [secret(hosts="*.example")], "Ready"),
        (f"schema: OpenAI, endpoint: 'http://llm.team1.svc:81', {KEY}", [secret(hosts="llm.team1.svc:81")], "HostNotAllowed"),
        (f"schema: OpenAI, endpoint: 'http://llm.team1.svc:81', {KEY}", [secret(hosts="http://llm.team1.svc:81")], "Ready"),
        ("schema: OpenAI, endpoint: 'https://user@llm.example'", [], "EndpointInvalid"),
        ("schema: OpenAI, endpoint: 'http://llm.example'", [], "EndpointInvalid"),
        ("schema: OpenAI, endpoint: 'http://llm.team2.svc'", [], "EndpointInvalid"),
        ("schema: OpenAI, endpoint: 'http://llm.team1.svc.cluster.local'", [], "Ready"),
        ("schema: OpenAI, endpoint: 'http://a.llm.team1.svc'", [], "EndpointInvalid"),
        ("schema: OpenAI, endpoint: 'http://team1.svc'", [], "EndpointInvalid"),
        ("schema: OpenAI, endpoint: 'https://169.254.169.254'", [], "EndpointInvalid"),
        ("schema: OpenAI, endpoint: 'https://[::ffff:127.0.0.1]'", [], "EndpointInvalid"),
        ("schema: OpenAI, endpoint: 'https://localhost'", [], "EndpointInvalid"),
        ("schema: OpenAI, endpoint: 'https://93.184.216.34'", [], "Ready"),
    ],
)
def test_a_provider_is_ready_or_says_what_is_missing(fields: str, others: list[str], reason: str):
    assert provider(fields, *others)[0] == reason


def test_the_operator_lists_plain_and_local_hosts():
    local = "schema: OpenAI, endpoint: 'http://127.0.0.1:11434'"
    plain = replace(SETTINGS, plain_http=parse_hosts(["127.0.0.1:11434"]))
    assert "--plain-http-hosts" in provider(local)[1]
    assert "--allow-hosts" in provider(local, settings=plain)[1]
    assert provider(local, settings=replace(plain, allowed=parse_hosts(["127.0.0.0/8"])))[0] == "Ready"
    by_network = replace(SETTINGS, plain_http=parse_hosts(["127.0.0.0/8"]), allowed=parse_hosts(["127.0.0.1"]))
    assert provider(local, settings=by_network)[0] == "Ready"


def test_what_to_write_into_the_annotation_is_said():
    reason, message = provider(f"schema: OpenAI, endpoint: 'http://llm.team1.svc:81', {KEY}", secret(hosts="https://llm"))
    assert reason == "HostNotAllowed"
    assert "must list http://llm.team1.svc:81" in message
    assert "an entry there 'https://llm'" in message


def test_an_entry_of_the_annotation_that_counts_for_nothing_is_noticed():
    snapshot = world(routing().replace("schema: OpenAI", f"schema: OpenAI, {KEY}"), secret(hosts="api.openai.com, https://x"))
    ((path, notice),) = status(snapshot, "routing").notices
    assert path == "spec.providers[0]"
    assert "'https://x'" in notice


def inline(settings: Settings) -> Snapshot:
    text = routing().replace("schema: OpenAI", "schema: OpenAI, credentials: {type: Inline, value: sk-canary}")
    return world(text, access(), settings=settings)


def test_inline_keys_are_the_operators_switch():
    refused = condition(inline(SETTINGS), "routing", "Accepted")
    assert (refused.status, refused.reason, refused.path) == ("False", "InlineNotAllowed", "spec.providers[0].credentials.type")
    allowed = inline(replace(SETTINGS, allow_inline=True))
    (backend,) = allowed.decide(who(), "gpt").backends
    text = routing().replace("schema: OpenAI", "schema: OpenAI, credentials: {type: Inline, value: sk-canary}")
    credentials = collect(documents(text)).credentials
    assert backend.provider.secret is not None
    assert credentials[backend.provider.secret].reveal() == "sk-canary"
    assert "sk-canary" not in repr(allowed.statuses)


def test_an_inline_provider_hides_one_of_the_namespace_and_says_so():
    shared = "---\napiVersion: aiaccess.dev/v1alpha1\nkind: AIProvider\nmetadata: {name: p, namespace: team1}\nspec: {schema: Anthropic}\n"
    snapshot = world(routing(), access(), shared)
    assert snapshot.decide(who(), "gpt").backends[0].provider.kind == "OpenAI"
    assert "hides the AIProvider" in status(snapshot, "routing").notices[0][1]


def test_a_provider_of_the_namespace_serves_its_routing_objects():
    shared = "---\napiVersion: aiaccess.dev/v1alpha1\nkind: AIProvider\nmetadata: {name: q, namespace: team1}\nspec: {schema: Anthropic}\n"
    text = routing().replace("provider: p", "provider: q")
    assert world(text, access(), shared).decide(who(), "gpt").backends[0].provider.kind == "Anthropic"
    rejected = world(text, access(), shared.replace("schema: Anthropic", "schema: Anthropic, unknown: 1"))
    assert rejected.decide(who(), "gpt").backends == ()
    assert "not accepted" in status(rejected, "routing").models[0].message
    elsewhere = world(text, access(), shared.replace("team1", "team2"))
    assert "there is no provider q" in status(elsewhere, "routing").models[0].message


def conditions(snapshot: Snapshot, name: str) -> dict[str, str]:
    return {one.type: one.status if one.status == "True" else f"{one.status}/{one.reason}" for one in status(snapshot, name).conditions}


def test_a_good_pair_of_objects_is_programmed():
    snapshot = world(routing(), access(spec="{mtls: {trustDomain: a}, models: [gpt]}"))
    assert conditions(snapshot, "routing") == dict.fromkeys(("Accepted", "ProvidersConfigured", "RoutingActive", "Programmed"), "True")
    assert conditions(snapshot, "access") == dict.fromkeys(("Accepted", "BundleReady", "ModelsResolved", "Programmed"), "True")


GRANTED_AND_REFUSED = "; its operator gave it no sealing keys (--sealing-keys), so it refuses what needs "


@pytest.mark.parametrize(
    ("features", "seals", "told"),
    [
        ("[Storage]", False, GRANTED_AND_REFUSED + "Storage"),
        ("[HostedTools, Storage, Files, Background]", False, GRANTED_AND_REFUSED + "Background or Files or Storage"),
        ("[HostedTools, RemoteMedia]", False, ""),
        ("[]", False, ""),
        ("[Storage, Background]", True, ""),
        ("[Storage, Background]", None, ""),
    ],
)
def test_a_policy_hears_that_what_it_grants_waits_for_keys_where_that_is_known(features, seals, told):
    text = access(spec=f"{{mtls: {{trustDomain: a}}, models: [gpt], features: {features}}}")
    programmed = condition(world(routing(), text, settings=replace(SETTINGS, seals=seals)), "access", "Programmed")
    assert (programmed.status, programmed.message) == ("True", f"the broker decides by this generation{told}")


def test_partial_failures_are_told_apart_from_whole_ones():
    text = (
        routing()
        .replace("schema: OpenAI}", "schema: OpenAI}, {name: q, schema: Gemini}")
        .replace("models:", "models:\n  - {name: b, backends: [{provider: q}]}")
    )
    assert conditions(world(text), "routing") == {
        "Accepted": "True",
        "ProvidersConfigured": "False/PartialFailure",
        "RoutingActive": "False/ModelNotReady",
        "Programmed": "True",
    }
    whole = conditions(world(routing().replace("OpenAI", "Gemini")), "routing")
    assert (whole["ProvidersConfigured"], whole["RoutingActive"]) == ("False/NotSupported", "False/NoReadyBackend")


def test_a_rejected_object_says_all_that_is_wrong_and_is_not_programmed():
    snapshot = world(access(spec="{action: Deny, one: 1, two: 2}"), routing(extra="  three: 3"))
    refused = condition(snapshot, "access", "Accepted")
    assert (refused.status, refused.reason) == ("False", "InvalidSpec")
    assert "spec.one" in refused.message
    assert "spec.two" in refused.message
    assert condition(snapshot, "routing", "Accepted").reason == "UnknownField"
    assert condition(snapshot, "access", "Programmed").status == "False"
    assert "still denies" in condition(snapshot, "access", "Programmed").message
    assert [(row.name, row.ready) for row in status(snapshot, "routing").models] == [("gpt", False)]


def test_a_name_conflict_is_told_to_the_younger_object_only():
    snapshot = world(routing(name="a"), routing(name="b", models=("gpt", "more")))
    assert condition(snapshot, "a", "Accepted").status == "True"
    assert condition(snapshot, "b", "Accepted").reason == "NameConflict"
    assert {row.name: row.reason for row in status(snapshot, "b").models} == {"gpt": "NameConflict", "more": "Ready"}


def test_models_that_nobody_offers_are_told():
    snapshot = world(routing(), access(spec="{mtls: {trustDomain: a}, models: [gpt, nothing]}"))
    missing = condition(snapshot, "access", "ModelsResolved")
    assert (missing.status, missing.reason) == ("False", "ModelNotFound")
    assert "offers nothing; " in missing.message
    assert missing.message.endswith(" which offers gpt")
    glob = access(name="deny", namespace="broker-system", spec="{mtls: {trustDomain: a}, models: [nothing], action: Deny}")
    assert condition(world(glob), "deny", "ModelsResolved").status == "True"


def test_a_subject_outside_the_trust_domain_is_noticed():
    spec = "{subjects: [{spiffeID: 'spiffe://b.org/x'}], models: [gpt], mtls: {trustDomain: a.org}}"
    ((path, notice),) = status(world(routing(), access(spec=spec)), "access").notices
    assert path == "spec.subjects[0]"
    assert "names nobody" in notice


@pytest.mark.parametrize(
    ("subjects", "summary"),
    [
        ("subjects: [{spiffeID: 'spiffe://a/ns/x/sa/weather-agent'}], models: ['*']", "weather-agent"),
        ("subjects: [{spiffeID: 'spiffe://a/b'}, {spiffeID: 'spiffe://a/c'}, {spiffeID: 'spiffe://a/d'}], models: ['*']", "b +2"),
        ("subjects: [{spiffeIDPrefix: 'spiffe://a/ns/x/'}], models: ['*']", "ns/x/*"),
        ("subjects: [{serviceAccount: {name: s, namespace: n, trustDomain: a}}], models: ['*']", "s"),
        ("mtls: {trustDomain: a.org}", "*.a.org"),
    ],
)
def test_subjects_are_summed_up_for_a_column(subjects: str, summary: str):
    assert status(world(access(spec=f"{{{subjects}}}")), "access").subject_summary == summary


def test_the_kagenti_examples_work_given_their_secret():
    snapshot = build(
        collect(
            document
            for text in [*(path.read_text() for path in sorted(KAGENTI.glob("*.yaml"))), secret(name="openai-secret")]
            for document in documents(text)
        ),
        replace(SETTINGS, trust_domain="localtest.me"),
    )
    assert all(one.about.faults == () for one in snapshot.statuses)
    rows = {row.name: row.reason for row in status(snapshot, "team-routing").providers}
    assert rows == {"ollama": "Ready", "openai": "Ready", "azure": "NotSupported", "bedrock": "NotSupported"}
    me = who("spiffe://localtest.me/ns/team1/sa/any")
    assert {model.name for model in snapshot.visible_models(me)} == {"gpt-4o", "gpt-4o-mini", "qwen2.5:3b"}
    grant = snapshot.decide(me, "gpt-4o")
    assert [budget.counter for budget in grant.budgets] == ["{team1}/AIRoutingPolicy/team-routing/gpt-4o/total_tokens/hour/policy/-"]
    assert snapshot.decide(me, "claude-sonnet").backends == ()
    assert conditions(snapshot, "team-access")["GatewayBound"] == "Unknown/NoRenderer"
    assert conditions(snapshot, "team-access")["BundleReady"] == "Unknown/NotPermitted"
    assert "MTLSActive" in conditions(snapshot, "team-access")
