"""What `broker check` and `broker explain` print, and what their exit codes say."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from support.worlds import AGENT, SETTINGS, access, files, routing, secret

from broker.files import Folder
from broker.review import checking, explaining
from broker.review.explaining import Question
from broker.review.printing import OK, REFUSED, USAGE, WRONG, Output

KAGENTI = Path(__file__).parents[1] / "golden" / "kagenti"
UNNAMED = replace(SETTINGS, trust_domain="")


def check(*paths: Path, output: Output = "text") -> tuple[int, str]:
    out = io.StringIO()
    return checking.check(Folder(paths, {}).read, SETTINGS, output, out), out.getvalue()


def explain(folder: Path, spiffe_id: str = AGENT, model: str = "gpt", output: Output = "text") -> tuple[int, str]:
    out = io.StringIO()
    return explaining.explain(Question(spiffe_id, model), Folder(folder, {}).read, UNNAMED, output, out), out.getvalue()


def test_good_objects_are_fine(tmp_path: Path):
    code, text = check(files(tmp_path, {"a.yaml": routing() + access() + secret()}))
    assert code == OK
    assert text.endswith("objects: 3, errors: 0, warnings: 0\n")


def test_every_error_is_one_line_with_its_place(tmp_path: Path):
    files(
        tmp_path,
        {"a.yaml": access(spec="\n  modles: [gpt]\n  quotas:\n  - {name: q, tokens: 0, per: Day}"), "b.yaml": "kind: AIAccesPolicy\n"},
    )
    code, text = check(tmp_path)
    assert code == WRONG
    lines = text.replace(f"{tmp_path}/", "").splitlines()
    policy = "error: AIAccessPolicy team1/access: spec"
    assert lines[0].startswith("b.yaml:1:1: error: document: kind: is none of AIRoutingPolicy, AIAccessPolicy, AIProvider, Secret;")
    assert lines[1] == f"a.yaml:6:3: {policy}.modles: is not a field of aiaccess.dev/v1alpha1; did you mean models?"
    assert lines[2] == f"a.yaml:8:15: {policy}.quotas[0].tokens: must be at least 1"
    assert lines[3].startswith(f"a.yaml:5:1: {policy}: names nobody: give subjects, or mtls.trustDomain")
    assert lines[-1] == "objects: 1, errors: 4, warnings: 0"


def test_a_kind_with_a_slip_of_the_pen_is_told_which_one_is_near(tmp_path: Path):
    files(tmp_path, {"a.yaml": "kind: AIAccesPolicy\n", "b.yaml": "apiVersion: aiaccess.dev/v1alpha1\nkind: Elephant\n"})
    _, text = check(tmp_path)
    assert [line.rpartition("; ")[2] for line in text.splitlines()[:2]] == [
        "did you mean AIAccessPolicy?",
        "a List is given as one document for each of its items",
    ]


def test_a_folder_without_any_object_is_not_said_to_be_well(tmp_path: Path):
    files(tmp_path, {"policies.json": "{}"})
    out = io.StringIO()
    code = checking.check(checking.of_files(Folder((tmp_path,), {}).read), SETTINGS, "text", out)
    assert (code, out.getvalue()) == (WRONG, "there is no object: of a folder, files are read whose names end with .yaml or .yml\n")


def test_a_file_that_is_no_yaml_is_an_error(tmp_path: Path):
    files(tmp_path, {"a.yaml": "a: ["})
    code, text = check(tmp_path)
    assert (code, text.startswith(f"{tmp_path}/a.yaml:2:1: is no YAML")) == (WRONG, True)
    assert json.loads(check(tmp_path, output="json")[1])["errors"][0].startswith(f"{tmp_path}/a.yaml:2:1")


def test_what_is_not_ready_is_a_warning(tmp_path: Path):
    code, text = check(
        files(tmp_path, {"a.yaml": routing().replace("OpenAI", "Gemini"), "d.yaml": "apiVersion: apps/v1\nkind: Deployment\n"})
    )
    assert code == OK
    assert (
        f"{tmp_path}/a.yaml:6:15: warning: AIRoutingPolicy team1/routing: spec.providers[0]: provider p is not ready (NotSupported)" in text
    )
    assert f"{tmp_path}/d.yaml:2:1: warning: document: kind: is not read here" in text


def test_a_name_conflict_is_an_error(tmp_path: Path):
    code, text = check(files(tmp_path, {"a.yaml": routing(name="a"), "b.yaml": routing(name="b")}))
    assert code == WRONG
    assert "the older object team1/a keeps the model gpt" in text


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_machines_read_the_same_statuses_as_kubernetes_has(tmp_path: Path, output: Output):
    files(tmp_path, {"a.yaml": routing() + access(spec="{mtls: {trustDomain: a.org}, models: [gpt, no]}")})
    code, text = check(tmp_path, output=output)
    report = yaml.safe_load(text) if output == "yaml" else json.loads(text)
    assert code == OK
    policy, route = report["objects"]
    assert policy["metadata"] == {"name": "access", "namespace": "team1"}
    assert policy["status"]["subjectSummary"] == "*.a.org"
    assert policy["status"]["modelSummary"] == "gpt +1"
    assert {one["type"]: one["status"] for one in policy["status"]["conditions"]}["ModelsResolved"] == "False"
    assert route["status"]["models"] == [{"name": "gpt", "ready": True, "reason": "Ready", "message": "ready"}]
    assert report["errors"] == []
    assert report["warnings"][0]["place"] == f"{tmp_path}/a.yaml:14:36"


def test_the_kagenti_examples_pass_the_check():
    code, text = check(KAGENTI)
    assert code == OK
    assert "provider azure is not ready (NotSupported): credentials of type AzureCredentials" in text
    assert "provider bedrock is not ready (NotSupported): schema AWSBedrock" in text


def test_a_yes_is_explained(tmp_path: Path):
    files(
        tmp_path,
        {
            "r.yaml": routing().replace("provider: p, model: real}", "provider: p, model: real, priority: 2}, {provider: q}"),
            "a.yaml": access(
                spec=f"{{subjects: [{{spiffeID: '{AGENT}'}}], models: ['*'],"
                " quotas: [{name: day, tokens: 9, per: Day}, {name: w, concurrent: 2}]}"
            ),
            "s.yaml": access("shadow", spec="{mtls: {trustDomain: example.org}, action: Deny, mode: Shadow}"),
        },
    )
    code, text = explain(tmp_path)
    missing = "there is no provider q in this object and no AIProvider of that name in the namespace"
    assert code == OK
    assert text.splitlines() == [
        f"allowed: {AGENT} asking for gpt: a policy allows it and none denies it",
        "the name is looked for in:",
        "  1. namespace team1, model gpt: offered by AIRoutingPolicy team1/routing",
        "policies that name this identity:",
        "  team1/access (Allow): allows",
        "  team1/shadow (Deny, Shadow): would refuse (Shadow)",
        "backends, in the order they are tried:",
        f"  1. q, model gpt, priority 0, weight 1: ProviderNotFound: {missing}",
        "  2. p, model real, priority 2, weight 1: ready",
        "quotas that apply:",
        "  9 total tokens per day, each identity its own, by AIAccessPolicy team1/access/day",
        "  2 exchanges at once, each identity its own, by AIAccessPolicy team1/access/w",
    ]


@pytest.mark.parametrize(
    ("objects", "model", "told"),
    [
        (routing(), "gpt", "no AIAccessPolicy of namespace team1 that names this identity allows this model"),
        (routing() + access(), "other", "no namespace where the name is looked for offers it"),
        (routing(extra="  unknown: 1") + access(), "gpt", "names the model and is rejected"),
        (
            routing() + access() + access("d", spec="{mtls: {trustDomain: example.org}, action: Deny}"),
            "gpt",
            "AIAccessPolicy team1/d denies it",
        ),
        (routing() + access() + access("d", spec="{action: deny}"), "gpt", "is rejected, and keeps denying"),
        (routing() + access() + access("d", spec="{action: Deny, mode: Shadow, x: 1}"), "gpt2", "names the identity, but not this model"),
        (routing().replace("OpenAI", "Gemini") + access(), "gpt", "refused (no_backend)"),
        (routing() + access() + access("d", spec="{action: Limit}"), "gpt", "AIAccessPolicy team1/d limits it and is rejected: mend it"),
    ],
)
def test_a_no_is_explained(tmp_path: Path, objects: str, model: str, told: str):
    code, text = explain(files(tmp_path, {"a.yaml": objects}), model=model)
    assert code == REFUSED
    assert told in text


def test_an_explanation_for_machines(tmp_path: Path):
    files(tmp_path, {"a.yaml": routing() + access()})
    code, text = explain(tmp_path, output="json")
    told = json.loads(text)
    assert code == OK
    assert (told["allowed"], told["code"], told["backends"][0]["ready"]) == (True, "allowed", True)
    assert told["policies"][0]["policy"] == "team1/access"
    assert told["lookedFor"] == [{"namespace": "team1", "name": "gpt", "outcome": "offered by AIRoutingPolicy team1/routing"}]
    refused = yaml.safe_load(explain(tmp_path, model="no", output="yaml")[1])
    assert (refused["allowed"], refused["quotas"], refused["maxStreamSeconds"]) == (False, [], None)


LIMITED = access("everybody", spec="{action: Limit, quotas: [{name: day, tokens: 5, per: Day, overridable: true}]}")
EXCEPTION = access(
    "exception", spec=f"{{action: Limit, subjects: [{{spiffeID: '{AGENT}'}}], quotas: [{{name: day, tokens: 9, per: Day}}]}}"
)


def test_machines_read_which_quota_was_overridden_by_which(tmp_path: Path):
    limited = routing(extra="").replace("model: real}]", "model: real}], rateLimit: {tokensPerHour: 7}")
    told = json.loads(explain(files(tmp_path, {"a.yaml": limited + access() + LIMITED + EXCEPTION}), output="json")[1])
    assert [(one["limit"], one["names"], one["notes"]) for one in told["quotas"]] == [
        (7, "", []),
        (9, "this identity alone", ["overrides the 5 of team1/everybody, which is overridable"]),
    ]
    assert [(one["limit"], one["names"], one["overriddenBy"]) for one in told["overriddenQuotas"]] == [
        (5, "every identity", ["team1/exception (9)"])
    ]
    assert [(one["policy"], one["action"], one["effect"]) for one in told["policies"]][1:] == [
        ("team1/everybody", "Limit", "limits what others allow"),
        ("team1/exception", "Limit", "limits what others allow"),
    ]


def test_an_exception_that_has_no_effect_is_a_warning_at_its_quota(tmp_path: Path):
    code, text = check(files(tmp_path, {"a.yaml": LIMITED.replace(", overridable: true", ""), "b.yaml": EXCEPTION}))
    assert code == OK
    (line,) = [one for one in text.splitlines() if "warning" in one and "quotas[0]" in one]
    assert line.startswith(f"{tmp_path}/b.yaml:5:")
    assert "AIAccessPolicy team1/exception: spec.quotas[0]: has no effect above 5, the same quota of AIAccessPolicy team1/everybody" in line
    assert json.loads(check(tmp_path, output="json")[1])["warnings"][0]["path"] == "spec.quotas[0]"


def test_a_question_that_cannot_be_read_is_a_usage_error(tmp_path: Path):
    assert explain(files(tmp_path, {"a.yaml": routing()}), spiffe_id="agent")[0] == USAGE
    assert explain(files(tmp_path, {"a.yaml": "a: ["}))[0] == USAGE
    assert explain(tmp_path / "absent")[0] == USAGE


def test_a_trust_domain_alone_asks_nothing(tmp_path: Path):
    spec = "{mtls: {trustDomain: example.org}, models: ['*'], quotas: [{name: day, tokens: 5, per: Day, overridable: true}]}"
    code, text = explain(files(tmp_path, {"a.yaml": routing() + access(spec=spec)}), spiffe_id="spiffe://example.org", model="team1/gpt")
    assert (code, "names a trust domain alone, which no workload has" in text) == (USAGE, True)


def test_an_explanation_agrees_with_the_decision_where_a_namespace_is_not_known():
    from support.worlds import who

    from broker.objects import Resources
    from broker.policy import build
    from broker.policy import explain as why

    pending = why(build(Resources(pending=frozenset({"team1"})), SETTINGS), who(), "gpt")
    assert (pending.code, pending.steps[0].outcome) == ("unavailable", "not read yet")
    unreadable = why(build(Resources(unreadable=frozenset({"team1"})), SETTINGS), who(), "gpt")
    assert (unreadable.code, unreadable.steps[0].outcome) == ("unavailable", "may not be read")


# --- money

PRICES = routing().replace(
    "provider: p, model: real}]",
    "provider: p, model: real}, {provider: p, model: other, priority: 1}], price: {inputPerMillionTokens: '2.50', "
    "outputPerMillionTokens: '10', cachedInputPerMillionTokens: '1.25', perRequest: '0.01'}",
)
HALF = PRICES.replace("model: other,", "model: other, price: {perRequest: '1'},")
DOLLARS = access(spec=f"{{subjects: [{{spiffeID: '{AGENT}'}}], models: ['*'], quotas: [{{name: money, usd: '5', per: Month}}]}}")


def test_prices_and_quotas_in_dollars_are_explained(tmp_path: Path):
    code, text = explain(files(tmp_path, {"a.yaml": PRICES + DOLLARS}))
    price = "USD for a million tokens: 2.50 in, 10.00 out, 1.25 cached, 0.01 a request"
    assert code == OK
    assert text.splitlines()[-5:] == [
        "backends, in the order they are tried:",
        f"  1. p, model real, priority 0, weight 1: ready; {price}",
        f"  2. p, model other, priority 1, weight 1: ready; {price}",
        "quotas that apply:",
        "  5.00 USD per month, each identity its own, by AIAccessPolicy team1/access/money",
    ]


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ("[HostedTools]", ["features: HostedTools"]),
        (
            "[Storage, HostedTools]",
            [
                "features: HostedTools, Storage",
                "  without --sealing-keys a broker refuses what needs Storage: `broker doctor` says whether it has any",
            ],
        ),
    ],
)
def test_granted_features_are_explained_and_which_of_them_wait_for_keys(tmp_path: Path, features: str, told: list[str]):
    granted = access(spec=f"{{mtls: {{trustDomain: example.org}}, models: ['*'], features: {features}}}")
    code, text = explain(files(tmp_path, {"a.yaml": routing() + granted}))
    assert code == OK
    assert text.splitlines()[-len(told) - 1 :] == ["no quota applies", *told]


def test_a_backend_that_is_passed_over_for_want_of_a_price_is_explained_and_warned_of(tmp_path: Path):
    code, text = explain(files(tmp_path, {"a.yaml": HALF + DOLLARS}))
    assert code == OK
    assert "  2. p, model other, priority 1, weight 1: not asked, since a quota in US dollars counts and it has no price\n" in text
    code, text = check(tmp_path)
    assert code == OK
    assert "spec.quotas[0].usd: some backends of model gpt have no price" in text
    assert "spec.models[0].backends[1].price: counts as no price" in text
    without = explain(files(tmp_path, {"a.yaml": HALF + access()}))[1]
    assert "priority 1, weight 1: ready\n" in without


def test_machines_read_dollars_as_strings(tmp_path: Path):
    told = json.loads(explain(files(tmp_path, {"a.yaml": HALF + DOLLARS}), output="json")[1])
    assert [(one["limit"], one["unit"], one["per"]) for one in told["quotas"]] == [("5.00", "usd", "month")]
    assert [one["passedOver"] for one in told["backends"]] == [False, True]
    assert told["backends"][0]["price"] == {
        "inputPerMillionTokens": "2.50",
        "outputPerMillionTokens": "10.00",
        "cachedInputPerMillionTokens": "1.25",
        "cacheWritePerMillionTokens": "2.50",
        "perRequest": "0.01",
    }
    assert told["backends"][1]["price"] is None


def test_a_model_without_a_price_is_a_warning_and_its_no_is_explained(tmp_path: Path):
    files(tmp_path, {"a.yaml": routing() + DOLLARS})
    code, text = check(tmp_path)
    assert code == OK
    assert "warning: AIAccessPolicy team1/access: spec.quotas[0].usd: PriceUnknown: no price is known of gpt" in text
    assert "ModelsResolved=False/PriceUnknown" in text
    code, text = explain(tmp_path)
    assert code == REFUSED
    assert "AIAccessPolicy team1/access limits it in US dollars, and the model has no price" in text
