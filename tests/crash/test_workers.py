"""Tests for `serve --workers 4` with SQLite when workers are killed while refreshing 50 users concurrently."""

import asyncio
import os
import random
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from crash.cluster import (
    DEADLINE_EXCEEDED,
    OK,
    REAUTH,
    REFRESH_IN_PROGRESS,
    STORE_UNAVAILABLE,
    TIMEOUT_SECONDS,
    UNAVAILABLE,
    CallStatus,
    Cluster,
    Server,
    StoreKind,
    cluster,
    until,
)
from crash.launcher import POINTS
from crash.table import Row, Table
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = pytest.mark.timeout(180)

SEED = 20_260_802
PAUSED = [f"paused{number}@example.com" for number in range(50)]
RUNNING = [f"running{number}@example.com" for number in range(50)]


async def settle(server: Server, users: Iterable[str]) -> dict[str, list[CallStatus]]:
    """Request each user's token repeatedly until the call succeeds or a new consent is required, each time over a new TCP connection."""

    async def call_until_final(user: str) -> list[CallStatus]:
        statuses: list[CallStatus] = []
        deadline = asyncio.get_running_loop().time() + TIMEOUT_SECONDS
        while not statuses or statuses[-1] not in (OK, REAUTH):
            assert asyncio.get_running_loop().time() < deadline, (user, statuses)
            if statuses:
                await asyncio.sleep(0.2)
            statuses.append(
                await server.call_on_new_connection("GetToken", auth.GetTokenRequest(user_email=user))
            )
            assert statuses[-1] in (
                OK,
                REAUTH,
                REFRESH_IN_PROGRESS,
                UNAVAILABLE,
                DEADLINE_EXCEEDED,
                STORE_UNAVAILABLE,
            ), (user, statuses)
        return statuses

    emails = list(users)
    return dict(zip(emails, await asyncio.gather(*map(call_until_final, emails)), strict=True))


def workers(server: Server) -> list[int]:
    """Return the process IDs of the running workers."""
    newest = {row["worker"]: row["pid"] for row in server.log("worker.started")}
    return [int(newest[number]) for number in sorted(newest)]


def unavoidable_losses(server: Server, killed: set[int], users: list[str]) -> set[str]:
    """Return the users whose refresh token a killed worker sent to Zoom and for whom Zoom's response was not journaled or recovered."""
    trace = server.trace()
    sent = {user for pid, user, point in trace if point == "before_exchange" and pid in killed}
    journaled = {user for _, user, point in trace if point == "after_journal"}
    recovered = {str(row["user"]) for row in server.log("refresh.resumed")}
    return {user for user in users if user in sent and user not in journaled | recovered}


async def check_and_record(
    row: Row, running: Cluster, statuses: dict[str, list[CallStatus]], expected: set[str]
) -> None:
    """Check that only the expected users must consent again, and add the results to the row."""
    lost = await running.lost(statuses)
    row.runs, row.losses, row.expected = len(statuses), len(lost), len(expected)
    row.failed = sum(status != OK for user_statuses in statuses.values() for status in user_statuses)
    assert lost == expected
    assert lost == {user for user, user_statuses in statuses.items() if user_statuses[-1] == REAUTH}
    assert {user: running.refreshes(user) for user in statuses} == dict.fromkeys(statuses, 1)


async def test_killed_workers_lose_only_tokens_held_in_memory(tmp_path: Path, table: Table) -> None:
    """A token pair is lost only if the pair was in the memory of a killed worker and not yet in the journal.

    First, all refreshes pause at known points, so that the expected losses are known. Then, workers are killed while refreshes run without
    pauses.
    """
    rng = random.Random(SEED)  # noqa: S311 - a fixed seed makes the test reproducible
    plan = {user: rng.choice(POINTS) for user in PAUSED}
    names = [user.partition("@")[0] for user in (*PAUSED, *RUNNING)]
    async with cluster(StoreKind.SQLITE, tmp_path, names) as running:
        server = await running.start("all", plan, workers=4)
        await running.connect(PAUSED)
        calls = asyncio.create_task(settle(server, PAUSED))
        await server.reached(plan)
        killed_workers = rng.sample(workers(server), 2)
        expected_losses = {
            user
            for pid, user, point in server.trace()
            if pid in killed_workers and point == plan[user] == "after_exchange"
        }
        for pid in killed_workers:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: len(server.log("worker.died")) == 2)
        server.plan({})
        row = table.row("SIGKILL of 2 of 4 workers, all refreshes paused", running.store_kind)
        await check_and_record(row, running, await calls, expected_losses)

        await running.connect(RUNNING)
        traced = len(server.trace())
        calls = asyncio.create_task(settle(server, RUNNING))
        killed = []
        for count in (20, 120, 220):
            await until(lambda count=count: len(server.trace()) >= traced + count)  # type: ignore[misc]
            pid = rng.choice(workers(server))
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        statuses = await calls
        expected = unavoidable_losses(server, set(killed), RUNNING)
        await check_and_record(
            table.row("SIGKILL of workers during refreshes", running.store_kind), running, statuses, expected
        )
        later = await settle(
            server, [user for user in (*PAUSED, *RUNNING) if user not in expected_losses | expected]
        )
        assert {status for user_statuses in later.values() for status in user_statuses} == {OK}
        server.send(signal.SIGTERM)
        assert await server.wait() == 0
