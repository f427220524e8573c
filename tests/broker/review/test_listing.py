"""What `broker who-can` says, and that it says of everybody what the broker would decide."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from support.edited_worlds import IDENTITIES, decided, settings, within, world, worlds
from support.worlds import AGENT, SETTINGS, access, files, resources, routing, secret

from broker.files import Folder
from broker.objects import Resources
from broker.policy import Settings
from broker.review.listing import holders, what_can, who_can
from broker.review.printing import OK, REFUSED, USAGE, Output

TEAM = "spiffe://example.org/ns/team1/"


def who(tmp_path: Path, text: str, model: str = "gpt", namespace: str | None = None, output: Output = "text") -> tuple[int, str]:
    out = io.StringIO()
    code = who_can((model, namespace), Folder(files(tmp_path, {"a.yaml": text}), {}).read, SETTINGS, output, out)
    return code, out.getvalue()


def what(tmp_path: Path, text: str, spiffe_id: str = AGENT, output: Output = "text") -> tuple[int, str]:
    out = io.StringIO()
    code = what_can(spiffe_id, Folder(files(tmp_path, {"a.yaml": text}), {}).read, replace(SETTINGS, trust_domain=""), output, out)
    return code, out.getvalue()


@given(worlds(), settings)
def test_the_list_has_an_identity_when_and_only_when_some_name_leads_it_there(given_ones: tuple[list[str], list[str]], operator: Settings):
    snapshot = world(given_ones[0], operator)
    for offer in snapshot.offers.values():
        listed = list(holders(snapshot, offer))
        for spiffe_id in IDENTITIES:
            found = [decided(snapshot, spiffe_id, name) for name in (offer.name, f"{offer.namespace}/{offer.name}")]
            granted = any(one is not None and (one.namespace, one.model) == (offer.namespace, offer.name) for one in found)
            told = [
                one
                for one in listed
                if within(spiffe_id, one.identities.name) and not any(within(spiffe_id, out.identities.name) for out in one.without)
            ]
            assert len(told) == int(granted)


def test_a_whole_trust_domain_is_said_loudly(tmp_path: Path):
    text = who(tmp_path, routing() + access(spec="{mtls: {trustDomain: partner.org}, models: ['*']}"))[1]
    assert "  EVERY identity of trust domain partner.org: granted by AIAccessPolicy team1/access\n" in text
    assert text.endswith("  WARNING: whoever has an SVID of partner.org may call it\n")


def test_who_is_denied_is_an_exception_and_the_deny_is_named_with_its_subjects(tmp_path: Path):
    grant = access(spec=f"{{subjects: [{{spiffeIDPrefix: '{TEAM}'}}], models: [gpt]}}")
    stop = access("stop", spec=f"{{action: Deny, subjects: [{{spiffeID: '{AGENT}'}}]}}")
    trial = access("trial", spec="{action: Deny, mode: Shadow, mtls: {trustDomain: example.org}}")
    code, text = who(tmp_path, routing() + grant + stop + trial)
    assert (code, text.splitlines()[1:]) == (
        OK,
        [
            f"  {TEAM}*: granted by AIAccessPolicy team1/access",
            "    a policy in Shadow mode would refuse it",
            f"    except {AGENT}: is refused, by AIAccessPolicy team1/stop",
            "  denied:",
            f"    AIAccessPolicy team1/stop cuts off {AGENT}",
            "    AIAccessPolicy team1/trial would cut off, were it not Shadow, spiffe://example.org/*",
        ],
    )


def test_programs_read_quotas_features_and_denies(tmp_path: Path):
    grant = access(
        spec=f"{{subjects: [{{spiffeID: '{AGENT}'}}], models: [gpt], features: [Files], quotas: [{{name: day, tokens: 5, per: Day}}]}}"
    )
    rejected = access("broken", spec="{action: Deny, subjects: [{spiffeID: 'spiffe://b.org/x'}], wrong: 1}")
    code, text = who(tmp_path, routing() + grant + rejected, output="json")
    (model,) = json.loads(text)["models"]
    (row,) = model["whoCan"]
    assert (code, row["class"], row["grantedBy"], row["features"]) == (OK, AGENT, ["team1/access"], ["Files"])
    assert row["quotas"] == ["5 total tokens per day, each identity its own, by AIAccessPolicy team1/access/day"]
    assert model["denied"] == [{"policy": "team1/broken", "shadow": False, "identities": ["spiffe://b.org/x"]}]


def test_a_model_that_several_namespaces_offer_is_told_of_each_or_of_the_one_that_is_meant(tmp_path: Path):
    text = routing() + access() + routing(namespace="team2")
    assert [line for line in who(tmp_path, text)[1].splitlines() if line.startswith("model")] == [
        "model team1/gpt of AIRoutingPolicy team1/routing may be called by:",
        "model team2/gpt of AIRoutingPolicy team2/routing may be called by nobody",
    ]
    assert who(tmp_path, text, namespace="team2")[0] == REFUSED
    assert who(tmp_path, text, "team2/gpt")[1].startswith("model team2/gpt")


def test_a_model_of_a_rejected_object_is_called_by_nobody(tmp_path: Path):
    code, text = who(tmp_path, routing(extra="  unknown: 1") + access())
    assert (code, text) == (REFUSED, "model team1/gpt of AIRoutingPolicy team1/routing is not accepted, so nobody may call it\n")


def test_a_model_that_nobody_offers_is_no_answer(tmp_path: Path):
    assert who(tmp_path, routing(), "gpt5") == (USAGE, "no AIRoutingPolicy offers gpt5; there is team1/gpt\n")
    assert who(tmp_path, routing(), namespace="x")[1] == "no AIRoutingPolicy offers gpt in namespace x; there is none\n"
    assert who(tmp_path, "a: [")[0] == USAGE


def test_what_one_identity_may_call(tmp_path: Path):
    text = routing(models=("gpt", "other")) + access() + routing(namespace="team2") + access(namespace="team2")
    code, told = what(tmp_path, text, output="json")
    assert (code, [(one["model"], one["askFor"]) for one in json.loads(told)["models"]]) == (
        OK,
        [("team1/gpt", "gpt"), ("team1/other", "other"), ("team2/gpt", "team2/gpt")],
    )
    assert what(tmp_path, text, "spiffe://a.org/x") == (REFUSED, "spiffe://a.org/x may call nothing\n")


@pytest.mark.parametrize("spiffe_id", ["agent", "spiffe://example.org"])
def test_what_is_no_workload_is_no_question(tmp_path: Path, spiffe_id: str):
    code, text = what(tmp_path, routing(), spiffe_id)
    assert (code, text[:28]) == (USAGE, "the identity is no SPIFFE ID")
    assert what(tmp_path, "a: [")[0] == USAGE


def test_a_namespace_that_could_not_be_read_makes_it_unknown():
    found = replace(resources(routing(), access()), unreadable=frozenset({SETTINGS.namespace}))

    def read() -> Resources:
        return found

    for ask in (lambda out: who_can(("gpt", None), read, SETTINGS, "text", out), lambda out: what_can(AGENT, read, SETTINGS, "text", out)):
        out = io.StringIO()
        assert ask(out) == USAGE
        assert out.getvalue().startswith("it is not known: ")


def test_secrets_that_are_missing_count_as_good(tmp_path: Path):
    keyed = routing().replace("schema: OpenAI}", "schema: OpenAI, credentials: {type: APIKey, secretRef: {name: keys, key: api-key}}}")
    assert "no backend is ready" not in who(tmp_path, keyed + access())[1]
    assert "no backend is ready" in who(tmp_path, keyed + access() + secret(hosts="elsewhere.test"))[1]
