"""Tests for the cache of access tokens, which never replaces a newer version with an older one, regardless of the order of reads."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from support.faulty_store import FaultyStore, Gate
from support.memory_store import MemoryStore
from zoomgate_server.call_context import Call
from zoomgate_server.connections.access_tokens import AccessToken, AccessTokens, Timing
from zoomgate_server.connections.lifecycle.decisions import active_lease
from zoomgate_server.connections.record import ConnectionRecord, Lease, State
from zoomgate_server.connections.refresh import protocol
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import NotConnected, ReauthRequired, RefreshInProgress
from zoomgate_server.identity import Principal, Role
from zoomgate_server.storage.record_store import Change, Kind, RecordKey, StoreError
from zoomgate_server.telemetry.metrics import Metrics

USER = "monica@example.com"
NOW = 1_750_000_000.0
CALL = Call("r", Principal(name="admin", roles=frozenset({Role.ADMIN})), NOW + 60.0)


class StoppedClock:
    """A clock that always returns the same time."""

    def wall(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return NOW


class RefresherOfOtherProcess:
    """A refresher whose refreshes are all performed by another process.

    Attributes:
        refreshed: The record that the other process has stored; None while its refresh is running.
        deadlines: Until when the callers waited.
    """

    def __init__(self) -> None:
        self.requested: list[int] = []
        self.deadlines: list[float] = []
        self.refreshed: ConnectionRecord | None = None

    async def refresh(
        self, zoom_user_id: str, *, seen_generation: int, deadline: float, **_: Any
    ) -> ConnectionRecord:
        self.requested.append(seen_generation)
        self.deadlines.append(deadline)
        if self.refreshed is not None:
            return self.refreshed
        raise RefreshInProgress("injected")

    def is_leased(self, record: ConnectionRecord, now: float) -> bool:
        return active_lease(record, now, protocol.Timing()) is not None


class World:
    """Access tokens with an in-memory store.

    Attributes:
        reads: Number of reads of the store.
        refresher: The refresher.
    """

    def __init__(self, capacity: int = 10, refresh_wait: float = 0.05) -> None:
        clock = StoppedClock()
        ring = KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)])
        self.reads = 0
        self.faulty_store = FaultyStore(MemoryStore(clock.wall))
        self.refresher = RefresherOfOtherProcess()
        self.connections = ConnectionRepository(
            app="app",
            store=self.faulty_store,
            envelope=Envelope(app="app", keys=ring),
            clock=clock,
            on_read=self._count_read,
        )
        self.tokens = AccessTokens(
            connections=self.connections,
            refresher=self.refresher,  # type: ignore[arg-type] - the only method in use
            clock=clock,
            metrics=Metrics("0", []),
            capacity=capacity,
            timing=Timing(refresh_wait=refresh_wait),
        )

    def _count_read(self) -> None:
        self.reads += 1

    async def store(self, stored: ConnectionRecord) -> None:
        """Write a record to the store, replacing any other."""
        current, _ = await self.connections.read(stored.zoom_user_id)
        assert await self.connections.write(replace(stored, rev=0 if current is None else current.rev))

    async def token(self, user: str = USER) -> AccessToken:
        return await self.tokens.for_call(CALL, user)

    async def issue(self, stored: ConnectionRecord) -> AccessToken:
        """Return the token of a record that was just stored to a caller."""
        return await self.tokens.issue(CALL, stored, 0.0)

    async def is_cached(self, user: str = USER) -> bool:
        """Return whether a call with the user's token needs no read of the store."""
        reads = self.reads
        await self.token(user)
        return self.reads == reads


