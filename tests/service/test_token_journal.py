"""What a service does with tokens that a process which was killed left in the journal."""

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
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Kind, RecordKey
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.oauth import OAuthClient
from zoomgate_server.zoom.token_outcome import TokenOutcome

REDIRECT = "http://127.0.0.1/x"
STATE = connection_pb2.Connection.State


def issued(zoom: Simulator, user: str = MONICA) -> TokenPair:
    """Tokens that Zoom issued to a process which was killed then."""
    code = zoom.zoom.issue_code(zoom.zoom.users[user], REDIRECT)
    return pair(zoom, zoom.zoom.exchange(code, REDIRECT, ""))


def pair(zoom: Simulator, answer: dict[str, Any]) -> TokenPair:
    """A pair as it goes into the journal."""
    now = zoom.zoom.wall()
    access, refresh = answer["access_token"], answer["refresh_token"]
    return TokenPair(access, refresh, "bearer", answer["scope"], "", now + answer["expires_in"], now)


def entry(tokens: TokenPair, user: str = MONICA, **fields: Any) -> Entry:
    """An entry of a consent to a record that was not there."""
    given: dict[str, Any] = {"grant": "", "generation": 0, "initiated_by": "key|service"} | fields
    return Entry("ab" * 16, given.pop("origin", Origin.CONSENT), user, tokens=tokens, **given)


async def leave(zoom: Simulator, data_dir: Path, left: Entry) -> None:
    """Leave an entry as a process does that is killed."""
    async with journal(zoom, data_dir) as dead:
        assert await dead.append(left)


@asynccontextmanager
async def journal(zoom: Simulator, data_dir: Path) -> AsyncIterator[TokenJournal]:
    """The journal of another process."""
    opened = TokenJournal(
        data_dir / "journal",
        app=f"loopback|{zoom.options.client_id}",
        ring=key_file.load(data_dir / "keys.json"),
        observer=Metrics("0", []),
    )
    assert await opened.prepare()
    yield opened
    await opened.close()


@asynccontextmanager
async def stopped(data_dir: Path, *, connected: bool = False) -> AsyncIterator[Simulator]:
    """A Zoom, and a data folder whose service is not running."""
    async with Simulator(SimulatorOptions(port=0)) as zoom:
        async with serving(zoom, data_dir) as service:
            if connected:
                await service.connect(MONICA)
        yield zoom


async def settled(service: Harness) -> None:
    """Wait until the journal is empty."""
    async with asyncio.timeout(SECONDS):
        while list((service.data_dir / "journal").glob("*.entry")):
            await asyncio.sleep(0.01)


async def shown(service: Harness, user: str = MONICA) -> Any:
    """The connection of a user."""
    wanted = pb.GetConnectionRequest(user_email=user)
    return (await service.call(service.auth.GetConnection, wanted, "admin")).connection


@pytest.mark.parametrize("origin", [Origin.CONSENT, Origin.IMPORT])
async def test_a_consent_whose_process_was_killed_is_stored_at_the_next_start(
    tmp_path: Path, origin: Origin
) -> None:
    """What Zoom issued for a code or for a token that was brought becomes the connection it was meant for."""
    async with stopped(tmp_path) as zoom:
        tokens = issued(zoom)
        await leave(zoom, tmp_path, entry(tokens, origin=origin))
        async with serving(zoom, tmp_path) as service:
            await settled(service)
            connection = await shown(service)
            token = (await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
    assert (connection.state, connection.generation) == (STATE.STATE_ACTIVE, 1)
    assert token.access_token == tokens.access_token


async def test_a_refresh_whose_process_was_killed_is_stored_at_the_next_start(tmp_path: Path) -> None:
    """What Zoom issued for the stored refresh token becomes its next generation, and the person need not consent."""
    async with stopped(tmp_path, connected=True) as zoom:
        record = await stored(tmp_path, zoom)
        tokens = pair(zoom, zoom.zoom.refresh(zoom.zoom.grants[MONICA].refresh_token))
        refresh = Entry("cd" * 16, Origin.REFRESH, MONICA, record.grant, record.generation, tokens)
        await leave(zoom, tmp_path, refresh)
        async with serving(zoom, tmp_path) as service:
            await settled(service)
            token = (await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
    assert (token.generation, token.access_token) == (2, tokens.access_token)


async def stored(data_dir: Path, zoom: Simulator) -> ConnectionRecord:
    """The record of a user, as the store has it."""
    app = f"loopback|{zoom.options.client_id}"
    store = await SqliteStore.open(data_dir / "zoomgate.db", time.time)
    record, _ = await store.get(RecordKey(app, Kind.USER, MONICA))
    await store.close()
    assert record is not None
    return connection_record.decode(Envelope(app=app, keys=key_file.load(data_dir / "keys.json")), record)


async def test_tokens_that_lay_long_are_renewed_first(tmp_path: Path) -> None:
    """When the access token has expired in the journal, the refresh token is spent for a new pair, which is in the journal before that."""
    async with stopped(tmp_path) as zoom:
        tokens = issued(zoom)
        zoom.zoom.expire(MONICA)
        await leave(zoom, tmp_path, entry(replace(tokens, access_expire_at=0.0)))
        async with serving(zoom, tmp_path) as service:
            await settled(service)
            assert (await shown(service)).state == STATE.STATE_ACTIVE
        assert zoom.zoom.grants[MONICA].used_refresh_tokens == [tokens.refresh_token]


async def test_tokens_that_are_stored_already_are_not_renewed(tmp_path: Path) -> None:
    """A process was killed between the store's confirmation and the journal's: an hour later the stored token must not be spent for it."""
    async with stopped(tmp_path) as zoom:
        left = entry(issued(zoom))
        await leave(zoom, tmp_path, left)
        async with serving(zoom, tmp_path) as service:
            await settled(service)
        zoom.zoom.expire(MONICA)
        await leave(zoom, tmp_path, replace(left, tokens=replace(left.tokens, access_expire_at=0.0)))
        async with serving(zoom, tmp_path, environ={"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"}) as service:
            await settled(service)
            assert zoom.zoom.grants[MONICA].used_refresh_tokens == []
            await service.call(service.auth.RefreshToken, pb.RefreshTokenRequest(user_email=MONICA))


@pytest.mark.parametrize("expired", [False, True])
async def test_a_newer_consent_stays(tmp_path: Path, expired: bool) -> None:
    """An entry from before a consent that was stored meanwhile is forgotten without a word to Zoom: to revoke it could end the consent."""
    async with stopped(tmp_path) as zoom:
        early = issued(zoom)
        async with serving(zoom, tmp_path) as service:
            await service.connect(MONICA)
        await leave(zoom, tmp_path, entry(replace(early, access_expire_at=0.0) if expired else early))
        asked = dict(zoom.zoom.counters)
        async with serving(zoom, tmp_path) as service:
            await settled(service)
            connection = await shown(service)
            assert (connection.state, connection.generation) == (STATE.STATE_ACTIVE, 1)
            await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))
        assert dict(zoom.zoom.counters) == asked


