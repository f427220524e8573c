"""The product as examples/02-kubernetes installs it: the chart's objects in a real API server, and what its Pods would run, on this host.

There is no kubelet, so each program is started here with the command, arguments, variables and service account of its Deployment. What a
node and a network would bring is replaced in one place each: `_values` (addresses), `_here` (ports, the SPIFFE socket), INSTEAD (the
provider of the example).
"""

import base64
import json
import os
import shlex
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import helm_python
import yaml
from support.chart import CHART, NAME, NAMESPACE
from support.cluster.control_plane import ControlPlane
from support.cluster.kubectl import Kubectl
from support.cluster.product import status
from support.cluster.servers import Server
from support.cluster.spire import Spire, Workload
from support.objects_in_cluster import define
from support.ports import free_port
from support.processes import KEPT, ROOT
from support.redis_server import RedisServer, redis_server

EXAMPLE = ROOT / "examples" / "02-kubernetes"
KEY = "sk-canary-of-the-walk-through"
BROKER = f"spiffe://example.org/ns/{NAMESPACE}/sa/{NAME}"  # as SPIRE's controller manager calls the Pods of that service account
TEAMS = ("team1", "team2")
OURS = "aiaccesspolicies,airoutingpolicies,aiproviders,secrets,deployments,serviceaccounts,configmaps"

# All that is changed in the example's files before they are applied, when the test asks a provider: the key, and a provider of ours on
# loopback in place of the public one, which the key's owner then has to name.
INSTEAD = {
    "team1/secret.yaml": (
        ("put-the-key-here", KEY),
        ("  namespace: team1\n", "  namespace: team1\n  annotations: {aiaccess.dev/hosts: 'http://127.0.0.1:PROVIDER'}\n"),
    ),
    "team1/routing.yaml": (("    schema: OpenAI\n", "    schema: OpenAI\n    endpoint: http://127.0.0.1:PROVIDER/v1\n"),),
}

# Who is not root cannot be several users, and so has but one identity in a trust domain: for the broker, agents and all.
ALONE = {
    "team1/access.yaml": (
        ("serviceAccount: {name: weather-agent, namespace: team1, trustDomain: example.org}", "spiffeID: spiffe://example.org/tests"),
    ),
    "partner/access.yaml": (
        ("spiffe://partner.example/ns/research/\n", "spiffe://partner.example/\n"),
        ("spiffe://partner.example/ns/research/sa/trial-agent", "spiffe://partner.example/tests"),
    ),
}


