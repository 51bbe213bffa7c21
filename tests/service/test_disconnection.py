"""Tests for disconnection: audit events and revocation of all tokens, even if the call is canceled or the store fails."""

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

from support.faulty_store import Gate
from support.harness import BASIL, MONICA, OMAR, Harness, metadata, running, serving
from support.zoom_events import ENVIRON, about_user, send
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server.app.timing import Timing
from zoomgate_server.connections import disconnection
from zoomgate_server.connections.record import ConnectionRecord, State, decode, encode
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Record, StoreError
from zoomgate_server.storage.sqlite import SqliteStore

DELETE_MONICA = pb.DeleteConnectionRequest(user_email=MONICA)
APP = "loopback|zoomgate-dev"


def audit_events(zoomgate: Harness, action: str = "connection.disconnected") -> list[dict[str, Any]]:
    """Return the audit events with an action."""
    lines = map(json.loads, (zoomgate.data_dir / "audit.jsonl").read_text().splitlines())
    return [line for line in lines if line["action"] == action]


@asynccontextmanager
async def open_store(zoomgate: Harness) -> AsyncIterator[tuple[SqliteStore, Envelope]]:
    """Open the service's store directly."""
    store = await SqliteStore.open(zoomgate.data_dir / "zoomgate.db", time.time)
    try:
        yield store, Envelope(app=APP, keys=key_file.load(zoomgate.data_dir / "keys.json"))
    finally:
        await store.close()


async def read(zoomgate: Harness, user: str = MONICA) -> ConnectionRecord:
    """Read a connection directly from the store."""
    async with open_store(zoomgate) as (store, envelope):
        record, _ = await store.find(APP, user)
        assert record is not None
        return decode(envelope, record)


async def write(zoomgate: Harness, record: ConnectionRecord) -> bool:
    """Write a connection directly to the store. Return False if the service has changed it in the meantime."""
    async with open_store(zoomgate) as (store, envelope):
        return await store.put(encode(envelope, record), record.rev) is not None


async def until(condition: Any) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_all_revocations_share_the_time_of_the_drain(tmp_path: Path) -> None:
    """The revocations of disconnected users and of unused tokens hang, and the service nevertheless stops."""
    timing = Timing(drain=1.0, disconnections=disconnection.Timing(revocation_wait=0.0))
    async with asyncio.timeout(60), Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, tmp_path / "data", environ=ENVIRON, timing=timing) as zoomgate:
            for user in (MONICA, OMAR):
                await zoomgate.connect(user)
            zoom.faults.add(Fault("revoke", "delay", times=-1, seconds=600.0))
            await zoomgate.call(zoomgate.auth.DeleteConnection, DELETE_MONICA)
            assert await send(zoomgate.http_url, about_user("user.deactivated", OMAR)) == (204, b"")
        zoom.faults.clear()


def held_disconnection() -> Gate:
    """Return a gate that holds the response to the write of a disconnection."""
    return Gate(after_effect=True, holds=lambda record, _: record.state == State.DISCONNECTED.value)


async def test_canceled_delete_is_audited_and_revoked(zoomgate: Harness) -> None:
    """The caller cancels while the store is writing the disconnection."""
    await zoomgate.connect()
    held = held_disconnection()
    with zoomgate.store.intercept("put", held):
        await cancel_delete(zoomgate, held)

        async def is_cancelled() -> bool:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{zoomgate.http_url}/metrics") as page,
            ):
                text = await page.text()
            return 'zoomgate_rpc_total{code="CANCELLED",method="AuthService.DeleteConnection"} 1.0' in text

        await until(is_cancelled)
        held.opened.set()

        async def is_audited() -> bool:
            events = audit_events(zoomgate)
            return [(line["principal"], line["outcome"]) for line in events] == [("admin", "ok")]

        await until(is_audited)
        await until(lambda: _is_revoked(zoomgate, MONICA))


async def cancel_delete(zoomgate: Harness, held: Gate) -> None:
    """Delete Monica's connection, and cancel the call once the disconnection is stored."""
    call = zoomgate.auth.DeleteConnection(DELETE_MONICA, metadata=metadata("admin"), timeout=20)
    waiting = asyncio.ensure_future(call.code())
    await held.reached.wait()
    call.cancel()
    await waiting


