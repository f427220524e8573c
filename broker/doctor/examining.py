"""All checks, one after the other, each with a deadline. What cannot be looked at is left out: what it needs was said to be wrong."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.config import BrokerSettings
from broker.doctor import collecting, deciding, entering, keeping, reaching, sealing, trusting
from broker.doctor.finding import Finding

_SOCKET: Final = "spiffe_endpoint_socket"


@dataclass(frozen=True, slots=True)
class Order:
    """What to look at.

    settings: as `broker serve` takes them. absent: names of switches that are missing or wrong, which stand in `settings` as nothing.
    peers: SPIFFE IDs whose trust domains a bundle should vouch for.
    ask: send one GET with its key to each provider.
    """

    settings: BrokerSettings
    absent: frozenset[str] = frozenset()
    peers: Sequence[str] = ()
    ask: bool = False
    clock: Callable[[], float] = field(default=time.time)


async def examine(order: Order) -> list[Finding]:
    """Everything, in the order in which one mends it."""
    settings, now = order.settings, order.clock()
    nobody = trusting.Trusted((), None, {})
    trusted = nobody if _SOCKET in order.absent else await trusting.examine(settings, now)
    findings = [*trusted.findings]
    decided = deciding.Decided((), None, None)
    if "resources" not in order.absent:
        decided = await deciding.examine(settings, trusted.state.identity.trust_domain if trusted.state else "")
    if trusted.state is not None:
        findings += trusting.peers(trusted, decided.snapshot, order.peers, now)
    findings += decided.findings
    ahead: list[tuple[str, float]] = []
    if decided.snapshot is not None and decided.resources is not None:
        for one in await reaching.examine(decided.snapshot, decided.resources, ask=order.ask):
            findings.append(one.finding)
            if one.date_s is not None:
                ahead.append((f"the provider {one.finding.found.partition(' ')[0]}", one.date_s - order.clock()))
    if "quota_store" not in order.absent:
        kept, store_ahead = await keeping.examine_store(settings)
        findings += kept
        if store_ahead is not None:
            ahead.append(("the quota store", store_ahead))
    findings += keeping.clocks(ahead)
    findings += keeping.examine_audit(settings)
    if "sealing_keys" not in order.absent:
        findings += sealing.examine(settings, decided.snapshot)
    findings += await collecting.examine(settings)
    findings += await entering.examine_port(settings.admin)
    findings += entering.examine_doors(settings)
    return findings