def record(
    generation: int,
    grant: str = "g",
    consent_time: float = 1.0,
    rev: int = 0,
    user: str = USER,
    validity: float = 3600.0,
    zoom_user_id: str = "",
) -> ConnectionRecord:
    """Return a record whose token is valid for an hour, or for `validity` seconds."""
    return ConnectionRecord(
        zoom_user_id=zoom_user_id or f"z-{user}",
        user_email=user,
        rev=rev,
        state=State.ACTIVE,
        grant=grant,
        generation=generation,
        create_time=consent_time,
        consent_time=consent_time,
        update_time=NOW,
        refresh_time=NOW,
        tokens=TokenPair(f"a{generation}", f"r{generation}", "s", NOW + validity, NOW),
    )


async def test_older_token_does_not_replace_a_newer_one() -> None:
    world = World()
    newest = await world.issue(record(5))
    assert await world.issue(record(4)) is newest
    assert await world.token() is newest


async def test_older_token_is_treated_as_expired_after_the_newer_one_was_dropped_or_evicted() -> None:
    """A token of the same or a newer generation is cached."""
    world = World(capacity=1)
    world.tokens.cache(record(5))
    world.tokens.drop(USER)
    await world.store(record(4))
    with pytest.raises(RefreshInProgress):
        await world.token()
    assert world.refresher.requested == [5], "the next generation is higher than all previous ones"
    world.tokens.cache(record(5))
    assert (await world.token()).tokens.access_token == "a5"
    world.tokens.cache(record(1, user="omar@example.com"))
    assert world.tokens.seen_generation(f"z-{USER}") == 5
    with pytest.raises(RefreshInProgress):
        await world.token()
    world.tokens.cache(record(6))
    assert (await world.token()).tokens.access_token == "a6"


async def test_replaced_token_is_not_returned_if_the_read_after_the_refresh_fails() -> None:
    """The refreshed record is too old to be cached without another read, which fails; the previous token is no longer valid."""
    world = World()
    await world.store(record(1, validity=60.0))
    world.refresher.refreshed = replace(record(2), update_time=NOW - 60.0)

    async def fail_after_the_first_read(find: Any, app: str, user_email: str) -> Any:
        reads.append(user_email)
        if len(reads) > 1:
            raise StoreError("injected")
        return await find(app, user_email)

    reads: list[str] = []
    with world.faulty_store.intercept("find", fail_after_the_first_read), pytest.raises(StoreError):
        await world.token()


async def test_lease_from_a_wrong_clock_does_not_replace_a_token() -> None:
    world = World()
    rejected = await world.issue(record(5))
    for seconds, expected in ((30.0, True), (-1.0, False), (86_400.0, False)):
        await world.store(replace(record(5), lease=Lease("other", 1, NOW + seconds)))
        assert await world.tokens.is_being_replaced(rejected) is expected
    await world.store(record(6))
    assert await world.tokens.is_being_replaced(rejected)


async def test_later_consent_with_a_lower_generation_is_cached() -> None:
    """After a store has lost a connection, its generations start from one again. A token of an earlier consent is not cached."""
    world = World()
    newest = await world.issue(record(5, "g2", 20.0))
    assert await world.issue(record(4, "g1", 10.0)) is newest
    world.tokens.cache(record(1, "g3", 30.0))
    assert (await world.token()).generation == 1


async def test_capacity_limits_tokens_and_other_seen_versions() -> None:
    world = World(capacity=2)
    users = [f"user-{number}@example.com" for number in range(5)]
    for user in users:
        world.tokens.cache(record(5, user=user))
    assert [world.tokens.seen_generation(f"z-{user}") for user in users] == [0, 5, 5, 5, 5]
    assert [await world.is_cached(user) for user in users[3:]] == [True, True]
    for user in users[:3]:
        await world.store(record(5, user=user))
    assert not await world.is_cached(users[0])


async def test_changed_connection_is_dropped_unless_the_token_was_read_from_that_revision() -> None:
    """The change event of the write that stored the token does not drop the token."""
    world = World()
    await world.store(record(5))
    key = RecordKey("app", Kind.USER, f"z-{USER}")
    world.tokens.cache(record(5, rev=7))
    world.tokens.drop_changed(Change(key, 7, State.ACTIVE.value, NOW, USER))
    assert await world.is_cached()
    world.tokens.drop_changed(Change(key, 8, State.ACTIVE.value, NOW, USER))
    assert not await world.is_cached()


