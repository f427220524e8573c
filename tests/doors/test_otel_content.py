"""`--otel-content` through both doors with unmodified SDKs: without it no word of anybody leaves with the traces; with it no credential does."""

import io
import json
import sys
from contextlib import AsyncExitStack

import openai
import pytest
from support.fake_provider import LAST_CHUNK, FakeProvider, chunk, json_answer, sse_answer, sse_head
from support.objects_yaml import access, routing
from support.otlp_receiver import Receiver
from support.provider_words import RESPONSE_WHOLE
from support.stack import AGENT, CANARY, stack

from broker.config import ConfigError

PROMPT = "zebras quaggas okapis"
ANSWER = "walruses narwhals dugongs"
STRANGE_KEY = "AKIA" + "Q7ZX" * 4
MAIL = "jane.doe@example.org"
INPUT, OUTPUT, SYSTEM = "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"
USAGE = b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}'


def chat(*pieces):
    """A stream of a provider that says these pieces."""
    events = [
        json.dumps(
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "delta": {"content": piece}}],
            }
        )
        for piece in pieces
    ]
    last = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],' + USAGE + b"}\n\n"
    return sse_answer(*(b"data: %b\n\n" % event.encode() for event in events), last, b"data: [DONE]\n\n")


def whole(said):
    message = json.dumps({"role": "assistant", "content": said}).encode()
    return json_answer(
        b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop","message":%b}],%b}'
        % (message, USAGE)
    )


class Traced:
    def __init__(self, it, collector):
        self.it, self.collector = it, collector

    async def say(self, text, *, streaming=False, model="gpt"):
        client = self.it.openai(AGENT)
        answer = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], stream=streaming)
        if streaming:
            return [event async for event in answer]
        return answer

    async def attempt(self, count=1):
        """The span of the last attempt, once there are so many exchanges of one attempt each."""
        spans = await self.collector.spans(2 * count)
        return [span for span in spans if span.kind == "CLIENT"][-1]

    @property
    def sent(self):
        return b"".join(seen.body for seen in self.collector.http.seen)


@pytest.fixture
async def traced(tmp_path, monkeypatch):
    """Starts the product with a provider that says these answers, and a collector."""
    async with AsyncExitStack() as closing:

        async def start(*answers, content=True, **more):
            collector = await closing.enter_async_context(Receiver())
            provider = await closing.enter_async_context(FakeProvider(*answers))
            environ = collector.environ(**more)
            for name, value in environ.items():
                monkeypatch.setenv(name, value)
            objects = routing(provider.port).replace("schema: OpenAI\n", "schema: OpenAI\n    responses: true\n") + access(
                models="gpt, claude"
            )
            it = await closing.enter_async_context(stack(tmp_path, objects, environ=environ, otel_content=content))
            return Traced(it, collector)

        yield start


def contents(attribute):
    return [part["content"] for message in json.loads(attribute) for part in message["parts"]]


async def test_without_the_switch_no_word_of_anybody_is_in_any_message(traced):
    it = await traced(whole(ANSWER), chat(*ANSWER.split(" ")), content=False)
    await it.say(PROMPT)
    await it.say(PROMPT, streaming=True)
    attempt = await it.attempt(2)
    assert not {INPUT, OUTPUT, SYSTEM} & set(attempt.attributes)
    assert [word for word in f"{PROMPT} {ANSWER}".split() if word.encode() in it.sent] == []


async def test_with_it_the_attempt_says_what_was_asked_and_answered(traced):
    it = await traced(whole(ANSWER))
    await it.say(PROMPT)
    exchange, attempt = await it.collector.spans(2)
    assert json.loads(attempt.attributes[INPUT]) == [{"role": "user", "parts": [{"type": "text", "content": PROMPT}]}]
    assert json.loads(attempt.attributes[OUTPUT]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": ANSWER}], "finish_reason": "stop"}
    ]
    assert not {INPUT, OUTPUT} & set(exchange.attributes)


async def test_a_stream_says_the_same(traced):
    it = await traced(chat("walruses ", "narwhals ", "dugongs"))
    await it.say(PROMPT, streaming=True)
    attempt = await it.attempt()
    assert contents(attempt.attributes[OUTPUT]) == [ANSWER]


