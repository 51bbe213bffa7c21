"""Spans of calls, requests and background work, with OpenTelemetry's semantic conventions (https://opentelemetry.io/docs/specs/semconv/).

Nothing is recorded unless the trace is sampled; `otlp` records and exports. Names and attributes come from fixed sets: they never contain
an ID, an email address or a secret, and therefore no URL either.
"""

from collections.abc import Mapping
from contextvars import Context, ContextVar
from typing import Literal, Protocol

Attributes = Mapping[str, str | int]
SpanKind = Literal["SERVER", "CLIENT", "INTERNAL"]

TRACEPARENT = "traceparent"
"""The metadata key or header with the caller's span (https://www.w3.org/TR/trace-context/)."""


class Span:
    """The base of spans, which records nothing itself: the span of everything that is not sampled.

    Attributes:
        log_fields: The fields that log lines contain within the context of the span.
    """

    __slots__ = ()
    log_fields: Mapping[str, str] = {}

    def child(self, kind: SpanKind, name: str, attributes: Attributes) -> "Span":  # noqa: ARG002
        """Start a span within this one. Within its context, the new span is the current one."""
        return self

    def set(self, name: str, value: str | int) -> None:
        """Set an attribute."""

    def fail(self, error_type: str, *, is_fault: bool = True) -> None:
        """Record that the operation failed, and the reason, unless one is recorded already.

        Args:
            error_type: The reason, from a fixed set.
            is_fault: Whether the operation itself is at fault, and not its caller.
        """

    def __enter__(self) -> "Span":
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


class Tracer(Protocol):
    """Starts the first span of a trace in this process."""

    def start(
        self, name: str, attributes: Attributes, *, kind: SpanKind = "SERVER", traceparent: str = ""
    ) -> Span:
        """Start a span, or return one that records nothing if the trace is not sampled.

        Args:
            traceparent: The caller's span, or empty.
        """
        ...


class Background(Span):
    """The current span of background tasks: each unit of work is a trace, and nothing else is recorded."""

    __slots__ = ("_tracer",)

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def child(self, kind: SpanKind, name: str, attributes: Attributes) -> Span:
        """Start the span of a unit of work."""
        return self._tracer.start(name, attributes, kind=kind) if kind == "INTERNAL" else NOT_RECORDED


NOT_RECORDED = Span()
current_span: ContextVar[Span] = ContextVar("current_span", default=NOT_RECORDED)
"""The span of the operation that the current task performs."""


def store_call(system: str, operation: str, kind: str) -> Span:
    """Start the span of a store operation on records of a kind."""
    parent = current_span.get()
    if parent is NOT_RECORDED:
        return parent
    summary = f"{operation} {kind}".rstrip()
    attributes = {
        "db.system.name": system,
        "db.operation.name": operation,
        "db.query.summary": summary,
    }
    return parent.child("CLIENT", summary, attributes)


def http_request(method: str, host: str, port: int, template: str) -> Span:
    """Start the span of a request to an HTTP server. `template` is the path without IDs, or empty if it is unknown."""
    parent = current_span.get()
    if parent is NOT_RECORDED:
        return parent
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "server.address": host,
        "server.port": port,
    }
    if template:
        attributes["url.template"] = template
    return parent.child("CLIENT", f"{method} {template}".rstrip(), attributes)


def set_http_status(span: Span, status: int, *, first_fault: int) -> None:
    """Record the status of an HTTP response; from `first_fault` on, it is a failure."""
    span.set("http.response.status_code", status)
    if status >= first_fault:
        span.fail(str(status))


def unit_of_work(name: str) -> Span:
    """Start the span of a unit of work."""
    return current_span.get().child("INTERNAL", name, {})


def detached_context() -> Context:
    """Return an empty context, except for the current span, for a task that is independent of the call that started it."""
    context = Context()
    context.run(current_span.set, current_span.get())
    return context
