"""Tests for commands that call a running service."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from support import terminal
from support.certificates import write_pair
from support.command_line import command
from support.harness import BASIL, MONICA, OMAR, Harness, browser, caller_key, consent, consent_form, running
from support.raw_upstream import Endless, http_response, raw_upstream, serving_upstream
from zoom_simulator import Fault, SimulatorOptions
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server
from zoomgate_server.cli.scopes import rpc_operations

COMMAND = [sys.executable, "-m", "zoomgate_server"]
ESC = "\x1b"


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with running(tmp_path / "data") as started:
        await started.connect()
        yield started


def connection_settings(harness: Harness, caller: str = "service") -> dict[str, str]:
    return {"ZOOMGATE_SERVER": harness.grpc_address, "ZOOMGATE_KEY": caller_key(caller)}


def process_environ(harness: Harness, **more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ZOOMGATE_")}
    return inherited | connection_settings(harness) | more


async def zoomgate(
    harness: Harness, *arguments: str, stdin: bytes = b"", caller: str = "service", code: int = 0
) -> tuple[bytes, str]:
    """Run a command and check the exit code; return standard output and standard error."""
    result = await command(*arguments, environ=connection_settings(harness, caller), stdin=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.stdout_bytes, result.stderr


async def on_terminal(harness: Harness, *arguments: str, encoding: str = "utf-8", **more: str) -> str:
    """Run a command in a process with a terminal as standard output, and return the output."""
    controller, terminal_side = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=terminal_side,
        stderr=subprocess.PIPE,
        env=process_environ(harness, **more),
    )
    os.close(terminal_side)
    text, _ = await asyncio.gather(asyncio.to_thread(terminal.read_output, controller), process.communicate())
    os.close(controller)
    return text.decode(encoding)


async def test_user_is_connected_from_the_terminal(harness: Harness) -> None:
    """The link is printed first, and the connection after the consent."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        "connect",
        BASIL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process_environ(harness),
    )
    assert process.stdout is not None
    link = (await process.stdout.readline()).decode().strip()
    async with browser() as session:
        await consent(session, link, BASIL)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert BASIL in output.decode()
    assert "meeting:write:meeting" in output.decode()
    assert b"waiting for the consent" in errors


async def test_connect_ends_when_the_user_declines(harness: Harness) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "connect", BASIL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process_environ(harness),
    )
    assert process.stdout is not None
    link = (await process.stdout.readline()).decode().strip()
    async with browser() as session:
        await consent(session, link, BASIL, "decline")
    _, errors = await process.communicate()
    assert process.returncode == 6
    assert "AUTHORIZATION_DECLINED: The user declined the consent in Zoom (access_denied" in errors.decode()


