"""The chart, installed by Helm on a real API server: what it takes, and who may then do what.

No kubelet: Pods are made and stay Pending, so no webhook answers. What runs with the accounts of the chart runs on this host.
"""

import json
import secrets
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import helm_python
import pytest
from support.chart import CHART, container, render
from support.cluster.control_plane import ControlPlane
from support.cluster.kubectl import Kubectl, KubectlFailed
from support.cluster.servers import Server
from support.cluster.spire import Spire
from support.generated_objects import whole
from support.objects_in_cluster import define
from support.ports import free_port

PATIENCE_S = 60.0
POD = {"containers": [{"name": "agent", "image": "agent"}]}
ROUTING = {
    "providers": [{"name": "openai", "schema": "OpenAI", "credentials": {"type": "APIKey", "secretRef": {"name": "openai"}}}],
    "models": [{"name": "gpt-4o", "backends": [{"provider": "openai"}]}],
}
ACCESS = {"subjects": [{"spiffeID": "spiffe://example.org/ns/team1/sa/agent"}], "models": ["*"]}


class Question(NamedTuple):
    """May the account of this part of the chart ("" = the broker) do this? `what` as `resource/subresource.group`; "" = any name."""

    component: str
    verb: str
    what: str
    namespace: str
    name: str = ""


@dataclass
class Release:
    """An installation in a namespace of its own, which enforces the restricted profile."""

    cluster: ControlPlane
    own: str
    team: str  # all of its Secrets may be read
    named: str  # the Secret `openai` alone
    other: str  # not in the values

    @property
    def values(self) -> dict[str, Any]:
        return {
            "trustDomain": "example.org",
            "namespaces": [self.team, self.named],
            "secrets": {self.named: ["openai"]},
            "quotaStore": {"url": "memory:"},
            "broker": {"replicas": 1},
            "trustBundleConfigMaps": {"partner.example": f"{self.other}/partner"},
        }

    @property
    def name(self) -> str:
        return self.own

    @property
    def full_name(self) -> str:
        return f"{self.own}-inference-broker"

    def helm(self) -> helm_python.Config:
        return helm_python.Config(kubeconfig_path=str(self.cluster.kubeconfig()), namespace=self.own)

    def kubectl(self, namespace: str = "") -> Kubectl:
        return self.cluster.kubectl(namespace=namespace or self.own)

    def account(self, component: str = "") -> str:
        return f"{self.full_name}{component and '-'}{component}"

    def may(self, questions: Iterable[Question]) -> dict[Question, bool]:
        """What the API server's authorizer says of each."""
        asked = list(questions)
        reviews = [self._review(question) for question in asked]
        together = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
        answers = self.kubectl()("create", "-f", "-", "-o", 'jsonpath={.status.allowed}{"\\n"}', stdin=together).split()
        return {question: {"true": True, "false": False}[one] for question, one in zip(asked, answers, strict=True)}

    def _review(self, question: Question) -> Any:
        resource, _, group = question.what.partition(".")
        resource, _, subresource = resource.partition("/")
        about = {"verb": question.verb, "group": group, "resource": resource, "subresource": subresource, "name": question.name}
        user = f"system:serviceaccount:{self.own}:{self.account(question.component)}"
        spec = {"user": user, "resourceAttributes": about | {"namespace": question.namespace}}
        return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


@pytest.fixture(scope="module")
def release(cluster: ControlPlane) -> Iterator[Release]:
    define(cluster)
    own = f"chart-{secrets.token_hex(3)}"
    it = Release(cluster, own, f"{own}-team", f"{own}-named", f"{own}-other")
    for namespace in (it.own, it.team, it.named, it.other):
        cluster.create_namespace(namespace)
    kubectl = it.kubectl()
    kubectl("label", "namespace", it.own, "pod-security.kubernetes.io/enforce=restricted")
    with it.helm() as helm:
        helm.install(str(CHART), it.name, it.values, namespace=it.own)
        try:
            yield it
        finally:
            helm.uninstall(it.name)
    assert it.full_name not in kubectl(
        "get", "clusterrole,clusterrolebinding,mutatingwebhookconfiguration,validatingwebhookconfiguration", "-o", "name"
    )
    assert "aiaccesspolicies" in kubectl("get", "crd", "-o", "name")
    kubectl("delete", "namespace", it.own, it.team, it.named, it.other, "--wait=false")


