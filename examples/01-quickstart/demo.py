# ruff: noqa: INP001, T201, S603  a script that talks to people, and starts programs of this repository
"""The main job, on one machine: an agent with no key gets answers, and what it may not have is refused.

It starts `broker dev` with fresh state, runs agent.py with nothing but the environment that would be injected into a pod, and
compares each outcome with what it announced. Exit code 0 means that all of them came out so.
"""

import argparse
import asyncio
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from foreign_ca import foreign_svid

from broker.ledger.sqlite import SqliteLedger
from broker.quota import Tally

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
EXAMPLE_PORT = 4190
WEATHER = "spiffe://example.org/ns/team1/sa/weather-agent"
TRIAL = "spiffe://example.org/ns/team1/sa/trial-agent"
STRANGER = "spiffe://example.org/ns/team1/sa/stranger"
START_S = 30.0
STEP_S = 60.0


class Broken(Exception):
    """The demo could not go on; the text says what to do."""


class Steps:
    """Announces, runs and judges one step after the other."""

    def __init__(self) -> None:
        self._number = 0
        self.failed: list[int] = []

    def judge(self, announced: str, seen: str, *, as_announced: bool) -> None:
        self._number += 1
        if not as_announced:
            self.failed.append(self._number)
        print(f"{self._number:2} {'✓' if as_announced else '✗'} {announced}")
        for line in seen.strip().splitlines() or ["(nothing)"]:
            print(f"     {line[:200]}")


class World:
    """What runs: the provider, `broker dev`, and their ports."""

    def __init__(self, provider: str, state: Path, running: ExitStack) -> None:
        self.provider = provider
        self.state = state
        self.key = os.environ["OPENAI_API_KEY"] if provider == "openai" else f"sk-demo-{secrets.token_hex(16)}"
        self.provider_port, self.door_port, self.admin_port, *agents = free_ports(6)
        self.agents = dict(zip((WEATHER, TRIAL, STRANGER), agents, strict=True))
        self._environments: dict[str, dict[str, str]] = {}
        self._running = running

    def start(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir(parents=True)
        if self.provider == "bundled":
            command = [sys.executable, HERE / "provider.py", str(self.provider_port)]
            process = self._run("provider", command, {"PROVIDER_KEY": self.key})
            wait_for(lambda: knock(self.provider_port), self.state / "provider.log", process)
        lay_out(self.provider, self.provider_port, self.state / "resources")
        local = f"127.0.0.1:{self.provider_port}"
        workloads = [word for identity, port in self.agents.items() for word in ("--workload", f"{identity}={port}")]
        command = [
            *(sys.executable, "-m", "broker", "dev", "--resources", self.state / "resources", "--state", self.state, *workloads),
            *("--listen", f"127.0.0.1:{self.door_port}", "--admin", f"127.0.0.1:{self.admin_port}"),
            *(("--allow-hosts", local, "--plain-http-hosts", local) if self.provider == "bundled" else ()),
        ]
        process = self._run("broker", command, {"OPENAI_API_KEY" if self.provider == "openai" else "PROVIDER_KEY": self.key})
        wait_for(self._is_ready, self.state / "broker.log", process)

    def environment(self, identity: str) -> dict[str, str]:
        """What the webhook would inject into the pod of this agent."""
        if identity in self._environments:
            return self._environments[identity]
        command = [sys.executable, "-m", "broker", "dev", "--print-env", identity, "--state", self.state]
        done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_S, check=False)
        if done.returncode:
            raise Broken(f"broker dev --print-env says: {done.stderr.strip()}")
        return self._environments.setdefault(identity, dict(line.split("=", 1) for line in done.stdout.splitlines()))

    def agent(self, identity: str, *arguments: str) -> tuple[int, str]:
        """Run agent.py as this workload, and give back its exit code and what it printed."""
        environ = {"PATH": os.environ.get("PATH", ""), "PYTHONIOENCODING": "utf-8", **self.environment(identity)}
        command = [sys.executable, HERE / "agent.py", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=STEP_S, check=False)
        return done.returncode, done.stdout + done.stderr

    def stop(self) -> None:
        self._running.close()

    def _run(self, name: str, command: list[str | Path], environ: dict[str, str]) -> "subprocess.Popen[bytes]":
        log = self._running.enter_context((self.state / f"{name}.log").open("wb"))
        quiet = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=quiet | environ)
        self._running.callback(end, process)
        return process

    def _is_ready(self) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/readyz", timeout=1) as answer:
            answer.read()
        for port in self.agents.values():
            knock(port)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", choices=("bundled", "openai"), default="bundled", help="openai: the real one, with OPENAI_API_KEY")
    parser.add_argument("--state", type=Path, default=ROOT / ".state" / "demo", help="emptied, and left behind to look at")
    given = parser.parse_args()
    provider, state = given.provider, given.state.resolve()
    if provider == "openai" and not os.environ.get("OPENAI_API_KEY"):
        print("OPENAI_API_KEY is not set: set it, or leave PROVIDER=openai out", file=sys.stderr)
        return 2
    steps = Steps()
    try:
        with ExitStack() as running:
            world = World(provider, state, running)
            world.start()
            play(world, steps)
            world.stop()
        show_books(state)
        look_for_key(world, steps)
    except Broken as broken:
        print(f" ✗ {broken}", file=sys.stderr)
        return 1
    print()
    if steps.failed:
        print(f"✗ Not as announced: step {', '.join(map(str, steps.failed))}. Logs are in {state}.")
        return 1
    print(f"✓ Every step came out as announced. The state, audit log included, is in {state}.")
    return 0


