"""What becomes of the rows of an export: `zoomgate import` as a process of its own, against the simulated Zoom."""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from service.importing.conftest import TOKEN, USERS
from service.importing.exports import Place, as_csv, consented, iso
from support.harness import MONICA, serving
from support.mongodb import MongoServer
from zoom_simulator.testing import RunningSimulator
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.sqlite import BUSY_SECONDS, SqliteStore

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST, SECOND, THIRD = (user.email for user in USERS[:3])
FAST = ("--rate", "1000")
HURRIED = "service.importing.hurried"


def velo(place: Place, *options: str, code: int = 0, module: str = "zoomgate_server") -> dict[str, int]:
    """Import ZoomUsers.csv; gives the counts."""
    counts = place.run(
        "import", "velo-users", "ZoomUsers.csv", "--json", *FAST, *options, code=code, module=module
    )
    found: dict[str, int] = counts.counts
    return found


@pytest.fixture(params=["SQLite", "MongoDB"])
def either(request: pytest.FixtureRequest, place: Place) -> Place:
    """A place whose store is one or the other."""
    if request.param == "SQLite":
        return place
    server: MongoServer = request.getfixturevalue("mongodb")
    environ = {"ZOOMGATE_STORE": server.new_database("directConnection=true")}
    moved = Place(place.folder, place.environ | environ)
    moved.run("keys", "new")
    return moved


async def test_everybody_comes_along_beside_a_running_service(either: Place, zoom: RunningSimulator) -> None:
    """Valid access tokens are not renewed, expired ones are; the running service serves everybody, and refreshes them."""
    people = [consented(zoom, user.email, expired=number % 2 > 0) for number, user in enumerate(USERS[:6])]
    either.write("ZoomUsers.csv", as_csv(people))
    settings = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    settings |= {key: value for key, value in either.environ.items() if key == "ZOOMGATE_STORE"}
    async with serving(zoom._simulator, either.folder / "data", settings) as service:
        counts = await asyncio.to_thread(velo, either)
        assert (counts["stored"], counts["rows"]) == (6, 6)
        assert zoom.counters()["token.refresh_token.issued"] == 3
        for person in people:
            connection = (
                await service.call(
                    service.auth.GetConnection, pb.GetConnectionRequest(user_email=person.user)
                )
            ).connection
            assert connection.state == Connection.STATE_ACTIVE
            assert "user:read:user" in connection.scopes
            await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=person.user))
            await service.call(service.auth.RefreshToken, pb.RefreshTokenRequest(user_email=person.user))
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


async def test_a_store_is_made_where_there_is_none(place: Place, zoom: RunningSimulator) -> None:
    """Import before the first start: the service then finds everybody. Results and journal are for their owner alone."""
    people = [consented(zoom, user.email) for user in USERS[:3]]
    place.write("ZoomUsers.csv", as_csv(people))
    said = place.run("import", "velo-users", "ZoomUsers.csv")
    assert said.out == "3 row(s): 3 stored. What became of each is in ZoomUsers.csv.results.jsonl.\n"
    assert (
        "delete ZoomUsers.csv, ZoomUsers.csv.results.jsonl, and in Wix the collection ZoomUsers" in said.err
    )
    assert stat.S_IMODE((place.folder / "ZoomUsers.csv.results.jsonl").stat().st_mode) == 0o600
    async with serving(zoom._simulator, place.folder / "data") as service:
        for person in people:
            await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=person.user))


