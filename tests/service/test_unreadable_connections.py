"""Tests for lists, watches and bulk commands with connections that cannot be decrypted."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from support.command_line import command
from support.harness import MONICA, OMAR, Harness, caller_key, running
from zoomgate import AsyncClient
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.app.timing import Timing
from zoomgate_server.watch import watchers


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """Return a service with a corrupt connection of Monica and an intact one of Omar."""
    async with running(tmp_path / "data") as first:
        await first.connect(MONICA)
        await first.connect(OMAR)
    corrupt(tmp_path / "data", MONICA)
    async with running(tmp_path / "data") as started:
        yield started


def corrupt(data_dir: Path, user_email: str) -> None:
    """Overwrite the encrypted value of a connection."""
    with closing(sqlite3.connect(data_dir / "zoomgate.db")) as store, store:
        changed = store.execute("UPDATE record SET value = ? WHERE user_email = ?", (b"?", user_email))
        assert changed.rowcount == 1


async def test_list_names_users_whose_connections_are_missing(harness: Harness) -> None:
    """Callers that may not act for the user do not receive the address."""
    request = pb.ListConnectionsRequest()
    response = await harness.call(harness.auth.ListConnections, request)
    assert [connection.user_email for connection in response.connections] == [OMAR]
    assert list(response.unreadable_users) == [MONICA]
    narrow = await harness.call(harness.auth.ListConnections, request, "narrow")
    assert not narrow.unreadable_users


async def test_client_reports_users_whose_connections_are_missing(harness: Harness) -> None:
    unreadable: list[str] = []
    async with AsyncClient(harness.grpc_address, key=caller_key("service")) as client:
        listed = [each.user_email async for each in client.connections(on_unreadable=unreadable.append)]
    assert (listed, unreadable) == ([OMAR], [MONICA])


@pytest.mark.parametrize("user_emails", [[], [MONICA, OMAR]])
async def test_new_watch_counts_missing_connections(harness: Harness, user_emails: list[str]) -> None:
    request = pb.WatchConnectionsRequest(user_emails=user_emails)
    async with AsyncClient(harness.grpc_address, key=caller_key("service")) as client:
        async for event in client.auth.watch_connections(user_emails=request.user_emails):
            if event.type == pb.WatchConnectionsResponse.TYPE_SYNCED:
                assert event.unreadable_count == 1
                break
            assert event.connection.user_email == OMAR


async def test_watch_command_reports_missing_connections_once(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as first:
        await first.connect(MONICA)
    corrupt(tmp_path / "data", MONICA)
    timing = Timing(watches=watchers.Timing(idle=0.05))
    async with running(tmp_path / "data", timing=timing) as harness:
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "zoomgate_server",
                "connections",
                "watch",
                "--server",
                harness.grpc_address,
            ),
            env=os.environ | {"ZOOMGATE_KEY": caller_key("service")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(60):
            assert b"1 connection is missing" in await process.stderr.readline()
            assert b"waiting for changes" in await process.stderr.readline()
            synced = 0
            async with AsyncClient(harness.grpc_address, key=caller_key("service")) as client:
                async for event in client.auth.watch_connections():
                    synced += event.type == pb.WatchConnectionsResponse.TYPE_SYNCED
                    if synced == 5:
                        break
            await harness.connect(OMAR)
            assert OMAR.encode() in await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            remaining = await process.stderr.read()
            await process.wait()
    assert remaining.startswith(b"Continue with: ")


async def test_watch_of_other_users_counts_nothing(harness: Harness) -> None:
    await harness.call(harness.auth.ListConnections, pb.ListConnectionsRequest())
    async with AsyncClient(harness.grpc_address, key=caller_key("service")) as client:
        async for event in client.auth.watch_connections(user_emails=[OMAR]):
            if event.type == pb.WatchConnectionsResponse.TYPE_SYNCED:
                assert event.unreadable_count == 0
                break


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("list", "--json"),
        ("refresh", "--all"),
        ("revoke", "--all", "--dry-run"),
        ("revoke", "--all", "--yes"),
        ("revoke", "--where", f"user={OMAR}", "--yes"),
    ],
)
async def test_commands_fail_if_connections_are_missing(harness: Harness, arguments: tuple[str, ...]) -> None:
    """The readable connections are processed, and standard error names the user whose connection is missing."""
    environ = {"ZOOMGATE_SERVER": harness.grpc_address, "ZOOMGATE_KEY": caller_key("service")}
    result = await command("connections", *arguments, environ=environ)
    assert result.exit_code == 1
    assert f"1 connection is missing because the service cannot decrypt it: {MONICA}" in result.stderr
    if arguments == ("list", "--json"):
        assert json.loads(result.stdout)["userEmail"] == OMAR
