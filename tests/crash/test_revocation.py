"""Tests for processes that are killed or stopped while they disconnect users and revoke their tokens with Zoom.

The disconnection of each user pauses at a different point (`launcher.REVOCATION_POINTS`), so that one process is interrupted at all points
at the same time.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash.cluster import (
    OK,
    Cluster,
    Interruption,
    Server,
    StoreKind,
    cluster,
    until_async,
)
from crash.launcher import REFRESHES, REVOCATION_POINTS
from zoom_simulator.rules import Rules
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = pytest.mark.timeout(240)

PLAN = {f"{point.replace('_', '-')}@example.com": point for point in REVOCATION_POINTS}


@dataclass
class Disconnecting:
    """Two servers, of which the first one has paused the disconnections of all users."""

    running: Cluster
    first: Server
    other: Server
    calls: list["asyncio.Task[tuple[str, str]]"]

    async def finish(self, interruption: Interruption) -> None:
        """Let the paused disconnections finish, unless the process is killed."""
        if interruption is Interruption.KILL:
            self.first.send(signal.SIGKILL)
            await self.first.wait()
        else:
            self.first.plan({})
            self.first.send(signal.SIGCONT)
        await asyncio.gather(*self.calls)


@asynccontextmanager
async def paused_disconnections(
    store_kind: StoreKind, store_uri: str, directory: Path, rules: Rules, interruption: Interruption
) -> AsyncIterator[Disconnecting]:
    """Start two servers, and pause the disconnection of each user at the user's point in the first one."""
    names = [user.partition("@")[0] for user in PLAN]
    async with cluster(store_kind, directory, names, store_uri, rules) as running:
        await running.connect(PLAN, expired=False)
        first = await running.start("first", PLAN)
        requests = [auth.DeleteConnectionRequest(user_email=user) for user in PLAN]
        calls = [asyncio.create_task(first.call("DeleteConnection", request)) for request in requests]
        await first.reached(PLAN)
        if interruption is Interruption.STOP:
            first.send(signal.SIGSTOP)
        yield Disconnecting(running, first, await running.start("other"), calls)


async def test_disconnection_is_finished_by_another_process(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, rules: Rules, interruption: Interruption
) -> None:
    """The other process revokes the tokens with Zoom and erases them from the store, even if the first one never continues."""
    async with paused_disconnections(store_kind, store_uri, tmp_path, rules, interruption) as disconnecting:
        running = disconnecting.running
        if interruption is Interruption.KILL:
            await disconnecting.finish(interruption)
        await until_async(lambda: running.is_erased(PLAN))
        if interruption is not Interruption.KILL:
            await disconnecting.finish(interruption)
        assert {user: await running.state(user) for user in PLAN} == dict.fromkeys(
            PLAN, "DISCONNECTED REVOKED"
        )
        assert [user for user in PLAN if not running.zoom.zoom.grants[user].revoked] == []


async def test_consent_during_a_revocation_is_not_revoked(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, rules: Rules, interruption: Interruption
) -> None:
    """The consent waits for the end of the revocation's lease. A process that continues after that does not revoke anything."""
    async with paused_disconnections(store_kind, store_uri, tmp_path, rules, interruption) as disconnecting:
        running, other = disconnecting.running, disconnecting.other
        if interruption is Interruption.KILL:
            await disconnecting.finish(interruption)
        redirect_uri = f"http://{other.http}/oauth/callback"
        requests = [
            auth.CreateTokenRequest(user_email=user, code=running.code(user, redirect_uri)) for user in PLAN
        ]
        statuses = await asyncio.gather(*(other.call("CreateToken", request) for request in requests))
        assert set(statuses) == {OK}
        if interruption is not Interruption.KILL:
            await disconnecting.finish(interruption)
        await asyncio.sleep(REFRESHES.lease)  # a late revocation would take place now
        assert {user: await running.state(user) for user in PLAN} == dict.fromkeys(PLAN, "ACTIVE")
        assert await running.lost(PLAN) == set()
        assert [user for user in PLAN if running.zoom.zoom.grants[user].revoked] == []
        assert set((await other.tokens(PLAN)).values()) == {OK}
