"""What must hold of decisions whatever the objects say."""

from hypothesis import given
from hypothesis import strategies as st
from support.worlds import SETTINGS, access, documents, routing, who, world

from broker.errors import Forbidden
from broker.grant import Grant
from broker.objects import collect, read_document
from broker.policy import Snapshot, build, explain

DOMAINS = ("a.org", "b.org", "example.org")
SEGMENTS = ("ns", "team1", "team2", "sa", "agent", "x")
MODELS = ("gpt", "other", "team1/gpt")

domains = st.sampled_from(DOMAINS)
paths = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map("/".join) | st.sampled_from(
    ["ns/team1/sa/agent", "ns/team2/sa/agent"]
)
identities = st.builds("spiffe://{}/{}".format, domains, paths)
models = st.sampled_from(MODELS) | st.sampled_from(["team2/gpt", "shared/gpt", "nothing"])


@st.composite
def specs(draw: st.DrawFn, action: str | None = None, domain: str | None = None) -> str:
    of = st.just(domain) if domain else domains
    whole = draw(of)
    subject = st.one_of(
        st.builds("{{spiffeID: 'spiffe://{}/{}'}}".format, of, paths),
        st.builds("{{spiffeIDPrefix: 'spiffe://{}/{}/'}}".format, of, paths),
        st.builds("{{serviceAccount: {{name: agent, namespace: {}, trustDomain: {}}}}}".format, st.sampled_from(["team1", "team2"]), of),
    )
    subjects = draw(st.lists(subject, min_size=1, max_size=3) | st.none())
    listed = draw(st.lists(st.sampled_from(["gpt", "other", "'*'"]), min_size=1, max_size=2, unique=True))
    fields = [f"action: {action or draw(st.sampled_from(['Allow', 'Allow', 'Deny']))}", f"models: [{', '.join(listed)}]"]
    fields.append(f"mode: {draw(st.sampled_from(['Enforce', 'Enforce', 'Shadow']))}")
    fields.append(f"subjects: [{', '.join(subjects)}]" if subjects else f"mtls: {{trustDomain: {whole}}}")
    return f"{{{', '.join(fields)}}}"


@st.composite
def policies(draw: st.DrawFn, action: str | None = None, domain: str | None = None) -> str:
    name = draw(st.sampled_from(["p", "q", "r", "s", "t"])) + draw(st.sampled_from(["1", "2", "3"]))
    return access(name, draw(st.sampled_from(["team1", "team2", "shared", "broker-system"])), draw(specs(action, domain)))


routings = st.just([routing(namespace=namespace, models=("gpt", "other")) for namespace in ("team1", "team2", "shared")])


def outcome(snapshot: Snapshot, spiffe_id: str, model: str) -> Grant | None:
    try:
        return snapshot.decide(who(spiffe_id), model)
    except Forbidden:
        return None


@given(st.lists(policies(domain="a.org"), max_size=6), routings, st.builds("spiffe://b.org/{}".format, paths), models)
def test_a_policy_of_one_trust_domain_never_names_an_identity_of_another(
    given_ones: list[str], routed: list[str], spiffe_id: str, model: str
):
    snapshot = world(*given_ones, *routed)
    assert outcome(snapshot, spiffe_id, model) is None
    assert snapshot.names_identity(who(spiffe_id)) == ()


@given(st.lists(policies(), max_size=5), routings, policies(action="Deny"), identities, models)
def test_a_deny_more_never_allows_more(given_ones: list[str], routed: list[str], deny: str, spiffe_id: str, model: str):
    before = outcome(world(*given_ones, *routed), spiffe_id, model)
    after = outcome(world(*given_ones, *routed, deny.replace("metadata: {name: ", "metadata: {name: deny-")), spiffe_id, model)
    assert after is None or before is not None


