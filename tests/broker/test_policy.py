"""Which policies match, and the one decision they lead to."""

import pytest
from support.worlds import AGENT, SETTINGS, access, resources, routing, secret, who, world

from broker.errors import Forbidden, Unavailable
from broker.grant import Budget, Failover, Feature, Per, Unit
from broker.objects import Resources
from broker.policy import Settings, Snapshot, build
from broker.policy.snapshot import REMEMBERED
from broker.providers import PROVIDERS

ME = f"subjects: [{{spiffeID: '{AGENT}'}}]"


def allows(snapshot: Snapshot, model: str = "gpt", spiffe_id: str = AGENT) -> bool:
    try:
        snapshot.decide(who(spiffe_id), model)
    except Forbidden:
        return False
    return True


def test_a_grant_has_all_that_the_later_rooms_need():
    snapshot = world(
        """
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {name: routing, namespace: team1}
spec:
  providers:
  - name: openai
    schema: OpenAI
    credentials: {type: APIKey, secretRef: {name: keys}}
    headers: [{name: OpenAI-Organization, value: org-1}]
    timeouts: {connect: 1s, firstByte: 2m, idle: 500ms}
  - {name: ollama, schema: OpenAI, endpoint: "http://ollama.team1.svc:11434"}
  - {name: bedrock, schema: AWSBedrock}
  models:
  - name: gpt/4o
    backends:
    - {provider: ollama, priority: 1, weight: 2}
    - {provider: openai, model: real}
    - {provider: bedrock, model: x}
    - {provider: openai, model: never, weight: 0}
    rateLimit: {tokensPerHour: 1000, tokenCountMode: OutputToken}
    failover: {retryOn: [429, Reset], maxRetries: 1, backoff: {base: 1s, max: 3s}}
    maxOutputTokens: 100
""",
        access(
            spec=f"""
  {ME}
  models: ['gpt/4o']
  features: [Storage]
  maxStreamDuration: 10m
  quotas:
  - {{name: hourly, tokens: 5, per: Hour, strict: true}}
  - {{name: team, requests: 6, per: Month, scope: Policy}}
  - {{name: width, concurrent: 7}}"""
        ),
        secret(),
    )
    grant = snapshot.decide(who(), "gpt/4o")
    openai, ollama = (backend.provider for backend in grant.backends)
    assert (grant.namespace, grant.model, grant.configured) == ("team1", "gpt/4o", tuple(sorted(PROVIDERS["OpenAI"].paths)))
    assert [(backend.model, backend.priority, backend.weight) for backend in grant.backends] == [("real", 0, 1), ("gpt/4o", 1, 2)]
    assert (str(openai.endpoint), openai.secret, openai.headers) == (
        "https://api.openai.com/v1",
        ("team1", "keys", "api-key"),
        (("openai-organization", "org-1"),),
    )
    assert (openai.connect_s, openai.first_byte_s, openai.idle_s, openai.own_service) == (1, 120, 0.5, False)
    assert (str(ollama.endpoint), ollama.auth, ollama.secret, ollama.own_service) == (
        "http://ollama.team1.svc:11434/v1",
        "None",
        None,
        True,
    )
    assert grant.budgets == (
        Budget("{team1}/AIRoutingPolicy/routing/gpt/4o/output_tokens/hour/policy/-", Unit.OUTPUT_TOKENS, 1000, Per.HOUR),
        Budget(f"{{team1}}/AIAccessPolicy/access/hourly/total_tokens/hour/identity/{AGENT}", Unit.TOTAL_TOKENS, 5, Per.HOUR, strict=True),
        Budget("{team1}/AIAccessPolicy/access/team/requests/month/policy/-", Unit.REQUESTS, 6, Per.MONTH),
        Budget(f"{{team1}}/AIAccessPolicy/access/width/concurrent/-/identity/{AGENT}", Unit.CONCURRENT, 7, None),
    )
    assert grant.features == {Feature.STORAGE}
    assert (grant.default_output_tokens, grant.max_output_tokens, grant.max_stream_s) == (100, 100, 600)
    assert grant.failover == Failover(frozenset({429}), frozenset({"Reset"}), 1, 1.0, 3.0)
    assert [str(ref) for ref in grant.policies] == ["team1/access"]
    assert grant.policies == grant.granting
    assert grant.policies[0].version.startswith("sha256:")


