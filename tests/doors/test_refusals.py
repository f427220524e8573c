"""Every row of the refusal table (design: "The way of a request") through both doors, in the caller's dialect, judged by the SDKs' own exceptions."""

import asyncio
import json

import anthropic
import openai
import pytest
from support.fake_provider import FakeProvider, json_answer, sse_answer
from support.objects_yaml import access, routing
from support.ports import closed_port
from support.provider_words import CHAT, CHAT_STREAM, MESSAGE, MESSAGE_STREAM
from support.stack import AGENT, CANARY, STRANGER, Stack, stack

from broker import routing as broker_routing


def honest(seen):
    """Answers as asked, when the key is the right one."""
    if CANARY.encode() not in (seen.header(b"authorization") or b"") + (seen.header(b"x-api-key") or b""):
        return json_answer(b'{"error":{"message":"wrong key"}}', 401)
    streaming = b'"stream":true' in seen.body
    if seen.target.endswith("/messages"):
        return MESSAGE_STREAM if streaming else MESSAGE
    return CHAT_STREAM if streaming else CHAT


async def ask_chat(it: Stack, model: str, who: str = AGENT, *, stream: bool = False, text: str = "hello", **more):
    got = await it.openai(who).chat.completions.create(model=model, messages=[{"role": "user", "content": text}], stream=stream, **more)
    return [chunk async for chunk in got] if stream else got


async def ask_messages(it: Stack, model: str, who: str = AGENT, *, stream: bool = False, text: str = "hello", max_tokens: int = 50, **more):
    got = await it.anthropic(who).messages.create(
        model=model, messages=[{"role": "user", "content": text}], stream=stream, max_tokens=max_tokens, **more
    )
    return [event async for event in got] if stream else got


SPEAKERS = pytest.mark.parametrize(
    ("sdk", "ask", "model"), [(openai, ask_chat, "gpt"), (anthropic, ask_messages, "claude")], ids=["openai", "anthropic"]
)
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


def headers_of(error):
    return error.response.headers


@SPEAKERS
@STREAMED
async def test_an_answer_comes_through_and_the_key_was_attached_on_the_way(tmp_path, sdk, ask, model, stream):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        got = await ask(it, model, stream=stream)
        assert got
        (line,) = await it.audited(1)
        assert (line["code"], line["input_tokens"], line["output_tokens"], line["spiffe_id"]) == ("answered", 5, 2, AGENT)
        assert json.loads(provider.seen[0].body)["model"] == f"{model}-real"


async def test_the_list_of_models_is_what_this_identity_may_use_in_its_dialect(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        assert sorted([m.id async for m in it.openai(AGENT).models.list()]) == ["both", "gpt", "unreachable"]
        assert sorted([m.id async for m in it.anthropic(AGENT).models.list()]) == ["both", "claude"]
        assert (await it.openai(AGENT).models.retrieve("gpt")).id == "gpt"
        with pytest.raises(openai.NotFoundError):
            await it.openai(AGENT).models.retrieve("ungranted")
        assert {line["code"] for line in await it.audited(4)} == {"listed", "unknown_route"}
        assert provider.seen == []


REFUSED_BEFORE_THE_PROVIDER = {
    # case: (model by dialect or None = the usual one, extra fields, status, code, SDK exception's name)
    "a model that no policy grants": ({"model": "ungranted"}, 403, "forbidden", "PermissionDeniedError"),
    "a model that nobody offers": ({"model": "never-heard-of"}, 403, "forbidden", "PermissionDeniedError"),
    "a model with a control character": ({"model": "gp\nt"}, 400, "bad_request", "BadRequestError"),
}


@SPEAKERS
@STREAMED
@pytest.mark.parametrize("case", REFUSED_BEFORE_THE_PROVIDER)
async def test_what_is_refused_by_policy_never_reaches_the_provider(tmp_path, sdk, ask, model, stream, case):
    fields, status, code, error = REFUSED_BEFORE_THE_PROVIDER[case]
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        with pytest.raises(getattr(sdk, error)) as caught:
            await ask(it, **{"model": model, "stream": stream, **fields})
        assert caught.value.status_code == status
        assert code in caught.value.response.text
        assert headers_of(caught.value)["x-should-retry"] == "false"
        assert headers_of(caught.value)["x-aiaccess-source"] == "broker"
        (line,) = await it.audited(1)
        assert (line["code"], line["status"], line["exchange"]) == (code, status, headers_of(caught.value)["x-aiaccess-exchange"])
        assert provider.seen == []


@SPEAKERS
@STREAMED
async def test_an_identity_that_no_policy_names_is_refused(tmp_path, sdk, ask, model, stream):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access(), [AGENT, STRANGER]) as it:
        with pytest.raises(sdk.PermissionDeniedError):
            await ask(it, f"team1/{model}", STRANGER, stream=stream)
        with pytest.raises(openai.PermissionDeniedError):
            await it.openai(STRANGER).models.list()
        assert provider.seen == []


