"""Where hostile providers are met: cases of what they do and what must come of it, and the caller who asks for each.

CASES = {"cut-in-head": Case(lambda call: [b"HTTP/1.1 2", "close"], UNAVAILABLE)}
async with staged(doors, CASES) as stage:
    await stage.tries("cut-in-head", "messages", streaming=True)
"""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import httpx2 as httpx
from support.hostile_provider import ACCOUNT, RAW_ID, Act, HostileProvider
from support.hostile_run import AGENT, KEY, Doors

DIALECTS = ("chat", "messages", "responses")
STORED = "stored"  # Responses that the provider keeps, so that their ids are sealed on the way
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages", "responses": "/v1/responses", STORED: "/v1/responses"}
# What is kept, asked for by its id once it was made: method, and what stands behind the id in the path. Only the first can be streamed.
RETRIEVED, DELETED, CANCELLED, LISTED = "stored-retrieved", "stored-deleted", "stored-cancelled", "stored-listed"
BY_ID = {RETRIEVED: ("GET", ""), DELETED: ("DELETE", ""), CANCELLED: ("POST", "/cancel"), LISTED: ("GET", "/input_items")}
MADE = (7, 1)  # tokens and requests that it costs to have something kept
SCHEMAS = {"chat": "OpenAI", "messages": "Anthropic", "responses": "OpenAI, responses: true", STORED: "OpenAI, responses: true"}
MODELS_EACH = 100  # of one object
QUOTA = 10**15
LONGEST_S = 4  # of any exchange

Charge = Literal["nothing", "no tokens", "the hold"] | tuple[int, int]


@dataclass(frozen=True, slots=True)
class End:
    """What must come of a case.

    status, code: what the caller sees; the code is that of the broker's refusal, or "" where the provider's own words pass.
    charge: "nothing" = as if never sent; "no tokens" = an attempt that is known to be free; tokens in and out as reported;
        None = not judged here.
    drops: the connection must not be used again.
    """

    status: int
    code: str
    charge: Charge | None
    drops: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """plain, streamed: how it ends when the caller asked for no stream, or for one. None = it makes no sense there.

    endpoint: another port than the provider's own, "{name}" of a place given to `staged`.
    early: the provider answers before it has read the request.
    awaited: it is a deadline that ends it, and so a short one.
    crossed: dialect and streaming make no difference, so chat is asked plainly, messages as a stream, and no other.
    """

    act: Act
    plain: End | None
    streamed: End | None
    dialects: tuple[str, ...] = DIALECTS
    endpoint: str = ""
    early: bool = False
    awaited: bool = False
    crossed: bool = False
    request_bytes: int = 0


@dataclass
class Told:
    """What the caller got."""

    dialect: str
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def exchange(self) -> str:
        return self.headers["x-aiaccess-exchange"]

    def refusal(self, dialect: str, *, streaming: bool) -> tuple[str, str]:
        """The code of our refusal in this dialect's words, and what should be done by whoever reads it; a stream's is its last event."""
        text = self.body
        if streaming and self.status == 200:
            *_, text = [line[6:] for line in self.body.splitlines() if line.startswith(b"data: ")]
        value = json.loads(text)
        if dialect == "messages":
            assert value["type"] == "error"
            assert value["request_id"] == self.exchange
        return value["error"]["code"], value["error"]["message"]


def ways(cases: Mapping[str, Case]) -> list[tuple[str, str, bool]]:
    """Each case in each dialect, plain and streamed: what a test is parametrized with."""
    return [
        (name, dialect, streaming)
        for name, case in cases.items()
        for dialect in case.dialects
        for streaming in (False, True)
        if (case.streamed if streaming else case.plain) is not None
        and not (streaming and dialect in (DELETED, CANCELLED, LISTED))
        and (not case.crossed or (dialect, streaming) in (("chat", False), ("messages", True)))
    ]


def also_stored(cases: Mapping[str, Case]) -> dict[str, Case]:
    """The same cases, with Responses asked for both ways."""
    return {
        name: replace(case, dialects=(*case.dialects, STORED)) if "responses" in case.dialects else case for name, case in cases.items()
    }


def model_of(name: str, dialect: str, *, streaming: bool) -> str:
    """Each way has a model of its own, so that no backend rests for what another way did to it."""
    return f"{name}--{dialect}-{'streamed' if streaming else 'plain'}"


def _provider(name: str, schema: str, port: int, *, awaited: bool) -> str:
    deadline = "300ms" if awaited else "5s"
    return (
        f"  - {{name: {name}, schema: {schema}, endpoint: 'http://127.0.0.1:{port}/v1',\n"
        "     credentials: {type: APIKey, secretRef: {name: hostile}},\n"
        f"     timeouts: {{connect: 500ms, firstByte: {deadline}, idle: {deadline}}}}}\n"
    )