def test_silence_is_no():
    assert not allows(world(routing()))
    assert not allows(world(access()))
    assert not allows(world())
    assert not allows(world(routing(), access()), spiffe_id="spiffe://example.org/ns/team1/sa/other")


def test_a_refusal_says_the_same_whatever_its_reason():
    snapshot = world(routing(models=("gpt", "secret-plan")), access(spec=f"{{{ME}, models: [gpt]}}"))
    told = set()
    for model in ("secret-plan", "unknown", "other/model"):
        with pytest.raises(Forbidden) as raised:
            snapshot.decide(who(), model)
        told.add(str(raised.value))
    assert len(told) == 1
    assert "secret-plan" not in told.pop()


@pytest.mark.parametrize(
    ("subject", "matches"),
    [
        ("spiffeID: spiffe://example.org/ns/team1/sa/agent", True),
        ("spiffeID: spiffe://example.org/ns/team1/sa/agent2", False),
        ("spiffeID: spiffe://other.org/ns/team1/sa/agent", False),
        ("spiffeIDPrefix: spiffe://example.org/", True),
        ("spiffeIDPrefix: spiffe://example.org/ns/team1/", True),
        ("spiffeIDPrefix: spiffe://example.org/ns/team1/sa/agent/", False),
        ("spiffeIDPrefix: spiffe://example.org/ns/team/", False),
        ("spiffeIDPrefix: spiffe://example.or/", False),
        ("serviceAccount: {name: agent, namespace: team1, trustDomain: example.org}", True),
        ("serviceAccount: {name: agent, namespace: team1, trustDomain: other.org}", False),
        ("serviceAccount: {name: agent, namespace: team2, trustDomain: example.org}", False),
    ],
)
def test_a_subject_names_whom_it_says(subject: str, *, matches: bool):
    assert allows(world(routing(), access(spec=f"{{subjects: [{{{subject}}}], models: ['*']}}"))) is matches


def test_without_subjects_a_policy_names_its_whole_trust_domain():
    snapshot = world(routing(), access(spec="{mtls: {trustDomain: example.org}}"))
    assert allows(snapshot)
    assert not allows(snapshot, "team1/gpt", "spiffe://other.org/ns/team1/sa/agent")


def test_mtls_narrows_the_subjects():
    snapshot = world(routing(), access(spec=f"{{{ME}, models: ['*'], mtls: {{trustDomain: other.org}}}}"))
    assert not allows(snapshot)


def test_subjects_may_live_in_another_trust_domain():
    far = "spiffe://partner.example/ns/team1/sa/agent"
    snapshot = world(routing(), access(spec=f"{{subjects: [{{spiffeID: '{far}'}}], models: ['*']}}"))
    assert allows(snapshot, "team1/gpt", far)
    assert not allows(snapshot, "gpt", far)  # its ns/team1 is another team1


def test_a_policy_grants_models_of_its_own_namespace_only():
    snapshot = world(routing(namespace="team2"), access(namespace="team1"))
    assert not allows(snapshot, "team2/gpt")


def test_a_name_leads_to_the_callers_namespace_then_the_shared_ones_then_the_one_before_the_slash():
    own, shared, far = (
        routing(models=("gpt",)),
        routing(namespace="shared", models=("gpt", "only")),
        routing(namespace="far", models=("gpt", "x")),
    )
    policies = [access(namespace=namespace) for namespace in ("team1", "shared", "far")]
    snapshot = world(own, shared, far, *policies)

    def namespace(model: str) -> str:
        return snapshot.decide(who(), model).namespace

    assert (namespace("gpt"), namespace("only"), namespace("far/gpt"), namespace("team1/gpt")) == ("team1", "shared", "far", "team1")
    assert not allows(snapshot, "x")


