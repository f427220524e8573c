"""The local gateway as a process, and everything that may go wrong behind it: unmodified SDKs hear what to do, and recover by themselves."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anthropic
import grpc
import openai
import pytest
from spiffe._proto import workload_pb2
from support.fake_workload_api import FakeWorkloadApi
from support.ports import free_port
from support.processes import Process, Processes
from support.raw_http import PATIENT, refuse, until
from support.spiffe_ca import SpiffeCa, trusting, update

from broker.http1 import rules
from broker.http1.server import Reply, Request, Server
from broker.names import PLACEHOLDER_KEY

BROKER, AGENT = "spiffe://example.org/ns/inference-broker/sa/broker", "spiffe://example.org/ns/team1/sa/agent"
ASK = [{"role": "user", "content": "hello"}]
CHAT = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]}  # fmt: skip
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}  # fmt: skip
RECOVERY_S = 20.0


async def answer(request: Request, reply: Reply) -> None:
    reply.whole(
        200, [(b"content-type", b"application/json")], json.dumps(CHAT if request.path.endswith("completions") else MESSAGE).encode()
    )


async def hang(request: Request, reply: Reply) -> None:
    await asyncio.Event().wait()


class StandIn:
    """What the network sees of a broker, at a port that stays the same when it goes and comes back."""

    def __init__(self, ca: SpiffeCa) -> None:
        self.port = free_port()
        self.requests = 0
        self._ca = ca
        self._server: Server | None = None

    async def start(self, *, handler=answer, spiffe_id: str = BROKER, authority: SpiffeCa | None = None) -> None:
        async def handle(request: Request, reply: Reply) -> None:
            self.requests += 1
            await handler(request, reply)

        trust = trusting((authority or self._ca).issue(spiffe_id), self._ca)
        self._server = Server(handle, PATIENT, judge=rules.judge_remote, refuse=refuse)
        await self._server.listen("127.0.0.1", self.port, trust.server_context())

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.drain(0)

    async def replace(self, **options: object) -> None:
        await self.stop()
        await self.start(**options)


@dataclass
class Alone:
    ca: SpiffeCa
    workload: FakeWorkloadApi
    children: Processes
    brokers: list[StandIn]
    port: int = field(default_factory=free_port)
    clients: list[openai.AsyncOpenAI | anthropic.AsyncAnthropic] = field(default_factory=list)

    async def start_gateway(self) -> Process:
        return await self.children.start_gateway(
            self.workload.endpoint, [broker.port for broker in self.brokers], "--log-format", "json", port=self.port, broker_id=BROKER
        )

    async def identify(self) -> None:
        await self.workload.push(update(self.ca.issue(AGENT), self.ca))

    def openai(self, *, retries: int = 0, timeout_s: float = 30) -> openai.AsyncOpenAI:
        client = openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key=PLACEHOLDER_KEY, max_retries=retries, timeout=timeout_s
        )
        self.clients.append(client)
        return client

    def anthropic(self, *, retries: int = 0) -> anthropic.AsyncAnthropic:
        client = anthropic.AsyncAnthropic(
            base_url=f"http://127.0.0.1:{self.port}", api_key=PLACEHOLDER_KEY, max_retries=retries, timeout=30
        )
        self.clients.append(client)
        return client


@asynccontextmanager
async def alone(tmp_path: Path, *, brokers: int = 1, agent: bool = True) -> AsyncIterator[Alone]:
    """Nothing runs yet but the SPIFFE agent, and that only where `agent` says so."""
    ca = SpiffeCa("example.org")
    it = Alone(ca, FakeWorkloadApi(tmp_path), Processes(tmp_path), [StandIn(ca) for _ in range(brokers)])
    async with AsyncExitStack() as closing:
        if agent:
            await it.workload.start()
        closing.push_async_callback(it.workload.stop)
        for broker in it.brokers:
            closing.push_async_callback(broker.stop)
        closing.push_async_callback(it.children.stop)
        yield it
        for client in it.clients:
            await client.close()


async def ask(client: openai.AsyncOpenAI | anthropic.AsyncAnthropic) -> str:
    if isinstance(client, openai.AsyncOpenAI):
        got = await client.chat.completions.create(model="m", messages=ASK)
        return got.choices[0].message.content
    said = await client.messages.create(model="m", max_tokens=9, messages=ASK)
    return said.content[0].text


async def refused(client: openai.AsyncOpenAI | anthropic.AsyncAnthropic, code: str) -> str:
    """What the SDK's own error says, after a look at what else a refusal must have."""
    with pytest.raises((openai.InternalServerError, anthropic.APIStatusError)) as caught:
        await ask(client)
    error = caught.value
    assert error.status_code == 503
    assert error.response.headers["retry-after"] == "1"
    assert error.response.headers["x-should-retry"] == "true"
    assert error.response.headers["x-aiaccess-source"] == "gateway"
    body = error.response.json()
    if isinstance(client, openai.AsyncOpenAI):
        assert error.code == code
    else:
        assert body["type"] == "error"
        assert (body["error"]["type"], body["error"]["code"]) == ("overloaded_error", code)
    return body["error"]["message"]


