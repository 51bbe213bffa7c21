"""Metric for the number of connections, which are counted in the store at a limited rate."""

import asyncio
from collections import deque

from zoomgate_server.clock import Clock
from zoomgate_server.connections.record import State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs
from zoomgate_server.telemetry.metrics import Metrics

COUNT_INTERVAL = 15.0
"""Minimum interval between two scans."""

MAX_COUNTED = 50_000
"""Maximum number of connections counted in one scan. The next scan continues with the following connections."""

_log = logs.get("zoomgate.metrics")


class ConnectionCountGauge:
    """Gauge of the connections in the store, by state. In a large store, a count takes several scans."""

    def __init__(
        self,
        connections: ConnectionRepository,
        clock: Clock,
        metrics: Metrics,
        max_counted: int = MAX_COUNTED,
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._metrics = metrics
        self._max_counted = max_counted
        self._next = clock.monotonic()
        # the states in the order of their counts, and the progress of the first one
        self._states = deque(State)
        self._count, self._after = 0, ""

    async def run(self, interval: float) -> None:
        """Update the metric every `interval` seconds, until canceled."""
        while True:
            await self.update()
            await asyncio.sleep(interval)

    async def update(self) -> None:
        """Continue to count, unless the last scan is recent. If the store fails, the metric retains its values."""
        if self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + COUNT_INTERVAL
        try:
            await self._scan()
        except StoreError as error:
            _log.warning("connections.count_failed", problem=str(error))

    async def _scan(self) -> None:
        """Count up to `max_counted` connections, and at most once those in each state."""
        remaining = self._max_counted
        for _ in State:
            state = self._states[0]
            count, after = await self._connections.count(state, self._after, remaining)
            self._count, self._after = self._count + count, after or ""
            remaining -= count
            if after is not None:
                return
            self._metrics.connections.labels(state).set(self._count)
            self._states.rotate(-1)
            self._count = 0
