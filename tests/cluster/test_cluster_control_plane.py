"""The control plane of these tests is a real one: it keeps state, judges objects, gives rights, and survives restarts."""

import json

import pytest
from support.cluster.control_plane import ControlPlane
from support.cluster.kubectl import Kubectl

CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lamps.test.example}
spec:
  group: test.example
  scope: Namespaced
  names: {kind: Lamp, plural: lamps, singular: lamp}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {watts: {type: integer}, candles: {type: integer}}
            x-kubernetes-validations:
            - rule: "[has(self.watts), has(self.candles)].exists_one(x, x)"
              message: exactly one of watts and candles
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"""
LAMP = {"apiVersion": "test.example/v1", "kind": "Lamp", "metadata": {"name": "desk"}, "spec": {"watts": 5}}


def deployment(name: str) -> dict[str, object]:
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "it", "image": "example.org/it:1"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def lamps(kubectl: Kubectl) -> Kubectl:
    kubectl.apply(CRD)
    kubectl("wait", "--for=condition=Established", "crd/lamps.test.example", "--timeout=20s")
    return kubectl


def test_the_version_is_that_of_the_module(kubectl):
    assert kubectl.json("version")["serverVersion"]["gitVersion"].startswith("v1.36.")


def test_a_rule_in_cel_refuses_what_it_says(lamps):
    assert "exactly one of watts and candles" in lamps.refusal(
        "apply", "-f", "-", stdin=json.dumps(LAMP | {"spec": {"watts": 5, "candles": 1}})
    )
    lamps.apply([LAMP])
    assert lamps.json("get", "lamp", "desk")["spec"] == {"watts": 5}


def test_kubectl_waits_for_a_condition_in_the_status_of_our_kinds(lamps):
    lamps.apply([LAMP])
    assert "timed out" in lamps.refusal("wait", "--for=condition=Lit", "lamp/desk", "--timeout=1s")
    lit = '{"status": {"conditions": [{"type": "Lit", "status": "True"}]}}'
    lamps("patch", "lamp", "desk", "--subresource=status", "--type=merge", "-p", lit)
    assert "condition met" in lamps("wait", "--for=condition=Lit", "lamp/desk", "--timeout=20s")


def test_a_deployment_makes_pods(kubectl):
    kubectl.apply([deployment("web")])
    kubectl("wait", "--for=create", "pod", "-l", "app=web", "--timeout=20s")
    (pod,) = kubectl.json("get", "pods", "-l", "app=web")["items"]
    assert pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
    assert pod["spec"]["serviceAccountName"] == "default"


def test_a_user_may_do_what_a_role_says_and_no_more(cluster: ControlPlane, kubectl, namespace):
    kubectl("create", "rolebinding", "alice-edits", "--clusterrole=edit", "--user=alice")
    kubectl("create", "rolebinding", "team-views", "--clusterrole=view", "--group=team")
    alice = cluster.kubectl(cluster.kubeconfig("alice"), namespace)
    alice("create", "configmap", "hers")
    assert "forbidden" in alice.within("default").refusal("get", "configmaps")
    bob = cluster.kubectl(cluster.kubeconfig("bob", ["team"]), namespace)
    assert bob("get", "configmap", "hers", "-o", "name").strip() == "configmap/hers"
    assert "forbidden" in bob.refusal("delete", "configmap", "hers")


def test_a_service_account_comes_in_with_its_token(cluster: ControlPlane, kubectl, namespace):
    kubectl("create", "serviceaccount", "robot")
    robot = cluster.kubectl(cluster.service_account_kubeconfig(namespace, "robot"), namespace)
    assert robot.json("auth", "whoami")["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:robot"
    assert "forbidden" in robot.refusal("get", "secrets")


@pytest.mark.parametrize("crash", [False, True], ids=["told-to-go", "killed"])
@pytest.mark.parametrize("name", ["etcd", "apiserver", "controller_manager"])
def test_each_server_comes_back_with_what_it_knew(cluster: ControlPlane, kubectl, name, crash):
    kubectl("create", "configmap", "before")
    server = getattr(cluster, name)
    before = server.child.pid
    server.restart(crash=crash)
    assert server.child.pid != before
    cluster.until_it_serves()
    assert kubectl("get", "configmap", "before", "-o", "name").strip() == "configmap/before"
    kubectl.apply([deployment("after")])
    kubectl("wait", "--for=create", "pod", "-l", "app=after", "--timeout=60s")
