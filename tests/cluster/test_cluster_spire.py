"""The SPIRE of these tests is a real one, and our own Workload API client follows it through everything that it does."""

import asyncio
import datetime as dt
import os
import subprocess
import sys
import time
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from support.cluster.servers import dying_with_us
from support.cluster.spire import Spire, SpireFailed, signer

from broker import workload_api
from broker.svids import Update

PATIENCE_S = 45.0


class Followed:
    """What the Workload API told us last."""

    def __init__(self) -> None:
        self.latest: Update | None = None
        self.told = asyncio.Condition()
        self.said: list[str] = []

    def update(self, news: Update | None) -> None:
        self.latest = news

    @property
    def leaf(self) -> x509.Certificate:
        assert self.latest is not None
        return x509.load_der_x509_certificate(self.latest.svids[0].chain[0])

    def authorities(self, trust_domain: str) -> set[str]:
        """The ids of the authorities in this trust domain's bundle."""
        assert self.latest is not None
        own = {"spiffe://example.org": self.latest.svids[0].bundle}
        found = map(x509.load_der_x509_certificate, (own | self.latest.federated).get(f"spiffe://{trust_domain}", ()))
        return {one.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex() for one in found}

    async def until(self, so: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not so():
                await asyncio.sleep(0.05)


@asynccontextmanager
async def following(spire: Spire) -> AsyncIterator[Followed]:
    """Our own client, as the product runs it, in the tests' own process."""
    spire.myself()
    it = Followed()
    watching = asyncio.create_task(workload_api.watch(spire.endpoint, it.update, it.said.append))
    try:
        await it.until(lambda: it.latest)
        it.said.clear()  # of the time before its entry reached the agent
        yield it
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_our_client_gets_an_svid_of_one_minute(spire):
    async with following(spire) as it:
        (name,) = it.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert name.value == "spiffe://example.org/tests"
        assert it.leaf.not_valid_after_utc - it.leaf.not_valid_before_utc < dt.timedelta(seconds=90)
        assert signer(it.leaf) == spire.authorities()["active"]


async def test_our_client_follows_a_whole_change_of_the_authority(spire):
    async with following(spire) as it:
        old = spire.authorities()["active"]
        new = spire.prepare()
        await it.until(lambda: {old, new} <= it.authorities("example.org"))
        spire.activate(new)
        assert signer(it.leaf) == old
        spire.taint(old)
        await it.until(lambda: signer(it.leaf) == new)
        spire.revoke(old)
        await it.until(lambda: it.authorities("example.org") == {new})
        assert it.said == []


@pytest.mark.parametrize("crash", [False, True], ids=["told-to-go", "killed"])
@pytest.mark.parametrize("name", ["agent", "server"])
async def test_each_of_spire_comes_back_and_goes_on(spire, name, crash):
    async with following(spire) as it:
        authority, before = spire.authorities()["active"], it.leaf.serial_number
        server = getattr(spire, name)
        server.restart(crash=crash)
        assert spire.authorities()["active"] == authority
        await it.until(lambda: it.leaf.serial_number != before)  # by half of its minute it is renewed
        assert signer(it.leaf) == authority


def test_every_identity_is_a_user_of_its_own(spire):
    ids = [f"spiffe://example.org/ns/team1/sa/{name}" for name in ("a", "b")]
    workloads = [spire.workload(spiffe_id) for spiffe_id in ids]
    for workload in workloads:
        spire.until_served(workload)
        (name,) = spire.svid(workload).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert name.value == workload.spiffe_id
    alone = os.geteuid() != 0
    assert len({workload.uid for workload in workloads}) == (1 if alone else 2)
    assert [workload.spiffe_id for workload in workloads] == ([spire.myself().spiffe_id] * 2 if alone else ids)


def test_a_jwt_svid_is_for_the_audience_that_was_asked_for(spire):
    workload = spire.workload("spiffe://example.org/ns/team1/sa/a")
    spire.until_served(workload)
    _, claims, _ = spire.jwt(workload, "somebody").split(".")
    told = urlsafe_b64decode(claims + "=" * (-len(claims) % 4)).decode()
    assert f'"sub":"{workload.spiffe_id}"' in told
    assert '"aud":["somebody"]' in told


def test_what_spire_refuses_is_said(spire):
    with pytest.raises(SpireFailed, match="authority"):
        spire.taint("no-such-authority")


async def test_a_federated_trust_domain_comes_with_its_own_bundle(spire, state):
    folder = state / "other"
    folder.mkdir()
    with Spire.started(folder, "other.test") as other:
        spire.believe(other)
        async with following(spire) as it:
            await it.until(lambda: it.authorities("other.test") == {other.authorities()["active"]})
            assert it.authorities("example.org") == {spire.authorities()["active"]}


def test_a_server_dies_with_the_process_that_started_it(tmp_path):
    ready = tmp_path / "ready"
    child = f"import os, pathlib, time; pathlib.Path({str(ready)!r}).write_text(str(os.getpid())); time.sleep(600)"
    parent = (
        f"import subprocess, sys, time\nsubprocess.Popen({[*dying_with_us(), sys.executable, '-c', child]!r})\nwhile True: time.sleep(1)"
    )
    with subprocess.Popen([sys.executable, "-c", parent]) as started:
        try:
            _until(ready.exists)
            pid = int(ready.read_text())
        finally:
            started.kill()
    _until(lambda: not Path(f"/proc/{pid}").exists())


def _until(so: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not so():
        assert time.monotonic() < ends_s
        time.sleep(0.02)