async def test_consent_of_a_different_zoom_user_names_the_remedies(harness: Harness) -> None:
    """Running the same command again would not help."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "connect", BASIL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process_environ(harness),
    )
    assert process.stdout is not None
    link = (await process.stdout.readline()).decode().strip()
    async with browser() as session:
        await consent(session, link, OMAR)
    _, errors = await process.communicate()
    assert process.returncode == 6
    assert "IDENTITY_MISMATCH" in errors.decode()
    assert "sign in to Zoom with the requested address, or add `--zoom-email ADDRESS`" in errors.decode()


@pytest.mark.parametrize("json_option", [(), ("--json",)])
async def test_user_with_a_different_zoom_address_is_connected_from_the_terminal(
    harness: Harness, json_option: tuple[str, ...]
) -> None:
    """With --json, the first document contains the link."""
    office = "basil@office.example"
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("connect", office, "--zoom-email", BASIL.upper(), *json_option),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process_environ(harness),
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode().strip()
    link = json.loads(line)["authorizationUrl"] if json_option else line
    async with browser() as session:
        await consent(session, link, BASIL)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert f"waiting for the consent of {BASIL}" in errors.decode()
    if json_option:
        connection = json.loads(output)
        assert (connection["userEmail"], connection["zoomEmail"]) == (office, BASIL)
    else:
        assert re.search(rf"^Zoom email +{BASIL}$", output.decode(), re.MULTILINE)


async def test_invalid_zoom_address_is_a_usage_error(harness: Harness) -> None:
    _, errors = await zoomgate(harness, "connect", BASIL, "--zoom-email", "nobody", code=2)
    assert "--zoom-email" in errors


@pytest.mark.parametrize(
    ("decision", "code", "text"),
    [("allow", 0, BASIL), ("deny", 6, "access_denied")],
)
async def test_connect_completes_with_the_pasted_url(
    tmp_path: Path, decision: str, code: int, text: str
) -> None:
    """Zoom redirects to a page of the application, from which the user copies the URL."""
    environ = {"ZOOMGATE_REDIRECT_URI": "http://127.0.0.1:9/zoom-done"}
    async with running(tmp_path, environ=environ) as harness:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *("connect", BASIL, "--paste"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=process_environ(harness),
        )
        assert process.stdout is not None
        link = (await process.stdout.readline()).decode().strip()
        async with browser() as session:
            action, fields = await consent_form(session, link)
            form = fields | {"user": BASIL, "decision": decision}
            async with session.post(action, data=form, allow_redirects=False) as response:
                callback_url = response.headers["Location"]
        output, errors = await process.communicate(f"{callback_url}\n".encode())
    assert process.returncode == code, errors
    assert text in (errors if code else output).decode()
    assert "run `zoomgate connect" not in errors.decode(), "the message states the remedy"


async def test_connect_with_the_key_of_an_administrator_names_the_key(harness: Harness) -> None:
    _, errors = await zoomgate(harness, "connect", BASIL, code=4, caller="admin")
    assert "use the key of a caller that may make this call" in errors
    assert "administrators cannot connect users" in errors


async def test_connect_without_the_pasted_url_names_what_is_missing(harness: Harness) -> None:
    _, errors = await zoomgate(harness, "connect", BASIL, "--paste", code=1)
    assert "standard input is empty" in errors
    assert "URL to which Zoom redirected the browser" in errors.splitlines()[-1]


async def test_link_is_printed_without_waiting(harness: Harness) -> None:
    """With --wait 0, only the link is printed, or the response as JSON."""
    output, errors = await zoomgate(harness, "connect", BASIL, "--wait", "0")
    assert output.startswith(b"http://127.0.0.1:")
    assert not errors
    output, _ = await zoomgate(harness, "connect", BASIL, "--wait", "0", "--json")
    assert json.loads(output)["authorizationUrl"].startswith("http://127.0.0.1:")
    output, errors = await zoomgate(harness, "connect", BASIL, "--wait", "1", "--json", code=1)
    assert json.loads(output)["authorizationUrl"].startswith("http://127.0.0.1:")
    assert "did not consent within 1 second," in errors


class Silent(AuthServiceServicer):
    """A service that fails with the error that gRPC reports when no response arrives in time."""

    async def GetConnection(self, request: pb.GetConnectionRequest, context: Any) -> pb.GetConnectionResponse:
        """Fail with DEADLINE_EXCEEDED."""
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


class Lost(AuthServiceServicer):
    """A service that fails with the error that gRPC reports when the connection is lost during a call."""

    async def DeleteConnection(
        self, request: pb.DeleteConnectionRequest, context: Any
    ) -> pb.DeleteConnectionResponse:
        """Fail with UNAVAILABLE."""
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


async def test_missing_response_has_its_own_message(harness: Harness) -> None:
    """The exit code is the same as for an unreachable service."""
    async with serve(Silent()) as address:
        _, errors = await zoomgate(harness, "connections", "show", MONICA, "--server", address, code=5)
    assert f"the service at {address} did not respond in time" in errors


async def test_lost_response_to_a_change_has_its_own_exit_code(harness: Harness) -> None:
    """The message asks the user to check the outcome. If nothing was sent, it asks to start the service instead."""
    delete = ("connections", "delete", MONICA, "--yes")
    async with serve(Lost()) as address:
        _, errors = await zoomgate(harness, *delete, "--server", address, code=7)
    assert "may have made the change; check this before you run the command again" in errors
    _, errors = await zoomgate(harness, *delete, "--server", "127.0.0.1:1", code=5)
    assert "cannot be reached" in errors


async def test_change_that_the_service_does_not_implement_is_not_an_unknown_outcome(harness: Harness) -> None:
    async with serve(Silent()) as address:
        _, errors = await zoomgate(
            harness, "connections", "delete", MONICA, "--yes", "--server", address, code=1
        )
    assert "UNIMPLEMENTED" in errors
    assert "may have made the change" not in errors


async def test_status_of_an_intermediary_is_not_reported_as_a_missing_response(harness: Harness) -> None:
    async with serve(Lost()) as address:
        _, errors = await zoomgate(
            harness, "connections", "delete", MONICA, "--yes", "--server", address, code=7
        )
    assert "did not respond" not in errors


async def test_error_contains_the_reason_and_the_id_of_the_request(harness: Harness) -> None:
    _, errors = await zoomgate(harness, "connections", "show", BASIL, code=3)
    assert re.match(
        r"zoomgate: NOT_FOUND / ZOOM_NOT_CONNECTED: This user has no connection; list connec.+ \(request [0-9a-f-]+\)$",
        errors,
    )


async def test_error_with_json_is_one_document_on_standard_error(harness: Harness) -> None:
    output, errors = await zoomgate(harness, "meetings", "get", MONICA, "99999999999", "--json", code=3)
    assert not output
    error = json.loads(errors)
    assert (error["code"], error["reason"]) == ("NOT_FOUND", "MEETING_NOT_FOUND")
    assert error["metadata"]["zoom_code"] == "3001"
    assert {"message", "requestId"} < error.keys()


async def test_error_of_the_connection_with_json_contains_the_advice(harness: Harness) -> None:
    _, errors = await zoomgate(harness, "connections", "list", "--server", "127.0.0.1:1", "--json", code=5)
    error = json.loads(errors)
    assert error["code"] == "UNAVAILABLE"
    assert "start it with `zoomgate run`" in error["message"]


async def test_lost_response_of_zoom_has_the_same_exit_code(harness: Harness) -> None:
    harness.simulator.faults.add(Fault("meetings", "cut_after"))
    _, errors = await zoomgate(harness, "meetings", "create", MONICA, "--topic", "Talk", code=7)
    assert "may have taken effect" in errors


async def test_schedule_of_a_series_is_changed_without_repeating_its_recurrence(harness: Harness) -> None:
    created, _ = await zoomgate(
        harness,
        *("meetings", "create", MONICA, "--start", "2030-01-07 09:00", "--timezone", "Europe/Berlin"),
        *("--daily", "--times", "3", "--json"),
    )
    number = json.loads(created)["id"]
    await zoomgate(
        harness, "meetings", "update", MONICA, number, "--start", "2030-01-07 11:00", "--duration", "77"
    )
    await zoomgate(harness, "meetings", "update", MONICA, number, "--every", "2")
    changed, _ = await zoomgate(harness, "meetings", "get", MONICA, number, "--json")
    occurrences = json.loads(changed)["occurrences"]
    assert [(row["startTime"], row["durationMinutes"]) for row in occurrences] == [
        ("2030-01-07T10:00:00Z", 77),
        ("2030-01-09T10:00:00Z", 77),
        ("2030-01-11T10:00:00Z", 77),
    ]


async def test_missing_consent_has_the_remedy_of_the_command_line_only(harness: Harness) -> None:
    _, errors = await zoomgate(harness, "meetings", "list", BASIL, code=6)
    assert "BeginAuthorization" not in errors
    assert re.search(rf"not connected to Zoom; .*`zoomgate connect {BASIL}` \(request [0-9a-f-]+\)$", errors)


async def test_registration_for_a_meeting_without_one_names_the_option_that_enables_it(
    harness: Harness,
) -> None:
    created, _ = await zoomgate(harness, "meetings", "create", MONICA, "--json")
    person = ("--email", OMAR, "--first-name", "Omar")
    _, errors = await zoomgate(
        harness, "registrants", "add", MONICA, json.loads(created)["id"], *person, code=2
    )
    assert f"`zoomgate meetings update {MONICA} ID --registration automatic`" in errors


async def test_registrations_are_found_by_address(harness: Harness) -> None:
    created, _ = await zoomgate(harness, "meetings", "create", MONICA, "--registration", "manual", "--json")
    number = json.loads(created)["id"]
    person = ("--email", OMAR, "--first-name", "Omar")
    added, _ = await zoomgate(harness, "registrants", "add", MONICA, number, *person)
    assert re.search("^status +pending$", added.decode(), re.MULTILINE)
    shown, _ = await zoomgate(harness, "registrants", "get", MONICA, number, OMAR.upper())
    assert re.search(r"^registered +\d{4}-\d\d-\d\d \d\d:\d\d \S+ \(", shown.decode(), re.MULTILINE)
    _, errors = await zoomgate(harness, "registrants", "deny", MONICA, number, BASIL, code=3)
    assert f"list the registrations with `zoomgate registrants list {MONICA} ID" in errors
    await zoomgate(harness, "registrants", "delete", MONICA, number, OMAR, "--yes")
    for verb in ("get", "delete"):
        _, errors = await zoomgate(
            harness, "registrants", verb, MONICA, number, OMAR, *(["--yes"] * (verb == "delete")), code=3
        )
        assert f"{OMAR} is not registered; list the registrations" in errors


@pytest.mark.parametrize(
    ("start", "is_replaced"),
    [
        (("--start", "2020-01-07T09:00Z"), True),
        (("--start", "2020-01-07 09:00", "--timezone", "Europe/Berlin"), True),
        (("--start", "2030-01-07 09:00", "--timezone", "Europe/Berlin"), False),
        ((), False),
    ],
)
async def test_replaced_start_of_a_new_meeting_is_reported(
    harness: Harness, start: tuple[str, ...], is_replaced: bool
) -> None:
    """Zoom accepts a start in the past, but the meeting starts now."""
    _, errors = await zoomgate(harness, "meetings", "create", MONICA, *start)
    assert ("Zoom replaced it with the current time" in errors) is is_replaced


@pytest.mark.parametrize(("start", "is_ignored"), [("2020-01-07 09:00", True), ("2030-01-07 09:00", False)])
async def test_ignored_start_of_a_changed_meeting_is_reported(
    harness: Harness, start: str, is_ignored: bool
) -> None:
    options = ("--start", "2030-01-07T09:00Z", "--timezone", "Europe/Berlin")
    created, _ = await zoomgate(harness, "meetings", "create", MONICA, *options, "--json")
    number = json.loads(created)["id"]
    _, errors = await zoomgate(harness, "meetings", "update", MONICA, number, "--start", start)
    assert ("the start is in the past; Zoom ignored it" in errors) is is_ignored


async def test_settings_of_a_meeting_are_shown(harness: Harness) -> None:
    options = (
        "--no-waiting-room",
        "--recording",
        "cloud",
        "--registration",
        "manual",
        "--alternative-host",
        OMAR,
    )
    text, _ = await zoomgate(harness, "meetings", "create", MONICA, *options)
    shown = dict(re.findall(r"^(\S+(?: \S+)*)  +(.+)$", text.decode(), re.MULTILINE))
    assert shown["alternative hosts"] == OMAR
    assert (shown["waiting room"], shown["recording"], shown["registration"]) == ("off", "cloud", "manual")


@contextlib.asynccontextmanager
async def serve(servicer: AuthServiceServicer) -> AsyncIterator[str]:
    """Run a server with a servicer in place of Zoomgate; yield the address of the server."""
    server = grpc.aio.server()
    add_AuthServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class MaliciousService(AuthServiceServicer):
    """A service that returns a link with terminal control sequences."""

    async def GetConnection(self, request: pb.GetConnectionRequest, context: Any) -> pb.GetConnectionResponse:
        """Return an empty connection."""
        return pb.GetConnectionResponse()

    async def BeginAuthorization(
        self, request: pb.BeginAuthorizationRequest, context: Any
    ) -> pb.BeginAuthorizationResponse:
        """Return a link that would change the title of the terminal."""
        return pb.BeginAuthorizationResponse(authorization_url=f"https://a.example/{ESC}]0;title\x07")


async def test_link_with_control_sequences_is_not_printed(harness: Harness) -> None:
    """A valid URL contains only visible ASCII characters."""
    async with serve(MaliciousService()) as address:
        output, errors = await zoomgate(harness, "connect", BASIL, "--wait", "0", "--server", address, code=1)
    assert not output
    assert "not a valid web URL" in errors


async def test_meetings_are_created_shown_and_deleted(harness: Harness) -> None:
    """Options override the details from standard input; the output is text or JSON."""
    details = b'{"topic": "From the file", "durationMinutes": 30, "settings": {"waitingRoom": true}}'
    output, _ = await zoomgate(
        harness,
        *("meetings", "create", MONICA, "--details", "-", "--topic", "Review"),
        *("--start", "2030-01-07T09:00:00", "--timezone", "Europe/Berlin", "--json"),
        stdin=details,
    )
    meeting = json.loads(output)
    assert (meeting["topic"], meeting["durationMinutes"]) == ("Review", 30)
    assert meeting["startTime"] == "2030-01-07T08:00:00Z"
    assert meeting["settings"]["waitingRoom"] is True
    text, _ = await zoomgate(harness, "meetings", "get", MONICA, meeting["id"])
    assert "topic" in text.decode()
    assert meeting["joinUrl"] in text.decode()
    _, errors = await zoomgate(harness, "meetings", "delete", MONICA, meeting["id"], "--yes")
    assert "deleted meeting" in errors
    _, errors = await zoomgate(harness, "meetings", "get", MONICA, meeting["id"], code=3)
    assert "NOT_FOUND" in errors


async def test_scopes_are_unknown_after_an_import_without_them_and_empty_after_the_end(
    tmp_path: Path,
) -> None:
    """They are never shown as 0. The time of the import is not called a consent."""
    async with running(tmp_path / "data") as harness:
        tokens = harness.simulator.connect(BASIL)
        request = pb.ImportConnectionRequest(
            user_email=BASIL,
            access_token=tokens.access_token,
            refresh_token=tokens.refresh_token,
            expires_in=3600,
            update_time={"seconds": int(time.time())},
        )
        await harness.call(harness.auth.ImportConnection, request)
        listed, _ = await zoomgate(harness, "connections", "list")
        assert listed.decode().splitlines()[1].endswith(" unknown")
        scopes, _ = await zoomgate(harness, "scopes", BASIL, "--for", "GetMeeting", code=1)
        assert re.search(r"^granted +unknown\n.*\nGetMeeting +unknown ", scopes.decode(), re.MULTILINE)
        shown, _ = await zoomgate(harness, "connections", "show", BASIL)
        assert re.search(
            r"^scopes +unknown\nconnected .+\nconsented or imported ", shown.decode(), re.MULTILINE
        )
        await zoomgate(harness, "connections", "delete", BASIL, "--yes")
        listed, _ = await zoomgate(harness, "connections", "list", "--state", "disconnected")
        titles, ended = listed.decode().splitlines()
        assert len(ended) <= titles.index("SCOPES")
        shown, _ = await zoomgate(harness, "connections", "show", BASIL)
        assert b"scopes" not in shown
        for arguments in ((), ("--for", "GetMeeting"), ("GET", "/users/me")):
            output, errors = await zoomgate(harness, "scopes", BASIL, *arguments, code=6)
            assert not output
            assert f"{BASIL} is disconnected; connect the user with `zoomgate connect {BASIL}`" in errors


async def test_scopes_fit_into_80_columns(harness: Harness) -> None:
    for arguments in ((), ("--for", "ListPastParticipants")):
        text, _ = await zoomgate(harness, "scopes", MONICA, *arguments)
        assert max(map(len, text.decode().splitlines())) <= 80


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service that requires a scope which the user has not granted."""
    options = SimulatorOptions(port=0, scopes=("user:read:user", "meeting:read"))
    environ = {"ZOOMGATE_REQUIRED_SCOPES": "meeting:read:meeting meeting:write:meeting"}
    async with running(tmp_path / "data", simulator=options, environ=environ) as started:
        await started.connect()
        yield started


