"""Tests for watches of connections over gRPC, with both stores."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from security import http2
from support.harness import MONICA, OMAR, Harness, RpcError, caller_key, metadata, running, service, serving
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.identity import Principal, UserPatterns
from zoomgate_server.rpc.middleware import pipeline
from zoomgate_server.rpc.middleware.authentication import CallerKeys
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import background_tasks
from zoomgate_server.watch import change_feed, watchers

SECONDS = 20.0
Response = pb.WatchConnectionsResponse


@pytest.fixture
def environ(store_environ: dict[str, str]) -> dict[str, str]:
    """Return settings with a shared store and without a limit on forced refreshes."""
    return {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"} | store_environ


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll for changes more often than once per second."""
    monkeypatch.setattr(change_feed, "POLL_INTERVAL", 0.02)
    monkeypatch.setattr(watchers, "PAUSE_SECONDS", 0.02)


@pytest.fixture
async def zoomgate(environ: dict[str, str], tmp_path: Path) -> AsyncIterator[Harness]:
    """Run a service."""
    async with running(tmp_path / "data", environ=environ) as started:
        yield started


class Watch:
    """A watch with its latest event.

    Attributes:
        token: The latest resume token.
        last: The type and user of the latest event.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self.token = ""
        self.last = ("", "")

    async def event(self) -> Response:
        """Return the next event."""
        async with asyncio.timeout(SECONDS):
            event = await self._call.read()
        assert isinstance(event, Response), f"the watch ended: {await self._call.code()}"
        assert event.resume_token
        self.token, self.last = event.resume_token, type_and_user(event)
        return event

    async def next(self) -> tuple[str, str]:
        """Return the type and user of the next event."""
        return type_and_user(await self.event())

    async def until_synced(self) -> list[tuple[str, str]]:
        """Return the type and user of all events before the next SYNCED."""
        events = []
        while (event := await self.next()) != ("SYNCED", ""):
            events.append(event)
        return events

    async def error(self) -> RpcError:
        """Read all remaining events and return the error that ends the watch."""
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    event = await self._call.read()
                    self.token = event.resume_token
                    self.last = type_and_user(event)
        except grpc.aio.AioRpcError as error:
            return RpcError.of(error)

    async def cancel(self) -> None:
        """Cancel the call."""
        self._call.cancel()


def type_and_user(event: Response) -> tuple[str, str]:
    """Return the type and user of an event."""
    return Response.Type.Name(event.type).removeprefix("TYPE_"), event.connection.user_email


@asynccontextmanager
async def watching(
    zoomgate: Harness, users: Iterable[str] = (), token: str = "", caller: str = "admin"
) -> AsyncIterator[Watch]:
    """Start a watch and cancel it at the end."""
    request = pb.WatchConnectionsRequest(user_emails=users, resume_token=token)
    watch = Watch(zoomgate.auth.WatchConnections(request, metadata=metadata(caller)))
    try:
        yield watch
    finally:
        await watch.cancel()


async def refresh(zoomgate: Harness, user: str = MONICA) -> int:
    """Refresh a user's token and return its generation."""
    response = await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))
    return int(response.token.generation)


async def disconnect(zoomgate: Harness, user: str = MONICA) -> None:
    """Disconnect a user."""
    await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=user))


async def test_watch_reports_the_life_of_a_connection(zoomgate: Harness) -> None:
    """A consent, a refresh, a disconnection and a new consent are each reported as one event, after the existing connections."""
    await zoomgate.connect(OMAR)
    async with watching(zoomgate) as watch:
        assert await watch.until_synced() == [("INITIAL", OMAR)]
        await zoomgate.connect()
        created = await watch.event()
        assert type_and_user(created) == ("CREATED", MONICA)
        assert created.connection.state == Connection.STATE_ACTIVE
        assert created.connection.scopes
        generation = await refresh(zoomgate)
        updated = await watch.event()
        assert (type_and_user(updated), updated.connection.generation) == (("UPDATED", MONICA), generation)
        await disconnect(zoomgate)
        deleted = await watch.event()
        assert type_and_user(deleted) == ("DELETED", MONICA)
        assert deleted.connection.state == Connection.STATE_DISCONNECTED
        await zoomgate.connect()
        assert await watch.next() == ("CREATED", MONICA)


