"""A real control plane and a real SPIRE for all tests of this folder, started by the first test that asks for them."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster.control_plane import ControlPlane
from support.cluster.kubectl import Kubectl
from support.cluster.scratch import scratch
from support.cluster.spire import Spire

FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def state() -> Iterator[Path]:
    """For all that servers of this run write."""
    with scratch() as folder:
        yield folder


@pytest.fixture(scope="session")
def cluster(state: Path) -> Iterator[ControlPlane]:
    """etcd, kube-apiserver and kube-controller-manager. A test that stops one of them starts it again."""
    folder = state / "kubernetes"
    folder.mkdir()
    with ControlPlane.started(folder) as it:
        yield it


@pytest.fixture(scope="session")
def spire(state: Path) -> Iterator[Spire]:
    """A SPIRE server and agent for the trust domain example.org, with SVIDs of one minute."""
    folder = state / "spire"
    folder.mkdir()
    with Spire.started(folder) as it:
        yield it


@pytest.fixture
def namespace(cluster: ControlPlane) -> Iterator[str]:
    """A namespace of this test alone, with its service account; what is left in it goes with it."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.create_namespace(name)
    yield name
    cluster.kubectl()("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kubectl(cluster: ControlPlane, namespace: str) -> Kubectl:
    """kubectl of an administrator, in the test's own namespace."""
    return cluster.kubectl(namespace=namespace)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> list[str]:
    """Lines for the summary: what was measured, which no test judges."""
    return request.config.stash.setdefault(FIGURES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section(f"measured on {os.cpu_count()} cores")
        for line in lines:
            terminalreporter.line(line)
