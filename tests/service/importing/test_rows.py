"""Tests for `zoomgate import` as a process, with the Zoom simulator."""

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
from service.importing.exports import Workspace, as_csv, exported_user, iso
from support.harness import MONICA, serving
from support.mongodb import MongoServer
from zoom_simulator.testing import RunningSimulator
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import StoreUnavailable
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.storage.timing import SqliteTiming

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FIRST, SECOND, THIRD = (user.email for user in USERS[:3])
FAST = ("--rate", "1000")
HURRIED = "service.importing.hurried"


def velo(
    workspace: Workspace, *options: str, code: int = 0, module: str = "zoomgate_server"
) -> dict[str, int]:
    """Import ZoomUsers.csv, and return the counts that the command prints."""
    output = workspace.run(
        "import", "velo-users", "ZoomUsers.csv", "--json", *FAST, *options, code=code, module=module
    )
    counts: dict[str, int] = output.counts
    return counts


@pytest.fixture(params=["SQLite", "MongoDB"])
def any_store(request: pytest.FixtureRequest, workspace: Workspace) -> Workspace:
    """Return a workspace; the test runs once for each kind of store."""
    if request.param == "SQLite":
        return workspace
    server: MongoServer = request.getfixturevalue("mongodb")
    environ = {"ZOOMGATE_STORE": server.new_database("directConnection=true")}
    with_mongodb = Workspace(workspace.folder, workspace.environ | environ)
    with_mongodb.run("keys", "new")
    return with_mongodb


async def test_import_while_a_service_is_running(any_store: Workspace, zoom: RunningSimulator) -> None:
    """The import refreshes only expired access tokens. The running service then serves and refreshes the tokens of all users."""
    users = [exported_user(zoom, user.email, expired=number % 2 > 0) for number, user in enumerate(USERS[:6])]
    any_store.write("ZoomUsers.csv", as_csv(users))
    settings = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    settings |= {key: value for key, value in any_store.environ.items() if key == "ZOOMGATE_STORE"}
    async with serving(zoom._simulator, any_store.folder / "data", settings) as service:
        counts = await asyncio.to_thread(velo, any_store)
        assert (counts["stored"], counts["rows"]) == (6, 6)
        assert zoom.counters()["token.refresh_token.issued"] == 3
        for user in users:
            connection = (
                await service.call(service.auth.GetConnection, pb.GetConnectionRequest(user_email=user.email))
            ).connection
            assert connection.state == Connection.STATE_ACTIVE
            assert "user:read:user" in connection.scopes
            await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=user.email))
            await service.call(service.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user.email))
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


async def test_missing_store_is_created(workspace: Workspace, zoom: RunningSimulator) -> None:
    """A service that starts after the import serves all users. Only the owner of the results file can read it."""
    users = [exported_user(zoom, user.email) for user in USERS[:3]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    output = workspace.run("import", "velo-users", "ZoomUsers.csv")
    assert output.out == "3 row(s): 3 stored. The result of each row is in ZoomUsers.csv.results.jsonl.\n"
    assert "delete ZoomUsers.csv, ZoomUsers.csv.results.jsonl, and the collection ZoomUsers" in output.err
    assert stat.S_IMODE((workspace.folder / "ZoomUsers.csv.results.jsonl").stat().st_mode) == 0o600
    async with serving(zoom._simulator, workspace.folder / "data") as service:
        for user in users:
            await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=user.email))


def test_all_formats_are_imported(workspace: Workspace, zoom: RunningSimulator) -> None:
    """The files are Velo's collection as JSON with Wix's dates, Nango's connections with two address fields, and JSON lines."""
    users = [exported_user(zoom, user.email, expired=False) for user in USERS[:8]]
    items = [user.velo | {"_updatedDate": {"$date": iso(user.updated)}} for user in users[:2]]
    workspace.write("ZoomUsers.json", json.dumps(items, indent=2))
    workspace.write("nango.json", json.dumps({"connections": [user.nango for user in users[2:4]]}))
    workspace.write(
        "ids.json", "\n".join(json.dumps(u.nango | {"connection_id": u.email}) for u in users[4:6])
    )
    workspace.write("tokens.txt", "\n".join(json.dumps(user.line) for user in users[6:8]))
    for arguments in (
        ("velo-users", "ZoomUsers.json"),
        ("nango", "nango.json"),
        ("nango", "ids.json", "--user-field", "connection_id"),
        ("jsonl", "tokens.txt"),
    ):
        assert workspace.run("import", *arguments, *FAST, "--json").counts["stored"] == 2, arguments
    assert zoom.counters() == {"api.me": 8}


