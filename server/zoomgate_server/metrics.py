"""What can be counted. Label values come from closed sets, so that nobody can fill the memory from outside."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

OTHER = "other"

REFRESH_OUTCOMES = (
    "refreshed",
    "fresh",
    "reauth_required",
    "not_connected",
    "busy",
    "limited",
    "store_unavailable",
    "superseded",
    "throttled",
    "our_fault",
    "bad_answer",
    "zoom_unavailable",
    "record_fault",
    "spared",
    "breaker_open",
)
JOURNAL_EVENTS = ("written", "failed", "resumed", "damaged")
HTTP_ROUTES = (
    "/oauth/start",
    "/oauth/continue",
    "/oauth/callback",
    "/oauth/result",
    "/healthz",
    "/readyz",
    "/metrics",
)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RpcMetrics:
    """What is counted of one RPC; kept by whoever serves it, so that a call looks nothing up."""

    def __init__(self, method: str, calls: Counter, seconds: Histogram) -> None:
        self._method = method
        self._calls = calls
        self._by_code: dict[str, Counter] = {}
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

    Args:
        version: Of the service.
        methods: Full names of the RPCs that are counted by name; others are `other`.
    """

    def __init__(self, version: str, methods: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        self._methods = frozenset(methods)
        self._calls = Counter("zoomgate_rpc", "RPCs that ended.", ("method", "code"), registry=self.registry)
        self._seconds = Histogram(
            "zoomgate_rpc_seconds", "Duration of RPCs.", ("method",), buckets=_SECONDS, registry=self.registry
        )
        self._refreshes = Counter(
            "zoomgate_refreshes",
            "Attempts to refresh a token, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self._refresh_seconds = Histogram(
            "zoomgate_refresh_seconds",
            "Duration of attempts that asked Zoom for tokens.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._lost = Counter(
            "zoomgate_refresh_outcomes_lost",
            "Users who have to consent again since an answer of Zoom's was lost.",
            registry=self.registry,
        )
        self._breaker = Gauge(
            "zoomgate_refresh_breaker_open",
            "1 while nothing is asked of Zoom's token endpoint, since it refuses the app or does not answer.",
            registry=self.registry,
        )
        self._journal = Gauge(
            "zoomgate_journal_entries",
            "Tokens that Zoom issued and the store has not confirmed yet.",
            registry=self.registry,
        )
        self._journal_events = Counter(
            "zoomgate_journal", "What happened to entries of the journal.", ("event",), registry=self.registry
        )
        self._http = Counter(
            "zoomgate_http_requests", "HTTP requests.", ("route", "status_class"), registry=self.registry
        )
        self._store = Counter("zoomgate_store_reads", "Records read from the store.", registry=self.registry)
        build = Gauge("zoomgate_build_info", "The running version.", ("version",), registry=self.registry)
        build.labels(version).set(1)
        for outcome in REFRESH_OUTCOMES:
            self._refreshes.labels(outcome)
        for event in JOURNAL_EVENTS:
            self._journal_events.labels(event)

    def rpc(self, method: str) -> RpcMetrics:
        """Give what counts one RPC."""
        return RpcMetrics(method if method in self._methods else OTHER, self._calls, self._seconds)

    def refreshes(self, outcome: str) -> None:
        """Count an attempt to refresh."""
        self._refreshes.labels(outcome if outcome in REFRESH_OUTCOMES else OTHER).inc()

    def refresh_seconds(self, seconds: float) -> None:
        """Note how long an attempt took that asked Zoom."""
        self._refresh_seconds.observe(seconds)

    def outcome_lost(self) -> None:
        """Count a user who has to consent again since an answer of Zoom's was lost."""
        self._lost.inc()

    def breaker_open(self, is_open: bool) -> None:
        """Say whether refreshes are held back for everybody."""
        self._breaker.set(is_open)

    def journal_entries(self, count: int) -> None:
        """Say how many entries of the journal this process holds."""
        self._journal.set(count)

    def journal_written(self) -> None:
        """Count an entry that was written."""
        self._journal_events.labels("written").inc()

    def journal_failed(self) -> None:
        """Count an entry that could not be written."""
        self._journal_events.labels("failed").inc()

    def journal_resumed(self) -> None:
        """Count an entry of a process that died."""
        self._journal_events.labels("resumed").inc()

    def journal_damaged(self) -> None:
        """Count a file in the journal that cannot be opened."""
        self._journal_events.labels("damaged").inc()

    def http_request(self, route: str, status: int) -> None:
        """Count an HTTP request."""
        self._http.labels(route if route in HTTP_ROUTES else OTHER, f"{status // 100}xx").inc()

    def store_read(self) -> None:
        """Count a record that was read for a call."""
        self._store.inc()

    def render(self) -> bytes:
        """Give everything in Prometheus' text format."""
        return generate_latest(self.registry)