def test_the_formats(place: Place, zoom: RunningSimulator) -> None:
    """Velo's collection as JSON with Wix's dates, Nango's connections by either field, and our own lines."""
    people = [consented(zoom, user.email, expired=False) for user in USERS[:8]]
    items = [person.velo | {"_updatedDate": {"$date": iso(person.updated)}} for person in people[:2]]
    place.write("ZoomUsers.json", json.dumps(items, indent=2))
    place.write("nango.json", json.dumps({"connections": [person.nango for person in people[2:4]]}))
    place.write("ids.json", "\n".join(json.dumps(p.nango | {"connection_id": p.user}) for p in people[4:6]))
    place.write("tokens.txt", "\n".join(json.dumps(person.line) for person in people[6:8]))
    for arguments in (
        ("velo-users", "ZoomUsers.json"),
        ("nango", "nango.json"),
        ("nango", "ids.json", "--user-field", "connection_id"),
        ("jsonl", "tokens.txt"),
    ):
        assert place.run("import", *arguments, *FAST, "--json").counts["stored"] == 2, arguments
    assert zoom.counters() == {"api.me": 8}


def test_tokens_of_somebody_else(place: Place, zoom: RunningSimulator) -> None:
    """They are never stored. Those that need not be spent stay as they are; others are revoked, since nobody else has them any more."""
    valid, old = consented(zoom, FIRST, expired=False), consented(zoom, SECOND)
    rows = [replace(valid, user="a@example.com"), replace(old, user="b@example.com")]
    place.write("ZoomUsers.csv", as_csv(rows))
    assert velo(place, code=1)["refused"] == 2
    said = place.run("import", "velo-users", "ZoomUsers.csv", code=1)
    assert "2 row(s) refused: ZoomUsers.csv.results.jsonl says why" in said.err
    reasons = [entry["reason"] for entry in place.results("ZoomUsers.csv")]
    assert reasons[0].endswith("and were left alone")
    assert reasons[1].endswith("were spent, and Zoom was asked to revoke them: the person has to consent")
    assert zoom.counters()["revoke.known"] >= 1
    place.write("ZoomUsers.csv", as_csv([valid]))
    assert velo(place, "--results", "again")["stored"] == 1


def test_tokens_that_zoom_does_not_revoke_in_time(place: Place, zoom: RunningSimulator) -> None:
    """The import ends all the same, and nothing is said that did not happen."""
    place.write("ZoomUsers.csv", as_csv([replace(consented(zoom, FIRST), user=SECOND)]))
    zoom.add_fault("revoke", "delay", times=-1, seconds=60.0)
    said = place.run("import", "velo-users", "ZoomUsers.csv", code=1, module=HURRIED)
    assert "1 refused" in said.out
    assert "exception" not in said.err
    (entry,) = place.results("ZoomUsers.csv")
    assert "Zoom was asked to revoke them" in entry["reason"]
    assert "revoke.known" not in zoom.counters()


def test_tokens_that_zoom_refuses(place: Place, zoom: RunningSimulator) -> None:
    """A refresh token that was used since the export, and one of another app, mean that the person has to consent; the rest goes on."""
    used = consented(zoom, FIRST)
    consented(zoom, FIRST)
    foreign = replace(used, user=SECOND, refresh="sim-rt-of-another-app", access="")
    place.write("ZoomUsers.csv", as_csv([used, foreign, consented(zoom, THIRD)]))
    counts = velo(place, code=1)
    assert place.verdicts("ZoomUsers.csv") == ["consent", "consent", "stored"]
    assert counts["consent"] == 2
    assert "it was used since the export, or has ended" in place.results("ZoomUsers.csv")[0]["reason"]


async def test_who_is_connected_already(place: Place, zoom: RunningSimulator) -> None:
    """Such a row is skipped, and so is one of somebody who was disconnected here; --replace takes it if it is newer."""
    before = [consented(zoom, user) for user in (FIRST, SECOND)]
    place.write("ZoomUsers.csv", as_csv(before))
    velo(place)
    async with serving(zoom._simulator, place.folder / "data") as service:
        await service.call(
            service.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=SECOND), "admin"
        )
    older = [replace(person, refresh="sim-rt-older") for person in before]
    place.write("ZoomUsers.csv", as_csv(older))
    assert velo(place, "--results", "older", "--replace")["skipped"] == 2
    newer = [
        replace(consented(zoom, user, expired=False), updated=time.time() + 300) for user in (FIRST, SECOND)
    ]
    place.write("ZoomUsers.csv", as_csv(newer))
    assert velo(place, "--results", "newer")["skipped"] == 2
    reasons = (place.folder / "newer").read_text()
    assert "is connected already, and the row is newer: --replace takes it" in reasons
    assert "was disconnected here, and the row is newer" in reasons
    assert velo(place, "--results", "taken", "--replace")["stored"] == 2
    async with serving(zoom._simulator, place.folder / "data") as service:
        for user in (FIRST, SECOND):
            await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=user))


