"""A process is killed, stopped or drained while it refreshes; others over the same store are asked for the same tokens meanwhile.

Each person waits at another point of the refresh (`launcher.POINTS`), so that one process is met at all of them.
"""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from crash.cluster import (
    GONE,
    LATE,
    NOT_CONNECTED,
    OK,
    REAUTH,
    REFRESHING,
    SECONDS,
    Answer,
    Cluster,
    Kept,
    Server,
    cluster,
    until,
)
from crash.launcher import GRACE_SECONDS, LEASE_SECONDS, POINTS
from crash.table import Table
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

NAMES = {point: point.replace("_", "-") for point in POINTS}
PLAN = {f"{name}@example.com": point for point, name in NAMES.items()}
USERS = {point: user for user, point in PLAN.items()}
LOST = "REAUTH_REQUIRED OUTCOME_LOST"
ASKED_SECONDS = 1.5
"""Deadline of those who ask while the first process waits: shorter than its lease."""

UNASKED = ("after_lease", "before_spend")
"""The store has the lease, and Zoom was not asked."""

UNSTORED = ("after_spend", "after_keep", "before_commit")
"""Zoom has rotated the token, and the store does not know."""


async def trio(running: Cluster) -> tuple[Server, Server, Server]:
    """Three processes, the first of which waits at every point; everybody's token is expired."""
    first, second, third = await asyncio.gather(
        running.start("first", PLAN), running.start("second"), running.start("third")
    )
    await running.connect(PLAN)
    return first, second, third


async def ask_meanwhile(*servers: Server) -> list[Answer]:
    """Ask others for everybody's token: none says that a person has to consent again, and none has a token that Zoom did not give it."""
    asked = await asyncio.gather(*(server.tokens(PLAN, ASKED_SECONDS) for server in servers))
    for answers in asked:
        assert set(answers.values()) <= {OK, REFRESHING, LATE}
        assert OK not in {answers[USERS[point]] for point in UNSTORED}
    return [answer for answers in asked for answer in answers.values()]


async def settle(
    running: Cluster, servers: list[Server], expected: dict[str, str], *, heals: bool = False
) -> list[Answer]:
    """Ask for everybody's token until the store shows what is expected and the answers say so; gives all answers.

    Args:
        running: The processes.
        servers: Those that are asked in turn.
        expected: State and cause by user.
        heals: A person may have to consent again in between.
    """
    answers: list[Answer] = []
    open_ = set(expected)
    end = asyncio.get_running_loop().time() + SECONDS
    while open_:
        assert asyncio.get_running_loop().time() < end, {user: await running.shown(user) for user in open_}
        servers = [*servers[1:], servers[0]]
        asked = await servers[0].tokens(sorted(open_), 5.0)
        answers += asked.values()
        for user, answer in asked.items():
            assert answer in (OK, REFRESHING, LATE, REAUTH), (user, answer)
            if expected[user] == "ACTIVE" and not heals:
                assert answer != REAUTH, user
            wanted = OK if expected[user] == "ACTIVE" else REAUTH
            if answer == wanted and await running.shown(user) == expected[user]:
                open_.discard(user)
    return answers


async def leased(running: Cluster) -> dict[str, float]:
    """When those who have a lease got it, by the store's clock."""
    found = {}
    for point in (*UNASKED, *UNSTORED):
        record = await running.record(USERS[point])
        assert record is not None
        (attempt,) = record.pending
        found[point] = attempt.at
    return found


async def check_times(running: Cluster, since: dict[str, float], lost: tuple[str, ...]) -> None:
    """Nobody else spent a token before the lease was over, nor said that it was lost before the attempt was past its time."""
    for point in UNASKED:
        record = await running.record(USERS[point])
        assert record is not None
        assert record.refresh_time - since[point] >= LEASE_SECONDS
    for point in lost:
        record = await running.record(USERS[point])
        assert record is not None
        assert record.update_time - since[point] >= GRACE_SECONDS


async def note(
    table: Table,
    fault: str,
    running: Cluster,
    answers: Sequence[Answer | BaseException],
    expected: set[str],
) -> None:
    """Check that nobody else was lost and that Zoom rotated everybody's token once, and write it down."""
    lost = await running.lost(PLAN)
    row = table.row(fault, running.kept)
    row.runs += len(PLAN)
    row.losses += len(lost)
    row.expected += len(expected)
    row.failed += sum(answer != OK for answer in answers)
    assert lost == expected
    assert {user: running.answers(user) for user in PLAN} == dict.fromkeys(PLAN, 1)


async def test_killed(kept: Kept, store_uri: str, tmp_path: Path, table: Table) -> None:
    """Killed before Zoom is asked or after the journal is synced, nobody is lost; in between, the one answer in its memory is.

    With a shared data folder any other process finds the journal, else the next one on the same folder.
    """
    async with cluster(kept, tmp_path, NAMES.values(), store_uri) as running:
        first, second, third = await trio(running)
        calls = asyncio.create_task(first.tokens(PLAN))
        await first.reached(PLAN)
        since = await leased(running)
        answers = await ask_meanwhile(second, third)
        first.send(signal.SIGKILL)
        assert await first.ended() == -signal.SIGKILL
        torn = list((await calls).values())
        assert set(torn) == {GONE}
        others = [second, third]
        if kept is Kept.MONGODB:
            others.append(await running.start("first"))
        expected = dict.fromkeys(PLAN, "ACTIVE") | {USERS["after_spend"]: LOST}
        answers += await settle(running, others, expected, heals=kept is Kept.MONGODB)
        await check_times(running, since, ("after_spend",))
        await note(table, "SIGKILL", running, torn + answers, {USERS["after_spend"]})
        refused = running.refusals
        for server in others:
            assert await server.token(USERS["after_spend"]) == REAUTH
        assert running.refusals == refused


