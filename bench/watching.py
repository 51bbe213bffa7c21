"""Very many watches of one process: what each costs in memory, and how long after a change everybody knows it."""

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate_server.change_feed import OVERLAP_SECONDS
from zoomgate_server.tokens.store import Kind, Record, RecordKey, RecordStore

WATCHES, A_CHANNEL = 10_000, 90
"""A server takes 100 streams on one connection."""

ROUNDS = 5
LOOKS = 100
CONNECTIONS = 100_000
USER = "bench@example.com"
_TOGETHER = 200


@dataclass(frozen=True)
class Crowd:
    """How many watches fared.

    Attributes:
        kib: Memory of the service for each watch.
        begun: Seconds until all were told what exists.
        delays: Seconds from the answer to a change to the event, of every watch and change.
    """

    kib: float
    begun: float
    delays: list[float]

    def quantile(self, part: float) -> float:
        """Seconds after which a part of all events had arrived."""
        return sorted(self.delays)[int(part * (len(self.delays) - 1))]


async def crowd(address: str, key: str, service: int, refresh_token: str) -> Crowd:
    """Let `WATCHES` clients watch one person, whose token is then refreshed a few times.

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
        before, started = _kib(service), time.monotonic()
        calls = [
            stubs[number // A_CHANNEL].WatchConnections(request, metadata=metadata)
            for number in range(WATCHES)
        ]
        for place in range(0, WATCHES, _TOGETHER):
            await asyncio.gather(*(_caught_up(call) for call in calls[place : place + _TOGETHER]))
        begun = time.monotonic() - started
        kib = (_kib(service) - before) / WATCHES
        delays: list[float] = []
        for generation in range(2, 2 + ROUNDS):
            waiting = [asyncio.ensure_future(_heard(call, generation)) for call in calls]
            await stubs[0].RefreshToken(
                auth.RefreshTokenRequest(user_email=USER), metadata=metadata, timeout=30
            )
            changed = time.monotonic()
            delays += [moment - changed for moment in await asyncio.gather(*waiting)]
        for call in calls:
            call.cancel()
    return Crowd(kib, begun, delays)


async def _caught_up(call: "grpc.aio.UnaryStreamCall[object, auth.WatchConnectionsResponse]") -> None:
    while (await call.read()).type != auth.WatchConnectionsResponse.TYPE_CAUGHT_UP:
        pass


async def _heard(
    call: "grpc.aio.UnaryStreamCall[object, auth.WatchConnectionsResponse]", generation: int
) -> float:
    while (await call.read()).connection.generation < generation:
        pass
    return time.monotonic()


def _kib(process: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found.group(1))


async def idle_look(store: RecordStore, records: int = CONNECTIONS) -> float:
    """Fill a store with connections that do not change, and give the median of milliseconds that a look for changes takes."""
    long_ago = time.time() - 3600

    async def put(number: int) -> None:
        key = RecordKey("app", Kind.USER, f"person{number:06}@example.com")
        await store.put(Record(key=key, value=b"v" * 1300, state="ACTIVE", changed_at=long_ago), 0)

    for start in range(0, records, 64):
        await asyncio.gather(*(put(number) for number in range(start, min(start + 64, records))))
    times = []
    for _ in range(LOOKS):
        before = time.perf_counter()
        changes, _ = await store.changes("app", Kind.USER, time.time() - OVERLAP_SECONDS)
        times.append((time.perf_counter() - before) * 1000)
        assert not changes
    return sorted(times)[LOOKS // 2]
