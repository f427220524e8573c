"""The doors: HTTPS for the API server, plain HTTP for probes and metrics."""

import asyncio
import base64
import contextlib
import gzip
import json
import ssl
import warnings

import aiohttp
import pytest
import pytest_asyncio
from support.admission import GATEWAY, VERSION, a_pod, a_review
from support.webhook_process import LOOPBACK, Asker, an_authority, doors, trusting

from webhook import mutate, server
from webhook.review import MESSAGE_CHARACTERS, Verdict

SECOND = 5.0


async def inject(request):
    return mutate.judge(request, GATEWAY, VERSION)


@pytest.fixture(scope="module")
def ca():
    return an_authority()


@pytest_asyncio.fixture
async def ports(ca, tmp_path):
    async with doors({"/mutate": inject}, ca, tmp_path) as listening:
        yield listening


@pytest_asyncio.fixture
async def asker(ca, ports):
    async with Asker(ports[0], ca) as it:
        yield it


async def test_a_review_is_answered_with_a_patch_and_its_own_uid(asker):
    response = await asker.review(a_pod(), uid="u-1")
    assert (response["uid"], response["allowed"], response["patchType"]) == ("u-1", True, "JSONPatch")
    assert json.loads(base64.b64decode(response["patch"]))


async def test_a_refusal_is_a_review_too(asker):
    response = await asker.review(a_pod(hostNetwork=True))
    assert (response["allowed"], response["status"]["code"]) == (False, 403)
    assert "hostNetwork" in response["status"]["message"]
    assert "patch" not in response


async def test_a_review_that_is_wrong_gets_a_review_that_says_what(asker):
    wrong = a_review(a_pod())
    wrong["apiVersion"] = "admission.k8s.io/v1beta1"
    status, body = await asker.post(json.dumps(wrong).encode())
    response = json.loads(body)["response"]
    assert (status, response["allowed"], response["status"]["code"]) == (200, False, 400)
    assert "admissionReviewVersions" in response["status"]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'{"request":{}}', b'{"request":{"uid":""}}', b'{"request":{"uid":7}}', b"\xff\xfe"]
)
async def test_what_has_no_uid_gets_400(asker, body):
    status, text = await asker.post(body)
    assert status == 400
    assert b"AdmissionReview" in text


async def test_a_body_of_the_bound_is_read_and_a_byte_more_is_not(asker):
    status, _ = await asker.post(b" " * server.BODY_BYTES)
    assert status == 400
    status, text = await asker.post(b" " * (server.BODY_BYTES + 1))
    assert status == 413
    assert b"larger than" in text


