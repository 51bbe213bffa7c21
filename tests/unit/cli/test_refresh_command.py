"""`zoomgate connections refresh`: everybody's tokens, through a running service."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result

from support import terminal
from support.command_line import command, done
from support.harness import ADMIN, BASIL, MONICA, OMAR, Harness, key_of, running, service
from zoom_simulator import SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate import Client
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.cli.bulk import executor
from zoomgate_server.cli.bulk import refresh as bulk_refresh
from zoomgate_server.identity import UserPatterns

EVERYBODY = (BASIL, MONICA, OMAR)
"""In the order in which the service lists them."""

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
    """A service to which everybody is connected."""
    async with running(tmp_path / "data", callers=CALLERS) as started:
        for user in EVERYBODY:
            await started.connect(user)
        yield started


def environ(harness: Harness, caller: str = "operator") -> dict[str, str]:
    return {"ZOOMGATE_SERVER": harness.grpc_address, "ZOOMGATE_KEY": key_of(caller)}


async def refresh(harness: Harness, *arguments: str, caller: str = "operator") -> Result:
    return await command("connections", "refresh", *arguments, environ=environ(harness, caller))


async def generations(harness: Harness) -> list[int]:
    shown = [
        await harness.call(harness.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
        for user in EVERYBODY
    ]
    return [answer.connection.generation for answer in shown]


def end_grant(harness: Harness, user: str) -> None:
    harness.simulator.zoom.revoke_grant(harness.simulator.zoom.grants[user])


async def test_everybody_is_refreshed_and_failures_are_told(harness: Harness) -> None:
    """One line a failure, a sum, exit code 1; a second run leaves out who was refreshed, and says that nothing is left to do."""
    end_grant(harness, MONICA)
    begun = datetime.now(UTC).isoformat()
    first = await refresh(harness, "--all", "--rate", "100")
    assert first.exit_code == 1
    assert re.fullmatch(rf"{MONICA}  ZOOM_REAUTH_REQUIRED  .*consent again\n", first.stdout)
    assert "2 refreshed, 0 fresh already, 0 left out, 1 failed" in first.stderr
    assert re.search(r"go on with: zoomgate connections refresh --all --since 20\S+Z", first.stderr)
    assert await generations(harness) == [2, 1, 2]
    shown = await command("connections", "show", MONICA, environ=environ(harness))
    assert re.search(
        r"^last error +Zoom rejected the refresh token \((now|.+ ago)\)$", done(shown), re.MULTILINE
    )
    second = await refresh(harness, "--all", "--since", begun)
    assert done(second) == ""
    assert "0 refreshed, 0 fresh already, 2 left out, 0 failed" in second.stderr
    assert harness.stat("token.refresh_token.issued") == 2


async def test_programs_get_json_and_no_token(harness: Harness) -> None:
    """A document a failure, then one with the sums; a token that is younger than a minute counts as fresh."""
    end_grant(harness, OMAR)
    first = await refresh(harness, "--all", "--rate", "100", "--json")
    failure, sums = (json.loads(line) for line in first.stdout.splitlines())
    assert (failure["userEmail"], failure["reason"]) == (OMAR, "ZOOM_REAUTH_REQUIRED")
    assert sums == {"refreshed": 2, "alreadyFresh": 0, "skipped": 0, "failed": 1, "stopped": False}
    second = done(await refresh(harness, "--all", "--rate", "100", "--json"))
    assert json.loads(second)["alreadyFresh"] == 2
    assert "sim-" not in first.output + second
    assert harness.stat("token.refresh_token.issued") == 2


async def test_one_user_is_refreshed(harness: Harness) -> None:
    """The connection is shown as it is then; once more within a minute it is said to be fresh."""
    first = await refresh(harness, OMAR)
    assert re.search(r"^generation +2$", done(first), re.MULTILINE)
    assert re.search(r"^next refresh +20\S+ \S+ \(in 5\d minutes\)$", first.stdout, re.MULTILINE)
    assert "fresh already" not in first.stderr
    second = await refresh(harness, OMAR, "--json")
    assert json.loads(done(second))["generation"] == "2"
    assert "fresh already" in second.stderr


async def test_only_the_callers_users_are_refreshed(harness: Harness) -> None:
    """Who may act for one user refreshes that one alone."""
    done(await refresh(harness, "--all", caller="narrow"))
    assert await generations(harness) == [1, 1, 2]


@pytest.mark.parametrize("caller", ["blind", "admin"])
async def test_a_caller_without_the_right_is_stopped_at_the_first(harness: Harness, caller: str) -> None:
    """Exit code 4 before anything is sent to Zoom, and nobody counts as failed."""
    found = await refresh(harness, "--all", caller=caller)
    assert found.exit_code == 4
    assert "stopped: 0 refreshed, 0 fresh already, 0 left out, 0 failed" in found.stderr
    assert "PERMISSION_DENIED" in found.stderr
    assert harness.stat("token.refresh_token.issued") == 0


async def test_an_app_that_zoom_refuses_stops_it(harness: Harness) -> None:
    """When Zoom refuses the app's own secret nobody can be refreshed: the first refusal ends it, and Zoom is asked once."""
    harness.simulator.zoom.options = SimulatorOptions(port=0, client_secret="another-secret")
    found = await refresh(harness, "--all", "--rate", "100")
    assert found.exit_code == 1
    assert "client ID or secret" in found.stderr
    assert "stopped: 0 refreshed" in found.stderr
    assert "--since" in found.stderr
    assert await generations(harness) == [1, 1, 1]


