"""`kubectl aiaccess …`, found and run by the real kubectl, against a real API server, as a person with the role `view`."""

import csv
import io
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cluster.binaries import find
from support.cluster.control_plane import ControlPlane
from support.cluster.controllers import eventually
from support.cluster.kubectl import Kubectl
from support.fake_apiserver import access, routing
from support.kube_world import agent
from support.objects_in_cluster import define

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
VIEWER = "viewer"
RBAC = "rbac.authorization.k8s.io"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", autouse=True)
def kinds(cluster: ControlPlane) -> None:
    define(cluster)
    part = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "our-part-of-view", "labels": {f"{RBAC}/aggregate-to-view": "true"}},
        "rules": [
            {
                "apiGroups": ["aiaccess.dev"],
                "resources": ["aiaccesspolicies", "airoutingpolicies", "aiproviders"],
                "verbs": ["get", "list", "watch"],
            }
        ],
    }
    cluster.kubectl().apply([part])
    eventually(lambda: "aiaccess.dev" in cluster.kubectl()("get", "clusterrole", "view", "-o", "yaml"))


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    """A PATH on which the program is that pyproject.toml promises, as an installer writes it."""
    module, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["kubectl-aiaccess"].partition(":")
    program = tmp_path / "kubectl-aiaccess"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


@pytest.fixture
def run(plugin: str, cluster: ControlPlane, kubectl: Kubectl) -> Run:
    """kubectl of the viewer, who may see this one namespace."""
    bound = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "viewers"},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": VIEWER}],
    }
    kubectl.apply([bound])

    def asked(*words: str, kubeconfig: Path | None = None) -> "subprocess.CompletedProcess[str]":
        environ = {
            "PATH": plugin,
            "HOME": "/nonexistent",
            "PYTHONPATH": str(ROOT),
            "KUBECONFIG": str(kubeconfig or cluster.kubeconfig(VIEWER)),
        }
        command = [str(find("kubectl")), *words]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    return asked


@pytest.fixture
def objects(kubectl: Kubectl) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "openai"},
        "stringData": {"api-key": "sk-canary-of-the-team"},
    }
    kubectl.apply([routing(namespace=kubectl.namespace, secret="openai"), access("agents", kubectl.namespace), secret])


def test_kubectl_knows_the_plugin(run: Run):
    assert "kubectl-aiaccess" in run("plugin", "list").stdout
    done = run("aiaccess", "--help")
    assert (done.returncode, done.stdout.split()[:3]) == (0, ["usage:", "kubectl", "aiaccess"])


def test_a_viewer_is_told_who_may_call_what_and_never_reads_the_key(run: Run, objects: None, namespace: str, cluster: ControlPlane):
    done = run("aiaccess", "explain", agent(namespace), "gpt-4o")
    assert (done.returncode, done.stdout.splitlines()[0][:8]) == (0, "allowed:"), done
    assert f"{namespace}/agents (Allow): allows" in done.stdout
    assert "CredentialUnknown: you may not read the Secret openai" in done.stdout
    assert "namespace inference-broker may not be read" in done.stderr
    assert run("aiaccess", "explain", agent(namespace), "another").returncode == 3
    whole = run("aiaccess", "explain", agent(namespace), "gpt-4o", kubeconfig=cluster.kubeconfig())
    assert (whole.returncode, whole.stderr) == (0, "")
    assert ": ready" in whole.stdout
    assert "canary" not in done.stdout + whole.stdout


def test_what_a_viewer_may_not_see_is_said_as_that_and_not_as_a_no(run: Run, objects: None):
    done = run("aiaccess", "explain", agent("default"), "gpt-4o")
    assert (done.returncode, done.stdout) == (2, "")
    assert "you may not list the objects of namespace default" in done.stderr
    done = run("aiaccess", "usage", "-A")
    assert done.returncode == 2
    assert 'User "viewer" cannot list resource "aiaccesspolicies"' in done.stderr


def test_a_viewer_sees_what_was_used(run: Run, objects: None, kubectl: Kubectl):
    quota = {"name": "hourly", "unit": "tokens", "used": "40", "limit": "1000", "resetTime": "2026-11-21T13:00:00Z"}
    use = {"identity": agent(kubectl.namespace), "tokens24h": 40, "usd24h": "1.25", "requests24h": 2, "denied24h": 3, "quotas": [quota]}
    status = {"identityCount": 1, "tokens24h": 40, "usd24h": "1.25", "usage": [use]}
    kubectl("patch", "aap", "agents", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    done = run("aiaccess", "usage", "-n", kubectl.namespace)
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[1].split() == [
        "agents",
        agent(kubectl.namespace),
        "40",
        "1.25",
        "2",
        "3",
        "hourly",
        "40/1000",
        "tokens",
    ]
    found = json.loads(run("aiaccess", "usage", "-n", kubectl.namespace, "-o", "json").stdout)
    assert found["policies"][0]["usage"] == [use]
    who, hourly = csv.DictReader(io.StringIO(run("aiaccess", "usage", "-n", kubectl.namespace, "-o", "csv").stdout))
    assert (who["usd_24h"], hourly["limit"]) == ("1.25", "1000")
    assert "1.25" in kubectl("get", "aap", "agents", "-o", "wide")


def test_without_a_cluster_it_says_so(run: Run, tmp_path: Path):
    done = run("aiaccess", "usage", "-A", kubeconfig=tmp_path / "absent")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "give --kubeconfig" in done.stderr
