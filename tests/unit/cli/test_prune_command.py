"""`zoomgate prune`, beside a running service."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.command_line import command, done, refused, zoomgate
from support.harness import MONICA, OMAR, Harness, running
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.connections.record import State, decode, encode
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Kind, Record, RecordKey
from zoomgate_server.storage.sqlite import SqliteStore

DAY = 24 * 3600.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; the data folder in it is the one of the settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "data")
    return tmp_path


@pytest.fixture
async def service(folder: Path) -> AsyncIterator[Harness]:
    """A service: Monica has needed a consent for a hundred days, Omar works, a request and a state have expired."""
    async with running(Path("data")) as harness:
        await harness.connect(MONICA)
        await harness.connect(OMAR)
        await _grow_old()
        yield harness


async def _grow_old(user: str = MONICA) -> None:
    store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
    (app,) = await store.apps()
    envelope = Envelope(app=app, keys=key_file.load(Path("data/keys.json")))
    record, now = await store.get(RecordKey(app, Kind.USER, user))
    assert record is not None
    waits = replace(decode(envelope, record), state=State.REAUTH_REQUIRED, update_time=now - 100 * DAY)
    assert await store.put(encode(envelope, waits), record.rev)
    for kind in (Kind.REQUEST, Kind.STATE):
        assert await store.put(
            Record(RecordKey(app, kind, f"old {user}"), b"x", expire_at=now - 5.0, changed_at=now - 10.0), 0
        )
    await store.close()


async def _everything() -> dict[RecordKey, Record]:
    store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
    (app,) = await store.apps()
    found = {record.key: record for kind in Kind for record in await store.page(app, kind, limit=1000)}
    await store.close()
    return found


async def test_a_dry_run_says_what_would_go_and_changes_nothing(service: Harness) -> None:
    """It names every connection and counts the rest; afterwards each record is as it was, and the real run takes just these away."""
    before = await _everything()
    foretold = json.loads(done(await command("prune", "--dry-run", "--json")))
    assert await _everything() == before
    assert foretold["dryRun"] is True
    assert foretold["pruned"] == {"reauth_required": 1, "request": 1, "state": 1}
    assert [row["userEmail"] for row in foretold["connections"]] == [MONICA]
    carried_out = await command("prune", "--json")
    pruned = json.loads(done(carried_out))
    audited = [json.loads(line) for line in Path("data/audit.jsonl").read_text().splitlines()]
    expired_lines = [line for line in audited if line["action"] == "connection.expired"]
    assert [(line["user"], line["role"]) for line in expired_lines] == [(MONICA, "operator")]
    assert {name: pruned[name] for name in ("pruned", "connections", "kept", "unreadable")} == {
        name: foretold[name] for name in ("pruned", "connections", "kept", "unreadable")
    }
    after = await _everything()
    gone = {key.kind for key in before if key not in after}
    changed = [key.subject for key in after if after[key] != before[key]]
    assert (gone, changed) == ({Kind.REQUEST, Kind.STATE}, [MONICA])


async def test_a_running_service_hears_of_it(service: Harness) -> None:
    """Whose connection was ended is not connected any more, and can consent again; everybody else goes on."""
    said = done(await command("prune"))
    assert "monica@example.com  reauth_required  100 days ago" in said
    assert said.endswith("Gone: 1 reauth_required, 1 request, 1 state.\n")
    request = pb.GetTokenRequest(user_email=MONICA)
    assert (await service.refusal(service.auth.GetToken, request)).reason == "ZOOM_NOT_CONNECTED"
    await service.connect(MONICA)
    await service.call(service.auth.GetToken, request)
    shown = await service.call(service.auth.GetConnection, pb.GetConnectionRequest(user_email=OMAR))
    assert shown.connection.state == Connection.STATE_ACTIVE
    assert done(await command("prune")) == "Gone: nothing.\n"


async def test_what_cannot_be_opened_stays(service: Harness) -> None:
    """A ring that lacks a key takes no connection away, and says what is missing."""
    Path("data/keys.json").unlink()
    done(zoomgate("keys", "new"))
    before = await _everything()
    assert "key" in refused(await command("prune"))
    assert await _everything() == before


def test_ctrl_c_does_not_come_between_what_goes_and_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who interrupts the command while the store writes finds a line for the connection that was ended; the next run goes on."""

    async def grow_old() -> None:
        async with running(Path("data")) as harness:
            for user in (MONICA, OMAR):
                await harness.connect(user)
            await _grow_old()
            await _grow_old(OMAR)

    asyncio.run(grow_old())
    put = SqliteStore.put

    async def interrupted(self: SqliteStore, record: Record, if_rev: int) -> int | None:
        rev = await put(self, record, if_rev)
        signal.raise_signal(signal.SIGINT)
        for _ in range(3):  # until the command has been told
            await asyncio.sleep(0)
        return rev

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "put", interrupted)
        assert zoomgate("prune").exit_code == 1
    assert [line["user"] for line in _lines("connection.expired")] == [MONICA]
    done(zoomgate("prune"))
    assert [line["user"] for line in _lines("connection.expired")] == [MONICA, OMAR]


async def test_without_a_data_folder_of_a_service_there_is_a_line(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the command works on a store that services of other machines keep, its lines go to a trail of its own."""
    monkeypatch.setenv("ZOOMGATE_STORE", f"sqlite:///{Path('data/zoomgate.db').resolve()}")
    monkeypatch.setenv("ZOOMGATE_KEYS", "data/keys.json")
    monkeypatch.setenv("ZOOMGATE_DATA_DIR", "elsewhere")
    done(await command("prune", "--dry-run"))
    assert not Path("elsewhere").exists()
    done(await command("prune"))
    assert [line["user"] for line in _lines("connection.expired", "elsewhere")] == [MONICA]
    assert Path("elsewhere").stat().st_mode & 0o777 == 0o700


def _lines(action: str, folder: str = "data") -> list[dict[str, Any]]:
    lines = map(json.loads, (Path(folder) / "audit.jsonl").read_text().splitlines())
    return [line for line in lines if line["action"] == action]


def test_there_must_be_a_store() -> None:
    """Without a store the command says so, and makes none."""
    done(zoomgate("keys", "new"))
    assert "There is no store" in refused(zoomgate("prune"))
    assert sorted(path.name for path in Path("data").iterdir()) == ["audit.jsonl", "keys.json"]
