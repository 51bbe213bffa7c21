"""Tests for watches of connections over gRPC, with both stores."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest

from security import http2
from support.faulty_store import Gate
from support.harness import (
    MONICA,
    OMAR,
    Harness,
    RpcError,
    caller_entry,
    metadata,
    running,
    serving,
    write_callers,
)
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.app.timing import Timing
from zoomgate_server.encryption import key_file, reloading_key_ring
from zoomgate_server.rpc.middleware import authentication, pipeline
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.watch import change_feed, watchers

SECONDS = 20.0
Response = pb.WatchConnectionsResponse


@pytest.fixture
def callers(tmp_path: Path) -> Path:
    """Return a callers file with the caller `guest`, who may act for Omar."""
    path = tmp_path / "callers.toml"
    write_callers(path, caller_entry("guest", "service", f'users = ["{OMAR}"]'))
    return path


@pytest.fixture
def environ(store_environ: dict[str, str], callers: Path) -> dict[str, str]:
    """Return settings with a shared store and without a limit on forced refreshes."""
    return {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0", "ZOOMGATE_CALLERS": str(callers)} | store_environ


@pytest.fixture
def reload() -> asyncio.Event:
    """Return the event that makes the services reload their files."""
    return asyncio.Event()


TIMING = Timing(
    key_ring=reloading_key_ring.Timing(poll_interval=0.02),
    feed=change_feed.Timing(poll_interval=0.02),
    watches=watchers.Timing(retry_interval=0.02),
)
"""Polls for changes more often than once per second."""

FREQUENT_SYNC = replace(TIMING, watches=watchers.Timing(idle=0.05, retry_interval=0.02))


@pytest.fixture
def timing() -> Timing:
    """Return the timing of the services."""
    return TIMING


@pytest.fixture
async def zoomgate(
    environ: dict[str, str], tmp_path: Path, timing: Timing, reload: asyncio.Event
) -> AsyncIterator[Harness]:
    """Run a service."""
    async with running(tmp_path / "data", environ=environ, timing=timing, reload=reload) as started:
        yield started


@pytest.fixture
async def other(
    zoomgate: Harness, environ: dict[str, str], timing: Timing, reload: asyncio.Event
) -> AsyncIterator[Harness]:
    """Run a second service with the same store."""
    async with serving(
        zoomgate.simulator, zoomgate.data_dir, environ, timing=timing, reload=reload
    ) as started:
        yield started


async def fail(*_: Any, **__: Any) -> Any:
    """Fail instead of a call of a store method."""
    raise StoreError("injected")


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
    zoomgate: Harness,
    users: Iterable[str] = (),
    token: str = "",
    caller: str = "admin",
    heartbeat: bool = False,
) -> AsyncIterator[Watch]:
    """Start a watch and cancel it at the end."""
    request = pb.WatchConnectionsRequest(user_emails=users, resume_token=token, heartbeat=heartbeat)
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


async def test_change_during_a_slow_read_is_reported_as_updated(zoomgate: Harness, other: Harness) -> None:
    """While the store is slow, a connection that has already been reported is never reported as created again."""
    await zoomgate.connect()
    async with watching(other) as watch:
        assert await watch.until_synced() == [("INITIAL", MONICA)]
        gate = Gate(after_effect=True)
        with other.store.intercept("find", gate):
            await refresh(zoomgate)
            await gate.reached.wait()
            generation = await refresh(zoomgate)
            gate.opened.set()
            generations = [0]
            while generations[-1] < generation:
                updated = await watch.event()
                assert type_and_user(updated) == ("UPDATED", MONICA)
                generations.append(updated.connection.generation)
        assert generations == sorted(generations)


@pytest.mark.parametrize("after_effect", [True, False])
async def test_watch_that_starts_during_a_slow_read_receives_the_latest_change(
    zoomgate: Harness, other: Harness, after_effect: bool
) -> None:
    """Two changes are made while the record is read for an earlier watch. Both watches receive the second one, in order."""
    await zoomgate.connect()
    async with watching(other) as early, watching(other) as late:
        await early.until_synced()
        gate = Gate(after_effect=after_effect)
        with other.store.intercept("find", gate):
            await refresh(zoomgate)
            await gate.reached.wait()
            started = asyncio.create_task(late.event())
            generation = await refresh(zoomgate)
            gate.opened.set()
            for watch, events in ((early, [await early.event()]), (late, [await started])):
                while events[-1].connection.generation < generation:
                    events.append(await watch.event())
                generations = [event.connection.generation for event in events if event.connection.user_email]
                assert generations == sorted(generations)


async def test_slow_read_does_not_delay_disconnections_by_other_processes(
    zoomgate: Harness, other: Harness
) -> None:
    """While a record is read for watches, the cached access token of a disconnected user is dropped."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    token_of_omar = pb.GetTokenRequest(user_email=OMAR)
    async with watching(other, [MONICA]) as watch:
        await watch.until_synced()
        await other.call(other.auth.GetToken, token_of_omar)
        gate = Gate(after_effect=False, holds=lambda _, user_email: user_email == MONICA)
        with other.store.intercept("find", gate):
            await refresh(zoomgate)
            await gate.reached.wait()
            await disconnect(zoomgate, OMAR)
            async with asyncio.timeout(SECONDS):
                while (
                    await other.auth.GetToken(token_of_omar, metadata=metadata()).code() is grpc.StatusCode.OK
                ):
                    await asyncio.sleep(0.02)
            gate.opened.set()
        assert await watch.next() == ("UPDATED", MONICA)


