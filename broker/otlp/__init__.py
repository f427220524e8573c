"""Traces and metrics to an OpenTelemetry collector, by OTLP over HTTP. Where no endpoint is named nothing of it is even imported."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack

from broker.otlp import variables
from broker.telemetry import Telemetry
from broker.tracing import Begin, untraced

Keep = Callable[[], Coroutine[None, None, None]]


async def open_exports(
    environ: Mapping[str, str], telemetry: Telemetry, version: str, closing: AsyncExitStack
) -> tuple[Begin, Sequence[Keep]]:
    """What begins a trace, and what must be kept running, as the environment wants it (docs/telemetry.md).

    OpenTelemetry's exporters read their own variables from the environment of the process.

    Raises:
        ConfigError: a variable cannot be used; the message says which.
    """
    wanted = variables.read(environ)
    if wanted is None:
        return untraced, ()
    from broker.otlp import opening  # noqa: PLC0415  20 MB that nobody needs who has no collector

    return await opening.open_exports(wanted, telemetry, version, closing)
