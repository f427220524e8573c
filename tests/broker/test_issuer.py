import asyncio
import contextlib
import stat
import time

import grpc
import pytest
from spiffe import SpiffeId, TrustDomain, WorkloadApiClient
from spiffe._proto import workload_pb2, workload_pb2_grpc
from support.spiffe_ca import anybody, handshake

from broker.identity import InvalidSpiffeId
from broker.issuer import CONNECTIONS, Issuer
from broker.trust import Trust
from broker.workload_api import watch

BROKER, AGENT = "spiffe://a.test/ns/inference-broker/sa/broker", "spiffe://a.test/ns/team1/sa/agent"


@pytest.fixture
async def issuer(tmp_path):
    issuer = Issuer("a.test", tmp_path / "w")
    stop = asyncio.Event()
    task = asyncio.get_running_loop().create_task(issuer.run(stop))
    yield issuer
    stop.set()
    await task
    await issuer.close()


@contextlib.asynccontextmanager
async def watching(path, on_update):
    task = asyncio.get_running_loop().create_task(watch(f"unix://{path}", on_update, lambda _: None))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition):
    """Yield to the loop until it is so; pytest's timeout is the bound."""
    while not condition():
        await asyncio.sleep(0.005)


# judged by py-spiffe


async def test_py_spiffe_gets_its_identity_and_both_bundles(issuer):
    other = Issuer("b.test", issuer._directory / "b")
    issuer.federate("b.test", other.bundle)
    path = await issuer.serve(AGENT)

    def ask():
        with WorkloadApiClient(f"unix://{path}", default_timeout=20) as client:
            return client.fetch_x509_context(), client.fetch_x509_bundles(), client.fetch_x509_svid()

    context, bundles, svid = await asyncio.to_thread(ask)
    assert context.default_svid.spiffe_id == svid.spiffe_id == SpiffeId(AGENT)
    assert svid.cert_chain
    for found in (context.x509_bundle_set, bundles):
        own = found.get_bundle_for_trust_domain(TrustDomain("a.test"))
        federated = found.get_bundle_for_trust_domain(TrustDomain("b.test"))
        assert own is not None
        assert federated is not None
        assert len(own.x509_authorities) == len(federated.x509_authorities) == 1
        assert own.x509_authorities != federated.x509_authorities


async def test_py_spiffe_is_told_of_each_rotation_on_one_stream(issuer):
    path = await issuer.serve(AGENT)
    loop, seen = asyncio.get_running_loop(), asyncio.Queue()
    client = await asyncio.to_thread(WorkloadApiClient, f"unix://{path}")
    handler = client.stream_x509_contexts(
        lambda context: loop.call_soon_threadsafe(seen.put_nowait, context), lambda error: loop.call_soon_threadsafe(seen.put_nowait, error)
    )
    sizes = []
    for _ in range(2):
        context = await seen.get()
        sizes.append(len(context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain("a.test")).x509_authorities))
        issuer.rotate_ca()
    assert sizes == [1, 2]
    handler.cancel()
    await asyncio.to_thread(client.close)


async def calling(path, method, request, metadata=(("workload.spiffe.io", "true"),)):
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = getattr(workload_pb2_grpc.SpiffeWorkloadAPIStub(channel), method)(request, metadata=metadata, timeout=20)
        return await call if isinstance(call, grpc.aio.UnaryUnaryCall) else await call.read()


@pytest.mark.parametrize("metadata", [(), (("workload.spiffe.io", "True"),), (("workload.spiffe.io", ""),), (("x", "true"),)])
async def test_a_caller_without_the_security_header_learns_nothing(issuer, metadata):
    path = await issuer.serve(AGENT)
    for method, request in (("FetchX509SVID", workload_pb2.X509SVIDRequest()), ("FetchX509Bundles", workload_pb2.X509BundlesRequest())):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await calling(path, method, request, metadata)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.details() == "security header missing from request"


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("FetchJWTSVID", workload_pb2.JWTSVIDRequest(audience=["x"])),
        ("FetchJWTBundles", workload_pb2.JWTBundlesRequest()),
        ("ValidateJWTSVID", workload_pb2.ValidateJWTSVIDRequest(audience="x", svid="y")),
    ],
)
async def test_what_is_not_served_says_so(issuer, method, request_):
    path = await issuer.serve(AGENT)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await calling(path, method, request_)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_many_streams_of_one_connection_all_get_each_message(issuer):
    path = await issuer.serve(AGENT)
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
        metadata = (("workload.spiffe.io", "true"),)
        calls = [stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=metadata, timeout=20) for _ in range(8)]
        calls += [stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), metadata=metadata, timeout=20) for _ in range(4)]
        before = [await call.read() for call in calls]
        issuer.rotate_ca()
        after = [await call.read() for call in calls]
        assert len({message.SerializeToString() for message in before[:8]}) == 1
        assert all(len(new.svids[0].bundle) > len(old.svids[0].bundle) for old, new in zip(before[:8], after[:8], strict=True))
        for call in calls:
            call.cancel()


