# ruff: noqa: T201  a script that talks to people
"""CPU time per request of Envoy, the broker and the local gateway, in one interleaved run: `make bench-quick`.

Each target runs alone under load, one after the other, round by round, on a processor of its own; callers and mock provider share
another one. The figure is user and system time of the target's processes, divided by answers: it holds on a small and busy
machine, where requests per second do not. Compare only within a run. No threshold is judged here.
"""

import argparse
import asyncio
import os
import pstats
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import targets
from targets import AGENT, BROKER, Stage, Target
from wire import SDK_HEADERS, Callers, Counts, Mock, Tally, request_for

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.fake_workload_api import FakeWorkloadApi
from support.spiffe_ca import SpiffeCa, Svid, update

CONNECTIONS = 64
WARM_S = 1.0
PROFILE_S = 5.0
READY_S = 20.0


@dataclass
class Result:
    """All rounds of one target."""

    cpu_us: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    median_ms: list[float] = field(default_factory=list)
    connections: int = 0
    requests: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class Bench:
    """The stage, and the way to measure one target on it."""

    def __init__(self, stage: Stage, counts: Counts, tls: ssl.SSLContext, seconds: float) -> None:
        self.stage = stage
        self._counts = counts
        self._tls = tls
        self._seconds = seconds

    async def warm_up(self, target: Target) -> Callers:
        """Callers that have been at it for a while."""
        request = request_for(f"127.0.0.1:{target.port}", SDK_HEADERS)
        callers = await Callers.connect(target.port, request, None if target.plain else self._tls, CONNECTIONS)
        await asyncio.sleep(WARM_S)
        return callers

    async def measure(self, target: Target, process: "subprocess.Popen[bytes]", result: Result) -> None:
        """One round: warm up, count, stop."""
        before = Counts(self._counts.connections, self._counts.requests)
        callers = await self.warm_up(target)
        tally, cpu_s, began_s = Tally(), targets.cpu_s(process.pid), asyncio.get_running_loop().time()
        callers.count(tally)
        await asyncio.sleep(self._seconds)
        callers.count(None)
        cpu_s, took_s = targets.cpu_s(process.pid) - cpu_s, asyncio.get_running_loop().time() - began_s
        await callers.stop()
        if not tally.answers:
            raise SystemExit(f"{target.name} gave no answer: {tally.refused}")
        result.cpu_us.append(cpu_s / tally.answers * 1e6)
        result.rate.append(tally.answers / took_s)
        result.median_ms.append(tally.median_ms)
        result.connections += self._counts.connections - before.connections
        result.requests += self._counts.requests - before.requests
        for what, times in tally.refused.items():
            result.refused[what] = result.refused.get(what, 0) + times


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured in each round, after a second of warming up")
    parser.add_argument("--profile", action="store_true", help="then run the broker once more under cProfile: its largest costs")
    parser.add_argument("--top", type=int, default=3, help="how many costs --profile shows")
    given = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:  # noqa: PLR2004  one for the proxy, one for everything else
        raise SystemExit("this measurement needs two processors")
    os.sched_setaffinity(0, {targets.OUR_CPU})
    async with AsyncExitStack() as closing:
        bench = await set_up(closing, given.seconds)
        stage, ports = bench.stage, free_ports(5)
        contenders = [
            targets.envoy(stage, ports[0]),
            targets.broker(stage, ports[1], "memory:", "broker, full path, quotas in memory"),
            targets.broker(stage, ports[2], f"sqlite://{stage.folder}/quotas.sqlite", "broker, full path, quotas in SQLite"),
            targets.gateway(stage, ports[3]),
        ]
        results = {target.name: Result() for target in contenders}
        processes = {target.name: await run(target, stage.folder, closing) for target in contenders}
        for number in range(given.rounds):
            for target in contenders:
                if sys.stdout.isatty():
                    print(f"\rround {number + 1} of {given.rounds}: {target.name:40}", end="", flush=True)
                await bench.measure(target, processes[target.name], results[target.name])
        report(results)
        if any(result.refused for result in results.values()):
            raise SystemExit("not every request was answered: these figures say nothing")
        if given.profile:
            await profile(bench, targets.broker(stage, ports[4], "memory:", "broker under cProfile"), closing, given.top)


async def set_up(closing: AsyncExitStack, seconds: float) -> Bench:
    """Make certificates, and start the mock provider (plain, and as the broker behind mutual TLS) and two Workload APIs."""
    folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
    ca = SpiffeCa("bench.test")
    agent, broker = ca.issue(AGENT, ttl_s=86400), ca.issue(BROKER, ttl_s=86400)
    (folder / "ca.crt").write_bytes(ca.pem)
    key, _, certificates = broker.pem.partition(b"-----BEGIN CERTIFICATE-----")
    (folder / "broker.key").write_bytes(key)
    (folder / "broker.crt").write_bytes(b"-----BEGIN CERTIFICATE-----" + certificates)
    endpoints = {}
    for svid in (agent, broker):
        api = await closing.enter_async_context(FakeWorkloadApi())
        await api.push(update(svid, ca))
        endpoints[svid.spiffe_id] = api.endpoint
    counts, loop = Counts(), asyncio.get_running_loop()
    plain = await loop.create_server(lambda: Mock(counts), "127.0.0.1", 0)
    behind_tls = await loop.create_server(lambda: Mock(counts), "127.0.0.1", 0, ssl=context(folder, ca, broker, ssl.PROTOCOL_TLS_SERVER))
    for server in (plain, behind_tls):
        closing.callback(server.close)
    plain_port, tls_port = (server.sockets[0].getsockname()[1] for server in (plain, behind_tls))
    stage = Stage(folder, plain_port, tls_port, endpoints[AGENT], endpoints[BROKER])
    return Bench(stage, counts, context(folder, ca, agent, ssl.PROTOCOL_TLS_CLIENT), seconds)


