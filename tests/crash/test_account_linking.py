"""A process is killed or drained while it stores what Zoom issued for a code, or for a refresh token that a caller brought."""

import asyncio
import signal
from pathlib import Path

import pytest

from crash.cluster import GONE, OK, Answer, Cluster, Kept, Server, cluster, until, until_async
from crash.table import Table
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WAYS = ("consent", "import")
POINTS = ("after_spend", "after_keep", "after_commit")
PLAN = {f"{way}-{point.replace('_', '-')}@example.com": point for way in WAYS for point in POINTS}
LOST = {user for user, point in PLAN.items() if point == "after_spend"}


async def bring(running: Cluster, server: Server, user: str, back: str) -> Answer:
    """Bring the service what it can make a connection of."""
    if user.startswith("import"):
        token = running.grant(user).refresh_token
        return await server.call(
            "RequestToken", auth.RequestTokenRequest(user_email=user, refresh_token=token)
        )
    request = auth.CreateTokenRequest(user_email=user, code=running.code(user, back))
    return await server.call("CreateToken", request)


async def test_killed(kept: Kept, store_uri: str, tmp_path: Path, table: Table) -> None:
    """What the journal has becomes a connection; what only the killed process knew does not, and the person can consent again."""
    names = [user.partition("@")[0] for user in PLAN]
    async with cluster(kept, tmp_path, names, store_uri) as running:
        first = await running.start("first", PLAN)
        back = f"http://{first.http}/oauth/callback"
        calls = [asyncio.create_task(bring(running, first, user, back)) for user in PLAN]
        await first.reached(PLAN)
        first.send(signal.SIGKILL)
        assert await first.ended() == -signal.SIGKILL
        torn = await asyncio.gather(*calls)
        assert set(torn) == {GONE}
        again = await running.start("first")

        async def settled() -> bool:
            return [await running.shown(user) for user in PLAN if user not in LOST] == ["ACTIVE"] * 4

        await until_async(settled)
        assert [await running.shown(user) for user in sorted(LOST)] == ["none", "none"]
        assert await running.lost(PLAN) == LOST
        assert set((await again.tokens(sorted(PLAN.keys() - LOST))).values()) == {OK}
        row = table.row("SIGKILL at consent and import", kept)
        row.runs, row.losses, row.expected = len(PLAN), len(await running.lost(PLAN)), len(LOST)
        row.failed = len(torn)
        back = f"http://{again.http}/oauth/callback"
        for user in LOST:
            assert await bring(running, again, user, back) == OK
        assert await running.lost(PLAN) == set()


async def test_drained(kept: Kept, store_uri: str, tmp_path: Path, table: Table) -> None:
    """After SIGTERM it stays until every connection is stored, though nobody waits for it any more, and ends with 0."""
    names = [user.partition("@")[0] for user in PLAN]
    async with cluster(kept, tmp_path, names, store_uri) as running:
        first, second = await asyncio.gather(running.start("first", PLAN), running.start("second"))
        back = f"http://{first.http}/oauth/callback"
        calls = [asyncio.create_task(bring(running, first, user, back)) for user in PLAN]
        await first.reached(PLAN)
        for call in calls:
            call.cancel()
        torn = await asyncio.gather(*calls, return_exceptions=True)
        first.send(signal.SIGTERM)
        await until(lambda: first.log("service.draining") != [])
        assert first.process.poll() is None
        first.plan({})
        assert await first.ended() == 0
        assert set((await second.tokens(PLAN)).values()) == {OK}
        row = table.row("SIGTERM at consent and import", kept)
        row.runs, row.losses, row.failed = len(PLAN), len(await running.lost(PLAN)), len(torn)
        assert row.losses == 0
