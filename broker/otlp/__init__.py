"""Traces and metrics to an OpenTelemetry collector, by OTLP over HTTP. Where no endpoint is named nothing of it is even imported.

variables.py  what is wanted, by OpenTelemetry's own variables   way.py        those about the way to the collector
spans.py      traces, as the exporter takes them                 points.py     metrics, as it takes those
outbox.py     a bounded queue, and a thread behind it            collector.py  the way out, by our rules
opening.py    all of it put together                             quiet.py      what the SDK logs stays here
content.py    with --otel-content: prompts and answers as attributes of a span, by messages.py, after redaction.py
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from broker.otlp import variables
from broker.overheard import Overheard
from broker.telemetry import Telemetry
from broker.tracing import Begin, untraced

Keep = Callable[[], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Content:
    """What it takes to show prompts and answers on spans.

    overheard: where they are kept until then.
    secrets: the credentials that live now; asked from another thread, for each text.
    """

    overheard: Overheard
    secrets: Callable[[], Iterable[str]]


async def open_exports(
    environ: Mapping[str, str], telemetry: Telemetry, version: str, closing: AsyncExitStack, content: Content | None = None
) -> tuple[Begin, Sequence[Keep]]:
    """What begins a trace, and what must be kept running, as the environment wants it (docs/telemetry.md).

    OpenTelemetry's exporters read their own variables from the environment of the process.

    content: None = spans have none.

    Raises:
        ConfigError: a variable cannot be used; the message says which. Or there is content, and no traces that could have it.
    """
    wanted = variables.read(environ, content=content is not None)
    if wanted is None:
        return untraced, ()
    from broker.otlp import opening  # noqa: PLC0415  20 MB that nobody needs who has no collector

    return await opening.open_exports(wanted, telemetry, version, closing, content)
