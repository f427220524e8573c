"""A steady load on a local gateway, from a process of its own, so that tests can restart servers meanwhile: nothing is asked twice.

with SteadyLoad.running(folder, url, model) as load:
    ...
assert load.failures() == {}

Run as a program it is that process: it writes one line of JSON for each request, and ends at SIGTERM when all are answered.
"""

import argparse
import asyncio
import json
import re
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).parents[2]))

import httpx2 as httpx
from support.cluster.servers import Server

from broker.names import PLACEHOLDER_KEY

PER_SECOND = 50
CALM_S = 2.0  # of undisturbed load before and after what a test does: as long as the longest answer takes
ANSWER_S = 30.0
WHOLE, STREAM, LONG_STREAM = "say 5 words", "say 10 words, sleep 0.01 between tokens", "say 20 words, sleep 0.1 between tokens"
UNIQUE = re.compile(r" .exchange [0-9a-f]+.")
KINDS = (WHOLE, STREAM, WHOLE, STREAM, WHOLE, STREAM, WHOLE, STREAM, WHOLE, LONG_STREAM)  # in turn


@dataclass(frozen=True)
class Outcome:
    """One request. failure: "" when its answer came whole. at_s: when it was asked, in seconds since 1970."""

    at_s: float
    took_s: float
    kind: str
    failure: str


@dataclass
class SteadyLoad:
    """The load as a test sees it."""

    server: Server
    file: Path

    @classmethod
    @contextmanager
    def running(
        cls, folder: Path, url: str, model: str, environ: Mapping[str, str], *, per_second: int = PER_SECOND
    ) -> "Iterator[SteadyLoad]":
        """Begin, hand over after a calm while, and after another one end when every request has its answer."""
        file = folder / "requests.jsonl"
        file.touch()
        command = [sys.executable, __file__, url, model, str(file), "--per-second", str(per_second)]
        load = cls(Server("load", command, folder / "load.log", lambda: file.stat().st_size > 0, environ), file)
        load.server.start()
        try:
            load.more(CALM_S)
            yield load
            load.more(CALM_S)
        finally:
            code = load.server.stop()
        assert code == 0, load.server.last_words()

    def outcomes(self) -> list[Outcome]:
        """Of the requests that are done."""
        return [Outcome(**json.loads(line)) for line in self.file.read_text().split("\n")[:-1]]

    def failures(self, after_s: float = 0.0) -> Counter[str]:
        """What was wrong with how many answers, to requests that were made after this time; without what no two have in common."""
        return Counter(UNIQUE.sub("", one.failure) for one in self.outcomes() if one.failure and one.at_s > after_s)

    def more(self, seconds: float) -> None:
        """Let it go on for so long."""
        time.sleep(seconds)

    def figures(self) -> str:
        """A line for a report."""
        done = self.outcomes()
        whole = sorted(one.took_s for one in done if one.kind == WHOLE and not one.failure)
        span_s = max(one.at_s for one in done) - min(one.at_s for one in done)
        percentile = statistics.quantiles(whole, n=100) if len(whole) > 1 else [0.0] * 99
        return (
            f"{len(done)} requests in {span_s:.0f} s ({len(done) / span_s:.0f}/s), {self.failures().total()} failed; "
            f"plain answers p50 {percentile[49] * 1e3:.0f} ms, p99 {percentile[98] * 1e3:.0f} ms, longest {max(whole, default=0) * 1e3:.0f} ms"
        )


async def ask(client: httpx.AsyncClient, model: str, kind: str) -> str:
    """One request; what was wrong with its answer, or nothing."""
    streaming = kind != WHOLE
    question = {"model": model, "max_tokens": 40, "stream": streaming, "messages": [{"role": "user", "content": kind}]}
    try:
        answer = await client.post("/v1/chat/completions", json=question)
    except httpx.HTTPError as failed:
        return f"{type(failed).__name__}: {failed}"
    end = b"data: [DONE]\n\n" if streaming else b"}"
    if answer.status_code == 200 and answer.content.endswith(end):
        return ""
    return f"{answer.status_code} {answer.text[-300:]}"


async def run(url: str, model: str, file: TextIO, per_second: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    async def one(client: httpx.AsyncClient, kind: str) -> None:
        at_s, began_s = time.time(), loop.time()
        failure = await ask(client, model, kind)
        file.write(json.dumps({"at_s": at_s, "took_s": loop.time() - began_s, "kind": kind, "failure": failure}) + "\n")
        file.flush()

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"authorization": f"Bearer {PLACEHOLDER_KEY}"}
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=ANSWER_S, headers=headers) as client, asyncio.TaskGroup() as group:
        due_s, number = loop.time(), 0
        while not stop.is_set():
            group.create_task(one(client, KINDS[number % len(KINDS)]))
            due_s, number = due_s + 1 / per_second, number + 1
            await asyncio.sleep(due_s - loop.time())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("file", type=Path)
    parser.add_argument("--per-second", type=int, required=True)
    chosen = parser.parse_args()
    with chosen.file.open("a") as lines:
        asyncio.run(run(chosen.url, chosen.model, lines, chosen.per_second))
