"""Connections that are ended: with a line in the audit trail whatever becomes of the call, and with all tokens that may live."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.harness import BASIL, MONICA, OMAR, Harness, metadata, running
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.connections import disconnection
from zoomgate_server.connections.record import ConnectionRecord, State, decode, encode
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, StoreError
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import RevokeOutcome, Unknown

END = pb.DeleteConnectionRequest(user_email=MONICA)
APP = "loopback|zoomgate-dev"


def told(zoomgate: Harness, action: str = "connection.disconnected") -> list[dict[str, Any]]:
    """The lines of an action."""
    lines = map(json.loads, (zoomgate.data_dir / "audit.jsonl").read_text().splitlines())
    return [line for line in lines if line["action"] == action]


@asynccontextmanager
async def opened(zoomgate: Harness) -> AsyncIterator[tuple[SqliteStore, Envelope]]:
    """The store past the service."""
    store = await SqliteStore.open(zoomgate.data_dir / "zoomgate.db", time.time)
    try:
        yield store, Envelope(app=APP, keys=key_file.load(zoomgate.data_dir / "keys.json"))
    finally:
        await store.close()


async def read(zoomgate: Harness, user: str = MONICA) -> ConnectionRecord:
    """A connection as it is stored."""
    async with opened(zoomgate) as (store, envelope):
        record, _ = await store.get(RecordKey(APP, Kind.USER, user))
        assert record is not None
        return decode(envelope, record)


async def write(zoomgate: Harness, record: ConnectionRecord) -> None:
    """Store a connection past the service."""
    async with opened(zoomgate) as (store, envelope):
        assert await store.put(encode(envelope, record), record.rev)


async def until(what: Any) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(20):
        while not await what():
            await asyncio.sleep(0.02)


def held_back(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Let the store keep its answer to an end back; gives what is set once it is stored, and what lets the answer go."""
    stored, known = asyncio.Event(), asyncio.Event()
    real = ConnectionRepository.write

    async def writing(self: ConnectionRepository, connection: ConnectionRecord) -> int | None:
        rev = await real(self, connection)
        if connection.revoking is not None:
            stored.set()
            await known.wait()
        return rev

    monkeypatch.setattr(ConnectionRepository, "write", writing)
    return stored, known


async def test_who_leaves_does_not_take_the_line_along(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who gives up while the end is being stored is named in the audit trail, and the tokens are revoked at once."""
    await zoomgate.connect()
    stored, known = held_back(monkeypatch)
    call = zoomgate.auth.DeleteConnection(END, metadata=metadata("admin"), timeout=20)
    waiting = asyncio.ensure_future(call.code())
    await stored.wait()
    call.cancel()
    await waiting

    async def left() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as page:
            text = await page.text()
        return 'zoomgate_rpc_total{code="CANCELLED",method="AuthService.DeleteConnection"} 1.0' in text

    await until(left)
    known.set()

    async def is_told() -> bool:
        return [(line["principal"], line["outcome"]) for line in told(zoomgate)] == [("admin", "ok")]

    await until(is_told)
    await until(lambda: _is_ended(zoomgate, MONICA))


async def test_a_service_that_ends_revokes_what_was_being_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens of an end whose caller has left are revoked before the process is gone, not at its next start."""
    stored, known = held_back(monkeypatch)
    drain = disconnection.Disconnector.drain

    async def draining(self: disconnection.Disconnector, seconds: float) -> None:
        known.set()
        await drain(self, seconds)

    monkeypatch.setattr(disconnection.Disconnector, "drain", draining)
    async with running(tmp_path / "data") as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("revoke", "delay", seconds=0.3))
        call = zoomgate.auth.DeleteConnection(END, metadata=metadata("admin"), timeout=20)
        waiting = asyncio.ensure_future(call.code())
        await stored.wait()
        call.cancel()
        await waiting
    assert zoomgate.simulator.zoom.grants[MONICA].revoked
    assert (await read(zoomgate)).revoking is None


async def _is_ended(zoomgate: Harness, user: str) -> bool:
    return zoomgate.simulator.zoom.grants[user].revoked