@given(prefix=paths, path=paths, domain=domains)
def test_a_prefix_never_crosses_a_segment(prefix: str, path: str, domain: str):
    spec = f"{{subjects: [{{spiffeIDPrefix: 'spiffe://a.org/{prefix}/'}}], models: ['*']}}"
    snapshot = world(routing(), access(spec=spec))
    segments = prefix.split("/")
    expected = domain == "a.org" and len(path.split("/")) > len(segments) and path.split("/")[: len(segments)] == segments
    assert (outcome(snapshot, f"spiffe://{domain}/{path}", "team1/gpt") is not None) is expected


@given(specs(action="Allow"), st.sampled_from(["modles", "Action", "extra", "quota", "tokensPerHour"]), identities, models)
def test_an_object_with_an_unknown_field_never_grants(spec: str, field: str, spiffe_id: str, model: str):
    text = access(spec=spec[:-1] + f", {field}: 1}}")
    assert outcome(world(routing(models=("gpt", "other")), text), spiffe_id, model) is None


@given(st.lists(policies(), max_size=6), routings, identities, models, st.randoms(use_true_random=False))
def test_the_order_of_files_changes_no_decision(given_ones: list[str], routed: list[str], spiffe_id: str, model: str, random):
    texts = [*given_ones, *routed, routing(name="second", models=("gpt", "third"))]
    read = [document for text in texts for document in documents(text)]
    first = build(collect(read), SETTINGS)
    random.shuffle(read)
    second = build(collect(read), SETTINGS)
    assert outcome(first, spiffe_id, model) == outcome(second, spiffe_id, model)
    assert [(one.about.name, one.conditions) for one in first.statuses] == [(one.about.name, one.conditions) for one in second.statuses]


@given(st.lists(policies(), max_size=6), routings, identities, models)
def test_asking_twice_is_answered_the_same(given_ones: list[str], routed: list[str], spiffe_id: str, model: str):
    snapshot = world(*given_ones, *routed)
    assert (
        outcome(snapshot, spiffe_id, model) == outcome(snapshot, spiffe_id, model) == outcome(world(*given_ones, *routed), spiffe_id, model)
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["gpt", "p", "*", "Deny", "team1", "OpenAI", "spiffe://a.org/x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "namespace", "models", "providers", "backends", "provider", "schema", "subjects", "spiffeID", "action", "mtls"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)
wild = st.fixed_dictionaries(
    {
        "apiVersion": st.sampled_from(["aiaccess.dev/v1alpha1", "v1"]),
        "kind": st.sampled_from(["AIRoutingPolicy", "AIAccessPolicy", "AIProvider", "Secret", "Other"]),
        "metadata": st.fixed_dictionaries({"name": st.sampled_from(["a", "b", None]), "namespace": st.sampled_from(["team1", "B", 7])})
        | json_values,
        "spec": json_values,
    }
)


@given(st.lists(wild, max_size=5), identities, models)
def test_no_object_however_wrong_stops_the_others_from_being_decided(raw: list[object], spiffe_id: str, model: str):
    snapshot = build(collect(read_document(one) for one in raw), SETTINGS)
    assert outcome(snapshot, spiffe_id, model) is None or any(one.about.accepted for one in snapshot.statuses)
    assert isinstance(snapshot.visible_models(who(spiffe_id)), tuple)
    assert explain(snapshot, who(spiffe_id), model).code in {"allowed", "forbidden", "no_backend"}


@given(st.lists(policies(), max_size=6), routings, identities)
def test_what_is_listed_is_what_is_granted(given_ones: list[str], routed: list[str], spiffe_id: str):
    snapshot = world(*given_ones, *routed)
    listed = {model.name for model in snapshot.visible_models(who(spiffe_id))}
    assert all(outcome(snapshot, spiffe_id, name) for name in listed)
    reached = {(grant.namespace, grant.model) for name in listed if (grant := outcome(snapshot, spiffe_id, name))}
    granted = {
        (grant.namespace, grant.model)
        for namespace, name in snapshot.offers
        if (grant := outcome(snapshot, spiffe_id, f"{namespace}/{name}"))
    }
    assert granted == reached
