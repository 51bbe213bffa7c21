"""Tests for processes that are killed, paused or shut down during refreshes while other processes on the same store serve the same users.

The refresh of each user pauses at a different point (`launcher.POINTS`), so that one process is interrupted at all points at the same time.
"""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from crash.cluster import (
    DEADLINE_EXCEEDED,
    NOT_CONNECTED,
    OK,
    REAUTH,
    REFRESH_IN_PROGRESS,
    TIMEOUT_SECONDS,
    UNAVAILABLE,
    CallStatus,
    Cluster,
    Server,
    StoreKind,
    cluster,
    until,
)
from crash.launcher import POINTS, REFRESHES
from crash.table import Table
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = pytest.mark.timeout(180)

NAMES = {point: point.replace("_", "-") for point in POINTS}
PLAN = {f"{name}@example.com": point for point, name in NAMES.items()}
USERS = {point: user for user, point in PLAN.items()}
LOST = "REAUTH_REQUIRED OUTCOME_LOST"
CALL_TIMEOUT_SECONDS = 1.5
"""Timeout of calls to the other servers while the first server's refreshes are paused. The timeout is shorter than the lease."""

NOT_SENT = ("after_lease", "before_exchange")
"""Points at which the lease is in the store and the refresh token has not yet been sent to Zoom."""

ROTATED_NOT_STORED = ("after_exchange", "after_journal", "before_commit")
"""Points at which Zoom has rotated the refresh token and the new token pair is not yet in the store."""


async def start_three_servers(running: Cluster) -> tuple[Server, Server, Server]:
    """Start three servers and connect users with expired tokens. Each refresh of the first server pauses at a different point."""
    first, second, third = await asyncio.gather(
        running.start("first", PLAN), running.start("second"), running.start("third")
    )
    await running.connect(PLAN)
    return first, second, third


async def call_while_paused(*servers: Server) -> list[CallStatus]:
    """Request all users' tokens from other servers while the first server's refreshes are paused, and return the statuses.

    Check that no server requires a new consent or returns a token that only the first server has received from Zoom.
    """
    responses = await asyncio.gather(*(server.tokens(PLAN, CALL_TIMEOUT_SECONDS) for server in servers))
    for statuses in responses:
        assert set(statuses.values()) <= {OK, REFRESH_IN_PROGRESS, DEADLINE_EXCEEDED}
        assert OK not in {statuses[USERS[point]] for point in ROTATED_NOT_STORED}
    return [status for statuses in responses for status in statuses.values()]


async def settle(
    running: Cluster, servers: list[Server], expected: dict[str, str], *, allow_reauth: bool = False
) -> list[CallStatus]:
    """Call the servers in turn until every connection has the expected state, in the store and in the responses; return all statuses.

    Args:
        expected: State and cause by user, as returned by `Cluster.state`.
        allow_reauth: Whether a user who is expected to be active may temporarily need to consent again.
    """
    statuses: list[CallStatus] = []
    unsettled = set(expected)
    deadline = asyncio.get_running_loop().time() + TIMEOUT_SECONDS
    while unsettled:
        assert asyncio.get_running_loop().time() < deadline, {
            user: await running.state(user) for user in unsettled
        }
        servers = [*servers[1:], servers[0]]
        responses = await servers[0].tokens(sorted(unsettled), 5.0)
        statuses += responses.values()
        for user, status in responses.items():
            assert status in (OK, REFRESH_IN_PROGRESS, DEADLINE_EXCEEDED, REAUTH), (user, status)
            if expected[user] == "ACTIVE" and not allow_reauth:
                assert status != REAUTH, user
            final = OK if expected[user] == "ACTIVE" else REAUTH
            if status == final and await running.state(user) == expected[user]:
                unsettled.discard(user)
    return statuses


async def lease_times(running: Cluster) -> dict[str, float]:
    """Return, for each point, the time at which the lease of the refresh paused there was acquired, in seconds of the store's clock."""
    times = {}
    for point in (*NOT_SENT, *ROTATED_NOT_STORED):
        record = await running.record(USERS[point])
        assert record is not None
        (attempt,) = record.pending_attempts
        times[point] = attempt.started_at
    return times


