"""The exporters of spans and metrics, which run if the variables of OpenTelemetry enable them."""

import asyncio
from contextlib import AsyncExitStack
from types import ModuleType
from typing import TYPE_CHECKING

from zoomgate_server import build_info
from zoomgate_server.settings.opentelemetry import OpenTelemetry
from zoomgate_server.startup import StartError
from zoomgate_server.telemetry.spans import Tracer

if TYPE_CHECKING:  # `zoomgate doctor --help` does not need the library
    from prometheus_client import CollectorRegistry


def load() -> ModuleType:
    """Import `telemetry.otlp`, whose packages are optional and take time to import.

    Raises:
        StartError: The packages are not installed.
    """
    try:
        from zoomgate_server.telemetry import otlp  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise StartError(
            "OpenTelemetry is enabled by OTEL_… variables, but is not installed; run"
            " `pip install 'zoomgate-server[opentelemetry]'` in the environment of the service, or set OTEL_SDK_DISABLED=true"
        ) from None
    return otlp


def start(
    config: OpenTelemetry, stack: AsyncExitStack, registry: "CollectorRegistry | None"
) -> Tracer | None:
    """Start the enabled exporters, which the exit stack closes. Return the tracer, or None if spans are disabled.

    Args:
        registry: The metrics, or None if another process exports them.

    Raises:
        StartError: OpenTelemetry is not installed, or rejects its variables.
    """
    if not config.traces and not config.metrics:
        return None
    otlp, version = load(), build_info.version()
    try:
        if config.metrics and registry is not None:
            metrics = otlp.MetricExporter(version, registry, interval=config.metrics_interval)
            stack.push_async_callback(asyncio.to_thread, metrics.close)
        if not config.traces:
            return None
        spans = otlp.SpanExporter(version, ratio=config.sample_ratio, parent_based=config.parent_based)
    except (ValueError, OverflowError, RuntimeError) as error:
        raise StartError(f"OpenTelemetry rejects an OTEL_… variable: {error}") from None
    stack.push_async_callback(asyncio.to_thread, spans.close)
    tracer: Tracer = spans
    return tracer
