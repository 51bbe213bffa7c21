"""An import that is killed, at any row and at any step of it, goes on where it was."""

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
from service.importing.exports import Person, Place, as_csv, consented
from support.harness import serving
from support.mongodb import MongoServer
from zoom_simulator.testing import RunningSimulator
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.storage.sqlite import BUSY_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

IMPORT = ("import", "velo-users", "ZoomUsers.csv", "--rate", "1000", "--json")


def killed(place: Place, point: str, number: int) -> bool:
    """Import, killed at a point; False if it came to its end instead."""
    command = [sys.executable, "-m", "crash.killed_import", str(place.folder / "trace"), point, str(number)]
    environ = place.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.run(
        [*command, *IMPORT], cwd=place.folder, env=environ, capture_output=True, text=True, check=False
    )
    assert process.returncode in (0, 1, -9), process.stderr
    return process.returncode == -9


def exposed(place: Place, people: Iterable[Person]) -> set[str]:
    """Whose refresh token was sent to Zoom by a process that was killed before the answer was in the journal."""
    of = {person.refresh: person.user for person in people}
    sent: dict[tuple[str, str], int] = {}
    for line in (place.folder / "trace").read_text().splitlines():
        process, point, who = line.split(" ")
        if point == "sent":
            sent[process, of[who]] = 1
        elif point in ("after_keep", "after_note"):
            sent.pop((process, who), None)
    return {user for _, user in sent}


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_row(point: str, place: Place, zoom: RunningSimulator) -> None:
    """However often it is killed, every row ends stored, and no token is spent twice; only what Zoom told a dying process is lost."""
    people = [consented(zoom, user.email, expired=number != 1) for number, user in enumerate(USERS[:4])]
    place.write("ZoomUsers.csv", as_csv(people))
    deaths = 0
    # from the second time on a row is done first, else it would never end
    while killed(place, point, min(deaths, 1) + 1):
        deaths += 1
        assert deaths < 10
    assert deaths > 0
    counts = place.run(*IMPORT, code=int(point == "after_spend")).counts
    lost = {entry["user"] for entry in place.results("ZoomUsers.csv") if entry["verdict"] == "consent"}
    assert lost == (exposed(place, people) if point == "after_spend" else set())
    assert counts["stored"] == len(people) - len(lost)
    assert bool(zoom.counters().get("token.refresh_token.refused", 0)) == bool(lost)
    assert zoom.counters()["token.refresh_token.issued"] == 3


@pytest.mark.parametrize("kept", ["SQLite", "MongoDB"])
def test_killed_anywhere(
    kept: str, place: Place, zoom: RunningSimulator, request: pytest.FixtureRequest
) -> None:
    """With many rows under way: whoever is lost had a refresh under way whose answer no journal had yet, and nobody else is."""
    if kept == "MongoDB":
        server: MongoServer = request.getfixturevalue("mongodb")
        place = Place(place.folder, place.environ | {"ZOOMGATE_STORE": server.new_database()})
        place.run("keys", "new")
    people = [consented(zoom, user.email, expired=number % 3 > 0) for number, user in enumerate(USERS)]
    place.write("ZoomUsers.csv", as_csv(people))
    chance = random.Random(7)  # noqa: S311 - the same every time
    deaths = 0
    while killed(place, "any", chance.randrange(20, 160)):
        deaths += 1
        assert deaths < 40
    assert deaths > 2
    verdicts = place.verdicts("ZoomUsers.csv")
    assert len(verdicts) == len(people)
    lost = {entry["user"] for entry in place.results("ZoomUsers.csv") if entry["verdict"] == "consent"}
    assert lost <= exposed(place, people)
    assert verdicts.count("stored") == len(people) - len(lost)
    assert not list((place.folder / "data/journal").glob("*.entry"))


async def test_killed_beside_a_running_service(place: Place, zoom: RunningSimulator) -> None:
    """The service stores what the journal has, and the next run takes that for its own work, whoever comes first."""
    people = [consented(zoom, user.email) for user in USERS[:3]]
    place.write("ZoomUsers.csv", as_csv(people))
    async with serving(zoom._simulator, place.folder / "data") as service:
        assert await asyncio.to_thread(killed, place, "after_keep", 1)
        counts = (await asyncio.to_thread(place.run, *IMPORT)).counts
        assert counts["stored"] == 3
        for person in people:
            await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=person.user))
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


async def test_a_store_that_takes_nothing_for_a_while(place: Place, zoom: RunningSimulator) -> None:
    """What Zoom issued meanwhile is kept, and stored by the same run."""
    people = [consented(zoom, user.email) for user in USERS[:3]]
    place.write("ZoomUsers.csv", as_csv(people))
    zoom.add_fault("users_me", "delay", seconds=20.0)  # until the store takes nothing
    running = asyncio.create_task(asyncio.to_thread(place.run, *IMPORT))
    while not zoom.counters().get("faults.delay") and not running.done():
        await asyncio.sleep(0.02)
    with contextlib.closing(
        sqlite3.connect(place.folder / "data/zoomgate.db", isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        zoom.clear_faults()
        await asyncio.sleep(BUSY_SECONDS + 0.5)
        other.execute("ROLLBACK")
    assert (await running).counts["stored"] == 3
    assert zoom.counters()["token.refresh_token.issued"] == 3