async def test_anthropic_and_responses_say_it_too(traced):
    message = b'{"id":"m","type":"message","role":"assistant","model":"c","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":2}}'
    it = await traced(json_answer(message), json_answer(RESPONSE_WHOLE))
    await it.it.anthropic(AGENT).messages.create(
        model="claude", max_tokens=20, system="be kind", messages=[{"role": "user", "content": PROMPT}]
    )
    first = await it.attempt()
    assert json.loads(first.attributes[SYSTEM]) == [{"type": "text", "content": "be kind"}]
    assert (contents(first.attributes[INPUT]), contents(first.attributes[OUTPUT])) == ([PROMPT], ["hi"])
    await it.it.openai(AGENT).responses.create(model="gpt", input=PROMPT)
    second = await it.attempt(2)
    assert (contents(second.attributes[INPUT]), contents(second.attributes[OUTPUT])) == ([PROMPT], ["hi"])


async def test_with_it_no_credential_leaves_wherever_somebody_put_it(traced):
    """The provider's own key, and a key of somebody else; whole, and a letter or two in each event of a stream."""
    said = f"yours is {STRANGE_KEY}, ours {CANARY}"
    it = await traced(whole(f"yours is {STRANGE_KEY}"), chat(*(said[at : at + 2] for at in range(0, len(said), 2))))
    for streaming in (False, True):
        await it.say(f"my keys are {CANARY} and {STRANGE_KEY}, my address {MAIL}", streaming=streaming)
    first, second = (span for span in await it.collector.spans(4) if span.kind == "CLIENT")
    assert contents(first.attributes[INPUT]) == ["my keys are [key] and [key], my address [e-mail]"]
    assert contents(first.attributes[OUTPUT]) == ["yours is [key]"]
    assert contents(second.attributes[OUTPUT]) == ["yours is [key], ours [key]"]
    assert [
        secret for secret in (CANARY, STRANGE_KEY, MAIL, it.it.environment(AGENT)["OPENAI_API_KEY"]) if secret.encode() in it.sent
    ] == []


async def test_an_answer_that_is_withheld_since_it_has_our_key_is_not_told_either(traced):
    """Not even what came before: it may be the beginning of the key."""
    event = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"walruses %b"}}]}\n\n'
    half, rest = (event % CANARY.encode()).split(CANARY[9:].encode())
    it = await traced((sse_head(), chunk(half), chunk(CANARY[9:].encode() + rest), LAST_CHUNK), whole(CANARY))
    with pytest.raises(openai.APIError):
        await it.say(PROMPT, streaming=True)
    with pytest.raises(openai.APIError):
        await it.say(PROMPT)
    attempt = await it.attempt(2)
    assert not {INPUT, OUTPUT} & set(attempt.attributes)
    assert [word for word in (CANARY[:9], "walruses") if word.encode() in it.sent] == []


async def test_of_an_attempt_that_failed_and_of_a_refusal_there_are_no_words(traced):
    it = await traced(json_answer(b'{"error":{"message":"%b"}}' % ANSWER.encode(), 500))
    with pytest.raises(openai.InternalServerError):
        await it.say(PROMPT)
    with pytest.raises(openai.PermissionDeniedError):
        await it.say(PROMPT, model="ungranted")
    await it.collector.spans(3)
    assert PROMPT.encode() not in it.sent
    assert ANSWER.encode() not in it.sent


async def test_what_is_not_sampled_has_no_words(traced):
    it = await traced(whole(ANSWER), OTEL_TRACES_SAMPLER="always_off")
    await it.say(PROMPT)
    await it.it.audited(1)
    assert PROMPT.encode() not in it.sent


async def test_logs_and_audit_stay_as_they_are_and_the_start_says_it_loudly(traced, monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    it = await traced(whole(ANSWER))
    await it.say(PROMPT)
    await it.attempt()
    (line,) = it.it.audit()
    assert '"level": "warning", "logger": "broker.otlp.opening", "event": "otlp_content_on"' in log.getvalue()
    assert [word for word in f"{PROMPT} {ANSWER}".split() if word in log.getvalue() or word in json.dumps(line)] == []


async def test_without_traces_to_put_them_on_the_broker_does_not_start(tmp_path):
    with pytest.raises(ExceptionGroup) as failed:
        async with stack(tmp_path, routing(1) + access(), otel_content=True):
            pass
    (why,) = failed.value.exceptions
    assert isinstance(why, ConfigError)
    assert str(why).startswith(
        "--otel-content: no traces are exported that could have prompts and answers; set OTEL_EXPORTER_OTLP_ENDPOINT"
    )