def context(folder: Path, ca: SpiffeCa, svid: Svid, side: int) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname, made.verify_mode = False, ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=ca.pem.decode())
    pem = folder / "pair.pem"
    pem.write_bytes(svid.pem)
    made.load_cert_chain(pem)
    made.set_alpn_protocols(["http/1.1"])
    return made


async def run(target: Target, folder: Path, closing: AsyncExitStack) -> "subprocess.Popen[bytes]":
    """Start a target and wait until it takes connections."""
    log = folder / f"{target.port}.log"
    process = targets.start(target, log)
    closing.push_async_callback(end, process)
    deadline_s = asyncio.get_running_loop().time() + READY_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", target.port)
            writer.close()
        except OSError:
            if process.poll() is not None or asyncio.get_running_loop().time() > deadline_s:
                raise SystemExit(f"{target.name} did not start:\n{log.read_text(errors='replace')[-3000:]}") from None
            await asyncio.sleep(0.1)
        else:
            return process


async def end(process: "subprocess.Popen[bytes]") -> None:
    """Let it drain, in time for a profile to be written, and make sure."""
    process.send_signal(signal.SIGTERM)
    for _ in range(100):
        if process.poll() is not None:
            return
        await asyncio.sleep(0.1)
    process.kill()
    process.wait()


def report(results: dict[str, Result]) -> None:
    base = statistics.median(next(iter(results.values())).cpu_us)
    print(f"{chr(13) if sys.stdout.isatty() else ''}{CONNECTIONS} connections, 1 KB bodies; median (range) of the rounds{'':20}\n")
    print(f"{'':40} {'CPU us/request':>18} {'x Envoy':>8} {'requests/s':>11} {'p50 ms':>7} {'conn/request':>13}")
    for name, result in results.items():
        cpu = statistics.median(result.cpu_us)
        spread = f"{cpu:.0f} ({min(result.cpu_us):.0f}-{max(result.cpu_us):.0f})"
        rate, wait = statistics.median(result.rate), statistics.median(result.median_ms)
        print(f"{name:40} {spread:>18} {cpu / base:>8.2f} {rate:>11.0f} {wait:>7.2f} {result.connections / max(1, result.requests):>13.5f}")
        for what, times in result.refused.items():
            print(f"  ! {times} times {what}")


async def profile(bench: Bench, target: Target, closing: AsyncExitStack, top: int) -> None:
    """Where the broker's own time goes. cProfile makes Python calls dearer than they are: read it for the order."""
    out = bench.stage.folder / "profile"
    command = [target.command[0], str(Path(__file__).with_name("profiled.py")), str(out), *target.command[3:]]
    process = await run(Target(target.name, target.port, command), bench.stage.folder, closing)
    callers = await bench.warm_up(target)
    process.send_signal(signal.SIGUSR1)
    await asyncio.sleep(PROFILE_S)
    process.send_signal(signal.SIGUSR2)
    await callers.stop()
    await end(process)
    functions: Counter[str] = Counter()
    rooms: Counter[str] = Counter()
    for (place, line, name), (_, _, own_s, _, _) in pstats.Stats(str(out)).stats.items():  # type: ignore[attr-defined]  not in the stubs
        if "epoll" in name:
            continue  # waiting
        functions[f"{Path(place).name}:{line} {name}" if line else name] += own_s
        rooms[builtin_of(name) if place == "~" else room_of(Path(place))] += own_s
    for title, costs in (("rooms", rooms), ("functions", functions)):
        print(f"\nThe broker's largest costs by {title}, own time:")
        for name, own_s in costs.most_common(top):
            print(f"  {own_s / costs.total():6.1%}  {name}")


def builtin_of(name: str) -> str:
    """Which kind of C code a built-in function is."""
    kinds = {
        "_socket": "sockets (the kernel)",
        "_ssl": "TLS records",
        "msgspec": "JSON",
        "httptools": "the HTTP parser",
        "sha256": "hashes",
    }
    return next((kind for word, kind in kinds.items() if word in name), "small built-in functions")


def room_of(path: Path) -> str:
    """`broker/http1` for a file in there, else the file; `asyncio` for the event loop."""
    parts = path.parts
    if "broker" in parts:
        inside = parts[len(parts) - parts[::-1].index("broker") :]
        return f"broker/{inside[0]}"
    return parts[-2] if len(parts) > 1 else path.name


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


if __name__ == "__main__":
    asyncio.run(main())
