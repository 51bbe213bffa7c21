"""Tests for lists, watches and bulk commands with connections that cannot be decrypted."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from support.command_line import command
from support.harness import MONICA, OMAR, Harness, caller_key, running
from zoomgate import AsyncClient
from zoomgate.v1 import auth_service_pb2 as pb


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
    assert f"1 connection(s) cannot be decrypted and are missing: {MONICA}" in result.stderr
    if arguments == ("list", "--json"):
        assert json.loads(result.stdout)["userEmail"] == OMAR
