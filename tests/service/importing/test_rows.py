"""Tests for `zoomgate import` as a process, with a running service and the Zoom simulator."""

import asyncio
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from service.importing.conftest import TOKEN, USERS
from service.importing.exports import Workspace, as_csv, exported_user, iso
from support.harness import Harness, serving
from support.mongodb import MongoServer
from zoom_simulator.testing import RunningSimulator
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.encryption import key_file
from zoomgate_server.errors import StoreUnavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FIRST, SECOND, THIRD = (user.email for user in USERS[:3])
FAST = ("--rate", "1000")
HURRIED = "service.importing.hurried"


async def velo(
    workspace: Workspace, *options: str, code: int = 0, module: str = "zoomgate_server"
) -> dict[str, int]:
    """Import ZoomUsers.csv, and return the counts that the command prints."""
    output = await workspace.run(
        "import", "velo-users", "ZoomUsers.csv", "--json", *FAST, *options, code=code, module=module
    )
    counts: dict[str, int] = output.counts
    return counts


@pytest.fixture(params=["SQLite", "MongoDB"])
async def any_service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, zoom: RunningSimulator
) -> AsyncIterator[Harness]:
    """Run a service; the test runs once for each kind of store."""
    environ, directory = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}, tmp_path_factory.mktemp("service")
    if request.param == "MongoDB":
        server: MongoServer = request.getfixturevalue("mongodb")
        key_file.create(directory / "keys.json")
        environ["ZOOMGATE_STORE"] = server.new_database("directConnection=true")
        environ["ZOOMGATE_KEYS"] = str(directory / "keys.json")
    async with serving(zoom._simulator, directory, environ) as started:
        yield started


async def test_service_serves_imported_users(
    any_service: Harness, tmp_path: Path, zoom: RunningSimulator
) -> None:
    """Only expired access tokens are refreshed. The command writes nothing but the results, which only their owner can read."""
    workspace = Workspace.of(tmp_path, any_service)
    users = [exported_user(zoom, user.email, expired=number % 2 > 0) for number, user in enumerate(USERS[:6])]
    workspace.write("ZoomUsers.csv", as_csv(users))
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", *FAST)
    assert output.out == "6 rows: 6 stored. The result of each row is in ZoomUsers.csv.results.jsonl.\n"
    assert "delete ZoomUsers.csv, ZoomUsers.csv.results.jsonl, and the collection ZoomUsers" in output.err
    assert {path.name for path in tmp_path.iterdir()} == {"ZoomUsers.csv", "ZoomUsers.csv.results.jsonl"}
    assert stat.S_IMODE((tmp_path / "ZoomUsers.csv.results.jsonl").stat().st_mode) == 0o600
    assert zoom.counters()["token.refresh_token.issued"] == 3
    auth = any_service.auth
    for user in users:
        request = pb.GetConnectionRequest(user_email=user.email)
        connection = (await any_service.call(auth.GetConnection, request)).connection
        assert connection.state == Connection.STATE_ACTIVE
        assert "user:read:user" in connection.scopes
        await any_service.call(auth.GetToken, pb.GetTokenRequest(user_email=user.email))
        await any_service.call(auth.RefreshToken, pb.RefreshTokenRequest(user_email=user.email))
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


async def test_all_formats_are_imported(workspace: Workspace, zoom: RunningSimulator) -> None:
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
        assert (await workspace.run("import", *arguments, *FAST, "--json")).counts["stored"] == 2, arguments
    assert zoom.counters() == {"api.me": 8}


