# ruff: noqa: S603  part of a script, which starts programs of this repository and Envoy
"""What is measured: Envoy, the broker, the local gateway; how each is set up, and what it costs."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.envoy import address, installed_envoy

AGENT = "spiffe://bench.test/ns/team1/sa/agent"
BROKER = "spiffe://bench.test/ns/inference-broker/sa/broker"
TICKS = os.sysconf("SC_CLK_TCK")
PROXY_CPU, OUR_CPU = 0, 1


@dataclass(frozen=True)
class Stage:
    """Where everything around the targets is: certificates as files, the mock's ports, Workload API endpoints."""

    folder: Path
    plain_port: int
    tls_port: int
    agent_endpoint: str
    broker_endpoint: str


@dataclass(frozen=True)
class Target:
    """One program under load. `plain`: its callers come without TLS, as agents come to the local gateway."""

    name: str
    port: int
    command: list[str]
    plain: bool = False


def envoy(stage: Stage, port: int) -> Target:
    config = stage.folder / "envoy.json"
    config.write_text(json.dumps(envoy_config(stage, port)))
    command = [str(installed_envoy()), "-c", str(config), "--concurrency", "1", "--log-level", "error", "--base-id", str(port)]
    return Target("Envoy: mTLS + RBAC on the URI SAN", port, command)


def broker(stage: Stage, port: int, quota_store: str, name: str) -> Target:
    resources = stage.folder / "resources"
    resources.mkdir(exist_ok=True)
    (resources / "all.yaml").write_text(RESOURCES.replace("PORT", str(stage.plain_port)))
    local = f"127.0.0.1:{stage.plain_port}"
    command = [sys.executable, "-m", "broker", "serve", "--resources", str(resources), "--listen", f"127.0.0.1:{port}"]
    command += ["--admin", "127.0.0.1:0", "--audit", str(stage.folder / f"audit-{port}.jsonl"), "--quota-store", quota_store]
    command += ["--allow-hosts", local, "--plain-http-hosts", local, "--spiffe-endpoint-socket", stage.broker_endpoint]
    return Target(name, port, command)


def gateway(stage: Stage, port: int) -> Target:
    command = [sys.executable, "-m", "broker", "gateway", "--port", str(port), "--broker", f"127.0.0.1:{stage.tls_port}"]
    command += ["--broker-spiffe-id", BROKER, "--spiffe-endpoint-socket", stage.agent_endpoint]
    return Target("local gateway: HTTP in, mTLS out", port, command, plain=True)


def start(target: Target, log: Path) -> "subprocess.Popen[bytes]":
    """Start it on the proxies' own processor; its threads and children stay there."""
    os.sched_setaffinity(0, {PROXY_CPU})
    try:
        with log.open("wb") as out:
            return subprocess.Popen(target.command, stdout=out, stderr=out)
    finally:
        os.sched_setaffinity(0, {OUR_CPU})


def cpu_s(pid: int) -> float:
    """User and system time of a process and all below it."""
    stats: dict[int, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        stats[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    tree, grown = {pid}, True
    while grown:
        below = {child for child, (parent, _) in stats.items() if parent in tree} - tree
        tree, grown = tree | below, bool(below)
    return sum(stats[one][1] for one in tree if one in stats) / TICKS


def envoy_config(stage: Stage, port: int) -> dict[str, object]:
    """A listener that demands a client certificate, lets one URI SAN pass, and forwards to the mock."""
    api = "type.googleapis.com/envoy.extensions"
    certificate = {
        name: {"filename": str(stage.folder / f"broker.{kind}")} for name, kind in (("certificate_chain", "crt"), ("private_key", "key"))
    }
    tls = {
        "@type": f"{api}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "disable_stateless_session_resumption": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificates": [certificate],
            "validation_context": {"trusted_ca": {"filename": str(stage.folder / "ca.crt")}},
        },
    }
    agents = {"permissions": [{"any": True}], "principals": [{"authenticated": {"principal_name": {"exact": AGENT}}}]}
    manager = {
        "@type": f"{api}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": [
            {
                "name": "rbac",
                "typed_config": {"@type": f"{api}.filters.http.rbac.v3.RBAC", "rules": {"action": "ALLOW", "policies": {"agents": agents}}},
            },
            {"name": "router", "typed_config": {"@type": f"{api}.filters.http.router.v3.Router"}},
        ],
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "mock"}}]}]
        },
    }
    chain = {
        "transport_socket": {"name": "tls", "typed_config": tls},
        "filters": [{"name": "http", "typed_config": manager}],
    }
    endpoint = {"endpoint": {"address": address(stage.plain_port)}}
    cluster = {
        "name": "mock",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "mock", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return {"static_resources": {"listeners": [{"address": address(port), "filter_chains": [chain]}], "clusters": [cluster]}}


RESOURCES = f"""
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: team1}}
spec:
  providers:
  - name: mock
    schema: OpenAI
    endpoint: http://127.0.0.1:PORT/v1
    credentials: {{type: APIKey, secretRef: {{name: key}}}}
  models:
  - name: bench-model
    backends: [{{provider: mock, model: bench-model}}]
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: team1}}
spec:
  subjects: [{{spiffeID: "{AGENT}"}}]
  models: [bench-model]
  quotas:
  - {{name: tokens, tokens: 1000000000000, per: Day}}
  - {{name: requests, requests: 1000000000, per: Hour}}
---
apiVersion: v1
kind: Secret
metadata:
  name: key
  namespace: team1
  annotations: {{aiaccess.dev/hosts: "http://127.0.0.1:PORT"}}
stringData: {{api-key: bench-key-that-opens-nothing}}
"""
