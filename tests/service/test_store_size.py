"""Tests that the start and the background scans of a service read the same from a store with few and with many connections."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from support.faulty_store import FaultyStore
from zoomgate_server import settings
from zoomgate_server.app import stores
from zoomgate_server.app.composition import Components
from zoomgate_server.app.timing import Timing
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.refresh_schedule import EARLIEST_SECONDS
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.telemetry.metrics import Metrics

DAY = 24 * 3600.0
NOW = SystemClock().wall()


def load(folder: Path) -> settings.Settings:
    """Return the settings of a service with a data directory."""
    return settings.load(
        {
            "ZOOMGATE_DATA_DIR": str(folder),
            "ZOOMGATE_CLIENT_ID": "zoomgate-dev",
            "ZOOMGATE_CLIENT_SECRET": "zoomgate-dev-secret",
            "ZOOMGATE_REDIRECT_URI": "http://127.0.0.1:9/oauth/callback",
        }
    )


CONNECTIONS: dict[str, dict[str, Any]] = {
    "idle": {"state": State.ACTIVE, "due_at": NOW + EARLIEST_SECONDS},
    "due": {"state": State.ACTIVE, "due_at": NOW - DAY},
    "ended recently": {"state": State.REAUTH_REQUIRED},
    "disconnected": {"state": State.DISCONNECTED, "expire_at": NOW + DAY},
    "to revoke": {"state": State.DISCONNECTED, "expire_at": NOW + DAY, "due_at": NOW + DAY},
}
"""Connections that a scan must not read unless it selects them."""


def add(folder: Path, kinds: tuple[str, ...], count: int) -> None:
    """Add connections of each kind to the store of a data directory."""
    envelope = Envelope(app=load(folder).app, keys=key_file.load(folder / "keys.json"))
    template = ConnectionRecord(
        zoom_user_id="",
        user_email="",
        state=State.ACTIVE,
        grant="g",
        generation=1,
        create_time=NOW - DAY,
        consent_time=NOW - DAY,
        update_time=NOW - DAY,
        refresh_time=NOW,
        tokens=TokenPair("a", "r", "s", NOW + 3600, NOW),
    )
    records = [
        connection_record.encode(
            envelope,
            replace(template, zoom_user_id=f"z{n:05}", user_email=f"{n:05}@example.com", **CONNECTIONS[kind]),
        )
        for n in range(count)
        for kind in kinds[n % len(kinds) :][:1]
    ]
    with sqlite3.connect(folder / "zoomgate.db") as database:
        for record in records:
            value, *columns = record.columns().values()
            row = (*astuple(record.key), value, 1, *columns)
            database.execute(f"INSERT INTO record VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - placeholders only
    database.close()


@dataclass
class Reads:
    """What a service has read from its store.

    Attributes:
        operations: The number of operations by method.
        records: The number of records in their results.
        instructions: The number of instructions that SQLite has executed for them.
    """

    operations: Counter[str]
    records: int = 0
    instructions: int = 0


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[tuple[Components, Reads]]:
    """Start the domain objects of a service, and yield them with what they have read."""
    loaded, clock = load(folder), SystemClock()
    async with AsyncExitStack() as stack:
        sqlite, key_ring = await stores.open_store(loaded, stack, asyncio.Event(), clock)
        assert isinstance(sqlite, SqliteStore)
        store = FaultyStore(sqlite)
        reads = Reads(store.calls)

        def count_instruction() -> None:
            reads.instructions += 1

        async def count_records(
            proceed: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any
        ) -> Any:
            result = await proceed(*arguments, **options)
            reads.records += len(result[0] if isinstance(result, tuple) else result)
            return result

        for method in ("page", "changes"):
            stack.enter_context(store.intercept(method, count_records))
        for thread in (sqlite._reader, sqlite._writer):
            await thread.run(lambda connection: connection.set_progress_handler(count_instruction, 1))
        metrics = Metrics("0", [])
        yield await Components.build(loaded, store, key_ring, clock, metrics, Timing(), stack), reads


async def find(candidates: AsyncIterator[object]) -> None:
    """Find the candidates for deletion, of which there are none."""
    assert [candidate async for candidate in candidates] == []


SCANS: dict[str, Callable[[Components], Awaitable[object]]] = {
    "change feed": lambda components: components.change_feed.poll(),
    "expired records": lambda components: find(components.retention.find_expired()),
    "overdue consents": lambda components: find(components.retention.find_overdue_reauth()),
    "idle grants": lambda components: components.proactive_refresh.refresh_idle(),
    "wrong due dates": lambda components: components.proactive_refresh.correct_due_dates(),
    "revocations": lambda components: components.disconnector._retry_revocations_once(),
}


@pytest.mark.parametrize("name", ["start", *SCANS])
async def test_start_and_scans_do_not_depend_on_the_number_of_connections(tmp_path: Path, name: str) -> None:
    kinds = tuple(kind for kind in CONNECTIONS if (name, kind) != ("idle grants", "due"))
    measured = []
    for count in (100, 2_000):
        folder = tmp_path / str(count)
        async with started(folder):
            pass  # creates the store
        add(folder, kinds, count)
        async with started(folder) as (components, reads):
            if name in SCANS:
                reads.operations.clear()
                reads.records = reads.instructions = 0
                await SCANS[name](components)
        measured.append(reads)
    few, many = measured
    assert many == few
    assert many.operations
    assert many.records == 0