def test_tokens_of_a_different_user_are_rejected(workspace: Workspace, zoom: RunningSimulator) -> None:
    """If the access token is valid, the row is rejected without a refresh. Otherwise, the newly issued tokens are revoked."""
    valid, old = exported_user(zoom, FIRST, expired=False), exported_user(zoom, SECOND)
    rows = [replace(valid, email="a@example.com"), replace(old, email="b@example.com")]
    workspace.write("ZoomUsers.csv", as_csv(rows))
    assert velo(workspace, code=1)["rejected"] == 2
    output = workspace.run("import", "velo-users", "ZoomUsers.csv", code=1)
    assert "2 row(s) were rejected; see ZoomUsers.csv.results.jsonl for the reasons" in output.err
    reasons = [entry["reason"] for entry in workspace.results("ZoomUsers.csv")]
    assert reasons[0].endswith("; the tokens were not used")
    assert reasons[1].endswith(
        "; the tokens were exchanged and are being revoked, so the user must consent again"
    )
    assert zoom.counters()["revoke.known"] >= 1
    workspace.write("ZoomUsers.csv", as_csv([valid]))
    assert velo(workspace, "--results", "again")["stored"] == 1


def test_slow_revocation_does_not_block_the_import(workspace: Workspace, zoom: RunningSimulator) -> None:
    """While Zoom has not confirmed the revocation, the result states that the tokens are being revoked."""
    workspace.write("ZoomUsers.csv", as_csv([replace(exported_user(zoom, FIRST), email=SECOND)]))
    zoom.add_fault("revoke", "delay", times=-1, seconds=60.0)
    output = workspace.run("import", "velo-users", "ZoomUsers.csv", code=1, module=HURRIED)
    assert "1 rejected" in output.out
    assert "exception" not in output.err
    (entry,) = workspace.results("ZoomUsers.csv")
    assert "are being revoked" in entry["reason"]
    assert "revoke.known" not in zoom.counters()


def test_rejected_refresh_tokens_require_consent(workspace: Workspace, zoom: RunningSimulator) -> None:
    """Cases: a revoked refresh token, and a refresh token of a different app. Other rows are not affected."""
    used = exported_user(zoom, FIRST)
    exported_user(zoom, FIRST)
    foreign = replace(used, email=SECOND, refresh="sim-rt-of-another-app", access="")
    workspace.write("ZoomUsers.csv", as_csv([used, foreign, exported_user(zoom, THIRD)]))
    counts = velo(workspace, code=1)
    assert workspace.statuses("ZoomUsers.csv") == ["reauth_required", "reauth_required", "stored"]
    assert counts["reauth_required"] == 2
    assert (
        "it was used after the export, revoked, or has expired"
        in workspace.results("ZoomUsers.csv")[0]["reason"]
    )


async def test_connected_and_disconnected_users_are_skipped(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """With the option --replace, rows that are newer than the existing connection or its disconnection are imported."""
    before = [exported_user(zoom, user) for user in (FIRST, SECOND)]
    workspace.write("ZoomUsers.csv", as_csv(before))
    velo(workspace)
    async with serving(zoom._simulator, workspace.folder / "data") as service:
        await service.call(
            service.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=SECOND), "admin"
        )
    older = [replace(user, refresh="sim-rt-older") for user in before]
    workspace.write("ZoomUsers.csv", as_csv(older))
    assert velo(workspace, "--results", "older", "--replace")["skipped"] == 2
    newer = [
        replace(exported_user(zoom, user, expired=False), updated=time.time() + 300)
        for user in (FIRST, SECOND)
    ]
    workspace.write("ZoomUsers.csv", as_csv(newer))
    assert velo(workspace, "--results", "newer")["skipped"] == 2
    reasons = (workspace.folder / "newer").read_text()
    assert "is already connected, but the row is newer; use --replace to import it" in reasons
    assert "was disconnected in Zoomgate, but the row is newer" in reasons
    assert velo(workspace, "--results", "replaced", "--replace")["stored"] == 2
    async with serving(zoom._simulator, workspace.folder / "data") as service:
        for user in (FIRST, SECOND):
            await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=user))


