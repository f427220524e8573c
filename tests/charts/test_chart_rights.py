"""Who may do what in the cluster, word for word. Whoever changes a right changes this file."""

import pytest
from support.chart import LEAST, MOST, one, render, rights

from broker.kube.source import KINDS
from broker.names import GROUP
from webhook.custody import SECRET_TYPE

WRITE = ("create", "deletecollection", "delete", "patch", "update")


def told(values: dict, *, of: str) -> list[str]:
    """The rights to what is no object of ours, or to ours."""
    found = rights(render(values))
    return [str(right).replace("  ", " ") for right in found if (GROUP in right.what) == (of == "ours")]


def test_the_webhook_reads_what_its_warnings_are_about_and_keeps_its_own_secret():
    found = [right for right in rights(render(LEAST)) if right.account.endswith("-webhook") and GROUP in right.what]
    assert {(right.where, right.what, right.verbs) for right in found} == {
        (where, f"{plural}.{GROUP}", ("list",))
        for where in ("inference-broker", "team1", "team2")
        for plural in ("airoutingpolicies", "aiproviders")
    }
    assert one(render(LEAST), "Secret", "inference-broker-webhook-tls")["type"] == SECRET_TYPE
    assert "data" not in one(render(LEAST), "Secret", "inference-broker-webhook-tls")


def test_who_may_read_secrets_and_what_else_is_not_ours():
    """Account, where, what, which, how. Listing is reading: whoever has the broker's token reads every Secret of team1 and team2."""
    assert told(LEAST, of="others") == [
        "inference-broker | inference-broker | events.events.k8s.io | all | create, get, patch",
        "inference-broker | team1 | events.events.k8s.io | all | create, get, patch",
        "inference-broker | team1 | secrets | all | list, watch",
        "inference-broker | team2 | events.events.k8s.io | all | create, get, patch",
        "inference-broker | team2 | secrets | all | list, watch",
        "inference-broker-controller | inference-broker | leases.coordination.k8s.io | all | create",
        "inference-broker-controller | inference-broker | leases.coordination.k8s.io | inference-broker-controller | get, update",
        "inference-broker-controller | team1 | secrets | all | list, watch",
        "inference-broker-controller | team2 | secrets | all | list, watch",
        "inference-broker-webhook | everywhere | mutatingwebhookconfigurations.admissionregistration.k8s.io | inference-broker | get, patch",
        "inference-broker-webhook | everywhere | validatingwebhookconfigurations.admissionregistration.k8s.io | inference-broker | get, patch",
        "inference-broker-webhook | inference-broker | secrets | inference-broker-webhook-tls | get, update",
    ]


def test_secrets_and_config_maps_can_be_allowed_one_by_one():
    assert [line for line in told(MOST, of="others") if "secrets" in line or "configmaps" in line] == [
        f"{account} | {right} | list, watch"
        for account in ("inference-broker", "inference-broker-controller")
        for right in (
            "inference-broker | secrets | own-provider",
            "shared | secrets | all",
            "spire-system | configmaps | partner-bundle",
            "team1 | secrets | openai",
            "team2 | secrets | all",
        )
    ]


def test_with_all_namespaces_no_secret_is_read_but_those_that_are_named():
    values = LEAST | {"namespaces": ["*"], "secrets": {"team1": ["openai"]}}
    assert [line for line in told(values, of="others") if "secrets" in line and "-webhook" not in line] == [
        "inference-broker | team1 | secrets | openai | list, watch",
        "inference-broker-controller | team1 | secrets | openai | list, watch",
    ]
    assert "inference-broker | everywhere | aiaccesspolicies.aiaccess.dev | all | list, watch" in told(values, of="ours")
    assert [right for right in rights(render(LEAST)) if right.where == "everywhere" and "-webhook" not in right.account] == []


@pytest.mark.parametrize("values", [LEAST, MOST, LEAST | {"namespaces": ["*"]}], ids=["least", "most", "everywhere"])
def test_the_controller_alone_writes_and_statuses_alone(values: dict):
    for right in rights(render(values)):
        if GROUP in right.what:
            status = "/status" in right.what
            assert right.verbs == (("patch",) if status else ("list",) if right.account.endswith("-webhook") else ("list", "watch"))
            assert right.account.endswith("-controller") or not status


@pytest.mark.parametrize("values", [LEAST, MOST, LEAST | {"namespaces": ["*"]}], ids=["least", "most", "everywhere"])
def test_nobody_may_do_everything_escalate_or_act_for_others(values: dict):
    roles = [made for made in render(values) if made["kind"] in ("Role", "ClusterRole")]
    words = {word for role in roles for rule in role["rules"] for word in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])}
    assert words.isdisjoint({"*", "escalate", "bind", "impersonate", "pods/exec", "serviceaccounts/token", "rbac.authorization.k8s.io"})


def test_people_get_parts_of_view_edit_and_admin():
    """edit: what can be called, not who may call it. Nobody: a status."""
    found = {}
    for role in render(LEAST):
        for label in role["metadata"]["labels"]:
            if label.startswith("rbac.authorization.k8s.io/aggregate-to-"):
                found[label.partition("aggregate-to-")[2]] = role["rules"]
    assert {name: [(sorted(rule["resources"]), sorted(rule["verbs"])) for rule in rules] for name, rules in found.items()} == {
        "view": [(sorted(KINDS.values()), ["get", "list", "watch"])],
        "edit": [(["aiproviders", "airoutingpolicies"], sorted(WRITE))],
        "admin": [(["aiaccesspolicies"], sorted(WRITE))],
    }


def test_without_aggregation_people_get_nothing():
    assert not [role for role in render(LEAST | {"rbac": {"aggregate": False}}) if "aggregate-to" in str(role["metadata"]["labels"])]
