"""Watching through a server that is killed again and again while connections change: nothing is left out."""

import asyncio
import random
import signal
import socket
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from crash.cluster import Cluster, Kept, cluster, until
from crash.table import Table
from support.harness import key_of
from zoomgate import AsyncClient
from zoomgate.v1.auth_service_pb2 import WatchConnectionsResponse as Event
from zoomgate_server.connections.disconnection import make_tombstone
from zoomgate_server.connections.record import State
from zoomgate_server.rpc.services import connection_mapping

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

KILLS, SEED = 20, 20_261_125
PEOPLE = [f"person{number}" for number in range(60)]
USERS = [f"{name}@example.com" for name in PEOPLE]

Shown = tuple[int, int, str]
"""Generation, `update_time` in milliseconds and state of a connection."""


def free_port() -> int:
    """A port for a server that is started several times."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Ledger:
    """What a client was told.

    Attributes:
        latest: The last that it heard of everybody.
        seen: How often it heard what.
    """

    def __init__(self) -> None:
        self.latest: dict[str, Shown] = {}
        self.seen: Counter[tuple[str, Shown]] = Counter()

    async def follow(self, client: AsyncClient) -> None:
        """Watch until cancelled."""
        async with aclosing(client.watch()) as events:
            async for event in events:
                if event.type != Event.TYPE_SYNCED:
                    connection = event.connection
                    shown = (
                        connection.generation,
                        connection.update_time.ToMilliseconds(),
                        State(list(State)[connection.state - 1]).value,
                    )
                    self.latest[connection.user_email] = shown
                    self.seen[connection.user_email, shown] += 1


async def change(running: Cluster, user: str, rng: random.Random) -> None:
    """Change somebody's connection as a process of the service would."""
    while True:
        record, now = await running.connections.read(user)
        assert record is not None
        ended = record.state is State.DISCONNECTED
        if not ended and rng.random() < 0.1:
            written = make_tombstone(record, now, revoke=False)
        else:
            written = replace(
                record,
                state=State.ACTIVE,
                cause=None,
                generation=record.generation + 1,
                create_time=now if ended else record.create_time,
                update_time=now,
                expire_at=None,
            )
        if await running.connections.write(written):
            return


async def stored(running: Cluster, user: str) -> Shown:
    """What the store holds of somebody."""
    record, _ = await running.connections.read(user)
    assert record is not None
    updated = connection_mapping.timestamp(record.update_time)
    assert updated is not None
    return record.generation, updated.ToMilliseconds(), record.state.value


async def test_a_server_that_is_killed_leaves_nothing_out(
    kept: Kept, store_uri: str, tmp_path: Path, table: Table
) -> None:
    """Twenty times a server is killed while connections change, before, during and after; the client hears the last of everybody."""
    rng, ledger = random.Random(SEED), Ledger()  # noqa: S311 - the same every time
    async with cluster(kept, tmp_path, PEOPLE, store_uri) as running:
        await running.connect(USERS)
        listen = f"127.0.0.1:{free_port()}"
        server = await running.start("one", listen=listen)
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
        async with AsyncClient(listen, key=key_of("service"), options=options) as client:
            watching = asyncio.create_task(ledger.follow(client))
            await until(lambda: len(ledger.latest) == len(USERS))
            changes = 0
            for number in range(KILLS):
                touched = rng.sample(USERS, 12)
                for place, user in enumerate(touched):
                    if place == 4:
                        server.send(signal.SIGKILL)
                        await server.ended()
                    if place == 8:
                        starting = asyncio.create_task(running.start(f"one-{number}", listen=listen))
                    await change(running, user, rng)
                    changes += 1
                server = await starting
                expected = {user: await stored(running, user) for user in touched}
                await until(lambda expected=expected: expected.items() <= ledger.latest.items())  # type: ignore[misc]
            assert not watching.done()
            watching.cancel()
        assert {user: await stored(running, user) for user in USERS} == ledger.latest
    repeated = sum(ledger.seen.values()) - len(ledger.seen)
    told = sum(ledger.seen.values())
    table.notes.append(
        f"a watch over {kept}: {KILLS} kills, {changes} changes, {told} events, {repeated} of them repeated, 0 missed"
    )
