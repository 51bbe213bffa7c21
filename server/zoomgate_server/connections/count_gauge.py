"""How many people are connected, for the metrics: counted in the store, and not too often."""

from zoomgate_server.clock import Clock
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics

COUNT_SECONDS = 15.0
"""Least time between two counts: the store looks at every record for one."""

_log = logs.get("zoomgate.metrics")


class ConnectionCountGauge:
    """Counts the connections of all processes by their state.

    Args:
        connections: Where they are.
        clock: Time.
        metrics: Gets the numbers.
    """

    def __init__(self, connections: ConnectionRepository, clock: Clock, metrics: Metrics) -> None:
        self._connections = connections
        self._clock = clock
        self._metrics = metrics
        self._next = clock.monotonic()

    async def update(self) -> None:
        """Count again unless that was done a moment ago. If the store fails, the numbers stay as they are."""
        if self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + COUNT_SECONDS
        try:
            self._metrics.connections(await self._connections.count_by_state())
        except StoreError:
            _log.warning("connections.count_failed")