def test_a_name_with_a_slash_is_a_bare_name_first():
    snapshot = world(routing(models=("far/x",)), routing(namespace="far", models=("x",)), access(), access(namespace="far"))
    assert snapshot.decide(who(), "far/x").namespace == "team1"


def test_the_first_place_that_defines_a_name_keeps_it_even_when_it_grants_nothing():
    snapshot = world(routing(), routing(namespace="shared"), access(namespace="shared"))
    assert not allows(snapshot)
    assert allows(snapshot, "shared/gpt")


def test_a_name_in_a_rejected_object_stays_taken():
    rejected = routing(extra="  unknown: 1")
    assert not allows(world(rejected, access(), routing(namespace="shared"), access(namespace="shared")))


def test_a_rejected_object_grants_nothing():
    assert not allows(world(routing(), access(spec=f"{{{ME}, models: ['*'], unknown: 1}}")))


def test_the_older_object_keeps_a_name_rejected_or_not():
    first = routing(name="a").replace("model: real", "model: first")
    second = routing(name="b", models=("gpt", "more"))
    snapshot = world(second, first, access())
    assert snapshot.decide(who(), "gpt").backends[0].model == "first"
    assert allows(snapshot, "more")
    assert not allows(world(first + "  unknown: 1", second, access()))


def test_in_kubernetes_age_decides_and_not_the_name():
    def dated(text: str, created: str) -> Resources:
        read = resources(text)
        (policy,) = read.routing
        about = type(policy.about)(**{**{name: getattr(policy.about, name) for name in policy.about.__slots__}, "created": created})
        return Resources(routing=(type(policy)(about, policy.spec, policy.names, policy.credentials),))

    young = dated(routing(name="a"), "2026-02-01T00:00:00Z").routing
    old = dated(routing(name="b").replace("model: real", "model: old"), "2026-01-01T00:00:00Z").routing
    snapshot = build(Resources(routing=young + old, access=resources(access()).access), SETTINGS)
    assert snapshot.decide(who(), "gpt").backends[0].model == "old"


def test_any_enforcing_deny_wins():
    deny = access(name="deny", spec=f"{{{ME}, models: [gpt], action: Deny}}")
    snapshot = world(routing(models=("gpt", "other")), access(), deny)
    assert not allows(snapshot)
    assert allows(snapshot, "other")


def test_a_routing_object_whose_namespace_cannot_be_read_offers_nothing():
    snapshot = world(routing(namespace="Not_One"), access(spec="{mtls: {trustDomain: example.org}}"))
    assert snapshot.offers == {}


def test_a_deny_in_another_namespace_is_none_of_ours():
    assert allows(world(routing(), access(), access(name="deny", namespace="team2", spec=f"{{{ME}, action: Deny}}")))


def test_a_deny_in_the_brokers_namespace_covers_every_namespace():
    everything = access(name="deny", namespace="broker-system", spec=f"{{{ME}, action: Deny}}")
    one = access(name="deny", namespace="broker-system", spec=f"{{{ME}, models: [gpt], action: Deny}}")
    assert not allows(world(routing(), access(), everything))
    assert not allows(world(routing(), access(), one))
    assert allows(world(routing(models=("gpt", "other")), access(), one), "other")


def test_an_allow_in_the_brokers_namespace_covers_that_one_only():
    assert not allows(world(routing(), access(namespace="broker-system")))