async def test_a_renewal_outlives_the_service_that_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Zoom answers to the renewal of an entry while the service is stopped is stored, or in the journal for the next one."""
    draining, real_refresh, real_drain = asyncio.Event(), OAuthClient.refresh, Refresher.drain

    async def refresh(self: OAuthClient, refresh_token: str) -> TokenOutcome:
        asked.set()
        outcome = await real_refresh(self, refresh_token)
        await draining.wait()
        return outcome

    async def drain(self: Refresher, seconds: float) -> bool:
        draining.set()
        return await real_drain(self, seconds)

    async with stopped(tmp_path) as zoom:
        tokens = issued(zoom)
        zoom.zoom.expire(MONICA)
        await leave(zoom, tmp_path, entry(replace(tokens, access_expire_at=0.0)))
        asked = asyncio.Event()
        with monkeypatch.context() as patch:
            patch.setattr(OAuthClient, "refresh", refresh)
            patch.setattr(Refresher, "drain", drain)
            async with serving(zoom, tmp_path):
                await asked.wait()
        async with serving(zoom, tmp_path) as service:
            await settled(service)
            assert (await shown(service)).state == STATE.STATE_ACTIVE
        assert zoom.zoom.counters["token.refresh_token.refused"] == 0


async def test_tokens_of_somebody_else_are_not_stored(tmp_path: Path) -> None:
    """An entry whose tokens are another person's connects nobody, and they are revoked."""
    async with stopped(tmp_path) as zoom:
        await leave(zoom, tmp_path, entry(issued(zoom, OMAR)))
        async with serving(zoom, tmp_path) as service:
            await settled(service)
            refusal = await service.refusal(
                service.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA), "admin"
            )
            assert refusal.code.name == "NOT_FOUND"
        assert zoom.zoom.counters["revoke.known"]


async def test_a_token_that_was_brought_survives_a_zoom_that_does_not_say_whose_it_is(tmp_path: Path) -> None:
    """RequestToken spends the token; if Zoom then fails, the caller is told not to send it again, and the connection comes by itself."""
    async with running(tmp_path) as service:
        zoom = service.simulator.zoom
        brought = issued(service.simulator).refresh_token
        service.simulator.faults.add(Fault("users_me", "status", status=503))
        wanted = pb.RequestTokenRequest(user_email=MONICA, refresh_token=brought)
        refusal = await service.refusal(service.auth.RequestToken, wanted)
        assert refusal.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
        assert "do not send this token again" in refusal.message
        await settled(service)
        assert (await shown(service)).state == STATE.STATE_ACTIVE
        assert zoom.counters["revoke.known"] == 0


async def test_a_damaged_entry_stops_no_start(tmp_path: Path) -> None:
    """A file that cannot be opened is counted and left; the rest is stored."""
    async with stopped(tmp_path) as zoom:
        damaged = tmp_path / "journal" / f"{'0' * 32}.entry"
        damaged.write_bytes(b"\x01broken")
        await leave(zoom, tmp_path, entry(issued(zoom)))
        async with serving(zoom, tmp_path) as service:
            async with asyncio.timeout(SECONDS):
                while len(list(damaged.parent.glob("*.entry"))) > 1:
                    await asyncio.sleep(0.01)
            assert (await shown(service)).state == STATE.STATE_ACTIVE
    assert damaged.read_bytes() == b"\x01broken"
