"""A collector that receives spans and metrics with OTLP over HTTP."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.proto.trace.v1 import trace_pb2

ONLY_AT_EXIT = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_METRIC_EXPORT_INTERVAL": "600000"}
"""Variables with which the service exports only when it exits."""


@dataclass(frozen=True)
class ReceivedSpan:
    """A span.

    Attributes:
        parent_id: Empty for the first span of a trace.
        attributes: Includes `status`, which is `ERROR` or empty, but is no attribute in OTLP.
    """

    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    name: str
    start: int
    attributes: Mapping[str, Any]


@dataclass
class OtlpReceiver:
    """A running receiver.

    Attributes:
        url: The endpoint.
        status: The HTTP status of the responses.
        bodies: The bodies of the requests, accepted or not.
        resources: The attributes of the exporting processes.
    """

    url: str = ""
    status: int = 200
    bodies: list[bytes] = field(default_factory=list)
    spans: list[ReceivedSpan] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    async def receive_spans(self, request: web.Request) -> web.Response:
        """Decode a request of the span exporter."""
        body = await self._read(request)
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(_attributes(resource_spans.resource.attributes))
            for scope_spans in resource_spans.scope_spans:
                self.spans += [_received(span) for span in scope_spans.spans]
        return web.Response(status=self.status)

    async def receive_metrics(self, request: web.Request) -> web.Response:
        """Decode a request of the metric exporter. Later values replace earlier ones."""
        body = await self._read(request)
        for resource_metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self.resources.append(_attributes(resource_metrics.resource.attributes))
            self.metrics = [
                metric for scope_metrics in resource_metrics.scope_metrics for metric in scope_metrics.metrics
            ]
        return web.Response(status=self.status)

    async def _read(self, request: web.Request) -> bytes:
        assert request.content_type == "application/x-protobuf"
        body = await request.read()
        self.bodies.append(body)
        return body

    def span(self, name: str) -> ReceivedSpan:
        """Return the only span with a name."""
        (span,) = (span for span in self.spans if span.name == name)
        return span

    def tree(self, root: ReceivedSpan) -> list[str]:
        """Return the names of a span and its descendants in the order of their start, indented by depth."""
        lines = [root.name]
        for child in sorted(self.spans, key=lambda span: span.start):
            if child.parent_id == root.span_id:
                lines += [f"  {line}" for line in self.tree(child)]
        return lines

    def value(self, metric_name: str, **labels: str) -> float:
        """Return the value of a time series; for a histogram, the number of its observations."""
        (metric,) = (metric for metric in self.metrics if metric.name == metric_name)
        data = getattr(metric, metric.WhichOneof("data") or "")
        (point,) = (point for point in data.data_points if labels == _attributes(point.attributes))
        if metric.HasField("histogram"):
            assert sum(point.bucket_counts) == point.count
            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
        if not metric.HasField("gauge"):
            assert data.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
            assert point.start_time_unix_nano < point.time_unix_nano
        return point.count if metric.HasField("histogram") else point.as_double


@asynccontextmanager
async def otlp_receiver() -> AsyncIterator[OtlpReceiver]:
    """Run a receiver on a free port."""
    receiver = OtlpReceiver()
    app = web.Application()
    app.router.add_post("/v1/traces", receiver.receive_spans)
    app.router.add_post("/v1/metrics", receiver.receive_metrics)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("")).rstrip("/")
        yield receiver


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def _received(span: trace_pb2.Span) -> ReceivedSpan:
    status = "ERROR" if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR else ""
    assert not span.status.message
    assert not span.events
    assert not span.trace_state
    return ReceivedSpan(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.name,
        span.start_time_unix_nano,
        _attributes(span.attributes) | ({"status": status} if status else {}),
    )
