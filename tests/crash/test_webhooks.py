"""Tests for deauthorization webhooks that arrive during a refresh, at every point of the refresh."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from crash.cluster import NOT_CONNECTED, Cluster, Server, StoreKind, cluster, until, until_async
from crash.test_refresh import NAMES, PLAN
from support.zoom_events import app_deauthorized, send

pytestmark = pytest.mark.timeout(180)

DEAUTHORIZED = "DISCONNECTED APP_DEAUTHORIZED"


async def deauthorize_all(running: Cluster, *servers: Server) -> None:
    """Send the deauthorization webhook of every user to every process twice, all concurrently.

    Check that every event is accepted, and that each connection is disconnected exactly once. While the store is slow, Zoom sends an event
    again.
    """
    users = running.zoom.zoom.users
    events = [app_deauthorized(users[user].user_id) for user in PLAN]

    async def deliver(server: Server, event: dict[str, Any]) -> int:
        while (status := (await send(f"http://{server.http}", event))[0]) == 503:
            pass
        return status

    requests = [deliver(server, event) for event in events for server in servers for _ in range(2)]
    assert set(await asyncio.gather(*requests)) == {204}
    assert {user: await running.state(user) for user in PLAN} == dict.fromkeys(PLAN, DEAUTHORIZED)
    disconnected = [row["user"] for row in running.audit_events() if row["principal"] == "zoom"]
    assert sorted(disconnected) == sorted(PLAN)


async def check_no_tokens_left(running: Cluster, *servers: Server) -> None:
    """Check that no record or journal contains a token, and that no process returns a token once it has read the changed records."""
    for server in servers:

        async def all_disconnected(server: Server = server) -> bool:
            return set((await server.tokens(PLAN)).values()) == {NOT_CONNECTED}

        await until_async(all_disconnected)
    for user in PLAN:
        assert await running.state(user) == DEAUTHORIZED
    await until(lambda: not running.journal_entries())
    await until_async(lambda: running.is_erased(PLAN))


async def test_running_refresh_does_not_restore_deauthorized_connections(
    store_kind: StoreKind, tmp_path: Path, store_uri: str
) -> None:
    """The refreshing process discards the tokens that Zoom has issued for the refresh."""
    async with cluster(store_kind, tmp_path, NAMES.values(), store_uri) as running:
        first, second = await asyncio.gather(running.start("first", PLAN), running.start("second"))
        await running.connect(PLAN)
        calls = asyncio.create_task(first.tokens(PLAN))
        await first.reached(PLAN)
        await deauthorize_all(running, first, second)
        first.plan({})
        await calls
        await check_no_tokens_left(running, first, second)


async def test_journal_of_a_killed_process_does_not_restore_deauthorized_connections(
    store_kind: StoreKind, tmp_path: Path, store_uri: str
) -> None:
    """The refreshing process is killed, and the next process discards the tokens in the journal."""
    async with cluster(store_kind, tmp_path, NAMES.values(), store_uri) as running:
        first, second = await asyncio.gather(running.start("first", PLAN), running.start("second"))
        await running.connect(PLAN)
        calls = asyncio.create_task(first.tokens(PLAN))
        await first.reached(PLAN)
        await deauthorize_all(running, first, second)
        first.send(signal.SIGKILL)
        await first.wait()
        await calls
        third = await running.start("first")
        await check_no_tokens_left(running, second, third)