async def test_call_after_a_change_does_not_share_a_read_that_began_before() -> None:
    world = World()
    await world.store(record(5))
    held = iter([True])
    gate = Gate(after_effect=True, holds=lambda *_: next(held, False))
    with world.faulty_store.intercept("find", gate):
        earlier = asyncio.create_task(world.token())
        await gate.reached.wait()
        await world.store(record(6))
        world.tokens.drop_changed(
            Change(RecordKey("app", Kind.USER, f"z-{USER}"), 2, State.ACTIVE.value, NOW, USER)
        )
        assert (await world.token()).generation == 6
        gate.opened.set()
        assert (await earlier).generation == 6


async def test_use_is_recorded_per_pair() -> None:
    """A token is in use after a call has used it, unless it was returned to a caller. A new token pair or a drop resets the use."""
    world = World()
    world.tokens.cache(record(1))
    assert world.tokens.in_use() == []
    first = await world.token()
    assert world.tokens.in_use() == [(USER, first)]
    assert world.tokens.is_in_use(USER, first)
    await world.tokens.get_token(CALL, USER, 0.0)
    assert world.tokens.in_use() == []
    assert not world.tokens.is_in_use(USER, first)
    world.tokens.drop(USER)
    world.tokens.cache(record(1))
    await world.token()
    assert world.tokens.in_use() == [], "the caller still has the token"
    world.tokens.cache(record(2))
    assert world.tokens.in_use() == []
    second = await world.token()
    assert world.tokens.in_use() == [(USER, second)]
    world.tokens.drop(USER)
    assert world.tokens.in_use() == []


async def test_check_of_the_expiry_is_not_a_return_to_the_caller() -> None:
    """A page that polls the expiry does not end the proactive refresh of a token that calls use."""
    world = World()
    await world.store(record(1))
    await world.token()
    await world.tokens.peek(CALL, USER)
    assert [user for user, _ in world.tokens.in_use()] == [USER]


async def test_eviction_also_removes_recorded_use() -> None:
    world = World(capacity=2)
    users = [f"user{number}@example.com" for number in range(10)]
    for user in users:
        world.tokens.cache(record(1, user=user))
        await world.token(user)
    assert [user for user, _ in world.tokens.in_use()] == users[-2:]
    for user in users:
        await world.issue(record(1, user=user))
    world.tokens.cache(record(1, user=users[0]))
    await world.token(users[0])
    assert [user for user, _ in world.tokens.in_use()] == users[:1], "its return to a caller was evicted"


@pytest.mark.parametrize("user_email", [None, "renamed@example.com"])
async def test_change_of_a_connections_address_drops_the_token_of_its_previous_address(
    user_email: str | None,
) -> None:
    world = World()
    world.tokens.cache(record(5, rev=7))
    world.tokens.drop_changed(
        Change(RecordKey("app", Kind.USER, f"z-{USER}"), 8, State.ACTIVE.value, NOW, user_email)
    )
    with pytest.raises(NotConnected):
        await world.token()


async def test_token_issued_for_a_record_is_valid() -> None:
    """An expired token is refreshed. A token of a connection that needs a new consent is not returned, although it has not expired."""
    world = World()
    expired = record(1, validity=30.0)
    await world.store(expired)
    world.refresher.refreshed = record(2)
    assert (await world.tokens.issue(CALL, expired, 60.0)).tokens.access_token == "a2"
    rejected = replace(record(2), state=State.REAUTH_REQUIRED)
    await world.store(rejected)
    with pytest.raises(ReauthRequired):
        await world.tokens.issue(CALL, rejected, 60.0)


