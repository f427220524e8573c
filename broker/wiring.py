"""The only place where the broker's long-lived things are built, watched over and closed."""

import asyncio
import logging
import random
import socket
import ssl
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from broker import addresses, admin_door, figures, files, logs, otlp, pipeline, policy, server, workload_api
from broker.admin import Admin
from broker.audit import Audit, Expired, Rotation
from broker.audit.key import read_key
from broker.config import BrokerSettings, ConfigError
from broker.counting import Counting
from broker.errors import Busy, Unavailable
from broker.house import House
from broker.http1.server import Limits, Server
from broker.ledger.opening import open_ledger
from broker.ledger.settling import Settler
from broker.overheard import Overheard
from broker.routing import Router
from broker.sealing.keeping import KeyFile
from broker.svids import BadUpdate, Update
from broker.telemetry import Figure, Telemetry
from broker.trust import Trust
from broker.truststate import Bundle, read_bundle
from broker.upstream import Upstream
from broker.usage import watch
from broker.world import Source, World

log = logging.getLogger(__name__)

VERSION: Final = version("inference-broker")
SWEEP_S: Final = 1.0
EXPIRE_S: Final = 5.0
LEAVE_S: Final = 1.0  # before the drain: a gateway in use asks elsewhere by then, and the connections that it keeps are idle
LAST_WORDS_S: Final = 1.0  # after the drain: for the error events of what was cut off
LAST_SETTLEMENTS_S: Final = 2.0  # then, for a quota store that is away; later the holds expire as spent

Watch = Callable[[], Coroutine[None, None, None]]
Warn = Callable[[watch.Warned], None]


@dataclass(frozen=True, slots=True)
class Started:
    """What listens where, and as whom."""

    port: int
    admin_port: int
    spiffe_id: str
    admin_mtls_port: int = 0


async def run(settings: BrokerSettings, stop: asyncio.Event, started: Callable[[Started], None] | None = None) -> None:
    """Run a broker until `stop` is set, then drain it.

    Raises:
        ConfigError: a setting cannot be used; the message says which.
        OSError: an address or a file cannot be opened.
    """
    telemetry = Telemetry(VERSION)
    trust = Trust(read_bundles(settings), on_refusal=telemetry.handshake_refused)
    async with AsyncExitStack() as closing:
        source, watches = await open_source(settings, trust, closing)
        world = read_world(settings, source)
        logs.configure(sys.stderr, world.secret_values, settings.log_level, settings.log_format)
        world.report()
        house = await open_house(settings, world, trust, telemetry, closing)
        exports = await open_exports(settings, world, house, closing)
        house.ledger = watched = watch.Watched(house.ledger)
        holds = Holds(house)
        figures.show(house, world, trust, lambda: holds.open)
        warn = watch.tell(telemetry)
        if settings.resources is None:
            keep_events, warn = await open_herald(settings, house, warn, closing)
            watches = (*watches, keep_events)
        watches = (*watches, *exports, *open_seals(settings.sealing_keys, house))
        telemetry.show_each(Figure.STALENESS, ("kind", "namespace"), lambda: source.stale_s().items())
        admin = Admin(telemetry.registry, lambda: [*why_not_ready(house, trust), *source.why_not_ready()], source.remarks)
        closing.push_async_callback(admin.stop)
        admin_port = await admin.start(settings.admin.host, settings.admin.port)
        admin_mtls_port = await admin_door.open_doors(settings, house, trust, closing)
        async with asyncio.TaskGroup() as group:
            first_svid = asyncio.Event()
            tasks = [
                group.create_task(keep_svid(settings.spiffe_endpoint_socket, trust, world, house, first_svid)),
                group.create_task(keep_objects(source, world, house)),
                *(group.create_task(keep()) for keep in watches),
                group.create_task(holds.keep()),
                group.create_task(keep_time(house)),
                group.create_task(watch.Watch(watched, warn).keep()),
            ]
            if await either(first_svid, stop):
                door = server.open_door(house, limits_of(settings))
                try:
                    port = await door.listen(settings.listen.host, settings.listen.port, trust.server_context())
                    own = trust.own_id
                    found = Started(port, admin_port, own.spiffe_id if own else "", admin_mtls_port)
                    announce(settings, found)
                    if started is not None:
                        started(found)
                    await stop.wait()
                finally:
                    await drain(door, house, settings.drain if stop.is_set() else 0)
            for task in tasks:
                task.cancel()