def eventually(what: Callable[[], Any], why: Callable[[], str] = str) -> Any:
    ends_s = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < ends_s, why()
        time.sleep(0.1)
    return found


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  our own loopback
        return answer.read().decode()


def test_its_pods_are_made_in_a_namespace_that_enforces_the_restricted_profile(release: Release):
    def made() -> list[str]:
        pods = release.kubectl().json("get", "pods", "-l", "app.kubernetes.io/part-of=inference-broker")["items"]
        return sorted(pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods)

    wanted = ["broker", "controller", "controller", "webhook", "webhook"]
    eventually(lambda: made() == wanted, lambda: release.kubectl()("get", "events"))


def test_the_accounts_may_do_what_their_work_needs_and_no_more(release: Release):
    own, team, named, other = release.own, release.team, release.named, release.other
    asked = {
        # the broker reads objects and Secrets where it was told to, and writes Events there
        Question("", "list", "aiaccesspolicies.aiaccess.dev", own): True,
        Question("", "watch", "aiaccesspolicies.aiaccess.dev", team): True,
        Question("", "list", "aiaccesspolicies.aiaccess.dev", other): False,
        Question("", "patch", "aiaccesspolicies/status.aiaccess.dev", team): False,
        Question("", "create", "aiaccesspolicies.aiaccess.dev", team): False,
        Question("", "list", "secrets", team): True,
        Question("", "list", "secrets", named): False,
        Question("", "watch", "secrets", named, "openai"): True,
        Question("", "watch", "secrets", named, "another"): False,
        Question("", "list", "secrets", own): False,
        Question("", "list", "secrets", other): False,
        Question("", "list", "secrets", "kube-system"): False,
        Question("", "update", "secrets", team): False,
        Question("", "watch", "configmaps", other, "partner"): True,
        Question("", "watch", "configmaps", other, "another"): False,
        Question("", "create", "pods", own): False,
        Question("", "create", "events.events.k8s.io", team): True,
        Question("", "create", "events.events.k8s.io", other): False,
        Question("", "delete", "events.events.k8s.io", team): False,
        # the controller writes statuses and its Lease
        Question("controller", "patch", "aiaccesspolicies/status.aiaccess.dev", team): True,
        Question("controller", "patch", "aiaccesspolicies.aiaccess.dev", team): False,
        Question("controller", "patch", "aiaccesspolicies/status.aiaccess.dev", other): False,
        Question("controller", "create", "events.events.k8s.io", team): False,
        Question("controller", "create", "leases.coordination.k8s.io", own): True,
        Question("controller", "update", "leases.coordination.k8s.io", own, release.account("controller")): True,
        Question("controller", "update", "leases.coordination.k8s.io", own, "another"): False,
        Question("controller", "list", "secrets", other): False,
        # the webhook reads and writes its own certificate, and tells the API server of it
        Question("webhook", "update", "secrets", own, f"{release.account('webhook')}-tls"): True,
        Question("webhook", "update", "secrets", own, "another"): False,
        Question("webhook", "list", "secrets", team): False,
        Question("webhook", "patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io", own, release.full_name): True,
        Question("webhook", "patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io", own, "another"): False,
        Question("webhook", "create", "mutatingwebhookconfigurations.admissionregistration.k8s.io", own): False,
    }
    assert release.may(asked) == asked


