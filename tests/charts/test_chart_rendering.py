"""What the chart makes: objects that Kubernetes knows, Pods that pass the restricted profile, switches that our programs take."""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import kubernetes_validate
import pytest
from support.chart import LEAST, MOST, NAME, NAMESPACE, Object, Values, container, one, pods, render
from support.pod_security import breaches

import webhook.config
from broker import cli, config, names, wiring
from broker.kube.source import KINDS
from broker.otlp import opening

VERSIONS = sorted(set(kubernetes_validate.utils.all_versions()), key=lambda version: int(version.split(".")[1]))[-3:]
GIVEN = {"certificate": {"mode": "given", "given": {"secretName": "webhook", "caBundle": "-----BEGIN CERTIFICATE-----\n"}}}
SETS: Mapping[str, Values] = {
    "least": LEAST,
    "most": MOST,
    "everywhere": LEAST | {"namespaces": ["*"], "secrets": {"team1": ["openai"], "team2": ["*"]}},
    "given": LEAST | {"webhook": GIVEN, "gateway": {"image": "registry.example/gateway:1"}},
    "audit in the pod": LEAST | {"broker": {"auditFile": {"enabled": True}}},
    "broker alone": LEAST | {"controller": {"enabled": False}, "webhook": {"enabled": False}, "networkPolicy": {"enabled": False}},
}
RENDERED = {name: render(values) for name, values in SETS.items()}
OF_OTHERS = ("cert-manager.io/", "monitoring.coreos.com/")  # kinds whose schemas Kubernetes does not have
every = pytest.mark.parametrize("objects", RENDERED.values(), ids=RENDERED)

# Switches that no value of the chart sets, and why
UNSET = {
    "serve": {
        "--kubeconfig": "a Pod has its service account",
        "--trust-bundle": "--trust-bundle-configmap, which is read anew when it changes",
    },
    "controller": {"--kubeconfig": "a Pod has its service account"},
    "webhook": {
        "--kubeconfig": "a Pod has its service account",
        "--tls-names": "for a webhook that is reached by URL; here it is a Service",
    },
}


def of(objects: list[Object], component: str) -> Object:
    """The container of one of the three."""
    return container(objects, NAME if component == "broker" else f"{NAME}-{component}")


def environment(made: Object) -> dict[str, str]:
    """With the Secret's URL in place of the reference."""
    return {one["name"]: one.get("value", "rediss://broker@redis.example/0") for one in made.get("env", ())}


def switches(made: Object) -> list[str]:
    return [argument.partition("=")[0] for argument in made["args"]]


