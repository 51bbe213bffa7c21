"""Tests for `zoomgate prune` while a service is running."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.command_line import command, stderr_of, stdout_of, zoomgate
from support.faulty_store import FaultyStore
from support.harness import MONICA, OMAR, Harness, running
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server import settings
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.prune import prune_store
from zoomgate_server.cli.store_access import open_store
from zoomgate_server.connections.record import State, decode, encode
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Kind, Query, Record, RecordKey
from zoomgate_server.storage.sqlite import SqliteStore

DAY = 24 * 3600.0


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
async def service(folder: Path) -> AsyncIterator[Harness]:
    """Run a service in which Monica has needed a new consent for 100 days, Omar is active, and two short-lived records have expired."""
    async with running(Path("data")) as harness:
        await harness.connect(MONICA)
        await harness.connect(OMAR)
        await _age_records()
        yield harness


async def _age_records(user: str = MONICA) -> None:
    store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
    (app,) = await store.apps()
    envelope = Envelope(app=app, keys=key_file.load(Path("data/keys.json")))
    record, now = await store.find(app, user)
    assert record is not None
    expired = replace(decode(envelope, record), state=State.REAUTH_REQUIRED, update_time=now - 100 * DAY)
    assert await store.put(encode(envelope, expired), record.rev)
    for kind in (Kind.REQUEST, Kind.STATE):
        assert await store.put(
            Record(RecordKey(app, kind, f"old {user}"), b"x", expire_at=now - 5.0, changed_at=now - 10.0), 0
        )
    await store.close()


async def _all_records() -> dict[RecordKey, Record]:
    store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
    (app,) = await store.apps()
    records = {
        record.key: record for kind in Kind for record in await store.page(app, kind, Query(limit=1000))
    }
    await store.close()
    return records


async def test_dry_run_reports_what_would_be_pruned_and_changes_nothing(service: Harness) -> None:
    """The dry run lists connections and counts other records; a subsequent run without --dry-run prunes exactly these."""
    before = await _all_records()
    planned = json.loads(stdout_of(await command("prune", "--dry-run", "--json")))
    assert await _all_records() == before
    assert planned["dryRun"] is True
    assert planned["pruned"] == {"reauth_required": 1, "request": 1, "state": 1}
    assert [row["userEmail"] for row in planned["connections"]] == [MONICA]
    result = await command("prune", "--json")
    pruned = json.loads(stdout_of(result))
    audit_trail = [json.loads(line) for line in Path("data/audit.jsonl").read_text().splitlines()]
    expired_events = [event for event in audit_trail if event["action"] == "connection.expired"]
    assert [(event["user"], event["role"]) for event in expired_events] == [(MONICA, "operator")]
    assert {name: pruned[name] for name in ("pruned", "connections", "kept", "unreadable")} == {
        name: planned[name] for name in ("pruned", "connections", "kept", "unreadable")
    }
    after = await _all_records()
    deleted = {key.kind for key in before if key not in after}
    changed = [record.user_email for key, record in after.items() if record != before[key]]
    assert (deleted, changed) == ({Kind.REQUEST, Kind.STATE}, [MONICA])


async def test_running_service_applies_the_changes(service: Harness) -> None:
    """A disconnected user can consent again, and other users are not affected."""
    output = stdout_of(await command("prune"))
    assert "monica@example.com  reauth_required  100 days ago" in output
    assert output.endswith("Pruned: 1 reauth_required, 1 request, 1 state.\n")
    request = pb.GetTokenRequest(user_email=MONICA)
    assert (await service.error_of(service.auth.GetToken, request)).reason == "ZOOM_NOT_CONNECTED"
    await service.connect(MONICA)
    await service.call(service.auth.GetToken, request)
    omar = await service.call(service.auth.GetConnection, pb.GetConnectionRequest(user_email=OMAR))
    assert omar.connection.state == Connection.STATE_ACTIVE
    assert stdout_of(await command("prune")) == "Pruned: nothing.\n"


async def test_nothing_is_pruned_with_a_missing_key(service: Harness) -> None:
    Path("data/keys.json").unlink()
    stdout_of(zoomgate("keys", "new"))
    before = await _all_records()
    assert "key" in stderr_of(await command("prune"))
    assert await _all_records() == before


def test_interruption_does_not_lose_the_audit_event() -> None:
    """If a write is interrupted, the audit trail still contains the disconnection; the next run prunes the other records."""

    async def prepare() -> None:
        async with running(Path("data")) as harness:
            for user in (MONICA, OMAR):
                await harness.connect(user)
            await _age_records()
            await _age_records(OMAR)

    async def interrupted(put: Callable[..., Any], record: Record, if_rev: int) -> int | None:
        rev: int | None = await put(record, if_rev)
        signal.raise_signal(signal.SIGINT)
        for _ in range(3):  # gives the event loop time to cancel the command
            await asyncio.sleep(0)
        return rev

    async def prune() -> None:
        loaded = settings.load(os.environ)
        async with open_store(loaded) as store:
            faulty: Any = FaultyStore(store)
            with faulty.intercept("put", interrupted), AuditLog(loaded) as audit_log:
                await prune_store(faulty, key_file.load(loaded.keys), 90, audit_log)

    asyncio.run(prepare())
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(prune())
    (first,) = [line["user"] for line in _audit_events("connection.expired")]
    stdout_of(zoomgate("prune"))
    users = [line["user"] for line in _audit_events("connection.expired")]
    assert users in ([first, OMAR], [first, MONICA])
    assert set(users) == {MONICA, OMAR}


async def test_audit_events_are_written_without_a_local_service(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If services run only on other machines, the command creates an audit trail on the local machine."""
    monkeypatch.setenv("ZOOMGATE_STORE", f"sqlite:///{Path('data/zoomgate.db').resolve()}")
    monkeypatch.setenv("ZOOMGATE_KEYS", "data/keys.json")
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "elsewhere")
    stdout_of(await command("prune", "--dry-run"))
    assert not Path("elsewhere").exists()
    stdout_of(await command("prune"))
    assert [line["user"] for line in _audit_events("connection.expired", "elsewhere")] == [MONICA]
    assert Path("elsewhere").stat().st_mode & 0o777 == 0o700


def _audit_events(action: str, folder: str = "data") -> list[dict[str, Any]]:
    events = map(json.loads, (Path(folder) / "audit.jsonl").read_text().splitlines())
    return [event for event in events if event["action"] == action]


def test_missing_store_is_reported_and_not_created() -> None:
    stdout_of(zoomgate("keys", "new"))
    assert "there is no store" in stderr_of(zoomgate("prune"))
    assert sorted(path.name for path in Path("data").iterdir()) == ["audit.jsonl", "keys.json"]