async def open_source(settings: BrokerSettings, trust: Trust, closing: AsyncExitStack) -> tuple[Source, Sequence[Watch]]:
    """Where the objects come from, and what is watched beside them: the trust bundles that are in the cluster.

    Raises:
        ConfigError: there are no credentials for the cluster.
    """
    if settings.resources is not None and not settings.trust_bundle_configmap:
        return files.Folder(settings.resources, settings.environ), []
    from broker.kube import bundles, connection, source  # noqa: PLC0415  30 MB that nobody needs who has no cluster

    try:
        api = await connection.Connection.open(settings.kubeconfig, settings.environ)
    except connection.NoCluster as wrong:
        raise ConfigError(f"--kubeconfig: {wrong}") from wrong
    closing.push_async_callback(api.close)
    given = read_bundles(settings)

    def anchor(trust_domain: str, anchors: Bundle) -> None:
        try:
            trust.anchor(trust_domain, given.get(trust_domain, ()) + anchors)
        except (BadUpdate, ssl.SSLError):
            log.exception("trust_bundle_unfit", extra={"trust_domain": trust_domain})
            trust.anchor(trust_domain, ())

    places = settings.trust_bundle_configmap
    watches = [bundles.TrustBundles(api, places, anchor).keep] if places else []
    if settings.resources is not None:
        return files.Folder(settings.resources, settings.environ), watches
    scope = source.Scope.of(settings.namespace, settings.shared_model_namespaces, settings.namespaces)
    return source.Cluster(api, scope, settings.max_staleness), watches


async def open_herald(settings: BrokerSettings, house: House, warn: Warn, closing: AsyncExitStack) -> tuple[Watch, Warn]:
    """From now on refusals are told as Events of the cluster.

    Returns:
        What writes them, and `warn` with the same for warnings.
    """
    from broker import herald  # noqa: PLC0415  as in open_source
    from broker.kube import connection, events, source, writing  # noqa: PLC0415

    api = await connection.Connection.open(settings.kubeconfig, settings.environ)  # its own: nobody's watch waits for an Event
    closing.push_async_callback(api.close)
    written = events.Events(writing.Writing(api), socket.gethostname(), random.SystemRandom().random)
    scope = source.Scope.of(settings.namespace, settings.shared_model_namespaces, settings.namespaces)
    told = herald.Herald(written.tell, house.snapshot, scope)
    house.on_refusal = told.refused
    house.telemetry.show(Figure.EVENTS_WRITTEN, lambda: written.written)
    house.telemetry.show(Figure.EVENTS_DROPPED, lambda: written.dropped)

    def warn_there_too(warned: watch.Warned) -> None:
        warn(warned)
        told.warned(warned)

    return written.keep, warn_there_too


def read_world(settings: BrokerSettings, source: Source) -> World:
    operator = policy.Settings(
        namespace=settings.namespace,
        shared_namespaces=settings.shared_model_namespaces,
        allow_inline=settings.allow_inline_credentials,
        plain_http=read_hosts("--plain-http-hosts", settings.plain_http_hosts),
        allowed=read_hosts("--allow-hosts", settings.allow_hosts),
        off=addresses.off_limits(settings.namespace, settings.environ, read_resolver()),
        seals=settings.sealing_keys is not None,
    )
    try:
        return World(source.read(), operator)
    except files.Unreadable as broken:
        raise ConfigError(f"--resources: {broken}") from broken


def read_resolver() -> str:
    """Where names are looked for, which in a pod tells the cluster's domain."""
    file = Path("/etc/resolv.conf")
    return file.read_text(errors="replace") if file.is_file() else ""


def read_hosts(flag: str, entries: tuple[str, ...]) -> addresses.HostList:
    try:
        return addresses.parse_hosts(entries)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from error


async def open_house(settings: BrokerSettings, world: World, trust: Trust, telemetry: Telemetry, closing: AsyncExitStack) -> House:
    """Everything that an exchange may use; closed, in the right order, with the stack."""
    rotation = Rotation(settings.audit_max_bytes, settings.audit_max_age, settings.audit_keep)
    audit = Audit.open(settings.audit, VERSION, read_audit_key(settings.audit_key_file), rotation)
    closing.callback(audit.close)
    ledger = await open_ledger(settings)
    closing.push_async_callback(ledger.close)
    settler = Settler(ledger)
    closing.push_async_callback(settler.drain, LAST_SETTLEMENTS_S)
    upstream = Upstream(world.secret, world.operator.allowed, world.operator.off, settings.max_bodies)
    closing.push_async_callback(upstream.close)
    counting = Counting()
    closing.callback(counting.close)
    return House(
        snapshot=lambda: world.snapshot,
        identify=trust.judge,
        ledger=ledger,
        settler=settler,
        upstream=upstream,
        counting=counting,
        audit=audit,
        telemetry=telemetry,
        now_s=time.monotonic,
        wall_s=time.time,
        router=Router(time.monotonic, random.SystemRandom().random),
        read_on_s=settings.read_on_after_hangup,
    )


async def open_exports(settings: BrokerSettings, world: World, house: House, closing: AsyncExitStack) -> Sequence[Watch]:
    """From now on exchanges are traced, where there is a collector; what keeps that going is returned.

    Raises:
        ConfigError: it cannot be as it is wanted.
    """
    content = otlp.Content(Overheard(), world.secret_values) if settings.otel_content else None
    house.trace, exports = await otlp.open_exports(settings.environ, house.telemetry, VERSION, closing, content)
    if content is not None:
        house.upstream.hear = content.overheard.hear
    return exports


