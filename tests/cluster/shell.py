# ruff: noqa: T201  it talks to a person
"""A shell with a real Kubernetes control plane and a real SPIRE around it, gone when the shell ends: `make cluster`.

There is no kubelet, so Pods are stored, mutated and judged, and stay Pending.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.cluster.binaries import find
from support.cluster.control_plane import ControlPlane
from support.cluster.spire import Spire
from support.objects_in_cluster import define

TYPE = """
A Kubernetes control plane at {url} and SPIRE for {trust_domain}; `exit` ends both and forgets everything. Try:

  kubectl api-resources --api-group=aiaccess.dev      our kinds
  kubectl explain aiaccesspolicy.spec
  kubectl create namespace team1
  spire-server entry show                             who may be whom
  spire-agent api fetch x509                          the SVID of this shell
"""


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="k-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        for name in ("kubernetes", "spire"):
            (folder / name).mkdir()
        print("starting etcd, kube-apiserver, kube-controller-manager, SPIRE …", flush=True)
        with ControlPlane.started(folder / "kubernetes") as cluster, Spire.started(folder / "spire") as spire:
            spire.until_served(spire.myself())
            define(cluster)
            print(TYPE.format(url=cluster.url, trust_domain=spire.trust_domain), flush=True)
            return subprocess.run([os.environ.get("SHELL", "/bin/sh")], env=environment(folder, cluster, spire), check=False).returncode
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment(folder: Path, cluster: ControlPlane, spire: Spire) -> Mapping[str, str]:
    """What the person's commands find: the programs, and which cluster and which SPIRE is meant."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "kubectl").symlink_to(find("kubectl"))
    for name in ("server", "agent"):
        program = programs / f"spire-{name}"
        program.write_text(f'#!/bin/sh\nexec "{find(program.name)}" "$@" -socketPath "{spire.folder}/{name}.sock"\n')
        program.chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(cluster.kubeconfig()),
        "SPIFFE_ENDPOINT_SOCKET": spire.endpoint,
    }


if __name__ == "__main__":
    sys.exit(main())