async def test_shutdown_revokes_the_tokens_of_a_canceled_delete(tmp_path: Path) -> None:
    """The tokens are revoked before the process exits, not after its next start."""
    async with running(tmp_path / "data") as zoomgate:
        await zoomgate.connect()
        zoomgate.simulator.faults.add(Fault("revoke", "delay", seconds=0.3))
        held = held_disconnection()
        with zoomgate.store.intercept("put", held):
            await cancel_delete(zoomgate, held)
        asyncio.get_running_loop().call_later(0.3, held.opened.set)  # during the shutdown
    assert zoomgate.simulator.zoom.grants[MONICA].revoked
    assert (await read(zoomgate)).pairs_to_revoke == ()


async def _is_revoked(zoomgate: Harness, user: str) -> bool:
    return zoomgate.simulator.zoom.grants[user].revoked


@pytest.mark.parametrize("readable", [True, False])
async def test_unconfirmed_disconnection_is_audited(zoomgate: Harness, readable: bool) -> None:
    """If the store cannot be read to check the write, the audit event has the outcome STORE_UNAVAILABLE. A retry finds no connection."""
    await zoomgate.connect()
    store, first = zoomgate.store, True

    async def unconfirmed_put(put: Any, record: Record, if_rev: int) -> int | None:
        nonlocal first
        rev: int | None = await put(record, if_rev)
        if not first:
            return rev
        first = False
        if not readable:
            store.fail("get", 1)
        raise StoreError("injected")

    with store.intercept("put", unconfirmed_put):
        if readable:
            await zoomgate.call(zoomgate.auth.DeleteConnection, DELETE_MONICA, "admin")
            assert zoomgate.simulator.zoom.grants[MONICA].revoked
        else:
            rejection = await zoomgate.error_of(zoomgate.auth.DeleteConnection, DELETE_MONICA, "admin")
            assert rejection.reason == "STORE_UNAVAILABLE"
    assert (
        await zoomgate.error_of(zoomgate.auth.DeleteConnection, DELETE_MONICA, "admin")
    ).code.name == "NOT_FOUND"
    outcome = "ok" if readable else "STORE_UNAVAILABLE"
    assert [(line["principal"], line["outcome"]) for line in audit_events(zoomgate)] == [("admin", outcome)]


async def test_alternate_pairs_are_revoked_and_erased(zoomgate: Harness) -> None:
    """All pairs are revoked, because Zoom may still accept any of them."""
    await zoomgate.connect()
    record = await read(zoomgate)
    assert record.tokens is not None
    unused_pair = TokenPair("gone-a", "gone-r", "", 0.0, 0.0)
    assert await write(zoomgate, replace(record, tokens=unused_pair, alternate_pairs=(record.tokens,)))
    await zoomgate.call(zoomgate.auth.DeleteConnection, DELETE_MONICA, "admin")
    assert zoomgate.simulator.zoom.grants[MONICA].revoked

    async def is_erased() -> bool:
        record = await read(zoomgate)
        return (record.pairs_to_revoke, record.due_at) == ((), None)

    await until(is_erased)


async def test_tokens_are_erased_after_a_day_even_if_zoom_confirms_no_revocation(tmp_path: Path) -> None:
    """Until then, the revocation is retried."""
    timing = Timing(disconnections=disconnection.Timing(retry_interval=0.05))
    async with running(tmp_path / "data", timing=timing) as zoomgate:
        zoomgate.simulator.faults.add(Fault("revoke", "status", times=-1, status=503))
        for user in (BASIL, MONICA, OMAR):
            await zoomgate.connect(user)
            await zoomgate.call(
                zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=user), "admin"
            )

        async def is_expired() -> bool:
            tombstone = await read(zoomgate, OMAR)
            return await write(zoomgate, replace(tombstone, revoke_until=time.time() - 1.0))

        async def is_erased() -> bool:
            return (await read(zoomgate, OMAR)).pairs_to_revoke == ()

        await until(is_expired)
        await until(is_erased)
        zoomgate.simulator.faults.clear()
        for user in (BASIL, MONICA):
            await until(lambda user=user: _is_revoked(zoomgate, user))


async def test_renamed_user_can_replace_a_corrupt_record(zoomgate: Harness) -> None:
    """The corrupt record under the previous address is replaced by a record of the disconnection."""
    await zoomgate.connect()
    async with open_store(zoomgate) as (store, _):
        record, _ = await store.find(APP, MONICA)
        assert record is not None
        assert await store.put(
            replace(record, value=record.value[:-1] + bytes([record.value[-1] ^ 1])), record.rev
        )
    zoomgate.simulator.zoom.rename(MONICA, "monika@example.com")
    await zoomgate.connect("monika@example.com")
    await zoomgate.call(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email="monika@example.com"))
    assert (await read(zoomgate)).state is State.DISCONNECTED
    (event,) = audit_events(zoomgate, "connection.unlinked")
    assert event["user"] == MONICA
