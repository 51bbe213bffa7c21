"""What can be counted. Label values come from closed sets, so that nobody can fill the memory from outside."""

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
"""Codes of calls that an operator has to see. They are shown from the start: what is first shown with 1 has not grown, to Prometheus."""

CONNECTION_STATES = ("ACTIVE", "REAUTH_REQUIRED", "DISCONNECTED")
PROACTIVE_REFRESH_REASONS = ("in_use", "idle")
PRUNED_KINDS = ("reauth_required", "disconnected", "state", "request", "webhook")
WATCH_EVENTS = ("INITIAL", "CREATED", "UPDATED", "DELETED", "SYNCED")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_REFRESH_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0)


class RpcMetrics:
    """What is counted of one RPC; kept by whoever serves it, so that a call looks nothing up."""

    def __init__(self, method: str, calls: Counter, seconds: Histogram) -> None:
        self._method = method
        self._calls = calls
        self._by_code = {code: calls.labels(method, code) for code in ALARMING_CODES}
        self._seconds = seconds.labels(method)

    def observe(self, code: str, seconds: float) -> None:
        """Count one call that ended with a status code's name."""
        child = self._by_code.get(code)
        if child is None:
            child = self._by_code[code] = self._calls.labels(self._method, code)
        child.inc()
        self._seconds.observe(seconds)


