"""`broker dev`: the whole product on one machine, without a cluster and without a shortcut around its security.

An in-process SPIFFE issuer serves the Workload API on one socket a workload, the broker and one local gateway a workload talk
real mutual TLS over loopback, quotas live in SQLite. On one machine anybody reaches loopback, so a gateway here demands the
placeholder key of this run; `--print-env` prints it, with what else the webhook would inject.
"""

import asyncio
import json
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker import local_gateway, logs, sdk_env, wiring
from broker.config import Address, BrokerSettings, ConfigError, Workload
from broker.identity import InvalidSpiffeId, parse_spiffe_id
from broker.issuer import Issuer
from broker.sealing.keeping import make_file
from broker.svids import SOCKET_PATH_BYTES

log = logging.getLogger(__name__)

SOCKET_FOLDER_BYTES: Final = 80
RUN_FILE: Final = "run.json"  # this run's ports and key, for --print-env; 0600
SEALING_KEYS: Final = "sealing-keys"  # made once: without it, what agents kept at providers opens no more
LISTENS_S: Final = 2.0
DEFAULT_TRUST_DOMAIN: Final = "example.org"


@dataclass(frozen=True, slots=True)
class DevSettings:
    """What `broker dev` was told, besides the broker's own settings."""

    state: Path
    workloads: tuple[Workload, ...]
    svid_ttl_s: float
    rotate_ca_every_s: float
    broker: Callable[[str], BrokerSettings]  # given the Workload API's endpoint


async def run(
    settings: DevSettings, stop: asyncio.Event, started: Callable[[wiring.Started, Mapping[str, int]], None] | None = None
) -> None:
    """Run everything until `stop` is set.

    Raises:
        ConfigError: the workloads do not fit together, or the state folder cannot be used.
        OSError: a port is taken.
    """
    trust_domain = trust_domain_of(settings.workloads)
    make_private(settings.state)
    make_file(settings.state / SEALING_KEYS)
    async with AsyncExitStack() as closing:
        issuer = Issuer(
            trust_domain,
            socket_folder(settings.state, closing),
            svid_ttl_s=settings.svid_ttl_s,
            rotate_ca_every_s=settings.rotate_ca_every_s,
        )
        closing.push_async_callback(issuer.close)
        own_id = f"spiffe://{trust_domain}/ns/inference-broker/sa/broker"
        broker_settings = settings.broker(f"unix://{await issuer.serve(own_id)}")
        key = f"aiaccess-dev-{secrets.token_urlsafe(12)}"
        async with asyncio.TaskGroup() as group:
            loop = asyncio.get_running_loop()
            group.create_task(issuer.run(stop))
            up: asyncio.Future[wiring.Started] = loop.create_future()
            broker = group.create_task(wiring.run(broker_settings, stop, up.set_result))
            broker.add_done_callback(lambda _: up.cancel())
            found = await up
            async with AsyncExitStack() as gateways:
                ports: dict[str, int] = {}
                for workload in settings.workloads:
                    gateway = local_gateway.Gateway(
                        local_gateway.GatewaySettings(
                            brokers=(Address("127.0.0.1", found.port),),
                            broker_spiffe_id=own_id,
                            endpoint=f"unix://{await issuer.serve(workload.spiffe_id)}",
                            port=workload.port,
                            demand_key=key,
                        )
                    )
                    watching = group.create_task(gateway.watch())
                    gateways.callback(watching.cancel)
                    gateways.push_async_callback(gateway.close, broker_settings.drain)
                    ports[workload.spiffe_id] = await gateway.open()
                gateways.callback((settings.state / RUN_FILE).unlink)
                write_run(settings.state, ports, key)
                announce(settings.state, ports)
                if started is not None:
                    started(found, ports)
                await stop.wait()
            await broker


def trust_domain_of(workloads: tuple[Workload, ...]) -> str:
    domains: set[str] = set()
    for workload in workloads:
        try:
            domains.add(parse_spiffe_id(workload.spiffe_id).trust_domain)
        except InvalidSpiffeId as error:
            raise ConfigError(f"--workload {workload.spiffe_id}: {error}") from error
    if len(domains) > 1:
        raise ConfigError(f"--workload: one issuer has one trust domain, these name {' and '.join(sorted(domains))}")
    if len({workload.spiffe_id for workload in workloads}) < len(workloads):
        raise ConfigError("--workload: each SPIFFE ID once; an identity has one local gateway here")
    ports = [workload.port for workload in workloads if workload.port]
    if len(set(ports)) < len(ports):
        raise ConfigError("--workload: each workload needs a port of its own")
    return domains.pop() if domains else DEFAULT_TRUST_DOMAIN


def make_private(state: Path) -> None:
    """The state folder: ours alone."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"--state {state}: {error.strerror}") from error


def socket_folder(state: Path, closing: AsyncExitStack) -> Path:
    """Where the Workload API's sockets are: in the state folder, or, as a socket's path has 107 bytes, in a shorter one of our own."""
    folder = state.resolve() / "w"
    if len(bytes(folder)) <= SOCKET_FOLDER_BYTES:
        return folder
    return Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="broker-")))


def admin_socket(state: Path) -> Path | None:
    """Where `broker usage` reaches the broker; nowhere when the state folder's path is too long for a socket."""
    path = state.resolve() / "admin.sock"
    if len(bytes(path)) <= SOCKET_PATH_BYTES:
        return path
    log.warning("no_admin_socket", extra={"reason": f"{path} is too long for a socket: choose a shorter --state"})
    return None


def write_run(state: Path, ports: Mapping[str, int], key: str) -> None:
    file = state / RUN_FILE
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as out:  # noqa: PTH123  opened with its mode
        json.dump({"key": key, "ports": dict(ports)}, out)


def environment_of(state: Path, spiffe_id: str) -> dict[str, str]:
    """What the webhook would inject for this workload of the run in progress.

    Raises:
        ConfigError: nothing runs with this state, or not this workload.
    """
    try:
        found = json.loads((state / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"no `broker dev` runs with --state {state}: start it first") from error
    if spiffe_id not in found["ports"]:
        raise ConfigError(f"this run has no workload {spiffe_id}; it has {', '.join(sorted(found['ports'])) or 'none'}")
    port = found["ports"][spiffe_id]
    try:
        socket.create_connection(("127.0.0.1", port), LISTENS_S).close()
    except OSError as gone:
        raise ConfigError(f"nothing listens at 127.0.0.1:{port} any more: the `broker dev` of {state} was killed; start it again") from gone
    return sdk_env.variables(port, found["key"])


def announce(state: Path, ports: Mapping[str, int]) -> None:
    """Say, for each workload, where its agent calls and how it gets its environment."""
    for spiffe_id, port in ports.items():
        environment = f"broker dev --state {state} --print-env {spiffe_id}"
        logs.listening("gateway", spiffe_id, {"agents": f"http://127.0.0.1:{port}", "environment": environment})