@SPEAKERS
@STREAMED
async def test_a_dialect_that_no_backend_speaks_is_untranslatable(tmp_path, sdk, ask, model, stream):
    foreign = "claude" if sdk is openai else "gpt"
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        with pytest.raises(sdk.UnprocessableEntityError, match="speaks"):
            await ask(it, foreign, stream=stream)
        assert provider.seen == []


@STREAMED
async def test_a_feature_that_was_not_granted_is_refused_by_name(tmp_path, stream):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        with pytest.raises(openai.BadRequestError, match="Storage"):
            await ask_chat(it, "gpt", stream=stream, store=True)
        with pytest.raises(anthropic.BadRequestError, match="HostedTools"):
            await ask_messages(it, "claude", stream=stream, tools=[{"type": "web_search_20250305", "name": "web_search"}])
        assert [line["code"] for line in await it.audited(2)] == ["feature_not_granted"] * 2
        assert provider.seen == []


@SPEAKERS
@STREAMED
async def test_what_can_never_fit_the_quota_is_told_apart_from_what_must_wait(tmp_path, sdk, ask, model, stream):
    objects = access(quotas="[{name: hourly, tokens: 480, per: Month}]")
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + objects) as it:
        with pytest.raises(sdk.BadRequestError) as never:
            await ask(it, model, stream=stream, text="x" * 2000)
        assert "exceeds_quota" in never.value.response.text
        assert provider.seen == []
        with pytest.raises(sdk.RateLimitError) as later:
            for _ in range(60):
                await ask(it, model, stream=stream, text="y" * 200)
        assert "quota_exhausted" in later.value.response.text
        assert headers_of(later.value)["x-should-retry"] == "false"
        assert int(headers_of(later.value)["retry-after"]) > 0


@SPEAKERS
async def test_a_full_concurrency_quota_may_be_asked_again(tmp_path, sdk, ask, model):
    gate = asyncio.Event()
    objects = access(quotas="[{name: width, concurrent: 1}]")
    async with (
        FakeProvider(script=lambda seen: (gate, *honest(seen))) as provider,
        stack(tmp_path, routing(provider.port) + objects) as it,
        asyncio.TaskGroup() as group,
    ):
        first = group.create_task(ask(it, model))
        await provider.requests(1)
        with pytest.raises(sdk.RateLimitError) as full:
            await ask(it, model)
        assert "concurrency_full" in full.value.response.text
        assert (headers_of(full.value)["x-should-retry"], headers_of(full.value)["retry-after"]) == ("true", "1")
        gate.set()
        await first
        assert await ask(it, model)


@STREAMED
async def test_a_model_whose_key_is_missing_has_no_backend(tmp_path, stream):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        with pytest.raises(openai.InternalServerError) as caught:
            await ask_chat(it, "secretless", stream=stream)
        assert (caught.value.status_code, headers_of(caught.value)["x-should-retry"]) == (503, "true")
        assert "no_backend" in caught.value.response.text


FROM_THE_PROVIDER = {
    "refuses our key": (json_answer(b'{"error":"bad key"}', 401), 502, "provider_auth", "false"),
    "forbids our key": (json_answer(b'{"error":"no"}', 403), 502, "provider_auth", "false"),
    "has a rate limit": (json_answer(b"{}", 429, [(b"retry-after", b"7")]), 429, "provider_rate_limited", "true"),
    "breaks": (json_answer(b"{}", 500), 502, "provider_unavailable", "true"),
    "is overloaded": (json_answer(b"{}", 529), 502, "provider_unavailable", "true"),
    "redirects": (json_answer(b"{}", 302, [(b"location", b"http://169.254.169.254/")]), 502, "provider_unavailable", "true"),
    "hangs up": (("reset",), 502, "provider_unavailable", "true"),
    "speaks no HTTP": ((b"hello\r\n\r\n", "close"), 502, "provider_unavailable", "true"),
    "says nothing": (("hang",), 504, "provider_timeout", "true"),
}


