"""Tests for `zoomgate connections refresh` with a running service."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result

from support import terminal
from support.command_line import command, stdout_of
from support.harness import ADMIN, BASIL, MONICA, OMAR, Harness, caller_key, running, service
from zoom_simulator import SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate import Client
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.bulk import executor, operations
from zoomgate_server.identity import UserPatterns
from zoomgate_server.rate_limiter import RateLimiter

USERS = (BASIL, MONICA, OMAR)
"""All users, in the order in which the service lists them."""

CALLERS = {
    "service": service("service"),
    "blind": service("blind", access_tokens=False),
    "operator": service(
        "operator",
        refresh_tokens=False,
        proxy_paths=(),
        methods=frozenset(
            f"AuthService.{name}" for name in ("ListConnections", "GetConnection", "RefreshToken")
        ),
    ),
    "narrow": service("narrow", users=UserPatterns(addresses=frozenset({OMAR}))),
    "admin": ADMIN,
}


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service with all users connected."""
    async with running(tmp_path / "data", callers=CALLERS) as started:
        for user in USERS:
            await started.connect(user)
        yield started


def environ(harness: Harness, caller: str = "operator") -> dict[str, str]:
    return {"ZOOMGATE_SERVER": harness.grpc_address, "ZOOMGATE_KEY": caller_key(caller)}


async def refresh(harness: Harness, *arguments: str, caller: str = "operator") -> Result:
    return await command("connections", "refresh", *arguments, environ=environ(harness, caller))


async def generations(harness: Harness) -> list[int]:
    responses = [
        await harness.call(harness.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
        for user in USERS
    ]
    return [response.connection.generation for response in responses]


def revoke_grant(harness: Harness, user: str) -> None:
    harness.simulator.zoom.revoke_grant(harness.simulator.zoom.grants[user])


async def test_all_users_are_refreshed_and_failures_are_reported(harness: Harness) -> None:
    """Each failure is one line, followed by the counts, and the exit code is 1; a second run with --since skips refreshed users."""
    revoke_grant(harness, MONICA)
    started_at = datetime.now(UTC).isoformat()
    first = await refresh(harness, "--all", "--rate", "100")
    assert first.exit_code == 1
    assert re.fullmatch(rf"{MONICA}  ZOOM_REAUTH_REQUIRED  .*consent again\n", first.stdout)
    assert "2 refreshed, 0 up to date, 0 skipped, 1 failed" in first.stderr
    assert re.search(r"Continue with: zoomgate connections refresh --all --since 20\S+Z", first.stderr)
    assert await generations(harness) == [2, 1, 2]
    shown = await command("connections", "show", MONICA, environ=environ(harness))
    assert re.search(
        r"^last error +Zoom rejected the refresh token \((now|.+ ago)\)$", stdout_of(shown), re.MULTILINE
    )
    second = await refresh(harness, "--all", "--since", started_at)
    assert stdout_of(second) == ""
    assert "0 refreshed, 0 up to date, 2 skipped, 0 failed" in second.stderr
    assert harness.stat("token.refresh_token.issued") == 2


async def test_json_output_contains_no_token(harness: Harness) -> None:
    """The output is one document per failure, followed by the counts. A token issued less than a minute ago is up to date."""
    revoke_grant(harness, OMAR)
    first = await refresh(harness, "--all", "--rate", "100", "--json")
    failure, counts = (json.loads(line) for line in first.stdout.splitlines())
    assert (failure["userEmail"], failure["reason"]) == (OMAR, "ZOOM_REAUTH_REQUIRED")
    assert counts == {"refreshed": 2, "alreadyFresh": 0, "skipped": 0, "failed": 1, "stopped": False}
    second = stdout_of(await refresh(harness, "--all", "--rate", "100", "--json"))
    assert json.loads(second)["alreadyFresh"] == 2
    assert "sim-" not in first.output + second
    assert harness.stat("token.refresh_token.issued") == 2


async def test_one_user_is_refreshed(harness: Harness) -> None:
    """The updated connection is printed; a second refresh within a minute is not needed."""
    first = await refresh(harness, OMAR)
    assert re.search(r"^generation +2$", stdout_of(first), re.MULTILINE)
    assert re.search(r"^next refresh +20\S+ \S+ \S+ \(in 5\d minutes\)$", first.stdout, re.MULTILINE)
    assert "not refreshed" not in first.stderr
    second = await refresh(harness, OMAR, "--json")
    assert json.loads(stdout_of(second))["generation"] == "2"
    assert "not refreshed; the token was refreshed less than a minute ago" in second.stderr


async def test_only_the_callers_users_are_refreshed(harness: Harness) -> None:
    stdout_of(await refresh(harness, "--all", caller="narrow"))
    assert await generations(harness) == [1, 1, 2]


@pytest.mark.parametrize("caller", ["blind", "admin"])
async def test_caller_without_permission_is_stopped_at_the_first_user(harness: Harness, caller: str) -> None:
    """The exit code is 4, nothing is sent to Zoom, and the number of failed users is 0."""
    result = await refresh(harness, "--all", caller=caller)
    assert result.exit_code == 4
    assert "stopped: 0 refreshed, 0 up to date, 0 skipped, 0 failed" in result.stderr
    assert "PERMISSION_DENIED" in result.stderr
    assert harness.stat("token.refresh_token.issued") == 0


async def test_rejected_app_credentials_stop_the_run(harness: Harness) -> None:
    """The run stops after one call to Zoom, since the rejection applies to all users."""
    harness.simulator.zoom.options = SimulatorOptions(port=0, client_secret="another-secret")
    result = await refresh(harness, "--all", "--rate", "100")
    assert result.exit_code == 1
    assert "client ID or secret" in result.stderr
    assert "stopped: 0 refreshed" in result.stderr
    assert "--since" in result.stderr
    assert await generations(harness) == [1, 1, 1]


async def test_unreachable_service_is_reported(harness: Harness) -> None:
    """The summary and the command to continue are also printed if the users cannot be counted."""
    environment = environ(harness) | {"ZOOMGATE_SERVER": "127.0.0.1:1"}
    result = await command("connections", "refresh", "--all", "--json", environ=environment)
    assert result.exit_code == 5
    assert "cannot be reached" in result.stderr
    assert "Continue with: zoomgate connections refresh --all --since 20" in result.stderr
    assert json.loads(result.stdout) == {
        "refreshed": 0,
        "alreadyFresh": 0,
        "skipped": 0,
        "failed": 0,
        "stopped": True,
    }


def test_interruption_of_the_count_prints_how_to_continue(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> Iterator[Connection]:
        raise KeyboardInterrupt

    operation = executor.BulkOperation("refreshing", "tokens", {"refreshed": "refreshed"}, interrupted, str)
    with pytest.raises(SystemExit, match="1"):
        executor.run(operation, RateLimiter(1), as_json=False, next_step="run it again")
    assert capsys.readouterr().err == "stopped: 0 refreshed\nrun it again\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "specify either USER or --all"),
        ((MONICA, "--all"), "specify either USER or --all"),
        ((MONICA, "--since", "2030-01-07T09:00:00Z"), "--since requires --all"),
        (("--all", "--since", "2030-01-07T09:00:00"), "with a time zone"),
        (("--all", "--since", "yesterday"), "2030-01-07T09:00:00Z"),
        (("--all", "--rate", "0"), "--rate"),
        (("--all", "--rate", "nan"), "--rate"),
        (("nobody",), "USER"),
    ],
)
async def test_invalid_usage_is_rejected(harness: Harness, arguments: tuple[str, ...], text: str) -> None:
    """The exit code is 2, and the message explains the correct usage."""
    result = await refresh(harness, *arguments)
    assert result.exit_code == 2
    assert text in result.stderr
    assert await generations(harness) == [1, 1, 1]