def test_edit_says_what_can_be_called_and_admin_who_may_call_it(release: Release):
    def who(role: str) -> Kubectl:
        user = f"{release.own}-{role}"
        release.kubectl(release.team)("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}")
        return release.cluster.kubectl(release.cluster.kubeconfig(user), release.team)

    def allowed(kubectl: Kubectl, verb: str, what: str) -> bool:
        try:
            return kubectl("auth", "can-i", verb, what).strip() == "yes"
        except KubectlFailed:
            return False

    editor, admin, viewer = who("edit"), who("admin"), who("view")
    eventually(lambda: allowed(editor, "create", "airoutingpolicies.aiaccess.dev"))
    eventually(lambda: allowed(admin, "create", "aiaccesspolicies.aiaccess.dev"))
    routing, access = (
        whole("AIRoutingPolicy", ROUTING, "by-people", release.team),
        whole("AIAccessPolicy", ACCESS, "by-people", release.team),
    )
    assert "created" in editor.apply([routing])
    assert "created" in editor.apply([whole("AIProvider", {"schema": "OpenAI"}, "by-people", release.team)])
    assert "forbidden" in editor.refusal("create", "-f", "-", stdin=json.dumps(access)).lower()
    assert "by-people" in editor("get", "airoutingpolicies")
    assert "created" in admin.apply([access])
    assert "by-people" in editor("get", "aiaccesspolicies")
    assert "by-people" in viewer("get", "aiaccesspolicies,airoutingpolicies,aiproviders")
    assert "forbidden" in viewer.refusal("delete", "airoutingpolicy", "by-people").lower()
    status = ("patch", "aiaccesspolicy", "by-people", "--subresource=status", "--type=merge", "-p", '{"status":{"tokens24h":0}}')
    assert "forbidden" in admin.refusal(*status).lower()
    assert "forbidden" in editor.refusal("delete", "aiaccesspolicy", "by-people").lower()
    admin("delete", "aiaccesspolicy,airoutingpolicy,aiprovider", "by-people")


def on_this_host(release: Release, component: str, folder: Path, spire: Spire | None = None) -> tuple[Server, str]:
    """The program of a Deployment with its arguments, its variables and its account's token, and the URL of its admin port."""
    made = container(render(release.values, release.name, release.own), release.account(component))
    admin = f"127.0.0.1:{free_port()}"
    places = {"--admin": admin, "--listen": f"127.0.0.1:{free_port()}"} | ({"--spiffe-endpoint-socket": spire.endpoint} if spire else {})
    flags = [argument.partition("=")[0] for argument in made["args"]]
    arguments = [f"{flag}={places[flag]}" if flag in places else whole for flag, whole in zip(flags, made["args"], strict=True)]
    module = made["command"][1:] if made["command"][0] == "python" else ["-m", *made["command"]]
    kubeconfig = release.cluster.service_account_kubeconfig(release.own, release.account(component))
    command = [sys.executable, *module, *arguments, f"--kubeconfig={kubeconfig}"]
    environ = {variable["name"]: variable["value"] for variable in made.get("env", ())}
    url = f"http://{admin}"
    return Server(component or "broker", command, folder / "log", lambda: get(f"{url}/readyz").startswith("ready"), environ), url


def give_it_something_to_read(release: Release) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "openai"}, "stringData": {"api-key": "sk-canary"}}
    for namespace in (release.team, release.named):
        release.kubectl(namespace).apply([secret, whole("AIRoutingPolicy", ROUTING, "routing", namespace)])


def test_the_broker_gets_ready_with_its_account_and_the_arguments_of_the_chart(release: Release, spire: Spire, tmp_path: Path):
    give_it_something_to_read(release)
    spire.until_served(spire.myself())
    server, admin = on_this_host(release, "", tmp_path, spire)
    watched = [f'kind="Secret",namespace="{namespace}"' for namespace in (release.team, release.named)]
    try:
        server.start()
        eventually(lambda: get(f"{admin}/readyz") == "ready\n" and all(one in get(f"{admin}/metrics") for one in watched))
        assert server.stop() == 0
        assert "forbidden" not in server.log.read_text()
    finally:
        server.kill()


