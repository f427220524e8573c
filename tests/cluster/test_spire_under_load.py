"""Identities change, and what hands them out restarts, while agents ask fifty times a second: not one answer is lost."""

import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from support.cluster.product import MODEL, Broker, Gateway, Product
from support.cluster.servers import Server
from support.cluster.spire import Spire, Workload, signer
from support.cluster.steady_load import SteadyLoad
from support.redis_server import redis_server

AGENT = "spiffe://example.org/ns/team1/sa/agent"
PATIENCE_S = 60.0
pytestmark = pytest.mark.timeout(300)  # an SVID of a minute is waited for, on machines that others use too


@dataclass
class Stage:
    """Brokers, and a gateway that knows them all."""

    product: Product
    agent: Workload
    brokers: list[Broker]
    gateway: Gateway

    @contextmanager
    def load(self, title: str, figures: list[str]) -> Iterator[SteadyLoad]:
        with SteadyLoad.running(self.product.folder, self.gateway.url, MODEL, self.product.environ) as load:
            yield load
        figures.append(f"{title}: {load.figures()}")


@contextmanager
def staged(folder: Path, spire: Spire, *switches: str, brokers: int = 1, quota_store: str = "") -> Iterator[Stage]:
    with Product.installed(folder, spire) as product:
        agent = spire.workload(AGENT)
        resources = product.resources(agent)
        doors = [product.broker(resources, *switches, name=f"broker-{number}", quota_store=quota_store) for number in range(brokers)]
        yield Stage(product, agent, doors, product.gateway(agent, doors))


@pytest.fixture
def stage(tmp_path, spire) -> Iterator[Stage]:
    with staged(tmp_path, spire) as it:
        yield it


def shown(broker: Broker) -> x509.Certificate:
    """The certificate at the broker's door. The handshake goes no further: we have none to show."""
    return x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", broker.port), timeout=10).encode())


def expiry(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_after_utc.timestamp())


def updates(server: Server) -> list[int]:
    """When each SVID that this process was given runs out, in seconds since 1970; one for each update, of the bundle alone too."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line["expires"] for line in lines if line["event"] == "trust_updated"]


def until(so: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while not so():
        assert time.monotonic() < ends_s
        time.sleep(0.1)


def test_a_whole_change_of_the_authority_loses_no_request(stage, spire, figures):
    broker, gateway, old = stage.brokers[0], stage.gateway, spire.authorities()["active"]
    assert signer(shown(broker)) == old
    with stage.load("new authority (prepare, activate, taint, revoke)", figures) as load:
        # an operator waits after each step until every workload has heard of it
        before = [len(updates(one)) for one in (broker, gateway)]
        new = spire.prepare()
        until(lambda: all(len(updates(one)) > had for one, had in zip((broker, gateway), before, strict=True)))
        spire.activate(new)
        spire.taint(old)
        spire.until_served(stage.agent, new)
        until(lambda: signer(shown(broker)) == new and updates(gateway)[-1] == expiry(spire.svid(stage.agent)))
        load.more(2)
        spire.revoke(old)
        load.more(5)
    assert load.failures() == {}
    assert signer(shown(broker)) == new


@pytest.mark.parametrize("crash", [False, True], ids=["told-to-go", "killed"])
@pytest.mark.parametrize("name", ["agent", "server"])
def test_a_restart_of_spire_loses_no_request(stage, spire, figures, name, crash):
    broker, server = stage.brokers[0], getattr(spire, name)
    with stage.load(f"restart of the SPIRE {name}, {'SIGKILL' if crash else 'SIGTERM'}", figures) as load:
        before = shown(broker).serial_number
        server.restart(crash=crash)
        until(lambda: shown(broker).serial_number != before)  # it gets new SVIDs as it did before
    assert load.failures() == {}


def test_a_broker_that_is_told_to_go_loses_no_request(tmp_path, spire, figures):
    with (
        redis_server(tmp_path) as redis,
        staged(tmp_path, spire, "--allow-insecure-quota-store", "true", brokers=2, quota_store=redis.url) as stage,
    ):
        with stage.load("SIGTERM and return of one of two brokers", figures) as load:
            for broker in stage.brokers:
                broker.restart()
                load.more(3)
        assert load.failures() == {}


def test_without_its_quota_store_a_broker_refuses_and_with_it_goes_on(tmp_path, spire, figures):
    with (
        redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as redis,
        staged(tmp_path, spire, "--allow-insecure-quota-store", "true", quota_store=redis.url) as stage,
    ):
        with stage.load("restart of Redis, for which the design says refuse", figures) as load:
            redis.kill()
            redis.start()
            back_s = time.time()
            until(lambda: any(one.at_s > back_s and not one.failure for one in load.outcomes()))
            answering_s = time.time()
        assert [failure for failure in load.failures() if '"unavailable"' not in failure] == []
        assert load.failures(answering_s) == {}
        figures.append(f"Redis answered, and {answering_s - back_s:.1f} s later so did the broker")