def play(world: World, steps: Steps) -> None:
    environ = world.environment(WEATHER)
    print(f"The agent is {WEATHER}. What it gets to know:")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"):
        print(f"     {name}={environ.get(name)}")
    steps.judge(
        "The agent's environment holds no provider key", "OPENAI_API_KEY is a placeholder", as_announced=world.key not in environ.values()
    )

    code, said = world.agent(WEATHER, "ask", "gpt-4o-mini")
    steps.judge("OpenAI SDK: an answer", said, as_announced=code == 0)

    code, said = world.agent(WEATHER, "stream", "gpt-4o-mini")
    steps.judge("OpenAI SDK: a streamed answer, in pieces", said, as_announced=code == 0 and "[in 1 pieces]" not in said)

    code, said = world.agent(WEATHER, "anthropic", "claude-haiku")
    if world.provider == "bundled":
        steps.judge("Anthropic SDK: an answer", said, as_announced=code == 0)
    else:
        steps.judge("Anthropic SDK: OpenAI does not speak this dialect, so 422", said, as_announced="422" in said)

    code, said = world.agent(WEATHER, "models")
    steps.judge(
        "The list of models shows what this agent may use, and gpt-4o is not on it",
        said,
        as_announced=code == 0 and "gpt-4o-mini" in (listed := said.strip().split(", ")) and "gpt-4o" not in listed,
    )

    code, said = world.agent(WEATHER, "ask", "gpt-4o")
    steps.judge("A model that no policy grants: 403", said, as_announced="PermissionDeniedError 403" in said)

    code, said = world.agent(TRIAL, "insist", "gpt-4o-mini")
    lines = said.strip().splitlines()
    shown = "\n".join([lines[0], "…", *lines[-2:]] if len(lines) > 3 else lines)  # noqa: PLR2004  what is skipped must be worth a line
    refused = lines[-1:] and lines[-1].startswith("RateLimitError 429 retry-after=")
    steps.judge("A quota of 600 tokens runs out: 429 with Retry-After", shown, as_announced=bool(refused) and len(lines) > 1)

    code, said = world.agent(STRANGER, "ask", "gpt-4o-mini")
    steps.judge("An identity that no policy names: 403", said, as_announced="PermissionDeniedError 403" in said)

    if world.provider == "bundled":
        with urllib.request.urlopen(f"http://127.0.0.1:{world.provider_port}/ledger", timeout=5) as answer:
            seen = json.loads(answer.read())
        said = f"{seen['requests']} requests served, {seen['refused_keys']} with a wrong key or none"
        steps.judge(
            "The provider demands its key, and got it with every request",
            said,
            as_announced=seen["requests"] > 0 and not seen["refused_keys"],
        )

    said = call_with_foreign_svid(world.door_port, world.state / "foreign.pem")
    steps.judge("The weather agent's name on a certificate of a foreign CA: refused in TLS", said, as_announced=said.startswith("TLS: "))


