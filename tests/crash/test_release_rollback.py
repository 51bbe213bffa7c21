"""Tests for an upgrade from the latest release and for the rollback to it, on the same store, journal, keys and callers.

Before the first release, the latest commit stands for it, so that changes that are not committed yet are tested against it.
"""

import asyncio
import signal
import subprocess
from pathlib import Path

import pytest

from crash.cluster import OK, Cluster, Server, StoreKind, cluster, until
from support.toolchain import unavailable
from support.wheels import ROOT, virtual_environment
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = pytest.mark.timeout(300)

MONICA, OMAR, PRIYA = USERS = ("monica@example.com", "omar@example.com", "priya@example.com")


def git(*arguments: str) -> bytes:
    """Return the output of git; skip the test if it fails."""
    process = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if process.returncode != 0:
        unavailable(f"git {' '.join(arguments)}: {process.stderr.decode()}")
    return process.stdout


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the latest release with its own pinned dependencies, and return the interpreter."""
    tags = git("tag", "--merged", "HEAD", "--sort=-version:refname", "--list", "v*").decode().split()
    source = tmp_path_factory.mktemp("source")
    archive = git("archive", tags[0] if tags else "HEAD")
    subprocess.run(["tar", "--extract", "--directory", str(source)], input=archive, check=True)
    return virtual_environment(
        tmp_path_factory.mktemp("release") / "venv",
        *("-c", str(source / "constraints.txt")),
        *(str(source / project) for project in ("clients/python", ".")),
    )


async def connect(running: Cluster, server: Server, user: str) -> None:
    """Connect a user through a server."""
    code = running.code(user, f"http://{server.http}/oauth/callback")
    assert await server.call("CreateToken", auth.CreateTokenRequest(user_email=user, code=code)) == OK


async def refresh(server: Server, *users: str) -> None:
    """Refresh the tokens of users through a server."""
    for user in users:
        assert await server.call("RefreshToken", auth.RefreshTokenRequest(user_email=user)) == OK


async def test_rollback_after_a_crash_loses_no_token(
    release: Path, store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """The upgraded service is killed while the only copy of Monica's tokens is in its journal. The release continues with all users."""
    no_wait = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
    names = [user.partition("@")[0] for user in USERS]
    async with cluster(store_kind, tmp_path, names, store_uri) as running:
        before = await running.start("service", release=release, environ=no_wait)
        await connect(running, before, MONICA)
        await connect(running, before, OMAR)
        await before.close()

        upgraded = await running.start("service", {MONICA: "after_journal"}, environ=no_wait)
        await connect(running, upgraded, PRIYA)
        await refresh(upgraded, OMAR)
        refreshing = asyncio.create_task(
            upgraded.call("RefreshToken", auth.RefreshTokenRequest(user_email=MONICA))
        )
        await upgraded.reached({MONICA: "after_journal"})
        upgraded.send(signal.SIGKILL)
        await upgraded.wait()
        await refreshing
        assert len(running.journal_entries()) == 1

        after = await running.start("service", release=release, environ=no_wait)
        await until(lambda: not running.journal_entries())
        await refresh(after, *USERS)
        assert [running.refreshes(user) for user in USERS] == [2, 2, 1]
        await after.close()

        again = await running.start("service", environ=no_wait)
        await refresh(again, *USERS)
        assert running.rejections == 0
        assert {await running.state(user) for user in USERS} == {"ACTIVE"}


async def test_replicas_of_both_versions_serve_the_same_users(
    release: Path, store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """During a rolling upgrade, each version refreshes tokens that the other one has stored."""
    async with cluster(store_kind, tmp_path, ["monica"], store_uri) as running:
        no_wait = {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}
        old = await running.start("first", release=release, environ=no_wait)
        new = await running.start("second", environ=no_wait)
        await connect(running, old, MONICA)
        for server in (new, old, new):
            await refresh(server, MONICA)
            assert await old.token(MONICA) == await new.token(MONICA) == OK
        assert running.refreshes(MONICA) == 3
        assert running.rejections == 0