async def check_waiting_times(running: Cluster, leased_at: dict[str, float], lost: tuple[str, ...]) -> None:
    """Check that no other process used a refresh token during its lease or reported the token as lost during the grace period."""
    for point in NOT_SENT:
        record = await running.record(USERS[point])
        assert record is not None
        assert record.refresh_time - leased_at[point] >= REFRESHES.lease
    for point in lost:
        record = await running.record(USERS[point])
        assert record is not None
        assert record.update_time - leased_at[point] >= REFRESHES.grace


async def check_and_record(
    table: Table,
    fault: str,
    running: Cluster,
    statuses: Sequence[CallStatus | BaseException],
    expected: set[str],
) -> None:
    """Check that only the expected users lost their tokens and that Zoom rotated each token once; add the results to the table."""
    lost = await running.lost(PLAN)
    row = table.row(fault, running.store_kind)
    row.runs += len(PLAN)
    row.losses += len(lost)
    row.expected += len(expected)
    row.failed += sum(status != OK for status in statuses)
    assert lost == expected
    assert {user: running.refreshes(user) for user in PLAN} == dict.fromkeys(PLAN, 1)


async def test_kill_during_refresh_loses_only_tokens_held_in_memory(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, table: Table
) -> None:
    """A token pair is lost only if Zoom has issued the pair and the killed process has not yet journaled it.

    If processes share a data directory, any of them recovers the journal; otherwise, the next process with the same directory does.
    """
    async with cluster(store_kind, tmp_path, NAMES.values(), store_uri) as running:
        first, second, third = await start_three_servers(running)
        calls = asyncio.create_task(first.tokens(PLAN))
        await first.reached(PLAN)
        leased_at = await lease_times(running)
        statuses = await call_while_paused(second, third)
        first.send(signal.SIGKILL)
        assert await first.wait() == -signal.SIGKILL
        interrupted = list((await calls).values())
        assert set(interrupted) == {UNAVAILABLE}
        others = [second, third]
        if store_kind is StoreKind.MONGODB:
            others.append(await running.start("first"))
        expected = dict.fromkeys(PLAN, "ACTIVE") | {USERS["after_exchange"]: LOST}
        statuses += await settle(running, others, expected, allow_reauth=store_kind is StoreKind.MONGODB)
        await check_waiting_times(running, leased_at, ("after_exchange",))
        await check_and_record(table, "SIGKILL", running, interrupted + statuses, {USERS["after_exchange"]})
        rejections = running.rejections
        for server in others:
            assert await server.token(USERS["after_exchange"]) == REAUTH
        assert running.rejections == rejections


async def test_paused_process_recovers_all_tokens_after_it_resumes(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, table: Table
) -> None:
    """If the pause exceeds lease and grace period together, other processes may report tokens as lost until the process resumes."""
    async with cluster(store_kind, tmp_path, NAMES.values(), store_uri) as running:
        first, second, third = await start_three_servers(running)
        calls = asyncio.create_task(first.tokens(PLAN))
        await first.reached(PLAN)
        leased_at = await lease_times(running)
        first.send(signal.SIGSTOP)
        statuses = await call_while_paused(second, third)
        expected = dict.fromkeys(PLAN, "ACTIVE") | {USERS[point]: LOST for point in ROTATED_NOT_STORED}
        statuses += await settle(running, [second, third], expected)
        await check_waiting_times(running, leased_at, ROTATED_NOT_STORED)
        first.plan({})
        first.send(signal.SIGCONT)
        interrupted = list((await calls).values())
        assert set(interrupted) == {OK}
        statuses += await settle(running, [second, third, first], dict.fromkeys(PLAN, "ACTIVE"))
        await check_and_record(table, "SIGSTOP, SIGCONT", running, interrupted + statuses, set())


