"""What a run of tests/hostile is made of: the doors that are tried, how many cases were, and how much memory they cost.

async def test_this_is_refused(doors, tally):
    with tally.tried("smuggling", at="broker"):
        assert ...
"""

import asyncio
import contextlib
import json
import re
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
from support.fake_provider import FakeProvider, json_answer
from support.hostile_requests import GET, at
from support.objects_yaml import access, routing
from support.ports import free_port
from support.processes import BROKER_ID, START_S, Deployment, Process, deployment
from support.raw_http import send
from support.shared_account import write_keys
from support.spiffe_ca import SpiffeAuthority, SpiffeCa, presenting

AGENT = "spiffe://example.org/ns/team1/sa/agent"
LOW = "spiffe://example.org/ns/team1/sa/low"  # may call `claude` and nothing else
NOBODY = "spiffe://example.org/ns/elsewhere/sa/nobody"  # trusted, and named by no policy
KEY = "sk-canary-hostile-7d1f"
BRISK = ("-m", "tests.support.brisk")
ANSWER = json_answer(
    b'{"id":"a","choices":[],"content":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"input_tokens":3,"output_tokens":4}}'
)

CONNECTIONS = 100  # of the broker at a time
GATEWAY_CONNECTIONS = 256
MB = 10**6
# Design, Memory: 64 MiB of bodies in flight, as much of answers that are kept whole, beside the 55 MB of a broker at rest; how near a
# run comes to it depends on how busy the machine is. The gateway holds 36 MB when it is idle; 100 MB above that is what a run may cost.
PSS_LIMITS = {"broker": 2 * (64 << 20) + 55 * MB, "gateway": 136 * MB}


@dataclass
class Tally:
    """How many cases of each group were tried at each door, and how many of these ended as they should."""

    groups: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @contextlib.contextmanager
    def tried(self, group: str, *, at: str, cases: int = 1) -> Iterator[None]:
        """Count what is within: as it should be if it raises nothing."""
        count = self.groups.setdefault(group, {}).setdefault(at, [0, 0])
        count[0] += cases
        yield
        count[1] += cases

    def lines(self) -> Iterator[str]:
        """One a group: "smuggling: 41 tried at broker, 41 at gateway, each ended as it should"."""
        for group, doors in self.groups.items():
            counts = ", ".join(f"{tried}{' tried' if not n else ''} at {door}" for n, (door, (tried, _)) in enumerate(doors.items()))
            wrong = sum(tried - right for tried, right in doors.values())
            yield f"{group}: {counts}, {f'{wrong} of them NOT as they should' if wrong else 'each ended as it should'}"


class Sampler:
    """The peak of each process's PSS, while `on`. A thread, since no loop runs all the time."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.on = threading.Event()
        self._pids: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._thread = threading.Thread(target=self._run, name="pss", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self.on.set()
        if self._thread is not None:
            self._thread.join()

    def sample(self) -> None:
        for name, pid in self._pids.items():
            with contextlib.suppress(OSError):  # it has ended
                self.peaks[name] = max(self.peaks.get(name, 0), pss(pid))

    def _run(self) -> None:
        while not self._stop.is_set():
            self.on.wait()
            self.sample()
            self._stop.wait(0.2)

    def lines(self) -> Iterator[str]:
        for name, peak in self.peaks.items():
            limit = PSS_LIMITS[name]
            yield f"peak PSS of the {name}: {peak / MB:.0f} MB, {'within' if peak <= limit else 'BEYOND'} its limit of {limit / MB:.0f} MB"

    @property
    def within(self) -> bool:
        return all(peak <= PSS_LIMITS[name] for name, peak in self.peaks.items())


async def each(names: Iterable[str], one: Callable[[str], Awaitable[None]], at_a_time: int = 8) -> None:
    """Try every case, some at a time; what goes wrong bears its case's name. All are tried, whatever goes wrong."""
    waiting, wrong = iter(names), list[Exception]()

    async def work() -> None:
        for name in waiting:
            try:
                await one(name)
            except Exception as error:  # noqa: BLE001  raised below, all of them
                error.add_note(f"the case: {name}")
                wrong.append(error)

    await asyncio.gather(*(work() for _ in range(at_a_time)))
    if wrong:
        raise ExceptionGroup("cases that did not end as they should", wrong)


def pss(pid: int) -> int:
    """Bytes of a process's memory, what it shares divided by those who share it."""
    found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@contextlib.asynccontextmanager