class Metrics:
    """The service's metrics, in a registry of their own.

    Where several processes serve, what happens is added up over all of them, and what is the case is shown as the method that sets it
    says: a sum, the largest, or the newest value.

    Args:
        version: Of the service.
        methods: Full names of the RPCs that are counted by name; others are `other`.
        shared: Folder with the values of all processes that serve together; see `share`. None for a process that serves alone.
    """

    def __init__(self, version: str, methods: Iterable[str], shared: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        self._methods = frozenset(methods)
        self._shared = shared
        self._calls = self._counter("zoomgate_rpc", "RPCs that ended.", "method", "code")
        self._seconds = Histogram(
            "zoomgate_rpc_seconds", "Duration of RPCs.", ("method",), buckets=_SECONDS, registry=self.registry
        )
        self._http = self._counter("zoomgate_http_requests", "HTTP requests.", "route", "status_class")
        self._webhooks = self._counter("zoomgate_webhooks", "Events of Zoom's, by outcome.", "outcome")
        self._refreshes = self._counter(
            "zoomgate_refreshes", "Attempts to refresh a token, by outcome.", "outcome"
        )
        self._refresh_seconds = Histogram(
            "zoomgate_refresh_seconds",
            "Duration of attempts to refresh a token, all waiting included.",
            buckets=_REFRESH_SECONDS,
            registry=self.registry,
        )
        self._outcomes_lost = self._counter(
            "zoomgate_refresh_outcomes_lost",
            "Refreshes sent whose answer never came: the person may have to consent.",
        )
        self._spares = self._counter(
            "zoomgate_alternate_pairs_kept",
            "Refresh tokens kept beside the newest, in case that one was never taken.",
        )
        self._generation_back = self._counter(
            "zoomgate_store_rollbacks_detected", "Reads of a connection that was older than one read before."
        )
        self._breaker = self._gauge(
            "zoomgate_token_endpoint_circuit_breaker_open",
            "1 while refreshes are held back since Zoom's token endpoint fails.",
            "livemax",
        )
        self._pending_age = self._gauge(
            "zoomgate_oldest_pending_attempt_seconds",
            "Age of the oldest refresh that was sent to Zoom and whose outcome is not in the store yet.",
            "livemax",
        )
        self._journal_entries = self._gauge(
            "zoomgate_journal_entries",
            "Answers of Zoom's in the journal that the store has not confirmed.",
            "livesum",
        )
        self._journal_written = self._counter("zoomgate_journal_writes", "Answers written to the journal.")
        self._journal_failed = self._counter(
            "zoomgate_journal_failures", "Answers that the journal did not take."
        )
        self._journal_replayed = self._counter(
            "zoomgate_journal_replays", "Answers that were brought from the journal to the store."
        )
        self._journal_damaged = self._counter(
            "zoomgate_journal_corrupt_entries", "Entries of the journal that cannot be read."
        )
        self._store = self._counter("zoomgate_store_reads", "Records read from the store.")
        self._store_errors = self._counter("zoomgate_store_errors", "Calls of the store that failed.")
        self._connections = self._gauge(
            "zoomgate_connections", "Connections in the store, by state.", "livemostrecent", "state"
        )
        self._watches = self._gauge(
            "zoomgate_watches", "Callers who are told of connections as they change.", "livesum"
        )
        self._watch_events = self._counter(
            "zoomgate_watch_events", "Events that were told to those who watch connections.", "type"
        )
        self._key_rings = self._counter(
            "zoomgate_key_ring_reloads", "Changes of the key ring that were taken over."
        )
        self._audit_failures = self._counter(
            "zoomgate_audit_failures", "Lines that the audit trail did not take."
        )
        self._proactive_refresh = self._counter(
            "zoomgate_proactive_refreshes",
            "Tokens that were refreshed ahead of their need, by reason.",
            "reason",
        )
        self._upkeep_due = self._gauge(
            "zoomgate_proactive_refreshes_due", "Idle connections that are due for a refresh.", "livemax"
        )
        self._upkeep_oldest_due = self._gauge(
            "zoomgate_proactive_refresh_max_overdue_seconds",
            "For how long the idle connection has been due that is so for longest.",
            "livemax",
        )
        self._reaped = self._counter(
            "zoomgate_pruned_records", "Records that were removed or ended, by kind.", "kind"
        )
        build = self._gauge("zoomgate_build_info", "The running version.", "livemax", "version")
        build.labels(version).set(1)
        for outcome in REFRESH_OUTCOMES:
            self._refreshes.labels(outcome)
        for outcome in WEBHOOK_OUTCOMES:
            self._webhooks.labels(outcome)
        for reason in PROACTIVE_REFRESH_REASONS:
            self._proactive_refresh.labels(reason)
        for kind in PRUNED_KINDS:
            self._reaped.labels(kind)
        self._events = {kind: self._watch_events.labels(kind) for kind in WATCH_EVENTS}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, over_processes: str, *labels: str) -> Gauge:
        """Make a gauge; `over_processes` is prometheus_client's word for how it is told for several processes, dead ones left out."""
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=over_processes)  # type: ignore[arg-type]

    def rpc(self, method: str) -> RpcMetrics:
        """Give what counts one RPC."""
        return RpcMetrics(method if method in self._methods else OTHER, self._calls, self._seconds)

    def http_request(self, route: str, status: int) -> None:
        """Count an HTTP request."""
        self._http.labels(route if route in HTTP_ROUTES else OTHER, f"{status // 100}xx").inc()

    def webhook(self, outcome: str) -> None:
        """Count an event of Zoom's."""
        self._webhooks.labels(outcome if outcome in WEBHOOK_OUTCOMES else OTHER).inc()

    def refreshes(self, outcome: str) -> None:
        """Count an attempt to refresh."""
        self._refreshes.labels(outcome if outcome in REFRESH_OUTCOMES else OTHER).inc()

    def refresh_seconds(self, seconds: float) -> None:
        """Note how long an attempt to refresh took from its start to its outcome, in seconds."""
        self._refresh_seconds.observe(seconds)

    def outcome_lost(self) -> None:
        """Count a refresh token that was sent and whose answer never came."""
        self._outcomes_lost.inc()

    def alternate_pair_kept(self) -> None:
        """Count a refresh token that is kept beside the newest one."""
        self._spares.inc()

    def store_rollback_detected(self) -> None:
        """Count a read that gave an older generation of a connection than this process had seen: a store was set back."""
        self._generation_back.inc()

    def circuit_breaker_open(self, open: bool) -> None:  # noqa: A002 - reads well where it is called
        """Say whether this process holds refreshes back. Over several processes: 1 if any does."""
        self._breaker.set(int(open))

    def pending_age(self, seconds: float) -> None:
        """Say how many seconds ago the oldest attempt was sent that this process goes on with, 0 if there is none.

        Over several processes: the largest.
        """
        self._pending_age.set(seconds)

    def journal_entries(self, count: int) -> None:
        """Say how many entries of the journal this process owns; over several processes they are added up."""
        self._journal_entries.set(count)

    def journal_written(self) -> None:
        """Count an answer that is in the journal, durably."""
        self._journal_written.inc()

    def journal_failed(self) -> None:
        """Count an answer that the journal did not take."""
        self._journal_failed.inc()

    def journal_replayed(self) -> None:
        """Count an entry of the journal whose answer came to the store after all, or was no longer needed there."""
        self._journal_replayed.inc()

    def journal_damaged(self) -> None:
        """Count an entry of the journal that cannot be read."""
        self._journal_damaged.inc()

    def store_read(self) -> None:
        """Count a record that was read for a call."""
        self._store.inc()

    def store_error(self) -> None:
        """Count a call of the store that failed."""
        self._store_errors.inc()

    def connections(self, by_state: Mapping[str, int]) -> None:
        """Say how many connections there are in the store. Every process counts the same ones: the newest count is shown."""
        for state in CONNECTION_STATES:
            self._connections.labels(state).set(by_state.get(state, 0))

    def watches(self, count: int) -> None:
        """Say how many watch connections; over several processes they are added up."""
        self._watches.set(count)

    def watch_event(self, kind: str) -> None:
        """Count an event of one of `WATCH_EVENTS`."""
        self._events[kind].inc()

    def key_ring_reloaded(self) -> None:
        """Count a change of the key ring that this process took over."""
        self._key_rings.inc()

    def audit_failed(self) -> None:
        """Count a line that the audit trail did not take."""
        self._audit_failures.inc()

    def proactive_refresh(self, reason: str) -> None:
        """Count a token that was refreshed ahead of its need, for one of `UPKEEP_REASONS`."""
        self._proactive_refresh.labels(reason if reason in PROACTIVE_REFRESH_REASONS else OTHER).inc()

    def proactive_refreshes_due(self, count: int) -> None:
        """Say how many idle connections are due still, of those that this process found. Over several processes: the largest."""
        self._upkeep_due.set(count)

    def proactive_refresh_max_overdue(self, seconds: float) -> None:
        """Say for how many seconds the oldest of them had been due when they were looked for. Over several processes: the largest."""
        self._upkeep_oldest_due.set(seconds)

    def pruned(self, kind: str) -> None:
        """Count a record that was removed or ended since its time is over, of one of `REAPED_KINDS`."""
        self._reaped.labels(kind if kind in PRUNED_KINDS else OTHER).inc()

    def render(self) -> bytes:
        """Give everything in Prometheus' text format, added up over all processes that serve together."""
        if self._shared is None:
            return generate_latest(self.registry)
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(everybody)


def share(number: int) -> None:
    """Keep the metrics of this process in files of the folder in PROMETHEUS_MULTIPROC_DIR; to be called before there are any.

    Args:
        number: Of this process among those that serve together. One that follows a dead one under its number goes on with its counters.
    """
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def drop_gauges(number: int, folder: Path) -> None:
    """Leave out what a process that ended said was the case; what it counted stays in the sums."""
    mark_process_dead(number, str(folder))  # type: ignore[no-untyped-call]