@pytest.mark.parametrize(
    ("spec", "agent", "other"),
    [
        (f"{{{ME}, action: Deny, unknown: 1}}", False, True),
        (f"{{{ME}, action: deny, models: [nothing]}}", False, True),
        ("{subjects: 7, action: Deny}", False, False),
        ("{subjetcs: [], action: Deny, mtls: {trustDomain: example.org}}", False, False),
        ("{mtls: {trustDomain: other.org}, action: Deny, unknown: 1}", True, True),
        (f"{{{ME}, action: Deny, mode: Shadow, unknown: 1}}", True, True),
        (f"{{{ME}, action: Deny, mode: Shadwo}}", False, True),
        (f"{{{ME}, action: Deny, quotas: [{{name: q, usd: 1, per: Day}}]}}", False, True),
    ],
)
def test_a_wrong_deny_keeps_denying(spec: str, *, agent: bool, other: bool):
    everybody = access(spec="{mtls: {trustDomain: example.org}}")
    snapshot = world(routing(), everybody, access(name="deny", spec=spec))
    assert allows(snapshot) is agent
    assert allows(snapshot, "gpt", "spiffe://example.org/ns/team1/sa/other") is other


def test_a_wrong_deny_covers_its_namespace_or_all_when_that_is_unknown_or_the_brokers():
    def of(namespace: str) -> bool:
        return allows(world(routing(), access(), access(name="deny", namespace=namespace, spec="{action: Deny}")))

    assert of("team2")
    assert not of("team1")
    assert not of("broker-system")
    assert not of("Not_A_Namespace")


def test_the_same_deny_twice_still_denies():
    deny = access(name="deny", spec=f"{{{ME}, action: Deny}}")
    assert not allows(world(routing(), access(), deny, deny))


def test_a_shadow_deny_is_recorded_and_refuses_nothing():
    grant = world(routing(), access(), access(name="deny", spec=f"{{{ME}, action: Deny, mode: Shadow}}")).decide(who(), "gpt")
    assert grant.would_refuse == ("forbidden",)
    assert [str(ref) for ref in grant.policies] == ["team1/access", "team1/deny"]
    assert [str(ref) for ref in grant.granting] == ["team1/access"]


def test_a_shadow_allow_grants_and_its_quotas_only_record():
    shadow = access(
        spec=f"{{{ME}, models: ['*'], mode: Shadow, features: [Files], maxStreamDuration: 5m, "
        "quotas: [{name: q, requests: 1, per: Day}]}"
    )
    grant = world(routing(), shadow).decide(who(), "gpt")
    assert [budget.shadow for budget in grant.budgets] == [True]
    assert grant.features == frozenset()
    assert grant.max_stream_s == 300


def test_every_matching_policys_quotas_apply_and_the_shortest_duration_counts():
    one = access(name="one", spec=f"{{{ME}, models: ['*'], features: [Files], quotas: [{{name: q, requests: 1, per: Day}}]}}")
    two = access(
        name="two",
        spec="{mtls: {trustDomain: example.org}, features: [Storage], maxStreamDuration: 1m,"
        " quotas: [{name: q, requests: 2, per: Day}, {name: elsewhere, requests: 3, per: Day, models: [other]}]}",
    )
    shadow = access(name="shadow", spec=f"{{{ME}, models: ['*'], mode: Shadow, maxStreamDuration: 1s}}")
    grant = world(routing(), one, two, shadow).decide(who(), "gpt")
    assert [budget.limit for budget in grant.budgets] == [1, 2]
    assert grant.features == {Feature.FILES, Feature.STORAGE}
    assert grant.max_stream_s == 60
    assert len(grant.granting) == 3


def test_quotas_of_a_deny_elsewhere_count_nothing_here():
    deny = access(
        name="deny", namespace="broker-system", spec=f"{{{ME}, action: Deny, mode: Shadow, quotas: [{{name: q, requests: 1, per: Day}}]}}"
    )
    grant = world(routing(), access(), deny).decide(who(), "gpt")
    assert grant.budgets == ()
    assert grant.would_refuse == ("forbidden",)


