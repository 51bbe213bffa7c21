"""Tests for journal recovery: how a service processes journaled tokens of a killed process."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.harness import MONICA, OMAR, SECONDS, Harness, running, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import connection_pb2
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Kind, RecordKey
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.telemetry.metrics import Metrics

REDIRECT = "http://127.0.0.1/x"
STATE = connection_pb2.Connection.State


def issued(zoom: Simulator, user: str = MONICA) -> TokenPair:
    """Return tokens that Zoom has issued and no service has stored."""
    code = zoom.zoom.issue_code(zoom.zoom.users[user], REDIRECT)
    return pair(zoom, zoom.zoom.exchange(code, REDIRECT, ""))


def pair(zoom: Simulator, response: dict[str, Any]) -> TokenPair:
    """Return the token pair of a token response."""
    now = zoom.zoom.wall()
    access, refresh = response["access_token"], response["refresh_token"]
    return TokenPair(access, refresh, "bearer", response["scope"], "", now + response["expires_in"], now)


def entry(tokens: TokenPair, user: str = MONICA, **fields: Any) -> Entry:
    """Return the journal entry of a consent; by default for a user without a record."""
    attributes: dict[str, Any] = {"grant": "", "generation": 0, "initiated_by": "key|service"} | fields
    return Entry("ab" * 16, attributes.pop("origin", Origin.CONSENT), user, tokens=tokens, **attributes)


async def write_journal(zoom: Simulator, data_dir: Path, new_entry: Entry) -> None:
    """Write a journal entry as if by a process that is then killed."""
    async with journal(zoom, data_dir) as killed:
        assert await killed.append(new_entry)


@asynccontextmanager
async def journal(zoom: Simulator, data_dir: Path) -> AsyncIterator[TokenJournal]:
    """Open the journal as if in a different process."""
    opened = TokenJournal(
        data_dir / "journal",
        app=f"loopback|{zoom.options.client_id}",
        key_ring=key_file.load(data_dir / "keys.json"),
        metrics=Metrics("0", []),
    )
    assert await opened.prepare()
    yield opened
    await opened.close()


@asynccontextmanager
async def stopped(data_dir: Path, *, connected: bool = False) -> AsyncIterator[Simulator]:
    """Run the Zoom simulator, with the data directory of a stopped service."""
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as service:
            if connected:
                await service.connect(MONICA)
        yield zoom


async def wait_until_empty(service: Harness) -> None:
    """Wait until the journal is empty."""
    async with asyncio.timeout(SECONDS):
        while list((service.data_dir / "journal").glob("*.entry")):
            await asyncio.sleep(0.01)


async def get_connection(service: Harness, user: str = MONICA) -> Any:
    """Return a user's connection."""
    request = pb.GetConnectionRequest(user_email=user)
    return (await service.call(service.auth.GetConnection, request, "admin")).connection


