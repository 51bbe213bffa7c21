"""`zoomgate connections revoke`: many connections ended, through a running service; `list --where` shows which."""

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

from support.command_line import command, done, refused, zoomgate
from support.harness import ADMIN, BASIL, MONICA, OMAR, Harness, key_of, running, service
from zoom_simulator.faults import Fault
from zoomgate import Client
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.bulk import revoke as bulk_revoke
from zoomgate_server.cli.bulk.executor import Pace
from zoomgate_server.cli.bulk.where_filter import FIELDS, Condition
from zoomgate_server.identity import UserPatterns

EVERYBODY = (BASIL, MONICA, OMAR)
CALLERS = {
    "service": service("service"),
    "narrow": service("narrow", users=UserPatterns(addresses=frozenset({OMAR}))),
    "blind": service("blind", methods=frozenset({"AuthService.ListConnections"})),
    "admin": ADMIN,
}


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """A service to which everybody is connected."""
    async with running(tmp_path / "data", callers=CALLERS) as started:
        for user in EVERYBODY:
            await started.connect(user)
        yield started


def environ(harness: Harness, caller: str = "admin") -> dict[str, str]:
    return {"ZOOMGATE_SERVER": harness.grpc_address, "ZOOMGATE_KEY": key_of(caller)}


async def revoke(harness: Harness, *arguments: str, caller: str = "admin", answer: str = "") -> Result:
    given = ("connections", "revoke", "--rate", "100", *arguments)
    return await command(*given, environ=environ(harness, caller), answer=answer)


async def states(harness: Harness) -> str:
    """A letter for everybody: A is active, D disconnected."""
    shown = [
        await harness.call(harness.auth.GetConnection, pb.GetConnectionRequest(user_email=user))
        for user in EVERYBODY
    ]
    return "".join(Connection.State.Name(answer.connection.state)[6] for answer in shown)


async def test_those_of_whom_it_is_true_are_ended_and_revoked(harness: Harness) -> None:
    """Every condition must hold; Zoom takes nothing more of those who were ended, and the others go on."""
    before = datetime.now(UTC).isoformat()
    chosen = ("--where", f"user={MONICA}", "--where", "state=active")
    found = await revoke(harness, *chosen, "--yes")
    assert done(found) == ""
    assert "1 ended, 0 had ended or changed, 0 failed" in found.stderr
    assert await states(harness) == "ADA"
    grant = harness.simulator.zoom.grants[MONICA]
    while not grant.revoked:  # the service does not wait for Zoom's confirmation for long
        await asyncio.sleep(0.01)
    assert not harness.simulator.zoom.grants[OMAR].revoked
    done(
        await revoke(
            harness, "--where", f"consented-before={before}", "--where", "user=*@example.com", "--yes"
        )
    )
    assert await states(harness) == "DDD"


async def test_nothing_is_ended_before_somebody_says_yes(harness: Harness) -> None:
    """The question says how many, unless there are none; a dry run names them; without --where or --all nobody is meant."""
    found = await revoke(harness, "--all", answer="n\n")
    assert "End 3 connections?" in found.output
    assert found.exit_code == 1
    listed = await revoke(harness, "--where", "scope=user:read:user", "--dry-run")
    assert [line.split()[0] for line in done(listed).splitlines()] == list(EVERYBODY)
    assert "3 would be ended" in listed.stderr
    nobody = await revoke(harness, "--where", "user=nobody@example.com")
    assert done(nobody) == ""
    assert nobody.stderr == "0 ended, 0 had ended or changed, 0 failed\n"
    assert "--where" in refused(await revoke(harness, "--yes"), 2)
    assert "--where" in refused(await revoke(harness, "--yes", "--all", "--where", f"user={OMAR}"), 2)
    assert await states(harness) == "AAA"


async def test_a_service_ends_those_of_its_users_alone(harness: Harness) -> None:
    """--all is everybody whom the caller may see; JSON has the sums."""
    found = await revoke(harness, "--all", "--yes", "--json", caller="narrow")
    assert json.loads(done(found)) == {"ended": 1, "skipped": 0, "failed": 0, "stopped": False}
    assert await states(harness) == "AAD"


async def test_a_caller_without_the_right_is_stopped_at_the_first(harness: Harness) -> None:
    """Exit code 4, and nobody counts as failed."""
    found = await revoke(harness, "--all", "--yes", caller="blind")
    assert found.exit_code == 4
    assert "stopped: 0 ended, 0 had ended or changed, 0 failed" in found.stderr
    assert await states(harness) == "AAA"