async def test_scopes_of_a_connection_fit_into_80_columns(harness: Harness) -> None:
    text, _ = await zoomgate(harness, "connections", "show", MONICA)
    lines = text.decode().splitlines()
    assert max(map(len, lines)) < 80
    assert sum(line.startswith(" ") for line in lines) > 1


async def test_missing_scopes_of_connections_are_shown(reader: Harness) -> None:
    listed, _ = await zoomgate(reader, "connections", "list")
    assert listed.decode().splitlines()[1].endswith("  2 (1 missing)")
    shown, _ = await zoomgate(reader, "connections", "show", MONICA)
    assert re.search(r"^missing scopes +meeting:write:meeting$", shown.decode(), re.MULTILINE)


async def test_scopes_command_shows_which_rpcs_a_user_has_granted(reader: Harness) -> None:
    text, _ = await zoomgate(reader, "scopes", MONICA)
    granted, missing, titles, *rows = text.decode().splitlines()
    assert granted.split() == ["granted", "user:read:user", "meeting:read"]
    assert missing.split() == ["missing", "meeting:write:meeting"]
    assert titles.split()[:2] == ["CALL", "COVERED"]
    covered = {row.split()[0]: row.split()[1] for row in rows}
    assert (covered["GetMeeting"], covered["CreateMeeting"]) == ("yes", "no")
    assert len(covered) == len(rpc_operations())
    (row,) = [row for row in rows if row.startswith("GetMeeting ")]
    assert row.endswith(" meeting:read:meeting")
    all_scopes, _ = await zoomgate(reader, "scopes", MONICA, "--for", "MeetingsService.GetMeeting")
    assert [line.split()[-1] for line in all_scopes.decode().splitlines()[3:]] == [
        "meeting:read:meeting",
        "meeting:read:meeting:admin",
        "meeting:read",
        "meeting:read:admin",
    ]