@pytest.mark.parametrize("origin", [Origin.CONSENT, Origin.IMPORT])
async def test_journaled_consent_or_import_is_stored_after_restart(tmp_path: Path, origin: Origin) -> None:
    async with stopped(tmp_path) as zoom:
        tokens = issued(zoom)
        await write_journal(zoom, tmp_path, entry(tokens, origin=origin))
        async with serving(zoom, tmp_path) as service:
            await wait_until_empty(service)
            connection = await get_connection(service)
            token = (await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
    assert (connection.state, connection.generation) == (STATE.STATE_ACTIVE, 1)
    assert token.access_token == tokens.access_token


async def test_journaled_refresh_is_stored_as_the_next_generation(tmp_path: Path) -> None:
    """The user does not have to consent again."""
    async with stopped(tmp_path, connected=True) as zoom:
        record = await stored(tmp_path, zoom)
        tokens = pair(zoom, zoom.zoom.refresh(zoom.zoom.grants[MONICA].refresh_token))
        refresh = Entry("cd" * 16, Origin.REFRESH, MONICA, record.grant, record.generation, tokens)
        await write_journal(zoom, tmp_path, refresh)
        async with serving(zoom, tmp_path) as service:
            await wait_until_empty(service)
            token = (await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
    assert (token.generation, token.access_token) == (2, tokens.access_token)


async def stored(data_dir: Path, zoom: Simulator) -> ConnectionRecord:
    """Read a user's record from the store."""
    app = f"loopback|{zoom.options.client_id}"
    store = await SqliteStore.open(data_dir / "zoomgate.db", time.time)
    record, _ = await store.get(RecordKey(app, Kind.USER, MONICA))
    await store.close()
    assert record is not None
    return connection_record.decode(Envelope(app=app, keys=key_file.load(data_dir / "keys.json")), record)


async def test_expired_journal_entry_is_refreshed_first(tmp_path: Path) -> None:
    """The new token pair is journaled before its user is verified."""
    async with stopped(tmp_path) as zoom:
        tokens = issued(zoom)
        zoom.zoom.expire(MONICA)
        await write_journal(zoom, tmp_path, entry(replace(tokens, access_expire_at=0.0)))
        async with serving(zoom, tmp_path) as service:
            await wait_until_empty(service)
            assert (await get_connection(service)).state == STATE.STATE_ACTIVE
        assert zoom.zoom.grants[MONICA].previous_refresh_token == tokens.refresh_token


async def test_entry_whose_tokens_are_already_stored_is_not_refreshed(tmp_path: Path) -> None:
    """The process was killed after the store's confirmation and before the journal entry was deleted."""
    async with stopped(tmp_path) as zoom:
        original = entry(issued(zoom))
        await write_journal(zoom, tmp_path, original)
        async with serving(zoom, tmp_path) as service:
            await wait_until_empty(service)
        zoom.zoom.expire(MONICA)
        await write_journal(
            zoom, tmp_path, replace(original, tokens=replace(original.tokens, access_expire_at=0.0))
        )
        async with serving(zoom, tmp_path, environ={"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}) as service:
            await wait_until_empty(service)
            assert zoom.zoom.grants[MONICA].generation == 1
            await service.call(service.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))


@pytest.mark.parametrize("expired", [False, True])
async def test_newer_consent_takes_precedence_over_a_journal_entry(tmp_path: Path, expired: bool) -> None:
    """The entry is deleted without a call to Zoom, because revoking its tokens could end the newer grant."""
    async with stopped(tmp_path) as zoom:
        early = issued(zoom)
        async with serving(zoom, tmp_path) as service:
            await service.connect(MONICA)
        await write_journal(zoom, tmp_path, entry(replace(early, access_expire_at=0.0) if expired else early))
        counters = dict(zoom.zoom.counters)
        async with serving(zoom, tmp_path) as service:
            await wait_until_empty(service)
            connection = await get_connection(service)
            assert (connection.state, connection.generation) == (STATE.STATE_ACTIVE, 1)
            await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
        assert dict(zoom.zoom.counters) == counters


async def test_refresh_of_an_entry_during_shutdown_is_not_lost(tmp_path: Path) -> None:
    """The issued token pair is either stored before the process exits, or stored from the journal by the next process."""
    async with stopped(tmp_path) as zoom:
        tokens = issued(zoom)
        zoom.zoom.expire(MONICA)
        await write_journal(zoom, tmp_path, entry(replace(tokens, access_expire_at=0.0)))
        zoom.faults.add(Fault("token", "delay", seconds=SECONDS))
        async with serving(zoom, tmp_path):
            while not zoom.zoom.counters["faults.delay"]:
                await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(0.3, zoom.faults.clear)  # during the shutdown
        async with serving(zoom, tmp_path) as service:
            await wait_until_empty(service)
            assert (await get_connection(service)).state == STATE.STATE_ACTIVE
        assert zoom.zoom.counters["token.refresh_token.refused"] == 0


async def test_entry_with_tokens_of_a_different_user_is_revoked(tmp_path: Path) -> None:
    """Neither of the two users is connected."""
    async with stopped(tmp_path) as zoom:
        await write_journal(zoom, tmp_path, entry(issued(zoom, OMAR)))
        async with serving(zoom, tmp_path) as service:
            await wait_until_empty(service)
            rejection = await service.error_of(
                service.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA), "admin"
            )
            assert rejection.code.name == "NOT_FOUND"
        assert zoom.zoom.counters["revoke.known"]


async def test_supplied_token_is_stored_later_if_zoom_cannot_confirm_its_user(tmp_path: Path) -> None:
    """RequestToken fails after the token has been used, so the caller must not send the token again."""
    async with running(tmp_path) as service:
        zoom = service.simulator.zoom
        supplied = issued(service.simulator).refresh_token
        service.simulator.faults.add(Fault("users_me", "status", status=503))
        request = pb.RequestTokenRequest(user_email=MONICA, refresh_token=supplied)
        rejection = await service.error_of(service.auth.RequestToken, request)
        assert rejection.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
        assert "do not send this refresh token again" in rejection.message
        await wait_until_empty(service)
        assert (await get_connection(service)).state == STATE.STATE_ACTIVE
        assert zoom.counters["revoke.known"] == 0


async def test_corrupt_entry_does_not_prevent_startup(tmp_path: Path) -> None:
    """The corrupt file is preserved, and other entries are stored."""
    async with stopped(tmp_path) as zoom:
        damaged = tmp_path / "journal" / f"{'0' * 32}.entry"
        damaged.write_bytes(b"\x01broken")
        await write_journal(zoom, tmp_path, entry(issued(zoom)))
        async with serving(zoom, tmp_path) as service:
            async with asyncio.timeout(SECONDS):
                while len(list(damaged.parent.glob("*.entry"))) > 1:
                    await asyncio.sleep(0.01)
            assert (await get_connection(service)).state == STATE.STATE_ACTIVE
    assert damaged.read_bytes() == b"\x01broken"
