"""Our kinds in a real API server: the CustomResourceDefinitions of the chart, and a quick way to ask what would be stored."""

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from support.cluster.control_plane import ControlPlane
from support.generated_objects import PLURALS

from broker.names import GROUP, VERSION

CRDS = Path(__file__).parents[2] / "charts" / "inference-broker" / "crds"
PATIENCE_S = 30


def define(cluster: ControlPlane) -> None:
    """Apply the definitions and wait until the kinds are served. Twice does no harm."""
    kubectl = cluster.kubectl()
    kubectl.apply(CRDS)
    kubectl("wait", "--for=condition=Established", *(f"crd/{plural}.{GROUP}" for plural in PLURALS.values()), "--timeout=30s")


class ApiServer:
    """One connection of an administrator, for thousands of questions; kubectl takes a process for each."""

    def __init__(self, cluster: ControlPlane) -> None:
        (user,) = yaml.safe_load(cluster.kubeconfig().read_text())["users"]
        context = ssl.create_default_context(cafile=str(cluster.ca))
        context.load_cert_chain(user["user"]["client-certificate"], user["user"]["client-key"])
        self._connection = http.client.HTTPSConnection(cluster.url.removeprefix("https://"), context=context, timeout=PATIENCE_S)

    def would_store(self, made: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
        """(the object as it would be stored, "") or (None, why it is refused). As a plain client asks: without field validation."""
        metadata = made["metadata"]
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{metadata['namespace']}/{PLURALS[made['kind']]}?dryRun=All"
        self._connection.request("POST", path, json.dumps(made), {"content-type": "application/json"})
        answer = self._connection.getresponse()
        said = json.loads(answer.read())
        return (said, "") if answer.status == http.client.CREATED else (None, said["message"])

    def close(self) -> None:
        self._connection.close()