@SPEAKERS
@STREAMED
@pytest.mark.parametrize("case", FROM_THE_PROVIDER)
async def test_a_provider_that_fails_is_told_apart_from_us(tmp_path, sdk, ask, model, stream, case):
    answer, status, code, retry = FROM_THE_PROVIDER[case]
    async with FakeProvider(answer) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        with pytest.raises(sdk.APIStatusError) as caught:
            await ask(it, model, stream=stream)
        assert (caught.value.status_code, headers_of(caught.value)["x-should-retry"]) == (status, retry)
        assert code in caught.value.response.text
        assert headers_of(caught.value)["x-aiaccess-source"] == "provider"
        if case == "has a rate limit":
            assert headers_of(caught.value)["retry-after"] == "7"
        (line,) = await it.audited(1)
        complete = case not in ("redirects", "hangs up", "speaks no HTTP", "says nothing")  # a 4xx or 5xx: nothing was billed
        assert (line["code"], line["estimated"]) == (code, not complete)
        assert (line["output_tokens"] == 0) is complete


@SPEAKERS
async def test_a_provider_that_cannot_be_reached_costs_nothing(tmp_path, sdk, ask, model):
    objects = access(quotas="[{name: pace, requests: 1, per: Month}]")
    with closed_port() as port:
        async with stack(tmp_path, routing(port) + objects) as it:
            for _ in range(2):
                with pytest.raises(sdk.InternalServerError) as caught:
                    await ask(it, model)
                assert "provider_unavailable" in caught.value.response.text


@SPEAKERS
@STREAMED
async def test_what_is_the_callers_to_mend_goes_on_as_the_provider_said_it(tmp_path, sdk, ask, model, stream):
    said = b'{"error":{"message":"no such parameter: frobnicate","type":"invalid_request_error"}}'
    async with FakeProvider(json_answer(said, 400)) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        with pytest.raises(sdk.BadRequestError, match="frobnicate") as caught:
            await ask(it, model, stream=stream)
        assert caught.value.response.content == said
        assert headers_of(caught.value)["x-aiaccess-source"] == "provider"


@SPEAKERS
@STREAMED
@pytest.mark.parametrize("status", [200, 400, 401, 500])
async def test_a_credential_that_a_provider_echoes_stays_with_us(tmp_path, sdk, ask, model, stream, status):
    leak = json.dumps({"error": {"message": f"you sent {CANARY}"}, "headers": {"authorization": CANARY}}).encode()
    answer = (
        sse_answer(b"data: " + leak + b"\n\n")
        if stream and status == 200
        else json_answer(leak, status, [(b"x-request-id", CANARY.encode())])
    )
    async with FakeProvider(answer) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        with pytest.raises(sdk.APIError) as caught:
            await ask(it, model, stream=stream)
        shown = str(caught.value) + str(caught.value.body)
        if isinstance(caught.value, sdk.APIStatusError):
            shown += str(caught.value.response.headers) + ("" if stream and status == 200 else caught.value.response.text)
        assert CANARY not in shown
        await it.audited(1)
        assert CANARY not in (it.state / "audit.jsonl").read_text()


@SPEAKERS
@STREAMED
async def test_a_defect_of_ours_shows_the_exchange_and_nothing_else(tmp_path, sdk, ask, model, stream, monkeypatch, capfd):
    def crash(*_: object) -> None:
        raise RuntimeError(f"boom {CANARY}")

    monkeypatch.setattr(broker_routing, "choose", crash)
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        with pytest.raises(sdk.InternalServerError) as caught:
            await ask(it, model, stream=stream)
        assert caught.value.status_code == 500
        assert headers_of(caught.value)["x-aiaccess-exchange"] in caught.value.response.text
        assert "boom" not in caught.value.response.text
        assert CANARY not in caught.value.response.text
    assert CANARY not in capfd.readouterr().err


@STREAMED
async def test_a_quota_store_that_is_away_refuses(tmp_path, stream, monkeypatch):
    from broker.errors import Unavailable
    from broker.ledger.sqlite import SqliteLedger

    async def away(*_: object) -> None:
        raise Unavailable("the quota store does not answer", retry_after_s=1)

    monkeypatch.setattr(SqliteLedger, "hold", away)
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        with pytest.raises(openai.InternalServerError) as caught:
            await ask_chat(it, "gpt", stream=stream)
        assert (caught.value.status_code, headers_of(caught.value)["retry-after"]) == (503, "1")
        assert "unavailable" in caught.value.response.text
        assert provider.seen == []


