"""The access log: one log line, two metrics and, if the call is sampled, a span per call."""

import asyncio
import random
import re
import time
from collections.abc import Iterable
from typing import Any

import grpc

from zoomgate_server.call_context import current_call, current_metadata, current_rejection, current_request_id
from zoomgate_server.rpc.middleware.pipeline import Context, Handler, Method
from zoomgate_server.telemetry import logs, spans
from zoomgate_server.telemetry.metrics import ALARMING_CODES, Metrics

REQUEST_ID = "x-request-id"
_VALID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_QUIET = ("/grpc.health.", "/grpc.reflection.")
_ROUNDING = 0.01
"""The share by which gRPC may round a timeout up when it sends it, so that the call ends before the server's deadline."""

_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""The status codes that are failures of the server (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/)."""


class AccessLog:
    """The outermost stage: assigns request IDs and records the outcome of each call."""

    def __init__(self, metrics: Metrics, tracer: spans.Tracer | None = None) -> None:
        self._metrics = metrics
        self._tracer = tracer

    def wrap(self, method: Method, respond: Handler) -> Handler:
        """Add the access log to a method."""
        observe = self._metrics.rpc_observer(method.name)
        name = method.name
        quiet = method.path.startswith(_QUIET)
        tracer = None if quiet else self._tracer
        rpc_method = method.path.removeprefix("/")
        attributes = {"rpc.system.name": method.system, "rpc.method": rpc_method}

        async def log(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            metadata = context.invocation_metadata() or ()
            current_metadata.set(metadata)
            request_id = _request_id(metadata)
            current_request_id.set(request_id)
            context.set_trailing_metadata(((REQUEST_ID, request_id),))
            code = ""
            span = spans.NOT_RECORDED
            if tracer is not None:
                span = tracer.start(rpc_method, attributes, traceparent=_traceparent(metadata))
            with span:
                try:
                    return await respond(request, context)
                except asyncio.CancelledError:
                    code = _cancellation_code(context, time.perf_counter() - started)
                    raise
                finally:
                    seconds = time.perf_counter() - started
                    code = code or _code(context)
                    observe(code, seconds)
                    span.set("rpc.response.status_code", code)
                    if code != "OK":
                        span.fail(current_rejection.get(code), is_fault=code in _FAULTS)
                    if not quiet:
                        _write(name, code, request_id, seconds)

        return log


def _write(name: str, code: str, request_id: str, seconds: float) -> None:
    fields: dict[str, Any] = {
        "source": "zoomgate.access",
        "event": "rpc",
        "method": name,
        "status": code,
        "request_id": request_id,
        "ms": round(seconds * 1000, 2),
    }
    call = current_call.get(None)
    if call is not None:
        fields["caller"] = call.principal.name
        if call.user_email:
            fields["user"] = call.user_email
        if call.principal.on_behalf_of is not None:
            fields["on_behalf_of"] = call.principal.on_behalf_of.name
    if code != "OK":
        fields["reason"] = current_rejection.get("")
    logs.write_call(fields, "error" if code in ALARMING_CODES else "info")


def _code(context: Context) -> str:
    """Return the name of the call's status code: OK if grpc.aio has not set a code yet."""
    code = context.code()
    if code is None or code == 0:
        return "OK"
    return code.name if isinstance(code, grpc.StatusCode) else str(code)


def _cancellation_code(context: Context, seconds: float) -> str:
    """Return what the caller received after this time: DEADLINE_EXCEEDED, for which gRPC cancels the call as well, or CANCELLED."""
    remaining = context.time_remaining()
    if remaining is None or remaining > _ROUNDING * (remaining + seconds):
        return "CANCELLED"
    return "DEADLINE_EXCEEDED"


def _traceparent(metadata: Iterable[tuple[str, Any]]) -> str:
    return next((value for key, value in metadata if key == spans.TRACEPARENT), "")


def _request_id(metadata: Iterable[tuple[str, Any]]) -> str:
    """Return the caller's request ID if valid, otherwise a new ID."""
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and _VALID.fullmatch(value):
            return value
    return f"{random.getrandbits(64):016x}"