@pytest.mark.parametrize("readable", [True, False])
async def test_an_end_that_the_store_did_not_confirm_is_told(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    """It is looked for; where that fails too, the line says that it may have happened, since a repetition finds nothing to end."""
    await zoomgate.connect()
    put, get = SqliteStore.put, SqliteStore.get
    unconfirmed = False

    async def putting(self: SqliteStore, record: Record, if_rev: int) -> int | None:
        nonlocal unconfirmed
        rev = await put(self, record, if_rev)
        if record.state == State.DISCONNECTED.value and not unconfirmed:
            unconfirmed = True
            raise StoreError("injected")
        return rev

    async def getting(self: SqliteStore, key: RecordKey) -> tuple[Record | None, float]:
        if unconfirmed and not readable:
            raise StoreError("injected")
        return await get(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "put", putting)
        patch.setattr(SqliteStore, "get", getting)
        if readable:
            await zoomgate.call(zoomgate.auth.DeleteConnection, END, "admin")
            assert zoomgate.simulator.zoom.grants[MONICA].revoked
        else:
            refusal = await zoomgate.refusal(zoomgate.auth.DeleteConnection, END, "admin")
            assert refusal.reason == "STORE_UNAVAILABLE"
    assert (await zoomgate.refusal(zoomgate.auth.DeleteConnection, END, "admin")).code.name == "NOT_FOUND"
    outcome = "ok" if readable else "STORE_UNAVAILABLE"
    assert [(line["principal"], line["outcome"]) for line in told(zoomgate)] == [("admin", outcome)]


async def test_a_token_that_was_kept_beside_the_newest_is_revoked_too(zoomgate: Harness) -> None:
    """When the living token may be one beside the newest, all are revoked, and none is left in the record."""
    await zoomgate.connect()
    record = await read(zoomgate)
    assert record.tokens is not None
    never_taken = TokenPair("gone-a", "gone-r", "bearer", "", "", 0.0, 0.0)
    await write(zoomgate, replace(record, tokens=never_taken, alternate_pairs=(record.tokens,)))
    await zoomgate.call(zoomgate.auth.DeleteConnection, END, "admin")
    assert zoomgate.simulator.zoom.grants[MONICA].revoked

    async def is_erased() -> bool:
        left = await read(zoomgate)
        return (left.revoking, left.alternate_pairs, left.due_at) == (None, (), None)

    await until(is_erased)


async def test_a_silent_zoom_does_not_keep_tokens_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look asks a Zoom that confirms nothing about few, in turn; what was kept for a day is erased all the same."""
    monkeypatch.setattr(disconnection, "RETRY_INTERVAL", 0.05)
    monkeypatch.setattr(disconnection, "MAX_WRITE_ATTEMPTS", 1)
    async with running(tmp_path / "data") as zoomgate:
        people = (BASIL, MONICA, OMAR)
        for user in people:
            await zoomgate.connect(user)
        whose: dict[str, str] = {}
        for user in people:
            tokens = (await read(zoomgate, user)).tokens
            assert tokens is not None
            whose |= {tokens.access_token: user, tokens.refresh_token: user}
        steps: list[str] = []
        page, silent = ConnectionRepository.page, True
        revoke = OAuthClient.revoke

        async def paging(self: ConnectionRepository, **filters: Any) -> Any:
            if filters.get("states") == [State.DISCONNECTED.value]:
                steps.append("look")
            return await page(self, **filters)

        async def revoking(self: OAuthClient, token: str) -> RevokeOutcome:
            if not silent:
                return await revoke(self, token)
            steps.append(whose[token])
            return Unknown("injected")

        monkeypatch.setattr(OAuthClient, "revoke", revoking)
        for user in people:
            await zoomgate.call(
                zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=user), "admin"
            )
        old = await read(zoomgate, OMAR)
        await write(zoomgate, replace(old, revoke_until=time.time() - 1.0))

        async def is_erased() -> bool:
            return (await read(zoomgate, OMAR)).revoking is None

        await until(is_erased)
        steps.clear()
        monkeypatch.setattr(ConnectionRepository, "page", paging)

        async def went_round() -> bool:
            return len(steps) > 20

        await until(went_round)
        asked = "".join(step[0] for step in steps)  # each is asked about for two tokens
        assert "lbblmmlbblmml" in asked
        silent = False
        for user in (BASIL, MONICA):
            await until(lambda user=user: _is_ended(zoomgate, user))


async def test_a_person_with_a_new_address_is_not_kept_out_by_a_damaged_record(zoomgate: Harness) -> None:
    """What nobody can open any more is no connection: whoever had it connects under another address, and the record is an ended one."""
    await zoomgate.connect()
    async with opened(zoomgate) as (store, _):
        record, _ = await store.get(RecordKey(APP, Kind.USER, MONICA))
        assert record is not None
        assert await store.put(replace(record, value=record.value[:-1] + b"x"), record.rev)
    zoomgate.simulator.zoom.rename(MONICA, "monika@example.com")
    await zoomgate.connect("monika@example.com")
    await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email="monika@example.com"))
    assert (await read(zoomgate)).state is State.DISCONNECTED
    (moved,) = told(zoomgate, "connection.unlinked")
    assert (moved["user"], "generation" in moved) == (MONICA, False), "nobody knows which one it was"
