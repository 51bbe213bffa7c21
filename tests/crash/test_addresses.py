"""Tests for processes that are killed or stopped during a consent that changes the email address of a Zoom user, or its holder."""

import asyncio
import signal
from pathlib import Path

import pytest

from crash.cluster import OK, Interruption, StoreKind, cluster, until
from crash.launcher import ADDRESS_POINTS, REFRESHES
from zoom_simulator.rules import Rules
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = pytest.mark.timeout(240)

TAKEN, TOMBSTONE = ADDRESS_POINTS
RENAMED = {
    f"renamed-{point.replace('_', '-')}": point for point in ("after_commit", TOMBSTONE, "after_audit")
}
REASSIGNED = {
    f"reassigned-{point.replace('_', '-')}": point for point in (TAKEN, "after_commit", "after_audit")
}
PLAN = {f"{name}@example.com": point for name, point in (RENAMED | REASSIGNED).items()}
"""The addresses for which users consent: the new address of a renamed user, or the previous address of a different user."""


async def test_consent_that_changes_an_address_is_finished(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, rules: Rules, interruption: Interruption
) -> None:
    """The address belongs to the Zoom user who consented. The previous address, and the previous Zoom user, are disconnected."""
    names = [*(f"old-{name}" for name in RENAMED), *REASSIGNED, *(f"heir-{name}" for name in REASSIGNED)]
    async with cluster(store_kind, tmp_path, names, store_uri, rules) as running:
        zoom = running.zoom.zoom
        first = await running.start("first", PLAN)
        old = [f"old-{name}@example.com" for name in RENAMED]
        await running.connect([*old, *(f"{name}@example.com" for name in REASSIGNED)], expired=False)
        for name in RENAMED:
            zoom.rename(f"old-{name}@example.com", f"{name}@example.com")
        for name in REASSIGNED:
            zoom.rename(f"{name}@example.com", f"moved-{name}@example.com")
            zoom.rename(f"heir-{name}@example.com", f"{name}@example.com")
        redirect_uri = f"http://{first.http}/oauth/callback"
        requests = [
            auth.CreateTokenRequest(user_email=user, code=running.code(user, redirect_uri)) for user in PLAN
        ]
        calls = [asyncio.create_task(first.call("CreateToken", request)) for request in requests]
        await first.reached(PLAN)
        match interruption:
            case Interruption.KILL:
                first.send(signal.SIGKILL)
                first = await running.start("first")
            case Interruption.STOP:
                first.send(signal.SIGSTOP)
                await asyncio.sleep(REFRESHES.lease)
        first.plan({})
        first.send(signal.SIGCONT)
        statuses = await asyncio.gather(*calls)
        assert interruption is Interruption.KILL or set(statuses) == {OK}
        await until(lambda: not running.journal_entries())
        assert {user: await running.state(user) for user in PLAN} == dict.fromkeys(PLAN, "ACTIVE")
        assert {user: await running.state(user) for user in old} == dict.fromkeys(old, "DISCONNECTED REVOKED")
        assert set((await first.tokens(PLAN)).values()) == {OK}
        assert await running.lost(PLAN) == set()
        assert [user for user in PLAN if zoom.grants[user].revoked] == []
        moved = [zoom.grants[f"moved-{name}@example.com"] for name in REASSIGNED]
        await until(lambda: all(grant.revoked for grant in moved))