@pytest.mark.parametrize(
    ("arguments", "call", "covered"),
    [
        (("--for", "getmeeting"), "GetMeeting", True),
        (("--for", "CreateMeeting"), "CreateMeeting", False),
        (("get", "/meetings/81234567890/recordings"), "GET /meetings/{meetingId}/recordings", False),
        (("GET", "/v2/users/me?x=y"), "GET /users/{userId}", True),
        (("GET", "https://api.zoom.us/v2/users/{userId}"), "GET /users/{userId}", True),
    ],
)
async def test_scopes_command_checks_a_call(
    reader: Harness, arguments: tuple[str, ...], call: str, covered: bool
) -> None:
    """The exit code is 1 if the user has not granted a scope of the call."""
    code = 0 if covered else 1
    text, _ = await zoomgate(reader, "scopes", MONICA, *arguments, code=code)
    assert re.search(rf"^{re.escape(call)} +{'yes' if covered else 'no'} ", text.decode(), re.MULTILINE)
    document, _ = await zoomgate(reader, "scopes", MONICA, *arguments, "--json", code=code)
    parsed = json.loads(document)
    assert (parsed["user"], parsed["missing"]) == (MONICA, ["meeting:write:meeting"])
    (row,) = parsed["calls"]
    assert (row["call"], row["covered"]) == (call, covered)
    assert row["granular"]
    assert row["rateLabel"] == "LIGHT"


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("GET", "/phone/numbers"), 3, "GET /phone/numbers is not in Zoom's meetings and users APIs"),
        (("GET",), 2, "specify either --for, or METHOD and PATH"),
        (("GET", "/users/me", "--for", "GetMeeting"), 2, "specify either --for, or METHOD and PATH"),
        (("--for", "GetToken"), 2, "'GetToken' is not one of CreateMeeting, "),
        (("--for", "AuthService.GetMeeting"), 2, "is not one of CreateMeeting, "),
        (("FETCH", "/users/me"), 2, "'FETCH' is not one of"),
    ],
)
async def test_scopes_command_rejects_calls_without_known_scopes(
    harness: Harness, arguments: tuple[str, ...], code: int, problem: str
) -> None:
    output, errors = await zoomgate(harness, "scopes", MONICA, *arguments, code=code)
    assert not output
    assert problem in errors


async def test_direction_of_a_topic_does_not_affect_the_terminal(harness: Harness) -> None:
    """Characters that set the direction of text are sent to Zoom unchanged, and escaped in the output."""
    topic = "\u2068Monica\u2069 \u202egnp.exe"
    created, _ = await zoomgate(harness, "meetings", "create", MONICA, "--topic", topic, "--json")
    number = json.loads(created)["id"]
    assert harness.simulator.zoom.meetings[int(number)].body["topic"] == topic
    shown, _ = await zoomgate(harness, "meetings", "get", MONICA, number)
    assert rb"\u2068Monica\u2069 \u202egnp.exe" in shown
    assert not set("\u2068\u2069\u202e") & set((created + shown).decode())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--details", "-"), "--details: "),
        *(
            (("--start", start), "use a date and time such as 2030-01-07T09:00:00Z")
            for start in (
                "tomorrow",
                "2030-02-30T09:00:00Z",
                "0001-01-01T00:00:00+14:00",
                "2030-01-07",
                "20300107",
                "2030-W02-1",
                "",
            )
        ),
        (("--topic", "\udcff"), "is not valid UTF-8"),
        (("--duration", "99999999999"), "'--duration': 99999999999 is not in the range"),
        (("--duration", "-1"), "'--duration': -1 is not in the range 1<=x<=1440"),
        (("--timezone", "Mars/Olympus"), "meeting_details.timezone"),
    ],
)
async def test_invalid_meetings_are_rejected(harness: Harness, arguments: tuple[str, ...], text: str) -> None:
    """The exit code is 2, and the message contains the option or the field."""
    _, errors = await zoomgate(harness, "meetings", "create", MONICA, *arguments, stdin=b"{", code=2)
    assert text in errors


