import asyncio
import contextlib

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from support.fake_workload_api import FakeWorkloadApi, message
from support.ports import closed_port
from support.spiffe_ca import SpiffeCa, update

from broker import workload_api
from broker.grpc import frame
from broker.trust import Trust
from broker.workload_api import Endpoint, Pace, WorkloadApiError, parse_endpoint, watch

QUICK = Pace(connect_s=5, first_answer_s=5, ping_every_s=60, ping_answer_s=5, pause_min_s=0.01, pause_max_s=0.02)
WORKLOAD = "spiffe://a.test/w"


@pytest.fixture(scope="module")
def ca():
    return SpiffeCa("a.test")


class Watch:
    """A watch in the background, and what it said, in order."""

    def __init__(self, endpoint, pace=QUICK, on_update=None):
        self.said = asyncio.Queue()
        self._on_update = on_update
        self._task = asyncio.get_running_loop().create_task(watch(endpoint, self._update, self.said.put_nowait, pace))

    def _update(self, new):
        if self._on_update is not None:
            self._on_update(new)
        self.said.put_nowait(new)

    async def next(self):
        getter = asyncio.get_running_loop().create_task(self.said.get())
        await asyncio.wait({getter, self._task}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        if getter.done():
            return getter.result()
        getter.cancel()
        return self._task.result()  # raises what ended the watch

    async def next_update(self):
        """Passing over what was reported in between."""
        while isinstance(got := await self.next(), str):
            pass
        return got

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, WorkloadApiError):
            await self._task


# against grpcio


async def test_an_update_arrives_as_the_agent_sent_it_and_each_next_one_too(ca):
    async with FakeWorkloadApi() as agent, Watch(agent.endpoint) as seen:
        for _ in range(3):
            wanted = update(ca.issue(WORKLOAD), ca, federated={"b.test": [SpiffeCa("b.test")]})
            await agent.push(wanted)
            assert await seen.next() == wanted
        assert agent.calls == 1
        assert agent.metadata[0]["workload.spiffe.io"] == "true"


async def test_a_large_update_arrives_and_many_do_not_use_up_the_window(ca):
    """120 KB each: more than the 64 KB that HTTP/2 lets flow without an acknowledgement."""
    big = {f"d{n}.test": [ca] * 8 for n in range(25)}
    async with FakeWorkloadApi() as agent, Watch(agent.endpoint) as seen:
        for _ in range(5):
            wanted = update(ca.issue(WORKLOAD), ca, federated=big)
            await agent.push(wanted)
            assert await seen.next() == wanted


async def test_an_agent_that_comes_later_is_found(ca):
    agent = FakeWorkloadApi()
    async with Watch(agent.endpoint) as seen:
        assert "UNAVAILABLE" in await seen.next()
        async with agent:
            wanted = update(ca.issue(WORKLOAD), ca)
            await agent.push(wanted)
            assert await seen.next_update() == wanted


async def test_an_agent_that_restarts_is_found_again_and_takes_nothing_away(ca):
    agent = FakeWorkloadApi()
    async with Watch(agent.endpoint) as seen, agent:
        await agent.push(update(ca.issue(WORKLOAD), ca))
        await seen.next_update()
        await agent.stop()
        assert isinstance(await seen.next(), str)
        wanted = update(ca.issue(WORKLOAD), ca)
        await agent.push(wanted)
        await agent.start()
        assert await seen.next_update() == wanted


async def test_a_stream_that_ends_in_order_is_opened_again(ca):
    async with FakeWorkloadApi() as agent, Watch(agent.endpoint) as seen:
        await agent.push(update(ca.issue(WORKLOAD), ca))
        await seen.next()
        await agent.end()
        assert (await seen.next()).startswith("OK")
        await agent.called(2)
        wanted = update(ca.issue(WORKLOAD), ca)
        await agent.push(wanted)
        assert await seen.next_update() == wanted


