"""Very many watches of one process: what each costs in memory, and how long after a change everybody knows it."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from pymongo import MongoClient

from bench.processes import memory_kib, processor_seconds
from zoom_simulator import Simulator
from zoom_simulator.options import SimulatedUser
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate_server.storage.mongodb import RECORDS, MongoStore
from zoomgate_server.storage.record_store import Kind, RecordStore
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.watch.change_feed import OVERLAP_SECONDS

WATCHES, A_CHANNEL = 10_000, 90
"""A server takes 100 streams on one connection."""

ROUNDS = 1
"""Refreshes that everybody is told of."""
LOOKS = 100
CONNECTIONS = 100_000
USER = "watched@example.com"
WATCHED = SimulatedUser(USER, "u-watched")
_TOGETHER = 200


@dataclass(frozen=True)
class Crowd:
    """How many watches fared.

    Attributes:
        kib: Memory of the service for each watch.
        begun: Seconds until all were told what exists.
        microseconds: Processor time of the service for each event.
        delays: Seconds from the answer to a change to the event, of every watch and change.
    """

    kib: float
    begun: float
    microseconds: float
    delays: list[float]

    def quantile(self, part: float) -> float:
        """Seconds after which a part of all events had arrived."""
        return sorted(self.delays)[int(part * (len(self.delays) - 1))]


async def crowd(address: str, key: str, service: int, refresh_token: str) -> Crowd:
    """Let `WATCHES` clients watch one person, whose token is then refreshed.

    Args:
        address: Of the service.
        key: A caller's.
        service: Its process id.
        refresh_token: Connects the person.
    """
    metadata = (("authorization", f"Bearer {key}"),)
    request = auth.WatchConnectionsRequest()
    async with contextlib.AsyncExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        stubs = [
            AuthServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            )
            for _ in range(-(-WATCHES // A_CHANNEL))
        ]
        brought = auth.RequestTokenRequest(user_email=USER, refresh_token=refresh_token)
        await stubs[0].RequestToken(brought, metadata=metadata, timeout=30)
        before, started = memory_kib(service), time.monotonic()
        calls = []
        for place in range(0, WATCHES, _TOGETHER):
            some = [
                stubs[number // A_CHANNEL].WatchConnections(request, metadata=metadata)
                for number in range(place, min(place + _TOGETHER, WATCHES))
            ]
            await asyncio.gather(*map(_caught_up, some))
            calls += some
        begun = time.monotonic() - started
        kib = (memory_kib(service) - before) / WATCHES
        delays: list[float] = []
        worked = processor_seconds(service)
        for generation in range(2, 2 + ROUNDS):
            waiting = [asyncio.ensure_future(_heard(call, generation)) for call in calls]
            await stubs[0].RefreshToken(
                auth.RefreshTokenRequest(user_email=USER), metadata=metadata, timeout=30
            )
            changed = time.monotonic()
            delays += [moment - changed for moment in await asyncio.gather(*waiting)]
        microseconds = (processor_seconds(service) - worked) / len(delays) * 1e6
        for call in calls:
            call.cancel()
    return Crowd(kib, begun, microseconds, delays)


def refresh_token(simulator: Simulator, loop: asyncio.AbstractEventLoop) -> str:
    """Let the person consent at the simulated Zoom, which runs in another thread's loop."""

    async def consent() -> str:
        code = simulator.zoom.issue_code(WATCHED, "x")
        return str(simulator.zoom.exchange(code, "x", "")["refresh_token"])

    return asyncio.run_coroutine_threadsafe(consent(), loop).result()


async def _caught_up(call: Any) -> None:
    while (await call.read()).type != auth.WatchConnectionsResponse.TYPE_SYNCED:
        pass


async def _heard(call: Any, generation: int) -> float:
    while (await call.read()).connection.generation < generation:
        pass
    return time.monotonic()


async def idle_look(store: RecordStore, app: str) -> float:
    """Give the median of milliseconds that a look for changes takes when nothing changed."""
    times = []
    for _ in range(LOOKS):
        before = time.perf_counter()
        changes, _ = await store.changes(app, Kind.USER, time.time() - OVERLAP_SECONDS)
        times.append((time.perf_counter() - before) * 1000)
        assert not changes
    await store.close()
    return sorted(times)[LOOKS // 2]


async def idle_look_sqlite(file: Path, app: str) -> float:
    """As `idle_look`, of a file with connections."""
    return await idle_look(await SqliteStore.open(file, time.time), app)


async def idle_look_mongodb(uri: str) -> float:
    """As `idle_look`, of a database that is filled with `CONNECTIONS` first."""
    store, long_ago = await MongoStore.open(uri), time.time() - 3600
    rows: list[Any] = [
        {
            "_id": f"user:3:app:person{number:06}@example.com",
            "app": "app",
            "kind": Kind.USER.value,
            "subject": f"person{number:06}@example.com",
            "value": b"v" * 1300,
            "rev": number,
            "state": "ACTIVE",
            "key_id": "",
            "changed_at": long_ago,
        }
        for number in range(CONNECTIONS)
    ]
    client: MongoClient[Any]
    with MongoClient(uri) as client:
        for start in range(0, CONNECTIONS, 10_000):
            client.get_default_database()[RECORDS].insert_many(rows[start : start + 10_000], ordered=False)
    return await idle_look(store, "app")
