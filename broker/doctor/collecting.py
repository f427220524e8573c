"""Do traces and metrics get to the collector, where one is named. It is connected to, and told nothing."""

import asyncio
import os
from collections.abc import Sequence
from typing import Final

from broker.config import BrokerSettings, ConfigError
from broker.doctor.finding import Finding, fail, ok, warn
from broker.otlp import variables, way

CONNECT_S: Final = 5.0
_CHECK: Final = "telemetry"
_SIGNALS: Final = ("TRACES", "METRICS")


async def examine(settings: BrokerSettings) -> Sequence[Finding]:
    """By OpenTelemetry's variables, as a broker reads them at its start."""
    try:
        wanted = variables.read(settings.environ, content=settings.otel_content)
    except ConfigError as wrong:
        return [fail(_CHECK, str(wrong), "give it as docs/telemetry.md has it: a broker does not start with it")]
    if wanted is None:
        return [ok(_CHECK, "no collector is named: Prometheus may scrape the admin port, and nothing is sent")]
    signals = [signal for signal, on in zip(_SIGNALS, (wanted.traces, wanted.metrics), strict=True) if on]
    places: dict[tuple[str, int], list[str]] = {}
    for signal in signals:
        places.setdefault(way.address(settings.environ, signal), []).append(signal.lower())
    findings = [await _look(host, port, " and ".join(what)) for (host, port), what in places.items()]
    if wanted.ignored:
        findings.append(
            warn(_CHECK, f"set, and ignored: {', '.join(wanted.ignored)}", "take them out; docs/telemetry.md says what is so instead")
        )
    if settings.otel_content:
        remedy = "leave it out, unless all who read the collector may"
        findings.append(warn(_CHECK, "prompts and answers leave with the traces (--otel-content)", remedy))
    return findings


async def _look(host: str, port: int, what: str) -> Finding:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as away:  # TimeoutError and gaierror are OSErrors
        why = os.strerror(away.errno) if away.errno and away.errno > 0 else away.strerror or "nothing in time"
        remedy = "requests are served all the same; look whether it runs, and at DNS and the NetworkPolicies of both namespaces"
        return warn(_CHECK, f"no connection to the collector at {where} ({why}): {what} are dropped", remedy)
    writer.transport.abort()
    return ok(_CHECK, f"the collector at {where} takes connections, for {what}")
