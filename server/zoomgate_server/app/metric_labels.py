"""The label values of metrics, taken from the components that set them."""

from pathlib import Path

from zoomgate_server.build_info import UNKNOWN
from zoomgate_server.concurrency_limit import Limit
from zoomgate_server.connections import proactive_refresh, retention
from zoomgate_server.connections.connection_import import ImportOutcome
from zoomgate_server.connections.refresh import refresher
from zoomgate_server.rpc import server as rpc_server
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.watch.watchers import EventType
from zoomgate_server.webhooks import receiver


def new_metrics(version: str, shared: Path | None = None, *, commit: str = UNKNOWN) -> Metrics:
    """Create the metrics of the service, with a time series for each label value, and count dropped log lines.

    The counters start at 0, because Prometheus does not detect an increase when a counter first appears with the value 1.
    """
    methods = [name.removeprefix("zoomgate.v1.") for name in rpc_server.METHODS]
    metrics = Metrics(version, methods, shared, commit=commit)
    for metric, label_values in (
        (metrics.refreshes, refresher.OUTCOMES),
        (metrics.imports, ImportOutcome),
        (metrics.webhooks, receiver.OUTCOMES),
        (metrics.proactive_refreshes, proactive_refresh.REASONS),
        (metrics.pruned_records, retention.KINDS),
        (metrics.watch_events, EventType),
        (metrics.slots_used, Limit),
        (metrics.slots_waiting, Limit),
    ):
        for value in label_values:
            metric.labels(value)
    logs.count_dropped(metrics.log_lines_dropped.inc)
    return metrics