async def test_tokens_that_were_stored_and_have_ended_since(place: Place, zoom: RunningSimulator) -> None:
    """A valid access token beside another app's refresh token is found out by the first refresh; the row is no stored one then."""
    foreign = replace(consented(zoom, FIRST, expired=False), refresh="sim-rt-of-another-app")
    place.write("ZoomUsers.csv", as_csv([foreign]))
    assert velo(place)["stored"] == 1
    async with serving(zoom._simulator, place.folder / "data") as service:
        refusal = await service.refusal(service.auth.RefreshToken, pb.RefreshTokenRequest(user_email=FIRST))
        assert refusal.short[1] == "ZOOM_REAUTH_REQUIRED"
    assert velo(place, "--results", "again", code=1)["consent"] == 1
    assert "Zoom has refused its tokens since" in (place.folder / "again").read_text()


async def test_a_connection_keeps_its_owner(place: Place, zoom: RunningSimulator) -> None:
    """A member's connection that a newer row replaces stays that member's: an import gives nobody a right. The audit trail has it."""

    async def owner() -> str | None:
        clock = SystemClock()
        store = await SqliteStore.open(place.folder / "data/zoomgate.db", clock.wall)
        app = f"loopback|{zoom.client_id}"
        envelope = Envelope(app=app, keys=key_file.load(place.folder / "data/keys.json"))
        connections = ConnectionRepository(
            app=app, store=store, envelope=envelope, clock=clock, on_read=lambda: None
        )
        record, _ = await connections.read(MONICA)
        await store.close()
        assert record is not None
        assert (record.initiated_by == "import") == (record.generation > 1)
        return record.owner

    async with serving(zoom._simulator, place.folder / "data") as service:
        await service.connect(MONICA, "monica")
    before = await owner()
    assert before
    newer = replace(consented(zoom, MONICA, expired=False), updated=time.time() + 300)
    place.write("ZoomUsers.csv", as_csv([newer]))
    assert velo(place, "--replace")["stored"] == 1
    assert await owner() == before
    trail = (place.folder / "data/audit.jsonl").read_text(encoding="utf-8")
    (row,) = (line for line in map(json.loads, trail.splitlines()) if line["role"] == "operator")
    assert (row["action"], row["outcome"], row["user"]) == ("connection.stored", "ok", MONICA)
    assert (row["generation"], row["details"]["origin"]) == (2, "import")
    assert re.fullmatch(r"[0-9a-f]{16}", row["refresh_fingerprint"])
    assert newer.refresh not in trail


def test_two_rows_for_one_person(place: Place, zoom: RunningSimulator) -> None:
    """The newest is imported, wherever it is in the file; without dates the last one is. The others are never sent."""
    old = replace(consented(zoom, FIRST), updated=time.time() - 9000)
    new = consented(zoom, FIRST)
    undated = [replace(consented(zoom, SECOND), updated=0.0) for _ in range(2)]
    place.write("ZoomUsers.csv", as_csv([new, old, *undated]))
    assert velo(place)["superseded"] == 2
    assert place.verdicts("ZoomUsers.csv") == ["stored", "superseded", "superseded", "stored"]
    assert place.results("ZoomUsers.csv")[1]["reason"] == "row 1 of the same person is newer"
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


