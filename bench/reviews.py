# ruff: noqa: T201  a script that talks to people
"""How long one review takes when the webhook is asked directly, at a steady rate, over kept TLS connections.

    python bench/reviews.py [--rate 200] [--seconds 20] [--connections 8]

The webhook is a process of its own; asker and webhook share the machine. A review is due at its place in time whether or not the
one before it has been answered, and is timed from there, so that a webhook that falls behind shows. Exit code 1 when the goal is missed.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.admission import a_pod
from support.processes import Processes
from support.webhook_process import Asker, an_authority, start, write_leaf

GOAL_P99_S = 0.050
WARM_UP = 100


def usual_pod(number: int) -> dict[str, object]:
    """As a ReplicaSet makes it: two containers, an init container, a dozen variables, some volumes and labels."""
    env = [{"name": f"SETTING_{n}", "value": "x" * 40} for n in range(10)]
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "agent", "key": "token"}}}
    container = {"image": "registry.example/agent:1.2.3", "env": [*env, secret], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    return a_pod(
        {"name": "agent", **container},
        {"name": "exporter", **container},
        annotations={f"example.org/note-{n}": "x" * 60 for n in range(5)},
        initContainers=[{"name": "migrate", **container}],
        volumes=[{"name": "data", "emptyDir": {}}, {"name": f"config-{number}", "configMap": {"name": "config"}}],
        serviceAccountName="agent",
    )


async def measure(asker: Asker, rate: int, seconds: float) -> list[float]:
    loop = asyncio.get_running_loop()
    for number in range(WARM_UP):
        await asker.review(usual_pod(number))
    took: list[float] = []

    async def one(number: int, due: float) -> None:
        await asyncio.sleep(max(0.0, due - loop.time()))
        response = await asker.review(usual_pod(number))
        if not response["allowed"]:
            raise SystemExit(f"refused: {response}")
        took.append(loop.time() - due)

    begins = loop.time() + 0.1
    async with asyncio.TaskGroup() as group:
        for number in range(round(rate * seconds)):
            group.create_task(one(number, begins + number / rate))
    return took


async def run(rate: int, seconds: float, connections: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder, ca = Path(name), an_authority()
        children = Processes(folder)
        try:
            process, port, _ = await start(children, "--log-level", "warning", "--drain", "0s", certificate=write_leaf(folder, ca))
            async with Asker(port, ca, connections=connections) as asker:
                cpu_s = cpu_of(process.pid)
                took = await measure(asker, rate, seconds)
                cpu_s = cpu_of(process.pid) - cpu_s
        finally:
            await children.stop()
    cuts = statistics.quantiles(took, n=1000)
    p50, p99, p999 = cuts[499], cuts[989], cuts[998]
    print(f"{len(took)} reviews at {rate}/s on {connections} connections, timed from when each was due:")
    print(f"p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, p99.9 {p999 * 1e3:.1f} ms, longest {max(took) * 1e3:.1f} ms")
    print(f"the webhook's CPU: {cpu_s / (len(took) + WARM_UP) * 1e3:.2f} ms a review")
    return 0 if p99 < GOAL_P99_S else 1


def cpu_of(pid: int) -> float:
    """Seconds of CPU so far, of user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--connections", type=int, default=8)
    given = parser.parse_args()
    sys.exit(asyncio.run(run(given.rate, given.seconds, given.connections)))
