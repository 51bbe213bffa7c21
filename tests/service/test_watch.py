"""Watching connections through a port, over both stores: what happens to a connection is told, and nothing is left out."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from security import http2
from support.harness import MONICA, OMAR, Harness, Refusal, key_of, metadata, running, service, serving
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
    """What leads services to one store; tokens may be refreshed at any time."""
    return {"ZOOMGATE_FORCED_REFRESH_SECONDS": "0"} | store_environ


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for changes more often than once a second."""
    monkeypatch.setattr(change_feed, "POLL_INTERVAL", 0.02)
    monkeypatch.setattr(watchers, "PAUSE_SECONDS", 0.02)


@pytest.fixture
async def zoomgate(environ: dict[str, str], tmp_path: Path) -> AsyncIterator[Harness]:
    """A service."""
    async with running(tmp_path / "data", environ=environ) as started:
        yield started


class Watch:
    """A watch and what it told.

    Attributes:
        token: The last resume token.
        last: Type and user of the last event.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self.token = ""
        self.last = ("", "")

    async def event(self) -> Response:
        """The next event."""
        async with asyncio.timeout(SECONDS):
            event = await self._call.read()
        assert isinstance(event, Response), f"the watch ended: {await self._call.code()}"
        assert event.resume_token
        self.token, self.last = event.resume_token, told(event)
        return event

    async def next(self) -> tuple[str, str]:
        """Type and user of the next event."""
        return told(await self.event())

    async def until_caught_up(self) -> list[tuple[str, str]]:
        """Everything up to the next SYNCED."""
        events = []
        while (event := await self.next()) != ("SYNCED", ""):
            events.append(event)
        return events

    async def end(self) -> Refusal:
        """How the watch ends, whatever is told before."""
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    event = await self._call.read()
                    self.token = event.resume_token
                    self.last = told(event)
        except grpc.aio.AioRpcError as error:
            return Refusal.of(error)

    async def cancel(self) -> None:
        """Leave."""
        self._call.cancel()


def told(event: Response) -> tuple[str, str]:
    """Type and user of an event."""
    return Response.Type.Name(event.type).removeprefix("TYPE_"), event.connection.user_email


@asynccontextmanager
async def watching(
    zoomgate: Harness, users: Iterable[str] = (), token: str = "", caller: str = "admin"
) -> AsyncIterator[Watch]:
    """Watch."""
    request = pb.WatchConnectionsRequest(user_emails=users, resume_token=token)
    watch = Watch(zoomgate.auth.WatchConnections(request, metadata=metadata(caller)))
    try:
        yield watch
    finally:
        await watch.cancel()


async def refresh(zoomgate: Harness, user: str = MONICA) -> int:
    """Refresh somebody's token; gives its generation."""
    answer = await zoomgate.call(zoomgate.auth.RefreshToken, pb.RefreshTokenRequest(user_email=user))
    return int(answer.token.generation)


async def disconnect(zoomgate: Harness, user: str = MONICA) -> None:
    """End somebody's connection."""
    await zoomgate.call(zoomgate.auth.DeleteConnection, pb.DeleteConnectionRequest(user_email=user))


async def test_the_life_of_a_connection_is_told(zoomgate: Harness) -> None:
    """Who is there first, then a consent, a refresh, the end, and a new beginning, each once and without a secret."""
    await zoomgate.connect(OMAR)
    async with watching(zoomgate) as watch:
        assert await watch.until_caught_up() == [("INITIAL", OMAR)]
        await zoomgate.connect()
        created = await watch.event()
        assert told(created) == ("CREATED", MONICA)
        assert created.connection.state == Connection.STATE_ACTIVE
        assert created.connection.scopes
        generation = await refresh(zoomgate)
        changed = await watch.event()
        assert (told(changed), changed.connection.generation) == (("UPDATED", MONICA), generation)
        await disconnect(zoomgate)
        ended = await watch.event()
        assert told(ended) == ("DELETED", MONICA)
        assert ended.connection.state == Connection.STATE_DISCONNECTED
        await zoomgate.connect()
        assert await watch.next() == ("CREATED", MONICA)