@pytest.mark.parametrize("kind", ["rate_limit_qps", "status", "cut_before"])
@pytest.mark.parametrize("endpoint", ["token", "users_me"])
def test_a_zoom_that_fails_for_a_while(
    endpoint: str, kind: str, place: Place, zoom: RunningSimulator
) -> None:
    """The rows wait, and are stored by the same run."""
    people = [consented(zoom, user.email) for user in USERS[:4]]
    place.write("ZoomUsers.csv", as_csv(people))
    zoom.add_fault(endpoint, kind, times=3)
    assert velo(place, module=HURRIED)["stored"] == 4


@pytest.mark.parametrize("endpoint", ["token", "users_me"])
def test_a_zoom_that_is_gone(endpoint: str, place: Place, zoom: RunningSimulator) -> None:
    """The import stops with exit code 5 after a few rows; the same command goes on, and spends nothing twice."""
    people = [consented(zoom, user.email) for user in USERS[:6]]
    place.write("ZoomUsers.csv", as_csv(people))
    zoom.add_fault(endpoint, "status", times=-1)
    said = place.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=5, module=HURRIED)
    assert "3 undone" in said.out
    assert "3 left" in said.out
    assert "run the same command again" in said.err
    zoom.clear_faults()
    assert velo(place, module=HURRIED)["stored"] == 6
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


def test_an_answer_that_is_lost(place: Place, zoom: RunningSimulator) -> None:
    """Zoom has spent the token, and its answer never came: the result says so, and nobody else is affected."""
    people = [consented(zoom, user.email) for user in USERS[:2]]
    place.write("ZoomUsers.csv", as_csv(people))
    zoom.add_fault("token", "cut_after")
    velo(place, code=1, module=HURRIED)
    assert place.verdicts("ZoomUsers.csv") == ["consent", "stored"]
    assert "was lost" in place.results("ZoomUsers.csv")[0]["reason"]


def test_an_app_that_may_not_ask_whose_tokens_are(place: Place, zoom: RunningSimulator) -> None:
    """Without the scope for it not one row can be tied to a person: the first shows it, and no other token is spent."""
    people = [consented(zoom, user.email) for user in USERS[:6]]
    place.write("ZoomUsers.csv", as_csv(people))
    zoom.add_fault("users_me", "status", status=403, times=-1)
    said = place.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=1)
    assert "add the scope user:read:user to the app" in said.err
    assert zoom.counters()["token.refresh_token.issued"] == 1


