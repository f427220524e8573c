"""The spans of one exchange while it runs: ids, times and outcomes, in plain values. What exports them is broker/otlp.

Nothing here knows OpenTelemetry's SDK: its spans would cost an exchange a hundred microseconds of the event loop. What a span says of
an exchange is what its audit line says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from broker import tracecontext
from broker.audit import Line
from broker.chat import Header, Usage
from broker.dialects import ROUTES, find_by_id
from broker.grant import Backend, Cause
from broker.names import MODELS_PATH
from broker.overheard import Words
from broker.tracecontext import RANDOM, SAMPLED, Parent, Sampler

_KNOWN: Final = frozenset((*(path for _, path in ROUTES), MODELS_PATH))


class Trace(Protocol):
    """What the hallway tells of one exchange.

    headers: what the provider that is asked now is told about the trace.
    """

    @property
    def headers(self) -> Sequence[Header]: ...

    def ask(self, backend: Backend) -> None:
        """An attempt at a provider begins."""
        ...

    def failed(self, cause: Cause) -> None:
        """The attempt under way came to nothing. One that did not ends with the exchange."""
        ...

    def end(self, line: Line, usage: Usage | None) -> None:
        """The exchange is over. `usage`: what the last attempt's provider reported, where it did."""
        ...


Begin = Callable[[str, str, Sequence[Header], float, float], Trace]  # method, path, the caller's headers, began_s, time_s


class Untraced:
    """Nobody looks. No context goes to a provider either, not even the caller's: the operator did not ask for one."""

    __slots__ = ()
    headers: Sequence[Header] = ()

    def ask(self, backend: Backend) -> None: ...

    def failed(self, cause: Cause) -> None: ...

    def end(self, line: Line, usage: Usage | None) -> None: ...


UNTRACED: Final = Untraced()


def untraced(_method: str, _path: str, _headers: Sequence[Header], _began_s: float, _time_s: float) -> Trace:
    return UNTRACED


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt at a provider. Monotonic seconds; `ended_s` and `cause` are None while it has not failed."""

    span_id: str
    backend: Backend
    began_s: float
    ended_s: float | None = None
    cause: Cause | None = None


@dataclass(slots=True, eq=False)
class Traced:
    """An exchange that belongs to a trace, recorded or not. `flags` go on to the provider."""

    tracing: "Tracing"
    method: str
    route: str
    began_s: float
    time_s: float
    parent: Parent | None
    trace_id: str
    span_id: str
    flags: int
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    headers: Sequence[Header] = ()

    def ask(self, backend: Backend) -> None:
        now = Attempt(self.tracing.span_id(), backend, self.tracing.now_s())
        self.attempts.append(now)
        self.headers = tracecontext.headers(self.trace_id, now.span_id, self.flags, self.parent.state if self.parent else b"")

    def failed(self, cause: Cause) -> None:
        self.attempts[-1].cause, self.attempts[-1].ended_s = cause, self.tracing.now_s()

    def end(self, line: Line, usage: Usage | None) -> None:
        if self.flags & SAMPLED:
            put, now_s = self.tracing.put, self.tracing.now_s()
            put(Ended(self, line, usage, now_s))
            for attempt in self.attempts:
                words = self.tracing.take(attempt.span_id)
                if words is not None and attempt.cause is not None:  # its answer may have been withheld
                    words.release()
                    words = None
                put(Ended(self, line, usage if attempt is self.attempts[-1] else None, now_s, attempt, words))


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """One span, ready to be exported: of the exchange itself, or of an attempt. Holds no headers, and no bodies but `words`.

    words: where the operator wants to see them (overheard.py); whoever takes the span releases them.
    """

    trace: Traced
    line: Line
    usage: Usage | None
    ended_s: float
    attempt: Attempt | None = None
    words: Words | None = None


def wordless(_span_id: str) -> Words | None:
    """Nobody listens."""
    return None


@dataclass(frozen=True, slots=True)
class Tracing:
    """Begins a trace for each exchange, or goes on with the caller's.

    draw: as many random bits as one asks for. They need not be secret.
    put: takes a span that has ended; must not block.
    take: the words of an attempt, by its span.
    """

    sampler: Sampler
    now_s: Callable[[], float]
    draw: Callable[[int], int]
    put: Callable[[Ended], object]
    take: Callable[[str], Words | None] = wordless

    def begin(self, method: str, path: str, headers: Sequence[Header], began_s: float, time_s: float) -> Trace:
        parent = tracecontext.read(headers)
        trace_id = parent.trace_id if parent else f"{self.draw(128) or 1:032x}"
        flags = (parent.flags & RANDOM) if parent else RANDOM
        if self.sampler.samples(parent, trace_id):
            flags |= SAMPLED
        route = path if path in _KNOWN else find_by_id(path)[0]  # any other is the caller's own words
        return Traced(self, method, route, began_s, time_s, parent, trace_id, self.span_id(), flags)

    def span_id(self) -> str:
        return f"{self.draw(64) or 1:016x}"
