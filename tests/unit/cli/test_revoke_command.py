"""Tests for `zoomgate connections revoke` and `list --where` with a running service."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result

from support.command_line import command, stderr_of, stdout_of, zoomgate
from support.harness import ADMIN, BASIL, MONICA, OMAR, Harness, caller_key, running, service
from zoom_simulator.faults import Fault
from zoomgate import Client
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.bulk import executor, operations
from zoomgate_server.cli.bulk.where_filter import FIELDS, Condition
from zoomgate_server.identity import UserPatterns
from zoomgate_server.rate_limiter import RateLimiter

USERS = (BASIL, MONICA, OMAR)
CALLERS = {
    "service": service("service"),
    "narrow": service("narrow", users=UserPatterns(addresses=frozenset({OMAR}))),
    "blind": service("blind", methods=frozenset({"AuthService.ListConnections"})),
    "admin": ADMIN,
}


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service with all users connected."""
    async with running(tmp_path / "data", callers=CALLERS) as started:
        for user in USERS:
            await started.connect(user)
        yield started


def environ(harness: Harness, caller: str = "admin") -> dict[str, str]:
    return {"ZOOMGATE_SERVER": harness.grpc_address, "ZOOMGATE_KEY": caller_key(caller)}


async def revoke(harness: Harness, *arguments: str, caller: str = "admin", stdin: str = "") -> Result:
    words = ("connections", "revoke", "--rate", "100", *arguments)
    return await command(*words, environ=environ(harness, caller), stdin=stdin)


async def states(harness: Harness) -> str:
    """Return one letter per user: A for active, D for disconnected."""
    responses = [
        await harness.call(harness.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
        for user in USERS
    ]
    return "".join(Connection.State.Name(response.connection.state)[6] for response in responses)


async def test_matching_users_are_disconnected_and_revoked(harness: Harness) -> None:
    """Every condition must match; Zoom revokes the tokens of disconnected users, and other users are not affected."""
    before = datetime.now(UTC).isoformat()
    filters = ("--where", f"user={MONICA}", "--where", "state=active")
    result = await revoke(harness, *filters, "--yes")
    assert stdout_of(result) == ""
    assert "1 disconnected, 0 skipped, 0 failed" in result.stderr
    assert await states(harness) == "ADA"
    grant = harness.simulator.zoom.grants[MONICA]
    while not grant.revoked:  # the service waits only briefly for Zoom's confirmation
        await asyncio.sleep(0.01)
    assert not harness.simulator.zoom.grants[OMAR].revoked
    stdout_of(
        await revoke(
            harness, "--where", f"consented-before={before}", "--where", "user=*@example.com", "--yes"
        )
    )
    assert await states(harness) == "DDD"


async def test_confirmation_is_required(harness: Harness) -> None:
    """The prompt contains the number of users and is skipped if no user matches. --dry-run lists users. --where or --all is required."""
    result = await revoke(harness, "--all", stdin="n\n")
    assert "Disconnect 3 users?" in result.output
    assert result.exit_code == 1
    listed = await revoke(harness, "--where", "scope=user:read:user", "--dry-run")
    assert [line.split()[0] for line in stdout_of(listed).splitlines()] == list(USERS)
    assert "3 users would be disconnected" in listed.stderr
    unmatched = await revoke(harness, "--where", "user=unknown@example.com")
    assert stdout_of(unmatched) == ""
    assert unmatched.stderr == "0 disconnected, 0 skipped, 0 failed\n"
    assert "--where" in stderr_of(await revoke(harness, "--yes"), 2)
    assert "--where" in stderr_of(await revoke(harness, "--yes", "--all", "--where", f"user={OMAR}"), 2)
    assert await states(harness) == "AAA"


@pytest.mark.parametrize("options", [(), ("--all", "--yes")])
async def test_user_as_argument_is_rejected_with_the_right_command(
    harness: Harness, options: tuple[str, ...]
) -> None:
    result = await revoke(harness, MONICA, *options)
    assert result.exit_code == 2
    assert "zoomgate connections delete USER" in result.stderr
    assert await states(harness) == "AAA"


async def test_service_disconnects_only_its_own_users(harness: Harness) -> None:
    """--all includes only the users that the caller may access; the JSON output contains the counts."""
    result = await revoke(harness, "--all", "--yes", "--json", caller="narrow")
    assert json.loads(stdout_of(result)) == {"disconnected": 1, "skipped": 0, "failed": 0, "stopped": False}
    assert await states(harness) == "AAD"


async def test_caller_without_permission_is_stopped_at_the_first_user(harness: Harness) -> None:
    """The exit code is 4, and the number of failed users is 0."""
    result = await revoke(harness, "--all", "--yes", caller="blind")
    assert result.exit_code == 4
    assert "stopped: 0 disconnected, 0 skipped, 0 failed" in result.stderr
    assert await states(harness) == "AAA"


async def test_summary_is_printed_if_the_users_cannot_be_counted(harness: Harness) -> None:
    environment = environ(harness) | {"ZOOMGATE_SERVER": "127.0.0.1:1"}
    result = await command("connections", "revoke", "--all", "--yes", "--json", environ=environment)
    assert result.exit_code == 5
    assert json.loads(result.stdout) == {"disconnected": 0, "skipped": 0, "failed": 0, "stopped": True}


async def test_interrupted_run_prints_counts_and_can_be_continued(harness: Harness) -> None:
    """On SIGINT, the current disconnection completes and is counted, regardless of the response time; the next run continues."""
    harness.simulator.faults.add(Fault("revoke", "delay", seconds=0.5))  # delays the service's response
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "zoomgate_server",
            "connections",
            "revoke",
            "--all",
            "--yes",
            "--rate",
            "0.1",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environ(harness),
    )
    while await states(harness) != "DAA":
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, messages = await process.communicate()
    assert process.returncode == 1
    assert b"stopped: 1 disconnected, 0 skipped, 0 failed" in messages
    assert "2 disconnected, 0 skipped, 0 failed" in (await revoke(harness, "--all", "--yes")).stderr
    assert await states(harness) == "DDD"


