# ruff: noqa: T201  a script that talks to people
"""What one local gateway costs its pod: time from exec to the open port, and memory idle and with 64 agents' connections.

    python bench/gateway_footprint.py [--rounds 7] [--connections 64]

Memory is PSS (pages shared with n processes count one n-th). This script and the gateway share libpython, which flatters it by a few
MB, so the resident size (shared pages counted in full) is printed too. Exit code 1 when a goal is missed.
"""

import argparse
import asyncio
import contextlib
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.fake_workload_api import FakeWorkloadApi
from support.raw_http import Door, answer
from support.spiffe_ca import SpiffeCa, trusting, update

BROKER, AGENT = "spiffe://bench.test/ns/inference-broker/sa/broker", "spiffe://bench.test/ns/team1/sa/agent"
START_GOAL_S = 0.3
PSS_GOAL_MB = 44.0
REQUESTS = 50  # on each connection, before memory is read
BODY = b'{"model":"bench-model","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 920)


@dataclass(frozen=True)
class Memory:
    pss_mb: float
    rss_mb: float

    def __str__(self) -> str:
        return f"PSS {self.pss_mb:.1f} MB, resident {self.rss_mb:.1f} MB"


def memory_of(pid: int) -> Memory:
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) / 1024
    return Memory(fields["Pss"], fields["Rss"])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def running(port: int, broker_port: int, endpoint: str) -> AsyncIterator[tuple[int, float]]:
    """One gateway's pid, and the seconds from exec until its port was open."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "broker", "gateway", "--broker", f"127.0.0.1:{broker_port}", "--broker-spiffe-id", BROKER,
        "--spiffe-endpoint-socket", endpoint, "--port", str(port), "--log-level", "error",
    )  # fmt: skip
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                await asyncio.sleep(0.001)
        yield process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        await process.wait()


async def call(port: int, times: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """One agent: a connection that is kept, and so many requests on it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    for _ in range(times):
        writer.write(head % (port, len(BODY)) + BODY)
        status, _, body = await answer(reader)
        if status != 200:  # noqa: PLR2004  OK
            raise RuntimeError(f"the gateway answered {status}: {body.decode()}")
    return reader, writer


async def ready(port: int) -> None:
    """Wait until the gateway has its SVID."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(RuntimeError):
                _, writer = await call(port, 1)
                writer.close()
                return
            await asyncio.sleep(0.02)


async def measure(rounds: int, connections: int) -> bool:
    ca = SpiffeCa("bench.test")
    broker = await Door().open(trusting(ca.issue(BROKER), ca).server_context())
    starts: list[float] = []
    idle = loaded = Memory(0, 0)
    async with FakeWorkloadApi() as workload:
        await workload.push(update(ca.issue(AGENT), ca))
        for _ in range(rounds):
            port = free_port()
            async with running(port, broker.port, workload.endpoint) as (pid, seconds):
                starts.append(seconds)
                await ready(port)
                idle = memory_of(pid)
                agents = await asyncio.gather(*(call(port, REQUESTS) for _ in range(connections)))
                loaded = memory_of(pid)
                for _, writer in agents:
                    writer.close()
            broker.requests.clear()
    await broker.server.drain(0)
    print(f"exec to open port: median {statistics.median(starts):.3f} s, worst {max(starts):.3f} s, of {rounds} (goal {START_GOAL_S} s)")
    print(f"idle: {idle}")
    print(f"after {connections} x {REQUESTS} requests on kept connections: {loaded} (goal {PSS_GOAL_MB:.0f} MB PSS)")
    return statistics.median(starts) < START_GOAL_S and loaded.pss_mb < PSS_GOAL_MB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, default=64)
    args = parser.parse_args()
    return 0 if asyncio.run(measure(args.rounds, args.connections)) else 1


if __name__ == "__main__":
    sys.exit(main())