def call_with_foreign_svid(port: int, pem: Path) -> str:
    """Ask the broker's own door with an SVID that says the right name and was signed by somebody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # an attacker does not care whom he talks to
    context.set_alpn_protocols(["http/1.1"])
    pem.write_bytes(foreign_svid(WEATHER))
    context.load_cert_chain(pem)
    try:
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5)) as tls:
            tls.sendall(b"GET /v1/models HTTP/1.1\r\nHost: broker\r\n\r\n")
            answer = tls.recv(4096)
    except (ssl.SSLError, ConnectionError) as error:
        return f"TLS: {getattr(error, 'reason', None) or error}"
    return f"answered: {answer!r}" if answer else "TLS: closed without an answer"


def show_books(state: Path) -> None:
    """Read what the broker left behind: the audit log, and the tallies of the quota store."""
    print("\nAudit, one line an exchange:")
    print(f"     {'identity':14} {'model':13} {'decision':8} {'code':16} {'in':>5} {'out':>5} {'ms':>6}")
    lines = [json.loads(line) for line in (state / "audit.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "exchange":
            who = line["spiffe_id"].rpartition("/")[2] or "-"
            figures = f"{line['input_tokens']:>5} {line['output_tokens']:>5} {line['total_ms']:>6.0f}"
            print(f"     {who:14} {line['model'] or '-':13} {line['decision']:8} {line['code']:16} {figures}")
    print("\nUsage of the last 24 hours, from the quota store:")
    print(f"     {'identity':14} {'policy':21} {'tokens':>6} {'requests':>8} {'denied':>6}")
    for tally in asyncio.run(tallies(state / "quota.sqlite")):
        who = tally.identity.rpartition("/")[2]
        print(f"     {who:14} {tally.policy:21} {tally.tokens:>6} {tally.requests:>8} {tally.denied:>6}")
    print()


async def tallies(store: Path) -> list[Tally]:
    ledger = await SqliteLedger.open(store, time.time)
    try:
        return sorted(await ledger.tallies(), key=lambda tally: tally.identity)
    finally:
        await ledger.close()


def look_for_key(world: World, steps: Steps) -> None:
    """The key must be in no file that this run has left: not in a log, not in audit, not in the store."""
    files = [path for path in world.state.rglob("*") if path.is_file()]
    found = [path.name for path in files if world.key.encode() in path.read_bytes()]
    said = f"found in {', '.join(found)}" if found else f"searched {len(files)} files"
    steps.judge("The provider's key is in no log, no audit line, no store", said, as_announced=not found)


def lay_out(provider: str, port: int, into: Path) -> None:
    """Copy the objects to the state folder, with the port that was free in the place of the example's."""
    folders = [HERE / "resources", *([HERE / "openai"] if provider == "openai" else [])]
    into.mkdir()
    for path in (path for folder in folders for path in folder.glob("*.yaml")):
        text = path.read_text().replace(f"127.0.0.1:{EXAMPLE_PORT}", f"127.0.0.1:{port}")
        (into / path.name).write_text(text)


def wait_for(attempt: Callable[[], None], log: Path, process: "subprocess.Popen[bytes]") -> None:
    """Try until it works, the process has ended, or the time is up."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            return attempt()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace").splitlines()[-15:]
                raise Broken("\n     ".join([f"{log.stem} did not become ready ({error}):", *last])) from error
            time.sleep(0.1)


def knock(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), 1).close()


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        taken = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [taker.getsockname()[1] for taker in taken]


if __name__ == "__main__":
    sys.exit(main())
