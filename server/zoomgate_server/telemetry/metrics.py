"""Prometheus metrics. All label values come from fixed sets, which limits the number of time series; see `app.metric_labels`."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from zoomgate_server.build_info import UNKNOWN
from zoomgate_server.telemetry import logs

OTHER = "other"

FILES = ("counter", "gauge_livemax", "gauge_livemostrecent", "gauge_livesum", "histogram")
"""The files of a worker, without its number: one for each type of metric and, for gauges, for each way of combining their values."""

FILE_BYTES = 256 * 1024
"""Size of each file. All time series of a type fit, so that a file never grows."""

ALARMING_CODES = ("INTERNAL", "UNKNOWN", "DATA_LOSS")
"""Status codes that indicate an operational problem. The counters for these codes are initialized to 0, because Prometheus does not detect
an increase when a counter first appears with the value 1."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_REFRESH_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0)

_log = logs.get("zoomgate.metrics")


class Metrics:
    """The metrics of the service, in a separate registry. Each attribute is the metric of the same name with the prefix `zoomgate_`.

    With several worker processes, counters and histograms are summed over all workers. Each gauge states how its values are combined.

    Args:
        version: The version of the service.
        methods: The RPCs that are counted by name, such as `AuthService.GetToken`. All others are counted as `other`.
        shared: The directory with the metrics of all workers; see `share`. None for a single process.
    """

    def __init__(
        self,
        version: str,
        methods: Iterable[str] = (),
        shared: Path | None = None,
        *,
        commit: str = UNKNOWN,
    ) -> None:
        self.registry = CollectorRegistry()
        self._methods = frozenset(methods)
        self._shared = shared
        counter = partial(Counter, registry=self.registry, namespace="zoomgate")
        gauge = partial(Gauge, registry=self.registry, namespace="zoomgate")
        histogram = partial(Histogram, registry=self.registry, namespace="zoomgate")

        self.rpc = counter("rpc", "Completed RPCs.", ["method", "code"])
        self.rpc_seconds = histogram("rpc_seconds", "Duration of RPCs.", ["method"], buckets=_SECONDS)
        self.http_requests = counter("http_requests", "HTTP requests.", ["route", "status_class"])
        self.webhooks = counter("webhooks", "Webhook events from Zoom, by outcome.", ["outcome"])
        self.imports = counter("imports", "Imports of connections, by outcome.", ["outcome"])
        self.slots_used = gauge(
            "slots_used",
            "Running operations of each kind that is limited per process.",
            ["limit"],
            multiprocess_mode="livesum",
        )
        self.slots_waiting = gauge(
            "slots_waiting",
            "Operations that wait for a slot of their limit.",
            ["limit"],
            multiprocess_mode="livesum",
        )
        self.refreshes = counter("refreshes", "Attempts to refresh a token, by outcome.", ["outcome"])
        self.refresh_seconds = histogram(
            "refresh_seconds",
            "Duration of attempts to refresh a token, including the time spent waiting.",
            buckets=_REFRESH_SECONDS,
        )
        self.refresh_outcomes_lost = counter(
            "refresh_outcomes_lost",
            "Refresh requests to Zoom whose response was lost. The user may need to consent again.",
        )
        self.alternate_pairs_kept = counter(
            "alternate_pairs_kept",
            "Refreshed token pairs stored as alternate pairs because a different process had refreshed the same user's token.",
        )
        self.store_rollbacks_detected = counter(
            "store_rollbacks_detected",
            "Reads that returned an older generation of a connection than an earlier read.",
        )
        self.token_endpoint_circuit_breaker_open = gauge(
            "token_endpoint_circuit_breaker_open",
            "1 while refreshes are suspended because Zoom's token endpoint fails, otherwise 0.",
            multiprocess_mode="livemax",
        )
        self.oldest_pending_attempt_seconds = gauge(
            "oldest_pending_attempt_seconds",
            "Age of the oldest refresh request sent to Zoom whose outcome is not stored yet.",
            multiprocess_mode="livemax",
        )
        self.journal_entries = gauge(
            "journal_entries",
            "Journal entries that are being written to the store or are deferred.",
            multiprocess_mode="livesum",
        )
        self.journal_writes = counter("journal_writes", "Token pairs written to the journal.")
        self.journal_failures = counter(
            "journal_failures", "Token pairs that could not be written to the journal."
        )
        self.journal_replays = counter("journal_replays", "Journal entries that were recovered.")
        self.journal_corrupt_entries = counter(
            "journal_corrupt_entries", "Journal entries that cannot be read."
        )
        self.store_reads = counter("store_reads", "Records read from the store.")
        self.store_errors = counter("store_errors", "Failed store calls.")
        self.connections = gauge(
            "connections",
            "Connections in the store, by state.",
            ["state"],
            multiprocess_mode="livemostrecent",  # all processes count the same records
        )
        self.watches = gauge("watches", "Active WatchConnections streams.", multiprocess_mode="livesum")
        self.watch_events = counter(
            "watch_events", "Events sent to WatchConnections streams, by type.", ["type"]
        )
        self.key_ring_reloads = counter("key_ring_reloads", "Changes of the key ring that were loaded.")
        self.callers_file_invalid = gauge(
            "callers_file_invalid",
            "1 while the callers file is invalid, and its previous content is in use, otherwise 0.",
            multiprocess_mode="livemax",
        )
        self.audit_failures = counter("audit_failures", "Audit trail lines that could not be written.")
        self.log_lines_dropped = counter(
            "log_lines_dropped", "Log lines dropped because the log reader is too slow."
        )
        self.proactive_refreshes = counter(
            "proactive_refreshes", "Tokens refreshed before a call needed them, by reason.", ["reason"]
        )
        self.proactive_refreshes_due = gauge(
            "proactive_refreshes_due",
            "Idle connections that are due for a proactive refresh.",
            multiprocess_mode="livemax",
        )
        self.proactive_refresh_max_overdue_seconds = gauge(
            "proactive_refresh_max_overdue_seconds",
            "Seconds since the longest-overdue idle connection became due.",
            multiprocess_mode="livemax",
        )
        self.pruned_records = counter(
            "pruned_records",
            "Records deleted or disconnected at the end of their retention period, by kind.",
            ["kind"],
        )
        build_info = gauge(
            "build_info",
            "The running version and commit.",
            ["version", "commit"],
            multiprocess_mode="livemax",
        )
        build_info.labels(version, commit).set(1)

    def rpc_observer(self, method: str) -> Callable[[str, float], None]:
        """Return a function that counts a call of an RPC method, with the name of its status code and its duration in seconds."""
        method = method if method in self._methods else OTHER
        calls = {code: self.rpc.labels(method, code) for code in ALARMING_CODES}
        durations = self.rpc_seconds.labels(method)

        def observe(code: str, seconds: float) -> None:
            if code not in calls:  # looking up labels takes longer than counting
                calls[code] = self.rpc.labels(method, code)
            calls[code].inc()
            durations.observe(seconds)

        return observe

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format, combined over all workers."""
        return generate_latest(self.registry if self._shared is None else combined(self._shared))


def combined(directory: Path) -> CollectorRegistry:
    """Return the metrics of all workers that share a directory."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return registry


def share(number: int, directory: Path) -> None:
    """Store the metrics of a worker in files in the directory PROMETHEUS_MULTIPROC_DIR. Call this before creating any metric.

    A replacement worker with the same number continues the counters of the terminated worker. Without space for the files, the metrics of
    this worker are missing from the combined ones.
    """
    try:
        for name in FILES:
            _allocate(directory / f"{name}_{number}.db")
    except OSError as error:
        _log.warning("metrics.not_shared", problem=error.strerror, directory=str(directory))
        values.ValueClass = values.MutexValue
    else:
        values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def _allocate(file: Path) -> None:
    """Create a file with all its disk blocks.

    The library would create a sparse file. On a full disk, the kernel kills a process that writes to a hole of a memory-mapped file.
    """
    if not file.exists():
        draft = file.with_suffix(".new")  # other workers read all files named *.db
        with draft.open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, FILE_BYTES)
        draft.rename(file)


def drop_gauges(number: int, directory: Path) -> None:
    """Remove the gauges of a terminated worker. The sums continue to include the worker's counters."""
    mark_process_dead(number, str(directory))  # type: ignore[no-untyped-call]
