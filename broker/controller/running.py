"""What a controller is made of, from the settings to the lease that it gives back."""

import asyncio
import logging
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker import addresses, policy
from broker.admin import Admin
from broker.config import ConfigError, ControllerSettings
from broker.controller.leading import Leadership
from broker.controller.office import Office
from broker.kube.connection import Connection
from broker.kube.writing import Lease, Writing
from broker.ledger.opening import open_ledger
from broker.quota import Ledger

log = logging.getLogger(__name__)

PREFIX: Final = "aiaccess_controller_"


@dataclass(frozen=True, slots=True)
class Started:
    """What listens where, and as whom."""

    admin_port: int
    holder: str


async def run(settings: ControllerSettings, stop: asyncio.Event, started: Callable[[Started], None] | None = None) -> None:
    """Run a controller until `stop` is set; then it gives its lease back.

    Raises:
        ConfigError: a setting cannot be used; the message says which.
        NoCluster: there are no credentials for a cluster.
        OSError: the admin port cannot be opened.
    """
    holder = f"{socket.gethostname()}_{secrets.token_hex(4)}"
    operator = policy_settings(settings)
    async with AsyncExitStack() as closing:
        ledger = await _open_store(settings)
        if ledger is not None:
            closing.push_async_callback(ledger.close)
        connection = await Connection.open(settings.kubeconfig, settings.environ)
        closing.push_async_callback(connection.close)
        lease = Lease(Writing(connection), settings.namespace, settings.lease_name)
        leadership = Leadership(lease, holder, time.monotonic, time.time, random.SystemRandom().random)
        office = Office(settings, operator, connection, ledger)
        admin = Admin(_registry(office, leadership), lambda: [*leadership.why_not_ready(), *office.why_not_ready()])
        closing.push_async_callback(admin.stop)
        found = Started(await admin.start(settings.admin.host, settings.admin.port), holder)
        log.info("listening", extra={"role": "controller", "holder": holder, "admin": f"{settings.admin.host}:{found.admin_port}"})
        if started is not None:
            started(found)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(leadership.follow(office.lead))
            await stop.wait()
            following.cancel()


async def _open_store(settings: ControllerSettings) -> Ledger | None:
    if settings.quota_store == "memory:":
        raise ConfigError("--quota-store memory: is inside one broker, and this is another process; name the store that the brokers share")
    return await open_ledger(settings) if settings.quota_store else None


def policy_settings(settings: ControllerSettings) -> policy.Settings:
    """As the brokers have them: a status says what they do.

    Raises:
        ConfigError: a list of hosts cannot be read.
    """
    try:
        return policy.Settings(
            namespace=settings.namespace,
            shared_namespaces=settings.shared_model_namespaces,
            allow_inline=settings.allow_inline_credentials,
            plain_http=addresses.parse_hosts(settings.plain_http_hosts),
            allowed=addresses.parse_hosts(settings.allow_hosts),
            off=addresses.off_limits(settings.namespace, settings.environ),
            seals=settings.brokers_seal,
        )
    except ValueError as error:
        raise ConfigError(f"--allow-hosts or --plain-http-hosts: {error}") from error


class _Figures(Collector):
    def __init__(self, office: Office, leadership: Leadership) -> None:
        self._office = office
        self._leadership = leadership

    def collect(self) -> Iterable[Metric]:
        leads = "leader", "gauge", "1 while this controller leads", float(self._leadership.leads)
        for name, kind, meaning, value in (leads, *self._office.figures()):
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            yield family(PREFIX + name, meaning, value)


def _registry(office: Office, leadership: Leadership) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(office, leadership))
    ProcessCollector(registry=registry)
    return registry