def _backend(case: Case, dialect: str) -> str:
    return f"{dialect.partition('-')[0]}{case.endpoint}{'-awaited' if case.awaited else ''}"


def _page(name: str, providers: str, offers: Sequence[tuple[str, str]], features: str) -> list[str]:
    models = "".join(
        f"  - {{name: {model}, backends: [{{provider: {backend}, model: {model}}}], failover: {{maxRetries: 0}}}}\n"
        for model, backend in offers
    )
    head = f"apiVersion: aiaccess.dev/v1alpha1\nmetadata: {{name: {name}, namespace: team1}}"
    policy = (
        f'{head}\nkind: AIAccessPolicy\nspec:\n  subjects: [{{spiffeID: "{AGENT}"}}]\n  maxStreamDuration: {LONGEST_S}s\n'
        f"  quotas: [{{name: tokens, tokens: {QUOTA}, per: Month}}, {{name: requests, requests: {QUOTA}, per: Month}}]\n"
        f"  models: [{', '.join(model for model, _ in offers)}]\n  features: {features}\n"
    )
    return [f"{head}\nkind: AIRoutingPolicy\nspec:\n  providers:\n{providers}  models:\n{models}", policy]


def _objects(cases: Mapping[str, Case], port: int, places: Mapping[str, int]) -> str:
    ports = {"": port, **places}
    offers = [(model_of(name, dialect, streaming=streaming), _backend(cases[name], dialect)) for name, dialect, streaming in ways(cases)]
    providers = "".join(
        _provider(f"{dialect}{place}{'-awaited' if awaited else ''}", schema, to, awaited=awaited)
        for place, to in ports.items()
        for dialect, schema in SCHEMAS.items()
        for awaited in (False, True)
    )
    hosts = ", ".join(f"http://127.0.0.1:{one}" for one in ports.values())
    secret = f'{{name: hostile, namespace: team1, annotations: {{aiaccess.dev/hosts: "{hosts}"}}}}'
    pages = [f'apiVersion: v1\nkind: Secret\nmetadata: {secret}\nstringData: {{api-key: "${{env:KEY}}"}}\n']
    for kept in (False, True):
        some = [offer for offer in offers if offer[1].startswith(STORED) is kept]
        for start in range(0, len(some), MODELS_EACH):
            name = f"hostile-{'stored-' if kept else ''}{start // MODELS_EACH}"
            pages += _page(name, providers, some[start : start + MODELS_EACH], "[Storage]" if kept else "[]")
    return "\n---\n".join(pages)