async def test_change_during_a_slow_read_is_reported_as_updated(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is slow, a connection that has already been reported is never reported as created again."""
    await zoomgate.connect()
    async with watching(zoomgate) as watch:
        assert await watch.until_synced() == [("INITIAL", MONICA)]
        read, changes = ConnectionRepository.read_readable, ConnectionRepository.changes
        reading, proceed, polls = asyncio.Event(), asyncio.Event(), 0

        async def slow_read(self: ConnectionRepository, user_email: str) -> Any:
            record = await read(self, user_email)
            reading.set()
            await proceed.wait()
            return record

        async def counted_changes(self: ConnectionRepository, since: float, limit: int) -> Any:
            nonlocal polls
            result = await changes(self, since, limit)
            polls += 1
            return result

        monkeypatch.setattr(ConnectionRepository, "read_readable", slow_read)
        await refresh(zoomgate)
        await reading.wait()
        generation = await refresh(zoomgate)
        monkeypatch.setattr(ConnectionRepository, "changes", counted_changes)
        while polls < 2:  # the first poll may have read before the second refresh was stored
            await asyncio.sleep(0.01)
        proceed.set()
        updated = await watch.event()
        while updated.connection.generation < generation:
            assert type_and_user(updated) == ("UPDATED", MONICA)
            updated = await watch.event()
        assert type_and_user(updated) == ("UPDATED", MONICA)


async def test_change_read_early_for_one_watch_is_sent_to_other_watches(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow read for one change may already return the next change. A watch started between the two changes must receive the second."""
    await zoomgate.connect()
    async with watching(zoomgate) as first:
        await first.until_synced()
    async with watching(zoomgate, token=first.token) as slow:
        await slow.until_synced()  # after this event, the change feed has already read the consent
        read, changes = ConnectionRepository.read_readable, ConnectionRepository.changes
        reading, proceed, poll_allowed = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def late_read(self: ConnectionRepository, user_email: str) -> Any:
            reading.set()
            await proceed.wait()
            return await read(self, user_email)

        async def gated_changes(self: ConnectionRepository, since: float, limit: int) -> Any:
            while not poll_allowed.is_set():
                poll_blocked.set()
                await poll_allowed.wait()
            return await changes(self, since, limit)

        poll_blocked = asyncio.Event()
        monkeypatch.setattr(ConnectionRepository, "read_readable", late_read)
        monkeypatch.setattr(ConnectionRepository, "changes", gated_changes)
        await poll_blocked.wait()
        await refresh(zoomgate)
        poll_allowed.set()
        await reading.wait()
        async with watching(zoomgate) as other:
            assert await other.until_synced() == [("INITIAL", MONICA)]
            poll_allowed.clear()
            generation = await refresh(zoomgate)
            proceed.set()
            while (await slow.event()).connection.generation < generation:
                pass
            poll_allowed.set()
            while (await other.event()).connection.generation < generation:
                pass


async def test_watch_reports_changes_by_other_processes(zoomgate: Harness, environ: dict[str, str]) -> None:
    async with (
        serving(zoomgate.simulator, zoomgate.data_dir, environ) as other,
        watching(other, [MONICA], caller="service") as watch,
    ):
        assert await watch.until_synced() == []
        await zoomgate.connect()
        assert await watch.next() == ("CREATED", MONICA)
        await disconnect(zoomgate)
        assert await watch.next() == ("DELETED", MONICA)


async def test_resumed_watch_misses_no_event(zoomgate: Harness) -> None:
    """The resumed watch reports every change since the token, including disconnections, and sends no initial events."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    async with watching(zoomgate) as watch:
        assert await watch.until_synced() == [("INITIAL", MONICA), ("INITIAL", OMAR)]
        token = watch.token
    generation = await refresh(zoomgate)
    await disconnect(zoomgate, OMAR)
    async with watching(zoomgate, token=token) as watch:
        events = {}
        while type_and_user(event := await watch.event()) != ("SYNCED", ""):
            events[event.connection.user_email] = event
        assert events[MONICA].connection.generation == generation
        assert type_and_user(events[OMAR]) == ("DELETED", OMAR)
        assert "INITIAL" not in {type_and_user(event)[0] for event in events.values()}


async def test_resume_in_a_process_started_later_misses_no_event(
    zoomgate: Harness, environ: dict[str, str], tmp_path: Path
) -> None:
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        token = watch.token
    await zoomgate.connect()
    async with (
        serving(zoomgate.simulator, zoomgate.data_dir, environ) as other,
        watching(other, token=token) as watch,
    ):
        assert await watch.until_synced() == [("CREATED", MONICA)]


async def test_interrupted_snapshot_resumes_after_the_last_user(zoomgate: Harness) -> None:
    """If a user was reported before the interruption and has changed since, the change is also reported."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    async with watching(zoomgate) as watch:
        assert await watch.next() == ("INITIAL", MONICA)
        token = watch.token
    await disconnect(zoomgate)
    async with watching(zoomgate, token=token) as watch:
        events = await watch.until_synced()
        assert events[0] == ("INITIAL", OMAR)
        assert ("DELETED", MONICA) in events


async def test_changes_trimmed_from_the_log_are_read_from_the_store(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch resumed with an old token reads the missed changes from the store in pages, and then continues with live changes."""
    monkeypatch.setattr(watchers, "CHANGES_PAGE", 1)
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        token = watch.token
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    monkeypatch.setattr(change_feed.ChangeFeed, "resume", lambda *_: False)
    async with watching(zoomgate, token=token) as watch:
        assert set(await watch.until_synced()) == {("CREATED", MONICA), ("CREATED", OMAR)}
        await disconnect(zoomgate)
        assert await watch.next() == ("DELETED", MONICA)


async def test_resume_token_is_bound_to_caller_and_users(zoomgate: Harness) -> None:
    """A resume token is rejected if it was modified, or is used by a different caller or for different users."""
    async with watching(zoomgate, [MONICA], caller="service") as watch:
        await watch.until_synced()
        token = watch.token

    async def rejection(users: Iterable[str], token: str, caller: str) -> str:
        request = pb.WatchConnectionsRequest(user_emails=users, resume_token=token)
        return (await zoomgate.error_of(zoomgate.auth.WatchConnections, request, caller)).reason

    assert await rejection([MONICA], token, "admin") == "INVALID_RESUME_TOKEN"
    assert await rejection([OMAR], token, "service") == "INVALID_RESUME_TOKEN"
    assert await rejection([], token, "service") == "INVALID_RESUME_TOKEN"
    assert await rejection([MONICA], token[:-2] + "zz", "service") == "INVALID_RESUME_TOKEN"


@pytest.mark.parametrize("days", [30, -1])
async def test_token_outside_the_retention_time_is_rejected(
    zoomgate: Harness, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume token older than the retention period of tombstones, or from the future, is rejected with OUT_OF_RANGE and a remedy."""
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        token = watch.token
    monkeypatch.setattr(watchers, "TOMBSTONE_SECONDS", 0.0 if days > 0 else 1e9)
    if days < 0:
        monkeypatch.setattr(watchers, "MAX_VISIBILITY_DELAY", -1e9)
    request = pb.WatchConnectionsRequest(resume_token=token)
    rejection = await zoomgate.error_of(zoomgate.auth.WatchConnections, request, "admin")
    assert rejection.short == ("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED")
    assert "watch again without one" in rejection.message


async def test_watch_ended_by_shutdown_can_be_resumed_elsewhere(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """The watch ends with SYNCED and SHUTTING_DOWN, and its last token is valid in a different process."""
    async with running(tmp_path / "data", environ=environ) as first:
        async with AsyncExitStack() as stack:
            async with serving(first.simulator, first.data_dir, environ) as second:
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(second.grpc_address))
                call = AuthServiceStub(channel).WatchConnections(
                    pb.WatchConnectionsRequest(), metadata=metadata("admin")
                )
                watch = Watch(call)
                await watch.until_synced()
                error = asyncio.create_task(watch.error())
            rejection = await error
        assert rejection.short == ("UNAVAILABLE", "SHUTTING_DOWN")
        assert rejection.retry_after is not None
        assert watch.last == ("SYNCED", "")
        await first.connect()
        async with watching(first, token=watch.token) as resumed:
            assert await resumed.until_synced() == [("CREATED", MONICA)]


async def test_idle_watch_renews_its_resume_token(zoomgate: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing changes, a watch periodically sends SYNCED with a new token."""
    monkeypatch.setattr(watchers, "IDLE_SECONDS", 0.05)
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        first = watch.token
        assert await watch.until_synced() == []
        assert watch.token != first


async def test_watch_has_no_maximum_duration(zoomgate: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maximum duration of other calls does not apply to watches."""
    monkeypatch.setattr("zoomgate_server.rpc.middleware.authentication.DEFAULT_SECONDS", -1.0)
    monkeypatch.setattr("zoomgate_server.rpc.middleware.authentication.MAX_SECONDS", -1.0)
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        monkeypatch.undo()
        await zoomgate.connect()
        assert await watch.next() == ("CREATED", MONICA)


async def test_watch_is_limited_to_the_users_of_the_caller(zoomgate: Harness) -> None:
    """Without names, a service receives events about all users that it may access. Other users in the request are rejected."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    async with watching(zoomgate, caller="omars") as watch:
        assert await watch.until_synced() == [("INITIAL", OMAR)]
        await refresh(zoomgate, MONICA)
        await refresh(zoomgate, OMAR)
        assert await watch.next() == ("UPDATED", OMAR)
    rejection = await zoomgate.error_of(
        zoomgate.auth.WatchConnections, pb.WatchConnectionsRequest(user_emails=[OMAR, MONICA]), "omars"
    )
    assert rejection.reason == "CALLER_NOT_ALLOWED"


async def test_watches_above_the_limit_are_rejected(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new watch is accepted once one of the existing watches has ended."""
    monkeypatch.setattr(watchers, "MAX_WATCHES", 1)
    request = pb.WatchConnectionsRequest()
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        rejection = await zoomgate.error_of(zoomgate.auth.WatchConnections, request, "admin")
        assert rejection.short == ("RESOURCE_EXHAUSTED", "SERVER_OVERLOADED")
        assert rejection.metadata == {"limit": "watches"}
    await wait_until_accepted(zoomgate)


async def wait_until_accepted(zoomgate: Harness) -> None:
    """Wait until the service accepts an additional watch."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            await zoomgate.call(zoomgate.auth.WatchConnections, pb.WatchConnectionsRequest(), "admin")
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("the service never accepted an additional watch")


async def test_unread_watch_is_ended(zoomgate: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller with an open connection that reads no events does not block other watches forever."""
    monkeypatch.setattr(watchers, "MAX_WATCHES", 1)
    monkeypatch.setattr(pipeline, "WRITE_TIMEOUT_SECONDS", 0.1)
    await zoomgate.connect()
    headers = http2.request_headers("/zoomgate.v1.AuthService/WatchConnections", metadata("admin"))
    async with http2.connection(zoomgate.grpc_address) as bare:
        await bare.send(
            http2.PREFACE,
            http2.settings((http2.INITIAL_WINDOW_SIZE, 0)),
            http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.header_block(headers)),
            http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(b"")),
        )
        async for kind, _, stream, _ in bare.frames():
            if (kind, stream) == (http2.HEADERS, 1):  # the response headers show that the watch has started
                break
        await wait_until_accepted(zoomgate)


@pytest.mark.parametrize(
    ("principal", "names", "reason"),
    [
        (None, [], "CALLER_UNAUTHENTICATED"),
        (service("omars", methods=frozenset({"AuthService.GetToken"})), [], "CALLER_NOT_ALLOWED"),
        (service("omars", users=UserPatterns(addresses=frozenset({MONICA}))), [OMAR], "CALLER_NOT_ALLOWED"),
    ],
    ids=["key removed", "method removed", "user removed"],
)
async def test_watch_ends_when_the_caller_loses_access(
    zoomgate: Harness,
    monkeypatch: pytest.MonkeyPatch,
    principal: Principal | None,
    names: list[str],
    reason: str,
) -> None:
    """Access is checked before every event, so no event is sent after the policy change."""
    await zoomgate.connect(OMAR)
    async with watching(zoomgate, names, caller="omars") as watch:
        assert await watch.until_synced() == [("INITIAL", OMAR)]
        error = asyncio.create_task(watch.error())
        bearer = service("service")
        monkeypatch.setattr(
            CallerKeys, "bearer", lambda _, key: principal if key.endswith(caller_key("omars")) else bearer
        )
        await refresh(zoomgate, OMAR)
        assert (await error).reason == reason
        assert watch.last == ("SYNCED", "")


async def test_watch_survives_a_store_outage(zoomgate: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes that a watch could not read during an outage are reported once the store is available again."""
    await zoomgate.connect()
    async with watching(zoomgate) as watch:
        assert await watch.until_synced() == [("INITIAL", MONICA)]
        failed = asyncio.Event()

        async def fail(*_: Any) -> Any:
            failed.set()
            raise StoreError("injected")

        monkeypatch.setattr(ConnectionRepository, "read_readable", fail)
        await zoomgate.connect(OMAR)
        await failed.wait()
        failed.clear()
        monkeypatch.setattr(ConnectionRepository, "changes", fail)
        await failed.wait()
        await disconnect(zoomgate)
        monkeypatch.undo()
        assert {await watch.next(), await watch.next()} == {("CREATED", OMAR), ("DELETED", MONICA)}


async def test_watch_survives_an_unexpected_error_in_a_poll(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polling restarts after a pause. A watch resumed in the meantime is rejected with STORE_UNAVAILABLE instead of waiting forever."""
    monkeypatch.setattr(background_tasks, "FIRST_PAUSE_SECONDS", 0.02)
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        failed = asyncio.Event()

        async def fail(*_: Any) -> Any:
            failed.set()
            raise RuntimeError("injected")

        monkeypatch.setattr(ConnectionRepository, "changes", fail)
        await failed.wait()
        resume = pb.WatchConnectionsRequest(resume_token=watch.token)
        rejection = await zoomgate.error_of(zoomgate.auth.WatchConnections, resume, "admin")
        assert rejection.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        await zoomgate.connect()
        monkeypatch.undo()
        assert await watch.next() == ("CREATED", MONICA)


async def test_new_watch_fails_if_the_store_is_unavailable(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreError("injected")

    monkeypatch.setattr(ConnectionRepository, "page", fail)
    rejection = await zoomgate.error_of(zoomgate.auth.WatchConnections, pb.WatchConnectionsRequest(), "admin")
    assert rejection.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")


async def test_resumed_watch_fails_if_the_store_is_unavailable(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same resume token is accepted once the store is available again."""
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        token = watch.token

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreError("injected")

    request = pb.WatchConnectionsRequest(resume_token=token)
    with monkeypatch.context() as patch:
        patch.setattr(ConnectionRepository, "changes", fail)
        rejection = await zoomgate.error_of(zoomgate.auth.WatchConnections, request, "admin")
    assert rejection.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    await zoomgate.connect()
    async with watching(zoomgate, token=token) as watch:
        assert await watch.until_synced() == [("CREATED", MONICA)]


async def test_access_is_checked_after_a_delayed_read(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that loses access while the store is unavailable receives no event after the outage."""
    await zoomgate.connect(OMAR)
    async with watching(zoomgate, caller="omars") as watch:
        assert await watch.until_synced() == [("INITIAL", OMAR)]
        failed = asyncio.Event()

        async def fail(*_: Any) -> Any:
            failed.set()
            raise StoreError("injected")

        with monkeypatch.context() as outage:
            outage.setattr(ConnectionRepository, "read_readable", fail)
            await refresh(zoomgate, OMAR)
            await failed.wait()
            bearer = service("service")
            monkeypatch.setattr(
                CallerKeys, "bearer", lambda _, key: None if key.endswith(caller_key("omars")) else bearer
            )
        assert (await watch.error()).reason == "CALLER_UNAUTHENTICATED"
        assert watch.last == ("SYNCED", "")
