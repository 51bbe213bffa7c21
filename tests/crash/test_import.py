"""Tests for resuming an import after the process was killed, at any row and any step."""

import asyncio
import contextlib
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from crash.killed_import import POINTS
from service.importing.conftest import USERS
from service.importing.exports import ExportedUser, Workspace, as_csv, exported_user
from support.harness import serving
from support.mongodb import MongoServer
from zoom_simulator.testing import RunningSimulator
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.storage.timing import SqliteTiming

pytestmark = pytest.mark.timeout(180)

IMPORT = ("import", "velo-users", "ZoomUsers.csv", "--rate", "1000", "--json")


def killed(workspace: Workspace, point: str, number: int) -> bool:
    """Run an import that kills itself at a point; return whether the import was killed."""
    command = [
        sys.executable,
        "-m",
        "crash.killed_import",
        str(workspace.folder / "trace"),
        point,
        str(number),
    ]
    environ = workspace.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.run(
        [*command, *IMPORT], cwd=workspace.folder, env=environ, capture_output=True, text=True, check=False
    )
    assert process.returncode in (0, 1, -9), process.stderr
    return process.returncode == -9


def interrupted_exchanges(workspace: Workspace, users: Iterable[ExportedUser]) -> set[str]:
    """Return the users whose refresh token was sent to Zoom by a process that was killed before it journaled the response."""
    emails = {user.refresh: user.email for user in users}
    sent: dict[tuple[str, str], int] = {}
    for line in (workspace.folder / "trace").read_text().splitlines():
        process, point, subject = line.split(" ")
        if point == "sent":
            sent[process, emails[subject]] = 1
        elif point in ("after_journal", "after_result"):
            sent.pop((process, subject), None)
    return {user for _, user in sent}


@pytest.mark.parametrize("point", POINTS)
def test_import_killed_at_every_row_resumes(point: str, workspace: Workspace, zoom: RunningSimulator) -> None:
    """Repeated runs store all rows, except those whose response from Zoom was not yet journaled when the process was killed."""
    users = [exported_user(zoom, user.email, expired=number != 1) for number, user in enumerate(USERS[:4])]
    workspace.write("ZoomUsers.csv", as_csv(users))
    kills = 0
    # in every run after the first, one row completes before the process is killed; otherwise the loop would not end
    while killed(workspace, point, min(kills, 1) + 1):
        kills += 1
        assert kills < 10
    assert kills > 0
    counts = workspace.run(*IMPORT, code=int(point == "after_exchange")).counts
    lost = {
        entry["user"] for entry in workspace.results("ZoomUsers.csv") if entry["status"] == "reauth_required"
    }
    assert lost == (interrupted_exchanges(workspace, users) if point == "after_exchange" else set())
    assert counts["stored"] == len(users) - len(lost)
    assert bool(zoom.counters().get("token.refresh_token.refused", 0)) == bool(lost)
    assert zoom.counters()["token.refresh_token.issued"] == 3


@pytest.mark.parametrize("kind", ["SQLite", "MongoDB"])
def test_import_killed_anywhere_resumes(
    kind: str, workspace: Workspace, zoom: RunningSimulator, request: pytest.FixtureRequest
) -> None:
    """Only users whose refresh response had not been journaled when the process was killed must consent again."""
    if kind == "MongoDB":
        server: MongoServer = request.getfixturevalue("mongodb")
        workspace = Workspace(workspace.folder, workspace.environ | {"ZOOMGATE_STORE": server.new_database()})
        workspace.run("keys", "new")
    users = [exported_user(zoom, user.email, expired=number % 3 > 0) for number, user in enumerate(USERS)]
    workspace.write("ZoomUsers.csv", as_csv(users))
    rng = random.Random(7)  # noqa: S311 - a fixed seed makes the test reproducible
    kills = 0
    while killed(workspace, "any", rng.randrange(20, 160)):
        kills += 1
        assert kills < 40
    assert kills > 2
    statuses = workspace.statuses("ZoomUsers.csv")
    assert len(statuses) == len(users)
    lost = {
        entry["user"] for entry in workspace.results("ZoomUsers.csv") if entry["status"] == "reauth_required"
    }
    assert lost <= interrupted_exchanges(workspace, users)
    assert statuses.count("stored") == len(users) - len(lost)
    assert not list((workspace.folder / "data/journal").glob("*.entry"))


async def test_import_killed_while_a_service_is_running_resumes(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """The journaled tokens are stored by the service or by the next run; in both cases, the next run counts the row as stored."""
    users = [exported_user(zoom, user.email) for user in USERS[:3]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    async with serving(zoom._simulator, workspace.folder / "data") as service:
        assert await asyncio.to_thread(killed, workspace, "after_journal", 1)
        counts = (await asyncio.to_thread(workspace.run, *IMPORT)).counts
        assert counts["stored"] == 3
        for user in users:
            await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=user.email))
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


async def test_import_waits_for_an_unavailable_store(workspace: Workspace, zoom: RunningSimulator) -> None:
    """Tokens that Zoom issues while the store is locked are stored by the same run after the lock is released."""
    users = [exported_user(zoom, user.email) for user in USERS[:3]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    zoom.add_fault("users_me", "delay", seconds=20.0)  # wait until the store is locked
    running = asyncio.create_task(asyncio.to_thread(workspace.run, *IMPORT))
    while not zoom.counters().get("faults.delay") and not running.done():
        await asyncio.sleep(0.02)
    with contextlib.closing(
        sqlite3.connect(workspace.folder / "data/zoomgate.db", isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        zoom.clear_faults()
        await asyncio.sleep(SqliteTiming().busy_timeout + 0.5)
        other.execute("ROLLBACK")
    assert (await running).counts["stored"] == 3
    assert zoom.counters()["token.refresh_token.issued"] == 3