async def growth(pid: int) -> AsyncIterator[list[int]]:
    """How much more memory a process had at its peak than before: the first of the list, which grows."""
    before = pss(pid)
    most = [0]

    async def look() -> None:
        while True:
            most[0] = max(most[0], pss(pid) - before)
            await asyncio.sleep(0.02)

    looking = asyncio.get_running_loop().create_task(look())
    try:
        yield most
    finally:
        looking.cancel()
        await asyncio.wait((looking,))


@dataclass
class Doors:
    """A broker and a local gateway as processes, with short deadlines; the authority that they trust; the provider behind them.

    ca: of example.org. federated: of other.test, which the broker trusts too.
    """

    deployment: Deployment
    provider: FakeProvider
    ca: SpiffeCa
    federated: SpiffeCa
    broker: Process
    gateway: Process
    gateway_port: int
    agent: ssl.SSLContext

    @property
    def broker_port(self) -> int:
        return self.deployment.broker_port

    @property
    def url(self) -> str:
        """Where AGENT's SDK calls."""
        return f"http://127.0.0.1:{self.gateway_port}"

    def port(self, door: str) -> int:
        return self.broker_port if door == "broker" else self.gateway_port

    def tls(self, door: str) -> ssl.SSLContext | None:
        """What AGENT needs to get to this door."""
        return self.agent if door == "broker" else None

    async def send(self, door: str, *pieces: bytes, timeout_s: float = 15) -> bytes:
        """Raw bytes as AGENT to a door, and all that came back."""
        return await send(self.port(door), *pieces, ssl=self.tls(door), timeout_s=timeout_s)

    async def objects(self, name: str, text: str) -> None:
        """Put a further file of objects into force."""
        before = await self.metric("aiaccess_snapshot_generation")
        part = self.deployment.folder / f"{name}.part"
        part.write_text(text)
        part.replace(self.deployment.resources / f"{name}.yaml")
        async with asyncio.timeout(10):
            while await self.metric("aiaccess_snapshot_generation") == before:
                await asyncio.sleep(0.05)

    async def metrics(self) -> str:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://127.0.0.1:{self.deployment.admin_port}/metrics")).text

    async def metric(self, name: str) -> float:
        found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", await self.metrics(), re.MULTILINE)
        assert found, f"no metric {name}"
        return float(found[1])

    def audit(self) -> list[dict[str, object]]:
        """The exchanges in the audit log so far."""
        lines = (self.deployment.folder / "audit.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["kind"] == "exchange"]

    async def audited(self, exchange: str) -> dict[str, object]:
        """The audit line of one exchange, as soon as it is written."""
        async with asyncio.timeout(10):
            while True:
                for line in reversed(self.audit()):
                    if line["exchange"] == exchange:
                        return line
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def open_doors(folder: Path) -> AsyncIterator[Doors]:
    """Start everything, and stop it afterwards."""
    ca, other = SpiffeCa("example.org"), SpiffeCa("other.test")
    async with FakeProvider(ANSWER) as provider:
        objects = routing(provider.port) + access() + access(name="low", subject=LOW, models="claude")
        async with deployment(folder, objects, {"KEY": KEY}) as it:
            it.issuer._authority = SpiffeAuthority(ca)  # type: ignore[assignment]  so that a test can issue what it never would
            it.issuer.federate("other.test", (other.der,))
            keys = write_keys(folder / "sealing-keys", 1)
            broker = await it.serve("--max-connections", str(CONNECTIONS), "--sealing-keys", str(keys), program=BRISK)
            gateway, port = await start_gateway(it, it.broker_port)
            yield Doors(it, provider, ca, other, broker, gateway, port, presenting(ca.issue(AGENT)))


async def start_gateway(it: Deployment, broker_port: int) -> tuple[Process, int]:
    """A gateway of AGENT for the broker at this port, and the port that it listens at."""
    port = free_port()
    command = [
        *(sys.executable, *BRISK, "gateway", "--port", str(port), "--broker", f"127.0.0.1:{broker_port}"),
        *("--broker-spiffe-id", BROKER_ID, "--spiffe-endpoint-socket", f"unix://{await it.issuer.serve(AGENT)}"),
    ]
    process = await it.spawn(f"gateway-to-{broker_port}", command)
    async with asyncio.timeout(START_S):
        while b"no_svid" in (got := await told(port)) or not got:
            if process.child.returncode is not None:
                raise AssertionError(f"the gateway ended:\n{process.output()}")
            await asyncio.sleep(0.05)
    return process, port


async def told(port: int) -> bytes:
    """A gateway's first words, or nothing while it does not listen."""
    try:
        return await send(port, at(GET + b"Connection: close\r\n\r\n", port))
    except ConnectionError:
        return b""