def test_visible_models_are_granted_ready_and_under_their_shortest_name():
    snapshot = world(
        routing(models=("gpt", "denied")),
        routing(namespace="shared", models=("gpt", "common")),
        routing(namespace="far", models=("x",)),
        "apiVersion: aiaccess.dev/v1alpha1\nkind: AIRoutingPolicy\nmetadata: {name: more, namespace: team1}\n"
        "spec: {providers: [{name: a, schema: Anthropic}, {name: p, schema: OpenAI},"
        " {name: k, schema: OpenAI, credentials: {type: APIKey, secretRef: {name: no}}}],"
        " models: [{name: both, backends: [{provider: a}, {provider: p}, {provider: k}]}, {name: away, backends: [{provider: k}]}]}",
        *(access(namespace=namespace) for namespace in ("team1", "shared", "far")),
        access(name="deny", spec=f"{{{ME}, models: [denied], action: Deny}}"),
    )
    visible = {model.name: model.kinds for model in snapshot.visible_models(who())}
    assert visible == {
        "gpt": ("OpenAI",),
        "both": ("Anthropic", "OpenAI"),
        "common": ("OpenAI",),
        "shared/gpt": ("OpenAI",),
        "far/x": ("OpenAI",),
    }
    for name in visible:
        assert allows(snapshot, name)
    assert snapshot.visible_models(who()) is snapshot.visible_models(who())
    assert snapshot.visible_models(who("spiffe://example.org/ns/team1/sa/nobody")) == ()


def test_names_identity_lists_every_policy_that_names_it():
    snapshot = world(
        access(), access(name="deny", namespace="team2", spec=f"{{{ME}, action: Deny}}"), access(name="no", spec="{mtls: {trustDomain: b}}")
    )
    assert [str(ref) for ref in snapshot.names_identity(who())] == ["team1/access", "team2/deny"]


def test_what_is_not_known_is_unavailable_and_blocks_no_more_than_it_must():
    read = resources(routing(), access(), routing(namespace="shared", models=("common",)), access(namespace="shared"))

    def outcome(model: str, *, pending: str = "", unreadable: str = "") -> str:
        state = Resources(read.routing, read.access, pending=frozenset({pending}), unreadable=frozenset({unreadable}))
        try:
            return build(state, SETTINGS).decide(who(), model).namespace
        except (Forbidden, Unavailable) as refusal:
            return refusal.code

    assert outcome("gpt", pending="broker-system") == "unavailable"
    assert outcome("gpt", unreadable="broker-system") == "unavailable"
    assert outcome("common", pending="team1") == "unavailable"
    assert outcome("common", unreadable="team1") == "shared"
    assert outcome("gpt", pending="shared") == "team1"
    assert outcome("nothing", pending="shared") == "unavailable"
    assert outcome("nothing", unreadable="shared") == "unavailable"
    assert outcome("far/x", pending="far") == "unavailable"
    assert outcome("far/x") == "forbidden"
    with pytest.raises(Unavailable):
        build(Resources(pending=frozenset({"broker-system"})), SETTINGS).visible_models(who())


def test_the_list_is_shorter_while_a_namespace_is_not_known():
    read = resources(routing(), access())
    assert build(Resources(read.routing, read.access, pending=frozenset({"team1"})), SETTINGS).visible_models(who()) == ()


def test_a_broker_without_a_trust_domain_of_its_own_has_no_callers_namespace():
    snapshot = world(routing(), access(), settings=Settings(namespace="broker-system"))
    assert not allows(snapshot)
    assert allows(snapshot, "team1/gpt")


def test_a_decision_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("broker.policy.snapshot.REMEMBERED", 2)
    snapshot = world(routing(models=("a", "b", "c")), access())
    assert snapshot.decide(who(), "a") is snapshot.decide(who(), "a")
    for model in "abcabc":
        assert snapshot.decide(who(), model).model == model
    for agent in "abcabc":
        assert snapshot.visible_models(who(f"spiffe://example.org/{agent}")) == ()
    assert len(snapshot._grants) <= 2
    assert len(snapshot._visible) <= 2
    assert REMEMBERED > 2