def open_seals(path: Path | None, house: House) -> Sequence[Watch]:
    """From now on ids are sealed, where there are keys; what follows their file is returned.

    Raises:
        ConfigError: the file cannot be used.
    """
    if path is None:
        return ()
    file = KeyFile.open(path)
    house.seals = file.seals
    figures.show_sealing_keys(house.telemetry, file)
    return [file.keep]


async def drain(door: Server, house: House, deadline_s: float) -> None:
    """Not ready any more, soon no new request; what runs may end. What still does at the deadline is told so in its caller's dialect."""
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + deadline_s
    house.leaving = True
    await door.leave(min(LEAVE_S, deadline_s))
    house.draining = True

    def cut_off() -> None:
        for x in tuple(house.exchanges):
            x.end(Busy("this broker is being stopped and could not wait for the end of this; ask again", retry_after_s=1))

    ending = loop.call_at(ends_s, cut_off)
    try:
        await door.drain(max(0.0, ends_s - loop.time()) + LAST_WORDS_S)
    finally:
        ending.cancel()


async def either(wanted: asyncio.Event, stop: asyncio.Event) -> bool:
    """Wait for one of two events; True when it was the wanted one."""
    loop = asyncio.get_running_loop()
    waits = [loop.create_task(event.wait()) for event in (wanted, stop)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in waits:
        task.cancel()
    return not stop.is_set()


async def keep_svid(endpoint: str, trust: Trust, world: World, house: House, first: asyncio.Event) -> None:
    """Follow the Workload API. Our own trust domain decides whose namespace a bare model name means."""

    def apply(update: Update | None) -> None:
        trust.apply(update)
        own = trust.own_id
        if own is not None:
            if own.trust_domain != world.operator.trust_domain:
                world.operator = replace(world.operator, trust_domain=own.trust_domain)
                world.replace(world.resources)
                pipeline.decide_again(house)
            first.set()

    try:
        await workload_api.watch(endpoint, apply, trust.note)
    except workload_api.WorkloadApiError as final:
        raise ConfigError(f"--spiffe-endpoint-socket {endpoint}: {final}") from final


async def keep_objects(source: Source, world: World, house: House) -> None:
    """Every change of the objects is in force for the next request, and asked of those in flight."""
    async for resources in source.changes():
        world.replace(resources)
        pipeline.decide_again(house)
        world.report()


class Holds:
    """The upkeep of the store's holds. `open` is how many were not settled at the last look."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.open = 0

    async def keep(self) -> None:
        """Renew the leases of what runs, and spend what nobody settled; what a crash left behind goes to audit."""
        house, rounds = self._house, 0
        while True:
            try:
                if rounds % 2 == 0:
                    await house.ledger.renew([x.hold_id for x in house.exchanges if x.hold_id and hasattr(x, "held") and x.held.leased])
                for lost in await house.ledger.expire():
                    now = datetime.fromtimestamp(house.wall_s(), UTC)
                    house.audit.write(
                        Expired(
                            time=now,
                            exchange=lost.hold_id,
                            spiffe_id=lost.identity,
                            tokens=lost.tokens,
                            cost_microusd=lost.cost_microusd,
                        )
                    )
                self.open = await house.ledger.open_holds()
            except Unavailable as away:
                log.warning("quota_store_away", extra={"reason": str(away)})
            rounds += 1
            await asyncio.sleep(EXPIRE_S)


async def keep_time(house: House) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        pipeline.end_overdue(house)
        house.audit.tend()


def read_bundles(settings: BrokerSettings) -> dict[str, Bundle]:
    """The trust anchors that the operator gave as files.

    Raises:
        ConfigError: a file is missing or holds no certificate.
    """
    bundles: dict[str, Bundle] = {}
    for given in settings.trust_bundle:
        try:
            found = read_bundle(given.file.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"--trust-bundle {given.trust_domain}={given.file}: {error}") from error
        bundles[given.trust_domain] = bundles.get(given.trust_domain, ()) + found
    return bundles


def read_audit_key(file: Path | None) -> bytes | None:
    """The key of the audit chain.

    Raises:
        ConfigError: it cannot be read, or is too short to be a secret.
    """
    return read_key("--audit-key-file", file) if file else None


def limits_of(settings: BrokerSettings) -> Limits:
    return Limits(body_bytes=settings.max_body, bodies_bytes=settings.max_bodies, connections=settings.max_connections)


def why_not_ready(house: House, trust: Trust) -> list[str]:
    reasons = [
        trust.why_not_ready(house.wall_s()),
        house.audit.why_not_ready,
        "this broker is draining: it is being stopped" if house.leaving else "",
    ]
    return [reason for reason in reasons if reason]


def announce(settings: BrokerSettings, found: Started) -> None:
    """The one line of a start."""
    logs.listening(
        "broker",
        found.spiffe_id,
        {"agents": f"mTLS {settings.listen.host}:{found.port}", "admin": f"http://{settings.admin.host}:{found.admin_port}"},
    )
