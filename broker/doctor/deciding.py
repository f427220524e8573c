"""Are the objects there and accepted, and does every provider have its key, which may go where it is asked for."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from broker import addresses, files, policy
from broker.config import BrokerSettings, ConfigError
from broker.doctor.finding import Finding, fail, few, ok, warn
from broker.objects import Resources
from broker.policy.status import ObjectStatus
from broker.review.checking import Finding as Remark
from broker.review.checking import errors_of, warnings_of
from broker.wiring import read_hosts, read_resolver

_CHECK: Final = "objects"
_MEND: Final = "mend it; `broker check` says all of it, with file, line and column"
_REMEDIES: Final = {
    "CredentialSecretNotFound": "create the Secret in the object's namespace, or let the broker read it (the chart's Role there)",
    "CredentialKeyMissing": "add that key to the Secret",
    "HostNotAllowed": "the Secret's owner lists the host in its annotation aiaccess.dev/hosts; nobody else can say where a key may go",
    "EndpointInvalid": "mend the endpoint of the provider",
    "NotSupported": "use what this version speaks, or take the provider out",
}


@dataclass(frozen=True, slots=True)
class Decided:
    """What the objects say. resources, snapshot: None when nobody knows."""

    findings: tuple[Finding, ...]
    resources: Resources | None
    snapshot: policy.Snapshot | None


async def examine(settings: BrokerSettings, trust_domain: str) -> Decided:
    """Read them once, as a broker does at its start.

    trust_domain: our own; "" when we have none.
    """
    try:
        operator = policy.Settings(
            namespace=settings.namespace,
            trust_domain=trust_domain,
            shared_namespaces=settings.shared_model_namespaces,
            allow_inline=settings.allow_inline_credentials,
            plain_http=read_hosts("--plain-http-hosts", settings.plain_http_hosts),
            allowed=read_hosts("--allow-hosts", settings.allow_hosts),
            off=addresses.off_limits(settings.namespace, settings.environ, read_resolver()),
        )
        resources = await asyncio.to_thread(_read, settings)
    except ConfigError as wrong:
        return Decided((fail("switches", str(wrong), "give it as docs/commands.md has it"),), None, None)
    except files.Unreadable as broken:
        remedy = "mend it: while one file is unreadable, nobody knows what the objects say, and a broker does not start"
        return Decided(tuple(few((fail(_CHECK, problem, remedy) for problem in broken.problems), remedy)), None, None)
    except ValueError as away:  # kube.connection.NoCluster
        remedy = "look at the service account's token, at --kubeconfig, and whether the API server can be reached from here"
        return Decided((fail(_CHECK, f"the cluster gives no objects: {away}", remedy),), None, None)
    snapshot = policy.build(resources, operator)
    return Decided(tuple(_findings(resources, snapshot, settings)), resources, snapshot)


def _read(settings: BrokerSettings) -> Resources:
    if settings.resources is not None:
        return files.Folder(settings.resources, settings.environ).read()
    from broker.kube import once, source  # noqa: PLC0415  who has no cluster needs none of it

    scope = source.Scope.of(settings.namespace, settings.shared_model_namespaces, settings.namespaces)
    return once.read_once(settings.kubeconfig, settings.environ, scope)


def _findings(resources: Resources, snapshot: policy.Snapshot, settings: BrokerSettings) -> Iterator[Finding]:
    for namespace in sorted(resources.unreadable):
        what = (
            "its own, where the operator's Denies stand: nothing is served" if namespace == settings.namespace else "its models answer 503"
        )
        remedy = "bind the chart's ClusterRole of the broker to its service account in that namespace, or take it out of --namespaces"
        yield fail(_CHECK, f"namespace {namespace} may not be read ({what})", remedy)
    errors = list(errors_of(resources, snapshot))
    yield from few((fail(_CHECK, _told(one), _MEND) for one in errors), _MEND)
    yield from few((_provider(status, row.name, row.reason, row.message) for status, row in _away(snapshot)), _MEND)
    notes = [one for one in warnings_of(resources, snapshot) if "is not ready" not in one.message]
    yield from few((warn(_CHECK, _told(one), _MEND) for one in notes), _MEND)
    models = sum(not offer.taken for offer in snapshot.offers.values())
    grants = sum(rule.grants for rule in snapshot.rules.all)
    if not models or not grants:
        missing = "no AIRoutingPolicy offers a model" if not models else "no AIAccessPolicy grants anything"
        remedy = "mend the objects above, then look again" if errors else "write one: docs/objects.md"
        yield warn(_CHECK, f"{missing}: every request will be refused", remedy)
    elif not errors:
        yield ok(_CHECK, f"{len(snapshot.statuses)} accepted; models: {models}, policies that grant: {grants}")


def _told(one: Remark) -> str:
    return f"{one.object} at {one.place}: {f'{one.path}: ' if one.path else ''}{one.message}"


def _away(snapshot: policy.Snapshot) -> Iterator[tuple[ObjectStatus, "Away"]]:
    for status in snapshot.statuses:
        for row in status.providers:
            if status.about.accepted and not row.ready:
                yield status, Away(row.name, row.reason, row.message)
        for condition in status.conditions:
            if status.about.kind == "AIProvider" and status.about.accepted and condition.type == "Ready" and condition.status == "False":
                yield status, Away(status.about.name, condition.reason, condition.message)


@dataclass(frozen=True, slots=True)
class Away:
    """A provider that is not ready."""

    name: str
    reason: str
    message: str


def _provider(status: ObjectStatus, name: str, reason: str, message: str) -> Finding:
    return fail("provider", f"{name} of {status.about} is not ready ({reason}): {message}", _REMEDIES.get(reason, _MEND))
