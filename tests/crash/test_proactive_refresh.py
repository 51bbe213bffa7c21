"""Tests for proactive refresh of the same tokens by two processes at the same time."""

import asyncio
import time
from pathlib import Path

import pytest

from crash.cluster import OK, Cluster, Server, StoreKind, cluster, until, until_async
from crash.launcher import PROACTIVE_REFRESH_POLLS
from support.harness import issued

pytestmark = pytest.mark.timeout(120)

USED, IDLE = "used@example.com", "idle@example.com"
PLAN = {USED: "before_read", IDLE: "before_read"}
"""The point at which both processes pause: they have decided to refresh, but not yet checked for a refresh by the other process."""

FREQUENT_POLLS = {PROACTIVE_REFRESH_POLLS: "1", "ZOOMGATE_PROACTIVE_REFRESHES_PER_MINUTE": "6000"}
HOUR, DAY = 3600.0, 24 * 3600.0


async def issued_before(running: Cluster, user: str, age: float) -> None:
    """Set the age of the user's token pair to `age` seconds. An access token is valid for one hour."""
    record = await running.record(user)
    assert record is not None
    assert await running.connections.write(issued(record, time.time() - age))


def outcomes(servers: list[Server], user: str) -> list[str]:
    """Return the outcomes of the user's refreshes in all processes."""
    rows = [row for server in servers for row in server.log("refresh.finished") if row["user"] == user]
    return sorted(str(row["outcome"]) for row in rows)


async def test_two_processes_refresh_once(store_kind: StoreKind, store_uri: str, tmp_path: Path) -> None:
    """One user's access token is in use and expires soon; the other user's grant has not been used for months."""
    names = [user.partition("@")[0] for user in PLAN]
    async with cluster(store_kind, tmp_path, names, store_uri) as running:
        servers = list(
            await asyncio.gather(
                *(running.start(name, PLAN, environ=FREQUENT_POLLS) for name in ("first", "second"))
            )
        )
        await running.connect(PLAN, expired=False)
        await issued_before(running, USED, HOUR - 200.0)
        await issued_before(running, IDLE, 70 * DAY)
        for server in servers:
            assert await server.create_meeting(USED) == OK
        for server in servers:
            await server.reached(PLAN)
        assert [running.refreshes(user) for user in PLAN] == [0, 0]
        for server in servers:
            server.plan({})

        async def is_done() -> bool:
            records = [await running.record(user) for user in PLAN]
            return [record and record.generation for record in records] == [2, 2]

        await until_async(is_done)
        for user in PLAN:
            await until(lambda user=user: len(outcomes(servers, user)) == 2)  # type: ignore[misc]
            assert outcomes(servers, user) == ["not_needed", "refreshed"]
        for server in servers:
            assert await server.create_meeting(USED) == OK
            assert await server.token(IDLE) == OK
        assert [running.refreshes(user) for user in PLAN] == [1, 1]
        assert running.zoom.zoom.counters["token.refresh_token.issued"] == len(PLAN)
        assert running.rejections == 0
        assert await running.lost(PLAN) == set()