async def test_a_path_or_method_that_nobody_serves_is_refused_in_words(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        http = it.http(AGENT)
        wrong_path = await http.post("/v1/assistants", json={})
        assert (wrong_path.status_code, wrong_path.json()["error"]["code"]) == (404, "unknown_route")
        wrong_method = await http.get("/v1/chat/completions")
        assert (wrong_method.status_code, wrong_method.json()["error"]["code"]) == (405, "method_not_allowed")
        assert [line["code"] for line in await it.audited(2)] == ["unknown_route", "method_not_allowed"]


BAD_BODIES = {
    "no JSON": b"{",
    "an array": b"[]",
    "no model": b'{"messages":[]}',
    "duplicate keys": b'{"model":"gpt","model":"ungranted","messages":[]}',
    "duplicate keys, one escaped": b'{"model":"gpt","\\u006dodel":"ungranted","messages":[]}',
    "NaN": b'{"model":"gpt","messages":[],"temperature":NaN}',
    "a lone surrogate": b'{"model":"gpt","messages":[{"role":"user","content":"\\ud800"}]}',
    "bytes that are no UTF-8": b'{"model":"gpt","messages":[{"role":"user","content":"\xff"}]}',
    "a nesting bomb": b'{"model":"gpt","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a limit of another kind": b'{"model":"gpt","messages":[],"max_tokens":"5"}',
}


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_body_that_two_parsers_could_read_differently_never_leaves(tmp_path, case):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        got = await it.http(AGENT).post("/v1/chat/completions", content=BAD_BODIES[case], headers={"content-type": "application/json"})
        assert (got.status_code, got.json()["error"]["code"]) == (400, "bad_request")
        assert provider.seen == []


async def test_a_body_above_the_limit_is_refused_before_it_is_read(tmp_path):
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access(), max_body=2000) as it:
        got = await it.http(AGENT).post("/v1/chat/completions", content=b"x" * 3000, headers={"content-type": "application/json"})
        assert (got.status_code, got.json()["error"]["code"]) == (413, "too_large")
        assert provider.seen == []


async def test_forged_identity_and_a_callers_own_credentials_stay_behind(tmp_path):
    forged = {
        "x-forwarded-client-cert": "URI=spiffe://example.org/ns/team1/sa/other",
        "forwarded": "for=10.0.0.1",
        "x-forwarded-for": "10.0.0.1",
        "x-aiaccess-exchange": "forged",
        "x-api-key": "sk-the-callers-own",
        "openai-organization": "org-theirs",
        "cookie": "a=b",
    }
    async with FakeProvider(script=honest) as provider, stack(tmp_path, routing(provider.port) + access()) as it:
        body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}
        got = await it.http(AGENT).post("/v1/chat/completions?key=sk-in-the-query", json=body, headers=forged)
        assert got.status_code == 200
        (seen,) = provider.seen
        names = [name.lower() for name, _ in seen.headers]
        assert not {name.encode() for name in forged} & set(names)
        assert seen.header(b"authorization") == b"Bearer " + CANARY.encode()
        assert seen.target == "/v1/chat/completions"
        assert (await it.audited(1))[0]["spiffe_id"] == AGENT
        assert got.headers["x-aiaccess-exchange"] != "forged"


@SPEAKERS
async def test_a_caller_that_leaves_ends_the_providers_work_and_pays_the_hold(tmp_path, sdk, ask, model):
    gate = asyncio.Event()
    async with (
        FakeProvider(script=lambda seen: (gate, *honest(seen))) as provider,
        stack(tmp_path, routing(provider.port) + access()) as it,
    ):
        asking = asyncio.create_task(ask(it, model))
        await provider.requests(1)
        asking.cancel()
        await asyncio.wait((asking,))
        async with asyncio.timeout(5):
            await provider.left.wait()
        (line,) = await it.audited(1)
        assert (line["code"], line["estimated"], line["output_tokens"]) == ("caller_left", True, 50)


@SPEAKERS
async def test_a_policy_that_is_withdrawn_ends_the_stream_that_it_allowed(tmp_path, sdk, ask, model):
    gate = asyncio.Event()

    def script(seen):
        head, first, *rest = honest(seen)
        return (head, first, gate, *rest)

    async with (
        FakeProvider(script=script) as provider,
        stack(tmp_path, routing(provider.port) + access()) as it,
        asyncio.TaskGroup() as group,
    ):
        asking = group.create_task(expect(sdk.APIError, ask(it, model, stream=True)))
        await provider.requests(1)
        it.write(routing(provider.port))
        error = await asking
        assert "forbidden" in str(error.body) + str(error) or "changed while it ran" in str(error)
        async with asyncio.timeout(5):
            await provider.left.wait()
        (line,) = await it.audited(1)
        assert (line["code"], line["estimated"]) == ("forbidden", True)


async def expect(kind: type[Exception], asking) -> Exception:
    with pytest.raises(kind) as caught:
        await asking
    return caught.value
