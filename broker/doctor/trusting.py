"""Is the Workload API there, is our SVID good and for how long, and does a bundle vouch for those whom the policies name."""

import asyncio
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from broker import policy, workload_api
from broker.config import BrokerSettings, ConfigError
from broker.doctor.finding import Finding, fail, ok, warn
from broker.errors import Unidentified
from broker.svids import BadUpdate, Update
from broker.trust import Trust
from broker.truststate import Bundle, TrustState
from broker.wiring import read_bundles

PATIENCE_S: Final = 5.0
BUNDLES_S: Final = 10.0
SOON: Final = 0.25  # of its life: agents renew at half of it
_PACE: Final = workload_api.Pace(connect_s=2.0, first_answer_s=4.0)
_WAYS: Final = (
    ("No such file", "start the SPIFFE agent on this node, or mount the folder of its socket (the CSI driver csi.spiffe.io) into this pod"),
    ("Connection refused", "the socket is there and nobody listens: start the SPIFFE agent, or remove the socket that it left"),
    ("Permission denied", "let this user into the folder of the socket and write to it"),
    ("silent", "what listens there does not answer as a SPIFFE agent: name the socket of the Workload API, and look at the agent's log"),
    ("UNAVAILABLE", "that may be no SPIFFE agent: name the socket of the Workload API; an agent says in its log why it hung up"),
)
_ENTRY: Final = "make an entry for this workload (with SPIRE: a ClusterSPIFFEID whose selectors fit this pod), then wait a few seconds"


@dataclass(frozen=True, slots=True)
class Trusted:
    """What the Workload API gave. state: None when it gave nothing that is fit."""

    findings: tuple[Finding, ...]
    state: TrustState | None
    bundles: Mapping[str, Bundle]


async def examine(settings: BrokerSettings, now: float) -> Trusted:
    """Ask once."""
    bundles, findings = await _operators_bundles(settings)
    update, said = await _ask(settings.spiffe_endpoint_socket)
    if update is None:
        return Trusted((*findings, said), None, bundles)
    trust = Trust(bundles)
    try:
        trust.apply(update)
        trust.server_context()
    except (BadUpdate, ssl.SSLError) as unfit:
        told = fail("SVID", f"what the agent gave cannot be used: {unfit}", "look at the agent's and the SPIFFE server's logs")
        return Trusted((*findings, said, told), None, bundles)
    state = trust.in_force
    if state is None:
        raise AssertionError("an update that was applied is in force")
    return Trusted((*findings, said, *_svid(state, now)), state, state.bundles)


