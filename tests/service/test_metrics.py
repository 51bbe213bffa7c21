"""Tests for the store and refresh metrics."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from support.harness import MONICA, SECONDS, Harness, serving
from support.memory_store import MemoryStore
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.count_gauge import COUNT_INTERVAL, ConnectionCountGauge
from zoomgate_server.connections.record import State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Kind, Record, RecordKey
from zoomgate_server.telemetry.metrics import Metrics


async def metric_value(zoomgate: Harness, name: str) -> float:
    """Return the value of a metric."""
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as response:
        assert response.status == 200
        match = re.search(rf"^{re.escape(name)} (\S+)$", await response.text(), re.MULTILINE)
    assert match is not None, name
    return float(match[1])


async def test_store_errors_are_counted(zoomgate: Harness) -> None:
    """While the store fails, metrics are exported with the last known number of connections."""
    await zoomgate.connect()
    active = 'zoomgate_connections{state="ACTIVE"}'
    assert await metric_value(zoomgate, active) == 1
    before = await metric_value(zoomgate, "zoomgate_store_errors_total")
    Path(zoomgate.data_dir / "zoomgate.db").unlink()
    error = await zoomgate.error_of(
        zoomgate.auth.GetConnection, auth.GetConnectionRequest(user_email=MONICA), "admin"
    )
    assert error.reason == "STORE_UNAVAILABLE"
    assert before == 0
    assert await metric_value(zoomgate, "zoomgate_store_errors_total") >= 1
    assert await metric_value(zoomgate, active) == 1


async def test_concurrent_calls_for_one_user_share_store_reads(tmp_path: Path) -> None:
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, tmp_path) as before:
            await before.connect()
        async with serving(zoom, tmp_path) as after:
            request = auth.GetTokenRequest(user_email=MONICA)
            responses = await asyncio.gather(*(after.call(after.auth.GetToken, request) for _ in range(90)))
            assert {response.token.generation for response in responses} == {1}
            assert await metric_value(after, "zoomgate_store_reads_total") < 45


async def test_age_of_pending_refresh_is_exported(zoomgate: Harness) -> None:
    """The metric increases until Zoom responds, and returns to 0 after the outcome of the refresh is stored."""
    age = "zoomgate_oldest_pending_attempt_seconds"
    async with asyncio.timeout(SECONDS):
        await zoomgate.connect()
        assert await metric_value(zoomgate, age) == 0
        zoomgate.simulator.faults.add(Fault("token", "delay", seconds=600))
        refreshing = asyncio.create_task(
            zoomgate.call(zoomgate.auth.RefreshToken, auth.RefreshTokenRequest(user_email=MONICA))
        )
        while not (first_age := await metric_value(zoomgate, age)):
            await asyncio.sleep(0.01)
        while await metric_value(zoomgate, age) <= first_age:
            await asyncio.sleep(0.01)
        zoomgate.simulator.faults.clear()
        assert (await refreshing).token.generation == 2
        while await metric_value(zoomgate, age):
            await asyncio.sleep(0.01)


class SteppingClock(SystemClock):
    """A clock that tests advance manually."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Counting:
    """A gauge of the connections in an in-memory store."""

    max_counted: int

    def __post_init__(self) -> None:
        self.clock, self.metrics = SteppingClock(), Metrics("1", [])
        self.store = MemoryStore(self.clock.wall)
        keys = KeyRing([Key(key_id="01020304", secret=bytes(range(32)), primary=True)])
        connections = ConnectionRepository(
            app="app",
            store=self.store,
            envelope=Envelope(app="app", keys=keys),
            clock=self.clock,
            on_read=self.metrics.store_reads.inc,
        )
        self.gauge = ConnectionCountGauge(connections, self.clock, self.metrics, self.max_counted)

    async def add(self, state: State, count: int = 1) -> None:
        """Add connections."""
        for number in range(count):
            name = f"{state}-{number}-{self.clock.now}"
            record = Record(RecordKey("app", Kind.USER, name), b"", state=state, user_email=name)
            await self.store.put(record, 0)

    async def counts(self, seconds: float) -> dict[str, int]:
        """Wait, update the gauge, and return its values."""
        self.clock.now += seconds
        await self.gauge.update()
        rows = re.findall(
            r'^zoomgate_connections{state="(\w+)"} (\S+)$', self.metrics.render().decode(), re.MULTILINE
        )
        return {state: int(float(count)) for state, count in rows}


async def test_connections_are_counted_at_most_every_15_seconds() -> None:
    counting, counts = Counting(50), list[int]()
    for step in (0.0, COUNT_INTERVAL - 1, 1.0):
        counts.append((await counting.counts(step))["ACTIVE"])
        await counting.add(State.ACTIVE)
    assert counts == [0, 0, 2]


async def test_many_connections_are_counted_in_several_scans() -> None:
    """A scan counts a limited number. The number in a state changes when its count is complete."""
    counting = Counting(10)
    for state, count in ((State.ACTIVE, 25), (State.REAUTH_REQUIRED, 10), (State.DISCONNECTED, 3)):
        await counting.add(state, count)
    for expected in (
        {},
        {},
        {"ACTIVE": 25},
        {"ACTIVE": 25, "REAUTH_REQUIRED": 10, "DISCONNECTED": 3},
    ):
        assert await counting.counts(COUNT_INTERVAL) == expected
    await counting.add(State.ACTIVE, 5)
    for _ in range(8):
        counts = await counting.counts(COUNT_INTERVAL)
    assert counts == {"ACTIVE": 30, "REAUTH_REQUIRED": 10, "DISCONNECTED": 3}
