"""A model provider for trying things out: it runs here, costs nothing, and demands the right key like a real one.

    PROVIDER_KEY=sk-example python provider.py 9100        # prints "listening on 127.0.0.1:9100"

It speaks OpenAI's chat completions (POST /v1/chat/completions) and Anthropic's messages (POST /v1/messages), both whole and
as a stream. The answer repeats the words of the last message until the output limit is reached. A token is a word or a
punctuation mark, so a prompt never has more tokens than bytes and the same request always costs the same.

Words in the last message that it obeys:
    say N words                        answer with N words, if the limit allows
    sleep 0.05 between tokens          be slow
    sleep 0.5 before the first token   be slow to begin
    break after N tokens               cut the connection in the middle of a stream
    fail with status 503               answer with this status

GET /ledger says what it would bill: requests, tokens in and out, refused keys, and which headers carried a credential (their
names, never a value). Nobody else's memory is needed to check that a quota held.
"""
# ruff: noqa: INP001, PLR2004, T201  a script that prints

import asyncio
import contextlib
import hmac
import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web

WORD = re.compile(r"\w+|[^\w\s]")
CREDENTIAL_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
OBEYED = {
    "words": re.compile(r"say (\d+) words"),
    "between_s": re.compile(r"sleep ([\d.]+) between tokens"),
    "before_s": re.compile(r"sleep ([\d.]+) before the first token"),
    "break_after": re.compile(r"break after (\d+) tokens"),
    "status": re.compile(r"fail with status ([45]\d\d)"),
}


@dataclass
class Ledger:
    """What this provider would bill. `open` counts the answers under way."""

    requests: int = 0
    refused_keys: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    hangups: int = 0
    open: int = 0
    credential_headers: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)


LEDGER = web.AppKey("ledger", Ledger)
KEY = web.AppKey("key", str)


@dataclass(frozen=True)
class Order:
    """One request, understood."""

    body: dict
    prompt_tokens: int
    words: list[str]
    cut: bool
    before_s: float
    between_s: float
    break_after: int | None

    @property
    def text(self) -> str:
        return "".join(self.words)


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def texts(content: object) -> list[str]:
    """Every text of a message's content, whether one string or parts."""
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or [] if isinstance(part, dict) and isinstance(part.get("text"), str)]


def understand(body: dict, limit: int) -> Order:
    said = [text for message in body["messages"] for text in texts(message.get("content"))]
    said += texts(body.get("system"))
    last = " ".join(texts(body["messages"][-1].get("content"))) if body["messages"] else ""
    obeyed = {name: found.group(1) for name, rule in OBEYED.items() if (found := rule.search(last))}
    if "status" in obeyed:
        raise Refused(int(obeyed["status"]), "as you wished")
    echo = WORD.findall(last) or ["Hello"]
    wanted = int(obeyed.get("words", len(echo)))
    count = min(wanted, limit)
    return Order(
        body=body,
        prompt_tokens=max(1, sum(len(WORD.findall(text)) for text in said)),
        words=[("" if i == 0 else " ") + echo[i % len(echo)] for i in range(count)],
        cut=wanted > limit,
        before_s=float(obeyed.get("before_s", 0)),
        between_s=float(obeyed.get("between_s", 0)),
        break_after=int(obeyed["break_after"]) if "break_after" in obeyed else None,
    )


async def admit(request: web.Request, limit_fields: tuple[str, ...], *, limit_required: bool) -> tuple[Order, Ledger]:
    """Check the key, read the body, start the bill."""
    ledger = request.app[LEDGER]
    carried = [name for name in CREDENTIAL_HEADERS if name in request.headers]
    ledger.credential_headers.update(carried)
    given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    if len(carried) != 1 or not hmac.compare_digest(given.encode(), request.app[KEY].encode()):
        ledger.refused_keys += 1
        raise Refused(401, "wrong key" if carried else "no key")
    body = await request.json()
    limits = [body[name] for name in limit_fields if body.get(name) is not None]
    if limit_required and not limits:
        raise Refused(400, f"{limit_fields[0]}: field required")
    order = understand(body, min(limits, default=1000))
    ledger.requests += 1
    ledger.models[str(body["model"])] += 1
    ledger.input_tokens += order.prompt_tokens
    return order, ledger


