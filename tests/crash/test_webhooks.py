"""Two processes hear from Zoom that people are gone whom one of them refreshes, each at another point of the refresh."""

import asyncio
import signal
from pathlib import Path

import pytest

from crash.cluster import NOT_CONNECTED, Cluster, Kept, Server, cluster, until, until_async
from crash.test_refresh import NAMES, PLAN
from support.zoom_events import app_deauthorized, send

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ENDED = "DISCONNECTED APP_DEAUTHORIZED"


async def everybody_is_gone(running: Cluster, *servers: Server) -> None:
    """Tell all processes of everybody at once, twice: every answer is that it is taken, and one process each has ended a connection."""
    users = running.zoom.zoom.users
    events = [app_deauthorized(users[user].user_id) for user in PLAN]
    told = [send(f"http://{server.http}", event) for event in events for server in servers for _ in range(2)]
    assert {answer[0] for answer in await asyncio.gather(*told)} == {204}
    assert {user: await running.shown(user) for user in PLAN} == dict.fromkeys(PLAN, ENDED)
    audited = [row["user"] for row in running.audited() if row["principal"] == "zoom"]
    assert sorted(audited) == sorted(PLAN)


async def nobody_is_back(running: Cluster, *servers: Server) -> None:
    """No process has a token for anybody, in memory not for longer than changes take to be heard, and no record or journal holds one."""
    for server in servers:

        async def ended(server: Server = server) -> bool:
            return set((await server.tokens(PLAN)).values()) == {NOT_CONNECTED}

        await until_async(ended)
    for user in PLAN:
        assert await running.shown(user) == ENDED
        record = await running.record(user)
        assert record is not None
        assert (record.tokens, record.alternate_pairs, record.revoking) == (None, (), None)
    await until(lambda: not running.journals())


async def test_a_refresh_that_goes_on_brings_nobody_back(kept: Kept, tmp_path: Path, store_uri: str) -> None:
    """Whatever Zoom answers it later, the process that refreshed has nothing to store."""
    async with cluster(kept, tmp_path, NAMES.values(), store_uri) as running:
        first, second = await asyncio.gather(running.start("first", PLAN), running.start("second"))
        await running.connect(PLAN)
        asking = asyncio.create_task(first.tokens(PLAN))
        await first.reached(PLAN)
        await everybody_is_gone(running, first, second)
        first.plan({})
        await asking
        await nobody_is_back(running, first, second)


async def test_a_process_that_is_killed_brings_nobody_back(
    kept: Kept, tmp_path: Path, store_uri: str
) -> None:
    """What the next process finds in its journal is of no use any more."""
    async with cluster(kept, tmp_path, NAMES.values(), store_uri) as running:
        first, second = await asyncio.gather(running.start("first", PLAN), running.start("second"))
        await running.connect(PLAN)
        asking = asyncio.create_task(first.tokens(PLAN))
        await first.reached(PLAN)
        await everybody_is_gone(running, first, second)
        first.send(signal.SIGKILL)
        await first.ended()
        await asking
        third = await running.start("first")
        await nobody_is_back(running, second, third)
