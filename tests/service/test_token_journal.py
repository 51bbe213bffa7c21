"""Tests for journal recovery: how a service processes journaled tokens of a killed process."""

import asyncio
import fcntl
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from support.faulty_store import Gate
from support.file_modes import enforced_file_modes
from support.harness import BASIL, MONICA, OMAR, SECONDS, Harness, running, serving
from zoom_simulator import Simulator, SimulatorOptions
from zoom_simulator.faults import Fault
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import connection_pb2
from zoomgate_server.app.timing import Timing
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections import disconnection, journal_recovery
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.token_journal import Entry, Origin, TokenJournal
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption import key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import Kind, Record, StoreError
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.telemetry.metrics import Metrics

REDIRECT = "http://127.0.0.1/x"
STATE = connection_pb2.Connection.State
POLLING_OFTEN = Timing(recovery=journal_recovery.Timing(poll_interval=0.01))
DAY = 86_400.0


class SkippingClock(SystemClock):
    """The system clock, whose monotonic time a test can set forward.

    Attributes:
        skipped: Seconds by which the monotonic time is set forward.
    """

    skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped


def issued(zoom: Simulator, user: str = MONICA) -> TokenPair:
    """Return tokens that Zoom has issued and no service has stored."""
    code = zoom.zoom.issue_code(zoom.zoom.users[user], REDIRECT)
    return pair(zoom, zoom.zoom.exchange(code, REDIRECT, ""))


def pair(zoom: Simulator, response: dict[str, Any]) -> TokenPair:
    """Return the token pair of a token response."""
    now = zoom.zoom.wall()
    access, refresh = response["access_token"], response["refresh_token"]
    return TokenPair(access, refresh, response["scope"], now + response["expires_in"], now)