async def test_an_interruption_says_how_far_it_got_and_a_second_run_goes_on(harness: Harness) -> None:
    """SIGINT lets the one under way end and counts it, however late its answer comes; the next run finds those that are left."""
    harness.simulator.faults.add(Fault("revoke", "delay", seconds=0.5))  # the answer waits for Zoom's
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
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"stopped: 1 ended, 0 had ended or changed, 0 failed" in said
    assert "2 ended, 0 had ended or changed, 0 failed" in (await revoke(harness, "--all", "--yes")).stderr
    assert await states(harness) == "DDD"


async def test_who_consents_anew_before_it_is_their_turn_stays(harness: Harness) -> None:
    """The conditions hold of what is ended, not of what was listed minutes before."""
    before = datetime.now(UTC).isoformat()
    loop, count = asyncio.get_running_loop(), bulk_revoke.Count()
    begun = asyncio.Event()

    def pause(_seconds: float) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()

    go_on = asyncio.Event()
    conditions = tuple(
        Condition(name, FIELDS[name](value))
        for name, value in (("consented-before", before), ("user", "*@example.com"))
    )

    def run() -> None:
        with Client(harness.grpc_address, key=key_of("admin")) as client:
            bulk_revoke.revoke_all(
                client,
                conditions,
                pace=Pace(1e-6, sleep=pause),
                count=count,
                failed=pytest.fail,
                advance=lambda _: None,
            )

    work = asyncio.create_task(asyncio.to_thread(run))
    await begun.wait()
    await harness.connect(MONICA)
    go_on.set()
    await work
    assert (count.revoked, count.skipped) == (2, 1)
    assert await states(harness) == "DAD"


async def test_the_list_takes_the_same_conditions(harness: Harness) -> None:
    """What `list --where` shows is what `revoke --where` would end."""
    account = harness.simulator.zoom.users[OMAR].account_id
    for where, expected in {
        f"user={OMAR}": [OMAR],
        "user=*@example.com": list(EVERYBODY),
        "user=*@elsewhere.example": [],
        f"account={account}": [
            user for user in EVERYBODY if harness.simulator.zoom.users[user].account_id == account
        ],
        "scope=no:such:scope": [],
        "state=reauth_required": [],
        "cause=rejected": [],
        "refreshed-before=2020-01-01T00:00:00Z": [],
        "refreshed-before=9000-01-01T00:00:00Z": list(EVERYBODY),
    }.items():
        shown = done(
            await command("connections", "list", "--json", "--where", where, environ=environ(harness))
        )
        assert [json.loads(line)["userEmail"] for line in shown.splitlines()] == expected, where


@pytest.mark.parametrize("where", ["state=disconnected", "cause=revoked"])
async def test_the_list_has_ended_connections_where_a_condition_speaks_of_them(
    harness: Harness, where: str
) -> None:
    """Without --state they are left out otherwise; revoke has nothing to end there."""
    await harness.call(harness.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=OMAR))
    listed = ("connections", "list", "--json", "--where")
    shown = done(await command(*listed, where, environ=environ(harness)))
    assert [json.loads(line)["userEmail"] for line in shown.splitlines()] == [OMAR]
    others = done(await command(*listed, "user=*@example.com", environ=environ(harness)))
    assert [json.loads(line)["userEmail"] for line in others.splitlines()] == [BASIL, MONICA]
    assert "0 would be ended" in (await revoke(harness, "--where", where, "--dry-run")).stderr


@pytest.mark.parametrize(
    ("where", "word"),
    [
        ("monica@example.com", "NAME=VALUE"),
        ("name=Monica", "consented-before"),
        ("state=", "NAME=VALUE"),
        ("state=alive", "reauth_required"),
        ("cause=boredom", "outcome_lost"),
        ("user=*", "address"),
        ("user=*@Example.com", "lower case; send *@example.com"),
        ("consented-before=yesterday", "2030-01-07T09:00:00Z"),
        ("consented-before=2030-01-07T09:00:00", "zone"),
    ],
)
def test_what_is_no_condition_is_refused_before_anything_happens(where: str, word: str) -> None:
    """The sentence says how to write one."""
    assert word in refused(zoomgate("connections", "revoke", "--where", where, "--yes"), 2)