async def test_permission_denied_withdraws_the_identity_and_a_later_entry_gives_it_back(ca):
    async with FakeWorkloadApi() as agent, Watch(agent.endpoint) as seen:
        await agent.push(update(ca.issue(WORKLOAD), ca))
        await seen.next()
        await agent.refuse(grpc.StatusCode.PERMISSION_DENIED)
        assert await seen.next() == "PERMISSION_DENIED: no identity issued"
        assert await seen.next() is None
        wanted = update(ca.issue(WORKLOAD), ca)
        await agent.push(wanted)
        while (got := await seen.next_update()) is None:
            pass
        assert got == wanted


async def test_another_refusal_takes_nothing_away(ca):
    async with FakeWorkloadApi() as agent, Watch(agent.endpoint) as seen:
        await agent.push(update(ca.issue(WORKLOAD), ca))
        await seen.next()
        await agent.refuse(grpc.StatusCode.UNAVAILABLE)
        await agent.called(3)
        wanted = update(ca.issue(WORKLOAD), ca)
        await agent.push(wanted)
        assert await seen.next_update() == wanted


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED])
async def test_what_says_that_we_ask_wrongly_ends_the_watch(code):
    async with FakeWorkloadApi() as agent, Watch(agent.endpoint) as seen:
        await agent.refuse(code)
        with pytest.raises(WorkloadApiError, match=code.name) as ended:
            await seen.next()
        assert ended.value.fatal


async def test_a_bad_message_is_reported_and_the_stream_goes_on(ca):
    good = update(ca.issue(WORKLOAD), ca)
    bad = message(good)
    bad.svids[0].ClearField("bundle")
    async with FakeWorkloadApi() as agent, Watch(agent.endpoint) as seen:
        await agent.push_raw(bad)
        assert await seen.next() == "update discarded: mandatory fields are empty: bundle"
        await agent.push(good)
        assert await seen.next() == good
        assert agent.calls == 1


async def test_an_update_that_trust_refuses_keeps_the_last_good_one(ca):
    trust = Trust()
    bad = message(update(ca.issue(WORKLOAD), ca))
    bad.svids[0].x509_svid_key = ca.issue(WORKLOAD).key_der
    async with FakeWorkloadApi() as agent, Watch(agent.endpoint, on_update=trust.apply) as seen:
        await agent.push(update(ca.issue(WORKLOAD), ca))
        await seen.next()
        before = trust.generation
        await agent.push_raw(bad)
        assert "update discarded: the private key does not belong" in await seen.next()
        assert trust.generation == before
        await agent.push(update(ca.issue(WORKLOAD), ca))
        await seen.next()
        assert trust.generation == before + 1


async def test_a_tcp_endpoint_works_too(ca):
    agent = FakeWorkloadApi()
    async with agent:
        server = await asyncio.start_server(lambda r, w: _pipe(r, w, agent.path), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Watch(f"tcp://127.0.0.1:{port}") as seen:
            wanted = update(ca.issue(WORKLOAD), ca)
            await agent.push(wanted)
            assert await seen.next() == wanted
        server.close()
        await server.wait_closed()


async def _pipe(reader, writer, path):
    up_reader, up_writer = await asyncio.open_unix_connection(path)

    async def copy(source, sink):
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))


# against an agent that does what it should not


class RawAgent:
    """An HTTP/2 server whose one handler gets the connection when the call has come. `handle(http, send)`; then it keeps reading."""

    def __init__(self, tmp_path, handle):
        self.endpoint = f"unix://{tmp_path}/a.sock"
        self._path = f"{tmp_path}/a.sock"
        self._handle = handle
        self.events = []
        self.pinged = asyncio.Event()
        self.calls = 0
        self._serving = []

    async def _serve(self, reader, writer):
        self._serving.append(asyncio.current_task())
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()

        async def send():
            writer.write(http.data_to_send())
            await writer.drain()

        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for event in http.receive_data(data):
                    self.events.append(event)
                    if isinstance(event, h2.events.StreamEnded):
                        self.calls += 1
                        await self._handle(http, send)
                    if isinstance(event, h2.events.PingReceived):
                        self.pinged.set()
                await send()
        writer.close()

    async def __aenter__(self):
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await asyncio.gather(*self._serving)
        await self._server.wait_closed()


OK_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


def answering(*steps):
    async def handle(http, send):
        for step in steps:
            step(http)
            await send()

    return handle