async def test_tokens_of_a_different_user_are_rejected(workspace: Workspace, zoom: RunningSimulator) -> None:
    """If the access token is valid, the row is rejected without a refresh. Otherwise, the newly issued tokens are revoked."""
    valid, old = exported_user(zoom, FIRST, expired=False), exported_user(zoom, SECOND)
    rows = [replace(valid, email="a@example.com"), replace(old, email="b@example.com")]
    workspace.write("ZoomUsers.csv", as_csv(rows))
    assert (await velo(workspace, code=1))["rejected"] == 2
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", code=1)
    assert "2 rows rejected; see ZoomUsers.csv.results.jsonl for the reasons" in output.err
    reasons = [entry["reason"] for entry in workspace.results("ZoomUsers.csv")]
    assert reasons[0].endswith("; they were not used")
    assert reasons[1].endswith("; they were exchanged and are being revoked, so the user must consent again")
    async with asyncio.timeout(60):  # the service revokes the tokens in its next pass
        while not zoom.counters().get("revoke.known"):
            await asyncio.sleep(0.1)
    workspace.write("ZoomUsers.csv", as_csv([valid]))
    assert (await velo(workspace, "--results", "again"))["stored"] == 1


async def test_slow_revocation_does_not_block_the_import(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """While Zoom has not confirmed the revocation, the result states that the tokens are being revoked."""
    workspace.write("ZoomUsers.csv", as_csv([replace(exported_user(zoom, FIRST), email=SECOND)]))
    zoom.add_fault("revoke", "delay", times=-1, seconds=60.0)
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", code=1, module=HURRIED)
    assert "1 rejected" in output.out
    assert "exception" not in output.err
    (entry,) = workspace.results("ZoomUsers.csv")
    assert "are being revoked" in entry["reason"]
    assert "revoke.known" not in zoom.counters()


async def test_rejected_refresh_tokens_require_consent(workspace: Workspace, zoom: RunningSimulator) -> None:
    """Cases: a revoked refresh token, and a refresh token of a different app. Other rows are not affected."""
    used = exported_user(zoom, FIRST)
    exported_user(zoom, FIRST)
    foreign = replace(used, email=SECOND, refresh="sim-rt-of-another-app", access="")
    workspace.write("ZoomUsers.csv", as_csv([used, foreign, exported_user(zoom, THIRD)]))
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=1)
    assert workspace.statuses("ZoomUsers.csv") == ["reauth_required", "reauth_required", "stored"]
    assert "2 users must consent; let each use a button on the site that calls authorizeUser\n" in output.err
    assert (
        "it was used after the export, revoked, or has expired"
        in workspace.results("ZoomUsers.csv")[0]["reason"]
    )


async def test_connected_and_disconnected_users_are_skipped(
    workspace: Workspace, service: Harness, zoom: RunningSimulator
) -> None:
    """With the option --replace, rows that are newer than the existing connection or its disconnection are imported."""
    before = [exported_user(zoom, user) for user in (FIRST, SECOND)]
    workspace.write("ZoomUsers.csv", as_csv(before))
    await velo(workspace)
    await service.call(service.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=SECOND), "admin")
    older = [replace(user, refresh="sim-rt-older") for user in before]
    workspace.write("ZoomUsers.csv", as_csv(older))
    assert (await velo(workspace, "--results", "older", "--replace"))["skipped"] == 2
    newer = [
        replace(exported_user(zoom, user, expired=False), updated=time.time() + 300)
        for user in (FIRST, SECOND)
    ]
    workspace.write("ZoomUsers.csv", as_csv(newer))
    assert (await velo(workspace, "--results", "newer"))["skipped"] == 2
    reasons = (workspace.folder / "newer").read_text()
    assert "is already connected; --replace imports rows that are newer than the connection" in reasons
    assert "was disconnected in Zoomgate; --replace imports rows that are newer" in reasons
    assert (await velo(workspace, "--results", "replaced", "--replace"))["stored"] == 2
    for user in (FIRST, SECOND):
        await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=user))