async def test_stopped(kept: Kept, store_uri: str, tmp_path: Path, table: Table) -> None:
    """Stopped for longer than lease and grace together, others may think that a token is lost; once it goes on, nobody is."""
    async with cluster(kept, tmp_path, NAMES.values(), store_uri) as running:
        first, second, third = await trio(running)
        calls = asyncio.create_task(first.tokens(PLAN))
        await first.reached(PLAN)
        since = await leased(running)
        first.send(signal.SIGSTOP)
        answers = await ask_meanwhile(second, third)
        unaware = dict.fromkeys(PLAN, "ACTIVE") | {USERS[point]: LOST for point in UNSTORED}
        answers += await settle(running, [second, third], unaware)
        await check_times(running, since, UNSTORED)
        first.plan({})
        first.send(signal.SIGCONT)
        torn = list((await calls).values())
        assert set(torn) == {OK}
        answers += await settle(running, [second, third, first], dict.fromkeys(PLAN, "ACTIVE"))
        await note(table, "SIGSTOP, SIGCONT", running, torn + answers, set())


async def test_drained(kept: Kept, store_uri: str, tmp_path: Path, table: Table) -> None:
    """After SIGTERM it stays until what it began is stored, though nobody waits for it any more, and ends with 0."""
    async with cluster(kept, tmp_path, NAMES.values(), store_uri) as running:
        first, second, third = await trio(running)
        calls = [asyncio.create_task(first.token(user)) for user in PLAN]
        await first.reached(PLAN)
        for call in calls:
            call.cancel()
        torn = await asyncio.gather(*calls, return_exceptions=True)
        assert OK not in torn
        first.send(signal.SIGTERM)
        await until(lambda: first.log("service.draining") != [])
        answers = await ask_meanwhile(second, third)
        assert first.process.poll() is None
        first.plan({})
        assert await first.ended() == 0
        assert first.log("service.stopped")
        answers += await settle(running, [second, third], dict.fromkeys(PLAN, "ACTIVE"))
        await note(table, "SIGTERM", running, [*torn, *answers], set())


async def test_killed_twice(kept: Kept, store_uri: str, tmp_path: Path, table: Table) -> None:
    """Who dies while it stores what it found in the journal of another leaves that to the next."""
    user = USERS["after_keep"]
    async with cluster(kept, tmp_path, NAMES.values(), store_uri) as running:
        first = await running.start("first", {user: "after_keep"})
        await running.connect([user])
        call = asyncio.create_task(first.token(user))
        await first.reached({user: "after_keep"})
        first.send(signal.SIGKILL)
        answers = [await call]
        heir = await running.start("first", {user: "before_read"})
        await heir.reached({user: "before_read"})
        assert heir.log("refresh.resumed")
        heir.send(signal.SIGKILL)
        assert await heir.ended() == -signal.SIGKILL
        answers += await settle(running, [await running.start("first")], {user: "ACTIVE"}, heals=True)
        assert await running.lost([user]) == set()
        assert running.answers(user) == 1
        row = table.row("SIGKILL, and of who resumes", kept)
        row.runs, row.failed = 1, sum(answer != OK for answer in answers)


async def test_replaced(kept: Kept, store_uri: str, tmp_path: Path) -> None:
    """Who is disconnected, or consents again, while Zoom's answer waits for its commit stays so, from the journal too."""
    killed, going = (
        {f"{kind}-{way}@example.com": "after_keep" for kind in ("ended", "consented")}
        for way in ("killed", "going")
    )
    names = [user.partition("@")[0] for user in killed | going]
    async with cluster(kept, tmp_path, names, store_uri) as running:
        first, second, third = await asyncio.gather(
            running.start("first", killed), running.start("second", going), running.start("third")
        )
        await running.connect(killed | going)
        calls = asyncio.gather(first.tokens(killed), second.tokens(going))
        await asyncio.gather(first.reached(killed), second.reached(going))
        for user in killed | going:
            if user.startswith("ended"):
                request = auth.DeleteConnectionRequest(user_email=user)
                assert await third.call("DeleteConnection", request) == OK
            else:
                code = running.code(user, f"http://{third.http}/oauth/callback")
                request = auth.CreateTokenRequest(user_email=user, code=code)
                assert await third.call("CreateToken", request) == OK
        entries = list(tmp_path.glob("*/journal/*.entry"))
        assert len(entries) == len(killed | going)
        first.send(signal.SIGKILL)
        second.plan({})
        await calls
        await first.ended()
        first = await running.start("first")
        await until(lambda: not any(entry.exists() for entry in entries))
        for user in killed | going:
            here = user.startswith("consented")
            assert await running.shown(user) == ("ACTIVE" if here else "DISCONNECTED REVOKED")
            assert running.zoom.zoom.grants[user].revoked is not here
            assert not here or await running.lost([user]) == set()
            for server in (first, second, third):
                assert await server.token(user) == (OK if here else NOT_CONNECTED)