async def speak(request: web.Request, order: Order, ledger: Ledger, parts) -> web.StreamResponse:
    """Stream `parts`: (bytes, is it a token). Tokens are billed as they are made, also when nobody listens any more."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    ledger.open += 1
    spoken = 0
    try:
        await asyncio.sleep(order.before_s)
        for piece, is_token in parts:
            if is_token:
                spoken += 1
                ledger.output_tokens += 1
                if order.between_s and spoken > 1:
                    await asyncio.sleep(order.between_s)
            await response.write(piece)
            if spoken == order.break_after:
                request.transport.abort()
                return response
    except (ConnectionError, asyncio.CancelledError):
        ledger.hangups += 1
        raise
    finally:
        ledger.open -= 1
    return response


async def wait_whole(order: Order, ledger: Ledger) -> None:
    ledger.open += 1
    try:
        await asyncio.sleep(order.before_s + order.between_s * max(0, len(order.words) - 1))
        ledger.output_tokens += len(order.words)
    except asyncio.CancelledError:
        ledger.hangups += 1
        raise
    finally:
        ledger.open -= 1


async def chat(request: web.Request) -> web.StreamResponse:
    order, ledger = await admit(request, ("max_completion_tokens", "max_tokens"), limit_required=False)
    choices = int(order.body.get("n") or 1)
    usage = {
        "prompt_tokens": order.prompt_tokens,
        "completion_tokens": len(order.words) * choices,
        "total_tokens": order.prompt_tokens + len(order.words) * choices,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    common = {"id": f"chatcmpl-{ledger.requests}", "created": 0, "model": order.body["model"]}
    reason = "length" if order.cut else "stop"
    if not order.body.get("stream"):
        for _ in range(choices):
            await wait_whole(order, ledger)
        message = {"role": "assistant", "content": order.text, "refusal": None}
        answer = [{"index": i, "message": message, "finish_reason": reason, "logprobs": None} for i in range(choices)]
        return web.json_response({**common, "object": "chat.completion", "choices": answer, "usage": usage})
    with_usage = bool((order.body.get("stream_options") or {}).get("include_usage"))
    common |= {"object": "chat.completion.chunk"} | ({"usage": None} if with_usage else {})

    def event(value: dict) -> bytes:
        return b"data: " + json.dumps({**common, **value}, separators=(",", ":")).encode() + b"\n\n"

    def parts():
        for i in range(choices):
            yield event({"choices": [{"index": i, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}), False
        for word in order.words:
            for i in range(choices):
                yield event({"choices": [{"index": i, "delta": {"content": word}, "finish_reason": None}]}), True
        for i in range(choices):
            yield event({"choices": [{"index": i, "delta": {}, "finish_reason": reason}]}), False
        if with_usage:
            yield event({"choices": [], "usage": usage}), False
        yield b"data: [DONE]\n\n", False

    return await speak(request, order, ledger, parts())


async def messages(request: web.Request) -> web.StreamResponse:
    order, ledger = await admit(request, ("max_tokens",), limit_required=True)
    if "anthropic-version" not in request.headers:
        raise Refused(400, "anthropic-version: header is required")
    usage = {"input_tokens": order.prompt_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    reason = "max_tokens" if order.cut else "end_turn"
    message = {"id": f"msg_{ledger.requests}", "type": "message", "role": "assistant", "model": order.body["model"], "stop_sequence": None}
    if not order.body.get("stream"):
        await wait_whole(order, ledger)
        content = [{"type": "text", "text": order.text}]
        usage |= {"output_tokens": len(order.words)}
        return web.json_response({**message, "content": content, "stop_reason": reason, "usage": usage})

    def event(kind: str, **value: object) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **value}, separators=(',', ':'))}\n\n".encode()

    def parts():
        yield event("message_start", message={**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}), False
        yield event("content_block_start", index=0, content_block={"type": "text", "text": ""}), False
        yield event("ping"), False
        for word in order.words:
            yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}), True
        yield event("content_block_stop", index=0), False
        delta = {"stop_reason": reason, "stop_sequence": None}
        yield event("message_delta", delta=delta, usage={"output_tokens": len(order.words)}), False
        yield event("message_stop"), False

    return await speak(request, order, ledger, parts())


async def ledger(request: web.Request) -> web.Response:
    return web.json_response(vars(request.app[LEDGER]))


@web.middleware
async def explain(request: web.Request, handler) -> web.StreamResponse:
    """Say no as each vendor says it."""
    try:
        return await handler(request)
    except (Refused, KeyError, TypeError, ValueError) as refusal:
        status = refusal.status if isinstance(refusal, Refused) else 400
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "api_error" if status >= 500 else "invalid_request_error")
        error = {"type": kind, "message": str(refusal)}
        if request.path == "/v1/messages":
            return web.json_response({"type": "error", "error": error, "request_id": "req_1"}, status=status)
        return web.json_response({"error": {**error, "param": None, "code": None}}, status=status)


def application(key: str) -> web.Application:
    app = web.Application(middlewares=[explain], client_max_size=32 << 20)
    app[LEDGER] = Ledger()
    app[KEY] = key
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/messages", messages)
    app.router.add_get("/ledger", ledger)
    return app


async def serve(port: int, key: str) -> None:
    runner = web.AppRunner(application(key), access_log=None, handler_cancellation=True)  # notice at once when a caller leaves
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    where = runner.addresses[0]
    print(f"listening on {where[0]}:{where[1]}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    if len(sys.argv) != 2 or not os.environ.get("PROVIDER_KEY"):
        sys.exit("usage: PROVIDER_KEY=the-key-to-demand python provider.py PORT    (PORT 0 = any free one)")
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(serve(int(sys.argv[1]), os.environ["PROVIDER_KEY"]))
        except OSError as taken:
            sys.exit(f"{taken.strerror}: end what listens there, or take another port")
