"""The commands that call the service: each in a process of its own, against a running one."""

import asyncio
import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from support import terminal
from support.harness import BASIL, MONICA, Harness, browser, consent, key_of, running
from support.raw_upstream import answer, raw_upstream
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server

COMMAND = [sys.executable, "-m", "zoomgate_server"]
ESC = "\x1b"


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with running(tmp_path / "data") as started:
        await started.connect()
        yield started


def environ(harness: Harness, caller: str = "service", **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZOOMGATE_")}
    return kept | {"ZOOMGATE_SERVER": harness.grpc_address, "ZOOMGATE_KEY": key_of(caller)} | more


async def zoomgate(
    harness: Harness, *arguments: str, given: bytes = b"", caller: str = "service", code: int = 0
) -> tuple[bytes, str]:
    """Run a command that must end with a code: what it printed on standard output and error."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ(harness, caller),
    )
    output, errors = await process.communicate(given)
    assert process.returncode == code, (output, errors)
    assert b"Traceback" not in errors
    return output, errors.decode()


async def on_terminal(harness: Harness, *arguments: str, encoding: str = "utf-8", **more: str) -> str:
    """Run a command with a terminal as its standard output, and give what the terminal got."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=theirs, stderr=subprocess.PIPE, env=environ(harness, **more)
    )
    os.close(theirs)
    text, _ = await asyncio.gather(asyncio.to_thread(terminal.shown, ours), process.communicate())
    os.close(ours)
    return text.decode(encoding)


async def test_a_person_is_connected_from_the_terminal(harness: Harness) -> None:
    """The link comes first; after the consent the command says who is connected and with which scopes."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "connect", BASIL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ(harness)
    )
    assert process.stdout is not None
    link = (await process.stdout.readline()).decode().strip()
    async with browser() as session:
        await consent(session, link, BASIL)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert BASIL in output.decode()
    assert "meeting:write:meeting" in output.decode()
    assert b"waiting until" in errors


async def test_a_link_can_be_had_without_waiting(harness: Harness) -> None:
    """With --wait 0 the link alone is printed, or the contract's JSON that it is in."""
    output, errors = await zoomgate(harness, "connect", BASIL, "--wait", "0")
    assert output.startswith(b"http://127.0.0.1:")
    assert not errors
    output, _ = await zoomgate(harness, "connect", BASIL, "--wait", "0", "--json")
    assert json.loads(output)["authorizationUrl"].startswith("http://127.0.0.1:")
    output, errors = await zoomgate(harness, "connect", BASIL, "--wait", "1", "--json", code=1)
    assert not output
    assert "did not consent within 1 seconds" in errors


class Silent(AuthServiceServicer):
    """A service whose answer does not come in time, as the caller's gRPC tells it."""

    async def GetConnection(self, request: pb.GetConnectionRequest, context: Any) -> pb.GetConnectionResponse:
        """Give no answer."""
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


async def test_a_service_that_does_not_answer_is_told_apart_from_none(harness: Harness) -> None:
    """The exit code is that of a service that cannot be reached, and the sentence says what to do."""
    async with serving_instead(Silent()) as address:
        _, errors = await zoomgate(harness, "connections", "show", MONICA, "--server", address, code=5)
    assert f"The service on {address} did not answer in time" in errors
    assert "look before you repeat" in errors


@contextlib.asynccontextmanager
async def serving_instead(servicer: AuthServiceServicer) -> AsyncIterator[str]:
    """Serve something else than Zoomgate; gives its address."""
    server = grpc.aio.server()
    add_AuthServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Liar(AuthServiceServicer):
    """A service that gives a link with what a terminal obeys."""

    async def GetConnection(self, request: pb.GetConnectionRequest, context: Any) -> pb.GetConnectionResponse:
        """Know nobody."""
        return pb.GetConnectionResponse()

    async def BeginAuthorization(
        self, request: pb.BeginAuthorizationRequest, context: Any
    ) -> pb.BeginAuthorizationResponse:
        """Begin with a link that would retitle the terminal."""
        return pb.BeginAuthorizationResponse(authorization_url=f"https://a.example/{ESC}]0;title\x07")


async def test_a_link_that_a_terminal_would_obey_is_not_printed(harness: Harness) -> None:
    """A web address has nothing but visible ASCII."""
    async with serving_instead(Liar()) as address:
        output, errors = await zoomgate(harness, "connect", BASIL, "--wait", "0", "--server", address, code=1)
    assert not output
    assert "not a valid web URL" in errors


