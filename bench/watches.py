"""Benchmark of 10,000 watches in one process (memory and event delay) and of change feed polls."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from pymongo import MongoClient

from bench.process_stats import memory_kib, processor_seconds
from zoom_simulator import Simulator
from zoom_simulator.options import SimulatedUser
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate_server.storage.mongodb import RECORDS, MongoStore
from zoomgate_server.storage.record_store import Kind, RecordStore
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.watch.change_feed import Timing

WATCHES, WATCHES_PER_CHANNEL = 10_000, 90
"""Number of watches, in total and per connection. A server accepts 100 streams per connection."""

ROUNDS = 1
"""Number of refreshes, each reported to all watches."""
POLLS = 100
CONNECTIONS = 100_000
USER = "watched@example.com"
WATCHED = SimulatedUser(USER, "u-watched")
_BATCH = 200


@dataclass(frozen=True)
class WatchResult:
    """The result of the benchmark of watches.

    Attributes:
        kib: Memory of the service per watch.
        start_seconds: Seconds until all watches are synced.
        microseconds: Processor time of the service per event.
        delays: Seconds from the response to a refresh until the event arrives, for every watch and refresh.
    """

    kib: float
    start_seconds: float
    microseconds: float
    delays: list[float]

    def quantile(self, part: float) -> float:
        """Return the delay within which the fraction `part` of all events arrived."""
        return sorted(self.delays)[int(part * (len(self.delays) - 1))]


async def measure_watches(address: str, key: str, service: int, refresh_token: str) -> WatchResult:
    """Start `WATCHES` watches of one user, then repeatedly refresh the user's token; return the measurements.

    Args:
        address: Address of the service.
        key: Key of a caller.
        service: Process ID of the service.
        refresh_token: A refresh token of the user.
    """
    metadata = (("authorization", f"Bearer {key}"),)
    request = auth.WatchConnectionsRequest()
    async with contextlib.AsyncExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        stubs = [
            AuthServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            )
            for _ in range(-(-WATCHES // WATCHES_PER_CHANNEL))
        ]
        import_request = auth.RequestTokenRequest(user_email=USER, refresh_token=refresh_token)
        await stubs[0].RequestToken(import_request, metadata=metadata, timeout=30)
        before, started = memory_kib(service), time.monotonic()
        calls = []
        for first in range(0, WATCHES, _BATCH):
            batch = [
                stubs[number // WATCHES_PER_CHANNEL].WatchConnections(request, metadata=metadata)
                for number in range(first, min(first + _BATCH, WATCHES))
            ]
            await asyncio.gather(*map(_wait_until_synced, batch))
            calls += batch
        start_seconds = time.monotonic() - started
        kib = (memory_kib(service) - before) / WATCHES
        delays: list[float] = []
        processor_before = processor_seconds(service)
        for generation in range(2, 2 + ROUNDS):
            waiting = [asyncio.ensure_future(_receive_time(call, generation)) for call in calls]
            await stubs[0].RefreshToken(
                auth.RefreshTokenRequest(user_email=USER), metadata=metadata, timeout=30
            )
            changed_at = time.monotonic()
            delays += [received_at - changed_at for received_at in await asyncio.gather(*waiting)]
        microseconds = (processor_seconds(service) - processor_before) / len(delays) * 1e6
        for call in calls:
            call.cancel()
    return WatchResult(kib, start_seconds, microseconds, delays)


def refresh_token(simulator: Simulator, loop: asyncio.AbstractEventLoop) -> str:
    """Let the user consent in the Zoom simulator, which runs in a different thread; return the refresh token."""

    async def consent() -> str:
        code = simulator.zoom.issue_code(WATCHED, "x")
        return str(simulator.zoom.exchange(code, "x", "")["refresh_token"])

    return asyncio.run_coroutine_threadsafe(consent(), loop).result()


async def _wait_until_synced(call: Any) -> None:
    while (await call.read()).type != auth.WatchConnectionsResponse.TYPE_SYNCED:
        pass


async def _receive_time(call: Any, generation: int) -> float:
    while (await call.read()).connection.generation < generation:
        pass
    return time.monotonic()


async def measure_idle_poll(store: RecordStore, app: str) -> float:
    """Return the median duration, in milliseconds, of a change feed poll without changes."""
    times = []
    for _ in range(POLLS):
        before = time.perf_counter()
        changes, _ = await store.changes(app, Kind.USER, time.time() - Timing().overlap)
        times.append((time.perf_counter() - before) * 1000)
        assert not changes
    await store.close()
    return sorted(times)[POLLS // 2]


async def measure_idle_poll_sqlite(file: Path, app: str) -> float:
    """Return the result of `measure_idle_poll` for a SQLite file."""
    return await measure_idle_poll(await SqliteStore.open(file, time.time), app)


async def measure_idle_poll_mongodb(uri: str) -> float:
    """Add `CONNECTIONS` connections to a MongoDB database, and return the result of `measure_idle_poll`."""
    store, changed_at = await MongoStore.open(uri), time.time() - 3600
    rows: list[Any] = [
        {
            "_id": f"user:3:app:z{number:06}",
            "app": "app",
            "kind": Kind.USER.value,
            "subject": f"z{number:06}",
            "email_key": f"3:app:user{number:06}@example.com",
            "value": b"v" * 1300,
            "rev": number,
            "state": "ACTIVE",
            "key_id": "",
            "changed_at": changed_at,
        }
        for number in range(CONNECTIONS)
    ]
    client: MongoClient[Any]
    with MongoClient(uri) as client:
        for start in range(0, CONNECTIONS, 10_000):
            client.get_default_database()[RECORDS].insert_many(rows[start : start + 10_000], ordered=False)
    return await measure_idle_poll(store, "app")