async def test_token_of_another_zoom_user_with_the_address_is_dropped() -> None:
    """The revisions of the two records are equal."""
    world = World()
    world.tokens.cache(record(5, rev=7))
    await world.store(record(1, zoom_user_id="z-new"))
    world.tokens.drop_changed(Change(RecordKey("app", Kind.USER, "z-new"), 7, State.ACTIVE.value, NOW, USER))
    assert (await world.token()).zoom_user_id == "z-new"


async def test_token_is_cached_under_the_latest_address_of_its_zoom_user() -> None:
    """An older record with the previous address does not replace the token, and the token is not returned for that address."""
    world = World()
    zoom_user_id = f"z-{USER}"
    world.tokens.cache(record(5))
    world.tokens.cache(record(6, user="renamed@example.com", zoom_user_id=zoom_user_id))
    assert world.tokens.seen_generation(zoom_user_id) == 6
    with pytest.raises(NotConnected):
        await world.token()
    await world.store(record(5))
    with pytest.raises(RefreshInProgress):
        await world.issue(record(5))
    assert world.refresher.requested == [6], "the stale token counts as expired"
    assert (await world.token("renamed@example.com")).tokens.access_token == "a6"


async def test_refreshed_record_with_another_address_is_not_used_for_the_previous_address() -> None:
    world = World()
    await world.store(record(1, validity=60.0))
    renamed = record(2, user="renamed@example.com", zoom_user_id=f"z-{USER}")

    async def rename_before_second_read(find: Any, *arguments: Any) -> Any:
        reads.append(arguments)
        if len(reads) == 2:
            await world.store(renamed)
        return await find(*arguments)

    reads: list[Any] = []
    world.refresher.refreshed = renamed
    with world.faulty_store.intercept("find", rename_before_second_read), pytest.raises(NotConnected):
        await world.token()


async def disconnect(world: World) -> None:
    """Disconnect the user, as a different process would, and report the change."""
    await world.store(replace(record(1, validity=60.0), state=State.DISCONNECTED, tokens=None))
    change = Change(RecordKey("app", Kind.USER, f"z-{USER}"), 2, State.DISCONNECTED.value, NOW, USER)
    world.tokens.drop_changed(change)


@pytest.mark.parametrize("seconds", [0.5, 1.02, 60.0])
async def test_call_with_a_valid_token_refreshes_it_and_keeps_half_of_its_time_for_using_it(
    seconds: float,
) -> None:
    world = World()
    await world.store(record(1, validity=60.0))
    call = CALL._replace(deadline=NOW + seconds)
    for _ in range(2):  # the token is read, then cached
        assert (await world.tokens.for_call(call, USER)).generation == 1
    assert len(world.refresher.deadlines) == 2
    assert max(world.refresher.deadlines) <= NOW + min(0.05, seconds / 2)


async def test_user_who_was_disconnected_during_the_refresh_is_not_served_with_the_current_token() -> None:
    world = World()
    await world.store(record(1, validity=60.0))
    assert (await world.token()).generation == 1, "the refresh is still running"
    refresh = world.refresher.refresh

    async def disconnect_and_refresh(*args: Any, **kwargs: Any) -> ConnectionRecord:
        await disconnect(world)
        return await refresh(*args, **kwargs)

    world.refresher.refresh = disconnect_and_refresh  # type: ignore[method-assign]
    with pytest.raises(NotConnected):
        await world.token()


async def test_user_who_was_disconnected_during_a_slow_read_is_not_served_with_the_current_token() -> None:
    """The wait for the second read has a limit as well, although the deadline of the call is later."""
    world = World(refresh_wait=0.4)
    await world.store(record(1, validity=60.0))
    assert (await world.token()).generation == 1
    gate = Gate(after_effect=False)
    with world.faulty_store.intercept("find", gate):
        assert (await world.token()).generation == 1, "the store does not respond, and has reported no change"
        call = asyncio.create_task(world.token())
        await asyncio.sleep(0)
        await disconnect(world)
        with pytest.raises(StoreError):
            await asyncio.wait_for(call, 10)
        gate.opened.set()
        with pytest.raises(NotConnected):
            await world.token()
