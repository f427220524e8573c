"""`make cluster`: a person's shell finds everything, what it says to type works, and it leaves nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SHELL = Path(__file__).parent / "shell.py"
CUT = "-- cut here --"
AGENT = "spiffe://example.org/ns/team1/sa/weather-agent" if os.geteuid() == 0 else "spiffe://example.org/tests"
SAID = (
    "kubectl get aiaccesspolicy -A",
    "kubectl label namespace team1 aiaccess.dev/inject=enabled",
    "kubectl run agent --image=agent:1 -n team1 -o yaml",
    """curl -s $OPENAI_BASE_URL/chat/completions --json '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Name a cloud."}]}'""",
    f"kubectl aiaccess explain {AGENT} gpt-4o-mini",
)
TYPED = """
kubectl get crd -o name
kubectl auth whoami -o 'jsonpath={.status.userInfo.username}{"\\n"}'
spire-server entry show | grep 'SPIFFE ID'
spire-agent api fetch x509 | grep 'SPIFFE ID'
echo "in $KUBECONFIG"
broker --help | head -1
exit 7
"""
pytestmark = pytest.mark.timeout(300)


def typed(commands: str) -> "subprocess.CompletedProcess[str]":
    """The shell with all that was printed, after somebody typed these commands."""
    environ = os.environ | {"SHELL": "/bin/sh"}
    command = [sys.executable, str(SHELL)]
    return subprocess.run(command, input=commands, env=environ, capture_output=True, text=True, timeout=240, check=False)


def test_a_person_has_kubectl_spire_and_our_kinds_and_then_all_is_gone():
    done = typed(TYPED)
    assert done.returncode == 7, done.stderr
    lines = done.stdout.splitlines()
    assert "customresourcedefinition.apiextensions.k8s.io/aiaccesspolicies.aiaccess.dev" in lines
    assert "admin" in lines
    assert sum(line.startswith("SPIFFE ID") and line.endswith("spiffe://example.org/tests") for line in lines) == 2
    assert any(line.startswith("usage: broker") for line in lines)
    (folder,) = [Path(line.removeprefix("in ")).parents[1] for line in lines if line.startswith("in ")]
    assert not folder.exists()
    assert str(folder) not in "".join(map(command_line, Path("/proc").glob("[0-9]*/cmdline")))


def test_what_it_says_to_type_works():
    done = typed("".join(f"echo {CUT}\n{command}\n" for command in SAID))
    assert done.returncode == 0, done.stderr
    banner, table, _, pod, answer, explained = done.stdout.split(CUT)
    assert [command for command in SAID if command not in banner] == []
    assert re.search(r"^team1 +weather-agents +\S+ +gpt-4o-mini +True ", table, re.MULTILINE)
    made = yaml.safe_load(pod)["spec"]
    assert [one["name"] for one in made["initContainers"]] == ["aiaccess-gateway"]
    assert {"name": "OPENAI_API_KEY", "value": "aiaccess-placeholder"} in made["containers"][0]["env"]
    assert json.loads(answer)["choices"][0]["message"]["content"] == "Name a cloud ."
    assert explained.strip().startswith(f"allowed: {AGENT} asking for gpt-4o-mini")


def command_line(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended meanwhile
        return ""