async def test_user_who_consents_during_the_run_stays_connected(
    harness: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    """The conditions are checked again before each disconnection."""
    before = datetime.now(UTC).isoformat()
    loop = asyncio.get_running_loop()
    paused, resume = asyncio.Event(), asyncio.Event()

    def pause(seconds: float) -> None:
        if seconds:
            loop.call_soon_threadsafe(paused.set)
            asyncio.run_coroutine_threadsafe(resume.wait(), loop).result()

    conditions = tuple(
        Condition(name, FIELDS[name](value))
        for name, value in (("consented-before", before), ("user", "*@example.com"))
    )

    def run() -> None:
        with Client(harness.grpc_address, key=caller_key("admin")) as client:
            operation, limiter = operations.revoke(client, conditions), RateLimiter(1e-6)
            executor.run(operation, limiter, total=3, as_json=False, next_step="", sleep=pause)

    task = asyncio.create_task(asyncio.to_thread(run))
    await paused.wait()
    await harness.connect(MONICA)
    resume.set()
    await task
    assert capsys.readouterr().err == "2 disconnected, 1 skipped, 0 failed\n"
    assert await states(harness) == "DAD"


async def test_list_accepts_the_same_filters(harness: Harness) -> None:
    account = harness.simulator.zoom.users[OMAR].account_id
    for where, expected in {
        f"user={OMAR}": [OMAR],
        "user=*@example.com": list(USERS),
        "user=*@elsewhere.example": [],
        f"account={account}": [
            user for user in USERS if harness.simulator.zoom.users[user].account_id == account
        ],
        "scope=no:such:scope": [],
        "state=reauth_required": [],
        "cause=rejected": [],
        "refreshed-before=2020-01-01T00:00:00Z": [],
        "refreshed-before=9000-01-01T00:00:00Z": list(USERS),
    }.items():
        listed = stdout_of(
            await command("connections", "list", "--json", "--where", where, environ=environ(harness))
        )
        assert [json.loads(line)["userEmail"] for line in listed.splitlines()] == expected, where


@pytest.mark.parametrize("where", ["state=disconnected", "cause=revoked"])
async def test_state_and_cause_filters_include_disconnected_users(harness: Harness, where: str) -> None:
    """Other filters exclude disconnected users unless --state is set, and `revoke` does not disconnect them again."""
    await harness.call(harness.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=OMAR))
    listed = ("connections", "list", "--json", "--where")
    shown = stdout_of(await command(*listed, where, environ=environ(harness)))
    assert [json.loads(line)["userEmail"] for line in shown.splitlines()] == [OMAR]
    others = stdout_of(await command(*listed, "user=*@example.com", environ=environ(harness)))
    assert [json.loads(line)["userEmail"] for line in others.splitlines()] == [BASIL, MONICA]
    assert "0 users would be disconnected" in (await revoke(harness, "--where", where, "--dry-run")).stderr


@pytest.mark.parametrize(
    ("where", "word"),
    [
        ("monica@example.com", "NAME=VALUE"),
        ("name=Monica", "consented-before"),
        ("state=", "NAME=VALUE"),
        ("state=alive", "reauth_required"),
        ("cause=boredom", "outcome_lost"),
        ("user=*", "address"),
        ("user=u22*@example.com", "* outside *@domain"),
        ("user=\u212aate@example.com", "U+212A"),
        ("user=*@\uff45xample.com", "U+FF45"),
        ("consented-before=yesterday", "2030-01-07T09:00:00Z"),
        ("consented-before=2030-01-07T09:00:00", "zone"),
    ],
)
def test_invalid_filter_is_rejected(where: str, word: str) -> None:
    """The message explains the format."""
    assert word in stderr_of(zoomgate("connections", "revoke", "--where", where, "--yes"), 2)
