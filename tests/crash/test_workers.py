"""`serve --workers 4` over SQLite: workers are killed while they refresh fifty people at once."""

import asyncio
import os
import random
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from crash.cluster import (
    GONE,
    LATE,
    OK,
    REAUTH,
    REFRESHING,
    SECONDS,
    STORE,
    Answer,
    Cluster,
    Kept,
    Server,
    cluster,
    until,
)
from crash.launcher import POINTS
from crash.table import Row, Table
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SEED = 20_260_802
HELD = [f"held{number}@example.com" for number in range(50)]
FREE = [f"free{number}@example.com" for number in range(50)]


async def settle(server: Server, users: Iterable[str]) -> dict[str, list[Answer]]:
    """Ask for everybody's token, each call over a connection of its own, until there is one or a new consent is needed."""

    async def ask(user: str) -> list[Answer]:
        answers: list[Answer] = []
        end = asyncio.get_running_loop().time() + SECONDS
        while not answers or answers[-1] not in (OK, REAUTH):
            assert asyncio.get_running_loop().time() < end, (user, answers)
            if answers:
                await asyncio.sleep(0.2)
            answers.append(await server.call_apart("GetToken", auth.GetTokenRequest(user_email=user)))
            assert answers[-1] in (OK, REAUTH, REFRESHING, GONE, LATE, STORE), (user, answers)
        return answers

    named = list(users)
    return dict(zip(named, await asyncio.gather(*map(ask, named)), strict=True))


def workers(server: Server) -> list[int]:
    """Process ids of the workers that serve now."""
    newest = {row["worker"]: row["pid"] for row in server.log("worker.started")}
    return [int(newest[number]) for number in sorted(newest)]


def in_memory(server: Server, killed: set[int], users: list[str]) -> set[str]:
    """Those of whom a killed worker asked Zoom, whose answer no process synced, and whom no process found in the journal."""
    trace = server.trace()
    asked = {user for pid, user, point in trace if point == "before_spend" and pid in killed}
    kept = {user for _, user, point in trace if point == "after_keep"}
    found = {str(row["user"]) for row in server.log("refresh.resumed")}
    return {user for user in users if user in asked and user not in kept | found}


async def note(row: Row, running: Cluster, answers: dict[str, list[Answer]], expected: set[str]) -> None:
    """Check that those who had to be lost were, and that nobody else has to consent again; write it down."""
    lost = await running.lost(answers)
    row.runs, row.losses, row.expected = len(answers), len(lost), len(expected)
    row.failed = sum(answer != OK for given in answers.values() for answer in given)
    assert lost == expected
    assert lost == {user for user, given in answers.items() if given[-1] == REAUTH}
    assert {user: running.answers(user) for user in answers} == dict.fromkeys(answers, 1)


async def test_killed_while_they_refresh(tmp_path: Path, table: Table) -> None:
    """Those are lost, and nobody else, whose answer was in the memory of a killed worker and not in the journal yet.

    First everybody waits somewhere, so that it is known who that is; then nobody waits, and workers are killed as they come.
    """
    chance = random.Random(SEED)  # noqa: S311 - the same every time
    plan = {user: chance.choice(POINTS) for user in HELD}
    names = [user.partition("@")[0] for user in (*HELD, *FREE)]
    async with cluster(Kept.SQLITE, tmp_path, names) as running:
        server = await running.start("all", plan, workers=4)
        await running.connect(HELD)
        calls = asyncio.create_task(settle(server, HELD))
        await server.reached(plan)
        doomed = chance.sample(workers(server), 2)
        in_doubt = {
            user
            for pid, user, point in server.trace()
            if pid in doomed and point == plan[user] == "after_spend"
        }
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: len(server.log("worker.died")) == 2)
        server.plan({})
        row = table.row("SIGKILL of 2 of 4 workers, all wait", running.kept)
        await note(row, running, await calls, in_doubt)

        await running.connect(FREE)
        known = len(server.trace())
        calls = asyncio.create_task(settle(server, FREE))
        killed = []
        for share in (20, 120, 220):
            await until(lambda share=share: len(server.trace()) >= known + share)  # type: ignore[misc]
            pid = chance.choice(workers(server))
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        given = await calls
        expected = in_memory(server, set(killed), FREE)
        await note(table.row("SIGKILL of workers as they come", running.kept), running, given, expected)
        again = await settle(server, [user for user in (*HELD, *FREE) if user not in in_doubt | expected])
        assert {answer for answers in again.values() for answer in answers} == {OK}
        server.send(signal.SIGTERM)
        assert await server.ended() == 0
