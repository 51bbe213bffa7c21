"""`zoomgate reap`, beside a running service."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import command, done, refused, zoomgate
from harness import MONICA, OMAR, Harness, running
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.tokens import keyfile
from zoomgate_server.tokens.connection_record import State, decode, encode
from zoomgate_server.tokens.sqlite import SqliteStore
from zoomgate_server.tokens.store import Kind, Record, RecordKey
from zoomgate_server.tokens.vault import Vault

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


async def _grow_old() -> None:
    store = await SqliteStore.open(Path("data/zoomgate.db"), time.time)
    (app,) = await store.apps()
    vault = Vault(app=app, keys=keyfile.load(Path("data/keys.json")))
    record, now = await store.get(RecordKey(app, Kind.USER, MONICA))
    assert record is not None
    waits = replace(decode(vault, record), state=State.REAUTH_REQUIRED, update_time=now - 100 * DAY)
    assert await store.put(encode(vault, waits), record.rev)
    for kind in (Kind.REQUEST, Kind.STATE):
        assert await store.put(
            Record(RecordKey(app, kind, "old"), b"x", expire_at=now - 5.0, changed_at=now - 10.0), 0
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
    foretold = json.loads(done(await command("reap", "--dry-run", "--json")))
    assert await _everything() == before
    assert foretold["dryRun"] is True
    assert foretold["reaped"] == {"reauth_required": 1, "request": 1, "state": 1}
    assert [row["userEmail"] for row in foretold["connections"]] == [MONICA]
    carried_out = await command("reap", "--json")
    reaped = json.loads(done(carried_out))
    audited = [json.loads(line) for line in Path("data/audit.jsonl").read_text().splitlines()]
    reaped_lines = [line for line in audited if line["action"] == "connection.reaped"]
    assert [(line["user"], line["role"]) for line in reaped_lines] == [(MONICA, "operator")]
    assert {name: reaped[name] for name in ("reaped", "connections", "kept", "unreadable")} == {
        name: foretold[name] for name in ("reaped", "connections", "kept", "unreadable")
    }
    after = await _everything()
    gone = {key.kind for key in before if key not in after}
    changed = [key.subject for key in after if after[key] != before[key]]
    assert (gone, changed) == ({Kind.REQUEST, Kind.STATE}, [MONICA])


async def test_a_running_service_hears_of_it(service: Harness) -> None:
    """Whose connection was ended is not connected any more, and can consent again; everybody else goes on."""
    said = done(await command("reap"))
    assert "monica@example.com  reauth_required  100 days ago" in said
    assert said.endswith("Gone: 1 reauth_required, 1 request, 1 state.\n")
    request = pb.GetTokenRequest(user_email=MONICA)
    assert (await service.refusal(service.auth.GetToken, request)).reason == "ZOOM_NOT_CONNECTED"
    await service.connect(MONICA)
    await service.call(service.auth.GetToken, request)
    shown = await service.call(service.auth.GetConnection, pb.GetConnectionRequest(user_email=OMAR))
    assert shown.connection.state == Connection.STATE_ACTIVE
    assert done(await command("reap")) == "Gone: nothing.\n"


async def test_what_cannot_be_opened_stays(service: Harness) -> None:
    """A ring that lacks a key takes no connection away, and says what is missing."""
    Path("data/keys.json").unlink()
    done(zoomgate("keys", "new"))
    before = await _everything()
    assert "key" in refused(await command("reap"))
    assert await _everything() == before


def test_there_must_be_a_store() -> None:
    """Without a store the command says so, and makes none."""
    done(zoomgate("keys", "new"))
    assert "There is no store" in refused(zoomgate("reap"))
    assert sorted(path.name for path in Path("data").iterdir()) == ["audit.jsonl", "keys.json"]
