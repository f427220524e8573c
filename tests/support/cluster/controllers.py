"""Controllers as processes, each with an admin port of its own."""

import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.cluster.control_plane import ControlPlane
from support.cluster.servers import Server
from support.ports import free_port

PATIENCE_S = 60.0


@dataclass
class Controllers:
    """Those of one namespace."""

    cluster: ControlPlane
    namespace: str
    folder: Path
    servers: list[Server] = field(default_factory=list)

    def start(self, *switches: str, wait: bool = True) -> tuple[Server, str]:
        """The server, and the URL of its admin port."""
        name, port = f"controller-{len(self.servers)}", free_port()
        command = [
            *(sys.executable, "-m", "broker", "controller", "--kubeconfig", str(self.cluster.kubeconfig())),
            *("--namespace", self.namespace, "--admin", f"127.0.0.1:{port}", *switches),
        ]
        url = f"http://127.0.0.1:{port}"
        server = Server(name, command, self.folder / f"{name}.log", lambda: get(f"{url}/readyz").startswith("ready"))
        self.servers.append(server)
        server.begin()
        if wait:
            server.until_ready()
        return server, url


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  our own loopback
        return answer.read().decode()


def eventually(what: Callable[[], Any], why: Callable[[], str] = str) -> Any:
    """What it returns when that is true of it."""
    ends_s = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < ends_s, why()
        time.sleep(0.1)
    return found
