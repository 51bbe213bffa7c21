"""Export of spans and metrics with OTLP over HTTP. The only module that imports OpenTelemetry, which is an optional dependency.

The exporters are configured by the variables of OpenTelemetry. Each sends from a thread, so that a slow collector delays no call.
"""

import itertools
import logging
import random
import re
import threading
import time
from collections.abc import Iterable, Mapping
from contextvars import Token
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind as OtelSpanKind
from opentelemetry.trace import Tracer as OtelTracer
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.samples import Sample

from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.spans import NOT_RECORDED, Attributes, Span, SpanKind, current_span

FLUSH_SECONDS = 5.0
"""Maximum time to export what is left when the process exits, per exporter."""

LOG_INTERVAL = 300.0
"""Minimum interval, in seconds, between two log lines of an exporter with the same message."""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the semantic conventions of the spans."""

_ALL_IDS = 1 << 64
_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
"""The caller's trace ID, span ID and flags. IDs of zeros are invalid, and a version later than 00 may have further fields."""

_log = logs.get("zoomgate.otlp")


class RecordedSpan(Span):
    """A span that is exported when it ends."""

    __slots__ = ("_failed", "_span", "_token", "_tracer", "log_fields")

    def __init__(self, tracer: OtelTracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span
        self._failed = False
        context = span.get_span_context()
        self.log_fields = {
            "trace_id": format_trace_id(context.trace_id),
            "span_id": format_span_id(context.span_id),
        }

    def child(self, kind: SpanKind, name: str, attributes: Attributes) -> Span:
        """Start a span within this one."""
        return _start(self._tracer, kind, name, attributes, self._span)

    def set(self, name: str, value: str | int) -> None:
        """Set an attribute."""
        self._span.set_attribute(name, value)

    def fail(self, error_type: str, *, is_fault: bool = True) -> None:
        """Record why the operation failed, unless a reason is recorded already."""
        if not self._failed:
            self._failed = True
            self._span.set_attribute("error.type", error_type)
        if is_fault:
            self._span.set_status(StatusCode.ERROR)

    def __enter__(self) -> "RecordedSpan":
        self._token: Token[Span] = current_span.set(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if isinstance(exc_info[1], BaseException) and not self._failed:
            self.fail(type(exc_info[1]).__name__)
        self._span.end()
        current_span.reset(self._token)


class SpanExporter:
    """Starts, samples and exports the spans of this process.

    Args:
        ratio: The fraction of the traces to sample.
        parent_based: Whether the caller's decision applies, if there is one.
    """

    def __init__(self, version: str, *, ratio: float, parent_based: bool) -> None:
        self._bound = round(ratio * _ALL_IDS)
        self._parent_based = parent_based
        self._exporter = OTLPSpanExporter()
        self._log_filter = _limit_logs(self._exporter)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # `start` has decided
            resource=_resource(version),
            id_generator=_SampledIds(self._bound),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("zoomgate", version, SCHEMA_URL)

    def start(
        self, name: str, attributes: Attributes, *, kind: SpanKind = "SERVER", traceparent: str = ""
    ) -> Span:
        """Start the first span of a trace; see `Tracer`. The decision precedes all other work, since most traces are not sampled."""
        caller = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
        if caller is None:
            is_sampled = random.getrandbits(64) < self._bound
        elif self._parent_based:
            is_sampled = int(caller[3], 16) & TraceFlags.SAMPLED != 0
        else:
            is_sampled = int(caller[1][16:], 16) < self._bound
        if not is_sampled:
            return NOT_RECORDED
        parent = None
        if caller is not None:
            flags = TraceFlags(int(caller[3], 16))
            parent = NonRecordingSpan(SpanContext(int(caller[1], 16), int(caller[2], 16), True, flags))
        return _start(self._tracer, kind, name, attributes, parent)

    def close(self) -> None:
        """Export the remaining spans, for at most `FLUSH_SECONDS`."""
        # a daemon, since the library would wait longer for a collector that does not respond
        flush = threading.Thread(target=self._provider.shutdown, name="otlp-flush", daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)
        if flush.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
        self._log_filter.detach()


class MetricExporter:
    """Exports metrics periodically, from a thread.

    Args:
        registry: The metrics.
        interval: Seconds between two exports.
    """

    def __init__(self, version: str, registry: CollectorRegistry, *, interval: float) -> None:
        self._registry = registry
        self._interval = interval
        self._resource = _resource(version)
        self._scope = InstrumentationScope("zoomgate", version)
        self._start_time = time.time_ns()
        self._exporter = OTLPMetricExporter()
        self._log_filter = _limit_logs(self._exporter)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Export the metrics once more, for at most `FLUSH_SECONDS`."""
        self._closed.set()
        self._thread.join(FLUSH_SECONDS)
        self._exporter.shutdown()
        self._log_filter.detach()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closed.wait(self._interval)
            try:
                self._export()
            except Exception:  # noqa: BLE001 - a file of a terminated worker may disappear while it is read
                _log.exception("otlp.collection_failed")

    def _export(self) -> None:
        now = time.time_ns()
        metrics = [
            Metric(_name(family), family.documentation, "", self._data(family, now))
            for family in self._registry.collect()
        ]
        scope = ScopeMetrics(self._scope, metrics, "")
        self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))

    def _data(self, family: Family, now: int) -> Sum | Gauge | Histogram:
        if family.type == "histogram":
            points = [self._histogram_point(samples, now) for samples in _by_labels(family.samples)]
            return Histogram(points, AggregationTemporality.CUMULATIVE)
        values = [
            NumberDataPoint(sample.labels, self._start_time, now, sample.value)
            for sample in family.samples
            if sample.name == _name(family)
        ]
        if family.type == "counter":
            return Sum(values, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        return Gauge(values)

    def _histogram_point(self, samples: Iterable[Sample], now: int) -> HistogramDataPoint:
        cumulative: dict[float, int] = {}
        total, labels = 0.0, {}
        for sample in samples:
            if sample.name.endswith("_bucket"):
                cumulative[float(sample.labels["le"])] = int(sample.value)
            elif sample.name.endswith("_sum"):
                total, labels = sample.value, sample.labels
        bounds = sorted(cumulative)
        below = [0, *(cumulative[bound] for bound in bounds)]
        counts = [upper - lower for lower, upper in itertools.pairwise(below)]
        unknown: Any = None  # Prometheus has no minimum and maximum, and OTLP omits them if they are None
        return HistogramDataPoint(
            labels,
            self._start_time,
            now,
            count=below[-1],
            sum=total,
            bucket_counts=counts,
            explicit_bounds=bounds[:-1],  # the last one is infinity
            min=unknown,
            max=unknown,
        )


class _SampledIds(RandomIdGenerator):
    """Generates the IDs of sampled traces: services that sample by trace ID with the same ratio sample the same traces."""

    def __init__(self, bound: int) -> None:
        self._bound = bound

    def generate_trace_id(self) -> int:
        """Return a trace ID below the bound in its low half."""
        return random.getrandbits(64) << 64 | random.randrange(self._bound)  # noqa: S311 - IDs need no secrecy


class _LogLimit(logging.Filter):
    """Limits how often an exporter logs each of its messages, since it would log each attempt to reach a collector that is down."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger
        self._next: dict[str, float] = {}
        logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether enough time has passed since the last line with the same message."""
        now, message = time.monotonic(), str(record.msg)
        if now < self._next.get(message, now):
            return False
        self._next[message] = now + LOG_INTERVAL
        return True

    def detach(self) -> None:
        """Stop limiting."""
        self._logger.removeFilter(self)


def _limit_logs(exporter: object) -> _LogLimit:
    return _LogLimit(logging.getLogger(type(exporter).__module__))


def _start(
    tracer: OtelTracer, kind: SpanKind, name: str, attributes: Attributes, parent: OtelSpan | None
) -> Span:
    context = Context() if parent is None else set_span_in_context(parent, Context())
    try:
        return RecordedSpan(tracer, tracer.start_span(name, context, OtelSpanKind[kind], attributes))
    except Exception:  # noqa: BLE001 - tracing must not fail a call
        _log.exception("otlp.span_failed", span=name)
        return NOT_RECORDED


def _resource(version: str) -> Resource:
    """Return the description of this process. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence."""
    defaults: Mapping[str, Any] = {"service.name": "zoomgate", "service.version": version}
    return Resource.create({**defaults, **OTELResourceDetector().detect().attributes})


def _name(family: Family) -> str:
    """Return the name of a metric, as in docs/metrics.md."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def _by_labels(samples: Iterable[Sample]) -> Iterable[list[Sample]]:
    """Group the samples of a histogram by their labels."""
    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        labels = tuple(sorted(item for item in sample.labels.items() if item[0] != "le"))
        groups.setdefault(labels, []).append(sample)
    return groups.values()
