"""What a hold and its settlement cost in memory, in SQLite and in Redis, and what many identities cost Redis (`python -m bench.ledger`).

Each caller is an agent of its own with three quotas; with --agents 1000 every call is by another of a thousand. CPU is that of the
whole process, the ledger's own thread included, and in a column of its own that of Redis, which this starts on loopback, keeping
nothing on disk. The SQLite file lies in a folder of its own below --directory (the system's for temporary files), which must be on a real
disk: where /tmp is memory, name another, or the fsync that a commit waits for costs nothing.
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
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hiredis import Reader

from broker.chat import Demand, Usage
from broker.grant import Budget, Per, PolicyRef, Unit
from broker.ledger.memory import MemoryLedger
from broker.ledger.redis import RedisLedger
from broker.ledger.redis_wire import pack
from broker.ledger.sqlite import SqliteLedger
from broker.quota import Ask, Ledger

_POLICY = PolicyRef("team1", "weather-agents", "1/1")
_NEVER = 10**12
_CALLERS = (1, 8, 64)
_START_S = 10.0
_TOGETHER = 64
_MANY = "many/"
_DAY = "day/"
_SHIFTED = f"(function() local now = call('TIME') return {{now[1] + (call('GET', '{_DAY}seconds') or 0), now[2]}} end)()"


class Cost(NamedTuple):
    """Microseconds of one hold and its settlement."""

    wall: float
    cpu: float
    redis_cpu: float


def _budgets(identity: str) -> tuple[Budget, ...]:
    """Three quotas, as a policy may have them: tokens an hour, tokens a day for all, requests a minute."""
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

    async def ask(self, *questions: tuple[bytes | str | int, ...]) -> list[Any]:
        """The answers to some commands."""
        stream, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"".join(map(pack, questions)))
        reader, answers = Reader(), list[Any]()
        while len(answers) < len(questions):
            reader.feed(await stream.read(1 << 16))
            while (answer := reader.gets()) is not False:
                answers.append(answer)
        writer.close()
        return answers

    async def used_bytes(self) -> int:
        (info,) = await self.ask(("INFO", "memory"))
        return int(info.decode().partition("used_memory:")[2].split()[0])


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
    """How much Redis needs for this many identities, each with two counters of its own and an hour of its tally; and with all 24 hours."""
    ledger = await RedisLedger.open(server.url, _MANY, deadline_s=30, allow_insecure=True)
    before = await server.used_bytes()
    names = [f"spiffe://example.org/ns/team1/sa/agent-{number}" for number in range(identities)]
    asks = [_ask(f"{number:032x}", name) for number, name in enumerate(names)]
    for at in range(0, identities, _TOGETHER):
        await asyncio.gather(*(_call(ledger, [ask]) for ask in asks[at : at + _TOGETHER]))
    await ledger.close()
    settled = await server.used_bytes() - before
    tally = await _busy_day(server)
    for at in range(0, identities, _TOGETHER):
        await server.ask(*(("HSET", f"{_MANY}{{team1}}/tallies", f"{_POLICY} {name}", tally) for name in names[at : at + _TOGETHER]))
    busy = await server.used_bytes() - before
    for what, taken in (("live counters", settled), (f"live counters and a tally of 24 hours ({len(tally)} bytes)", busy)):
        sys.stdout.write(f"{identities} identities with {what}: {taken / 1e6:.1f} MB of Redis, {taken / identities:.0f} bytes each\n")


async def _busy_day(server: Redis) -> bytes:
    """The tally of one identity with a million tokens, five dollars, two hundred requests and refusals in each hour of a day."""
    ledger = await RedisLedger.open(server.url, _DAY, deadline_s=30, allow_insecure=True, time=_SHIFTED)
    for hour in range(24):
        await server.ask(("SET", f"{_DAY}seconds", hour * 3600))
        ask = replace(_ask(f"{hour:032x}", "busy"), requests=200)
        await ledger.hold(ask)
        await ledger.settle(ask.hold_id, Usage(700_000, 300_000), 5_000_000)
        for _ in range(200):
            await ledger.deny((_POLICY,), "busy")
    await ledger.close()
    (tally,) = await server.ask(("HGET", f"{_DAY}{{team1}}/tallies", f"{_POLICY} busy"))
    return bytes(tally)


async def _run(directory: Path, arguments: argparse.Namespace) -> None:
    with _redis(directory) as server:
        if arguments.rounds:
            await _compare(directory, server, arguments)
        await _fill(server, arguments.identities)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exchanges", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=9, help="0 = measure memory alone")
    parser.add_argument("--agents", type=int, default=0, help="draw every call's agent from this many; 0 = each caller its own")
    parser.add_argument("--identities", type=int, default=100_000)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        asyncio.run(_run(Path(directory), arguments))


if __name__ == "__main__":
    main()
