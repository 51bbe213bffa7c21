"""Tests for processes that are killed or shut down while storing the tokens of a new consent, a supplied refresh token or an import."""

import asyncio
import signal
from pathlib import Path

import pytest

from crash.cluster import OK, UNAVAILABLE, CallStatus, Cluster, Server, StoreKind, cluster, until, until_async
from crash.table import Table
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = pytest.mark.timeout(180)

METHODS = ("consent", "supplied", "import")
POINTS = ("after_exchange", "after_journal", "after_commit")
PLAN = {f"{method}-{point.replace('_', '-')}@example.com": point for method in METHODS for point in POINTS}
LOST = {user for user, point in PLAN.items() if point == "after_exchange"}


async def link_account(running: Cluster, server: Server, user: str, redirect_uri: str) -> CallStatus:
    """Connect a user with an authorization code, a refresh token or an import, depending on the email address; return the status."""
    if not user.startswith("consent"):
        token = running.grant(user).refresh_token
        method = "RequestToken" if user.startswith("supplied") else "ImportConnection"
        request = getattr(auth, f"{method}Request")(user_email=user, refresh_token=token)
        return await server.call(method, request)
    request = auth.CreateTokenRequest(user_email=user, code=running.code(user, redirect_uri))
    return await server.call("CreateToken", request)


async def test_kill_during_account_linking_loses_only_tokens_not_in_the_journal(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, table: Table
) -> None:
    """Only users whose tokens were only in the memory of the killed process must consent again, and the new consent succeeds."""
    names = [user.partition("@")[0] for user in PLAN]
    async with cluster(store_kind, tmp_path, names, store_uri) as running:
        first = await running.start("first", PLAN)
        redirect_uri = f"http://{first.http}/oauth/callback"
        calls = [asyncio.create_task(link_account(running, first, user, redirect_uri)) for user in PLAN]
        await first.reached(PLAN)
        first.send(signal.SIGKILL)
        assert await first.wait() == -signal.SIGKILL
        interrupted = await asyncio.gather(*calls)
        assert set(interrupted) == {UNAVAILABLE}
        restarted = await running.start("first")

        async def settled() -> bool:
            return [await running.state(user) for user in PLAN if user not in LOST] == ["ACTIVE"] * 6

        await until_async(settled)
        assert [await running.state(user) for user in sorted(LOST)] == ["none"] * 3
        assert await running.lost(PLAN) == LOST
        assert set((await restarted.tokens(sorted(PLAN.keys() - LOST))).values()) == {OK}
        row = table.row("SIGKILL at consent and import", store_kind)
        row.runs, row.losses, row.expected = len(PLAN), len(await running.lost(PLAN)), len(LOST)
        row.failed = len(interrupted)
        redirect_uri = f"http://{restarted.http}/oauth/callback"
        for user in LOST:
            assert await link_account(running, restarted, user, redirect_uri) == OK
        assert await running.lost(PLAN) == set()


async def test_shutdown_waits_until_linked_accounts_are_stored(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, table: Table
) -> None:
    """The process exits with 0 after all tokens are stored, even if all callers have canceled their calls."""
    names = [user.partition("@")[0] for user in PLAN]
    async with cluster(store_kind, tmp_path, names, store_uri) as running:
        first, second = await asyncio.gather(running.start("first", PLAN), running.start("second"))
        redirect_uri = f"http://{first.http}/oauth/callback"
        calls = [asyncio.create_task(link_account(running, first, user, redirect_uri)) for user in PLAN]
        await first.reached(PLAN)
        for call in calls:
            call.cancel()
        interrupted = await asyncio.gather(*calls, return_exceptions=True)
        first.send(signal.SIGTERM)
        await until(lambda: first.log("service.draining") != [])
        assert first.process.poll() is None
        first.plan({})
        assert await first.wait() == 0
        assert set((await second.tokens(PLAN)).values()) == {OK}
        row = table.row("SIGTERM at consent and import", store_kind)
        row.runs, row.losses, row.failed = len(PLAN), len(await running.lost(PLAN)), len(interrupted)
        assert row.losses == 0