class Time:
    """A clock that advances only in `sleep`."""

    now = 0.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


async def refresh_all(harness: Harness, rate: float) -> tuple[float, int | str | None]:
    """Refresh all tokens on a simulated clock, and return the time and the exit code."""
    time = Time()

    def run() -> int | str | None:
        with Client(harness.grpc_address, key=caller_key("operator")) as client:
            operation = operations.refresh(client, since=None)
            limiter = RateLimiter(rate, time.read)
            try:
                executor.run(operation, limiter, total=3, as_json=False, next_step="", sleep=time.sleep)
            except SystemExit as error:
                return error.code
        return 0

    code = await asyncio.to_thread(run)
    return time.now, code


async def test_rate_limits_the_refreshes(harness: Harness) -> None:
    """The rate determines the time between the starts of two refreshes, regardless of their duration."""
    assert await refresh_all(harness, 0.5) == (4.0, 0)
    assert await generations(harness) == [2, 2, 2]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("rate_limit_daily", "ZOOM_RATE_LIMITED"),
        pytest.param("status", "ZOOM_UNAVAILABLE", marks=pytest.mark.slow),
    ],
)
async def test_failures_that_affect_all_users_delay_the_next_refresh(
    harness: Harness, capsys: pytest.CaptureFixture[str], kind: str, reason: str
) -> None:
    """If Zoom fails or limits the rate, the next refresh starts after the retry delay of at most a minute; later refreshes succeed."""
    # 4 attempts by the client, each with 3 attempts by the service
    times = 1 if kind == "rate_limit_daily" else 12
    harness.simulator.faults.add(Fault("token", kind, times=times))
    rate = 1000
    time, code = await refresh_all(harness, rate)
    assert code == 1
    assert capsys.readouterr().out.startswith(f"{BASIL}  {reason}  ")
    assert 3 / rate < time <= 61
    if kind == "rate_limit_daily":
        assert await generations(harness) == [1, 2, 2]


async def test_interruption_prints_counts_and_how_to_continue(harness: Harness) -> None:
    """SIGINT stops the run between two users; the exit code is 1."""
    revoke_grant(harness, BASIL)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "zoomgate_server", "connections", "refresh", "--all", "--rate", "0.1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environ(harness),
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(BASIL.encode())
    process.send_signal(signal.SIGINT)
    _, messages = await process.communicate()
    assert process.returncode == 1
    assert b"stopped: 0 refreshed, 0 up to date, 0 skipped, 1 failed" in messages
    assert re.search(
        rb"Continue with: zoomgate connections refresh --all --since 20\S+Z --rate 0.1\n", messages
    )
    assert await generations(harness) == [1, 1, 1]


async def test_progress_bar_is_separate_from_redirected_failures(harness: Harness) -> None:
    """The progress bar is on standard error, which is a terminal; failures go to standard output, which is redirected."""
    revoke_grant(harness, MONICA)
    controller, terminal_side = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "zoomgate_server", "connections", "refresh", "--all", "--rate", "100"),
        stdout=subprocess.PIPE,
        stderr=terminal_side,
        env=os.environ | environ(harness),
    )
    os.close(terminal_side)
    bar, (failures, _) = await asyncio.gather(
        asyncio.to_thread(terminal.read_output, controller), process.communicate()
    )
    os.close(controller)
    assert failures.startswith(MONICA.encode() + b"  ZOOM_REAUTH_REQUIRED")
    assert failures.count(b"\n") == 1
    assert b"3/3" in bar
    assert b"2 refreshed" in bar