def test_an_app_that_zoom_refuses(place: Place, zoom: RunningSimulator) -> None:
    """With a wrong client secret nothing is spent and nothing but the first row is tried."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, user.email) for user in USERS[:3]]))
    wrong = Place(place.folder, place.environ | {"ZOOMGATE_CLIENT_SECRET": "wrong"})
    said = wrong.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=1)
    assert "client id, secret or redirect URI" in said.err
    assert velo(place)["stored"] == 3


def test_interrupted_from_the_keyboard(place: Place, zoom: RunningSimulator) -> None:
    """SIGINT lets the rows under way end, says how to go on, and exits with 1; the same command does the rest."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, user.email) for user in USERS]))
    process = subprocess.Popen(
        # slow, so that most of them are left however late the signal comes
        [sys.executable, "-m", "zoomgate_server", "import", "velo-users", "ZoomUsers.csv", "--rate", "2"],
        cwd=place.folder,
        env=place.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    results = place.folder / "ZoomUsers.csv.results.jsonl"
    while not results.exists() or len(results.read_text().splitlines()) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert " left. " in out
    assert "Traceback" not in err
    assert "run the same command again" in err
    assert velo(place)["stored"] == len(USERS)
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


def test_the_results_of_another_import(place: Place, zoom: RunningSimulator) -> None:
    """They are not overwritten: the file that was changed is another one."""
    people = [consented(zoom, user.email) for user in USERS[:2]]
    place.write("ZoomUsers.csv", as_csv(people[:1]))
    velo(place)
    place.write("ZoomUsers.csv", as_csv(people))
    said = place.run("import", "velo-users", "ZoomUsers.csv", code=2)
    assert "has the results of another file" in said.err
    place.write("mine.txt", "my notes\n")
    place.run("import", "velo-users", "ZoomUsers.csv", "--results", "mine.txt", code=2)
    assert (place.folder / "mine.txt").read_text() == "my notes\n"
    assert velo(place, "--results", "more")["stored"] == 2


@pytest.mark.parametrize(
    "content", ["my notes", '{"zoom": {"clientId": "c"}}', "x" * 200_000, "\0" * 200_000]
)
def test_a_file_that_holds_something_else_than_results(
    content: str, place: Place, zoom: RunningSimulator
) -> None:
    """It stays as it is, even without a line end, and nobody is told to delete it."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, FIRST)]))
    place.write("mine.txt", content)
    said = place.run("import", "velo-users", "ZoomUsers.csv", "--results", "mine.txt", code=2)
    assert "mine.txt has something else in it than results: name another place with --results" in said.err
    assert "delete" not in said.err
    assert (place.folder / "mine.txt").read_text() == content


def test_the_export_as_the_place_of_the_results(place: Place, zoom: RunningSimulator) -> None:
    """It is the only thing that the people have: it stays as it is."""
    export = place.write("tokens.txt", json.dumps(consented(zoom, FIRST).line))
    before = export.read_text()
    said = place.run("import", "jsonl", "tokens.txt", "--results", "tokens.txt", code=2)
    assert "is the export itself: name another place" in said.err
    assert export.read_text() == before


@pytest.mark.parametrize("name", ["/dev/full", "/dev/zero", "pipe", "missing/results", "r" * 300])
def test_results_that_cannot_be_a_file(name: str, place: Place, zoom: RunningSimulator) -> None:
    """They are refused before anything is sent."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, FIRST)]))
    os.mkfifo(place.folder / "pipe")
    said = place.run("import", "velo-users", "ZoomUsers.csv", "--results", name, code=2)
    assert "with --results" in said.err
    assert zoom.counters() == {}


def test_results_that_others_could_read(place: Place, zoom: RunningSimulator) -> None:
    """A file that was there, and empty, is for its owner alone once there are addresses in it."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, FIRST)]))
    place.write("ZoomUsers.csv.results.jsonl", "").chmod(0o644)
    velo(place)
    assert stat.S_IMODE((place.folder / "ZoomUsers.csv.results.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("held", ["ZoomUsers.csv", "results"])
def test_two_imports_at_once(held: str, place: Place, zoom: RunningSimulator) -> None:
    """Neither of one file nor into the same results: one of them would hear from Zoom that the tokens were used."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, FIRST)]))
    place.write("results", "")
    with (place.folder / held).open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        said = place.run("import", "velo-users", "ZoomUsers.csv", "--results", "results", code=2)
    assert "Another import" in said.err
    assert zoom.counters() == {}
    assert velo(place, "--results", "results")["stored"] == 1


def test_a_rate_that_is_no_number(place: Place, zoom: RunningSimulator) -> None:
    """It would be no limit at all."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, FIRST)]))
    assert (
        "nan is no number" in place.run("import", "velo-users", "ZoomUsers.csv", "--rate", "nan", code=2).err
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can work in the folders of others")
def test_root_in_the_folder_of_the_service(place: Place, zoom: RunningSimulator) -> None:
    """Nothing is made there that the service, which is another user, could not open."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, FIRST)]))
    (place.folder / "data").mkdir(mode=0o700)
    os.chown(place.folder / "data", 65534, 65534)
    said = place.run("import", "velo-users", "ZoomUsers.csv", code=1)
    assert "is the folder of user 65534" in said.err
    assert "run this as that user" in said.err
    assert not list((place.folder / "data").iterdir())
    assert zoom.counters() == {}


def test_an_export_that_is_no_file(place: Place) -> None:
    """What can be read only once is refused at once, instead of waiting for a second writer for ever."""
    os.mkfifo(place.folder / "pipe")
    for name in ("pipe", "/dev/zero"):
        said = place.run("import", "jsonl", name, "--dry-run", code=2)
        assert "is read more than once: save it as a file" in said.err


@pytest.mark.parametrize("what", ["results", "audit", "journal"])
def test_a_disk_that_becomes_full(what: str, place: Place, zoom: RunningSimulator) -> None:
    """No other row is begun, those under way are stored, and the same command does the rest: no token is spent twice."""
    people = [consented(zoom, user.email) for user in USERS[:40]]
    place.write("ZoomUsers.csv", as_csv(people))
    said = place.run(
        what, "4", "import", "velo-users", "ZoomUsers.csv", *FAST, code=1, module="service.importing.full"
    )
    assert "cannot be written" in said.err
    assert "run the same command again" in said.err
    assert velo(place)["stored"] == len(people)
    assert zoom.counters()["token.refresh_token.issued"] == len(people)
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


async def test_neither_journal_nor_store_for_a_while(place: Place, zoom: RunningSimulator) -> None:
    """What Zoom issued is in the memory of the import alone then, which goes on until the store has it."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, FIRST)]))
    zoom.add_fault("token", "delay", seconds=20.0)  # until both are away
    running = asyncio.create_task(asyncio.to_thread(velo, place, module=HURRIED))
    while not zoom.counters().get("faults.delay") and not running.done():
        await asyncio.sleep(0.02)
    (place.folder / "data/journal").rmdir()
    with contextlib.closing(
        sqlite3.connect(place.folder / "data/zoomgate.db", isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        zoom.clear_faults()
        await asyncio.sleep(2 * BUSY_SECONDS)
        other.execute("ROLLBACK")
    assert (await running)["stored"] == 1
    assert zoom.counters()["token.refresh_token.issued"] == 1


def test_addresses_that_are_all_wrong(place: Place, zoom: RunningSimulator) -> None:
    """The wrong column costs three people a consent and not everybody: the import stops, and says where to look."""
    people = [consented(zoom, user.email) for user in USERS[:6]]
    place.write("ZoomUsers.csv", as_csv(replace(p, user=f"not-{p.user}") for p in people))
    said = place.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=1)
    assert "see whether the addresses in the file are those of the people's Zoom accounts" in said.err
    assert place.verdicts("ZoomUsers.csv") == ["refused"] * 3
    assert zoom.counters()["token.refresh_token.issued"] == 3
    place.write("ZoomUsers.csv", as_csv(people))
    assert velo(place, "--results", "right", code=1)["stored"] == 3


def test_a_dry_run_touches_nothing(tmp_path: Path, place: Place, zoom: RunningSimulator) -> None:
    """It needs no settings, asks nobody, and writes nothing."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, FIRST), consented(zoom, SECOND, expired=False)]))
    bare = Place(place.folder, {"PATH": place.environ["PATH"]})
    counts = bare.run("import", "velo-users", "ZoomUsers.csv", "--dry-run", "--json").counts
    assert counts == {
        "rows": 2,
        "usable": 2,
        "superseded": 0,
        "refused": 0,
        "validAccessTokens": 1,
        "misreadTimes": 0,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["ZoomUsers.csv"]
    assert zoom.counters() == {}


def test_others_who_can_read_the_export(place: Place, zoom: RunningSimulator) -> None:
    """The tokens are theirs, too: that is said."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, FIRST)])).chmod(0o644)
    assert "chmod 600" in place.run("import", "velo-users", "ZoomUsers.csv", "--dry-run").err


def test_nothing_is_kept_in_the_clear(place: Place, zoom: RunningSimulator) -> None:
    """Neither store, journal nor results hold a token, whatever the columns are taken for."""
    place.write("ZoomUsers.csv", as_csv([consented(zoom, FIRST)]))
    velo(place, "--user-column", "refresh_token", code=1)
    assert not TOKEN.search((place.folder / "ZoomUsers.csv.results.jsonl").read_text())