def test_the_controller_tells_of_objects_and_secrets_with_its_account_and_the_arguments_of_the_chart(release: Release, tmp_path: Path):
    give_it_something_to_read(release)
    unnamed = json.loads(json.dumps(ROUTING).replace('{"name": "openai"}', '{"name": "another"}').replace("gpt-4o", "other"))
    release.kubectl(release.named).apply([whole("AIRoutingPolicy", unnamed, "unnamed", release.named)])
    server, _ = on_this_host(release, "controller", tmp_path)
    try:
        server.start()
        for namespace in (release.team, release.named):
            release.kubectl(namespace)("wait", "--for=condition=ProvidersConfigured", "airoutingpolicy/routing", "--timeout=45s")
        release.kubectl(release.named)("wait", "--for=condition=ProvidersConfigured=False", "airoutingpolicy/unnamed", "--timeout=45s")
        assert "may not be read" in release.kubectl(release.named)(
            "get", "airoutingpolicy", "unnamed", "-o", "jsonpath={.status.conditions}"
        )
        lease = release.kubectl().json("get", "lease", release.account("controller"))
        assert lease["spec"]["holderIdentity"]
        assert server.stop() == 0
    finally:
        server.kill()


def test_while_no_webhook_answers_only_pods_that_need_one_wait(release: Release):
    kubectl = release.kubectl(release.other)
    kubectl("label", "namespace", release.other, "aiaccess.dev/inject=enabled")

    def pod(name: str, **annotations: str) -> str:
        metadata = {"name": name, "annotations": annotations}
        return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": POD})

    eventually(lambda: "pods.aiaccess.dev" in answer(kubectl, pod("wanted")))
    assert "created" in kubectl("create", "-f", "-", stdin=pod("opted-out", **{"aiaccess.dev/inject": "false"}))
    assert "created" in release.kubectl(release.team)("create", "-f", "-", stdin=pod("of-a-namespace-without-the-label"))
    assert "created" in kubectl(
        "create", "-f", "-", stdin=json.dumps(whole("AIAccessPolicy", ACCESS | {"action": "Deny"}, "cut-off", release.other))
    )
    release.kubectl()("label", "namespace", release.own, "aiaccess.dev/inject=enabled")
    release.kubectl()("delete", "pod", "-l", "app.kubernetes.io/component=webhook", "--wait=false")  # its own Pods never wait for it
    eventually(lambda: release.kubectl()("get", "pods", "-l", "app.kubernetes.io/component=webhook", "-o", "name").count("pod/") >= 2)
    kubectl("label", "namespace", release.other, "aiaccess.dev/inject-")


def answer(kubectl: Kubectl, made: str) -> str:
    try:
        return kubectl("create", "--dry-run=server", "-f", "-", stdin=made)
    except KubectlFailed as refused:
        return str(refused)


def test_the_webhook_keeps_its_certificate_with_its_account_and_an_upgrade_leaves_it(release: Release, tmp_path: Path):
    kubectl, secret = release.kubectl(), f"{release.account('webhook')}-tls"
    server, _ = on_this_host(release, "webhook", tmp_path)
    try:
        server.start()
    finally:
        server.kill()
    kept = kubectl.json("get", "secret", secret)["data"]
    published = {bundle(kubectl, kind, release.full_name) for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration")}
    assert published == {kept["ca.crt"]}
    with release.helm() as helm:
        helm.upgrade(str(CHART), release.name, release.values | {"log": {"level": "debug"}}, namespace=release.own)
    assert "--log-level=debug" in kubectl("get", "deployment", release.full_name, "-o", "yaml")
    assert {
        bundle(kubectl, kind, release.full_name) for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration")
    } == published
    assert kubectl.json("get", "secret", secret)["data"] == kept


def bundle(kubectl: Kubectl, kind: str, name: str) -> str:
    (hook,) = kubectl.json("get", kind, name)["webhooks"]
    return hook["clientConfig"]["caBundle"]