async def _ask(endpoint: str) -> tuple[Update | None, Finding]:
    """The first answer of the Workload API."""
    check, notes, got = "Workload API", list[str](), list[Update | None]()
    heard = asyncio.Event()

    def take(update: Update | None) -> None:
        got.append(update)
        heard.set()

    def note(text: str) -> None:
        notes.append(text)
        heard.set()

    loop = asyncio.get_running_loop()
    watching = loop.create_task(workload_api.watch(endpoint, take, note, _PACE))
    waiting = loop.create_task(heard.wait())
    try:
        await asyncio.wait((watching, waiting), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            raise watching.exception() or AssertionError("a watch never ends")
    except ValueError as wrong:
        return None, fail(check, f"--spiffe-endpoint-socket {endpoint}: {wrong}", "give unix:///PATH of the agent's socket")
    except workload_api.WorkloadApiError as refused:
        return None, fail(check, f"{endpoint}: {refused}", "name the socket of the Workload API, not one of the agent's other sockets")
    finally:
        for task in (watching, waiting):
            task.cancel()
            with suppress(asyncio.CancelledError, ValueError, workload_api.WorkloadApiError):
                await task
    update = next((one for one in got if one is not None), None)
    if update is not None:
        return update, ok(check, f"{endpoint} gave {len(update.svids)} SVID and {len(update.federated)} federated bundles")
    if got:
        return None, fail(
            check, f"{endpoint}: the agent answers, and has no identity for this process ({notes[-1] if notes else ''})", _ENTRY
        )
    said = notes[-1] if notes else "silent"
    return None, fail(check, f"{endpoint}: {said}", next((way for sign, way in _WAYS if sign in said), _ENTRY))


def _svid(state: TrustState, now: float) -> Iterator[Finding]:
    spiffe_id, left = state.identity.spiffe_id, state.not_after - now
    ends = datetime.fromtimestamp(state.not_after, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if now < state.not_before:
        yield fail(
            "SVID",
            f"{spiffe_id} is valid in {span(state.not_before - now)} only",
            "set the clock of this machine, or of the SPIFFE server's",
        )
    elif left <= 0:
        yield fail(
            "SVID", f"{spiffe_id} has expired at {ends}", "the agent does not renew it: look at its log, and at this machine's clock"
        )
    elif left < SOON * (state.not_after - state.not_before):
        text = f"{spiffe_id} is valid for {span(left)} only, until {ends}"
        yield warn("SVID", text, "an agent renews at half of the time: look whether it reaches the SPIFFE server")
    else:
        yield ok("SVID", f"{spiffe_id}, valid for {span(left)}, until {ends}")
    if state.not_before <= now <= state.not_after:
        try:
            state.verify(state.svid.chain, now)
        except Unidentified:
            text = f"the bundle of {state.identity.trust_domain} does not vouch for our own SVID, so no gateway will talk to us"
            yield fail("trust bundles", text, "restart the agent; if it lasts, the SPIFFE server has dropped the authority that issued it")


async def _operators_bundles(settings: BrokerSettings) -> tuple[dict[str, Bundle], list[Finding]]:
    """Those of --trust-bundle and --trust-bundle-configmap."""
    findings: list[Finding] = []
    found: dict[str, Bundle] = {}
    try:
        found = read_bundles(settings)
    except ConfigError as wrong:
        findings.append(
            fail("trust bundles", str(wrong), "give a file with the CA certificates of that trust domain, PEM or a SPIFFE bundle")
        )
    if settings.trust_bundle_configmap:
        try:
            for domain, anchors in (await _config_maps(settings)).items():
                found[domain] = found.get(domain, ()) + anchors
        except ValueError as wrong:
            findings.append(
                fail("trust bundles", f"--trust-bundle-configmap: {wrong}", "let the broker's service account get that ConfigMap")
            )
    return found, findings


async def _config_maps(settings: BrokerSettings) -> dict[str, Bundle]:
    """Raises ValueError: there is no cluster, or not all could be read in time."""
    from broker.kube import bundles, connection  # noqa: PLC0415  who has no cluster needs none of it

    found: dict[str, Bundle] = {}
    heard = asyncio.Event()
    wanted = {place.trust_domain for place in settings.trust_bundle_configmap}

    def take(domain: str, anchors: Bundle) -> None:
        found[domain] = anchors
        if wanted <= set(found):
            heard.set()

    api = await connection.Connection.open(settings.kubeconfig, settings.environ)
    keeping = asyncio.get_running_loop().create_task(bundles.TrustBundles(api, settings.trust_bundle_configmap, take).keep())
    try:
        async with asyncio.timeout(BUNDLES_S):
            await heard.wait()
    except TimeoutError:
        raise ValueError(f"nothing was read of {', '.join(sorted(wanted - set(found)))} in {BUNDLES_S:.0f} s") from None
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await api.close()
    return found


def peers(trusted: Trusted, rules: policy.Snapshot | None, asked: Iterable[str], now: float) -> Iterator[Finding]:
    """Whether a bundle vouches for the trust domains that the policies name, and for those of the SPIFFE IDs that somebody asks about."""
    check = "trust bundles"
    remedy = "federate with it in the SPIFFE server, or give its CA certificates with --trust-bundle {}=FILE; or mend the name"
    named = {domain: f"policies name identities of {domain}" for domain in sorted(_domains(rules))}
    named |= {domain: f"{whole} is of {domain}" for whole in asked if (domain := whole.removeprefix("spiffe://").partition("/")[0])}
    good: list[str] = []
    for domain, why in named.items():
        anchors = trusted.bundles.get(domain, ())
        if not anchors:
            yield fail(check, f"{why}, and there is no bundle of it: nobody of it gets in", remedy.format(domain))
        elif all(anchor.not_valid_after_utc.timestamp() < now for anchor in anchors):
            yield fail(check, f"{why}, and every CA certificate in its bundle has expired", remedy.format(domain))
        else:
            good.append(domain)
    if good or not named:
        others = sorted({*trusted.bundles} - {*named})
        besides = f"; besides of {', '.join(others)}" if others else ""
        yield ok(check, f"held of {', '.join(good) or 'no trust domain that a policy names'}{besides}")


def _domains(rules: policy.Snapshot | None) -> set[str]:
    found: set[str] = set()
    for rule in rules.rules.all if rules else ():
        if rule.grants:
            found |= (
                {rule.trust_domain} if rule.subjects is None and rule.trust_domain else {one.trust_domain for one in rule.subjects or ()}
            )
    return found


def span(seconds: float) -> str:
    """As people say it."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
