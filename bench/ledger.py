"""What a hold and its settlement cost, in wall time and CPU, in memory and in SQLite (`python -m bench.ledger`).

Each caller is an agent of its own with three quotas; with --agents 1000 every call is by another of a thousand. CPU is that of
the whole process, the ledger's own thread included. The file lies in --directory, which must be on a real disk, or the fsync
that a commit waits for costs nothing.
"""

import argparse
import asyncio
import random
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from broker.chat import Demand, Usage
from broker.grant import Budget, Per, PolicyRef, Unit
from broker.ledger.memory import MemoryLedger
from broker.ledger.sqlite import SqliteLedger
from broker.quota import Ask, Ledger

_POLICY = PolicyRef("team1", "weather-agents", "1/1")
_NEVER = 10**12


def _budgets(identity: str) -> tuple[Budget, ...]:
    """Three quotas, as a policy of design.md has them: tokens an hour, tokens a day for all, requests a minute."""
    return (
        Budget(f"{{team1}}/policy/weather-agents/hourly/total_tokens/hour/identity/{identity}", Unit.TOTAL_TOKENS, _NEVER, Per.HOUR),
        Budget("{team1}/policy/weather-agents/team/total_tokens/day/policy/-", Unit.TOTAL_TOKENS, _NEVER, Per.DAY),
        Budget(f"{{team1}}/policy/weather-agents/pace/requests/minute/identity/{identity}", Unit.REQUESTS, _NEVER, Per.MINUTE),
    )


async def _call(ledger: Ledger, asks: list[Ask]) -> None:
    for ask in asks:
        await ledger.hold(ask)
        await ledger.settle(ask.hold_id, Usage(280, 400))


def _asks(caller: int, rounds: int, agents: int) -> list[Ask]:
    """Of one caller: by its own agent, or by any of `agents`."""
    drawn = random.Random(caller)  # noqa: S311  a draw that repeats, no secret
    identities = [f"spiffe://example.org/ns/team1/sa/agent-{drawn.randrange(agents) if agents else caller}" for _ in range(rounds)]
    demand = Demand(300, 16, 1000)
    return [Ask(f"{drawn.getrandbits(128):032x}", identity, (_POLICY,), _budgets(identity), demand, 600.0) for identity in identities]


async def _measure(ledger: Ledger, callers: int, exchanges: int, agents: int) -> tuple[float, float]:
    """Microseconds of wall time and of CPU for one hold and its settlement."""
    rounds = exchanges // callers
    warm_up = [_asks(-caller, max(1, rounds // 10), agents) for caller in range(1, callers + 1)]
    await asyncio.gather(*(_call(ledger, asks) for asks in warm_up))
    todo = [_asks(caller, rounds, agents) for caller in range(callers)]
    cpu, wall = _cpu_s(), time.perf_counter()
    await asyncio.gather(*(_call(ledger, asks) for asks in todo))
    done = rounds * callers
    return (time.perf_counter() - wall) / done * 1e6, (_cpu_s() - cpu) / done * 1e6


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _compare(directory: Path, exchanges: int, agents: int) -> None:
    async def memory(_callers: int) -> Ledger:
        return MemoryLedger(time.time)

    async def sqlite(callers: int) -> Ledger:
        return await SqliteLedger.open(directory / f"quota-{callers}.db", time.time, deadline_s=30)

    stores: dict[str, Callable[[int], Awaitable[Ledger]]] = {"memory": memory, "sqlite": sqlite}
    sys.stdout.write("store   callers  wall us  cpu us   (one hold + settle, three budgets)\n")
    for name, build in stores.items():
        for callers in (1, 8, 64):
            ledger = await build(callers)
            wall_us, cpu_us = await _measure(ledger, callers, exchanges, agents)
            await ledger.close()
            sys.stdout.write(f"{name:7} {callers:7}  {wall_us:7.1f}  {cpu_us:6.1f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exchanges", type=int, default=20_000)
    parser.add_argument("--agents", type=int, default=0, help="draw every call's agent from this many; 0 = each caller its own")
    parser.add_argument("--directory", type=Path, default=Path.cwd())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        asyncio.run(_compare(Path(directory), arguments.exchanges, arguments.agents))


if __name__ == "__main__":
    main()