@pytest.mark.parametrize(
    ("details", "problem"),
    [
        (
            "{",
            (
                "The message is not valid JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1));"
                " send a JSON object"
            ),
        ),
        ("null", "The message is not a JSON object; send one"),
        (
            '{"colour": 1}',
            (
                "colour: is not a field of MeetingDetails; its fields are topic, agenda, type, start_time, local_start_time, timezone,"
                " duration_minutes, password, default_password, pre_schedule, schedule_for, recurrence, settings, tracking_fields,"
                " template_id, additional_fields"
            ),
        ),
        (
            '{"recurrence": {"every": 1}}',
            (
                "recurrence.every: is not a field of Recurrence; its fields are type, repeat_interval, weekly_days, monthly_day,"
                " monthly_week, monthly_week_day, end_times, end_time, additional_fields"
            ),
        ),
        (
            '{"password": 123456}',
            "password: has an invalid value; send a string",
        ),
        (
            '{"startTime": "tomorrow"}',
            "start_time: has an invalid value; send a time such as 2030-01-07T09:00:00Z",
        ),
        ('{"startTime": {}}', "start_time: has an invalid value; send a time such as 2030-01-07T09:00:00Z"),
        (
            '{"settings": {"waiting_room": "yes"}}',
            "settings.waiting_room: has an invalid value; send true or false",
        ),
        ('{"settings": 3}', "settings: has an invalid value; send an object"),
        (
            '{"trackingFields": {}}',
            "tracking_fields: has an invalid value; send an array, each entry an object",
        ),
        (
            '{"trackingFields": [{"name": "x"}]}',
            "tracking_fields[0].name: is not a field of TrackingField; its fields are field, value, visible, additional_fields",
        ),
        (
            '{"recurrence": {"type": "HOURLY"}}',
            "recurrence.type: has an invalid value; send one of TYPE_DAILY, TYPE_WEEKLY, TYPE_MONTHLY",
        ),
        (
            '{"startTime": "2030-01-07T09:00:00Z", "localStartTime": "2030-01-07T09:00:00"}',
            "local_start_time: excludes start_time; send only one of them",
        ),
    ],
)
async def test_invalid_details_are_explained_in_one_line(
    harness: Harness, details: str, problem: str
) -> None:
    """The line contains the field and the valid names of an enum, but no value."""
    arguments = ("meetings", "create", MONICA, "--details", "-")
    _, errors = await zoomgate(harness, *arguments, stdin=details.encode(), code=2)
    assert errors == f"zoomgate: --details: {problem}\n"


async def test_requests_are_forwarded(harness: Harness, tmp_path: Path) -> None:
    """Zoom receives the query, headers and data (from text, a file or standard input); the response is printed unchanged."""
    output, _ = await zoomgate(harness, "proxy", "get", MONICA, "/users/me", "-H", "accept: application/json")
    assert json.loads(output)["email"] == MONICA
    (tmp_path / "body.json").write_text('{"topic": "From a file"}')
    created, _ = await zoomgate(
        harness, "proxy", "post", MONICA, "/users/me/meetings", "-d", f"@{tmp_path / 'body.json'}"
    )
    meeting = json.loads(created)
    path = f"/meetings/{meeting['id']}"
    await zoomgate(harness, "proxy", "patch", MONICA, path, "-d", "-", stdin=b'{"topic": "Renamed"}')
    _, errors = await zoomgate(harness, "proxy", "patch", MONICA, path, "-d", "\udcff", code=1)
    assert "Zoom responded with HTTP status 400" in errors  # Zoom received the byte that is not valid UTF-8
    response, _ = await zoomgate(harness, "proxy", "get", MONICA, path, "--json")
    assert json.loads(response)["json"]["topic"] == "Renamed"
    included, _ = await zoomgate(harness, "proxy", "delete", MONICA, path, "-i")
    assert included.startswith(b"HTTP 204\n")
    not_found, errors = await zoomgate(harness, "proxy", "get", MONICA, path, code=1)
    assert json.loads(not_found)["code"] == 3001
    assert "Zoom responded with HTTP status 404" in errors


async def test_pages_of_a_list_are_printed_one_per_line(harness: Harness) -> None:
    """With --json, each line is a message of the API. Limits end the list early, and a failure is printed as the last page."""
    zoom = harness.simulator.zoom
    for number in range(3):
        zoom.schedule(zoom.user(MONICA), {"topic": f"Meeting {number}", "type": 2})
    arguments = ("proxy", "pages", MONICA, "/users/me/meetings", "-q", "page_size=1")
    output, errors = await zoomgate(harness, *arguments)
    pages = [json.loads(line) for line in output.splitlines()]
    assert [page["meetings"][0]["topic"] for page in pages] == ["Meeting 0", "Meeting 1", "Meeting 2"]
    assert errors == ""
    output, _ = await zoomgate(harness, *arguments, "--max-pages", "2", "--json")
    assert [json.loads(line)["status"] for line in output.splitlines()] == [200, 200]
    output, _ = await zoomgate(harness, *arguments, "--max-items", "1", "-i")
    assert output.startswith(b"HTTP 200\n")
    output, errors = await zoomgate(harness, "proxy", "pages", MONICA, "/meetings/123", code=1)
    assert json.loads(output)["code"] == 3001
    assert "Zoom responded with HTTP status 404" in errors


