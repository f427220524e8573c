"""The product as it is deployed: `broker serve` and `broker gateway` as processes of their own, with an issuer in the test's loop.

async with deployment(tmp_path, RESOURCES, {AGENT: "..."}) as it:
    it.gateway(AGENT).url
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx

from broker.issuer import Issuer

ROOT = Path(__file__).parent.parent.parent
BROKER_ID = "spiffe://example.org/ns/inference-broker/sa/broker"
START_S = 30.0
STOP_S = 20.0
# what a child needs of our environment; anything else would make a test depend on whose machine it runs on
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@dataclass
class Process:
    """One child, its output in a file."""

    name: str
    log: Path
    child: asyncio.subprocess.Process
    command: tuple[str, ...]

    @property
    def pid(self) -> int:
        return self.child.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    async def kill(self) -> None:
        self.child.kill()
        await self.child.wait()

    async def stop(self) -> int:
        if self.child.returncode is None:
            self.child.terminate()
            try:
                async with asyncio.timeout(STOP_S):
                    await self.child.wait()
            except TimeoutError:
                await self.kill()
        return self.child.returncode or 0


@dataclass
class Deployment:
    folder: Path
    issuer: Issuer
    resources: Path
    broker_port: int
    admin_port: int
    environ: Mapping[str, str]
    processes: list[Process] = field(default_factory=list)
    gateway_ports: dict[str, int] = field(default_factory=dict)

    async def spawn(self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> Process:
        log = self.folder / f"{name}.log"
        kept = {key: os.environ[key] for key in KEPT if key in os.environ}
        with log.open("ab") as out:
            child = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, env={**kept, **(environ or {})}, cwd=ROOT)
        process = Process(name, log, child, tuple(command))
        self.processes.append(process)
        return process

    async def serve(self, *more: str, program: Sequence[str] = ("-m", "broker"), store: str | None = None) -> Process:
        """Start the broker, and wait until it is ready."""
        command = [
            *(sys.executable, *program, "serve", "--resources", str(self.resources)),
            *("--spiffe-endpoint-socket", f"unix://{await self.issuer.serve(BROKER_ID)}"),
            *("--listen", f"127.0.0.1:{self.broker_port}", "--admin", f"127.0.0.1:{self.admin_port}"),
            *("--audit", str(self.folder / "audit.jsonl"), "--quota-store", store or f"sqlite://{self.folder}/quota.sqlite"),
            *("--allow-hosts", "127.0.0.1", "--plain-http-hosts", "127.0.0.1", *more),
        ]
        process = await self.spawn("broker", command, self.environ)
        await self.until_ready(process)
        return process

    async def until_ready(self, process: Process) -> None:
        async with asyncio.timeout(START_S), httpx.AsyncClient() as client:
            while True:
                if process.child.returncode is not None:
                    raise AssertionError(f"{process.name} ended:\n{process.output()}")
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"http://127.0.0.1:{self.admin_port}/readyz")).status_code == 200:
                        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.broker_port), 1):
                            return
                await asyncio.sleep(0.05)

    async def gateway(self, spiffe_id: str, *more: str) -> Process:
        """Start a local gateway, and wait until its port is open. Its base URL is `url(spiffe_id)`."""
        port = self.gateway_ports[spiffe_id] = free_port()
        command = [
            *(sys.executable, "-m", "broker", "gateway", "--port", str(port), "--broker", f"127.0.0.1:{self.broker_port}"),
            *("--broker-spiffe-id", BROKER_ID, "--spiffe-endpoint-socket", f"unix://{await self.issuer.serve(spiffe_id)}", *more),
        ]
        process = await self.spawn(f"gateway-{len(self.gateway_ports)}", command)
        async with asyncio.timeout(START_S):
            while True:
                if process.child.returncode is not None:
                    raise AssertionError(f"{process.name} ended:\n{process.output()}")
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    return process

    def url(self, spiffe_id: str) -> str:
        return f"http://127.0.0.1:{self.gateway_ports[spiffe_id]}"


@asynccontextmanager
async def deployment(
    tmp_path: Path, resources: str, environ: Mapping[str, str], *, svid_ttl_s: float = 3600.0
) -> AsyncIterator[Deployment]:
    """An issuer, and a folder with the objects; processes are started by the test, and stopped here."""
    folder = tmp_path / "resources"
    folder.mkdir()
    (folder / "objects.yaml").write_text(resources)
    sockets = Path(f"/tmp/b{os.getpid()}-{abs(hash(str(tmp_path))) % 10**8}")  # noqa: S108  a socket's path has 107 bytes, and pytest's folders are long
    issuer = Issuer("example.org", sockets, svid_ttl_s=svid_ttl_s)
    stop = asyncio.Event()
    running = asyncio.create_task(issuer.run(stop))
    it = Deployment(tmp_path, issuer, folder, free_port(), free_port(), environ)
    async with AsyncExitStack() as closing:
        closing.callback(sockets.rmdir)
        closing.push_async_callback(issuer.close)
        try:
            yield it
        finally:
            for process in reversed(it.processes):
                await process.stop()
            stop.set()
            await running