@dataclass
class Stage:
    doors: Doors
    provider: HostileProvider
    cases: Mapping[str, Case]
    client: httpx.AsyncClient
    admin: httpx.AsyncClient
    _read: dict[Path, int] = field(default_factory=dict)
    _lines: dict[str, dict[str, object]] = field(default_factory=dict)
    _kept: dict[str, str] = field(default_factory=dict)

    def end(self, name: str, *, streaming: bool) -> End:
        case = self.cases[name]
        end = case.streamed if streaming else case.plain
        assert end is not None
        return end

    def request(self, name: str, dialect: str, *, streaming: bool) -> dict[str, object]:
        words = "hello" + " " * self.cases[name].request_bytes
        if PATHS[dialect].endswith("/responses"):
            more = {"store": True} if dialect == "stored" else {}
            return {
                "model": model_of(name, dialect, streaming=streaming),
                "max_output_tokens": 50,
                "stream": streaming,
                "input": words,
                **more,
            }
        return {
            "model": model_of(name, dialect, streaming=streaming),
            "max_tokens": 50,
            "stream": streaming,
            "messages": [{"role": "user", "content": words}],
        }

    async def ask(self, name: str, dialect: str, *, streaming: bool) -> Told:
        if dialect in BY_ID:
            method, behind = BY_ID[dialect]
            sealed = self._kept[model_of(name, dialect, streaming=streaming)]
            got = await self.client.request(method, f"/v1/responses/{sealed}{behind}{'?stream=true' if streaming else ''}")
        else:
            got = await self.client.post(PATHS[dialect], json=self.request(name, dialect, streaming=streaming))
        return Told(dialect, got.status_code, got.headers, got.content)

    async def make(self, name: str, dialect: str, *, streaming: bool) -> None:
        """Have the provider keep the response that is asked for later by its id. It costs MADE."""
        body = {**self.request(name, STORED, streaming=False), "model": model_of(name, dialect, streaming=streaming)}
        got = await self.client.post(PATHS[STORED], json=body)
        assert got.status_code == 200, got.text
        self._kept[str(body["model"])] = got.json()["id"]

    async def tries(self, name: str, dialect: str, *, streaming: bool) -> Told:
        """Ask, and see that it ended as it must: for the caller, on the bill, and here."""
        before = self.spent()
        if dialect in BY_ID:
            await self.make(name, dialect, streaming=streaming)
            before = before[0] + MADE[0], before[1] + MADE[1]
        told = await self.ask(name, dialect, streaming=streaming)
        end = self.end(name, streaming=streaming)
        assert told.status == end.status, told.body[:500]
        if end.code:
            code, message = told.refusal(dialect, streaming=streaming)
            assert code == end.code
            assert "ask again" in message or "can mend it" in message  # what to do next
            assert told.status == 200 or told.headers["x-aiaccess-source"] == "provider"
        self.require_nothing_leaked(told)
        await self.require_charge(told.exchange, end, before)
        await self.require_nothing_left_open(model_of(name, dialect, streaming=streaming) if end.drops else "")
        return told

    def require_nothing_leaked(self, told: Told) -> None:
        shown = b"\r\n".join(b"%b: %b" % pair for pair in told.headers.raw) + told.body
        assert KEY.encode() not in shown
        assert ACCOUNT not in shown
        sealed = told.dialect.startswith(STORED)
        assert not sealed or not RAW_ID.search(shown)
        folder = self.doors.deployment.folder
        for file in (folder / "audit.jsonl", *folder.glob("*.log")):
            news = self._news(file)
            assert KEY.encode() not in news
            assert not sealed or not RAW_ID.search(news)

    async def require_charge(self, exchange: str, end: End, before: tuple[int, int]) -> None:
        line = await self.line(exchange)
        assert line["code"] == (end.code or "answered")
        if end.charge is None:
            return
        charged = line["input_tokens"], line["output_tokens"]
        assert line["estimated"] is (end.charge == "the hold")
        if end.charge == "the hold":
            assert sum(charged) == line["held_tokens"]
        else:
            assert charged == (end.charge if isinstance(end.charge, tuple) else (0, 0))
        tokens, requests = before
        after = tokens + sum(charged), requests + (end.charge != "nothing")
        async with asyncio.timeout(5):
            while self.spent() != after:
                await asyncio.sleep(0.01)

    async def require_nothing_left_open(self, dropped: str = "") -> None:
        """No exchange runs, none holds anything of a quota, and the connection of this model's request has ended."""
        async with asyncio.timeout(5):
            while dropped in self.provider.open or self.asked("SELECT COUNT(*) FROM holds WHERE state = 'open'") or await self.in_flight():
                await asyncio.sleep(0.01)

    async def in_flight(self) -> float:
        """Exchanges that run, and settlements that wait."""
        names = ("aiaccess_exchanges_in_flight ", "aiaccess_settle_queue_length ")
        lines = (await self.admin.get("/metrics")).text.splitlines()
        running, waiting = (float(line.rpartition(" ")[2]) for line in lines if line.startswith(names))
        return running + waiting

    def spent(self) -> tuple[int, int]:
        """What the quotas of the hostile models have counted: tokens, requests."""
        sums = "SELECT COALESCE(SUM(used), 0) FROM counters WHERE counter LIKE ?"
        return self.asked(sums, "%/hostile-%/total_tokens/%"), self.asked(sums, "%/hostile-%/requests/%")

    def asked(self, question: str, *values: str) -> int:
        """One figure out of the quota store."""
        file = self.doors.deployment.folder / "quota.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
            return int(store.execute(question, values).fetchone()[0])

    async def line(self, exchange: str) -> dict[str, object]:
        """The audit line of an exchange, as soon as it is written."""
        async with asyncio.timeout(10):
            while exchange not in self._lines:
                for raw in self._news(self.doors.deployment.folder / "audit.jsonl", lines=True).splitlines():
                    line = json.loads(raw)
                    if line["kind"] == "exchange":
                        self._lines[line["exchange"]] = line
                await asyncio.sleep(0.01)
        return self._lines[exchange]

    def _news(self, file: Path, *, lines: bool = False) -> bytes:
        """What a file has more than when it was last asked for; whole lines, where they are to be read."""
        place = file.with_suffix(".lines") if lines else file
        with file.open("rb") as opened:
            opened.seek(self._read.get(place, 0))
            news = opened.read()
        if lines:
            news = news[: news.rfind(b"\n") + 1]
        self._read[place] = self._read.get(place, 0) + len(news)
        return news


@contextlib.asynccontextmanager
async def staged(doors: Doors, cases: Mapping[str, Case], places: Mapping[str, int] | None = None) -> AsyncIterator[Stage]:
    """A provider that does what the cases say, and objects that lead AGENT to it."""
    early = [name for name, case in cases.items() if case.early]
    async with (
        HostileProvider({name: case.act for name, case in cases.items()}, early=early) as provider,
        httpx.AsyncClient(base_url=doors.url, timeout=20) as client,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{doors.deployment.admin_port}") as admin,
    ):
        await doors.objects("hostile-providers", _objects(cases, provider.port, places or {}))
        yield Stage(doors, provider, cases, client, admin)
