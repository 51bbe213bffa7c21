"""What happens to a connection while another process refreshes it: at every point of the refresh, over both stores.

Each person waits at another point (`launcher.POINTS`) of the same process, while the connection is changed through another one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from crash.cluster import NOT_CONNECTED, OK, Answer, Cluster, Kept, Server, cluster, until, until_async
from crash.launcher import POINTS
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

PLAN = {f"{point.replace('_', '-')}@example.com": point for point in POINTS}
MISMATCH = ("FAILED_PRECONDITION", "IDENTITY_MISMATCH")

Happening = Callable[[Cluster, Server, str], Awaitable[Answer]]


def new_address(user: str) -> str:
    """The address that somebody has after a renaming."""
    return f"new-{user}"


async def end(_running: Cluster, other: Server, user: str) -> Answer:
    """Somebody ends the connection."""
    return await other.call("DeleteConnection", auth.DeleteConnectionRequest(user_email=user))


async def consent(running: Cluster, other: Server, user: str, *, wanted: str = "") -> Answer:
    """The person consents again; the connection is to be that of `wanted`, or else of the address that the person has."""
    code = running.code(user, f"http://{other.http}/oauth/callback")
    return await other.call("CreateToken", auth.CreateTokenRequest(user_email=wanted or user, code=code))


async def rename(running: Cluster, _other: Server, user: str) -> Answer:
    """The person gets another address at Zoom."""
    running.zoom.zoom.rename(user, new_address(user))
    return OK


async def move(running: Cluster, other: Server, user: str) -> Answer:
    """The person gets another address at Zoom, and connects it."""
    await rename(running, other, user)
    return await consent(running, other, new_address(user))


async def come_back(running: Cluster, other: Server, user: str) -> Answer:
    """The person gets another address at Zoom, and consents for the one before."""
    await rename(running, other, user)
    return await consent(running, other, new_address(user), wanted=user)


async def happens(
    kept: Kept,
    store_uri: str,
    folder: Path,
    what: Happening,
    answer: Answer,
    check: Callable[..., Awaitable[None]],
) -> None:
    """Let something happen to everybody while a process waits with their refreshes, let it go on, and check what came of it."""
    async with cluster(kept, folder, [user.partition("@")[0] for user in PLAN], store_uri) as running:
        first, other = await asyncio.gather(running.start("first", PLAN), running.start("other"))
        await running.connect(PLAN)
        calls = asyncio.create_task(first.tokens(PLAN))
        await first.reached(PLAN)
        answers = await asyncio.gather(*(what(running, other, user) for user in PLAN))
        assert set(answers) == {answer}
        first.plan({})
        await calls
        await until(lambda: not list(folder.glob("*/journal/*.entry")))
        for server in (first, other):
            for user in PLAN:
                await check(running, server, user)


async def living(running: Cluster, user: str, at_zoom: str) -> bool:
    """Tell whether a connection holds the refresh token that Zoom takes from a person."""
    record = await running.record(user)
    pairs = () if record is None else filter(None, (record.tokens, *record.alternate_pairs))
    return running.zoom.zoom.grants[at_zoom].refresh_token in {pair.refresh_token for pair in pairs}


async def not_served(server: Server, user: str) -> bool:
    """Tell whether a process has noticed that a connection ended: it may serve from memory for a few seconds more."""
    answer = await server.token(user)
    assert answer in (OK, NOT_CONNECTED)
    return answer == NOT_CONNECTED


async def test_ended(kept: Kept, store_uri: str, tmp_path: Path) -> None:
    """It stays ended, nothing is served from it, and Zoom takes none of its tokens any more."""

    async def check(running: Cluster, server: Server, user: str) -> None:
        assert await running.shown(user) == "DISCONNECTED REVOKED"
        await until_async(lambda: not_served(server, user))
        await until(lambda: running.zoom.zoom.grants[user].revoked)

    await happens(kept, store_uri, tmp_path, end, OK, check)


async def test_consented(kept: Kept, store_uri: str, tmp_path: Path) -> None:
    """The new consent stays, with its token; the answer to the refresh of the one before is dropped."""

    async def check(running: Cluster, server: Server, user: str) -> None:
        assert await running.shown(user) == "ACTIVE"
        assert await server.token(user) == OK
        assert await living(running, user, user)
        assert not running.zoom.zoom.grants[user].revoked

    await happens(kept, store_uri, tmp_path, consent, OK, check)


async def test_renamed(kept: Kept, store_uri: str, tmp_path: Path) -> None:
    """Whoever is renamed at Zoom stays connected under the address that was connected: tokens belong to a Zoom user, not to a name."""

    async def check(running: Cluster, server: Server, user: str) -> None:
        assert await running.shown(user) == "ACTIVE"
        assert await server.token(user) == OK
        assert await living(running, user, new_address(user))

    await happens(kept, store_uri, tmp_path, rename, OK, check)


async def test_moved(kept: Kept, store_uri: str, tmp_path: Path) -> None:
    """A Zoom user has one connection: that of the new address stays, and that of the address before has ended.

    Its tokens are not revoked: that could end what the person has just granted.
    """

    async def check(running: Cluster, server: Server, user: str) -> None:
        assert await running.shown(user) == "DISCONNECTED REVOKED"
        await until_async(lambda: not_served(server, user))
        assert await running.shown(new_address(user)) == "ACTIVE"
        assert await server.token(new_address(user)) == OK
        assert await living(running, new_address(user), new_address(user))
        assert not running.zoom.zoom.grants[new_address(user)].revoked

    await happens(kept, store_uri, tmp_path, move, OK, check)


async def test_consented_for_the_address_before(kept: Kept, store_uri: str, tmp_path: Path) -> None:
    """It is refused, but the token goes into the connection that this Zoom user has: the consent has ended the one that was there."""

    async def check(running: Cluster, server: Server, user: str) -> None:
        assert await running.shown(user) == "ACTIVE"
        assert await server.token(user) == OK
        assert await living(running, user, new_address(user))
        assert not running.zoom.zoom.grants[new_address(user)].revoked
        assert await running.record(new_address(user)) is None

    await happens(kept, store_uri, tmp_path, come_back, MISMATCH, check)