def entry(tokens: TokenPair, user: str = MONICA, **fields: Any) -> Entry:
    """Return the journal entry of a consent; by default for a user without a record."""
    attributes: dict[str, Any] = {
        "grant": "",
        "generation": 0,
        "initiated_by": "key|service",
        "marked_at": time.time(),
    } | fields
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
        refresh = Entry(
            "cd" * 16, Origin.REFRESH, MONICA, tokens, record.grant, record.generation, record.zoom_user_id
        )
        await write_journal(zoom, tmp_path, refresh)
        async with serving(zoom, tmp_path) as service:
            await wait_until_empty(service)
            token = (await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
    assert (token.generation, token.access_token) == (2, tokens.access_token)


async def stored(data_dir: Path, zoom: Simulator) -> ConnectionRecord:
    """Read a user's record from the store."""
    app = f"loopback|{zoom.options.client_id}"
    store = await SqliteStore.open(data_dir / "zoomgate.db", time.time)
    record, _ = await store.find(app, MONICA)
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
    """The entry is deleted once Zoom has rejected its tokens. Nothing is revoked, because that could end the newer grant."""
    async with stopped(tmp_path) as zoom:
        early = issued(zoom)
        async with serving(zoom, tmp_path) as service:
            await service.connect(MONICA)
        await write_journal(zoom, tmp_path, entry(replace(early, access_expire_at=0.0) if expired else early))
        async with serving(zoom, tmp_path) as service:
            await wait_until_empty(service)
            connection = await get_connection(service)
            assert (connection.state, connection.generation) == (STATE.STATE_ACTIVE, 1)
            token = (await service.call(service.auth.GetToken, pb.GetTokenRequest(user_email=MONICA))).token
        assert token.access_token in zoom.zoom.access_tokens
        assert zoom.zoom.counters["token.refresh_token.refused"] == 1
        assert zoom.zoom.counters["revoke.known"] + zoom.zoom.counters["revoke.unknown"] == 0


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
        timing = Timing(disconnections=disconnection.Timing(retry_interval=0.05))
        async with serving(zoom, tmp_path, timing=timing) as service:
            await wait_until_empty(service)
            rejection = await service.error_of(
                service.auth.GetConnection, pb.GetConnectionRequest(user_email=MONICA), "admin"
            )
            assert rejection.code.name == "NOT_FOUND"
            async with asyncio.timeout(SECONDS):
                while not zoom.zoom.grants[OMAR].revoked:
                    await asyncio.sleep(0.01)


async def test_supplied_token_is_stored_later_if_zoom_cannot_confirm_its_user(tmp_path: Path) -> None:
    """RequestToken fails after the token has been used, so the token is not sent to Zoom again. A later call returns the result."""
    async with running(tmp_path) as service:
        zoom = service.simulator.zoom
        supplied = issued(service.simulator).refresh_token
        service.simulator.faults.add(Fault("users_me", "status", times=-1, status=503))
        request = pb.RequestTokenRequest(user_email=MONICA, refresh_token=supplied)
        for _ in range(2):
            rejection = await service.error_of(service.auth.RequestToken, request)
            assert rejection.short == ("UNAVAILABLE", "ZOOM_UNAVAILABLE")
            assert "do not send the code or token again" in rejection.message
            assert rejection.retry_after
        service.simulator.faults.clear()
        await wait_until_empty(service)
        assert (await get_connection(service)).state == STATE.STATE_ACTIVE
        token = (await service.call(service.auth.RequestToken, request)).token
        assert (token.generation, token.access_token in zoom.access_tokens) == (1, True)
        assert (
            zoom.counters["token.refresh_token.issued"],
            zoom.counters["token.refresh_token.refused"],
        ) == (1, 0)
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


async def corrupt_entries(service: Harness) -> float:
    """Return the number of corrupt entries that the service has found."""
    name = "zoomgate_journal_corrupt_entries_total "
    async with aiohttp.ClientSession() as session, session.get(f"{service.http_url}/metrics") as page:
        (line,) = (line for line in (await page.text()).splitlines() if line.startswith(name))
    return float(line.removeprefix(name))


async def poll_twice(service: Harness) -> None:
    """Wait until the service has processed the entries that are due now. A poll counts each corrupt file when it first finds the file."""
    for _ in range(2):
        before, corrupt = (
            await corrupt_entries(service),
            service.data_dir / "journal" / f"{uuid4().hex}.entry",
        )
        corrupt.write_bytes(b"\x01corrupt")
        while await corrupt_entries(service) == before:
            await asyncio.sleep(0.01)
        corrupt.unlink()


async def test_each_deferred_entry_backs_off_alone(tmp_path: Path) -> None:
    """The pause doubles with each failure of an entry, and does not delay other entries. The user's consent lacks a scope at first."""
    timing = Timing(recovery=journal_recovery.Timing(0.01, first_pause=100.0, max_pause=300.0))
    clock = SkippingClock()
    async with stopped(tmp_path) as zoom:
        await write_journal(zoom, tmp_path, entry(issued(zoom)))
        scope, zoom.zoom.grants[MONICA].scope = zoom.zoom.grants[MONICA].scope, ""
        async with serving(zoom, tmp_path, timing=timing, clock=clock) as service:
            await poll_twice(service)
            failures = 1
            for pause in (100.0, 200.0, 300.0, 300.0):
                clock.skipped += pause - 50.0
                await poll_twice(service)
                assert service.stat("api.me.400") == failures
                clock.skipped += 50.0
                await poll_twice(service)
                failures += 1
                assert service.stat("api.me.400") == failures
            zoom.zoom.grants[MONICA].scope = scope
            await write_journal(zoom, tmp_path, replace(entry(issued(zoom, OMAR), OMAR), entry_id="0" * 32))
            await poll_twice(service)
            assert (await get_connection(service, OMAR)).state == STATE.STATE_ACTIVE
            clock.skipped += 300.0
            await poll_twice(service)
            assert (await get_connection(service)).state == STATE.STATE_ACTIVE


async def test_deferred_entry_waits_as_long_as_zoom_requests(tmp_path: Path) -> None:
    """Zoom's pause is until the next day but one; at most an hour is accepted."""
    clock = SkippingClock()
    async with Simulator(SimulatorOptions(port=0), wall=lambda: time.time() + DAY) as zoom:
        async with serving(zoom, tmp_path):
            pass
        tokens = replace(issued(zoom), obtained_at=time.time(), access_expire_at=time.time() + 7200)
        await write_journal(zoom, tmp_path, entry(tokens))
        zoom.faults.add(Fault("users_me", "rate_limit_daily"))
        async with serving(zoom, tmp_path, timing=POLLING_OFTEN, clock=clock) as service:
            await poll_twice(service)
            clock.skipped += 3500.0
            await poll_twice(service)
            request = pb.GetConnectionRequest(user_email=MONICA)
            rejection = await service.error_of(service.auth.GetConnection, request, "admin")
            assert rejection.code.name == "NOT_FOUND"
            clock.skipped += 100.0
            await poll_twice(service)
            assert (await get_connection(service)).state == STATE.STATE_ACTIVE


async def test_no_entry_is_sent_to_zoom_while_the_circuit_breaker_is_open(tmp_path: Path) -> None:
    """Zoom is rate limiting the refreshes of two other users."""
    clock = SkippingClock()
    async with running(tmp_path, timing=POLLING_OFTEN, clock=clock) as service:
        zoom = service.simulator
        for user in (MONICA, OMAR):
            await service.connect(user)
        zoom.faults.add(Fault("token", "rate_limit_daily", times=2))
        for user in (MONICA, OMAR):
            request = pb.RefreshTokenRequest(user_email=user)
            rejection = await service.error_of(service.auth.RefreshToken, request)
            assert rejection.reason == "ZOOM_RATE_LIMITED"
        tokens = issued(zoom, BASIL)
        zoom.zoom.expire(BASIL)
        before = dict(zoom.zoom.counters)
        await write_journal(zoom, tmp_path, entry(replace(tokens, access_expire_at=0.0), BASIL))
        await poll_twice(service)
        assert dict(zoom.zoom.counters) == before
        clock.skipped += 3600.0
        await poll_twice(service)
        assert (await get_connection(service, BASIL)).state == STATE.STATE_ACTIVE


async def test_tokens_of_a_crashed_refresh_are_stored_from_the_journal(tmp_path: Path) -> None:
    """The same process stores the tokens; otherwise, the next refresh would use a refresh token that Zoom has already exchanged."""
    async with running(tmp_path, timing=POLLING_OFTEN) as service:
        await service.connect()
        writes = 0

        async def crash_at_commit(put: Any, *arguments: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == 2:  # the first write is the lease
                raise RuntimeError("can't start new thread")
            return await put(*arguments)

        with service.store.intercept("put", crash_at_commit):
            request = pb.RefreshTokenRequest(user_email=MONICA)
            assert (await service.error_of(service.auth.RefreshToken, request)).code.name == "INTERNAL"
            await wait_until_empty(service)
        connection = await get_connection(service)
        assert (connection.state, connection.generation) == (STATE.STATE_ACTIVE, 2)
        assert service.stat("token.refresh_token.refused") == 0


async def test_tokens_of_a_crashed_account_linking_are_stored_from_the_journal(tmp_path: Path) -> None:
    async with running(tmp_path, timing=POLLING_OFTEN) as service:
        supplied = issued(service.simulator).refresh_token

        async def crash(put: Any, record: Record, *arguments: Any) -> Any:
            if record.key.kind is Kind.USER:
                raise RuntimeError("can't start new thread")
            return await put(record, *arguments)

        with service.store.intercept("put", crash):
            request = pb.RequestTokenRequest(user_email=MONICA, refresh_token=supplied)
            assert (await service.error_of(service.auth.RequestToken, request)).code.name == "INTERNAL"
        await wait_until_empty(service)
        assert (await get_connection(service)).state == STATE.STATE_ACTIVE
        assert service.stat("revoke.known") == 0


async def test_refresh_token_is_not_sent_if_the_exchange_cannot_be_marked(tmp_path: Path) -> None:
    """The store fails, or the process crashes, before the refresh token is sent. The call can be repeated."""
    async with running(tmp_path) as service:
        request = pb.RequestTokenRequest(
            user_email=MONICA, refresh_token=issued(service.simulator).refresh_token
        )
        for error, reason in (
            (StoreError("injected"), "STORE_UNAVAILABLE"),
            (RuntimeError("injected"), "INTERNAL"),
        ):

            async def crash(_put: Any, *_arguments: Any, error: Exception = error) -> Any:
                raise error

            with service.store.intercept("put", crash):
                assert (await service.error_of(service.auth.RequestToken, request)).reason == reason
            assert service.stat("token.refresh_token.issued") == 0
        await service.call(service.auth.RequestToken, request)
        assert service.stat("token.refresh_token.issued") == 1


async def test_entry_that_cannot_be_deleted_is_audited_once_and_deleted_later(tmp_path: Path) -> None:
    """The journal's directory becomes read-only while the tokens are being stored."""
    folder = tmp_path / "journal"
    with enforced_file_modes():
        async with running(tmp_path, timing=POLLING_OFTEN) as service:
            await service.connect()
            gate = Gate(after_effect=False, holds=lambda *_: bool(list(folder.glob("*.entry"))))
            with service.store.intercept("put", gate):
                request = pb.RefreshTokenRequest(user_email=MONICA)
                refreshing = asyncio.create_task(service.call(service.auth.RefreshToken, request))
                await gate.reached.wait()
                (stored,) = folder.glob("*.entry")
                corrupt = folder / f"{'f' * 32}.entry"
                with corrupt.open("wb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    folder.chmod(0o500)
                    gate.opened.set()
                    await refreshing
            while not await corrupt_entries(
                service
            ):  # reported by the first poll after its lock was released
                await asyncio.sleep(0.01)
            assert stored.exists()
            folder.chmod(0o700)
            while stored.exists():
                await asyncio.sleep(0.01)
    lines = map(json.loads, (tmp_path / "audit.jsonl").read_text(encoding="utf-8").splitlines())
    assert [line["action"] for line in lines].count("connection.refreshed") == 1