async def test_stored_tokens_that_zoom_has_since_rejected_require_consent(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """The refresh token belongs to a different app. It is stored because the access token is valid, and rejected at the first refresh."""
    foreign = replace(exported_user(zoom, FIRST, expired=False), refresh="sim-rt-of-another-app")
    workspace.write("ZoomUsers.csv", as_csv([foreign]))
    assert velo(workspace)["stored"] == 1
    async with serving(zoom._simulator, workspace.folder / "data") as service:
        refusal = await service.error_of(service.auth.RefreshToken, pb.RefreshTokenRequest(user_email=FIRST))
        assert refusal.short[1] == "ZOOM_REAUTH_REQUIRED"
    assert velo(workspace, "--results", "again", code=1)["reauth_required"] == 1
    assert "Zoom has since rejected them" in (workspace.folder / "again").read_text()


async def test_replaced_connection_retains_its_owner(workspace: Workspace, zoom: RunningSimulator) -> None:
    """An import does not change the owner of a member's connection, and is recorded in the audit trail."""

    async def owner() -> str | None:
        clock = SystemClock()
        store = await SqliteStore.open(workspace.folder / "data/zoomgate.db", clock.wall)
        app = f"loopback|{zoom.client_id}"
        envelope = Envelope(app=app, keys=key_file.load(workspace.folder / "data/keys.json"))
        connections = ConnectionRepository(
            app=app, store=store, envelope=envelope, clock=clock, on_read=lambda: None
        )
        record, _ = await connections.read(MONICA)
        await store.close()
        assert record is not None
        assert (record.initiated_by == "import") == (record.generation > 1)
        return record.owner

    async with serving(zoom._simulator, workspace.folder / "data") as service:
        await service.connect(MONICA, "monica")
    before = await owner()
    assert before
    newer = replace(exported_user(zoom, MONICA, expired=False), updated=time.time() + 300)
    workspace.write("ZoomUsers.csv", as_csv([newer]))
    assert velo(workspace, "--replace")["stored"] == 1
    assert await owner() == before
    trail = (workspace.folder / "data/audit.jsonl").read_text(encoding="utf-8")
    (event,) = (line for line in map(json.loads, trail.splitlines()) if line["role"] == "operator")
    assert (event["action"], event["outcome"], event["user"]) == ("connection.stored", "ok", MONICA)
    assert (event["generation"], event["details"]["origin"]) == (2, "import")
    assert re.fullmatch(r"[0-9a-f]{16}", event["refresh_fingerprint"])
    assert newer.refresh not in trail


def test_only_the_newest_row_of_a_user_is_imported(workspace: Workspace, zoom: RunningSimulator) -> None:
    """Without dates, the last row is treated as the newest; tokens of other rows are never sent to Zoom."""
    old = replace(exported_user(zoom, FIRST), updated=time.time() - 9000)
    new = exported_user(zoom, FIRST)
    undated = [replace(exported_user(zoom, SECOND), updated=0.0) for _ in range(2)]
    workspace.write("ZoomUsers.csv", as_csv([new, old, *undated]))
    assert velo(workspace)["superseded"] == 2
    assert workspace.statuses("ZoomUsers.csv") == ["stored", "superseded", "superseded", "stored"]
    assert workspace.results("ZoomUsers.csv")[1]["reason"] == "row 1 of the same user is newer"
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


@pytest.mark.parametrize("kind", ["rate_limit_qps", "status", "cut_before"])
@pytest.mark.parametrize("endpoint", ["token", "users_me"])
def test_temporary_zoom_failures_are_retried(
    endpoint: str, kind: str, workspace: Workspace, zoom: RunningSimulator
) -> None:
    users = [exported_user(zoom, user.email) for user in USERS[:4]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    zoom.add_fault(endpoint, kind, times=3)
    assert velo(workspace, module=HURRIED)["stored"] == 4


@pytest.mark.parametrize("endpoint", ["token", "users_me"])
def test_zoom_outage_stops_the_import(endpoint: str, workspace: Workspace, zoom: RunningSimulator) -> None:
    """The exit code is 5; running the same command again completes the import, and no refresh token is used twice."""
    users = [exported_user(zoom, user.email) for user in USERS[:6]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    zoom.add_fault(endpoint, "status", times=-1)
    output = workspace.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=5, module=HURRIED)
    assert "3 incomplete" in output.out
    assert "3 remaining" in output.out
    assert "run the same command again" in output.err
    zoom.clear_faults()
    assert velo(workspace, module=HURRIED)["stored"] == 6
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


def test_lost_token_response_is_reported(workspace: Workspace, zoom: RunningSimulator) -> None:
    """The user must consent, because the refresh token cannot be used again. Other users are not affected."""
    users = [exported_user(zoom, user.email) for user in USERS[:2]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    zoom.add_fault("token", "cut_after")
    velo(workspace, code=1, module=HURRIED)
    assert workspace.statuses("ZoomUsers.csv") == ["reauth_required", "stored"]
    assert "was lost" in workspace.results("ZoomUsers.csv")[0]["reason"]


def test_missing_scope_to_identify_users_stops_at_the_first_row(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    users = [exported_user(zoom, user.email) for user in USERS[:6]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    zoom.add_fault("users_me", "status", status=403, times=-1)
    output = workspace.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=1)
    assert "add the scope user:read:user to the app" in output.err
    assert zoom.counters()["token.refresh_token.issued"] == 1


def test_rejected_app_credentials_stop_at_the_first_row(workspace: Workspace, zoom: RunningSimulator) -> None:
    """No refresh token is used."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, user.email) for user in USERS[:3]]))
    wrong = Workspace(workspace.folder, workspace.environ | {"ZOOMGATE_CLIENT_SECRET": "wrong"})
    output = wrong.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=1)
    assert "client ID, secret or redirect URI" in output.err
    assert velo(workspace)["stored"] == 3


def test_interrupted_import_can_be_resumed(workspace: Workspace, zoom: RunningSimulator) -> None:
    """On SIGINT, the rows in progress complete, and the exit code is 1; the same command imports the remaining rows."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, user.email) for user in USERS]))
    process = subprocess.Popen(
        # responses are slow, so that most rows remain even if the signal arrives late
        [sys.executable, "-m", "zoomgate_server", "import", "velo-users", "ZoomUsers.csv", "--rate", "2"],
        cwd=workspace.folder,
        env=workspace.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    results = workspace.folder / "ZoomUsers.csv.results.jsonl"
    while not results.exists() or len(results.read_text().splitlines()) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert " remaining. " in out
    assert "Traceback" not in err
    assert "run the same command again" in err
    assert velo(workspace)["stored"] == len(USERS)
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


def test_results_of_a_different_file_are_not_overwritten(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """A changed export is treated as a different file."""
    users = [exported_user(zoom, user.email) for user in USERS[:2]]
    workspace.write("ZoomUsers.csv", as_csv(users[:1]))
    velo(workspace)
    workspace.write("ZoomUsers.csv", as_csv(users))
    output = workspace.run("import", "velo-users", "ZoomUsers.csv", code=2)
    assert "belongs to an import of a different file" in output.err
    workspace.write("mine.txt", "my notes\n")
    workspace.run("import", "velo-users", "ZoomUsers.csv", "--results", "mine.txt", code=2)
    assert (workspace.folder / "mine.txt").read_text() == "my notes\n"
    assert velo(workspace, "--results", "more")["stored"] == 2


@pytest.mark.parametrize(
    "content", ["my notes", '{"zoom": {"clientId": "c"}}', "x" * 200_000, "\0" * 200_000]
)
def test_file_that_is_not_a_results_file_is_not_overwritten(
    content: str, workspace: Workspace, zoom: RunningSimulator
) -> None:
    """The error message does not suggest deleting the file."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    workspace.write("mine.txt", content)
    output = workspace.run("import", "velo-users", "ZoomUsers.csv", "--results", "mine.txt", code=2)
    assert "mine.txt is not a results file; set a different file with --results" in output.err
    assert "delete" not in output.err
    assert (workspace.folder / "mine.txt").read_text() == content


def test_results_must_not_overwrite_the_export(workspace: Workspace, zoom: RunningSimulator) -> None:
    export = workspace.write("tokens.txt", json.dumps(exported_user(zoom, FIRST).line))
    before = export.read_text()
    output = workspace.run("import", "jsonl", "tokens.txt", "--results", "tokens.txt", code=2)
    assert "is the export itself; choose a different file" in output.err
    assert export.read_text() == before


@pytest.mark.parametrize("name", ["/dev/full", "/dev/zero", "pipe", "missing/results", "r" * 300])
def test_unusable_results_path_is_rejected(name: str, workspace: Workspace, zoom: RunningSimulator) -> None:
    """The import sends nothing to Zoom."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    os.mkfifo(workspace.folder / "pipe")
    output = workspace.run("import", "velo-users", "ZoomUsers.csv", "--results", name, code=2)
    assert "with --results" in output.err
    assert zoom.counters() == {}


def test_existing_empty_results_file_gets_mode_0600(workspace: Workspace, zoom: RunningSimulator) -> None:
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    workspace.write("ZoomUsers.csv.results.jsonl", "").chmod(0o644)
    velo(workspace)
    assert stat.S_IMODE((workspace.folder / "ZoomUsers.csv.results.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("locked", ["ZoomUsers.csv", "results"])
def test_concurrent_imports_are_rejected(locked: str, workspace: Workspace, zoom: RunningSimulator) -> None:
    """Two concurrent imports must have different exports and different results files."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    workspace.write("results", "")
    with (workspace.folder / locked).open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        output = workspace.run("import", "velo-users", "ZoomUsers.csv", "--results", "results", code=2)
    assert "another import" in output.err
    assert zoom.counters() == {}
    assert velo(workspace, "--results", "results")["stored"] == 1


def test_rate_must_be_a_number(workspace: Workspace, zoom: RunningSimulator) -> None:
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    assert (
        "nan is not a number"
        in workspace.run("import", "velo-users", "ZoomUsers.csv", "--rate", "nan", code=2).err
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can access the directories of other users")
def test_root_cannot_import_into_the_data_directory_of_a_different_user(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """The service, which runs as a different user, could not open files created by root."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    (workspace.folder / "data").mkdir(mode=0o700)
    os.chown(workspace.folder / "data", 65534, 65534)
    output = workspace.run("import", "velo-users", "ZoomUsers.csv", code=1)
    assert "belongs to user 65534" in output.err
    assert "run this command as that user" in output.err
    assert not list((workspace.folder / "data").iterdir())
    assert zoom.counters() == {}


def test_export_must_be_a_regular_file(workspace: Workspace) -> None:
    """A pipe or device is rejected immediately, because it cannot be read twice."""
    os.mkfifo(workspace.folder / "pipe")
    for name in ("pipe", "/dev/zero"):
        output = workspace.run("import", "jsonl", name, "--dry-run", code=2)
        assert "cannot be read twice; save it as a regular file" in output.err


@pytest.mark.parametrize("files", ["results", "audit", "journal"])
def test_full_disk_stops_the_import(files: str, workspace: Workspace, zoom: RunningSimulator) -> None:
    """Rows in progress are stored. With space available again, the import is completed, and no refresh token is used twice."""
    users = [exported_user(zoom, user.email) for user in USERS[:40]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    output = workspace.run(
        files, "4", "import", "velo-users", "ZoomUsers.csv", *FAST, code=1, module="service.importing.full"
    )
    assert "cannot be written" in output.err
    assert "run the same command again" in output.err
    assert velo(workspace)["stored"] == len(users)
    assert zoom.counters()["token.refresh_token.issued"] == len(users)
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


def test_failed_sync_of_the_results_is_no_usage_error(workspace: Workspace, zoom: RunningSimulator) -> None:
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    arguments = ("sync", "0", "import", "velo-users", "ZoomUsers.csv")
    output = workspace.run(*arguments, code=1, module="service.importing.full")
    assert "ZoomUsers.csv.results.jsonl cannot be written (Input/output error)" in output.err


async def test_import_retries_while_journal_and_store_are_unavailable(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """The issued tokens exist only in the memory of the import until the store is available again."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    zoom.add_fault("token", "delay", seconds=20.0)  # until the journal and the store are unavailable
    running = asyncio.create_task(asyncio.to_thread(velo, workspace, module=HURRIED))
    while not zoom.counters().get("faults.delay") and not running.done():
        await asyncio.sleep(0.02)
    (workspace.folder / "data/journal").rmdir()
    with contextlib.closing(
        sqlite3.connect(workspace.folder / "data/zoomgate.db", isolation_level=None)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        zoom.clear_faults()
        await asyncio.sleep(2 * SqliteTiming().busy_timeout)
        other.execute("ROLLBACK")
    assert (await running)["stored"] == 1
    assert zoom.counters()["token.refresh_token.issued"] == 1


async def test_row_is_incomplete_after_a_store_failure(workspace: Workspace, zoom: RunningSimulator) -> None:
    """The reason is the public message, not that of the database."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    zoom.add_fault("token", "delay", seconds=20.0)  # until the store is deleted
    running = asyncio.create_task(asyncio.to_thread(velo, workspace, code=1, module=HURRIED))
    while not zoom.counters().get("faults.delay") and not running.done():
        await asyncio.sleep(0.02)
    (workspace.folder / "data/zoomgate.db").unlink()
    zoom.clear_faults()
    assert (await running)["incomplete"] == 1
    (entry,) = workspace.results("ZoomUsers.csv")
    assert entry["reason"] == StoreUnavailable.message


def test_wrong_addresses_stop_the_import_after_three_rows(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """If every address is wrong, only three users have to consent again."""
    users = [exported_user(zoom, user.email) for user in USERS[:6]]
    workspace.write("ZoomUsers.csv", as_csv(replace(u, email=f"not-{u.email}") for u in users))
    output = workspace.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=1)
    assert "check that the file contains the email addresses of the users' Zoom accounts" in output.err
    assert workspace.statuses("ZoomUsers.csv") == ["rejected"] * 3
    assert zoom.counters()["token.refresh_token.issued"] == 3
    workspace.write("ZoomUsers.csv", as_csv(users))
    assert velo(workspace, "--results", "right", code=1)["stored"] == 3


def test_dry_run_has_no_side_effects(tmp_path: Path, workspace: Workspace, zoom: RunningSimulator) -> None:
    """A dry run needs no settings, does not call Zoom, and writes no files."""
    workspace.write(
        "ZoomUsers.csv", as_csv([exported_user(zoom, FIRST), exported_user(zoom, SECOND, expired=False)])
    )
    bare = Workspace(workspace.folder, {"PATH": workspace.environ["PATH"]})
    counts = bare.run("import", "velo-users", "ZoomUsers.csv", "--dry-run", "--json").counts
    assert counts == {
        "rows": 2,
        "usable": 2,
        "superseded": 0,
        "rejected": 0,
        "validAccessTokens": 1,
        "misreadTimes": 0,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["ZoomUsers.csv"]
    assert zoom.counters() == {}


def test_export_readable_by_others_causes_a_warning(workspace: Workspace, zoom: RunningSimulator) -> None:
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)])).chmod(0o644)
    assert "chmod 600" in workspace.run("import", "velo-users", "ZoomUsers.csv", "--dry-run").err


def test_results_contain_no_tokens(workspace: Workspace, zoom: RunningSimulator) -> None:
    """This includes tokens that are in the address column by mistake."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    velo(workspace, "--user-column", "refresh_token", code=1)
    assert not TOKEN.search((workspace.folder / "ZoomUsers.csv.results.jsonl").read_text())