async def test_a_service_that_is_not_there_is_told(harness: Harness) -> None:
    """Exit code 5."""
    environment = environ(harness) | {"ZOOMGATE_SERVER": "127.0.0.1:1"}
    found = await command("connections", "refresh", "--all", environ=environment)
    assert found.exit_code == 5
    assert "cannot be reached" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "name one USER, or give --all"),
        ((MONICA, "--all"), "name one USER, or give --all"),
        ((MONICA, "--since", "2030-01-07T09:00:00Z"), "--since goes with --all"),
        (("--all", "--since", "2030-01-07T09:00:00"), "with its zone"),
        (("--all", "--since", "yesterday"), "2030-01-07T09:00:00Z"),
        (("--all", "--rate", "0"), "--rate"),
        (("--all", "--rate", "nan"), "--rate"),
        (("nobody",), "USER"),
    ],
)
async def test_wrong_usage_is_refused(harness: Harness, arguments: tuple[str, ...], text: str) -> None:
    """Exit code 2, and what to write instead."""
    found = await refresh(harness, *arguments)
    assert found.exit_code == 2
    assert text in found.stderr
    assert await generations(harness) == [1, 1, 1]


class Time:
    """A clock that goes on only while somebody sleeps."""

    now = 0.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


async def refreshed_at(harness: Harness, rate: float) -> tuple[Time, list[executor.Failure]]:
    """Refresh everybody beside a clock of the test's."""
    time, failures = Time(), []  # type: ignore[var-annotated]

    def work() -> None:
        with Client(harness.grpc_address, key=key_of("operator")) as client:
            bulk_refresh.refresh_all(
                client,
                since=None,
                pace=executor.Pace(rate, time.read, time.sleep),
                count=bulk_refresh.Count(),
                failed=failures.append,
                advance=lambda _: None,
            )

    await asyncio.to_thread(work)
    return time, failures


async def test_the_rate_is_kept(harness: Harness) -> None:
    """Between the starts of two refreshes lies the time that the rate says, however fast they are."""
    time, failures = await refreshed_at(harness, 0.5)
    assert (time.now, failures) == (4.0, [])
    assert await generations(harness) == [2, 2, 2]


@pytest.mark.parametrize(
    ("kind", "reason"), [("rate_limit_daily", "ZOOM_RATE_LIMITED"), ("status", "ZOOM_UNAVAILABLE")]
)
async def test_a_trouble_of_everybodys_slows_it_down(harness: Harness, kind: str, reason: str) -> None:
    """When Zoom asks for patience or fails, the next refresh waits as long as the refusal says, a minute at most; others then succeed."""
    times = 1 if kind == "rate_limit_daily" else 12  # the client asks 4 times, the service Zoom 3 times
    harness.simulator.faults.add(Fault("token", kind, times=times))
    time, failures = await refreshed_at(harness, 5)
    assert [(failure.user_email, failure.reason) for failure in failures][:1] == [(BASIL, reason)]
    assert 1 < time.now <= 61
    if kind == "rate_limit_daily":
        assert await generations(harness) == [1, 2, 2]


async def test_an_interruption_says_how_far_it_got(harness: Harness) -> None:
    """SIGINT ends it between two users, with the sums and the command that goes on; the exit code is 1."""
    end_grant(harness, BASIL)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "zoomgate_server", "connections", "refresh", "--all", "--rate", "0.1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environ(harness),
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(BASIL.encode())
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"stopped: 0 refreshed, 0 fresh already, 0 left out, 1 failed" in said
    assert re.search(rb"go on with: zoomgate connections refresh --all --since 20\S+Z --rate 0.1\n", said)
    assert await generations(harness) == [1, 1, 1]


async def test_a_terminal_gets_a_bar_and_a_file_the_failures(harness: Harness) -> None:
    """The bar is on standard error; what is printed meanwhile goes where standard output leads."""
    end_grant(harness, MONICA)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "zoomgate_server", "connections", "refresh", "--all", "--rate", "100"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | environ(harness),
    )
    os.close(theirs)
    bar, (failures, _) = await asyncio.gather(asyncio.to_thread(terminal.shown, ours), process.communicate())
    os.close(ours)
    assert failures.startswith(MONICA.encode() + b"  ZOOM_REAUTH_REQUIRED")
    assert failures.count(b"\n") == 1
    assert b"3/3" in bar
    assert b"2 refreshed" in bar