async def test_a_body_whose_length_is_not_announced_is_bounded_too(asker):
    async def pieces():
        for _ in range(server.BODY_BYTES // (1 << 20) + 1):
            yield b" " * (1 << 20)

    async with asker.session.post(f"{asker.base}/mutate", data=pieces(), headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 413


async def test_a_compressed_body_is_refused_unread(asker):
    status, _ = await asker.post(gzip.compress(b" " * (100 << 20)), Content_Encoding="gzip")
    assert status == 400


async def test_what_is_not_json_is_refused(asker):
    status, _ = await asker.post(b"a=b", Content_Type="application/x-www-form-urlencoded")
    assert status == 400


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/mutate", 405), ("POST", "/", 404), ("GET", "/healthz", 200)])
async def test_nothing_else_is_there(asker, method, path, status):
    async with asker.session.request(method, asker.base + path) as answer:
        assert answer.status == status
        assert answer.headers["Server"] == "aiaccess"


async def test_many_reviews_at_once_are_all_answered_on_few_connections(asker):
    responses = await asyncio.gather(*(asker.review(a_pod(), uid=f"u-{n}") for n in range(200)))
    assert [response["uid"] for response in responses] == [f"u-{n}" for n in range(200)]


async def test_tls_below_1_2_is_refused(ca, ports):
    context = trusting(ca)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with warnings.catch_warnings(action="ignore"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(LOOPBACK, ports[0], ssl=context)


async def test_tls_1_2_is_spoken(ca, ports):
    context = trusting(ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, writer = await asyncio.open_connection(LOOPBACK, ports[0], ssl=context)
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_does_not_come_is_waited_for_no_longer_than_the_bound(ca, ports, monkeypatch):
    monkeypatch.setattr(server, "BODY_S", 0.2)
    reader, writer = await asyncio.open_connection(LOOPBACK, ports[0], ssl=trusting(ca))
    writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
    async with asyncio.timeout(SECOND):
        assert b" 408 " in await reader.readline()
        await reader.read()  # and the connection is closed
    writer.close()
    await writer.wait_closed()


async def test_bodies_in_flight_are_bounded_together_and_counted_down_again(ca, asker, monkeypatch):
    monkeypatch.setattr(server, "BODIES_BYTES", 1 << 20)
    status, _ = await asker.post(b" " * (2 << 20))
    assert status == 503
    assert (await asker.review(a_pod()))["allowed"]


async def test_a_connection_more_than_the_bound_costs_the_oldest_idle_one_its_place(ca, ports, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 2)
    context = trusting(ca)
    opened = [await asyncio.open_connection(LOOPBACK, ports[0], ssl=context) for _ in range(3)]
    async with asyncio.timeout(SECOND):
        assert await opened[0][0].read() == b""
    opened[2][1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(SECOND):
        assert await opened[2][0].readline() == b"HTTP/1.1 200 OK\r\n"
    for _, writer in opened:
        writer.close()


async def test_who_connects_and_says_nothing_is_bounded_and_keeps_no_review_out(ca, ports, asker, monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS", 2)  # of those who do say something: silence takes none of their places
    silent = [await asyncio.open_connection(LOOPBACK, ports[0]) for _ in range(server.HANDSHAKES + 1)]
    async with asyncio.timeout(server.HANDSHAKE_S / 2):  # it is let go for the others, not for its own silence
        assert await silent[0][0].read() == b""
    assert (await asker.review(a_pod()))["allowed"]
    for _, writer in silent:
        writer.close()


async def test_a_defect_of_ours_says_nothing_of_the_pod(ca, tmp_path, caplog):
    async def broken(request):
        raise KeyError("out of order")

    async with doors({"/mutate": broken}, ca, tmp_path) as (port, _), Asker(port, ca) as asker:
        status, body = await asker.post(json.dumps(a_review(a_pod({"name": "agent", "env": [{"name": "K", "value": "canary"}]}))).encode())
    assert status == 500
    assert b"canary" not in body
    assert "canary" not in caplog.text
    assert any(record.exc_info for record in caplog.records)


async def test_closing_lets_the_review_under_way_end(ca, tmp_path):
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(request):
        begun.set()
        await may_end.wait()
        return Verdict()

    async with contextlib.AsyncExitStack() as after:
        async with doors({"/mutate": slow}, ca, tmp_path) as (port, _):
            asker = await after.enter_async_context(Asker(port, ca))
            asking = asyncio.create_task(asker.review(a_pod()))
            async with asyncio.timeout(SECOND):
                await begun.wait()
            asyncio.get_running_loop().call_later(0.1, may_end.set)
        assert (await asking)["allowed"]


async def test_metrics_count_what_was_said(ca, ports, asker):
    await asker.review(a_pod())
    await asker.review(a_pod(hostNetwork=True))
    await asker.post(b"{")
    async with aiohttp.ClientSession() as session, session.get(f"http://{LOOPBACK}:{ports[1]}/metrics") as answer:
        text = await answer.text()
    for said in ("changed", "refused", "unreadable"):
        assert f'aiaccess_webhook_reviews_total{{door="/mutate",said="{said}"}} 1.0' in text


async def test_readiness_says_what_is_missing(ca, tmp_path):
    reasons = ["the certificate has ended"]
    async with doors({}, ca, tmp_path, lambda: reasons) as (_, admin), aiohttp.ClientSession() as session:
        async with session.get(f"http://{LOOPBACK}:{admin}/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "not ready: the certificate has ended\n")
        reasons.clear()
        async with session.get(f"http://{LOOPBACK}:{admin}/readyz") as answer:
            assert (answer.status, await answer.text()) == (200, "ready\n")


async def test_a_refusal_is_logged_no_longer_than_it_is_answered(ca, tmp_path, caplog):
    caplog.set_level("INFO")

    async def refuse(request):
        return Verdict(allowed=False, message="x" * 1_000_000)

    async with doors({"/mutate": refuse}, ca, tmp_path) as (port, _), Asker(port, ca) as asker:
        await asker.review(a_pod())
    (why,) = [record.why for record in caplog.records if record.message == "refused"]
    assert len(why) == MESSAGE_CHARACTERS


async def test_a_line_of_the_log_says_who_was_injected_and_no_value(asker, caplog):
    caplog.set_level("INFO")
    await asker.review(a_pod({"name": "agent", "env": [{"name": "OPENAI_API_KEY", "value": "canary"}]}), name="agent-1")
    record = next(record for record in caplog.records if record.message == "injected")
    assert (record.namespace, record.name_) == ("team1", "agent-1")
    assert "canary" not in str(vars(record))