def headers(*more, status="200", end=False):
    return lambda http: http.send_headers(1, [(":status", status), *more], end_stream=end)


def data(raw):
    return lambda http: http.send_data(1, raw)


@pytest.mark.parametrize(
    ("steps", "report"),
    [
        ([headers(end=True)], "UNAVAILABLE: StreamEnded without a status"),
        ([headers(status="503", end=True)], "UNAVAILABLE: HTTP status 503"),
        ([headers(("grpc-status", "8"), ("grpc-message", "quota%20gone%0d%0aX: y"), end=True)], "RESOURCE_EXHAUSTED: quota gone??X: y"),
        ([headers(("grpc-status", "x"), end=True)], "UNKNOWN: the stream ended"),
        ([headers(("grpc-status", "99999999999999999999"), end=True)], "UNKNOWN: the stream ended"),
        ([headers(), lambda http: http.send_headers(1, [("grpc-status", "14")], end_stream=True)], "UNAVAILABLE: the stream ended"),
        ([headers(), lambda http: http.reset_stream(1)], "UNAVAILABLE: StreamReset without a status"),
        ([headers(), lambda http: http.close_connection(11, b"too_many_pings")], "UNAVAILABLE: GOAWAY 11 b'too_many_pings'"),
        ([headers(), data(b"\1\0\0\0\0")], "UNAVAILABLE: compressed message"),
        ([headers(), data(b"\0\xff\xff\xff\xff")], "UNAVAILABLE: message of 4294967295 bytes"),
    ],
)
async def test_a_stream_that_breaks_is_reported_and_asked_for_again(tmp_path, steps, report):
    async with RawAgent(tmp_path, answering(*steps)) as agent, Watch(agent.endpoint) as seen:
        assert await seen.next() == report
        assert await seen.next() == report
        assert agent.calls >= 2


async def test_a_server_that_knows_no_workload_api_ends_the_watch(tmp_path):
    async with RawAgent(tmp_path, answering(headers(status="404", end=True))) as agent, Watch(agent.endpoint) as seen:
        with pytest.raises(WorkloadApiError, match="HTTP status 404"):
            await seen.next()


@pytest.mark.parametrize(
    ("said", "report"),
    [
        (b"\0\0\5\4\0\0\0\0\0abcde", "UNAVAILABLE: HTTP/2: "),  # SETTINGS come in sixes
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "UNAVAILABLE: "),
        (b"", "UNAVAILABLE: "),
    ],
)
async def test_what_is_no_http2_is_reported(tmp_path, said, report):
    async def chatter(reader, writer):
        await reader.read(1)
        writer.write(said)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_unix_server(chatter, f"{tmp_path}/a.sock")
    async with Watch(f"unix://{tmp_path}/a.sock") as seen:
        assert (await seen.next()).startswith(report)
    server.close()
    await server.wait_closed()


async def test_an_agent_that_never_answers_is_given_up(tmp_path):
    async with RawAgent(tmp_path, answering()) as agent, Watch(agent.endpoint, Pace(first_answer_s=0.05)) as seen:
        assert await seen.next() == "UNAVAILABLE: the agent is silent"


async def test_an_agent_that_drips_bytes_but_no_message_is_given_up(tmp_path):
    async def drip(http, send):
        http.send_headers(1, OK_HEADERS)
        with contextlib.suppress(ConnectionError):
            while True:
                http.ping(b"12345678")
                await send()
                await asyncio.sleep(0.01)

    async with RawAgent(tmp_path, drip) as agent, Watch(agent.endpoint, Pace(first_answer_s=0.1)) as seen:
        assert await seen.next() == "UNAVAILABLE: the agent is silent"


async def test_a_quiet_agent_is_pinged_and_kept_while_it_answers(tmp_path, ca):
    wanted = update(ca.issue(WORKLOAD), ca)
    steps = answering(headers(), data(frame(message(wanted).SerializeToString())))
    async with RawAgent(tmp_path, steps) as agent, Watch(agent.endpoint, Pace(ping_every_s=0.02, ping_answer_s=5)) as seen:
        assert await seen.next() == wanted
        for _ in range(3):
            await agent.pinged.wait()
            agent.pinged.clear()
        assert agent.calls == 1
        assert seen.said.empty()


