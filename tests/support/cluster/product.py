"""Brokers and local gateways as they are deployed, each as a user of its own, with SVIDs of a real SPIRE.

with Product.installed(folder, spire) as product:
    broker = product.broker(resources)
    gateway = product.gateway(spire.workload(AGENT), [broker])
"""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from support.cluster.servers import Server
from support.cluster.spire import Spire, Workload
from support.ports import free_port
from support.processes import BROKER_ID, KEPT, ROOT

T = TypeVar("T", bound=Server)

PROVIDER_KEY = "sk-canary-of-the-cluster-tests"
MODEL = "team1/gpt"  # with its namespace, which who is not root does not have in its identity

# What a test's agent may do, unless the test says otherwise
RESOURCES = """
apiVersion: v1
kind: Secret
metadata: {{name: provider-key, namespace: team1, annotations: {{aiaccess.dev/hosts: "http://127.0.0.1:{provider}"}}}}
stringData: {{api-key: {key}}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: team1}}
spec:
  providers:
  - {{name: it, schema: OpenAI, endpoint: "http://127.0.0.1:{provider}/v1", credentials: {{type: APIKey, secretRef: {{name: provider-key}}}}}}
  models:
  - {{name: gpt, backends: [{{provider: it}}]}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: team1}}
spec:
  subjects: [{{spiffeID: {agent}}}]
  models: [gpt]
  quotas: [{{name: ceiling, tokens: 1000000000, per: Month}}]
"""


@dataclass
class Broker(Server):
    port: int = 0
    admin_port: int = 0
    audit: Path = Path()


@dataclass
class Gateway(Server):
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Product:
    """What runs of it. Every process has a folder of its own below `folder`, where it may write."""

    folder: Path
    spire: Spire
    provider_port: int
    servers: list[Server] = field(default_factory=list)

    @classmethod
    @contextmanager
    def installed(cls, folder: Path, spire: Spire) -> Iterator[Self]:
        """Start the provider of the examples; brokers and gateways are the test's to start, and all are stopped here."""
        it = cls(folder, spire, free_port())
        try:
            it._start_provider()
            yield it
        finally:
            for server in reversed(it.servers):
                server.kill()

    @property
    def environ(self) -> Mapping[str, str]:
        """What a child needs of our environment, and no more."""
        return {key: os.environ[key] for key in KEPT if key in os.environ} | {"PYTHONDONTWRITEBYTECODE": "1"}

    def resources(self, agent: Workload) -> Path:
        """A folder with the objects that let this agent ask for MODEL."""
        folder = self.folder / "resources"
        folder.mkdir(exist_ok=True)
        (folder / "objects.yaml").write_text(RESOURCES.format(provider=self.provider_port, key=PROVIDER_KEY, agent=agent.spiffe_id))
        return folder

    def broker(self, resources: Path | str, *switches: str, name: str = "broker", quota_store: str = "") -> Broker:
        """Start one, and wait until it is ready. All brokers are the same workload."""
        workload = self.spire.workload(BROKER_ID)
        folder = self._home(name, workload)
        port, admin = free_port(), free_port()
        command = [
            *(sys.executable, "-m", "broker", "serve", "--resources", str(resources), "--spiffe-endpoint-socket", self.spire.endpoint),
            *("--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", "--audit", str(folder / "audit.jsonl")),
            *("--quota-store", quota_store or f"sqlite://{folder}/quota.sqlite", "--quota-deadline", "5s"),
            *("--allow-hosts", "127.0.0.1", "--plain-http-hosts", "127.0.0.1", *switches),
        ]
        ready = f"http://127.0.0.1:{admin}/readyz"
        broker = Broker(
            name,
            command,
            folder / "log",
            lambda: status(ready) == 200,
            self.environ,
            workload.uid,
            None,
            port,
            admin,
            folder / "audit.jsonl",
        )
        return self._started(broker)

    def gateway(self, workload: Workload, brokers: Sequence[Broker], *switches: str, name: str = "gateway") -> Gateway:
        """Start the one of this workload, and wait until it passes on what a broker says."""
        folder = self._home(name, workload)
        port = free_port()
        broker_id = self.spire.workload(BROKER_ID).spiffe_id
        command = [
            *(sys.executable, "-m", "broker", "gateway", "--port", str(port), "--broker-spiffe-id", broker_id),
            *("--spiffe-endpoint-socket", self.spire.endpoint, *switches),
            *(word for broker in brokers for word in ("--broker", f"127.0.0.1:{broker.port}")),
        ]
        ready = f"http://127.0.0.1:{port}/v1/models"
        return self._started(
            Gateway(name, command, folder / "log", lambda: status(ready) in {200, 403}, self.environ, workload.uid, None, port)
        )

    def _started(self, server: T) -> T:
        self.servers.append(server)
        server.start()
        return server

    def _home(self, name: str, workload: Workload) -> Path:
        folder = self.folder / name
        folder.mkdir()
        if workload.uid is not None:
            os.chown(folder, workload.uid, workload.uid)
        return folder

    def _start_provider(self) -> None:
        command = [sys.executable, str(ROOT / "examples" / "01-quickstart" / "provider.py"), str(self.provider_port)]
        environ = {**self.environ, "PROVIDER_KEY": PROVIDER_KEY}
        ledger = f"http://127.0.0.1:{self.provider_port}/ledger"
        self._started(Server("provider", command, self.folder / "provider.log", lambda: status(ledger) == 200, environ))


def status(url: str) -> int:
    """Of the answer to a GET.

    Raises:
        OSError: there is none.
    """
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  our own loopback
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