async def test_a_message_larger_than_the_window_arrives_whole(issuer):
    """The client's window is 64 KB until it says more; the rest of a message waits for that."""
    for number in range(60):
        issuer.federate(f"d{number}.test", issuer.bundle * 10)
    path = await issuer.serve(AGENT)
    updates = asyncio.Queue()
    async with watching(path, updates.put_nowait):
        for _ in range(3):
            update = await updates.get()
            assert len(update.federated) == 60
            assert sum(len(der) for bundle in update.federated.values() for der in bundle) > 200_000
            issuer.rotate_ca()
            issuer.federate("d0.test", issuer.bundle * 10)


# judged by our own client


async def test_two_workloads_of_one_issuer_can_talk(issuer):
    broker, agent = Trust(), Trust()
    async with watching(await issuer.serve(BROKER), broker.apply), watching(await issuer.serve(AGENT), agent.apply):
        await until(lambda: broker.own_id and agent.own_id)
        ours, theirs = handshake(agent.client_context(anybody), broker.server_context())
        assert broker.judge(theirs, time.time()).spiffe_id == AGENT
        assert agent.judge(ours, time.time()).spiffe_id == BROKER


async def test_it_renews_by_itself_at_half_an_svids_life(tmp_path):
    issuer = Issuer("a.test", tmp_path / "w", svid_ttl_s=2)
    stop, updates = asyncio.Event(), asyncio.Queue()
    run = asyncio.get_running_loop().create_task(issuer.run(stop))
    async with watching(await issuer.serve(AGENT), updates.put_nowait):
        first, second = await updates.get(), await updates.get()
    assert first.svids[0].chain != second.svids[0].chain
    stop.set()
    await run
    await issuer.close()


# the sockets


async def test_a_socket_is_ours_alone_short_and_gone_at_the_end(tmp_path):
    issuer = Issuer("a.test", tmp_path / "w")
    path = await issuer.serve(AGENT)
    assert await issuer.serve(AGENT) == path
    assert await issuer.serve(BROKER) != path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(path.name) == 21
    await issuer.close()
    assert list(path.parent.iterdir()) == []


async def test_a_directory_that_was_open_to_others_is_closed(tmp_path):
    (tmp_path / "w").mkdir(mode=0o755)
    Issuer("a.test", tmp_path / "w")
    assert stat.S_IMODE((tmp_path / "w").stat().st_mode) == 0o700


async def test_what_a_crash_left_behind_is_replaced(tmp_path):
    left = Issuer("a.test", tmp_path / "w")
    path = await left.serve(AGENT)
    again = Issuer("a.test", tmp_path / "w")
    assert await again.serve(AGENT) == path
    updates = asyncio.Queue()
    async with watching(path, updates.put_nowait):
        assert (await updates.get()).svids[0].bundle == again.bundle
    await again.close()
    await left.close()


async def test_a_path_that_is_too_long_for_a_socket_is_refused_with_advice(tmp_path):
    with pytest.raises(ValueError, match="choose a shorter"):
        await Issuer("a.test", tmp_path / ("w" * 100)).serve(AGENT)


async def test_only_workloads_of_its_own_domain_get_a_socket(issuer):
    for spiffe_id in ("spiffe://b.test/w", "spiffe://a.test"):
        with pytest.raises(ValueError, match="no workload of"):
            await issuer.serve(spiffe_id)
    with pytest.raises(InvalidSpiffeId):
        await issuer.serve("agent")


async def test_what_is_no_http2_is_closed_and_harms_nobody(issuer):
    path = await issuer.serve(AGENT)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
    await reader.read()  # settings, perhaps a GOAWAY, and the end
    writer.close()
    await writer.wait_closed()
    updates = asyncio.Queue()
    async with watching(path, updates.put_nowait):
        await updates.get()


async def test_connections_are_bounded(issuer):
    path = await issuer.serve(AGENT)
    held = [await asyncio.open_unix_connection(path) for _ in range(CONNECTIONS)]
    for reader, _ in held:
        await reader.read(1)
    reader, writer = await asyncio.open_unix_connection(path)
    assert await reader.read() == b""
    for _, each in [*held, (reader, writer)]:
        each.close()
        await each.wait_closed()


async def test_a_client_that_never_reads_is_cut_off_and_the_others_are_served(issuer, monkeypatch):
    monkeypatch.setattr("broker.issuer.UNSENT_BYTES", 100_000)
    path = await issuer.serve(AGENT)
    issuer.federate("b.test", issuer.bundle * 100)
    _, writer = await asyncio.open_unix_connection(path, limit=1)
    http = _calling_with_a_huge_window()
    writer.write(http.data_to_send())
    await writer.drain()
    (workload,) = issuer._workloads.values()
    await until(lambda: any(connection._streams for connection in workload._connections))
    for number in range(100):
        issuer.federate(f"d{number}.test", issuer.bundle * 20)
        await asyncio.sleep(0)
        if not workload._connections:
            break
    await until(lambda: not workload._connections)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _calling_with_a_huge_window():
    import h2.config
    import h2.connection
    import h2.settings

    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    http.local_settings[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] = 2**31 - 1
    http.local_settings.acknowledge()
    http.initiate_connection()
    http.increment_flow_control_window(2**30)
    http.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":path", "/SpiffeWorkloadAPI/FetchX509SVID"), (":authority", "x"),
                          ("content-type", "application/grpc"), ("workload.spiffe.io", "true")], end_stream=True)  # fmt: skip
    return http
