"""Spans as OpenTelemetry's exporter takes them, made of what an exchange was and of its audit line. Runs on the exporter's thread."""

from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from broker import genai
from broker.otlp import content
from broker.otlp.redaction import Clean, redact
from broker.tracing import Attempt, Ended, Traced

Value = str | int | float | bool | tuple[str, ...]
NS: Final = 1_000_000_000
NO_ERROR: Final = frozenset(("answered", "listed", "cut_off"))
_NOBODYS_FAULT: Final = frozenset((*NO_ERROR, "caller_left"))
_CALLERS_FAULT: Final = range(400, 500)
_OK: Final = 200
_OKAY: Final = Status(StatusCode.UNSET)
_FAILED: Final = Status(StatusCode.ERROR)


class Spans:
    """Makes spans of one process.

    clean: redacts the words of an attempt that has any.
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope, clean: Clean = redact) -> None:
        self._resource = resource
        self._scope = scope
        self._clean = clean

    def make(self, ended: Ended) -> ReadableSpan:
        return self._attempt(ended, ended.attempt) if ended.attempt else self._exchange(ended)

    def _exchange(self, ended: Ended) -> ReadableSpan:
        trace, line = ended.trace, ended.line
        # A stream that broke off had its status by then
        broke = line.code not in _NOBODYS_FAULT and line.status not in _CALLERS_FAULT
        return ReadableSpan(
            name=f"{trace.method} {trace.route}".rstrip(),
            context=_context(trace, trace.span_id),
            parent=_context(trace, trace.parent.span_id, is_remote=True) if trace.parent else None,
            resource=self._resource,
            attributes=_of_exchange(ended),
            kind=SpanKind.SERVER,
            status=_FAILED if broke else _OKAY,
            start_time=_moment(trace, trace.began_s),
            end_time=_moment(trace, ended.ended_s),
            instrumentation_scope=self._scope,
        )

    def _attempt(self, ended: Ended, attempt: Attempt) -> ReadableSpan:
        trace, code = ended.trace, ended.line.code
        cause = str(attempt.cause) if attempt.cause is not None else "" if code in NO_ERROR else code
        attributes = _of_attempt(ended, attempt)
        if cause:
            attributes[genai.ERROR_TYPE] = cause
        if ended.words is not None:
            try:
                attributes |= content.attributes(ended.words, ended.line.dialect, self._clean, streaming=ended.line.stream)
            finally:
                ended.words.release()
        return ReadableSpan(
            name=f"{attributes[genai.OPERATION]} {attempt.backend.model}",
            context=_context(trace, attempt.span_id),
            parent=_context(trace, trace.span_id),
            resource=self._resource,
            attributes=attributes,
            kind=SpanKind.CLIENT,
            status=_FAILED if cause and cause != "caller_left" else _OKAY,
            start_time=_moment(trace, attempt.began_s),
            end_time=_moment(trace, attempt.ended_s if attempt.ended_s is not None else ended.ended_s),
            instrumentation_scope=self._scope,
        )


def _of_exchange(ended: Ended) -> dict[str, Value]:
    trace, line = ended.trace, ended.line
    found: dict[str, Value] = {
        genai.METHOD: trace.method,
        genai.EXCHANGE: line.exchange,
        genai.CODE: line.code,
        genai.DECISION: line.decision,
        genai.DIALECT: line.dialect,
        genai.ATTEMPTS: line.attempts,
    }
    known: dict[str, Value] = {
        genai.ROUTE: trace.route,
        genai.STATUS: line.status,
        genai.SPIFFE_ID: line.spiffe_id,
        genai.ERROR_TYPE: "" if line.code in NO_ERROR else line.code,
    }
    found |= {name: value for name, value in known.items() if value}
    if line.namespace:  # before a grant the model is the caller's own words
        found[genai.NAMESPACE] = line.namespace
        found[genai.OPERATION] = genai.operation(line.dialect)
        found[genai.REQUEST_MODEL] = line.model
        found[genai.REQUEST_STREAM] = line.stream
        found[genai.POLICIES] = tuple(map(str, line.policies))
    if line.attempts:
        found[genai.CHARGED_INPUT] = line.input_tokens
        found[genai.CHARGED_OUTPUT] = line.output_tokens
        found[genai.CHARGED_ESTIMATED] = line.estimated
    if line.first_byte_ms is not None:
        found[genai.FIRST_BYTE] = line.first_byte_ms / 1000
    return found


def _of_attempt(ended: Ended, attempt: Attempt) -> dict[str, Value]:
    to, usage = attempt.backend.provider, ended.usage
    found: dict[str, Value] = {
        genai.OPERATION: genai.operation(ended.line.dialect),
        genai.PROVIDER: genai.provider(to.kind),
        genai.PROVIDER_OBJECT: f"{to.namespace}/{to.name}",
        genai.REQUEST_MODEL: attempt.backend.model,
        genai.REQUEST_STREAM: ended.line.stream,
        genai.SERVER_ADDRESS: to.endpoint.host,
        genai.SERVER_PORT: to.endpoint.port,
    }
    if isinstance(attempt.cause, int):
        found[genai.STATUS] = attempt.cause
    elif attempt.cause is None and ended.line.code in NO_ERROR:
        found[genai.STATUS] = _OK
    if usage is not None:
        found[genai.INPUT_TOKENS] = usage.input_tokens
        found[genai.OUTPUT_TOKENS] = usage.output_tokens
        found[genai.CACHE_READ_TOKENS] = usage.cached_tokens
        found[genai.CACHE_WRITE_TOKENS] = usage.cache_write_tokens
    return found


def _context(trace: Traced, span_id: str, *, is_remote: bool = False) -> SpanContext:
    state = trace.parent.state.decode("ascii") if trace.parent else ""
    pairs = [(key, value) for key, _, value in (member.partition("=") for member in state.split(","))] if state else None
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote, TraceFlags(trace.flags), TraceState(pairs))


def _moment(trace: Traced, at_s: float) -> int:
    """Nanoseconds since 1970, by the wall clock of the exchange's beginning: within an exchange time never goes back."""
    return int((trace.time_s + (at_s - trace.began_s)) * NS)