async def test_meetings_are_scheduled_shown_and_deleted(harness: Harness) -> None:
    """Options and a document from standard input become the meeting; the answer is for people or the contract's JSON."""
    details = b'{"topic": "From the file", "durationMinutes": 30, "settings": {"waitingRoom": true}}'
    output, _ = await zoomgate(
        harness,
        *("meetings", "create", MONICA, "--details", "-", "--topic", "Review"),
        *("--start", "2030-01-07T09:00:00", "--timezone", "Europe/Berlin", "--json"),
        given=details,
    )
    meeting = json.loads(output)
    assert (meeting["topic"], meeting["durationMinutes"]) == ("Review", 30)
    assert meeting["startTime"] == "2030-01-07T08:00:00Z"
    assert meeting["settings"]["waitingRoom"] is True
    shown, _ = await zoomgate(harness, "meetings", "get", MONICA, meeting["id"])
    assert "topic" in shown.decode()
    assert meeting["joinUrl"] in shown.decode()
    _, errors = await zoomgate(harness, "meetings", "delete", MONICA, meeting["id"], "--yes")
    assert "deleted the meeting" in errors
    _, errors = await zoomgate(harness, "meetings", "get", MONICA, meeting["id"], code=3)
    assert "NOT_FOUND" in errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--details", "-"), "--details: "),
        (("--start", "tomorrow"), "write 2030-01-07T09:00:00Z"),
        (("--start", "2030-02-30T09:00:00Z"), "write 2030-01-07T09:00:00Z"),
        (("--start", "0001-01-01T00:00:00+14:00"), "write 2030-01-07T09:00:00Z"),
        (("--topic", "\udcff"), "is not UTF-8"),
        (("--duration", "99999999999"), "--duration is out of range"),
        (("--duration", "-1"), "meeting_details.duration_minutes"),
        (("--timezone", "Mars/Olympus"), "meeting_details.timezone"),
    ],
)
async def test_wrong_meetings_are_refused(harness: Harness, arguments: tuple[str, ...], text: str) -> None:
    """Exit code 2, and a sentence that names the option or the field."""
    _, errors = await zoomgate(harness, "meetings", "create", MONICA, *arguments, given=b"{", code=2)
    assert text in errors


async def test_requests_are_forwarded(harness: Harness, tmp_path: Path) -> None:
    """Query, headers and data from text, a file or standard input reach Zoom; its answer comes back byte by byte."""
    output, _ = await zoomgate(harness, "proxy", "get", MONICA, "/users/me", "-H", "accept: application/json")
    assert json.loads(output)["email"] == MONICA
    (tmp_path / "body.json").write_text('{"topic": "From a file"}')
    created, _ = await zoomgate(
        harness, "proxy", "post", MONICA, "/users/me/meetings", "-d", f"@{tmp_path / 'body.json'}"
    )
    meeting = json.loads(created)
    path = f"/meetings/{meeting['id']}"
    await zoomgate(harness, "proxy", "patch", MONICA, path, "-d", "-", given=b'{"topic": "Renamed"}')
    _, errors = await zoomgate(harness, "proxy", "patch", MONICA, path, "-d", "\udcff", code=1)
    assert "Zoom answered 400" in errors  # a byte that is no UTF-8 got there
    answer, _ = await zoomgate(harness, "proxy", "get", MONICA, path, "--json")
    assert json.loads(answer)["json"]["topic"] == "Renamed"
    included, _ = await zoomgate(harness, "proxy", "delete", MONICA, path, "-i")
    assert included.startswith(b"HTTP 204\n")
    lost, errors = await zoomgate(harness, "proxy", "get", MONICA, path, code=1)
    assert json.loads(lost)["code"] == 3001
    assert "Zoom answered 404" in errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("https://evil.example/",), "url"),
        (("/users/me", "-q", "x"), "NAME=VALUE"),
        (("/users/me", "-q", "x=\udcff"), "is not UTF-8"),
        (("/users/\udcff",), "is not UTF-8"),
        (("/users/me", "-H", "x"), "NAME:VALUE"),
        (("/users/me", "-H", "Authorization: x"), "headers[0].name: is a header that callers may not set"),
    ],
)
async def test_wrong_requests_are_refused(harness: Harness, arguments: tuple[str, ...], text: str) -> None:
    """Exit code 2, and a sentence that says what to write."""
    _, errors = await zoomgate(harness, "proxy", "get", MONICA, *arguments, code=2)
    assert text in errors


async def test_a_terminal_obeys_nothing_that_zoom_says(tmp_path: Path) -> None:
    """Escape sequences in bodies, JSON or not, and in headers are shown as text."""
    evil = b'{"topic": "\\u001b[31mred\\u202e"}'
    raw = b"\x1b]0;title\x07\x1b[2J"
    async with raw_upstream() as upstream, running(tmp_path, zoom_api_url=upstream.url) as harness:
        upstream.answers = [
            b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id":"u","account_id":"a","email":"monica@example.com"}'
            + b" " * 44
        ]
        await harness.connect()
        for body, escaped in ((evil, "\\u001b[31mred\\u202e"), (raw, "\\x1b]0;title")):
            upstream.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body]
            shown = await on_terminal(harness, "proxy", "get", MONICA, "/users/me", "-i")
            assert ESC not in shown
            assert escaped in shown
            piped, _ = await zoomgate(harness, "proxy", "get", MONICA, "/users/me")
            assert piped == body