async def test_watch_reports_changes_by_other_processes(zoomgate: Harness, other: Harness) -> None:
    async with watching(other, [MONICA], caller="service") as watch:
        assert await watch.until_synced() == []
        await zoomgate.connect()
        assert await watch.next() == ("CREATED", MONICA)
        await disconnect(zoomgate)
        assert await watch.next() == ("DELETED", MONICA)


@pytest.mark.parametrize("timing", [FREQUENT_SYNC])
async def test_change_is_reported_when_its_key_arrives(
    zoomgate: Harness, environ: dict[str, str], tmp_path: Path, timing: Timing
) -> None:
    """Another service encrypts a connection under a key that the watching service receives later."""
    keys, late_keys = (
        Path(environ.get("ZOOMGATE_KEYS", zoomgate.data_dir / "keys.json")),
        tmp_path / "late.json",
    )
    shutil.copy(keys, late_keys)
    await zoomgate.connect()
    late_environ = environ | {"ZOOMGATE_KEYS": str(late_keys)}
    async with (
        serving(zoomgate.simulator, zoomgate.data_dir, late_environ, timing=timing) as late,
        watching(late) as watch,
    ):
        assert await watch.until_synced() == [("INITIAL", MONICA)]
        added = key_file.add(keys, key_file.load(keys))
        key_file.promote(keys, key_file.load(keys), added)
        await asyncio.sleep(2 * timing.key_ring.poll_interval)
        generation = await refresh(zoomgate)
        for _ in range(5):
            assert await watch.until_synced() == []
        async with watching(late) as started_without_the_key:
            assert await started_without_the_key.until_synced() == []
            shutil.copy(keys, late_keys)
            for waiting in (watch, started_without_the_key):
                while type_and_user(event := await waiting.event()) == ("SYNCED", ""):
                    pass
                assert (type_and_user(event), event.connection.generation) == (
                    ("UPDATED", MONICA),
                    generation,
                )


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
        serving(zoomgate.simulator, zoomgate.data_dir, environ, timing=TIMING) as other,
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