async def test_shutdown_waits_until_refreshes_are_stored(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, table: Table
) -> None:
    """The process exits with 0 after all new token pairs are stored, even if all callers have canceled their calls."""
    async with cluster(store_kind, tmp_path, NAMES.values(), store_uri) as running:
        first, second, third = await start_three_servers(running)
        calls = [asyncio.create_task(first.token(user)) for user in PLAN]
        await first.reached(PLAN)
        for call in calls:
            call.cancel()
        interrupted = await asyncio.gather(*calls, return_exceptions=True)
        assert OK not in interrupted
        first.send(signal.SIGTERM)
        await until(lambda: first.log("service.draining") != [])
        statuses = await call_while_paused(second, third)
        assert first.process.poll() is None
        first.plan({})
        assert await first.wait() == 0
        assert first.log("service.stopped")
        statuses += await settle(running, [second, third], dict.fromkeys(PLAN, "ACTIVE"))
        await check_and_record(table, "SIGTERM", running, [*interrupted, *statuses], set())


async def test_kill_during_journal_recovery_loses_no_token(
    store_kind: StoreKind, store_uri: str, tmp_path: Path, table: Table
) -> None:
    user = USERS["after_journal"]
    async with cluster(store_kind, tmp_path, NAMES.values(), store_uri) as running:
        first = await running.start("first", {user: "after_journal"})
        await running.connect([user])
        call = asyncio.create_task(first.token(user))
        await first.reached({user: "after_journal"})
        first.send(signal.SIGKILL)
        statuses = [await call]
        recovering = await running.start("first", {user: "before_read"})
        await recovering.reached({user: "before_read"})
        await until(lambda: recovering.log("refresh.resumed") != [])
        recovering.send(signal.SIGKILL)
        assert await recovering.wait() == -signal.SIGKILL
        statuses += await settle(running, [await running.start("first")], {user: "ACTIVE"}, allow_reauth=True)
        assert await running.lost([user]) == set()
        assert running.refreshes(user) == 1
        row = table.row("SIGKILL, also during recovery", store_kind)
        row.runs, row.failed = 1, sum(status != OK for status in statuses)


async def test_disconnection_or_new_consent_before_the_commit_of_a_refresh_is_preserved(
    store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """Neither the refreshing process nor journal recovery overwrites a change to the connection."""
    killed_users, paused_users = (
        {f"{change}-{process}@example.com": "after_journal" for change in ("disconnected", "consented")}
        for process in ("killed", "paused")
    )
    names = [user.partition("@")[0] for user in killed_users | paused_users]
    async with cluster(store_kind, tmp_path, names, store_uri) as running:
        first, second, third = await asyncio.gather(
            running.start("first", killed_users),
            running.start("second", paused_users),
            running.start("third"),
        )
        await running.connect(killed_users | paused_users)
        calls = asyncio.gather(first.tokens(killed_users), second.tokens(paused_users))
        await asyncio.gather(first.reached(killed_users), second.reached(paused_users))
        for user in killed_users | paused_users:
            if user.startswith("disconnected"):
                request = auth.DeleteConnectionRequest(user_email=user)
                assert await third.call("DeleteConnection", request) == OK
            else:
                code = running.code(user, f"http://{third.http}/oauth/callback")
                request = auth.CreateTokenRequest(user_email=user, code=code)
                assert await third.call("CreateToken", request) == OK
        entries = list(tmp_path.glob("*/journal/*.entry"))
        assert len(entries) == len(killed_users | paused_users)
        first.send(signal.SIGKILL)
        second.plan({})
        await calls
        await first.wait()
        first = await running.start("first")
        await until(lambda: not any(entry.exists() for entry in entries))
        for user in killed_users | paused_users:
            is_active = user.startswith("consented")
            assert await running.state(user) == ("ACTIVE" if is_active else "DISCONNECTED REVOKED")
            assert running.zoom.zoom.grants[user].revoked is not is_active
            assert not is_active or await running.lost([user]) == set()
            for server in (first, second, third):
                assert await server.token(user) == (OK if is_active else NOT_CONNECTED)
