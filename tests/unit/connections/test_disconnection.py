"""Tests for the retries of revocations that Zoom has not confirmed."""

import asyncio
from dataclasses import replace
from typing import Any

from support.effect_driver import create_driver, create_repository
from support.faulty_store import FaultyStore
from support.memory_store import MemoryStore
from zoomgate_server.clock import SystemClock
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.connections.disconnection import Disconnector, Timing
from zoomgate_server.connections.lifecycle import decisions
from zoomgate_server.connections.record import Cause, ConnectionRecord, PendingAttempt, State
from zoomgate_server.connections.refresh.protocol import Config
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.token_outcome import Revoked, RevokeOutcome, Unknown


class Zoom:
    """A revocation endpoint that appends the tokens of all requests to a list.

    Args:
        outcome: The outcome of every request.
        concurrent: Number of requests after which Zoom responds to them.
    """

    def __init__(self, steps: list[str], outcome: RevokeOutcome, concurrent: int) -> None:
        self._steps = steps
        self._outcome = outcome
        self._requests = asyncio.Barrier(concurrent)

    async def revoke(self, token: str) -> RevokeOutcome:
        self._steps.append(token)
        await self._requests.wait()
        return self._outcome


class Sweep:
    """The retries of revocations, with an in-memory store. A pass of a sweep ends after one unconfirmed revocation.

    Attributes:
        steps: The word "pass" at the beginning of each pass, and the token of each request to Zoom.
    """

    def __init__(self, outcome: RevokeOutcome, concurrent: int = 1) -> None:
        self.steps: list[str] = []
        self._clock, metrics = SystemClock(), Metrics("0", [])
        self.store = FaultyStore(MemoryStore(self._clock.wall))
        self.connections = create_repository(self.store, self._clock)
        driver = create_driver(self.store, self._clock, Zoom(self.steps, outcome, concurrent))
        limit = ConcurrencyLimit(Limit.REFRESHES, 100, self._clock, metrics)
        refresher = Refresher(
            driver=driver,
            clock=self._clock,
            metrics=metrics,
            audit=lambda _: None,
            limit=limit,
            config=Config(forced_interval=0.0, max_refreshes=1),
        )
        self._disconnector = Disconnector(
            driver,
            connections=self.connections,
            refresher=refresher,
            limit=limit,
            clock=self._clock,
            max_consecutive_failures=1,
            timing=Timing(retry_interval=0.0),
        )

    async def disconnect(self, user: str, *, refresh_token: str = "", **fields: Any) -> None:
        """Store the tombstone of a user whose access token is the user's name."""
        now = self._clock.wall()
        record = ConnectionRecord(
            zoom_user_id=f"z-{user}",
            user_email=f"{user}@example.com",
            state=State.ACTIVE,
            grant="g1",
            generation=1,
            create_time=now,
            consent_time=now,
            update_time=now,
            refresh_time=now,
            tokens=TokenPair(user, refresh_token, "s", now, now),
        )
        assert await self.connections.write(replace(decisions.end(record, Cause.REVOKED, now), **fields))

    async def run(self, steps: int) -> None:
        """Run passes until there are a number of steps."""

        async def record_pass(page: Any, *arguments: Any, **filters: Any) -> Any:
            self.steps.append("pass")
            return await page(*arguments, **filters)

        with self.store.intercept("page", record_pass):
            retries = asyncio.create_task(self._disconnector.retry_revocations())
            while len(self.steps) < steps:
                await asyncio.sleep(0)
            retries.cancel()


async def test_each_pass_calls_an_unresponsive_zoom_for_a_few_users_in_turn() -> None:
    sweep = Sweep(Unknown("injected"))
    for user in ("basil", "monica", "omar"):
        await sweep.disconnect(user)
    await sweep.run(8)
    assert sweep.steps[:8] == ["pass", "basil", "pass", "monica", "pass", "omar", "pass", "basil"]


async def test_both_tokens_of_a_pair_are_revoked_within_the_time_of_one_call() -> None:
    """The lease, which delays a consent until the revocation is over, covers one call to Zoom."""
    sweep = Sweep(Revoked(), concurrent=2)
    await sweep.disconnect("monica", refresh_token="monica refresh")
    await sweep.run(4)
    assert sweep.steps[:4] == ["pass", "monica", "monica refresh", "pass"]


async def test_revocation_that_waits_for_an_exchange_does_not_end_the_pass() -> None:
    """Zoom is not called for the user, so nothing indicates that Zoom does not respond."""
    sweep = Sweep(Revoked())
    exchange = PendingAttempt(epoch=1, started_at=SystemClock().wall())
    await sweep.disconnect("basil", pending_attempts=(exchange,))
    await sweep.disconnect("monica")
    await sweep.run(3)
    assert sweep.steps[:3] == ["pass", "monica", "pass"]


async def test_corrupt_tombstone_does_not_prevent_the_revocations_of_other_users() -> None:
    sweep = Sweep(Revoked())
    await sweep.disconnect("basil")
    await sweep.disconnect("monica")
    corrupt, _ = await sweep.connections.read_encrypted("z-basil")
    assert corrupt is not None
    assert await sweep.store.put(replace(corrupt, value=b"\x03"), corrupt.rev)
    await sweep.run(4)
    assert sweep.steps.count("monica") == 1