async def test_pages_on_a_terminal_are_not_mixed_with_the_progress(harness: Harness) -> None:
    shown = await on_terminal(harness, "proxy", "pages", MONICA, "/users/me/meetings")
    assert shown.startswith("{")
    assert "reading" not in shown


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code", "text"),
    [
        (("meetings", "update", MONICA, "85746065432"), 2, "INVALID_ARGUMENT", "nothing to change"),
        (("meetings", "get", MONICA, "x"), 2, "INVALID_ARGUMENT", "'x' is not a meeting ID"),
        (("meetings", "get"), 2, "INVALID_ARGUMENT", "Missing argument 'USER'"),
        (("meetings", "create", MONICA, "--details", "missing.json"), 2, "INVALID_ARGUMENT", "missing.json"),
        (("scopes", MONICA, "GET", "/phone/numbers"), 3, "NOT_FOUND", "its scopes are unknown"),
        (("proxy", "get", MONICA, "/users/me", "-q", "x"), 2, "INVALID_ARGUMENT", "invalid --query"),
        (("proxy", "pages", MONICA, "/meetings/123"), 1, "UNKNOWN", "Zoom responded with HTTP status 404"),
    ],
)
async def test_every_error_with_json_is_one_document(
    harness: Harness, arguments: tuple[str, ...], exit_code: int, code: str, text: str
) -> None:
    _, errors = await zoomgate(harness, *arguments, "--json", code=exit_code)
    error = json.loads(errors)
    assert error["code"] == code
    assert text in error["message"]


async def test_file_is_downloaded(harness: Harness, tmp_path: Path) -> None:
    """The file appears under its name only if it is complete; - is standard output."""
    files, size = harness.simulator.files, 300_000
    url = f"{harness.simulator.url}/rec/download/{size}/meeting.mp4"
    whole = files.content(size) + files.content(size, 262_144)
    path = tmp_path / "meeting.mp4"
    output, errors = await zoomgate(harness, "proxy", "download", MONICA, url, str(path))
    assert (output, errors, path.read_bytes()) == (b"", "", whole)
    output, errors = await zoomgate(harness, "proxy", "download", MONICA, url, "-", "--json")
    assert output == whole
    assert json.loads(errors)["size"] == str(size)
    path.unlink()
    missing = url.replace(str(size), "nothing")
    _, errors = await zoomgate(harness, "proxy", "download", MONICA, missing, str(path), code=1)
    assert errors == "zoomgate: Zoom responded with HTTP status 404: This recording does not exist.\n"
    _, errors = await zoomgate(harness, "proxy", "download", MONICA, missing, str(path), "--json", code=1)
    assert json.loads(errors)["metadata"]["http_status"] == "404"
    _, errors = await zoomgate(harness, "proxy", "download", MONICA, url, str(tmp_path / "no" / "x"), code=1)
    assert "cannot be written (No such file or directory)" in errors
    assert list(tmp_path.glob("*.part")) == list(tmp_path.glob(".*.part")) == []
    assert not path.exists()


@pytest.mark.parametrize(
    ("launcher", "numbers", "code"),
    [
        ((), [signal.SIGINT], 1),
        ((), [signal.SIGTERM], 143),
        (("env", "--ignore-signal=INT"), [signal.SIGTERM], 143),  # as in a background job of a shell script
        ((), [signal.SIGHUP, signal.SIGHUP], 129),  # as when a terminal closes
        (("env", "--ignore-signal=HUP"), [signal.SIGHUP, signal.SIGTERM], 143),  # as with nohup
    ],
)
async def test_stopped_download_leaves_no_file(
    tmp_path: Path, launcher: tuple[str, ...], numbers: list[signal.Signals], code: int
) -> None:
    """The download has received some bytes, and stalls."""
    target = tmp_path / "target"
    target.mkdir()
    async with serving_upstream(tmp_path / "data") as (harness, raw):
        raw.responses = [Endless(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(500_000))]
        process = await asyncio.create_subprocess_exec(
            *(*launcher, *COMMAND, "proxy", "download", MONICA, "/file", str(target / "file")),
            stderr=subprocess.PIPE,
            env=process_environ(harness),
        )
        while not any(path.stat().st_size for path in target.iterdir()):
            assert process.returncode is None
            await asyncio.sleep(0.01)
        for number in numbers:
            process.send_signal(number)
        _, errors = await process.communicate()
    assert (process.returncode, errors.strip()) == (code, b"Aborted!")
    assert list(target.iterdir()) == []


async def test_empty_name_of_a_downloaded_file_is_rejected(harness: Harness) -> None:
    _, errors = await zoomgate(harness, "proxy", "download", MONICA, "/file", "", code=2)
    assert errors == "zoomgate: the name of FILE is empty; name a file, or use - for standard output\n"


async def test_progress_of_a_download_is_shown_only_on_a_terminal(harness: Harness, tmp_path: Path) -> None:
    controller, terminal_side = pty.openpty()
    url = f"{harness.simulator.url}/rec/download/300000/meeting.mp4"
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("proxy", "download", MONICA, url, "-"),
        stdout=subprocess.PIPE,
        stderr=terminal_side,
        env=process_environ(harness),
    )
    os.close(terminal_side)
    shown, (output, _) = await asyncio.gather(
        asyncio.to_thread(terminal.read_output, controller), process.communicate()
    )
    os.close(controller)
    assert len(output) == 300_000
    assert b"downloading" in shown
    assert b"300.0/300.0 kB" in shown


async def test_json_of_a_response_ends_with_a_newline_and_other_bodies_are_unchanged(
    harness: Harness,
) -> None:
    path = "/users/me/meetings"
    output, _ = await zoomgate(harness, "proxy", "get", MONICA, path)
    assert output.endswith(b"}\n")
    document, _ = await zoomgate(harness, "proxy", "get", MONICA, path, "--json")
    assert document.endswith(b"}\n")
    harness.simulator.faults.add(Fault("meetings", "html", status=404))
    output, _ = await zoomgate(harness, "proxy", "get", MONICA, path, code=1)
    assert output.endswith(b">")
    created, _ = await zoomgate(harness, "proxy", "post", MONICA, path, "-d", "{}")
    empty, _ = await zoomgate(harness, "proxy", "delete", MONICA, f"/meetings/{json.loads(created)['id']}")
    assert not empty


async def test_integers_of_a_response_are_printed_as_integers(harness: Harness) -> None:
    document, _ = await zoomgate(harness, "proxy", "get", MONICA, "/users/me/meetings", "--json")
    listed = json.loads(document)["json"]
    assert (listed["page_size"], type(listed["page_size"])) == (30, int)
    assert type(listed["total_records"]) is int