async def recovers(*clients: openai.AsyncOpenAI | anthropic.AsyncAnthropic) -> None:
    """The same client objects get answers again, without anything having been restarted."""
    for client in clients:
        async with asyncio.timeout(RECOVERY_S):
            while True:
                with contextlib.suppress(openai.InternalServerError, anthropic.APIStatusError):
                    assert await ask(client) == "hi"
                    break
                await asyncio.sleep(0.05)


async def test_without_a_broker_the_agent_is_told_where_it_should_be(tmp_path):
    async with alone(tmp_path) as it:
        await it.identify()
        await it.start_gateway()
        chat, messages = it.openai(), it.anthropic()
        await recovers_from_no_svid(chat)
        for client in (chat, messages):
            said = await refused(client, "broker_unavailable")
            assert f"127.0.0.1:{it.brokers[0].port}" in said
            assert "Check that it runs and that a network policy lets this pod reach it." in said
        await it.brokers[0].start()
        assert [await ask(client) for client in (chat, messages)] == ["hi", "hi"]


async def recovers_from_no_svid(client: openai.AsyncOpenAI) -> None:
    """The Workload API's first answer is a matter of milliseconds, but nobody announces it."""
    async with asyncio.timeout(RECOVERY_S):
        while True:
            try:
                await ask(client)
            except openai.InternalServerError as error:
                if error.code != "no_svid":
                    return
            else:
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"spiffe_id": "spiffe://example.org/ns/evil/sa/broker"}, "spiffe://example.org/ns/evil/sa/broker"),
        ({"authority": SpiffeCa("example.org")}, "check --broker-spiffe-id and the trust bundles"),
        (
            {"authority": SpiffeCa("elsewhere.test"), "spiffe_id": "spiffe://elsewhere.test/broker"},
            "check --broker-spiffe-id and the trust bundles",
        ),
    ],
    ids=["another SPIFFE ID", "another authority of the same name", "another trust domain"],
)
async def test_what_only_pretends_to_be_the_broker_gets_no_request(tmp_path, options, says):
    async with alone(tmp_path) as it:
        (broker,) = it.brokers
        await broker.start(**options)
        await it.identify()
        await it.start_gateway()
        chat, messages = it.openai(), it.anthropic()
        await recovers_from_no_svid(chat)
        for client in (chat, messages):
            said = await refused(client, "broker_unavailable")
            assert says in said
            assert BROKER in said
        assert broker.requests == 0
        await broker.replace()
        await recovers(chat, messages)