async def test_who_answers_may_be_no_simulator(harness: Harness) -> None:
    """Another server's JSON counts as no simulator, with exit code 5."""
    async with raw_upstream() as upstream:
        for command in ("stats", "expire"):
            for given in (b"[]", b"{}", b"1"):
                upstream.answers = [answer("200 OK", given)]
                upstream.close_after_answer = True
                _, errors = await zoomgate(
                    harness, "simulator", command, "--at", f"127.0.0.1:{upstream.port}", code=5
                )
                assert "no simulator is running" in errors


async def test_letters_that_a_terminal_lacks_are_escaped(harness: Harness) -> None:
    """A terminal that is not of UTF-8 gets the rest as it is."""
    await zoomgate(harness, "proxy", "post", MONICA, "/users/me/meetings", "-d", '{"topic": "Café 日本"}')
    text = await on_terminal(
        harness, "proxy", "get", MONICA, "/users/me/meetings", PYTHONIOENCODING="latin-1", encoding="latin-1"
    )
    assert "Café \\u65e5\\u672c" in text


async def test_people_get_emphasis_where_they_want_it(harness: Harness) -> None:
    """A terminal gets bold titles, none with NO_COLOR; a pipe gets plain text."""
    assert f"{ESC}[1mUSER" in await on_terminal(harness, "connections", "list")
    assert ESC not in await on_terminal(harness, "connections", "list", NO_COLOR="1")
    piped, _ = await zoomgate(harness, "connections", "list")
    assert ESC.encode() not in piped


async def test_tokens_are_checked_and_given(harness: Harness) -> None:
    """The exit code tells whether the token is valid; the token is printed alone, to those who may see it."""
    output, _ = await zoomgate(harness, "token", "check", MONICA)
    assert output.startswith(b"token  valid")
    token, _ = await zoomgate(harness, "token", "get", MONICA)
    document, _ = await zoomgate(harness, "token", "get", MONICA, "--json")
    assert json.loads(document)["accessToken"] == token.decode().strip()
    _, errors = await zoomgate(harness, "token", "get", MONICA, caller="blind", code=4)
    assert "PERMISSION_DENIED" in errors
    _, errors = await zoomgate(harness, "token", "get", BASIL, code=6)
    assert f"zoomgate connect {BASIL}" in errors


async def test_shells_complete_commands(harness: Harness) -> None:
    """The printed script asks the command itself, which knows its commands and theirs."""
    script, _ = await zoomgate(harness, "completion", "bash")
    assert b"_ZOOMGATE_COMPLETE=bash_complete" in script
    found = subprocess.run(
        ["bash", "-c", f"{script.decode()}\ncomplete -p zoomgate"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    for words, expected in (("zoomgate conne", "plain,connections"), ("zoomgate proxy p", "plain,patch")):
        answer = subprocess.run(
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
        assert expected in answer.stdout.splitlines()


async def test_the_simulators_switches_are_worked(harness: Harness) -> None:
    """A fault shows in the next call, `off` ends it, tokens expire, events happen, and what was counted is told."""
    at = ("--at", harness.simulator.url.removeprefix("http://"))
    _, said = await zoomgate(harness, "simulator", "fault", "users_me", "status", "--times", "-1", *at)
    assert said == "injecting status at users_me without limit\n"
    failed, _ = await zoomgate(harness, "proxy", "get", MONICA, "/users/me", "-i", code=1)
    assert failed.startswith(b"HTTP 503\n")
    await zoomgate(harness, "simulator", "fault", "off", *at)
    await zoomgate(harness, "proxy", "get", MONICA, "/users/me")
    expired, _ = await zoomgate(harness, "simulator", "expire", MONICA, "--json", *at)
    assert json.loads(expired) == {"expired": 1}
    await zoomgate(harness, "proxy", "get", MONICA, "/users/me")
    _, said = await zoomgate(harness, "simulator", "event", "user.disassociated", MONICA, *at)
    assert (
        said == "triggered user.disassociated; no webhook sent, because the simulator has no --webhook-url\n"
    )
    _, refused = await zoomgate(
        harness, "simulator", "event", "user.deleted", "nobody@x.example", *at, code=2
    )
    assert "user is unknown" in refused
    told, _ = await zoomgate(harness, "simulator", "stats", *at)
    assert "token.refresh_token.issued" in told.decode()
    _, refused = await zoomgate(
        harness, "simulator", "fault", "token", "delay", "--seconds", "-1", *at, code=2
    )
    assert "seconds" in refused
    _, refused = await zoomgate(harness, "simulator", "fault", "token", *at, code=2)
    assert "one of delay" in refused
    _, nobody = await zoomgate(harness, "simulator", "stats", "--at", "127.0.0.1:1", code=5)
    assert "zoomgate simulator" in nobody
    _, elsewhere = await zoomgate(harness, "simulator", "stats", "--at", "192.0.2.1:1", code=2)
    assert "127.0.0.1:PORT" in elsewhere
