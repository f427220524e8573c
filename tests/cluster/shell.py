# ruff: noqa: T201  it talks to a person
"""A shell in a real Kubernetes with SPIRE and the product installed, all gone when the shell ends: `make cluster`.

There are no nodes: Pods are stored, mutated and judged, and stay Pending. What the product's own Pods would run, and the gateway of one
agent, runs beside them on this host, with the service accounts and the switches of the chart.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.cluster.binaries import find
from support.cluster.control_plane import ControlPlane
from support.cluster.installation import TEAMS, Installation
from support.cluster.product import status
from support.cluster.scratch import scratch
from support.cluster.spire import Spire
from support.processes import ROOT

from broker.names import PLACEHOLDER_KEY

AGENT = "spiffe://example.org/ns/team1/sa/weather-agent"
SAY = """
Kubernetes at {url}, without nodes; SPIRE for {trust_domain}; broker, controller and webhook as the chart
installs them; the objects of examples/02-kubernetes/team1, with a provider on this host in place of OpenAI. `exit` ends it all.
What they log: {logs}/*.log

  kubectl get aiaccesspolicy -A
  kubectl label namespace team1 aiaccess.dev/inject=enabled
  kubectl run agent --image=agent:1 -n team1 -o yaml            what the webhook makes of a Pod: variables, and the gateway
  curl -s $OPENAI_BASE_URL/chat/completions --json '{question}'
  kubectl aiaccess explain {agent} gpt-4o-mini

The curl goes through the gateway of {agent}. Figures of usage follow within half a minute.
"""
SAME = ("--allow-hosts", "--plain-http-hosts", "--shared-model-namespaces")  # that `explain` needs as the brokers have them
QUESTION = '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Name a cloud."}]}'


def main() -> int:
    with scratch() as folder:
        for name in ("kubernetes", "spire", "product", "bin"):
            (folder / name).mkdir()
        print("starting etcd, kube-apiserver, kube-controller-manager, SPIRE …", flush=True)
        with ControlPlane.started(folder / "kubernetes") as cluster, Spire.started(folder / "spire") as spire:
            spire.until_served(spire.myself())
            print("installing the chart, and starting what its Pods would run …", flush=True)
            with Installation.running(folder / "product", cluster, spire) as it:
                agent = grant(it)
                told = SAY.format(url=cluster.url, trust_domain=spire.trust_domain, logs=it.folder, question=QUESTION, agent=agent)
                print(told, flush=True)
                command = [os.environ.get("SHELL", "/bin/sh")]
                return subprocess.run(command, env=environment(folder / "bin", it), cwd=ROOT, check=False).returncode


def grant(it: Installation) -> str:
    """Apply what a team would, and start the gateway of its agent; who that is."""
    for file in ("secret", "routing", "access"):
        it.kubectl.apply(it.example(f"{TEAMS[0]}/{file}.yaml"))
    it.kubectl("wait", "--for=condition=Programmed", "aiaccesspolicy/weather-agents", "--timeout=60s")
    agent = it.spire.workload(AGENT)
    broker = ("--broker", f"127.0.0.1:{it.broker_port}", "--broker-spiffe-id", it.broker_id)
    switches = ("--port", str(it.gateway_port), "--spiffe-endpoint-socket", it.spire.endpoint, *broker)
    command = [sys.executable, "-m", "broker", "gateway", *switches]
    it.begin("gateway", command, it.environ, agent, lambda: status(f"{gateway(it)}/models") == 200).until_ready()
    return agent.spiffe_id


def gateway(it: Installation) -> str:
    return f"http://127.0.0.1:{it.gateway_port}/v1"


def environment(programs: Path, it: Installation) -> Mapping[str, str]:
    """What the person's commands find: the programs, which cluster, SPIRE and gateway is meant, and what the brokers let be called."""
    switches = [argument.partition("=") for argument in it.container("broker")["args"]]
    explaining = {f"BROKER_{name[2:].replace('-', '_').upper()}": value for name, _, value in switches if name in SAME}
    (programs / "kubectl").symlink_to(find("kubectl"))
    for name in ("server", "agent"):
        program = programs / f"spire-{name}"
        program.write_text(f'#!/bin/sh\nexec "{find(program.name)}" "$@" -socketPath "{it.spire.folder}/{name}.sock"\n')
        program.chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(it.cluster.kubeconfig()),
        "SPIFFE_ENDPOINT_SOCKET": it.spire.endpoint,
        **explaining,
        "OPENAI_BASE_URL": gateway(it),
        "OPENAI_API_KEY": PLACEHOLDER_KEY,
    }


if __name__ == "__main__":
    sys.exit(main())