async def test_an_agent_that_does_not_answer_a_ping_is_left(tmp_path, ca):
    raw = frame(message(update(ca.issue(WORKLOAD), ca)).SerializeToString())

    async def then_hang(http, send):
        http.send_headers(1, OK_HEADERS)
        http.send_data(1, raw)
        await send()
        await hung.wait()

    hung = asyncio.Event()
    async with RawAgent(tmp_path, then_hang) as agent, Watch(agent.endpoint, Pace(ping_every_s=0.02, ping_answer_s=0.05)) as seen:
        await seen.next()
        assert await seen.next() == "UNAVAILABLE: the agent is silent"
        hung.set()


async def test_two_messages_in_one_piece_and_one_message_in_many_are_all_read(tmp_path, ca):
    first, second = update(ca.issue(WORKLOAD), ca), update(ca.issue(WORKLOAD), ca)
    raw = b"".join(frame(message(one).SerializeToString()) for one in (first, second, first))
    steps = answering(headers(), *(data(raw[at : at + 700]) for at in range(0, len(raw), 700)))
    async with RawAgent(tmp_path, steps) as agent, Watch(agent.endpoint) as seen:
        assert [await seen.next() for _ in range(3)] == [first, second, first]


def test_pauses_grow_to_their_bound_and_start_anew_after_a_steady_stream(monkeypatch):
    """Time is made here: nothing is waited for, and no loop runs."""
    now, slept, lives = [0.0], [], [0, 0, 0, 0, 0, 0, 0, 0, 60, 0]

    class Loop:
        def time(self):
            return now[0]

    async def run(self, place):
        if not lives:
            raise EOFError
        now[0] += lives.pop(0)
        raise WorkloadApiError(14, "gone")

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(workload_api._Call, "run", run)
    monkeypatch.setattr(asyncio, "get_running_loop", Loop)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(workload_api.random, "uniform", lambda low, high: high)
    with pytest.raises(EOFError):
        watch("unix:///nowhere", lambda _: None, lambda _: None).send(None)
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.1, 0.2]


# endpoints


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("unix:///run/spire/agent.sock", Endpoint(path="/run/spire/agent.sock")),
        ("unix:///a b", Endpoint(path="/a b")),
        ("tcp://127.0.0.1:8000", Endpoint(host="127.0.0.1", port=8000)),
        ("tcp://[::1]:8000", Endpoint(host="::1", port=8000)),
    ],
)
def test_an_endpoint_is_read(text, place):
    assert parse_endpoint(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "", "/run/agent.sock", "unix:", "unix://", "unix:///", "unix:/run/a.sock", "unix:run/a.sock", "unix://host/run/a.sock", "UNIX:///a",
        "unix:///a?x=1", "unix:///a#f", "unix:///a%20b", "unix:///a\nb", "unix:///a\0b", "unix:///" + "a" * 107,
        "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://:8000", "tcp://localhost:8000", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:8000/", "tcp://127.0.0.1:8000?x", "tcp://u@127.0.0.1:8000", "tcp://::1:8000", "tcp://[127.0.0.1]:8000",
        "tcp://127.0.0.1:+80", "tcp://127.0.0.1:\u0661", "http://127.0.0.1:80", "tcp://127.0.0.1:8000\n", "tcp://127.1:80",
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(text):
    with pytest.raises(ValueError, match=r"endpoint|Unix socket"):
        parse_endpoint(text)


async def test_a_watch_on_what_is_no_endpoint_does_not_begin():
    with pytest.raises(ValueError, match="endpoint"):
        await watch("/run/agent.sock", print, print)


async def test_a_path_that_is_no_socket_is_reported_with_its_name(tmp_path):
    path = tmp_path / "plain"
    path.write_text("")
    async with Watch(f"unix://{path}") as seen:
        assert await seen.next() == f"UNAVAILABLE: {path}: Connection refused"


async def test_a_port_where_nobody_listens_is_reported():
    with closed_port() as port:
        async with Watch(f"tcp://127.0.0.1:{port}") as seen:
            assert f"127.0.0.1:{port}" in await seen.next()