async def test_a_change_while_an_earlier_one_is_read_is_no_beginning(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was told that a connection exists hears that it changed, however often it does while the store is slow to show it."""
    await zoomgate.connect()
    async with watching(zoomgate) as watch:
        assert await watch.until_caught_up() == [("INITIAL", MONICA)]
        read, changes = ConnectionRepository.read_readable, ConnectionRepository.changes
        reading, shown, looks = asyncio.Event(), asyncio.Event(), 0

        async def slow(self: ConnectionRepository, user_email: str) -> Any:
            found = await read(self, user_email)
            reading.set()
            await shown.wait()
            return found

        async def counted(self: ConnectionRepository, since: float, limit: int) -> Any:
            nonlocal looks
            found = await changes(self, since, limit)
            looks += 1
            return found

        monkeypatch.setattr(ConnectionRepository, "read_readable", slow)
        await refresh(zoomgate)
        await reading.wait()
        generation = await refresh(zoomgate)
        monkeypatch.setattr(ConnectionRepository, "changes", counted)
        while looks < 2:  # the first may have begun before the second refresh was stored
            await asyncio.sleep(0.01)
        shown.set()
        changed = await watch.event()
        while changed.connection.generation < generation:
            assert told(changed) == ("UPDATED", MONICA)
            changed = await watch.event()
        assert told(changed) == ("UPDATED", MONICA)


async def test_a_change_that_one_watch_has_early_is_told_at_another(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow store may show to whoever waits for one change the next one already; who came in between hears of it all the same."""
    await zoomgate.connect()
    async with watching(zoomgate) as first:
        await first.until_caught_up()
    async with watching(zoomgate, token=first.token) as slow:
        await slow.until_caught_up()  # and so the log has the consent already
        read, changes = ConnectionRepository.read_readable, ConnectionRepository.changes
        reading, shown, looking = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def late(self: ConnectionRepository, user_email: str) -> Any:
            reading.set()
            await shown.wait()
            return await read(self, user_email)

        async def open_looks(self: ConnectionRepository, since: float, limit: int) -> Any:
            while not looking.is_set():
                waits.set()
                await looking.wait()
            return await changes(self, since, limit)

        waits = asyncio.Event()
        monkeypatch.setattr(ConnectionRepository, "read_readable", late)
        monkeypatch.setattr(ConnectionRepository, "changes", open_looks)
        await waits.wait()
        await refresh(zoomgate)
        looking.set()
        await reading.wait()
        async with watching(zoomgate) as other:
            assert await other.until_caught_up() == [("INITIAL", MONICA)]
            looking.clear()
            generation = await refresh(zoomgate)
            shown.set()
            while (await slow.event()).connection.generation < generation:
                pass
            looking.set()
            while (await other.event()).connection.generation < generation:
                pass


async def test_other_processes_changes_are_told(zoomgate: Harness, environ: dict[str, str]) -> None:
    """Whichever process changes a connection, whoever watches at another one hears of it."""
    async with (
        serving(zoomgate.simulator, zoomgate.data_dir, environ) as other,
        watching(other, [MONICA], caller="service") as watch,
    ):
        assert await watch.until_caught_up() == []
        await zoomgate.connect()
        assert await watch.next() == ("CREATED", MONICA)
        await disconnect(zoomgate)
        assert await watch.next() == ("DELETED", MONICA)


async def test_nothing_is_left_out_between_two_watches(zoomgate: Harness) -> None:
    """Whoever comes back with a token hears of everything in between, ended connections included, and gets no snapshot."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    async with watching(zoomgate) as watch:
        assert await watch.until_caught_up() == [("INITIAL", MONICA), ("INITIAL", OMAR)]
        token = watch.token
    generation = await refresh(zoomgate)
    await disconnect(zoomgate, OMAR)
    async with watching(zoomgate, token=token) as watch:
        events = {}
        while told(event := await watch.event()) != ("SYNCED", ""):
            events[event.connection.user_email] = event
        assert events[MONICA].connection.generation == generation
        assert told(events[OMAR]) == ("DELETED", OMAR)
        assert "INITIAL" not in {told(event)[0] for event in events.values()}


async def test_a_restart_loses_nothing(zoomgate: Harness, environ: dict[str, str], tmp_path: Path) -> None:
    """A token is good at another process, and at one that started after the change."""
    async with watching(zoomgate) as watch:
        await watch.until_caught_up()
        token = watch.token
    await zoomgate.connect()
    async with (
        serving(zoomgate.simulator, zoomgate.data_dir, environ) as other,
        watching(other, token=token) as watch,
    ):
        assert await watch.until_caught_up() == [("CREATED", MONICA)]


async def test_a_snapshot_goes_on_where_it_ended(zoomgate: Harness) -> None:
    """A watch that breaks off in the snapshot goes on behind the last one told, and hears of changes before that."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    async with watching(zoomgate) as watch:
        assert await watch.next() == ("INITIAL", MONICA)
        token = watch.token
    await disconnect(zoomgate)
    async with watching(zoomgate, token=token) as watch:
        events = await watch.until_caught_up()
        assert events[0] == ("INITIAL", OMAR)
        assert ("DELETED", MONICA) in events


async def test_what_the_log_has_forgotten_comes_from_the_store(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token of long ago is answered by the store, a few at a time, and the watch then goes on as any other."""
    monkeypatch.setattr(watchers, "CHANGES_PAGE", 1)
    async with watching(zoomgate) as watch:
        await watch.until_caught_up()
        token = watch.token
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    monkeypatch.setattr(change_feed.ChangeFeed, "resume", lambda *_: False)
    async with watching(zoomgate, token=token) as watch:
        assert set(await watch.until_caught_up()) == {("CREATED", MONICA), ("CREATED", OMAR)}
        await disconnect(zoomgate)
        assert await watch.next() == ("DELETED", MONICA)


async def test_a_token_is_worth_something_to_its_caller_alone(zoomgate: Harness) -> None:
    """With another caller, other users, or a changed letter it is refused, and so is a page token."""
    async with watching(zoomgate, [MONICA], caller="service") as watch:
        await watch.until_caught_up()
        token = watch.token

    async def refused(users: Iterable[str], token: str, caller: str) -> str:
        request = pb.WatchConnectionsRequest(user_emails=users, resume_token=token)
        return (await zoomgate.refusal(zoomgate.auth.WatchConnections, request, caller)).reason

    assert await refused([MONICA], token, "admin") == "INVALID_RESUME_TOKEN"
    assert await refused([OMAR], token, "service") == "INVALID_RESUME_TOKEN"
    assert await refused([], token, "service") == "INVALID_RESUME_TOKEN"
    assert await refused([MONICA], token[:-2] + "zz", "service") == "INVALID_RESUME_TOKEN"


@pytest.mark.parametrize("days", [30, -1])
async def test_a_token_of_another_time_says_what_to_do(
    zoomgate: Harness, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that is older than ended connections are kept, or of the future, is OUT_OF_RANGE: begin again without one."""
    async with watching(zoomgate) as watch:
        await watch.until_caught_up()
        token = watch.token
    monkeypatch.setattr(watchers, "TOMBSTONE_SECONDS", 0.0 if days > 0 else 1e9)
    if days < 0:
        monkeypatch.setattr(watchers, "LATE_SECONDS", -1e9)
    request = pb.WatchConnectionsRequest(resume_token=token)
    refusal = await zoomgate.refusal(zoomgate.auth.WatchConnections, request, "admin")
    assert refusal.short == ("OUT_OF_RANGE", "RESUME_TOKEN_EXPIRED")
    assert "watch again without one" in refusal.message


async def test_a_drain_ends_a_watch_with_its_last_token(environ: dict[str, str], tmp_path: Path) -> None:
    """Everything was told, the last event has a token that goes on elsewhere, and the status says that the server stops."""
    async with running(tmp_path / "data", environ=environ) as first:
        async with AsyncExitStack() as stack:
            async with serving(first.simulator, first.data_dir, environ) as second:
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(second.grpc_address))
                call = AuthServiceStub(channel).WatchConnections(
                    pb.WatchConnectionsRequest(), metadata=metadata("admin")
                )
                watch = Watch(call)
                await watch.until_caught_up()
                ending = asyncio.create_task(watch.end())
            refusal = await ending
        assert refusal.short == ("UNAVAILABLE", "SHUTTING_DOWN")
        assert refusal.retry_after is not None
        assert watch.last == ("SYNCED", "")
        await first.connect()
        async with watching(first, token=watch.token) as again:
            assert await again.until_caught_up() == [("CREATED", MONICA)]


async def test_a_silent_watch_gives_young_tokens(zoomgate: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing changes, a watch says so now and then."""
    monkeypatch.setattr(watchers, "IDLE_SECONDS", 0.05)
    async with watching(zoomgate) as watch:
        await watch.until_caught_up()
        first = watch.token
        assert await watch.until_caught_up() == []
        assert watch.token != first


async def test_a_watch_may_last(zoomgate: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that other calls have at most does not end it."""
    monkeypatch.setattr("zoomgate_server.rpc.middleware.authentication.DEFAULT_SECONDS", -1.0)
    monkeypatch.setattr("zoomgate_server.rpc.middleware.authentication.MAX_SECONDS", -1.0)
    async with watching(zoomgate) as watch:
        await watch.until_caught_up()
        monkeypatch.undo()
        await zoomgate.connect()
        assert await watch.next() == ("CREATED", MONICA)


async def test_services_hear_of_their_users_alone(zoomgate: Harness) -> None:
    """Without names a service is told of the users of its row; named others are refused, existing or not."""
    await zoomgate.connect()
    await zoomgate.connect(OMAR)
    async with watching(zoomgate, caller="omars") as watch:
        assert await watch.until_caught_up() == [("INITIAL", OMAR)]
        await refresh(zoomgate, MONICA)
        await refresh(zoomgate, OMAR)
        assert await watch.next() == ("UPDATED", OMAR)
    refusal = await zoomgate.refusal(
        zoomgate.auth.WatchConnections, pb.WatchConnectionsRequest(user_emails=[OMAR, MONICA]), "omars"
    )
    assert refusal.reason == "CALLER_NOT_ALLOWED"


async def test_too_many_are_told_to_come_later(zoomgate: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process serves so many watches; one more hears when to come again, and may come once another has left."""
    monkeypatch.setattr(watchers, "MAX_WATCHES", 1)
    request = pb.WatchConnectionsRequest()
    async with watching(zoomgate) as watch:
        await watch.until_caught_up()
        refusal = await zoomgate.refusal(zoomgate.auth.WatchConnections, request, "admin")
        assert refusal.short == ("RESOURCE_EXHAUSTED", "SERVER_OVERLOADED")
        assert refusal.metadata == {"limit": "watches"}
    await until_there_is_a_place(zoomgate)


async def until_there_is_a_place(zoomgate: Harness) -> None:
    """Wait until the service takes another watch."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            await zoomgate.call(zoomgate.auth.WatchConnections, pb.WatchConnectionsRequest(), "admin")
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("the place was never free again")


async def test_a_watch_that_nobody_reads_loses_its_place(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that takes no bytes of its events, and keeps its connection, does not keep others out for ever."""
    monkeypatch.setattr(watchers, "MAX_WATCHES", 1)
    monkeypatch.setattr(pipeline, "UNREAD_SECONDS", 0.1)
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
            if (kind, stream) == (http2.HEADERS, 1):  # the watch has begun
                break
        await until_there_is_a_place(zoomgate)


@pytest.mark.parametrize(
    ("found", "names", "reason"),
    [
        (None, [], "CALLER_UNAUTHENTICATED"),
        (service("omars", methods=frozenset({"AuthService.GetToken"})), [], "CALLER_NOT_ALLOWED"),
        (service("omars", users=UserPatterns(addresses=frozenset({MONICA}))), [OMAR], "CALLER_NOT_ALLOWED"),
    ],
    ids=["key gone", "method gone", "user gone"],
)
async def test_a_caller_that_loses_its_rights_hears_no_more(
    zoomgate: Harness,
    monkeypatch: pytest.MonkeyPatch,
    found: Principal | None,
    names: list[str],
    reason: str,
) -> None:
    """Who may watch is decided anew for every event: a key that is gone or a row that became narrower ends the watch before it."""
    await zoomgate.connect(OMAR)
    async with watching(zoomgate, names, caller="omars") as watch:
        assert await watch.until_caught_up() == [("INITIAL", OMAR)]
        ending = asyncio.create_task(watch.end())
        bearer = service("service")
        monkeypatch.setattr(
            CallerKeys, "bearer", lambda _, key: found if key.endswith(key_of("omars")) else bearer
        )
        await refresh(zoomgate, OMAR)
        assert (await ending).reason == reason
        assert watch.last == ("SYNCED", "")


async def test_a_store_that_fails_for_a_while_ends_no_watch(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changed before, during and after an outage is told once the store answers again."""
    await zoomgate.connect()
    async with watching(zoomgate) as watch:
        assert await watch.until_caught_up() == [("INITIAL", MONICA)]
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


async def test_a_defect_in_a_look_for_changes_ends_no_watch(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs a pause; who comes back to a watch meanwhile is told to come later, and does not wait for ever."""
    monkeypatch.setattr(background_tasks, "FIRST_PAUSE_SECONDS", 0.02)
    async with watching(zoomgate) as watch:
        await watch.until_caught_up()
        failed = asyncio.Event()

        async def fail(*_: Any) -> Any:
            failed.set()
            raise RuntimeError("injected")

        monkeypatch.setattr(ConnectionRepository, "changes", fail)
        await failed.wait()
        again = pb.WatchConnectionsRequest(resume_token=watch.token)
        refusal = await zoomgate.refusal(zoomgate.auth.WatchConnections, again, "admin")
        assert refusal.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        await zoomgate.connect()
        monkeypatch.undo()
        assert await watch.next() == ("CREATED", MONICA)


async def test_a_store_that_fails_at_the_beginning_is_told(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever begins to watch while the store fails hears so at once."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreError("injected")

    monkeypatch.setattr(ConnectionRepository, "page", fail)
    refusal = await zoomgate.refusal(zoomgate.auth.WatchConnections, pb.WatchConnectionsRequest(), "admin")
    assert refusal.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")


async def test_a_store_that_fails_when_somebody_comes_back_is_told(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes back with a token while the store fails hears so at once too, and goes on later."""
    async with watching(zoomgate) as watch:
        await watch.until_caught_up()
        token = watch.token

    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreError("injected")

    request = pb.WatchConnectionsRequest(resume_token=token)
    with monkeypatch.context() as patch:
        patch.setattr(ConnectionRepository, "changes", fail)
        refusal = await zoomgate.refusal(zoomgate.auth.WatchConnections, request, "admin")
    assert refusal.short == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    await zoomgate.connect()
    async with watching(zoomgate, token=token) as watch:
        assert await watch.until_caught_up() == [("CREATED", MONICA)]


async def test_rights_that_are_lost_while_the_store_fails_are_lost(
    zoomgate: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a caller may be told is decided when the store has answered, however long that took."""
    await zoomgate.connect(OMAR)
    async with watching(zoomgate, caller="omars") as watch:
        assert await watch.until_caught_up() == [("INITIAL", OMAR)]
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
                CallerKeys, "bearer", lambda _, key: None if key.endswith(key_of("omars")) else bearer
            )
        assert (await watch.end()).reason == "CALLER_UNAUTHENTICATED"
        assert watch.last == ("SYNCED", "")