@pytest.fixture(scope="module")
def schemas_read_once() -> Iterator[None]:
    """Not once for each object: what they refer to has megabytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", functools.cache(kubernetes_validate.utils.schema_contents))
        yield


@every
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("schemas_read_once")
def test_kubernetes_knows_every_field(objects: list[Object], version: str):
    for made in objects:
        if not made["apiVersion"].startswith(OF_OTHERS):
            kubernetes_validate.validate(made, version, strict=True)


@every
def test_every_pod_passes_the_restricted_profile(objects: list[Object]):
    made = list(pods(objects))
    assert len(made) >= 2
    assert {name: list(breaches(spec)) for name, spec in made} == {name: [] for name, _ in made}
    for _, spec in made:
        assert spec["enableServiceLinks"] is False
        for each in spec["containers"]:
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert {"requests", "limits"} <= set(each["resources"])


@every
def test_no_two_objects_are_called_the_same(objects: list[Object]):
    called = [(made["kind"], made["metadata"].get("namespace"), made["metadata"]["name"]) for made in objects]
    assert len(called) == len(set(called))


@every
def test_every_object_says_whose_it_is(objects: list[Object]):
    for made in objects:
        labels = made["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == NAME
        assert labels["app.kubernetes.io/version"] == "0.1.0"


def test_labels_of_everybodys_own_stand_on_every_object():
    assert {made["metadata"]["labels"].get("example.org/team") for made in RENDERED["most"]} == {"platform"}


# -- switches


@every
@pytest.mark.parametrize(
    ("component", "command", "known"), [("broker", "serve", config.SERVE), ("controller", "controller", config.CONTROLLER)]
)
def test_our_commands_take_every_argument_and_lack_none(
    objects: list[Object], component: str, command: str, known: tuple[config.Switch, ...]
):
    if component == "controller" and objects is RENDERED["broker alone"]:
        return
    made = of(objects, component)
    assert made["command"] == ["broker", command]
    parser, _ = cli.build_parser()
    args = vars(parser.parse_args([command, *made["args"]]))
    values = {switch.name: switch.value(args[switch.name], environment(made)) for switch in known}
    assert values["namespace"] == NAMESPACE
    assert str(values["admin"]) == f":{names.ADMIN_PORT}"


@every
def test_the_webhook_takes_every_argument_and_lacks_none(objects: list[Object]):
    if objects is RENDERED["broker alone"]:
        return
    made = of(objects, "webhook")
    assert made["command"] == ["python", "-m", "webhook"]
    settings = webhook.config.read(made["args"], environment(made))
    assert settings.listen.port == names.WEBHOOK_PORT
    assert settings.gateway.spiffe_csi_driver == "csi.spiffe.io"


@pytest.mark.parametrize(
    ("component", "command", "known"),
    [("broker", "serve", config.SERVE), ("controller", "controller", config.CONTROLLER), ("webhook", "webhook", webhook.config.SWITCHES)],
)
def test_every_switch_can_be_set_by_a_value(component: str, command: str, known: tuple[config.Switch, ...]):
    given = {
        switch for objects in RENDERED.values() if objects is not RENDERED["broker alone"] for switch in switches(of(objects, component))
    }
    given |= {switch.flag for switch in known if switch.variable in environment(of(RENDERED["most"], component))}
    assert {switch.flag for switch in known} - given == set(UNSET[command])


@every
def test_no_argument_holds_what_may_be_secret(objects: list[Object]):
    for _, spec in pods(objects):
        for each in spec["containers"]:
            assert not [argument for argument in each.get("args", ()) if "redis" in argument or argument.startswith("--quota-store")]


def test_the_url_of_the_quota_store_comes_from_its_secret():
    for component in ("broker", "controller"):
        (variable,) = of(RENDERED["least"], component)["env"]
        assert variable == {"name": "BROKER_QUOTA_STORE", "valueFrom": {"secretKeyRef": {"name": "quota-store", "key": "url"}}}


def test_the_broker_and_the_controller_are_told_the_same():
    """Or a status would say what no broker does."""
    shared = {switch.flag for switch in config.CONTROLLER} & {switch.flag for switch in config.SERVE}
    for name in ("least", "most", "everywhere"):
        told = [
            {a for a in of(RENDERED[name], component)["args"] if a.partition("=")[0] in shared} for component in ("broker", "controller")
        ]
        assert told[0] == told[1]


# -- names that others rely on


def test_ports_are_those_that_the_programs_listen_on():
    objects = RENDERED["least"]
    ports = {
        component: {p["name"]: p["containerPort"] for p in of(objects, component)["ports"]}
        for component in ("broker", "controller", "webhook")
    }
    assert ports == {
        "broker": {"mtls": names.BROKER_PORT, "admin": names.ADMIN_PORT},
        "controller": {"admin": names.ADMIN_PORT},
        "webhook": {"https": names.WEBHOOK_PORT, "admin": names.ADMIN_PORT},
    }
    assert "--gateway-port=4180" in of(objects, "webhook")["args"]
    assert names.GATEWAY_PORT == 4180


@pytest.mark.parametrize("objects", [RENDERED["least"], RENDERED["most"]], ids=["least", "most"])
def test_services_lead_to_pods_that_have_the_port(objects: list[Object]):
    templates = [made["spec"]["template"] for made in objects if made["kind"] == "Deployment"]
    services = [made["spec"] for made in objects if made["kind"] == "Service"]
    assert len(services) == 3
    for service in services:
        (template,) = (one for one in templates if service["selector"].items() <= one["metadata"]["labels"].items())
        there = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["ports"]} <= there


def test_local_gateways_are_told_the_service_and_the_identity_of_the_broker():
    args = of(RENDERED["least"], "webhook")["args"]
    assert f"--broker={NAME}.{NAMESPACE}.svc:{names.BROKER_PORT}" in args
    account = one(RENDERED["least"], "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    assert f"--broker-spiffe-id=spiffe://example.org/ns/{NAMESPACE}/sa/{account}" in args
    assert one(RENDERED["least"], "Service")["spec"]["clusterIP"] == "None"  # a gateway knows every replica


def test_every_account_that_a_pod_runs_as_is_made_here():
    for objects in RENDERED.values():
        accounts = {made["metadata"]["name"] for made in objects if made["kind"] == "ServiceAccount"}
        assert {spec["serviceAccountName"] for _, spec in pods(objects) if "serviceAccountName" in spec} == accounts


def test_a_release_of_another_name_shares_no_cluster_wide_name_with_the_first():
    def cluster_wide(objects: list[Object]) -> set[tuple[str, str]]:
        return {(made["kind"], made["metadata"]["name"]) for made in objects if "namespace" not in made["metadata"]}

    assert cluster_wide(RENDERED["everywhere"])
    assert not cluster_wide(render(SETS["everywhere"], "second", "other")) & cluster_wide(RENDERED["everywhere"])


# -- how it ends, and how it is asked


@every
def test_a_broker_has_time_to_end_what_runs(objects: list[Object]):
    spec = one(objects, "Deployment")["spec"]["template"]["spec"]
    made = spec["containers"][0]
    (drain,) = (config.duration(argument.partition("=")[2]) for argument in made["args"] if argument.startswith("--drain="))
    hook_s = made["lifecycle"]["preStop"]["sleep"]["seconds"]
    rest_s = wiring.LEAVE_S + wiring.LAST_WORDS_S + wiring.LAST_SETTLEMENTS_S + opening.FLUSH_S
    assert spec["terminationGracePeriodSeconds"] > hook_s + drain + rest_s


def test_a_longer_drain_gets_a_longer_grace():
    spec = one(render(LEAST | {"broker": {"drainSeconds": 600}}), "Deployment")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > 600


@every
def test_probes_ask_at_the_admin_port(objects: list[Object]):
    for made in objects:
        if made["kind"] == "Deployment":
            (each,) = made["spec"]["template"]["spec"]["containers"]
            asked = {probe: each[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
            assert {get["port"] for get in asked.values()} == {"admin"}
            assert [get["path"] for get in asked.values()] == ["/healthz", "/healthz", "/readyz"]


def test_a_horizontal_autoscaler_takes_the_place_of_replicas():
    assert one(RENDERED["least"], "Deployment")["spec"]["replicas"] == 2
    assert "replicas" not in one(RENDERED["most"], "Deployment")["spec"]
    assert one(RENDERED["most"], "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == NAME


def test_the_workload_api_is_where_the_broker_looks_for_it():
    spec = one(RENDERED["least"], "Deployment")["spec"]["template"]["spec"]
    mount = next(one for one in spec["containers"][0]["volumeMounts"] if one["name"] == "spiffe-workload-api")
    volume = next(one for one in spec["volumes"] if one["name"] == "spiffe-workload-api")
    assert volume["csi"] == {"driver": "csi.spiffe.io", "readOnly": True}
    assert f"--spiffe-endpoint-socket=unix://{mount['mountPath']}/spire-agent.sock" in spec["containers"][0]["args"]


def test_files_that_arguments_name_are_mounted():
    for objects in (RENDERED["most"], RENDERED["given"]):
        for _, spec in pods(objects):
            for each in spec["containers"]:
                folders = [mount["mountPath"] for mount in each.get("volumeMounts", ())]
                own = [argument for argument in each.get("args", ()) if not argument.startswith("--spiffe-socket=")]  # a local gateway's
                named = [path for argument in own for path in re.findall(r"(?:=|unix://)(/[a-z/-]+/)", argument)]
                assert [path for path in named if path.rstrip("/") not in folders] == []


# -- the webhooks


def webhooks(values: Values = LEAST) -> tuple[Any, Any]:
    objects = render(values)
    (mutating,) = one(objects, "MutatingWebhookConfiguration")["webhooks"]
    (validating,) = one(objects, "ValidatingWebhookConfiguration")["webhooks"]
    return mutating, validating


def test_only_new_pods_of_labelled_namespaces_are_changed_and_never_the_systems():
    mutating, _ = webhooks()
    assert mutating["rules"] == [
        {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "Namespaced"}
    ]
    assert mutating["namespaceSelector"] == {
        "matchLabels": {names.INJECT: "enabled"},
        "matchExpressions": [
            {
                "key": "kubernetes.io/metadata.name",
                "operator": "NotIn",
                "values": ["kube-system", "kube-public", "kube-node-lease", NAMESPACE],
            }
        ],
    }
    assert (mutating["failurePolicy"], mutating["timeoutSeconds"], mutating["reinvocationPolicy"]) == ("Fail", 5, "IfNeeded")
    assert (mutating["sideEffects"], mutating["matchPolicy"]) == ("None", "Equivalent")
    assert names.INJECT in mutating["matchConditions"][0]["expression"]


def test_all_our_kinds_are_read_before_they_are_stored_and_a_deny_waits_for_no_webhook():
    _, validating = webhooks()
    (rule,) = validating["rules"]
    assert sorted(rule["resources"]) == sorted(KINDS.values())
    assert (rule["apiGroups"], rule["apiVersions"]) == ([names.GROUP], [names.VERSION])
    assert validating["failurePolicy"] == "Ignore"


def test_the_api_server_is_told_whom_to_trust_in_every_mode():
    given, _ = webhooks(SETS["given"])
    assert given["clientConfig"]["caBundle"] == "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        annotations = one(RENDERED["most"], kind)["metadata"]["annotations"]
        assert annotations == {
            "cert-manager.io/inject-ca-from": f"{NAMESPACE}/{one(RENDERED['most'], 'Certificate', f'{NAME}-webhook')['metadata']['name']}"
        }
    assert one(RENDERED["most"], "Certificate", f"{NAME}-webhook")["spec"]["dnsNames"] == [f"{NAME}-webhook.{NAMESPACE}.svc"]
    own, _ = webhooks()
    assert "caBundle" not in own["clientConfig"]  # or an upgrade would take away what the webhook wrote there


# -- the network


def test_agents_of_a_closed_namespace_reach_the_broker_and_dns_and_nothing_else():
    made = next(
        one for one in render(LEAST | {"agentNetworkPolicy": {"namespaces": ["team1"]}}) if one["metadata"]["name"] == f"{NAME}-agents"
    )
    assert made["metadata"]["namespace"] == "team1"
    assert made["spec"]["policyTypes"] == ["Egress"]
    to_broker, to_dns = made["spec"]["egress"]
    assert to_broker["ports"] == [{"protocol": "TCP", "port": names.BROKER_PORT}]
    broker = one(RENDERED["least"], "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert to_broker["to"][0]["podSelector"]["matchLabels"].items() <= broker.items()
    assert {port["port"] for port in to_dns["ports"]} == {53}


def test_the_admin_port_is_for_this_namespace_unless_somebody_is_named():
    for component in ("broker", "controller", "webhook"):
        rules = one(RENDERED["least"], "NetworkPolicy", f"{NAME}-{component}")["spec"]["ingress"]
        (admin,) = (rule for rule in rules if {"protocol": "TCP", "port": "admin"} in rule["ports"])
        assert admin["from"] == [{"podSelector": {}}]
        assert len(admin["ports"]) == 1