async def test_resumed_watch_continues_with_live_changes(zoomgate: Harness) -> None:
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        token = watch.token
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
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
async def test_token_outside_the_retention_time_is_rejected(zoomgate: Harness, days: int) -> None:
    """A resume token older than the retention period of tombstones, or from the future, is rejected with OUT_OF_RANGE and a remedy."""
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        token = watch.token
    polls = 0

    async def changes_later(proceed: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        nonlocal polls
        polls += 1
        changes, now = await proceed(*arguments, **options)
        return changes, now + days * 24 * 3600.0

    with zoomgate.store.intercept("changes", changes_later):
        while polls < 2:
            await asyncio.sleep(0.01)
        request = pb.WatchConnectionsRequest(resume_token=token)
        rejection = await zoomgate.error_of(zoomgate.auth.WatchConnections, request, "admin")
    assert rejection.short == ("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED")
    assert "watch again without one" in rejection.message


async def test_watch_ended_by_shutdown_can_be_resumed_elsewhere(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """The watch ends with SYNCED and SHUTTING_DOWN, and its last token is valid in a different process."""
    async with running(tmp_path / "data", environ=environ, timing=TIMING) as first:
        async with AsyncExitStack() as stack:
            async with serving(first.simulator, first.data_dir, environ, timing=TIMING) as second:
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


@pytest.mark.parametrize("timing", [FREQUENT_SYNC])
async def test_idle_watch_renews_its_resume_token(zoomgate: Harness) -> None:
    """While nothing changes, a watch periodically sends SYNCED with a new token."""
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        first = watch.token
        assert await watch.until_synced() == []
        assert watch.token != first


async def test_heartbeat_is_sent_while_nothing_changes(zoomgate: Harness) -> None:
    """A watch without heartbeats would send the next SYNCED after a minute."""
    await zoomgate.connect()
    async with watching(zoomgate, heartbeat=True) as watch:
        assert await watch.until_synced() == [("INITIAL", MONICA)]
        for _ in range(3):
            assert await watch.until_synced() == []


async def test_no_heartbeat_is_sent_while_the_store_does_not_respond(zoomgate: Harness) -> None:
    """A heartbeat confirms that the store was read, so a change that was stored before a read precedes the heartbeat."""
    await zoomgate.connect()
    async with watching(zoomgate, heartbeat=True) as watch:
        await watch.until_synced()
        gate = Gate(after_effect=False)
        with zoomgate.store.intercept("changes", gate):
            await gate.reached.wait()
            await refresh(zoomgate)
            gate.opened.set()
            events: list[tuple[str, str]] = []
            while ("UPDATED", MONICA) not in events:
                events.append(await watch.next())
        assert events.count(("SYNCED", "")) <= 1  # of the read before


async def test_no_heartbeat_is_sent_before_the_changes_that_were_read(
    zoomgate: Harness, other: Harness
) -> None:
    """The changes are known, but the connection cannot be read yet. Meanwhile, polls find nothing new."""
    await zoomgate.connect()
    polls, gate = other.store.calls, Gate(after_effect=False)
    async with watching(other, heartbeat=True) as watch:
        await watch.until_synced()
        first = polls["changes"]
        with other.store.intercept("find", gate):
            await refresh(zoomgate)
            await gate.reached.wait()
            allowed = polls["changes"] - first + 1
            while polls["changes"] - first < allowed + 10:
                await asyncio.sleep(0)
            gate.opened.set()
            events: list[tuple[str, str]] = []
            while ("UPDATED", MONICA) not in events:
                events.append(await watch.next())
    assert events.count(("SYNCED", "")) <= allowed


@pytest.mark.parametrize(
    "timing", [replace(TIMING, calls=authentication.Timing(default_limit=1.0, max_limit=1.0))]
)
async def test_watch_has_no_maximum_duration(zoomgate: Harness) -> None:
    """The maximum duration of other calls does not apply to watches."""
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        await asyncio.sleep(1.2)
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


@pytest.mark.parametrize("timing", [replace(TIMING, streams=pipeline.Timing(write_timeout=0.1))])
async def test_unread_watch_is_ended(zoomgate: Harness) -> None:
    """A caller with an open connection that reads no events does not occupy a watch forever."""
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
        deadline = time.monotonic() + SECONDS
        while await active_watches(zoomgate):
            assert time.monotonic() < deadline, "the watch was never ended"
            await asyncio.sleep(0.02)


async def active_watches(zoomgate: Harness) -> float:
    """Return the number of active watches according to the metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{zoomgate.http_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("zoomgate_watches"))


@pytest.mark.parametrize(
    ("entries", "names", "reason"),
    [
        ([], [], "CALLER_UNAUTHENTICATED"),
        (
            [caller_entry("guest", "service", f'users = ["{OMAR}"]\nmethods = ["AuthService.GetToken"]')],
            [],
            "CALLER_NOT_ALLOWED",
        ),
        ([caller_entry("guest", "service", f'users = ["{MONICA}"]')], [OMAR], "CALLER_NOT_ALLOWED"),
    ],
    ids=["key removed", "method removed", "user removed"],
)
async def test_watch_ends_when_the_caller_loses_access(
    zoomgate: Harness, callers: Path, reload: asyncio.Event, entries: list[str], names: list[str], reason: str
) -> None:
    """Access is checked before every event, so no event is sent after the policy change."""
    await zoomgate.connect(OMAR)
    async with watching(zoomgate, names, caller="guest") as watch:
        assert await watch.until_synced() == [("INITIAL", OMAR)]
        error = asyncio.create_task(watch.error())
        write_callers(callers, *entries)
        reload.set()
        await refresh(zoomgate, OMAR)
        assert (await error).reason == reason
        assert watch.last == ("SYNCED", "")


async def test_watch_survives_a_store_outage(zoomgate: Harness, other: Harness) -> None:
    """Changes that could not be read during an outage are reported once the store is available again."""
    await zoomgate.connect()
    async with watching(other) as watch:
        assert await watch.until_synced() == [("INITIAL", MONICA)]
        failures = Counter[str]()

        def failing(method: str) -> Callable[..., Any]:
            async def fail_and_count(*_: Any, **__: Any) -> Any:
                failures[method] += 1
                raise StoreError("injected")

            return fail_and_count

        with other.store.intercept("find", failing("find")):
            await zoomgate.connect(OMAR)
            while not failures["find"]:
                await asyncio.sleep(0.01)
            with other.store.intercept("changes", failing("changes")):
                while not failures["changes"]:
                    await asyncio.sleep(0.01)
                await disconnect(zoomgate)
        assert {await watch.next(), await watch.next()} == {("CREATED", OMAR), ("DELETED", MONICA)}


async def test_watch_survives_an_unexpected_error_in_a_poll(zoomgate: Harness) -> None:
    """Polling restarts after a pause. A watch resumed in the meantime reads the store itself."""
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        failed = asyncio.Event()

        async def fail_polls(proceed: Callable[..., Any], *arguments: Any, limit: int) -> Any:
            if limit == change_feed.PAGE_SIZE:
                failed.set()
                raise RuntimeError("injected")
            return await proceed(*arguments, limit=limit)

        with zoomgate.store.intercept("changes", fail_polls):
            await failed.wait()
            await zoomgate.connect()
            async with watching(zoomgate, token=watch.token) as resumed:
                assert await resumed.until_synced() == [("CREATED", MONICA)]
        assert await watch.next() == ("CREATED", MONICA)


async def test_new_watch_fails_if_the_store_is_unavailable(zoomgate: Harness) -> None:
    with zoomgate.store.intercept("page", fail):
        rejection = await zoomgate.error_of(
            zoomgate.auth.WatchConnections, pb.WatchConnectionsRequest(), "admin"
        )
    assert rejection.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")


async def test_resumed_watch_fails_if_the_store_is_unavailable(zoomgate: Harness) -> None:
    """The same resume token is accepted once the store is available again."""
    async with watching(zoomgate) as watch:
        await watch.until_synced()
        token = watch.token
    request = pb.WatchConnectionsRequest(resume_token=token)
    with zoomgate.store.intercept("changes", fail):
        rejection = await zoomgate.error_of(zoomgate.auth.WatchConnections, request, "admin")
    assert rejection.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    await zoomgate.connect()
    async with watching(zoomgate, token=token) as watch:
        assert await watch.until_synced() == [("CREATED", MONICA)]


async def test_access_is_checked_after_a_delayed_read(
    zoomgate: Harness, other: Harness, callers: Path, reload: asyncio.Event
) -> None:
    """A caller that loses access while the store is unavailable receives no event after the outage."""
    await zoomgate.connect(OMAR)
    async with watching(other, caller="guest") as watch:
        assert await watch.until_synced() == [("INITIAL", OMAR)]
        gate = Gate(after_effect=False)
        with other.store.intercept("find", gate):
            await refresh(zoomgate, OMAR)
            await gate.reached.wait()
            write_callers(callers)
            reload.set()
            gate.opened.set()
            assert (await watch.error()).reason == "CALLER_UNAUTHENTICATED"
        assert watch.last == ("SYNCED", "")
