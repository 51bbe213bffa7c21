"""Metric for the number of connections, which are counted in the store at a limited rate."""

import asyncio

from zoomgate_server.clock import Clock
from zoomgate_server.connections.record import State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics

COUNT_INTERVAL = 15.0
"""Minimum interval between two counts, since a count scans all records."""

_log = logs.get("zoomgate.metrics")


class ConnectionCountGauge:
    """Gauge of the connections in the store, by state."""

    def __init__(self, connections: ConnectionRepository, clock: Clock, metrics: Metrics) -> None:
        self._connections = connections
        self._clock = clock
        self._metrics = metrics
        self._next = clock.monotonic()

    async def run(self, interval: float) -> None:
        """Update the metric every `interval` seconds, until canceled."""
        while True:
            await self.update()
            await asyncio.sleep(interval)

    async def update(self) -> None:
        """Count the connections, unless the last count is recent. If the store fails, the metric retains its values."""
        if self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + COUNT_INTERVAL
        try:
            counts = await self._connections.count_by_state()
        except StoreError:
            _log.warning("connections.count_failed")
            return
        for state in State:
            self._metrics.connections.labels(state).set(counts.get(state, 0))
