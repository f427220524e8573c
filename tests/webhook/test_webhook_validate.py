"""Our own objects, judged before they are stored."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.admission import a_review
from support.fake_apiserver import access, routing
from support.generated_objects import KINDS, specs, whole

from broker.names import API_VERSION
from broker.objects import Stray, read_document
from webhook import review, validate
from webhook.review import Verdict

PLURALS = {"AIAccessPolicy": "aiaccesspolicies", "AIRoutingPolicy": "airoutingpolicies", "AIProvider": "aiproviders"}
BROKEN = access("agents", maxTokens=5)


def provider(name="openai", **spec):
    return {
        "apiVersion": API_VERSION,
        "kind": "AIProvider",
        "metadata": {"name": name, "namespace": "team1"},
        "spec": {"schema": "OpenAI"} | spec,
    }


def asked(thing, before=None, **request):
    kind = {"group": "aiaccess.dev", "version": "v1alpha1", "kind": thing["kind"]}
    operation = {"operation": "CREATE" if before is None else "UPDATE"}
    return review.read(json.dumps(a_review(thing, oldObject=before, kind=kind, **(operation | request))).encode())


def examined(thing, before=None, **request):
    return validate.examine(asked(thing, before, **request))


def warned(thing, *others, known=True, own="inference-broker"):
    found = examined(thing)
    assert not isinstance(found, Verdict), found.message
    return validate.remarks(found, [read_document(one) for one in others] if known else None, own)


def test_what_is_wrong_refuses_with_its_path_and_what_to_do():
    verdict = examined(access("agents", subjects=[{"spiffeID": "spiffe://example.org/ns/team1/sa/agent/"}]))
    assert not verdict.allowed
    assert verdict.message.startswith("spec.subjects[0].spiffeID: must be a SPIFFE ID such as spiffe://example.org/ns/team1/sa/agent")


def test_a_field_that_nobody_knows_refuses_and_the_near_one_is_named():
    verdict = examined(routing() | {"spec": {"model": []}})
    assert verdict.message == "spec.model: is not a field of aiaccess.dev/v1alpha1; did you mean models?"


def test_every_fault_has_a_line():
    verdict = examined(access("agents", maxTokens=5, mode="Shadwo"))
    head, *lines = verdict.message.splitlines()
    assert head == "AIAccessPolicy has 2 faults:"
    assert {line.partition(":")[0] for line in lines} == {"- spec.maxTokens", "- spec.mode"}


def test_of_a_hundred_faults_some_are_shown_and_the_rest_counted():
    verdict = examined(access("agents", **{f"wrong{n}": 1 for n in range(100)}))
    assert len(verdict.message.splitlines()) == 1 + validate.FAULTS_SHOWN + 1
    assert verdict.message.endswith("- and 80 more")


def test_a_name_of_a_field_that_is_no_text_for_a_terminal_is_none_in_the_message():
    verdict = examined(access("agents", **{"a\x1b[2J\nb": 1}))
    assert "spec.a?[2J?b:" in verdict.message


def test_an_object_nested_a_thousand_levels_deep_is_refused():
    deep: object = 1
    for _ in range(900):
        deep = {"x": deep}
    verdict = examined(access("agents", wrong=deep))
    assert "spec.wrong: is not a field" in verdict.message


def test_a_change_of_what_is_broken_into_what_is_less_broken_is_refused():
    assert not examined(BROKEN, before=access("agents", maxTokens=5, another=6)).allowed


def test_a_change_into_something_right_passes():
    assert not isinstance(examined(access("agents"), before=BROKEN), Verdict)


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {"team": "one"}},
        {"finalizers": ["example.org/hold"]},
        {"ownerReferences": []},
        {"deletionTimestamp": "2026-11-21T12:00:00Z"},
    ],
)
def test_what_changes_no_spec_passes_however_wrong_that_is(metadata):
    changed = BROKEN | {"metadata": BROKEN["metadata"] | metadata, "status": {"conditions": []}}
    assert examined(changed, before=BROKEN) == Verdict()


def test_an_object_that_is_being_deleted_passes_whatever_else_changes():
    going = BROKEN["metadata"] | {"deletionTimestamp": "2026-11-21T12:00:00Z", "finalizers": []}
    assert examined(access("agents", other=1) | {"metadata": going}, before=BROKEN) == Verdict()


def test_true_in_the_place_of_one_is_a_change():
    """To Python they are equal."""
    before, after = access("agents", x=1), access("agents", x=True)
    assert not examined(after, before=before).allowed


@pytest.mark.parametrize(
    "request_",
    [
        {"operation": "DELETE"},
        {"operation": "CONNECT"},
        {"subResource": "status"},
        {"kind": {"group": "", "version": "v1", "kind": "Secret"}},
        {"kind": {"group": "example.org", "version": "v1", "kind": "AIAccessPolicy"}},
    ],
)
def test_what_is_none_of_its_business_passes(request_):
    asked_ = {"kind": {"group": "aiaccess.dev", "version": "v1alpha1", "kind": "AIAccessPolicy"}} | request_
    assert validate.examine(review.read(json.dumps(a_review(BROKEN, **asked_)).encode())) == Verdict()


def test_a_deletion_has_no_object_and_passes():
    kind = {"group": "aiaccess.dev", "version": "v1alpha1", "kind": "AIAccessPolicy"}
    request = review.read(json.dumps(a_review(None, operation="DELETE", kind=kind, oldObject=BROKEN)).encode())
    assert validate.examine(request) == Verdict()


@pytest.mark.parametrize("body", ["null", "5", '"text"', "[]", '{"kind": "AIProvider"}', '{"kind": "Secret"}'])
def test_an_object_that_is_none_is_refused(body):
    kind = {"group": "aiaccess.dev", "version": "v1alpha1", "kind": "AIAccessPolicy"}
    verdict = validate.examine(review.read(json.dumps(a_review(json.loads(body), kind=kind)).encode()))
    assert isinstance(verdict, Verdict)
    assert not verdict.allowed


# -- warnings


def test_an_object_in_which_everything_is_there_is_warned_of_nothing():
    assert warned(access("agents"), routing()) == ()
    assert warned(routing(secret="openai")) == ()
    assert warned(provider()) == ()


def test_a_model_that_no_object_of_the_namespace_offers_is_a_warning():
    (text,) = warned(access("agents", models=["gpt-4o", "gpt-5"]), routing())
    assert text.startswith("spec.models: no AIRoutingPolicy of this namespace offers gpt-5;")


def test_of_what_nobody_knows_nothing_is_said():
    assert warned(access("agents"), known=False) == ()
    assert warned(routing() | {"spec": {"models": [{"name": "m", "backends": [{"provider": "absent"}]}]}}, known=False) == ()


def test_a_deny_in_the_brokers_own_namespace_is_about_models_of_others():
    assert warned(access("stop", action="Deny"), own="team1") == ()
    assert warned(access("stop", action="Deny"), own="another")


def test_a_provider_that_is_not_there_is_a_warning():
    lacking = routing() | {"spec": {"models": [{"name": "m", "backends": [{"provider": "openai"}, {"provider": "azure"}]}]}}
    assert [text.partition(" in this")[0] for text in warned(lacking, provider("openai"))] == [
        "spec.models[0].backends[1].provider: there is no provider azure"
    ]


def test_a_subject_outside_of_the_policys_trust_domain_is_a_warning_since_it_never_matches():
    (text,) = warned(access("agents", mtls={"trustDomain": "other.org"}), routing())
    assert text == "spec.subjects[0]: names nobody: mtls.trustDomain narrows the policy to other.org"


def test_a_model_that_an_older_object_keeps_is_a_warning():
    (text,) = warned(routing("younger"), routing("older"))
    assert text == "spec.models[0]: an older object of the namespace keeps the model gpt-4o; rename one of the two"


def test_an_object_on_its_way_in_is_younger_than_what_is_there():
    there = routing("zz")
    there["metadata"]["creationTimestamp"] = "2026-11-21T12:00:00Z"
    assert "an older object of the namespace keeps the model gpt-4o" in warned(routing("aa"), there)[0]


def test_itself_as_it_was_is_no_neighbour():
    assert warned(routing(), routing()) == ()


def test_what_this_version_does_not_speak_is_a_warning():
    (text,) = warned(provider(protocol="gRPC"))
    assert "protocol gRPC is not supported" in text


def test_an_endpoint_that_is_none_is_a_warning():
    (text,) = warned(provider(endpoint="https://user@llm.example.com"))
    assert "its endpoint must be https://HOST" in text


@pytest.mark.parametrize("endpoint", ["http://llm.example.com", "http://10.0.0.7:8080", "https://127.0.0.1:8443", "https://[fd00::1]"])
def test_where_only_the_operator_knows_whether_it_may_be_called_nothing_is_said(endpoint):
    assert warned(provider(endpoint=endpoint)) == ()


def test_a_key_in_an_object_is_a_warning_without_the_key():
    texts = warned(provider(credentials={"type": "Inline", "value": "sk-canary"}))
    assert any("puts a key into an object" in text for text in texts)
    assert "sk-canary" not in repr(texts)


def test_a_quota_in_dollars_on_a_model_without_a_price_is_a_warning():
    (text,) = warned(access("agents", quotas=[{"name": "money", "usd": "5", "per": "Day"}]), routing())
    assert "no price is known of gpt-4o" in text


DOLLARS = [{"name": "money", "usd": "5", "per": "Day"}]
OF_EVERY_MODEL = {"subjects": [{"spiffeID": "spiffe://example.org/ns/team1/sa/agent"}], "models": ["*"]}


@pytest.mark.parametrize(
    "thing",
    [
        access("x", models=["guess"]),
        access("x", **OF_EVERY_MODEL, quotas=DOLLARS),
        access("x", **OF_EVERY_MODEL, action="Limit", quotas=DOLLARS),
        access("x", action="Deny", models=["guess"]),
        routing("x", models=("guess", "gpt-4o")),
        routing("x") | {"spec": {"models": [{"name": "m", "backends": [{"provider": "guess"}]}]}},
    ],
)
def test_whoever_asks_about_a_namespace_hears_of_no_name_that_he_does_not_say(thing):
    theirs = routing("secret-object", models=("secret-model", "secret-other", "gpt-4o"))
    theirs["spec"]["providers"][0]["name"] = "secret-inline"
    theirs["spec"]["models"][0]["backends"] = [{"provider": "secret-absent"}]
    assert "secret" not in repr(warned(thing, theirs, provider("secret-provider")))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(KINDS)).flatmap(lambda kind: specs(kind).map(lambda spec: whole(kind, spec))))
def test_it_takes_exactly_what_the_brokers_reader_takes_and_has_short_words_for_the_rest(made):
    found, read = examined(made), read_document(made)
    assert not isinstance(read, Stray)
    assert isinstance(found, Verdict) == bool(read.about.faults)
    if isinstance(found, Verdict):
        assert not found.allowed
        assert found.message
    else:
        assert all(text.isprintable() for text in validate.remarks(found, [], "inference-broker"))


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(KINDS)), _ANYTHING, _ANYTHING, _ANYTHING)
def test_whatever_stands_in_an_object_there_is_an_answer(kind, metadata, spec, before):
    thing = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
    found = examined(thing, before={"spec": before})
    if not isinstance(found, Verdict):
        validate.remarks(found, None, "inference-broker")