async def test_before_its_svid_is_issued_the_agent_is_told_so(tmp_path):
    async with alone(tmp_path) as it:
        await it.workload.refuse(grpc.StatusCode.PERMISSION_DENIED)
        await it.brokers[0].start()
        gateway = await it.start_gateway()
        await it.workload.called(1)
        await until(lambda: "PERMISSION_DENIED" in gateway.output())
        chat, messages = it.openai(), it.anthropic()
        for client in (chat, messages):
            said = await refused(client, "no_svid")
            assert "PERMISSION_DENIED" in said
            assert "check the SPIFFE agent and this workload's entry" in said
        await it.identify()
        await recovers(chat, messages)
        starts = [line for line in map(json.loads, gateway.output().splitlines()) if line["event"] == "listening"]
        assert [(line["identity"], line["agents"]) for line in starts] == [("(no SVID yet)", f"http://127.0.0.1:{it.port}")]
        first = [line for line in map(json.loads, gateway.output().splitlines()) if line["event"] == "trust_updated"]
        assert [line["spiffe_id"] for line in first] == [AGENT]


async def test_a_revoked_svid_stops_the_next_request_and_a_new_one_starts_it_again(tmp_path):
    async with alone(tmp_path) as it:
        await it.brokers[0].start()
        await it.identify()
        await it.start_gateway()
        chat, messages = it.openai(), it.anthropic()
        await recovers(chat, messages)
        answered = it.brokers[0].requests
        await it.workload.refuse(grpc.StatusCode.PERMISSION_DENIED)
        await it.workload.called(2)  # it heard of it, and has asked again
        for client in (chat, messages):
            assert "our SVID was withdrawn" in await refused(client, "no_svid")
        assert it.brokers[0].requests == answered
        await it.identify()
        await recovers(chat, messages)


async def test_an_empty_answer_of_the_workload_api_is_reported_and_changes_nothing(tmp_path):
    """Source: Workload API §4.5. A withdrawal is PERMISSION_DENIED (§5.2.1)."""
    async with alone(tmp_path) as it:
        await it.brokers[0].start()
        await it.identify()
        gateway = await it.start_gateway()
        chat = it.openai()
        await recovers(chat)
        await it.workload.push_raw(workload_pb2.X509SVIDResponse())
        await until(lambda: "update discarded: 0 SVIDs" in gateway.output())
        assert await ask(chat) == "hi"


async def test_an_svid_that_ran_out_stops_requests_until_it_is_renewed(tmp_path):
    async with alone(tmp_path) as it:
        await it.brokers[0].start()
        await it.workload.push(update(it.ca.issue(AGENT, ttl_s=-1), it.ca))
        await it.start_gateway()
        chat = it.openai()
        async with asyncio.timeout(RECOVERY_S):
            while "our SVID has expired" not in (said := await refused(chat, "no_svid")):
                await asyncio.sleep(0.01)
        assert "check the SPIFFE agent" in said
        await it.identify()
        await recovers(chat)


async def test_a_spiffe_agent_that_comes_later_is_found(tmp_path):
    async with alone(tmp_path, agent=False) as it:
        await it.brokers[0].start()
        await it.start_gateway()
        chat, messages = it.openai(), it.anthropic()
        for client in (chat, messages):
            assert "check the SPIFFE agent" in await refused(client, "no_svid")
        await it.workload.start()
        await it.identify()
        await recovers(chat, messages)


async def test_an_agent_that_starts_before_its_gateway_and_a_gateway_before_its_broker_need_no_more_than_the_sdks_retries(tmp_path):
    async with alone(tmp_path) as it:
        await it.identify()
        chat, messages = it.openai(retries=6), it.anthropic(retries=6)
        asking = [asyncio.create_task(ask(client)) for client in (chat, messages)]
        await it.start_gateway()
        await it.brokers[0].start()
        async with asyncio.timeout(RECOVERY_S * 2):
            assert await asyncio.gather(*asking) == ["hi", "hi"]


