"""What a hold and its settlement cost in memory, in SQLite and in Redis, and what many identities cost Redis (`python -m bench.ledger`).

Each caller is an agent of its own with three quotas; with --agents 1000 every call is by another of a thousand. CPU is that of the
whole process, the ledger's own thread included, and in a column of its own that of Redis, which this starts on loopback, keeping
nothing on disk. The SQLite file lies in --directory, which must be on a real disk, or the fsync that a commit waits for costs nothing.
The stores take turns, --rounds times, since a machine is now faster and now slower; the figures are medians, and what a store costs
more than memory is the median of the differences within a turn.
"""

import argparse
import asyncio
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from broker.chat import Demand, Usage
from broker.grant import Budget, Per, PolicyRef, Unit
from broker.ledger.memory import MemoryLedger
from broker.ledger.redis import RedisLedger
from broker.ledger.sqlite import SqliteLedger
from broker.quota import Ask, Ledger

_POLICY = PolicyRef("team1", "weather-agents", "1/1")
_NEVER = 10**12
_CALLERS = (1, 8, 64)
_START_S = 10.0


class Cost(NamedTuple):
    """Microseconds of one hold and its settlement."""

    wall: float
    cpu: float
    redis_cpu: float


def _budgets(identity: str) -> tuple[Budget, ...]:
    """Three quotas, as a policy of design.md has them: tokens an hour, tokens a day for all, requests a minute."""
    return (
        Budget(
            f"{{team1}}/AIAccessPolicy/weather-agents/hourly/total_tokens/hour/identity/{identity}", Unit.TOTAL_TOKENS, _NEVER, Per.HOUR
        ),
        Budget("{team1}/AIAccessPolicy/weather-agents/team/total_tokens/day/policy/-", Unit.TOTAL_TOKENS, _NEVER, Per.DAY),
        Budget(f"{{team1}}/AIAccessPolicy/weather-agents/pace/requests/minute/identity/{identity}", Unit.REQUESTS, _NEVER, Per.MINUTE),
    )


async def _call(ledger: Ledger, asks: list[Ask]) -> None:
    for ask in asks:
        await ledger.hold(ask)
        await ledger.settle(ask.hold_id, Usage(280, 400))


def _ask(hold_id: str, identity: str) -> Ask:
    return Ask(hold_id, identity, (_POLICY,), _budgets(identity), Demand(300, 16, 1000), 600.0)


def _asks(caller: int, rounds: int, agents: int) -> list[Ask]:
    """Of one caller: by its own agent, or by any of `agents`."""
    drawn = random.Random()  # noqa: S311  no secret
    identities = [f"spiffe://example.org/ns/team1/sa/agent-{drawn.randrange(agents) if agents else caller}" for _ in range(rounds)]
    return [_ask(f"{drawn.getrandbits(128):032x}", identity) for identity in identities]


class Redis:
    """A server of our own on loopback."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        program = shutil.which("redis-server")
        if program is None:
            raise SystemExit("redis-server is missing: apt install redis-server")
        keeps_nothing = ("--save", "", "--appendonly", "no", "--dir", str(folder), "--logfile", str(folder / "redis.log"))
        self.process = subprocess.Popen([program, "--port", str(self.port), "--bind", "127.0.0.1", *keeps_nothing])  # noqa: S603  our own program

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        times = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")

    async def used_bytes(self) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"INFO memory\r\n")
        size = int((await reader.readline())[1:])
        info = (await reader.readexactly(size)).decode()
        writer.close()
        return int(info.partition("used_memory:")[2].split()[0])


@contextmanager
def _redis(folder: Path) -> Iterator[Redis]:
    server = Redis(folder)
    try:
        ends = time.monotonic() + _START_S
        while time.monotonic() < ends:
            try:
                socket.create_connection(("127.0.0.1", server.port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield server
    finally:
        server.process.kill()
        server.process.wait()


async def _measure(ledger: Ledger, server: Redis, callers: int, exchanges: int, agents: int) -> Cost:
    rounds = exchanges // callers
    warm_up = [_asks(-caller, max(1, rounds // 10), agents) for caller in range(1, callers + 1)]
    await asyncio.gather(*(_call(ledger, asks) for asks in warm_up))
    todo = [_asks(caller, rounds, agents) for caller in range(callers)]
    cpu, redis_cpu, wall = _cpu_s(), server.cpu_s(), time.perf_counter()
    await asyncio.gather(*(_call(ledger, asks) for asks in todo))
    took = time.perf_counter() - wall, _cpu_s() - cpu, server.cpu_s() - redis_cpu
    return Cost(*(seconds / (rounds * callers) * 1e6 for seconds in took))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _compare(directory: Path, server: Redis, arguments: argparse.Namespace) -> None:
    async def memory() -> Ledger:
        return MemoryLedger(time.time)

    async def sqlite() -> Ledger:
        return await SqliteLedger.open(directory / f"quota-{random.getrandbits(64):x}.db", time.time, deadline_s=30)

    async def redis() -> Ledger:
        return await RedisLedger.open(server.url, deadline_s=30, allow_insecure=True)

    stores: dict[str, Callable[[], Awaitable[Ledger]]] = {"memory": memory, "redis": redis, "sqlite": sqlite}
    costs: dict[tuple[str, int], list[Cost]] = {}
    for _ in range(arguments.rounds):
        for callers in _CALLERS:
            for name, build in stores.items():
                ledger = await build()
                costs.setdefault((name, callers), []).append(await _measure(ledger, server, callers, arguments.exchanges, arguments.agents))
                await ledger.close()
    sys.stdout.write("one hold + settle, three budgets\nstore   callers  wall us  cpu us  over memory  Redis's cpu us\n")
    for (name, callers), seen in sorted(costs.items(), key=lambda entry: (*stores,).index(entry[0][0])):
        wall, cpu, redis_cpu = (statistics.median(figures) for figures in zip(*seen, strict=True))
        over = statistics.median(cost.cpu - least.cpu for cost, least in zip(seen, costs["memory", callers], strict=True))
        sys.stdout.write(f"{name:7} {callers:7}  {wall:7.1f}  {cpu:6.1f}  {over:11.1f}  {redis_cpu if name == 'redis' else 0:14.1f}\n")


async def _fill(server: Redis, identities: int) -> None:
    """How much Redis needs for this many identities, each with two counters of its own and an hour of its tally."""
    ledger = await RedisLedger.open(server.url, "many/", deadline_s=30, allow_insecure=True)
    before = await server.used_bytes()
    asks = [_ask(f"{number:032x}", f"spiffe://example.org/ns/team1/sa/agent-{number}") for number in range(identities)]
    for at in range(0, identities, 64):
        await asyncio.gather(*(_call(ledger, [ask]) for ask in asks[at : at + 64]))
    settled = await server.used_bytes() - before
    sys.stdout.write(
        f"{identities} identities with live counters: {settled / 1e6:.1f} MB of Redis, {settled / identities:.0f} bytes each\n"
    )
    await ledger.close()


async def _run(directory: Path, arguments: argparse.Namespace) -> None:
    with _redis(directory) as server:
        await _compare(directory, server, arguments)
        await _fill(server, arguments.identities)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exchanges", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--agents", type=int, default=0, help="draw every call's agent from this many; 0 = each caller its own")
    parser.add_argument("--identities", type=int, default=100_000)
    parser.add_argument("--directory", type=Path, default=Path.cwd())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        asyncio.run(_run(Path(directory), arguments))


if __name__ == "__main__":
    main()
