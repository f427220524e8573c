"""kubectl as a function: what it prints, or an error with what it said."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import yaml
from support.cluster.binaries import find

PATIENCE_S = 60.0


class KubectlFailed(Exception):
    """It said no; the message is what it said."""


@dataclass(frozen=True)
class Kubectl:
    """Bound to a user (by kubeconfig) and a namespace.

    kubectl("get", "pods")                  its output
    kubectl.refusal("create", "-f", "-")    what it says when it must be refused
    """

    kubeconfig: Path
    cache: Path
    namespace: str

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        done = self._run(words, stdin)
        if done.returncode:
            raise KubectlFailed(f"kubectl {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def refusal(self, *words: str, stdin: str | None = None) -> str:
        done = self._run(words, stdin)
        assert done.returncode, f"kubectl {' '.join(words)} was not refused: {done.stdout}"
        return done.stderr

    def json(self, *words: str, stdin: str | None = None) -> dict:
        return json.loads(self(*words, "-o", "json", stdin=stdin))

    def apply(self, objects: str | Path | Sequence[Mapping[str, object]], *words: str) -> str:
        """Apply YAML text, the files at a path, or objects."""
        if isinstance(objects, Path):
            return self("apply", "-f", str(objects), *words)
        text = objects if isinstance(objects, str) else yaml.safe_dump_all(objects)
        return self("apply", "-f", "-", *words, stdin=text)

    def within(self, namespace: str) -> Self:
        return replace(self, namespace=namespace)

    def _run(self, words: Sequence[str], stdin: str | None) -> "subprocess.CompletedProcess[str]":
        own = {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.cache)}
        command = [str(find("kubectl")), "--namespace", self.namespace, *words]
        # a pipe that ends, never the terminal: kubectl would wait for a person
        return subprocess.run(
            command, env={**os.environ, **own}, input=stdin or "", capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
