"""Every row of the table in docs/failover.md, with the unmodified SDKs through both doors: the document is the list of cases."""

from contextlib import AsyncExitStack
from pathlib import Path

import anthropic
import openai
import pytest
from support.fake_provider import FakeProvider, chunk, json_answer, sse_head
from support.ports import closed_port
from support.provider_words import CHAT, CHAT_EVENTS, CHAT_STREAM, MESSAGE, MESSAGE_EVENTS, MESSAGE_STREAM, USAGE_TOKENS
from support.stack import AGENT, Stack, stack
from support.web_ca import web_server_context

DOCUMENT = Path(__file__).parents[2] / "docs" / "failover.md"
COLUMNS = ("failure", "request", "retry_on", "backends", "sees", "attempts", "arrived", "charged")
RETRY_AFTER = (b"retry-after", b"7")


def table() -> list[dict[str, str]]:
    """The rows, one for each kind of request that a row speaks of."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    cases = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return [case | {"request": request} for case in cases for request in case["request"].split(", ")]


def answer(seen):
    streaming = b'"stream":true' in seen.body
    if seen.target.endswith("/messages"):
        return MESSAGE_STREAM if streaming else MESSAGE
    return CHAT_STREAM if streaming else CHAT


def begun(seen):
    """The head and the first part of an answer."""
    streaming = b'"stream":true' in seen.body
    if not streaming:
        return (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{",)
    return (sse_head(), chunk(MESSAGE_EVENTS[0] if seen.target.endswith("/messages") else CHAT_EVENTS[0]))


FAILURES = {
    "connection refused": None,
    "TLS failure": answer,
    "no first byte": lambda _: ("hang",),
    "reset before the first byte": lambda _: ("reset",),
    "reset after the first byte": lambda seen: (*begun(seen), "reset"),
    "429 with Retry-After: 7": lambda _: json_answer(b'{"error":{}}', 429, [RETRY_AFTER]),
    "429": lambda _: json_answer(b'{"error":{}}', 429),
    "500": lambda _: json_answer(b'{"error":{}}', 500),
    "503": lambda _: json_answer(b'{"error":{}}', 503),
    "529": lambda _: json_answer(b'{"error":{}}', 529),
    "stall mid-stream": lambda seen: (*begun(seen), "hang"),
}


def objects(schema: str, endpoints: list[str], retry_on: str) -> str:
    listed = "" if retry_on == "default" else f"retryOn: [429, 502, 503, 504, 529, ConnectFailure, {retry_on.removeprefix('default + ')}], "
    timeouts = "timeouts: {connect: 1s, firstByte: 300ms, idle: 300ms}"
    providers = "".join(f"\n  - {{name: p{n}, schema: {schema}, endpoint: '{one}', {timeouts}}}" for n, one in enumerate(endpoints))
    backends = ", ".join(f"{{provider: p{n}, model: real, priority: {n}}}" for n in range(len(endpoints)))
    return f"""
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: routing, namespace: team1}}
spec:
  providers:{providers}
  models:
  - name: model
    backends: [{backends}]
    failover: {{{listed}maxRetries: 2, backoff: {{base: 1ms, max: 10ms}}}}
---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: agents, namespace: team1}}
spec:
  subjects: [{{spiffeID: "{AGENT}"}}]
  models: [model]
  quotas: [{{name: hourly, tokens: 100000, per: Hour}}, {{name: pace, requests: 100, per: Hour}}, {{name: width, concurrent: 1}}]
"""


async def asked(it: Stack, dialect: str, *, stream: bool) -> str:
    """What the agent sees, in the document's words."""
    sdk = openai if dialect == "OpenAI" else anthropic
    said = {"model": "model", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    create = it.openai(AGENT).chat.completions.create if dialect == "OpenAI" else it.anthropic(AGENT).messages.create
    begun, failed = False, None
    try:
        got = await create(**said)
        begun = stream
        if stream:
            async for _ in got:
                pass
    except sdk.APIError as error:
        failed = error
    if failed is None:
        return "answer"
    (line,) = await it.audited(1)
    if begun:
        assert line["code"] in str(failed.body)
        return f"200, then {line['code']}"
    assert line["code"] in failed.response.text
    after = failed.response.headers.get("retry-after")
    return f"{failed.response.status_code} {line['code']}" + (f", Retry-After: {after}" if after else "")


def charged(line) -> str:
    """In the document's words: what the answering provider reported, and the holds of attempts that may have been billed."""
    tokens = line["input_tokens"] + line["output_tokens"]
    if line["code"] == "answered":
        spent = tokens - USAGE_TOKENS
        holds = spent // (line["held_tokens"] - spent)
        return f"{plural(holds)} + usage" if holds else "usage"
    assert tokens in (0, line["held_tokens"])
    return plural(line["attempts"]) if tokens else "nothing"


def plural(holds: int) -> str:
    return "1 hold" if holds == 1 else f"{holds} holds"


@pytest.mark.parametrize("dialect", ["OpenAI", "Anthropic"])
@pytest.mark.parametrize("row", table(), ids=lambda row: f"{row['failure']}, {row['request']}, {row['retry_on']}, {row['backends']}")
async def test_the_table_in_the_documentation_is_what_happens(tmp_path, row, dialect):
    async with AsyncExitStack() as open_:
        tls = web_server_context("127.0.0.1") if row["failure"] == "TLS failure" else None
        first = await open_.enter_async_context(FakeProvider(script=FAILURES[row["failure"]] or answer, tls=tls))
        second = await open_.enter_async_context(FakeProvider(script=answer))
        port = first.port if FAILURES[row["failure"]] else open_.enter_context(closed_port())
        there = [f"{'https' if tls else 'http'}://127.0.0.1:{port}", f"http://127.0.0.1:{second.port}"]
        if row["backends"] == "one":
            there.pop()
        it = await open_.enter_async_context(stack(tmp_path, objects(dialect, there, row["retry_on"])))
        sees = await asked(it, dialect, stream=row["request"] == "streamed")
        (line,) = await it.audited(1)
        found = {
            "sees": sees,
            "attempts": str(line["attempts"]),
            "arrived": " + ".join(str(len(one.seen)) for one in (first, second)[: len(there)]),
            "charged": charged(line),
        }
        assert found == {column: row[column] for column in found}
