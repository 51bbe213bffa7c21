"""Tests for restarts with a lost store: nothing is stored, sent or revoked before the restore, and the journal is stored afterwards."""

import asyncio
import signal
from pathlib import Path

import pytest
from pymongo import MongoClient

from crash.cluster import NOT_CONNECTED, OK, Cluster, StoreKind, cluster, until
from zoomgate.v1 import auth_service_pb2 as auth

pytestmark = pytest.mark.timeout(180)

MONICA, OMAR = "monica@example.com", "omar@example.com"


async def result_of(running: Cluster, *arguments: str) -> tuple[int, str]:
    """Run a command, and return its exit code and its output."""
    result = await asyncio.to_thread(running.command, "first", *arguments)
    return result.returncode, result.stdout + result.stderr


def lose_store(folder: Path, store_uri: str, *, leave_empty: bool) -> None:
    """Delete all records, and the SQLite file unless it is left empty."""
    if store_uri:
        with MongoClient(store_uri) as client:
            database = client.get_default_database()
            for name in database.list_collection_names():
                database.drop_collection(name)
        return
    for path in (folder / "data").glob("zoomgate.db*"):
        path.unlink()
    if leave_empty:
        (folder / "data" / "zoomgate.db").touch(mode=0o600)


@pytest.mark.parametrize("leave_empty", [False, True])
async def test_restart_before_the_restore_loses_and_revokes_nothing(
    leave_empty: bool, store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """A process is killed with the only copy of Monica's tokens in its journal, and the store is lost. Omar is not affected."""
    async with cluster(store_kind, tmp_path, ["monica", "omar"], store_uri) as running:
        await running.connect([MONICA, OMAR])
        first = await running.start("first", {MONICA: "after_journal"})
        backup = str(tmp_path / "backup.db")
        assert (await result_of(running, "store", "backup", backup))[0] == 0
        refreshing = asyncio.create_task(first.token(MONICA))
        await first.reached({MONICA: "after_journal"})
        first.send(signal.SIGKILL)
        await first.wait()
        await refreshing
        lose_store(tmp_path, store_uri, leave_empty=leave_empty)

        for _ in range(2):
            code, output = await result_of(running, "serve")
            assert code == 1
            assert "missing or empty, so the service does not start" in output
        assert len(running.journal_entries()) == 1
        assert running.refreshes(MONICA) == 1

        code, output = await result_of(running, "store", "restore", backup)
        assert code == 0, output
        second = await running.start("first")
        await until(lambda: not running.journal_entries())
        assert await second.tokens([MONICA, OMAR]) == {MONICA: OK, OMAR: OK}
        assert running.refreshes(MONICA) == 1
        assert running.rejections == 0
        assert not any(running.zoom.zoom.grants[user].revoked for user in (MONICA, OMAR))


async def test_tokens_in_the_journal_are_stored_in_the_adopted_store(
    store_kind: StoreKind, store_uri: str, tmp_path: Path
) -> None:
    """The tokens of a consent create the connection in the new store. Users of the lost store are not connected."""
    async with cluster(store_kind, tmp_path, ["monica", "omar"], store_uri) as running:
        await running.connect([OMAR])
        first = await running.start("first", {MONICA: "after_journal"})
        code = running.code(MONICA, f"http://{first.http}/oauth/callback")
        connecting = asyncio.create_task(
            first.call("CreateToken", auth.CreateTokenRequest(user_email=MONICA, code=code))
        )
        await first.reached({MONICA: "after_journal"})
        first.send(signal.SIGKILL)
        await first.wait()
        await connecting
        lose_store(tmp_path, store_uri, leave_empty=False)

        assert (await result_of(running, "serve"))[0] == 1
        code_of_adopt, output = await result_of(running, "store", "adopt", "--yes")
        assert code_of_adopt == 0, output
        second = await running.start("first")
        await until(lambda: not running.journal_entries())
        assert await second.tokens([MONICA, OMAR]) == {MONICA: OK, OMAR: NOT_CONNECTED}
        assert [row["action"] for row in running.audit_events()].count("store.adopted") == 1
        assert not running.zoom.zoom.grants[OMAR].revoked
