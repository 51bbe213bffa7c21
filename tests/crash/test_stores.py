"""Tests for store failures after Zoom has issued a token pair: the process and its journal retain the pair until the store recovers."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from crash.cluster import (
    DEADLINE_EXCEEDED,
    OK,
    REFRESH_IN_PROGRESS,
    STORE_UNAVAILABLE,
    CallStatus,
    Cluster,
    Server,
    StoreKind,
    cluster,
    until_async,
)
from crash.table import Table
from support.mongodb import MongoServer, OwnServer
from support.tcp_proxy import Mode, tcp_proxy

pytestmark = pytest.mark.timeout(180)

PROXY_FAULTS = {f"{mode.value}@example.com": mode for mode in (Mode.CUT, Mode.LOSE, Mode.STALL)}
MONICA = "monica@example.com"


async def fail_between_response_and_commit(
    running: Cluster,
    server: Server,
    user: str,
    *,
    fail: Callable[[], Awaitable[None]],
    heal: Callable[[], Awaitable[None]],
) -> list[CallStatus]:
    """Make the store fail after the token pair is journaled, repair the store after calls have failed, and return all statuses."""
    call = asyncio.create_task(server.token(user))
    await server.reached({user: "after_journal"})
    await fail()
    server.plan({})
    statuses = [await call]
    assert statuses == [STORE_UNAVAILABLE]
    statuses.append(await server.token(user, 2.0))
    assert statuses[-1] in (STORE_UNAVAILABLE, REFRESH_IN_PROGRESS, DEADLINE_EXCEEDED)
    await heal()

    async def stored() -> bool:
        return (await server.token(user)) == OK

    await until_async(stored)
    assert await running.state(user) == "ACTIVE"
    record = await running.record(user)
    assert record is not None
    assert record.generation == 2
    assert running.refreshes(user) == 1
    return statuses


async def record_result(
    table: Table, fault: str, running: Cluster, users: list[str], statuses: list[CallStatus]
) -> None:
    """Check that no user must consent again, and add the result to the table."""
    row = table.row(fault, running.store_kind)
    row.runs += len(users)
    row.failed += sum(status != OK for status in statuses)
    lost = await running.lost(users)
    row.losses += len(lost)
    assert lost == set()


async def test_commit_over_a_broken_connection(mongodb: MongoServer, tmp_path: Path, table: Table) -> None:
    """Cases: the commit is lost, its response is lost, or the connection stalls. After recovery, exactly one new generation is stored."""
    uri = mongodb.new_database("directConnection=true")
    names = [mode.value for mode in PROXY_FAULTS.values()]
    async with AsyncExitStack() as stack:
        proxies = {user: await stack.enter_async_context(tcp_proxy(mongodb.address)) for user in PROXY_FAULTS}
        running = await stack.enter_async_context(cluster(StoreKind.MONGODB, tmp_path, names, uri))
        host, port = mongodb.address
        servers = await asyncio.gather(
            *(
                running.start(
                    mode.value,
                    {user: "after_journal"},
                    store_uri=uri.replace(f"{host}:{port}", f"127.0.0.1:{proxies[user].port}"),
                )
                for user, mode in PROXY_FAULTS.items()
            )
        )
        await running.connect(PROXY_FAULTS)

        async def inject_fault(user: str, server: Server) -> list[CallStatus]:
            async def fail() -> None:
                proxies[user].set_mode(PROXY_FAULTS[user])

            async def heal() -> None:
                proxies[user].set_mode(Mode.FORWARD)

            return await fail_between_response_and_commit(running, server, user, fail=fail, heal=heal)

        results = await asyncio.gather(
            *(inject_fault(user, server) for user, server in zip(PROXY_FAULTS, servers, strict=True))
        )
        for (user, mode), statuses in zip(PROXY_FAULTS.items(), results, strict=True):
            await record_result(table, f"store at commit: {mode.value}", running, [user], statuses)
        assert running.rejections == 0


async def test_database_killed_at_the_commit(tmp_path: Path, table: Table) -> None:
    """The database is killed just before the token pair is stored, and is restarted later."""
    (tmp_path / "mongodb").mkdir()
    database = OwnServer(tmp_path / "mongodb")
    await asyncio.to_thread(database.start)
    try:
        uri = database.new_database("directConnection=true")
        async with cluster(StoreKind.MONGODB, tmp_path, ["monica"], uri) as running:
            server = await running.start("first", {MONICA: "after_journal"})
            await running.connect([MONICA])

            async def fail() -> None:
                database.kill()

            async def heal() -> None:
                await asyncio.to_thread(database.start)

            statuses = await fail_between_response_and_commit(running, server, MONICA, fail=fail, heal=heal)
            await record_result(table, "store at commit: killed, started", running, [MONICA], statuses)
    finally:
        database.close()


async def test_file_locked_at_the_commit(tmp_path: Path, table: Table) -> None:
    """When the token pair is to be stored, another process locks the SQLite file for longer than the busy timeout."""
    async with cluster(StoreKind.SQLITE, tmp_path, ["monica"]) as running:
        server = await running.start("first", {MONICA: "after_journal"})
        await running.connect([MONICA])
        with contextlib.closing(
            sqlite3.connect(tmp_path / "data" / "zoomgate.db", isolation_level=None)
        ) as other:

            async def fail() -> None:
                other.execute("BEGIN IMMEDIATE")

            async def heal() -> None:
                other.execute("ROLLBACK")

            statuses = await fail_between_response_and_commit(running, server, MONICA, fail=fail, heal=heal)
        await record_result(table, "store at commit: locked", running, [MONICA], statuses)


async def test_slow_store_delays_all_calls_and_fails_none(
    mongodb: MongoServer, tmp_path: Path, table: Table
) -> None:
    """All concurrent calls share one refresh."""
    uri = mongodb.new_database("directConnection=true")
    host, port = mongodb.address
    async with (
        tcp_proxy(mongodb.address) as proxy,
        cluster(StoreKind.MONGODB, tmp_path, ["monica"], uri) as running,
    ):
        proxied_uri = uri.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")
        servers = await asyncio.gather(
            *(running.start(name, store_uri=proxied_uri) for name in ("first", "second", "third"))
        )
        await running.connect([MONICA])
        proxy.set_mode(Mode.SLOW)
        statuses = await asyncio.gather(*(server.token(MONICA) for server in servers for _ in range(10)))
        assert set(statuses) == {OK}
        assert running.refreshes(MONICA) == 1
        assert running.rejections == 0
        await record_result(table, "store slow", running, [MONICA], statuses)
        proxy.set_mode(Mode.FORWARD)