async def test_start_of_a_meeting_is_shown_in_the_zone_of_the_meeting(harness: Harness) -> None:
    """The zone of the terminal is different."""
    start = ("--start", "2030-01-07T09:00:00", "--timezone", "Pacific/Auckland")
    text, _ = await zoomgate(harness, "meetings", "create", MONICA, *start)
    assert re.search(r"starts +2030-01-07 09:00 Pacific/Auckland \(in ", text.decode())


async def test_service_with_tls_is_recognized_without_its_ca(tmp_path: Path) -> None:
    """Neither plaintext nor a different CA leads to the advice to start the service."""
    cert, key, _ = write_pair(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    other_cert, _, _ = write_pair(other)
    environ = {"ZOOMGATE_TLS_CERT": str(cert), "ZOOMGATE_TLS_KEY": str(key)}
    async with running(tmp_path / "data", environ=environ) as harness:
        for options in ((), ("--ca-file", str(other_cert))):
            for arguments in (("connections", "list"), ("meetings", "create", MONICA)):
                _, errors = await zoomgate(harness, *arguments, *options, code=5)
                assert "uses TLS" in errors
                assert "--ca-file" in errors
                assert "zoomgate run" not in errors


async def test_certificate_for_a_different_host_is_recognized(tmp_path: Path) -> None:
    cert, key, _ = write_pair(tmp_path)
    environ = {
        "ZOOMGATE_LISTEN": "127.0.0.2:0",
        "ZOOMGATE_TLS_CERT": str(cert),
        "ZOOMGATE_TLS_KEY": str(key),
    }
    async with running(tmp_path / "data", environ=environ) as harness:
        _, errors = await zoomgate(harness, "connections", "list", "--ca-file", str(cert), code=5)
    assert f"the certificate of the service at {harness.grpc_address} is not valid for 127.0.0.2" in errors


async def test_service_without_tls_is_recognized_by_a_command_with_a_ca(
    harness: Harness, tmp_path: Path
) -> None:
    cert, _, _ = write_pair(tmp_path)
    _, errors = await zoomgate(harness, "connections", "list", "--ca-file", str(cert), code=5)
    assert f"the service at {harness.grpc_address} uses plaintext; omit --ca-file" in errors


@pytest.mark.slow
async def test_failure_of_a_trusted_service_is_not_attributed_to_its_certificate(tmp_path: Path) -> None:
    """The service accepts the TLS handshake, and then closes every connection."""
    cert, key, _ = write_pair(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["h2"])
    writers = []

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0, ssl=context) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        environ = {"ZOOMGATE_SERVER": address, "ZOOMGATE_KEY": caller_key("service")}
        result = await command("connections", "list", "--ca-file", str(cert), environ=environ)
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
    assert result.exit_code == 5
    assert f"the service at {address} cannot be reached" in result.stderr


async def test_host_name_that_cannot_be_encoded_is_reported_as_unreachable() -> None:
    environ = {"ZOOMGATE_SERVER": f"{'a' * 64}.example:50051", "ZOOMGATE_KEY": caller_key("service")}
    result = await command("connections", "list", environ=environ)
    assert (result.exit_code, "cannot be reached" in result.stderr) == (5, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("https://evil.example/",), "url"),
        (("/users/me", "-q", "x"), "NAME=VALUE"),
        (("/users/me", "-q", "x=\udcff"), "is not valid UTF-8"),
        (("/users/\udcff",), "is not valid UTF-8"),
        (("/users/me", "-H", "x"), "NAME:VALUE"),
        (
            ("/users/me", "-H", "Authorization: x"),
            "headers[0].name: is authorization, which callers may not set",
        ),
    ],
)
async def test_invalid_requests_are_rejected(harness: Harness, arguments: tuple[str, ...], text: str) -> None:
    """The exit code is 2, and the message describes the problem."""
    _, errors = await zoomgate(harness, "proxy", "get", MONICA, *arguments, code=2)
    assert text in errors


async def test_control_sequences_from_zoom_are_escaped_on_terminals(tmp_path: Path) -> None:
    """Headers, JSON bodies and other bodies are escaped."""
    evil = b'{"topic": "\\u001b[31mred\\u202e"}'
    raw = b"\x1b]0;title\x07\x1b[2J"
    async with raw_upstream() as upstream, running(tmp_path, zoom_api_url=upstream.url) as harness:
        upstream.responses = [
            b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id":"u","account_id":"a","email":"monica@example.com"}'
            + b" " * 44
        ]
        await harness.connect()
        for body, escaped in ((evil, "\\u001b[31mred\\u202e"), (raw, "\\x1b]0;title")):
            upstream.responses = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body]
            text = await on_terminal(harness, "proxy", "get", MONICA, "/users/me", "-i")
            assert ESC not in text
            assert escaped in text
            piped, _ = await zoomgate(harness, "proxy", "get", MONICA, "/users/me")
            assert piped == body


async def test_other_servers_are_not_mistaken_for_a_simulator(harness: Harness) -> None:
    """The exit code is 5, as for an unreachable simulator."""
    async with raw_upstream() as upstream:
        for command in ("stats", "expire"):
            for body in (b"[]", b"{}", b"1"):
                upstream.responses = [http_response("200 OK", body)]
                upstream.close_after_response = True
                _, errors = await zoomgate(
                    harness, "simulator", command, "--at", f"127.0.0.1:{upstream.port}", code=5
                )
                assert "no simulator is running" in errors


async def test_characters_outside_the_encoding_of_a_terminal_are_escaped(harness: Harness) -> None:
    await zoomgate(harness, "proxy", "post", MONICA, "/users/me/meetings", "-d", '{"topic": "Café 日本"}')
    text = await on_terminal(
        harness, "proxy", "get", MONICA, "/users/me/meetings", PYTHONIOENCODING="latin-1", encoding="latin-1"
    )
    assert "Café \\u65e5\\u672c" in text


async def test_output_is_styled_only_on_terminals(harness: Harness) -> None:
    """NO_COLOR disables styling on terminals, too."""
    assert f"{ESC}[1mUSER" in await on_terminal(harness, "connections", "list")
    assert ESC not in await on_terminal(harness, "connections", "list", NO_COLOR="1")
    piped, _ = await zoomgate(harness, "connections", "list")
    assert ESC.encode() not in piped


