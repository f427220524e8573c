"""Two hundred callers behind three local gateways: plain and streamed, patient and not, asking until they are told that nothing is left."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from .plan import AGENTS, CALLERS, Question, questions

REFUSED_OFTEN: Final = 4  # so many times in a row, and a caller asks no more
JSON: Final = {"content-type": "application/json"}
PAUSES_S: Final = (0.4, 2.0)
END: Final = b"data: [DONE]"


@dataclass(frozen=True)
class Outcome:
    """What one caller saw of one request.

    exchange: the broker's name of it, once headers were there. began_s: monotonic.
    code: `answered` for a whole answer, `left` for a caller that hung up, `broken` for half an answer, else the refusal's.
    """

    question: Question
    began_s: float
    code: str
    exchange: str = ""


@dataclass
class Callers:
    """urls: of the gateways, in the order of plan.AGENTS."""

    seed: int
    urls: Sequence[str]
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def codes(self) -> Counter[str]:
        return Counter(outcome.code for outcome in self.outcomes)

    async def ask_for(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        timeout, connector = aiohttp.ClientTimeout(total=60), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=JSON, timeout=timeout, connector=connector) as session, asyncio.TaskGroup() as group:
            for caller in range(CALLERS):
                group.create_task(self._insist(caller, session, until_s))

    async def _insist(self, caller: int, session: aiohttp.ClientSession, until_s: float) -> None:
        drawn = random.Random(f"{self.seed}/pace/{caller}")  # noqa: S311  dice, no secret
        refused = 0
        for question in questions(self.seed, caller):
            if time.monotonic() > until_s or refused == REFUSED_OFTEN:
                return
            outcome = await self._ask(question, session, self.urls[caller % len(AGENTS)])
            self.outcomes.append(outcome)
            refused = refused + 1 if outcome.code == "quota_exhausted" else 0
            await asyncio.sleep(drawn.uniform(*PAUSES_S))

    async def _ask(self, question: Question, session: aiohttp.ClientSession, url: str) -> Outcome:
        began_s, exchange, code = time.monotonic(), "", "left"
        try:
            async with asyncio.timeout(question.patience_s), session.post(f"{url}/v1/chat/completions", data=question.body()) as answer:
                exchange = answer.headers.get("x-aiaccess-exchange", "")
                code = "broken"
                code = _judge(answer.status, await answer.read(), streaming=question.streaming)
        except TimeoutError:
            code = "left"
        except aiohttp.ClientError:
            code = "broken"
        return Outcome(question, began_s, code, exchange)


def _judge(status: int, body: bytes, *, streaming: bool) -> str:
    if status != 200:
        return str(json.loads(body)["error"].get("code") or status)
    if not streaming:
        return "answered"
    last = body.rstrip().rpartition(b"\n\n")[2]
    if last == END:
        return "answered"
    said = last.removeprefix(b"data: ")
    return str(json.loads(said)["error"]["code"]) if said.startswith(b'{"error"') else "broken"