async def test_skipped_rows_are_imported_again_with_replace(
    workspace: Workspace, service: Harness, zoom: RunningSimulator
) -> None:
    """The results file of the first run is continued; older and stored rows are not affected, and counts are of the last results."""
    connected = [exported_user(zoom, user, expired=False) for user in (FIRST, SECOND)]
    workspace.write("ZoomUsers.csv", as_csv(connected))
    await velo(workspace)
    newer = replace(exported_user(zoom, FIRST, expired=False), updated=time.time() + 300)
    older = replace(connected[1], refresh="sim-rt-older")
    rows = [newer, older, exported_user(zoom, THIRD, expired=False)]
    workspace.write("ZoomUsers.csv", as_csv(rows))
    for arguments, stored in (([], 1), ([], 1), (["--replace"], 2), (["--replace"], 2), ([], 2)):
        counts = await velo(workspace, "--results", "results", *arguments)
        assert (counts["stored"], counts["skipped"], counts["left"]) == (stored, 3 - stored, 0)
    entries = [json.loads(line) for line in (workspace.folder / "results").read_text().splitlines()[1:]]
    assert [(entry["row"], entry["status"]) for entry in entries[3:]] == [
        (1, "stored"),
        (2, "skipped"),
        (2, "skipped"),
    ]
    for user in (FIRST, SECOND, THIRD):
        await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=user))


async def test_stored_tokens_that_zoom_has_since_rejected_require_consent(
    workspace: Workspace, service: Harness, zoom: RunningSimulator
) -> None:
    """The refresh token belongs to a different app. It is stored because the access token is valid, and rejected at the first refresh."""
    foreign = replace(exported_user(zoom, FIRST, expired=False), refresh="sim-rt-of-another-app")
    workspace.write("ZoomUsers.csv", as_csv([foreign]))
    assert (await velo(workspace))["stored"] == 1
    refusal = await service.error_of(service.auth.RefreshToken, pb.RefreshTokenRequest(user_email=FIRST))
    assert refusal.short[1] == "ZOOM_REAUTH_REQUIRED"
    assert (await velo(workspace, "--results", "again", code=1))["reauth_required"] == 1
    assert "Zoom rejected the refresh token" in (workspace.folder / "again").read_text()


