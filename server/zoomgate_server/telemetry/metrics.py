"""Prometheus metrics. All label values come from fixed sets, which limits the number of time series."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

OTHER = "other"

REFRESH_OUTCOMES = (
    "refreshed",
    "not_needed",
    "reauth_required",
    "not_connected",
    "lease_held",
    "rate_limited",
    "store_unavailable",
    "superseded",
    "zoom_rate_limited",
    "app_credentials_rejected",
    "bad_response",
    "zoom_unavailable",
    "record_error",
    "alternate_pair_kept",
    "circuit_breaker_open",
)
HTTP_ROUTES = (
    "/oauth/start",
    "/oauth/continue",
    "/oauth/callback",
    "/oauth/result",
    "/healthz",
    "/readyz",
    "/metrics",
    "/webhooks/zoom",
)
WEBHOOK_OUTCOMES = (
    "disconnected",
    "not_connected",
    "older_than_consent",
    "duplicate",
    "ignored",
    "validated",
    "store_unavailable",
    "record_error",
    "rejected_content_type",
    "rejected_signature",
    "rejected_stale",
    "rejected_too_large",
    "rejected_timeout",
    "rejected_incomplete",
    "rejected_malformed",
    "rejected_other_app",
)
ALARMING_CODES = ("INTERNAL", "UNKNOWN", "DATA_LOSS")
"""Status codes that indicate an operational problem. The counters for these codes are initialized to 0, because Prometheus does not detect
an increase when a counter first appears with the value 1."""

CONNECTION_STATES = ("ACTIVE", "REAUTH_REQUIRED", "DISCONNECTED")
PROACTIVE_REFRESH_REASONS = ("in_use", "idle")
PRUNED_KINDS = ("reauth_required", "disconnected", "state", "request", "webhook")
WATCH_EVENTS = ("INITIAL", "CREATED", "UPDATED", "DELETED", "SYNCED")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_REFRESH_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0)


class RpcMetrics:
    """The metrics of one RPC method, with precomputed label lookups."""

    def __init__(self, method: str, calls: Counter, seconds: Histogram) -> None:
        self._method = method
        self._calls = calls
        self._by_code = {code: calls.labels(method, code) for code in ALARMING_CODES}
        self._seconds = seconds.labels(method)

    def observe(self, code: str, seconds: float) -> None:
        """Count a completed call with the name of its status code and its duration in seconds."""
        child = self._by_code.get(code)
        if child is None:
            child = self._by_code[code] = self._calls.labels(self._method, code)
        child.inc()
        self._seconds.observe(seconds)


class Metrics:
    """The metrics of the service, in a separate registry.

    With several worker processes, counters and histograms are summed over all workers. The docstring of each method that sets a gauge
    states how the values are combined: the sum, the maximum or the most recent value.

    Args:
        version: The version of the service.
        methods: The RPCs that are counted by name, such as `AuthService.GetToken`. All others are counted as `other`.
        shared: The directory with the metrics of all workers; see `share`. None for a single process.
    """

    def __init__(self, version: str, methods: Iterable[str], shared: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        self._methods = frozenset(methods)
        self._shared = shared
        self._calls = self._counter("zoomgate_rpc", "Completed RPCs.", "method", "code")
        self._seconds = Histogram(
            "zoomgate_rpc_seconds", "Duration of RPCs.", ("method",), buckets=_SECONDS, registry=self.registry
        )
        self._http = self._counter("zoomgate_http_requests", "HTTP requests.", "route", "status_class")
        self._webhooks = self._counter(
            "zoomgate_webhooks", "Webhook events from Zoom, by outcome.", "outcome"
        )
        self._refreshes = self._counter(
            "zoomgate_refreshes", "Attempts to refresh a token, by outcome.", "outcome"
        )
        self._refresh_seconds = Histogram(
            "zoomgate_refresh_seconds",
            "Duration of attempts to refresh a token, including the time spent waiting.",
            buckets=_REFRESH_SECONDS,
            registry=self.registry,
        )
        self._outcomes_lost = self._counter(
            "zoomgate_refresh_outcomes_lost",
            "Refresh requests to Zoom whose response was lost. The user may need to consent again.",
        )
        self._alternate_pairs = self._counter(
            "zoomgate_alternate_pairs_kept",
            "Refreshed token pairs stored as alternate pairs because a different process had refreshed the same user's token.",
        )
        self._store_rollbacks = self._counter(
            "zoomgate_store_rollbacks_detected",
            "Reads that returned an older generation of a connection than an earlier read.",
        )
        self._circuit_breaker = self._gauge(
            "zoomgate_token_endpoint_circuit_breaker_open",
            "1 while refreshes are suspended because Zoom's token endpoint fails, otherwise 0.",
            "livemax",
        )
        self._pending_age = self._gauge(
            "zoomgate_oldest_pending_attempt_seconds",
            "Age of the oldest refresh request sent to Zoom whose outcome is not stored yet.",
            "livemax",
        )
        self._journal_entries = self._gauge(
            "zoomgate_journal_entries",
            "Journal entries that are being written to the store.",
            "livesum",
        )
        self._journal_written = self._counter(
            "zoomgate_journal_writes", "Token pairs written to the journal."
        )
        self._journal_failed = self._counter(
            "zoomgate_journal_failures", "Token pairs that could not be written to the journal."
        )
        self._journal_replayed = self._counter(
            "zoomgate_journal_replays", "Journal entries that were recovered."
        )
        self._journal_corrupt = self._counter(
            "zoomgate_journal_corrupt_entries", "Journal entries that cannot be read."
        )
        self._store = self._counter("zoomgate_store_reads", "Records read from the store.")
        self._store_errors = self._counter("zoomgate_store_errors", "Failed store calls.")
        self._connections = self._gauge(
            "zoomgate_connections", "Connections in the store, by state.", "livemostrecent", "state"
        )
        self._watches = self._gauge("zoomgate_watches", "Active WatchConnections streams.", "livesum")
        self._watch_events = self._counter(
            "zoomgate_watch_events", "Events sent to WatchConnections streams, by type.", "type"
        )
        self._key_ring_reloads = self._counter(
            "zoomgate_key_ring_reloads", "Changes of the key ring that were loaded."
        )
        self._audit_failures = self._counter(
            "zoomgate_audit_failures", "Audit trail lines that could not be written."
        )
        self._proactive_refreshes = self._counter(
            "zoomgate_proactive_refreshes",
            "Tokens refreshed before a call needed them, by reason.",
            "reason",
        )
        self._proactive_refreshes_due = self._gauge(
            "zoomgate_proactive_refreshes_due",
            "Idle connections that are due for a proactive refresh.",
            "livemax",
        )
        self._proactive_refresh_max_overdue = self._gauge(
            "zoomgate_proactive_refresh_max_overdue_seconds",
            "Seconds since the longest-overdue idle connection became due.",
            "livemax",
        )
        self._pruned = self._counter(
            "zoomgate_pruned_records",
            "Records deleted or disconnected at the end of their retention period, by kind.",
            "kind",
        )
        build = self._gauge("zoomgate_build_info", "The running version.", "livemax", "version")
        build.labels(version).set(1)
        for outcome in REFRESH_OUTCOMES:
            self._refreshes.labels(outcome)
        for outcome in WEBHOOK_OUTCOMES:
            self._webhooks.labels(outcome)
        for reason in PROACTIVE_REFRESH_REASONS:
            self._proactive_refreshes.labels(reason)
        for kind in PRUNED_KINDS:
            self._pruned.labels(kind)
        self._events = {kind: self._watch_events.labels(kind) for kind in WATCH_EVENTS}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, multiprocess_mode: str, *labels: str) -> Gauge:
        """Create a gauge. `multiprocess_mode` states how prometheus_client combines the values of the live processes."""
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=multiprocess_mode)  # type: ignore[arg-type]

    def rpc(self, method: str) -> RpcMetrics:
        """Return the metrics of an RPC method."""
        return RpcMetrics(method if method in self._methods else OTHER, self._calls, self._seconds)

    def http_request(self, route: str, status: int) -> None:
        """Count an HTTP request."""
        self._http.labels(route if route in HTTP_ROUTES else OTHER, f"{status // 100}xx").inc()

    def webhook(self, outcome: str) -> None:
        """Count a webhook event."""
        self._webhooks.labels(outcome if outcome in WEBHOOK_OUTCOMES else OTHER).inc()

    def refreshes(self, outcome: str) -> None:
        """Count an attempt to refresh a token."""
        self._refreshes.labels(outcome if outcome in REFRESH_OUTCOMES else OTHER).inc()

    def refresh_seconds(self, seconds: float) -> None:
        """Record the duration of an attempt to refresh a token, from its start to its outcome, in seconds."""
        self._refresh_seconds.observe(seconds)

    def outcome_lost(self) -> None:
        """Count a refresh request to Zoom whose response was lost."""
        self._outcomes_lost.inc()

    def alternate_pair_kept(self) -> None:
        """Count a refreshed token pair that was stored as an alternate pair."""
        self._alternate_pairs.inc()

    def store_rollback_detected(self) -> None:
        """Count a read that returned an older generation of a connection than this process has seen: the store was rolled back."""
        self._store_rollbacks.inc()

    def circuit_breaker_open(self, open: bool) -> None:  # noqa: A002 - the most readable parameter name
        """Set whether this process suspends refreshes. With several processes: 1 if refreshes are suspended in any process."""
        self._circuit_breaker.set(int(open))

    def pending_age(self, seconds: float) -> None:
        """Set the age in seconds of the oldest refresh request that this process is processing, or 0 if no request is pending.

        With several processes: the maximum.
        """
        self._pending_age.set(seconds)

    def journal_entries(self, count: int) -> None:
        """Set the number of journal entries that this process owns. With several processes: the sum."""
        self._journal_entries.set(count)

    def journal_written(self) -> None:
        """Count a token pair that was durably written to the journal."""
        self._journal_written.inc()

    def journal_write_failed(self) -> None:
        """Count a token pair that could not be written to the journal."""
        self._journal_failed.inc()

    def journal_replayed(self) -> None:
        """Count a recovered journal entry whose token pair was written to the store or is no longer needed."""
        self._journal_replayed.inc()

    def journal_entry_corrupt(self) -> None:
        """Count a journal entry that cannot be read."""
        self._journal_corrupt.inc()

    def store_read(self) -> None:
        """Count a record that was read from the store for a call."""
        self._store.inc()

    def store_error(self) -> None:
        """Count a failed call to the store."""
        self._store_errors.inc()

    def connections(self, by_state: Mapping[str, int]) -> None:
        """Set the number of connections in the store by state.

        With several processes: the most recent value, since all processes count the same records.
        """
        for state in CONNECTION_STATES:
            self._connections.labels(state).set(by_state.get(state, 0))

    def watches(self, count: int) -> None:
        """Set the number of active watches. With several processes: the sum."""
        self._watches.set(count)

    def watch_event(self, kind: str) -> None:
        """Count a watch event of a type in `WATCH_EVENTS`."""
        self._events[kind].inc()

    def key_ring_reloaded(self) -> None:
        """Count a change of the key ring that this process loaded."""
        self._key_ring_reloads.inc()

    def audit_failed(self) -> None:
        """Count an audit trail line that could not be written."""
        self._audit_failures.inc()

    def proactive_refresh(self, reason: str) -> None:
        """Count a proactive refresh with a reason in `PROACTIVE_REFRESH_REASONS`."""
        self._proactive_refreshes.labels(reason if reason in PROACTIVE_REFRESH_REASONS else OTHER).inc()

    def proactive_refreshes_due(self, count: int) -> None:
        """Set the number of idle connections that are due for a refresh in this process. With several processes: the maximum."""
        self._proactive_refreshes_due.set(count)

    def proactive_refresh_max_overdue(self, seconds: float) -> None:
        """Set the number of seconds for which the longest-overdue idle connection had been due at the last scan.

        With several processes: the maximum.
        """
        self._proactive_refresh_max_overdue.set(seconds)

    def pruned(self, kind: str) -> None:
        """Count a record of a kind in `PRUNED_KINDS` that was deleted or disconnected at the end of its retention period."""
        self._pruned.labels(kind if kind in PRUNED_KINDS else OTHER).inc()

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format, combined over all workers."""
        if self._shared is None:
            return generate_latest(self.registry)
        combined = CollectorRegistry()
        MultiProcessCollector(combined, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(combined)


def share(number: int) -> None:
    """Store the metrics of this process in files in the directory PROMETHEUS_MULTIPROC_DIR. Call this before creating any metric.

    Args:
        number: The number of this worker. A replacement worker with the same number continues the counters of the terminated worker.
    """
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def drop_gauges(number: int, directory: Path) -> None:
    """Remove the gauges of a terminated worker. The sums continue to include the worker's counters."""
    mark_process_dead(number, str(directory))  # type: ignore[no-untyped-call]
