"""`python -m webhook` as a process."""

import asyncio
import json
import sys
import time

import aiohttp
import pytest_asyncio
from support.admission import a_pod
from support.fake_apiserver import access, api_server
from support.ports import free_port
from support.processes import Processes
from support.webhook_process import LOOPBACK, SWITCHES, Asker, an_authority, start, write_leaf


@pytest_asyncio.fixture
async def children(tmp_path):
    it = Processes(tmp_path)
    yield it
    await it.stop()


async def test_it_serves_and_stops_when_it_is_told_to(children, tmp_path):
    ca = an_authority()
    process, port, admin = await start(children, "--drain", "0s", certificate=write_leaf(tmp_path, ca))
    async with Asker(port, ca) as asker, aiohttp.ClientSession() as session:
        assert (await asker.review(a_pod()))["allowed"]
        async with session.get(f"http://{LOOPBACK}:{admin}/readyz") as answer:
            assert answer.status == 200
        async with session.get(f"http://{LOOPBACK}:{admin}/metrics") as answer:
            ends = next(line for line in (await answer.text()).splitlines() if line.startswith("aiaccess_webhook_certificate_expiry"))
        assert float(ends.split()[1]) > time.time()
    assert await process.stop() == 0
    lines = [json.loads(line) for line in process.output().splitlines()]
    assert [line["event"] for line in lines] == ["no_api_server", "listening", "injected"]


async def test_objects_are_judged_where_there_is_no_api_server_to_ask_too(children, tmp_path):
    ca = an_authority()
    _, port, _ = await start(children, "--drain", "0s", certificate=write_leaf(tmp_path, ca))
    kind = {"group": "aiaccess.dev", "version": "v1alpha1", "kind": "AIAccessPolicy"}
    async with Asker(port, ca) as asker:
        refused = await asker.review(access("agents", maxTokens=5), path="/validate", kind=kind)
        assert refused["status"]["message"].startswith("spec.maxTokens: is not a field of aiaccess.dev/v1alpha1")
        passed = await asker.review(access("agents", mtls={"trustDomain": "other.org"}), path="/validate", kind=kind)
        assert passed["allowed"]
        assert passed["warnings"] == ["spec.subjects[0]: names nobody: mtls.trustDomain narrows the policy to other.org"]


async def test_a_certificate_of_its_own_needs_an_api_server(children, tmp_path):
    own = ("--tls-secret", "tls", "--namespace", "ns", "--service", "webhook", "--webhook-configuration", "webhook")
    missing = ("--kubeconfig", str(tmp_path / "absent"))
    process = await children.spawn("webhook", [sys.executable, "-m", "webhook", *SWITCHES, *own, *missing])
    assert await process.child.wait() == 1
    assert "absent is not there: give --kubeconfig, or run in a pod with a service account" in process.output()


async def test_while_it_has_no_certificate_yet_it_is_alive_and_not_ready(children, tmp_path):
    own = ("--tls-secret", "tls", "--namespace", "ns", "--service", "webhook", "--webhook-configuration", "webhook")
    listen, admin = free_port(), free_port()
    doors = ("--listen", f"{LOOPBACK}:{listen}", "--admin", f"{LOOPBACK}:{admin}", "--drain", "0s")
    async with api_server() as server:
        server.refuse = lambda path, query: (403, {})
        command = [sys.executable, "-m", "webhook", *SWITCHES, *own, *doors, "--kubeconfig", server.kubeconfig(tmp_path)]
        process = await children.spawn("webhook", command)
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while not (said := await text(session, f"http://{LOOPBACK}:{admin}/readyz")).endswith("is refused with 403\n"):
                await asyncio.sleep(0.1)
            assert said.startswith("not ready: there is no serving certificate yet: 403 ")
            assert await text(session, f"http://{LOOPBACK}:{admin}/healthz") == "alive\n"
        assert await process.stop() == 0


async def text(session, url):
    """ "" while nobody listens."""
    try:
        async with session.get(url) as answer:
            return await answer.text()
    except aiohttp.ClientError:
        return ""


async def test_while_it_drains_it_still_answers_and_says_that_nobody_shall_come(children, tmp_path):
    ca = an_authority()
    process, port, admin = await start(children, "--drain", "3s", certificate=write_leaf(tmp_path, ca))
    async with Asker(port, ca) as asker, aiohttp.ClientSession() as session:
        process.child.terminate()
        async with asyncio.timeout(2.5):
            while True:
                async with session.get(f"http://{LOOPBACK}:{admin}/readyz") as answer:
                    if answer.status == 503:
                        break
        async with asker.session.get(f"{asker.base}/healthz") as answer:
            assert answer.status == 200
        assert (await asker.review(a_pod()))["allowed"]
    assert await process.child.wait() == 0


async def test_what_keeps_it_from_starting_is_said_in_one_line(children, tmp_path):
    command = [sys.executable, "-m", "webhook", *SWITCHES, "--tls-cert", "absent.pem", "--tls-key", "absent.pem"]
    process = await children.spawn("webhook", command)
    assert await process.child.wait() == 1
    assert process.output().splitlines()[-1] == "webhook: absent.pem: No such file or directory"


async def test_called_wrongly_it_says_what_is_missing(children, tmp_path):
    process = await children.spawn("webhook", [sys.executable, "-m", "webhook"])
    assert await process.child.wait() == 2
    assert process.output() == "webhook: --broker-spiffe-id ID is missing: give it, or set WEBHOOK_BROKER_SPIFFE_ID\n"