async def test_only_the_newest_row_of_a_user_is_imported(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """Without dates, the last row is treated as the newest; tokens of other rows are never sent to Zoom."""
    old = replace(exported_user(zoom, FIRST), updated=time.time() - 9000)
    new = exported_user(zoom, FIRST)
    undated = [replace(exported_user(zoom, SECOND), updated=0.0) for _ in range(2)]
    workspace.write("ZoomUsers.csv", as_csv([new, old, *undated]))
    assert (await velo(workspace))["superseded"] == 2
    assert workspace.statuses("ZoomUsers.csv") == ["stored", "superseded", "superseded", "stored"]
    assert workspace.results("ZoomUsers.csv")[1]["reason"] == "row 1 of the same user is newer"
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


@pytest.mark.parametrize("kind", ["rate_limit_qps", "status", "cut_before"])
@pytest.mark.parametrize("endpoint", ["token", "users_me"])
async def test_temporary_zoom_failures_are_retried(
    endpoint: str, kind: str, workspace: Workspace, zoom: RunningSimulator
) -> None:
    users = [exported_user(zoom, user.email) for user in USERS[:4]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    zoom.add_fault(endpoint, kind, times=3)
    # after two seconds, the service stores tokens that Zoom has exchanged but not confirmed
    module = HURRIED if endpoint == "token" else "zoomgate_server"
    assert (await velo(workspace, module=module))["stored"] == 4


@pytest.mark.parametrize(
    ("endpoint", "kind"), [("token", "status"), ("users_me", "status"), ("users_me", "redirect")]
)
async def test_zoom_outage_stops_the_import(
    endpoint: str, kind: str, workspace: Workspace, zoom: RunningSimulator
) -> None:
    """The exit code is 5; running the same command again completes the import, and no refresh token is used twice."""
    users = [exported_user(zoom, user.email) for user in USERS[:6]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    zoom.add_fault(endpoint, kind, times=-1)
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=5, module=HURRIED)
    assert "3 incomplete" in output.out
    assert "3 remaining" in output.out
    assert "run the same command again" in output.err
    zoom.clear_faults()
    assert (await velo(workspace))["stored"] == 6
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


async def test_lost_token_response_is_reported(workspace: Workspace, zoom: RunningSimulator) -> None:
    """The user must consent, because the refresh token cannot be used again. Other users are not affected."""
    users = [exported_user(zoom, user.email) for user in USERS[:2]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    zoom.add_fault("token", "cut_after")
    await velo(workspace, code=1, module=HURRIED)
    assert workspace.statuses("ZoomUsers.csv") == ["reauth_required", "stored"]
    assert "was lost" in workspace.results("ZoomUsers.csv")[0]["reason"]


async def test_missing_scope_to_identify_users_stops_at_the_first_row(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    users = [exported_user(zoom, user.email) for user in USERS[:6]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    zoom.add_fault("users_me", "status", status=403, times=-1)
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=1)
    assert "add the scope user:read:user to the app" in output.err
    assert zoom.counters()["token.refresh_token.issued"] == 1


async def test_rejected_app_credentials_stop_at_the_first_row(
    workspace: Workspace, tmp_path: Path, zoom: RunningSimulator
) -> None:
    """No refresh token is used."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, user.email) for user in USERS[:3]]))
    async with serving(zoom._simulator, tmp_path / "data", {"ZOOMGATE_CLIENT_SECRET": "wrong"}) as wrong:
        output = await Workspace.of(tmp_path, wrong).run(
            "import", "velo-users", "ZoomUsers.csv", *FAST, code=1
        )
    assert "client ID or secret" in output.err
    assert (await velo(workspace))["stored"] == 3


async def test_unreachable_service_stops_at_the_first_row(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """The row gets no result, so the next run imports it."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, user.email) for user in USERS[:3]]))
    unreachable = Workspace(workspace.folder, workspace.environ | {"ZOOMGATE_SERVER": "127.0.0.1:1"})
    output = await unreachable.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=5)
    assert "the service at 127.0.0.1:1 cannot be reached; start it with `zoomgate run`" in output.err
    assert workspace.results("ZoomUsers.csv") == []
    assert (await velo(workspace))["stored"] == 3


async def test_import_continues_after_a_restart_of_the_service(
    tmp_path: Path, zoom: RunningSimulator
) -> None:
    """Rows in progress are retried until the service accepts calls again."""
    users = [exported_user(zoom, user.email) for user in USERS[:12]]
    async with serving(zoom._simulator, tmp_path / "data") as first:
        workspace = Workspace.of(tmp_path, first)
        workspace.write("ZoomUsers.csv", as_csv(users))
        process = await started(workspace, 2, "--rate", "5")
    async with serving(zoom._simulator, tmp_path / "data", {"ZOOMGATE_LISTEN": first.grpc_address}):
        out, err = (text.decode() for text in await process.communicate())
    assert process.returncode == 0, err
    assert out.startswith("12 rows: 12 stored. ")
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


async def test_stream_that_a_proxy_resets_is_retried(workspace: Workspace, zoom: RunningSimulator) -> None:
    """The reset is reported as INTERNAL without an error reason, so the status does not come from the service."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, user.email) for user in USERS[:3]]))
    stored, calls = pb.ImportConnectionResponse(outcome=pb.ImportConnectionResponse.OUTCOME_STORED), []

    async def respond(_request: bytes, context: Any) -> bytes:
        calls.append(1)
        if len(calls) == 2:
            await context.abort(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2")
        return stored.SerializeToString()

    proxy = grpc.aio.server()
    handlers = {"ImportConnection": grpc.unary_unary_rpc_method_handler(respond)}
    proxy.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("zoomgate.v1.AuthService", handlers),)
    )
    environ = {"ZOOMGATE_SERVER": f"127.0.0.1:{proxy.add_insecure_port('127.0.0.1:0')}"}
    await proxy.start()
    try:
        behind_proxy = Workspace(workspace.folder, workspace.environ | environ)
        assert (await velo(behind_proxy, module=HURRIED))["stored"] == 3
    finally:
        await proxy.stop(None)
    assert len(calls) == 4


async def test_caller_without_permission_is_rejected_at_the_first_row(
    workspace: Workspace, service: Harness, zoom: RunningSimulator
) -> None:
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, user.email) for user in USERS[:3]]))
    blind = Workspace.of(workspace.folder, service, "blind")
    output = await blind.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=4)
    assert "use the key of a caller that may make this call" in output.err
    assert workspace.results("ZoomUsers.csv") == []
    administrator = Workspace.of(workspace.folder, service, "admin")
    assert (await velo(administrator))["stored"] == 3


async def started(workspace: Workspace, rows: int, *options: str) -> asyncio.subprocess.Process:
    """Start an import of ZoomUsers.csv, and return the process after it has written the results of a number of rows."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "zoomgate_server", "import", "velo-users", "ZoomUsers.csv", *options),
        cwd=workspace.folder,
        env=workspace.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    results = workspace.folder / "ZoomUsers.csv.results.jsonl"
    while not results.exists() or len(results.read_text().splitlines()) <= rows:
        assert process.returncode is None
        await asyncio.sleep(0.01)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
async def test_interrupted_import_can_be_resumed(
    workspace: Workspace, zoom: RunningSimulator, number: signal.Signals, code: int
) -> None:
    """The rows in progress complete; the same command imports the remaining rows."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, user.email) for user in USERS]))
    process = await started(workspace, 3, "--rate", "2")  # slow, so that most rows remain
    process.send_signal(number)
    out, err = (text.decode() for text in await process.communicate())
    assert process.returncode == code, err
    assert " remaining. " in out
    assert "Traceback" not in err
    assert "run the same command again" in err
    assert (await velo(workspace))["stored"] == len(USERS)
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


@pytest.mark.parametrize("rows", [1, 5, 20, 50])
async def test_killed_import_can_be_resumed(rows: int, workspace: Workspace, zoom: RunningSimulator) -> None:
    """The service completes the rows in progress. The next run sends them again, and no refresh token is used twice."""
    users = [exported_user(zoom, user.email, expired=number % 3 > 0) for number, user in enumerate(USERS)]
    workspace.write("ZoomUsers.csv", as_csv(users))
    process = await started(workspace, rows, *FAST)
    process.kill()
    await process.communicate()
    assert (await velo(workspace))["stored"] == len(users)
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


@pytest.mark.parametrize("end", [0, 10, -1, -40, -100])
async def test_partially_written_results_can_be_resumed(
    end: int, workspace: Workspace, zoom: RunningSimulator
) -> None:
    """A killed process leaves a part of the results file. Rows without a result are sent again and get their first result."""
    users = [exported_user(zoom, user.email) for user in USERS[:3]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    await velo(workspace)
    results = workspace.folder / "ZoomUsers.csv.results.jsonl"
    results.write_bytes(results.read_bytes()[:end])
    assert (await velo(workspace))["stored"] == len(users)
    assert workspace.results("ZoomUsers.csv")[-1]["reason"] == "stored by an earlier run"
    assert workspace.statuses("ZoomUsers.csv") == ["stored"] * len(users)
    assert zoom.counters()["token.refresh_token.issued"] == len(users)


async def test_results_of_a_different_file_are_not_overwritten(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """A changed export is treated as a different file."""
    users = [exported_user(zoom, user.email) for user in USERS[:2]]
    workspace.write("ZoomUsers.csv", as_csv(users[:1]))
    await velo(workspace)
    workspace.write("ZoomUsers.csv", as_csv(users))
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", code=2)
    assert "belongs to an import of a different file" in output.err
    workspace.write("mine.txt", "my notes\n")
    await workspace.run("import", "velo-users", "ZoomUsers.csv", "--results", "mine.txt", code=2)
    assert (workspace.folder / "mine.txt").read_text() == "my notes\n"
    assert (await velo(workspace, "--results", "more"))["stored"] == 2


@pytest.mark.parametrize(
    "content", ["my notes", '{"zoom": {"clientId": "c"}}', "x" * 200_000, "\0" * 200_000]
)
async def test_file_that_is_not_a_results_file_is_not_overwritten(
    content: str, workspace: Workspace, zoom: RunningSimulator
) -> None:
    """The error message does not suggest deleting the file."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    workspace.write("mine.txt", content)
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", "--results", "mine.txt", code=2)
    assert "mine.txt is not a results file; set a different file with --results" in output.err
    assert "delete" not in output.err
    assert (workspace.folder / "mine.txt").read_text() == content


async def test_results_must_not_overwrite_the_export(workspace: Workspace, zoom: RunningSimulator) -> None:
    export = workspace.write("tokens.txt", json.dumps(exported_user(zoom, FIRST).line))
    before = export.read_text()
    output = await workspace.run("import", "jsonl", "tokens.txt", "--results", "tokens.txt", code=2)
    assert "is the export itself; choose a different file" in output.err
    assert export.read_text() == before


@pytest.mark.parametrize("name", ["/dev/full", "/dev/zero", "pipe", "missing/results", "r" * 300])
async def test_unusable_results_path_is_rejected(
    name: str, workspace: Workspace, zoom: RunningSimulator
) -> None:
    """The import sends nothing to Zoom."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    os.mkfifo(workspace.folder / "pipe")
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", "--results", name, code=2)
    assert "with --results" in output.err
    assert zoom.counters() == {}


async def test_existing_empty_results_file_gets_mode_0600(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    workspace.write("ZoomUsers.csv.results.jsonl", "").chmod(0o644)
    await velo(workspace)
    assert stat.S_IMODE((workspace.folder / "ZoomUsers.csv.results.jsonl").stat().st_mode) == 0o600


async def test_results_of_a_running_import_are_not_overwritten(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    workspace.write("results", "")
    with (workspace.folder / "results").open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        output = await workspace.run("import", "velo-users", "ZoomUsers.csv", "--results", "results", code=2)
    assert "another import is writing to results" in output.err
    assert zoom.counters() == {}
    assert (await velo(workspace, "--results", "results"))["stored"] == 1


async def test_concurrent_imports_of_an_export_use_no_refresh_token_twice(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """Each import has its own results file; both report every user as stored."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, user.email) for user in USERS]))
    counts = await asyncio.gather(*(velo(workspace, "--results", name) for name in ("first", "second")))
    assert [count["stored"] for count in counts] == [len(USERS)] * 2
    assert zoom.counters()["token.refresh_token.issued"] == len(USERS)
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


async def test_rate_must_be_a_number(workspace: Workspace, zoom: RunningSimulator) -> None:
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    assert (
        "nan is not a number"
        in (await workspace.run("import", "velo-users", "ZoomUsers.csv", "--rate", "nan", code=2)).err
    )


async def test_export_must_be_a_regular_file(workspace: Workspace) -> None:
    """A pipe or device is rejected immediately, because it cannot be read twice."""
    os.mkfifo(workspace.folder / "pipe")
    for name in ("pipe", "/dev/zero"):
        output = await workspace.run("import", "jsonl", name, "--dry-run", code=2)
        assert "cannot be read twice; save it as a regular file" in output.err


async def test_full_disk_stops_the_import(workspace: Workspace, zoom: RunningSimulator) -> None:
    """Rows in progress are stored. With space available again, the import is completed, and no refresh token is used twice."""
    users = [exported_user(zoom, user.email) for user in USERS[:40]]
    workspace.write("ZoomUsers.csv", as_csv(users))
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=1, max_file_blocks=1)
    assert "ZoomUsers.csv.results.jsonl cannot be written (File too large)" in output.err
    assert "run the same command again" in output.err
    assert (await velo(workspace))["stored"] == len(users)
    assert zoom.counters()["token.refresh_token.issued"] == len(users)
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


async def test_failed_sync_of_the_results_is_no_usage_error(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    module = "service.importing.failed_sync"
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", code=1, module=module)
    assert "ZoomUsers.csv.results.jsonl cannot be written (Input/output error)" in output.err


async def test_row_is_incomplete_after_a_store_failure(
    workspace: Workspace, service: Harness, zoom: RunningSimulator
) -> None:
    """The reason is the public message, not that of the database."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    service.store.fail("get", 5)
    assert (await velo(workspace, code=1, module=HURRIED))["incomplete"] == 1
    (entry,) = workspace.results("ZoomUsers.csv")
    assert entry["reason"] == StoreUnavailable.message
    assert (await velo(workspace))["stored"] == 1


async def test_wrong_addresses_stop_the_import_after_three_rows(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    """If every address is wrong, only three users have to consent again."""
    users = [exported_user(zoom, user.email) for user in USERS[:6]]
    workspace.write("ZoomUsers.csv", as_csv(replace(u, email=f"not-{u.email}") for u in users))
    output = await workspace.run("import", "velo-users", "ZoomUsers.csv", *FAST, code=1)
    assert "check that the file contains the email addresses of the users' Zoom accounts" in output.err
    assert workspace.statuses("ZoomUsers.csv") == ["rejected"] * 3
    assert zoom.counters()["token.refresh_token.issued"] == 3
    workspace.write("ZoomUsers.csv", as_csv(users))
    assert (await velo(workspace, "--results", "right", code=1))["stored"] == 3


async def test_users_connected_under_a_different_address_do_not_stop_the_import(
    workspace: Workspace, service: Harness, zoom: RunningSimulator
) -> None:
    """Their rows are rejected and their tokens are not used, even if they are the first rows."""
    for user in (FIRST, SECOND):
        await service.connect(f"office.{user}", zoom_email=user)
    connected = [exported_user(zoom, user, expired=False) for user in (FIRST, SECOND)]
    workspace.write("ZoomUsers.csv", as_csv([*connected, exported_user(zoom, THIRD)]))
    await velo(workspace, code=1)
    assert workspace.statuses("ZoomUsers.csv") == ["rejected", "rejected", "stored"]
    assert "connected under a different email address" in workspace.results("ZoomUsers.csv")[0]["reason"]


async def test_dry_run_has_no_side_effects(
    tmp_path: Path, workspace: Workspace, zoom: RunningSimulator
) -> None:
    """A dry run needs no settings and no service, does not call Zoom, and writes no files."""
    workspace.write(
        "ZoomUsers.csv", as_csv([exported_user(zoom, FIRST), exported_user(zoom, SECOND, expired=False)])
    )
    bare = Workspace(workspace.folder, {"PATH": workspace.environ["PATH"]})
    counts = (await bare.run("import", "velo-users", "ZoomUsers.csv", "--dry-run", "--json")).counts
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


async def test_export_readable_by_others_causes_a_warning(
    workspace: Workspace, zoom: RunningSimulator
) -> None:
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)])).chmod(0o644)
    assert "chmod 600" in (await workspace.run("import", "velo-users", "ZoomUsers.csv", "--dry-run")).err


async def test_row_without_an_address_is_listed_with_its_line_and_reason(workspace: Workspace) -> None:
    """The message does not claim that the user is unknown."""
    workspace.write("tokens.jsonl", '{"user_email": "", "refresh_token": "r"}\n')
    errors = (await workspace.run("import", "jsonl", "tokens.jsonl", "--dry-run", code=1)).err
    assert re.search(r"^row 1, line 1: the email address is required", errors, re.MULTILINE)


async def test_results_contain_no_tokens(workspace: Workspace, zoom: RunningSimulator) -> None:
    """This includes tokens that are in the address column by mistake."""
    workspace.write("ZoomUsers.csv", as_csv([exported_user(zoom, FIRST)]))
    await velo(workspace, "--user-column", "refresh_token", code=1)
    assert not TOKEN.search((workspace.folder / "ZoomUsers.csv.results.jsonl").read_text())