async def test_tokens_are_checked_and_printed(harness: Harness) -> None:
    """`check` sets the exit code; `get` prints only the token, if the caller may receive tokens."""
    output, _ = await zoomgate(harness, "token", "check", MONICA)
    assert output.startswith(b"token  valid")
    token, _ = await zoomgate(harness, "token", "get", MONICA)
    document, _ = await zoomgate(harness, "token", "get", MONICA, "--json")
    assert json.loads(document)["accessToken"] == token.decode().strip()
    _, errors = await zoomgate(harness, "token", "get", MONICA, caller="blind", code=4)
    assert "PERMISSION_DENIED" in errors
    _, errors = await zoomgate(harness, "token", "get", BASIL, code=6)
    assert f"zoomgate connect {BASIL}" in errors


async def test_shell_completion_completes_commands(harness: Harness) -> None:
    """The printed script is valid, and commands and subcommands are completed."""
    script, _ = await zoomgate(harness, "completion", "bash")
    assert b"_ZOOMGATE_COMPLETE=bash_complete" in script
    result = subprocess.run(
        ["bash", "-c", f"{script.decode()}\ncomplete -p zoomgate"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for words, expected in (("zoomgate conne", "plain,connections"), ("zoomgate proxy p", "plain,patch")):
        completions = subprocess.run(
            [str(Path(sys.executable).with_name("zoomgate"))],
            env=os.environ
            | {
                "_ZOOMGATE_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in completions.stdout.splitlines()


async def test_simulator_is_controlled_by_commands(harness: Harness) -> None:
    """Faults, expired tokens, events and statistics are available; invalid arguments are rejected."""
    at = ("--at", harness.simulator.url.removeprefix("http://"))
    _, message = await zoomgate(harness, "simulator", "fault", "users_me", "status", "--times", "-1", *at)
    assert message == "injecting status at users_me without limit\n"
    failed, _ = await zoomgate(harness, "proxy", "get", MONICA, "/users/me", "-i", code=1)
    assert failed.startswith(b"HTTP 503\n")
    await zoomgate(harness, "simulator", "fault", "off", *at)
    await zoomgate(harness, "proxy", "get", MONICA, "/users/me")
    expired, _ = await zoomgate(harness, "simulator", "expire", MONICA, "--json", *at)
    assert json.loads(expired) == {"expired": 1}
    await zoomgate(harness, "proxy", "get", MONICA, "/users/me")
    _, message = await zoomgate(harness, "simulator", "expire", MONICA, *at)
    assert message == "1 access token expired\n"
    _, message = await zoomgate(harness, "simulator", "event", "user.disassociated", MONICA, *at)
    assert (
        message
        == "triggered user.disassociated; no webhook sent, because the simulator has no --webhook-url\n"
    )
    _, error = await zoomgate(harness, "simulator", "event", "user.deleted", "unknown@x.example", *at, code=2)
    assert "user is unknown" in error
    _, error = await zoomgate(harness, "simulator", "expire", "unknown@x.example", *at, code=2)
    assert "user is unknown" in error
    stats, _ = await zoomgate(harness, "simulator", "stats", *at)
    assert "token.refresh_token.issued" in stats.decode()
    _, error = await zoomgate(harness, "simulator", "fault", "token", "delay", "--seconds", "-1", *at, code=2)
    assert "seconds" in error
    _, error = await zoomgate(harness, "simulator", "fault", "token", *at, code=2)
    assert "one of delay" in error
    _, error = await zoomgate(harness, "simulator", "stats", "--at", "127.0.0.1:1", code=5)
    assert "zoomgate simulator" in error
    _, error = await zoomgate(harness, "simulator", "stats", "--at", "192.0.2.1:1", code=2)
    assert "127.0.0.1:PORT" in error


async def test_simulated_users_are_renamed_by_commands(harness: Harness) -> None:
    """A renamed user retains the tokens, and the previous address can be given to a different user."""
    at = ("--at", harness.simulator.url.removeprefix("http://"))
    moved = "monica.reyes@example.com"
    _, message = await zoomgate(harness, "simulator", "rename", "Monica@example.com", moved, *at)
    assert message == f"renamed Monica@example.com to {moved}\n"
    profile, _ = await zoomgate(harness, "proxy", "get", MONICA, "/users/me")
    assert json.loads(profile)["email"] == moved
    _, error = await zoomgate(harness, "simulator", "rename", OMAR, moved, *at, code=2)
    assert "already in use" in error
    renamed, _ = await zoomgate(harness, "simulator", "rename", OMAR, MONICA, "--json", *at)
    assert (json.loads(renamed)["email"], json.loads(renamed)["user_id"]) == (MONICA, "u-Omar-2Kd9")


async def test_meetings_are_played_by_commands(harness: Harness) -> None:
    """The whole meeting or single steps."""
    await harness.connect()
    at = ("--at", harness.simulator.url.removeprefix("http://"))
    created, _ = await zoomgate(harness, "proxy", "post", MONICA, "/users/me/meetings", "--data", "{}")
    number = str(json.loads(created)["id"])
    guest = ("--participant", "Ada")
    _, message = await zoomgate(harness, "simulator", "play", number, *guest, "--minutes", "0", *at)
    assert message.startswith(
        f"play: done for meeting {number}; joined: Monica Reyes, Ada; the simulated time is 20"
    )
    for step in (("start",), ("join", *guest), ("join", *guest), ("end",)):
        await zoomgate(harness, "simulator", "play", number, *step, *at)
    instances = harness.simulator.zoom.meetings[int(number)].instances
    assert [len(each.participants) for each in instances] == [2, 3]
    _, error = await zoomgate(harness, "simulator", "play", number, "end", *at, code=2)
    assert "has not started" in error
    for minutes, word in (("nan", "must be a number"), ("inf", "must be a number"), ("-3", "0 or more")):
        _, error = await zoomgate(harness, "simulator", "play", number, "--minutes", minutes, *at, code=2)
        assert word in error


async def test_fault_for_a_user_is_injected_by_a_command(harness: Harness) -> None:
    await harness.connect(OMAR)
    options = ("--status", "503", "--user", MONICA, "--at", harness.simulator.url.removeprefix("http://"))
    await zoomgate(harness, "simulator", "fault", "users_me", "status", *options)
    await zoomgate(harness, "proxy", "get", OMAR, "/users/me")
    failed, _ = await zoomgate(harness, "proxy", "get", MONICA, "/users/me", "-i", code=1)
    assert failed.startswith(b"HTTP 503\n")