@asynccontextmanager
async def silent_listener(port: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Takes TCP connections, and never says a word."""
    met: list[asyncio.StreamWriter] = []

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(writer)

    listener = await asyncio.start_server(accept, "127.0.0.1", port)
    try:
        yield met
    finally:
        listener.close()
        for writer in met:
            writer.transport.abort()
        await listener.wait_closed()


async def one_after_another_on_new_connections(it: Alone, client: openai.AsyncOpenAI, count: int) -> None:
    """Each request needs a connection of its own to a broker: a new SVID retires those that are kept."""
    for _ in range(count):
        await it.identify()
        assert await ask(client) == "hi"


async def test_of_two_brokers_one_that_answers_no_handshake_costs_time_once(tmp_path):
    async with alone(tmp_path, brokers=2) as it:
        dead, alive = it.brokers
        await alive.start()
        async with silent_listener(dead.port) as met:
            await it.identify()
            await it.start_gateway()
            chat = it.openai()
            await recovers(chat)
            await one_after_another_on_new_connections(it, chat, 5)
            assert len(met) == 1
        await dead.start()
        await alive.stop()
        await recovers(chat)  # it rests, but it is asked where there is nobody else


async def test_of_two_brokers_one_that_answers_no_request_costs_one_timeout_of_the_sdk(tmp_path):
    async with alone(tmp_path, brokers=2) as it:
        hung, alive = it.brokers
        await hung.start(handler=hang)
        await alive.start()
        await it.identify()
        await it.start_gateway()
        chat = it.openai(retries=2, timeout_s=5.5)
        await recovers(chat)
        async with asyncio.timeout(60):
            while not hung.requests:
                await one_after_another_on_new_connections(it, chat, 1)
        await one_after_another_on_new_connections(it, chat, 5)
        assert hung.requests == 1
        await hung.replace()
        await alive.stop()
        await recovers(chat)


async def test_of_two_brokers_one_that_is_down_is_not_noticed(tmp_path):
    async with alone(tmp_path, brokers=2) as it:
        first, second = it.brokers
        await first.start()
        await it.identify()
        await it.start_gateway()
        chat = it.openai()
        await recovers(chat)
        await one_after_another_on_new_connections(it, chat, 4)
        await second.start()
        await first.stop()
        await one_after_another_on_new_connections(it, chat, 4)
        assert second.requests >= 4


async def test_a_broker_that_restarts_between_two_requests_is_not_noticed(tmp_path):
    async with alone(tmp_path) as it:
        (broker,) = it.brokers
        await broker.start()
        await it.identify()
        await it.start_gateway()
        chat, messages = it.openai(), it.anthropic()
        await recovers(chat, messages)
        for _ in range(10):
            await broker.replace()
            assert [await ask(client) for client in (chat, messages)] == ["hi", "hi"]


async def test_a_gateway_that_is_stopped_lets_streams_end_and_tells_the_others(tmp_path):
    go = asyncio.Event()

    async def half(request: Request, reply: Reply) -> None:
        reply.begin(200, [(b"content-type", b"text/event-stream")])
        piece = {**CHAT, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
        reply.write(b"data: %b\n\n" % json.dumps(piece).encode())
        await reply.room()
        await (go if b"ends" in request.body else asyncio.Event()).wait()
        reply.write(b"data: [DONE]\n\n")
        reply.end()

    async with alone(tmp_path) as it:
        await it.brokers[0].start(handler=half)
        await it.identify()
        gateway = await it.children.start_gateway(
            it.workload.endpoint, [it.brokers[0].port], "--drain", "1s", port=it.port, broker_id=BROKER
        )
        chat = it.openai()
        await recovers_from_no_svid_streaming(chat)
        ends, stays = [
            await chat.chat.completions.create(model="m", messages=[{"role": "user", "content": word}], stream=True)
            for word in ("ends", "stays")
        ]
        for stream in (ends, stays):
            assert (await anext(aiter(stream))).choices[0].delta.content == "hi"
        gateway.child.terminate()
        await until(lambda: refuses(it.port))
        go.set()
        assert [piece async for piece in ends] == []
        with pytest.raises(openai.APIError) as caught:
            _ = [piece async for piece in stays]
        assert caught.value.code == "busy"
        async with asyncio.timeout(10):
            assert await gateway.child.wait() == 0


async def recovers_from_no_svid_streaming(client: openai.AsyncOpenAI) -> None:
    async with asyncio.timeout(RECOVERY_S):
        while True:
            with contextlib.suppress(openai.InternalServerError):
                stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
                await stream.close()
                return
            await asyncio.sleep(0.01)


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False
