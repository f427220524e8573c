"""Replicas of the webhook behind a Service, with the chart's switches, rights and configurations, before a real API server.

The API server runs on this host and cannot resolve Services, so the Service is a port here, and that alone is changed in what the
chart says: `clientConfig.url` in the place of `clientConfig.service`, and a certificate for loopback besides.
"""

import asyncio
import contextlib
import http.client
import json
import os
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml
from cryptography import x509
from support import chart
from support.cluster.control_plane import ControlPlane
from support.cluster.servers import Server
from support.ports import free_port
from support.processes import KEPT

LOOPBACK = "127.0.0.1"
LOOK_S = 0.1
VALUES = {"trustDomain": "example.org", "namespaces": ["*"], "quotaStore": {"secretName": "quota-store"}}


@dataclass
class Replica(Server):
    port: int = 0
    admin_port: int = 0

    def is_ready(self) -> bool:
        return _get(self.admin_port, "/readyz") == http.client.OK


class Service:
    """A port whose new connections go to a replica that is ready, as kube-proxy has it. In a thread, since tests block."""

    def __init__(self) -> None:
        self.port = free_port()
        self.ready: list[int] = []
        self.replicas: list[Replica] = []
        self._loop = asyncio.new_event_loop()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._stop = asyncio.Event()

    @contextmanager
    def listening(self) -> Iterator[Self]:
        self._thread.start()
        assert self._listens.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, LOOPBACK, self.port)
        self._listens.set()
        while not self._stop.is_set():
            self.ready = [one.port for one in tuple(self.replicas) if await asyncio.to_thread(one.is_ready)]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.ready:
            writer.transport.abort()
            return
        self.ready = [*self.ready[1:], self.ready[0]]
        try:
            inner_reader, inner_writer = await asyncio.open_connection(LOOPBACK, self.ready[-1])
            await asyncio.gather(_pipe(reader, inner_writer), _pipe(inner_reader, writer))
        except OSError:
            writer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()


def _get(port: int, path: str) -> int:
    """The status of the answer; 0 when there is none."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@dataclass
class Webhooks:
    """`name` is that of the release, of its namespace, and of both configurations."""

    cluster: ControlPlane
    folder: Path
    name: str
    service: Service
    replicas: list[Replica] = field(default_factory=list)

    @classmethod
    @contextmanager
    def installed(cls, cluster: ControlPlane, folder: Path, name: str, replicas: int = 2) -> Iterator[Self]:
        """Apply what the chart has of the webhook, start replicas, and take all of it back at the end."""
        cluster.create_namespace(name)
        with Service().listening() as service:
            it = cls(cluster, folder, name, service)
            try:
                it.tell()
                for _ in range(replicas):
                    it.start()
                yield it
            finally:
                kubectl = cluster.kubectl(namespace=name)
                for made in it.objects:
                    if made["kind"].endswith("Configuration") or made["kind"].startswith("Cluster"):
                        kubectl("delete", made["kind"], made["metadata"]["name"], "--ignore-not-found")
                for replica in it.replicas:
                    replica.kill()
                kubectl("delete", "namespace", name, "--wait=false")

    @cached_property
    def rendered(self) -> list[dict[str, Any]]:
        return chart.render(VALUES, self.name, self.name)

    @property
    def account(self) -> str:
        return f"{self.name}-webhook"

    @property
    def secret(self) -> str:
        return f"{self.name}-webhook-tls"

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """The webhook's account, rights, Secret and configurations."""
        kinds = {"ServiceAccount", "Secret", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
        own = [one for one in self.rendered if one["kind"] in kinds and one["metadata"]["name"].startswith(self.account)]
        configurations = [one for one in self.rendered if one["kind"] in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")]
        for one in configurations:
            for webhook in one["webhooks"]:
                path = webhook["clientConfig"]["service"]["path"]
                webhook["clientConfig"] = {"url": f"https://{LOOPBACK}:{self.service.port}{path}"}
        return own + configurations

    def tell(self) -> None:
        self.cluster.kubectl(namespace=self.name).apply(self.objects)

    def switch(self, flag: str) -> str:
        """What the chart says."""
        (found,) = (one for one in self._switches if one.startswith(f"{flag}="))
        return found.partition("=")[2]

    @property
    def _switches(self) -> Sequence[str]:
        return chart.container(self.rendered, self.account)["args"]

    def start(self) -> Replica:
        """One more; it gets what comes as soon as it is ready."""
        port, admin = free_port(), free_port()
        name = f"webhook-{len(self.replicas)}"
        command = [
            *(sys.executable, "-m", "webhook", *self._switches),
            *("--listen", f"{LOOPBACK}:{port}", "--admin", f"{LOOPBACK}:{admin}", "--tls-names", LOOPBACK, "--drain", "2s"),
            *("--kubeconfig", str(self.cluster.service_account_kubeconfig(self.name, self.account))),
        ]
        environ = {key: os.environ[key] for key in KEPT if key in os.environ}
        replica = Replica(name, command, self.folder / f"{name}.log", lambda: False, environ, port=port, admin_port=admin)
        replica.ready = replica.is_ready
        self.replicas.append(replica)
        self.service.replicas.append(replica)
        replica.start()
        return replica

    def serial_numbers(self) -> list[str]:
        """Of the certificates that replicas serve, in their order."""
        return [_serial_number(replica.port) for replica in self.replicas]


def _serial_number(port: int) -> str:
    text = ssl.get_server_certificate((LOOPBACK, port), timeout=5)
    return f"{x509.load_pem_x509_certificate(text.encode()).serial_number:x}"


class Creation:
    """Pods, created at a steady pace by an administrator on kept connections until told to stop. What became of each is kept."""

    def __init__(self, cluster: ControlPlane, namespace: str, each_second: int = 20, connections: int = 4) -> None:
        (user,) = yaml.safe_load(cluster.kubeconfig().read_text())["users"]
        self._context = ssl.create_default_context(cafile=str(cluster.ca))
        self._context.load_cert_chain(user["user"]["client-certificate"], user["user"]["client-key"])
        self._host = cluster.url.removeprefix("https://")
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._pause_s = connections / each_second
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._create) for _ in range(connections)]
        self.pods: list[dict[str, Any]] = []
        self.failures: list[str] = []

    @contextmanager
    def going_on(self) -> Iterator[Self]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def until(self, more: int) -> None:
        """Wait for so many further ones."""
        goal, ends_s = len(self.pods) + more, time.monotonic() + 60
        while len(self.pods) < goal and not self.failures:
            assert time.monotonic() < ends_s, "Pods are created too slowly"
            time.sleep(0.05)

    def _create(self) -> None:
        connection = http.client.HTTPSConnection(self._host, context=self._context, timeout=30)
        container = {"name": "agent", "image": "agent:1"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "load-"}, "spec": {"containers": [container]}}
        due_s = time.monotonic()
        while not self._stop.is_set():
            connection.request("POST", self._path, json.dumps(pod), {"content-type": "application/json"})
            answer = connection.getresponse()
            said = json.loads(answer.read())
            if answer.status == http.client.CREATED:
                self.pods.append(said)
            else:
                self.failures.append(said["message"])
            due_s += self._pause_s
            self._stop.wait(max(0.0, due_s - time.monotonic()))
        connection.close()


def init_containers(pod: dict[str, Any]) -> Sequence[str]:
    return [one["name"] for one in pod["spec"].get("initContainers", ())]
