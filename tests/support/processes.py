"""The product as it is deployed: `broker serve` and `broker gateway` as processes of their own, with an issuer in the test's loop.

async with deployment(tmp_path, RESOURCES, {AGENT: "..."}) as it:
    it.gateway(AGENT).url
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
from support.ports import free_port

from broker.issuer import Issuer

ROOT = Path(__file__).parent.parent.parent
BROKER_ID = "spiffe://example.org/ns/inference-broker/sa/broker"
START_S = 30.0
STOP_S = 20.0
# what a child needs of our environment; anything else would make a test depend on whose machine it runs on
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")


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

    def pss_bytes(self) -> int:
        """Its memory, with pages that it shares with others counted in part."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))

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
class Processes:
    """Children of one test, and the folder with their logs."""

    folder: Path
    processes: list[Process] = field(default_factory=list)

    async def spawn(self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> Process:
        log = self.folder / f"{name}.log"
        kept = {key: os.environ[key] for key in KEPT if key in os.environ}
        with log.open("ab") as out:
            child = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, env={**kept, **(environ or {})}, cwd=ROOT)
        process = Process(name, log, child, tuple(command))
        self.processes.append(process)
        return process

    async def start_gateway(
        self, endpoint: str, brokers: Sequence[int], *more: str, port: int, broker_id: str = BROKER_ID, name: str = "gateway"
    ) -> Process:
        """Start a local gateway, and wait until its port is open."""
        command = [
            *(sys.executable, "-m", "broker", "gateway", "--port", str(port), "--broker-spiffe-id", broker_id),
            *("--spiffe-endpoint-socket", endpoint, *more),
        ]
        for broker in brokers:
            command += ["--broker", f"127.0.0.1:{broker}"]
        process = await self.spawn(name, command)
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

    async def stop(self) -> None:
        for process in reversed(self.processes):
            await process.stop()


@dataclass
class Deployment(Processes):
    issuer: Issuer = field(kw_only=True)
    resources: Path = field(kw_only=True)
    environ: Mapping[str, str] = field(kw_only=True)
    broker_port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    gateway_ports: dict[str, int] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / "quota.sqlite"

    async def serve(self, *more: str, program: Sequence[str] = ("-m", "broker"), store: str | None = None) -> Process:
        """Start the broker, and wait until it is ready."""
        process = await self.spawn(
            "broker", await self._broker(self.broker_port, self.admin_port, "audit", program, store, more), self.environ
        )
        await self.until_ready(process)
        return process

    async def serve_another(self, *more: str) -> tuple[Process, int]:
        """Start a second replica on the same store, with an audit file of its own; the process and its port."""
        port, admin = free_port(), free_port()
        process = await self.spawn("broker-2", await self._broker(port, admin, "audit-2", ("-m", "broker"), None, more), self.environ)
        await self.until_ready(process, port, admin)
        return process, port

    async def _broker(
        self, port: int, admin: int, audit: str, program: Sequence[str], store: str | None, more: Sequence[str]
    ) -> Sequence[str]:
        return [
            *(sys.executable, *program, "serve", "--resources", str(self.resources)),
            *("--spiffe-endpoint-socket", f"unix://{await self.issuer.serve(BROKER_ID)}"),
            *("--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"),
            *("--audit", str(self.folder / f"{audit}.jsonl"), "--quota-store", store or f"sqlite://{self.store}"),
            *("--allow-hosts", "127.0.0.1", "--plain-http-hosts", "127.0.0.1", "--quota-deadline", "5s", *more),
        ]

    async def until_ready(self, process: Process, port: int = 0, admin: int = 0) -> None:
        async with asyncio.timeout(START_S):
            while True:
                if process.child.returncode is not None:
                    raise AssertionError(f"{process.name} ended:\n{process.output()}")
                if await self.readiness(admin) == 200:
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port or self.broker_port), 1):
                        return
                await asyncio.sleep(0.05)

    async def readiness(self, admin: int = 0) -> int:
        """The status of /readyz; 0 = nobody there."""
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(f"http://127.0.0.1:{admin or self.admin_port}/readyz")).status_code
            except httpx.HTTPError:
                return 0

    async def metric(self, name: str) -> float:
        """The sum over all labels."""
        async with httpx.AsyncClient() as client:
            lines = (await client.get(f"http://127.0.0.1:{self.admin_port}/metrics")).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    async def gateway(self, spiffe_id: str, *more: str, brokers: Sequence[int] = ()) -> Process:
        """Start a local gateway of this workload. Its base URL is `url(spiffe_id)`."""
        port = self.gateway_ports[spiffe_id] = free_port()
        endpoint, name = f"unix://{await self.issuer.serve(spiffe_id)}", f"gateway-{len(self.gateway_ports)}"
        return await self.start_gateway(endpoint, brokers or (self.broker_port,), *more, port=port, name=name)

    def url(self, spiffe_id: str) -> str:
        return f"http://127.0.0.1:{self.gateway_ports[spiffe_id]}"

    def audit(self) -> list[dict[str, object]]:
        """The exchanges in the first broker's audit file."""
        lines = (self.folder / "audit.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["kind"] == "exchange"]


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
    it = Deployment(tmp_path, issuer=issuer, resources=folder, environ=environ)
    async with AsyncExitStack() as closing:
        closing.callback(sockets.rmdir)
        closing.push_async_callback(issuer.close)
        try:
            yield it
        finally:
            await it.stop()
            stop.set()
            await running
