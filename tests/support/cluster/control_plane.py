"""A real control plane on loopback with state that is thrown away: etcd, kube-apiserver, kube-controller-manager.

No kubelet: Pods are stored, mutated and validated, and stay Pending.

with ControlPlane.started(folder) as cluster:
    cluster.kubectl()("get", "namespaces")
"""

import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from support.cluster.binaries import find
from support.cluster.certificates import Authority, Pair, traditional
from support.cluster.kubectl import Kubectl, KubectlFailed
from support.cluster.servers import START_S, Server
from support.ports import free_port

ADMIN = "admin"
# What gives Pods their owners, namespaces their service account and their end, and ClusterRoles their parts; nothing that needs nodes.
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
)


@dataclass
class ControlPlane:
    """The servers, each of which can be restarted, and ways in for any user."""

    folder: Path
    authority: Authority
    url: str
    etcd: Server
    apiserver: Server
    controller_manager: Server

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator[Self]:
        """Start all three; ready within about four seconds on an idle machine."""
        it = cls._prepared(folder)
        try:
            it.start()
            yield it
        finally:
            it.stop()

    @property
    def ca(self) -> Path:
        return self.authority.ca

    @property
    def servers(self) -> Sequence[Server]:
        return self.etcd, self.apiserver, self.controller_manager

    def start(self) -> None:
        for server in self.servers:
            server.start()
        self._until_it_has_its_service_account("default")

    def until_it_serves(self) -> None:
        """After one of them was away, the others need a moment to notice that it is back."""
        for server in self.servers:
            server.until_ready()

    @contextmanager
    def another_apiserver(self) -> Iterator[str]:
        """A second one on the same etcd, as larger control planes have it; its URL. `kubectl("--server", url, …)` asks it."""
        own, port = self.url.rpartition(":")[2], free_port()
        url = f"https://127.0.0.1:{port}"
        command = [str(port) if word == own else word for word in self.apiserver.command]
        ready, context = f"{url}/readyz", _health_checker(self.authority)
        server = Server("another kube-apiserver", command, self.folder / "another-apiserver.log", lambda: _answers(ready, context))
        server.start()
        try:
            yield url
        finally:
            server.kill()

    def stop(self) -> None:
        """At once: nobody needs what they would write on the way out."""
        for server in reversed(self.servers):
            server.kill()

    def kubeconfig(self, user: str = ADMIN, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for a user of this name and groups, whose rights RBAC gives. The name `admin` may do everything."""
        path = self.folder / f"{'-'.join((user, *groups)).replace(':', '_')}.kubeconfig"
        if path.exists():
            return path
        pair = self.authority.client(path.stem, user, ("system:masters",) if user == ADMIN else groups)
        return self._kubeconfig(path, {"client-certificate": str(pair.certificate), "client-key": str(pair.key)})

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """As a Pod of this service account would come in: with a token of an hour, from TokenRequest."""
        return self._kubeconfig(self.folder / f"token-{namespace}-{name}.kubeconfig", {"token": self.token(namespace, name)})

    def token(self, namespace: str, name: str, *, lives_s: int = 3600) -> str:
        return self.kubectl()("create", "token", name, "-n", namespace, f"--duration={lives_s}s").strip()

    def kubectl(self, kubeconfig: Path | None = None, namespace: str = "default") -> Kubectl:
        return Kubectl(kubeconfig or self.kubeconfig(), self.folder / "kubectl-cache", namespace)

    def _kubeconfig(self, path: Path, user: dict[str, str]) -> Path:
        cluster = {"server": self.url, "certificate-authority": str(self.ca)}
        text = yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "test", "user": user}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "current-context": "test",
            }
        )
        path.write_text(text)
        return path

    def create_namespace(self, name: str, **labels: str) -> None:
        """Create it, and wait for its service account: without one, no Pod may be created in it."""
        self.kubectl().apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}])
        self._until_it_has_its_service_account(name)

    def _until_it_has_its_service_account(self, namespace: str) -> None:
        ends_s = time.monotonic() + START_S
        kubectl = self.kubectl(namespace=namespace)
        while True:
            try:
                kubectl("get", "serviceaccount", "default")
            except KubectlFailed:
                assert time.monotonic() < ends_s, self.controller_manager.last_words()
                time.sleep(0.05)
            else:
                return

    @classmethod
    def _prepared(cls, folder: Path) -> Self:
        authority = Authority.new(folder)
        service_accounts = folder / "service-accounts.key"
        service_accounts.write_bytes(traditional(ec.generate_private_key(ec.SECP256R1())))
        etcd_url, port = f"http://127.0.0.1:{free_port()}", free_port()
        url = f"https://127.0.0.1:{port}"
        serving = authority.server("kube-apiserver", ("127.0.0.1", "localhost", "kubernetes.default.svc"))
        etcd = _etcd(folder, etcd_url)
        apiserver = _apiserver(folder, authority, serving, service_accounts, etcd_url, port)
        unstarted = Server("kube-controller-manager", (), folder / "kube-controller-manager.log", lambda: True)
        it = cls(folder, authority, url, etcd, apiserver, unstarted)
        it.controller_manager = _controller_manager(it, service_accounts)
        return it


def _etcd(folder: Path, url: str) -> Server:
    peers = f"http://127.0.0.1:{free_port()}"
    command = [
        *(str(find("etcd")), "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"),
        *("--listen-client-urls", url, "--advertise-client-urls", url, "--listen-peer-urls", peers),
        *("--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"),
    ]
    return Server("etcd", command, folder / "etcd.log", lambda: _answers(f"{url}/health"))


def _apiserver(folder: Path, authority: Authority, serving: Pair, service_accounts: Path, etcd_url: str, port: int) -> Server:
    context = _health_checker(authority)
    command = [
        *(str(find("kube-apiserver")), "--etcd-servers", etcd_url, "--secure-port", str(port)),
        *("--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"),
        *("--tls-cert-file", str(serving.certificate), "--tls-private-key-file", str(serving.key)),
        *("--client-ca-file", str(authority.ca), "--authorization-mode", "RBAC"),
        *("--service-account-issuer", "https://kubernetes.default.svc.cluster.local", "--service-cluster-ip-range", "10.0.0.0/24"),
        *("--service-account-key-file", str(service_accounts), "--service-account-signing-key-file", str(service_accounts)),
        *("--profiling=false", "--shutdown-watch-termination-grace-period=1s"),
    ]
    return Server("kube-apiserver", command, folder / "kube-apiserver.log", lambda: _answers(f"https://127.0.0.1:{port}/readyz", context))


def _health_checker(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca))
    admin = authority.client("apiserver-health", ADMIN, ("system:masters",))
    context.load_cert_chain(admin.certificate, admin.key)
    return context


def _controller_manager(it: ControlPlane, service_accounts: Path) -> Server:
    port = free_port()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it makes its own certificate, and we ask for its health alone
    command = [
        *(str(find("kube-controller-manager")), "--kubeconfig", str(it.kubeconfig("system:kube-controller-manager"))),
        *("--bind-address", "127.0.0.1", "--secure-port", str(port), "--leader-elect=false", "--use-service-account-credentials"),
        *("--service-account-private-key-file", str(service_accounts), "--root-ca-file", str(it.ca)),
        *("--controllers", ",".join(CONTROLLERS)),
    ]
    ready = f"https://127.0.0.1:{port}/healthz"
    return Server("kube-controller-manager", command, it.folder / "kube-controller-manager.log", lambda: _answers(ready, context))


def _answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    try:
        with urllib.request.urlopen(url, context=context, timeout=2) as answer:  # noqa: S310  our own loopback
            return answer.status == 200
    except urllib.error.HTTPError:
        return False
