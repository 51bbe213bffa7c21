"""Tests for a client's watch while the server is killed repeatedly and connections change."""

import asyncio
import random
import signal
import socket
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from crash.cluster import Cluster, StoreKind, cluster, until
from crash.table import Table
from support.harness import caller_key
from zoomgate import AsyncClient
from zoomgate.v1.auth_service_pb2 import WatchConnectionsResponse as Event
from zoomgate_server.connections.lifecycle import decisions
from zoomgate_server.connections.record import Cause, State
from zoomgate_server.rpc.services import connection_mapping

pytestmark = pytest.mark.timeout(300)

KILLS, SEED = 20, 20_261_125
NAMES = [f"user{number}" for number in range(60)]
USERS = [f"{name}@example.com" for name in NAMES]

ConnectionVersion = tuple[int, int, str]
"""The generation, the `update_time` in milliseconds, and the state of a connection."""


def free_port() -> int:
    """Return a free port, so that a server can be restarted on the same port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ReceivedEvents:
    """The events that a client has received.

    Attributes:
        latest: The latest version of each connection, by user.
        received: The number of times that each version of a connection was received.
    """

    def __init__(self) -> None:
        self.latest: dict[str, ConnectionVersion] = {}
        self.received: Counter[tuple[str, ConnectionVersion]] = Counter()

    async def follow(self, client: AsyncClient) -> None:
        """Watch connections and record the events until the task is canceled."""
        async with aclosing(client.watch()) as watch:
            async for event in watch:
                if event.type != Event.TYPE_SYNCED:
                    connection = event.connection
                    version = (
                        connection.generation,
                        connection.update_time.ToMilliseconds(),
                        State(list(State)[connection.state - 1]).value,
                    )
                    self.latest[connection.user_email] = version
                    self.received[connection.user_email, version] += 1


async def change(running: Cluster, user: str, rng: random.Random) -> None:
    """Update, delete or recreate a connection directly in the store, in the same way as a service process."""
    while True:
        record, now = await running.connections.find(user)
        assert record is not None
        deleted = record.state is State.DISCONNECTED
        if not deleted and rng.random() < 0.1:
            written = decisions.end(record, Cause.APP_DEAUTHORIZED, now)
        else:
            written = replace(
                record,
                state=State.ACTIVE,
                cause=None,
                generation=record.generation + 1,
                create_time=now if deleted else record.create_time,
                update_time=now,
                expire_at=None,
            )
        if await running.connections.write(written):
            return


async def stored(running: Cluster, user: str) -> ConnectionVersion:
    """Return the version of a connection in the store."""
    record, _ = await running.connections.find(user)
    assert record is not None
    updated = connection_mapping.timestamp(record.update_time)
    assert updated is not None
    return record.generation, updated.ToMilliseconds(), record.state.value


async def test_client_misses_no_change_when_the_server_is_killed(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, table: Table
) -> None:
    """In each of 20 rounds, connections change before, during and after the restart of the server."""
    rng, events = random.Random(SEED), ReceivedEvents()  # noqa: S311 - a fixed seed makes the test reproducible
    async with cluster(store_kind, tmp_path, NAMES, store_uri) as running:
        await running.connect(USERS)
        listen = f"127.0.0.1:{free_port()}"
        server = await running.start("one", listen=listen)
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
        async with AsyncClient(listen, key=caller_key("service"), options=options) as client:
            watching = asyncio.create_task(events.follow(client))
            await until(lambda: len(events.latest) == len(USERS))
            changes = 0
            for number in range(KILLS):
                changed = rng.sample(USERS, 12)
                for position, user in enumerate(changed):
                    if position == 4:
                        server.send(signal.SIGKILL)
                        await server.wait()
                    if position == 8:
                        starting = asyncio.create_task(running.start(f"one-{number}", listen=listen))
                    await change(running, user, rng)
                    changes += 1
                server = await starting
                expected = {user: await stored(running, user) for user in changed}
                await until(lambda expected=expected: expected.items() <= events.latest.items())  # type: ignore[misc]
            assert not watching.done()
            watching.cancel()
        assert {user: await stored(running, user) for user in USERS} == events.latest
    received = sum(events.received.values())
    repeated = received - len(events.received)
    table.notes.append(
        f"a watch with {store_kind}: {KILLS} kills, {changes} changes, {received} events, {repeated} of them repeated, 0 missed"
    )
