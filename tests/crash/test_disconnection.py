"""Tests for changes to a connection during a refresh by another process, at every point of the refresh and with both kinds of store.

The refresh of each user pauses at a different point (`launcher.POINTS`) in one process, and another process changes the connection.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from crash.cluster import (
    NOT_CONNECTED,
    OK,
    CallStatus,
    Cluster,
    Server,
    StoreKind,
    cluster,
    until,
    until_async,
)
from crash.launcher import POINTS
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = pytest.mark.timeout(180)

PLAN = {f"{point.replace('_', '-')}@example.com": point for point in POINTS}
MISMATCH = ("FAILED_PRECONDITION", "IDENTITY_MISMATCH")

Change = Callable[[Cluster, Server, str], Awaitable[CallStatus]]


def new_address(user: str) -> str:
    """Return the email address that `rename` gives to the user."""
    return f"new-{user}"


async def disconnect(_running: Cluster, other: Server, user: str) -> CallStatus:
    """Delete the user's connection."""
    return await other.call("DeleteConnection", auth.DeleteConnectionRequest(user_email=user))


async def consent(running: Cluster, other: Server, user: str, *, connect_as: str = "") -> CallStatus:
    """Consent again, requesting a connection for `connect_as`, by default for the user's email address in Zoom."""
    code = running.code(user, f"http://{other.http}/oauth/callback")
    return await other.call("CreateToken", auth.CreateTokenRequest(user_email=connect_as or user, code=code))


async def rename(running: Cluster, _other: Server, user: str) -> CallStatus:
    """Change the user's email address in Zoom."""
    running.zoom.zoom.rename(user, new_address(user))
    return OK


async def rename_and_connect(running: Cluster, other: Server, user: str) -> CallStatus:
    """Change the user's email address in Zoom, and consent again, requesting a connection for the new address."""
    await rename(running, other, user)
    return await consent(running, other, new_address(user))


async def rename_and_connect_previous_address(running: Cluster, other: Server, user: str) -> CallStatus:
    """Change the user's email address in Zoom, and consent again, requesting a connection for the previous address."""
    await rename(running, other, user)
    return await consent(running, other, new_address(user), connect_as=user)


async def change_during_refresh(
    store_kind: StoreKind,
    store_uri: str,
    directory: Path,
    change: Change,
    expected: CallStatus,
    check: Callable[..., Awaitable[None]],
) -> None:
    """Change every connection while its refresh is paused, resume the refreshes, and check the result in both processes."""
    async with cluster(
        store_kind, directory, [user.partition("@")[0] for user in PLAN], store_uri
    ) as running:
        first, other = await asyncio.gather(running.start("first", PLAN), running.start("other"))
        await running.connect(PLAN)
        calls = asyncio.create_task(first.tokens(PLAN))
        await first.reached(PLAN)
        statuses = await asyncio.gather(*(change(running, other, user) for user in PLAN))
        assert set(statuses) == {expected}
        first.plan({})
        await calls
        await until(lambda: not list(directory.glob("*/journal/*.entry")))
        for server in (first, other):
            for user in PLAN:
                await check(running, server, user)


async def has_valid_token(running: Cluster, user: str, zoom_address: str) -> bool:
    """Return whether a connection contains the valid refresh token of the Zoom user with the email address `zoom_address`."""
    record = await running.record(user)
    pairs = () if record is None else filter(None, (record.tokens, *record.alternate_pairs))
    return running.zoom.zoom.grants[zoom_address].refresh_token in {pair.refresh_token for pair in pairs}


async def is_not_served(server: Server, user: str) -> bool:
    """Return whether a process no longer returns a connection's token, which it may do from memory for a few seconds after deletion."""
    status = await server.token(user)
    assert status in (OK, NOT_CONNECTED)
    return status == NOT_CONNECTED


async def test_connection_disconnected_during_refresh_stays_disconnected(
    store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """The connection is no longer served, and its tokens are revoked with Zoom."""

    async def check(running: Cluster, server: Server, user: str) -> None:
        assert await running.state(user) == "DISCONNECTED REVOKED"
        await until_async(lambda: is_not_served(server, user))
        await until(lambda: running.zoom.zoom.grants[user].revoked)

    await change_during_refresh(store_kind, store_uri, tmp_path, disconnect, OK, check)


async def test_new_consent_during_refresh_is_preserved(
    store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """The token pair that Zoom issues for a refresh of the previous grant is discarded."""

    async def check(running: Cluster, server: Server, user: str) -> None:
        assert await running.state(user) == "ACTIVE"
        assert await server.token(user) == OK
        assert await has_valid_token(running, user, user)
        assert not running.zoom.zoom.grants[user].revoked

    await change_during_refresh(store_kind, store_uri, tmp_path, consent, OK, check)


async def test_user_renamed_during_refresh_stays_connected_under_the_previous_address(
    store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """Tokens belong to a Zoom user, not to an email address."""

    async def check(running: Cluster, server: Server, user: str) -> None:
        assert await running.state(user) == "ACTIVE"
        assert await server.token(user) == OK
        assert await has_valid_token(running, user, new_address(user))

    await change_during_refresh(store_kind, store_uri, tmp_path, rename, OK, check)


async def test_connecting_the_new_address_during_refresh_disconnects_the_previous_address(
    store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """A Zoom user has only one connection.

    The tokens of the previous address are not revoked, because that could also revoke the new grant.
    """

    async def check(running: Cluster, server: Server, user: str) -> None:
        assert await running.state(user) == "DISCONNECTED REVOKED"
        await until_async(lambda: is_not_served(server, user))
        assert await running.state(new_address(user)) == "ACTIVE"
        assert await server.token(new_address(user)) == OK
        assert await has_valid_token(running, new_address(user), new_address(user))
        assert not running.zoom.zoom.grants[new_address(user)].revoked

    await change_during_refresh(store_kind, store_uri, tmp_path, rename_and_connect, OK, check)


async def test_consent_for_the_previous_address_during_refresh_is_rejected(
    store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """The new tokens are stored in the Zoom user's existing connection, because the consent has invalidated the previous tokens."""

    async def check(running: Cluster, server: Server, user: str) -> None:
        assert await running.state(user) == "ACTIVE"
        assert await server.token(user) == OK
        assert await has_valid_token(running, user, new_address(user))
        assert not running.zoom.zoom.grants[new_address(user)].revoked
        assert await running.record(new_address(user)) is None

    await change_during_refresh(
        store_kind, store_uri, tmp_path, rename_and_connect_previous_address, MISMATCH, check
    )