@dataclass
class Installation:
    """A release in the namespace of its own, a Redis, a provider, and the three programs of the chart.

    Attributes:
        redis: configured as that of the example.
        provider_port: of a provider that demands KEY.
    """

    cluster: ControlPlane
    spire: Spire
    folder: Path
    redis: RedisServer
    provider_port: int = field(default_factory=free_port)
    broker_port: int = field(default_factory=free_port)
    gateway_port: int = field(default_factory=free_port)
    webhook_port: int = field(default_factory=free_port)
    servers: dict[str, Server] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def running(cls, folder: Path, cluster: ControlPlane, spire: Spire) -> Iterator[Self]:
        """Install it, and start everything; about ten seconds. The namespaces of the example are there, and have no label."""
        with ExitStack() as closing:
            redis = closing.enter_context(redis_server(folder, *_redis_options()))
            it = cls(cluster, spire, folder, redis)
            closing.callback(it._stop)
            it._prepare()
            helm = closing.enter_context(helm_python.Config(kubeconfig_path=str(cluster.kubeconfig()), namespace=NAMESPACE))
            helm.install(str(CHART), NAME, it._values(), namespace=NAMESPACE)
            closing.callback(helm.uninstall, NAME)
            it._start()
            yield it

    @property
    def kubectl(self) -> Kubectl:
        """Of an administrator, in the namespace of the first team."""
        return self.cluster.kubectl(namespace=TEAMS[0])

    @property
    def environ(self) -> Mapping[str, str]:
        return {key: os.environ[key] for key in KEPT if key in os.environ} | {"PYTHONDONTWRITEBYTECODE": "1"}

    @property
    def broker_id(self) -> str:
        return self.spire.workload(BROKER).spiffe_id

    def example(self, file: str) -> str:
        """A file of the example, with what INSTEAD says, and where we are not root with what ALONE says."""
        text = (EXAMPLE / file).read_text()
        for old, new in (*INSTEAD.get(file, ()), *(() if os.geteuid() == 0 else ALONE.get(file, ()))):
            assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
            text = text.replace(old, new.replace("PROVIDER", str(self.provider_port)))
        return text

    def clear(self) -> None:
        """Take what tests made in the teams' namespaces, and their labels."""
        for team in TEAMS:
            kubectl = self.cluster.kubectl(namespace=team)
            kubectl("delete", OURS, "--all")
            kubectl("label", "namespace", team, "aiaccess.dev/inject-")

    def container(self, component: str) -> Mapping[str, Any]:
        """Of a Deployment of the chart, as the API server has it."""
        name = NAME if component == "broker" else f"{NAME}-{component}"
        (found,) = self._own.json("get", "deployment", name)["spec"]["template"]["spec"]["containers"]
        return found

    def billed(self) -> Mapping[str, Any]:
        """What the provider would put on its bill."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.provider_port}/ledger", timeout=5) as answer:
            return json.load(answer)

    def audit(self) -> list[Mapping[str, Any]]:
        """The exchanges that the broker wrote to its standard output."""
        lines = self.servers["broker"].log.read_text().split("\n")[:-1]  # the last one may be half written
        return [line for line in map(json.loads, lines) if line.get("kind") == "exchange"]

    def begin(
        self, name: str, command: Sequence[str], environ: Mapping[str, str], workload: Workload | None, ready: Callable[[], bool]
    ) -> Server:
        """Start a program, without waiting; it is stopped with all others at the latest."""
        server = Server(name, command, self.folder / f"{name}.log", ready, environ, workload.uid if workload else None)
        self.servers[name] = server
        server.begin()
        return server

    def end(self, name: str) -> None:
        self.servers.pop(name).kill()

    @property
    def _own(self) -> Kubectl:
        return self.cluster.kubectl(namespace=NAMESPACE)

    def _prepare(self) -> None:
        """What the example's README does before `helm install`."""
        define(self.cluster)
        self._own("wait", "--for=delete", *(f"namespace/{name}" for name in (NAMESPACE, *TEAMS)), "--timeout=60s")
        for words in readme("2. Install"):
            self._own(*words)

    def _values(self) -> dict[str, Any]:
        """Those of the example, with addresses of this host, and a deadline for machines that are busy with other tests."""
        values = yaml.safe_load((EXAMPLE / "values.yaml").read_text())
        provider = [f"127.0.0.1:{self.provider_port}"]
        if self.broker_id != BROKER:  # ALONE, whose namespace is not in their name
            values |= {"brokerSpiffeId": self.broker_id, "sharedModelNamespaces": [TEAMS[0]]}
        return values | {
            "quotaStore": values["quotaStore"] | {"deadline": "5s"},
            "upstreams": {"allowHosts": provider, "plainHttpHosts": provider},
            "gateway": {"port": self.gateway_port, "brokers": [f"127.0.0.1:{self.broker_port}"]},
        }

    def _start(self) -> None:
        environ = {**self.environ, "PROVIDER_KEY": KEY}
        provider = [sys.executable, str(ROOT / "examples" / "01-quickstart" / "provider.py"), str(self.provider_port)]
        self.begin("provider", provider, environ, None, lambda: status(f"http://127.0.0.1:{self.provider_port}/ledger") == 200)
        # The API server asks the webhook by a Service; here by a URL, which its certificate has to name
        for kind, path in (("mutating", "mutate"), ("validating", "validate")):
            patch = [
                {"op": "remove", "path": "/webhooks/0/clientConfig/service"},
                {"op": "add", "path": "/webhooks/0/clientConfig/url", "value": f"https://127.0.0.1:{self.webhook_port}/{path}"},
            ]
            self._own("patch", f"{kind}webhookconfiguration", NAME, "--type=json", "-p", json.dumps(patch))
        self._run("webhook", None, self.webhook_port, "--tls-names=127.0.0.1")
        self._run("broker", self.spire.workload(BROKER), self.broker_port)
        self._run("controller", None, free_port())
        for server in self.servers.values():
            server.until_ready()

    def _run(self, component: str, workload: Workload | None, port: int, *more: str) -> None:
        made, admin = self.container(component), free_port()
        account = NAME if component == "broker" else f"{NAME}-{component}"
        kubeconfig = self.cluster.service_account_kubeconfig(NAMESPACE, account)
        command = [*here(made["command"]), *(self._here(one, port, admin) for one in made["args"]), f"--kubeconfig={kubeconfig}", *more]
        environ = {**self.environ, **{one["name"]: self._value(one) for one in made.get("env", ())}}
        self.begin(component, command, environ, workload, lambda: status(f"http://127.0.0.1:{admin}/readyz") == 200)

    def _here(self, argument: str, port: int, admin: int) -> str:
        places = {
            "--listen=:8443": f"--listen=127.0.0.1:{port}",
            "--listen=:9443": f"--listen=127.0.0.1:{port}",
            "--admin=:9090": f"--admin=127.0.0.1:{admin}",
            "--spiffe-endpoint-socket=unix:///spiffe-workload-api/spire-agent.sock": f"--spiffe-endpoint-socket={self.spire.endpoint}",
        }
        return places.get(argument, argument)

    def _value(self, variable: Mapping[str, Any]) -> str:
        """As a kubelet would read it from the Secret; the name of the Redis is its address here."""
        reference = variable["valueFrom"]["secretKeyRef"]
        data = self._own.json("get", "secret", reference["name"])["data"]
        value = base64.b64decode(data[reference["key"]]).decode()
        return value.replace("redis.inference-broker.svc:6379", f"127.0.0.1:{self.redis.port}")

    def _stop(self) -> None:
        for server in reversed(self.servers.values()):
            server.kill()
        for name in (*TEAMS, NAMESPACE):
            self._own("delete", "namespace", name, "--wait=false", "--ignore-not-found")


def readme(step: str) -> Sequence[Sequence[str]]:
    """The kubectl commands below this heading of the example's README, without their first word."""
    text = (EXAMPLE / "README.md").read_text().partition(f"## {step}\n")[2].partition("\n## ")[0]
    blocks = "\n".join(text.split("```")[1::2])
    lines = [line for line in blocks.splitlines() if line.startswith("kubectl ")]
    assert lines, f"there is no step {step!r} in the README"
    return [shlex.split(line.replace(" examples/", f" {ROOT}/examples/"))[1:] for line in lines]


def here(command: Sequence[str]) -> Sequence[str]:
    """A command of our image, with the program of this environment."""
    program, *rest = command
    return [str(Path(sys.executable).with_name(program)), *rest]


def _redis_options() -> list[str]:
    """The example's redis.conf as a command line; `dir` is where this one lives."""
    (conf,) = (
        made["stringData"]["redis.conf"]
        for made in yaml.safe_load_all((EXAMPLE / "redis.yaml").read_text())
        if "redis.conf" in made.get("stringData", {})
    )
    lines = [line.split() for line in conf.splitlines() if not line.startswith("dir ")]
    return [word for first, *rest in lines for word in (f"--{first}", *rest)]
