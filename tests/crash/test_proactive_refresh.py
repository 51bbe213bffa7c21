"""Two processes over one store find the same tokens in need of a refresh at the same moment."""

import asyncio
import time
from pathlib import Path

import pytest

from crash.cluster import OK, Cluster, Kept, Server, cluster, until, until_async
from crash.launcher import UPKEEP_LOOKS
from support.harness import issued

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

USED, IDLE = "used@example.com", "idle@example.com"
PEOPLE = {USED: "before_read", IDLE: "before_read"}
"""Both processes wait where each has decided to refresh and has not looked yet whether the other does."""

OFTEN = {UPKEEP_LOOKS: "1", "ZOOMGATE_PROACTIVE_REFRESHES_PER_MINUTE": "6000"}
HOUR, DAY = 3600.0, 24 * 3600.0


async def issued_before(running: Cluster, user: str, age: float) -> None:
    """Let the pair of somebody be as old as that. Its access token lives for an hour."""
    while True:  # a process that has just started gives the record a due date meanwhile
        record = await running.record(user)
        assert record is not None
        if await running.connections.write(issued(record, time.time() - age)):
            return


def outcomes(servers: list[Server], user: str) -> list[str]:
    """How the refreshes of somebody ended in all processes."""
    rows = [row for server in servers for row in server.log("refresh.finished") if row["user"] == user]
    return sorted(str(row["outcome"]) for row in rows)


async def test_two_processes_refresh_once(kept: Kept, store_uri: str, tmp_path: Path) -> None:
    """A token in use that is about to expire, and a grant that nobody has used for months, cost one refresh each at Zoom."""
    names = [user.partition("@")[0] for user in PEOPLE]
    async with cluster(kept, tmp_path, names, store_uri) as running:
        servers = list(
            await asyncio.gather(
                *(running.start(name, PEOPLE, environ=OFTEN) for name in ("first", "second"))
            )
        )
        await running.connect(PEOPLE, expired=False)
        await issued_before(running, USED, HOUR - 200.0)
        await issued_before(running, IDLE, 70 * DAY)
        for server in servers:
            assert await server.create_meeting(USED) == OK
        for server in servers:
            await server.reached(PEOPLE)
        assert [running.answers(user) for user in PEOPLE] == [0, 0]
        for server in servers:
            server.plan({})

        async def is_done() -> bool:
            records = [await running.record(user) for user in PEOPLE]
            return [record and record.generation for record in records] == [2, 2]

        await until_async(is_done)
        for user in PEOPLE:
            await until(lambda user=user: len(outcomes(servers, user)) == 2)  # type: ignore[misc]
            assert outcomes(servers, user) == ["not_needed", "refreshed"]
        for server in servers:
            assert await server.create_meeting(USED) == OK
            assert await server.token(IDLE) == OK
        assert [running.answers(user) for user in PEOPLE] == [1, 1]
        assert running.zoom.zoom.counters["token.refresh_token.issued"] == len(PEOPLE)
        assert running.refusals == 0
        assert await running.lost(PEOPLE) == set()
