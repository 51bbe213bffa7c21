"""Tests for the retries of revocations that Zoom has not confirmed."""

import asyncio
from dataclasses import replace
from typing import Any

from support.faulty_store import FaultyStore
from support.memory_store import MemoryStore
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.connections.disconnection import Disconnector, Timing, make_tombstone
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.repository import ConnectionRepository
from zoomgate_server.connections.revocation import Revoker
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.token_outcome import RevokeOutcome, Unknown


class UnresponsiveZoom:
    """A revocation endpoint that does not respond, and appends the tokens of all requests to a list."""

    def __init__(self, steps: list[str]) -> None:
        self._steps = steps

    async def revoke(self, token: str) -> RevokeOutcome:
        self._steps.append(token)
        await asyncio.sleep(0)
        return Unknown("injected")


async def test_each_pass_calls_an_unresponsive_zoom_for_a_few_users_in_turn() -> None:
    steps: list[str] = []

    async def record_pass(page: Any, *arguments: Any, **filters: Any) -> Any:
        steps.append("pass")
        return await page(*arguments, **filters)

    clock, zoom = SystemClock(), UnresponsiveZoom(steps)
    store = FaultyStore(MemoryStore(clock.wall))
    ring = KeyRing([Key("0a0b0c0d", bytes(range(32)), primary=True)])
    connections = ConnectionRepository(
        app="app",
        store=store,
        envelope=Envelope(app="app", keys=ring),
        clock=clock,
        on_read=lambda: None,
    )
    now = clock.wall()
    for user in ("basil", "monica", "omar"):
        record = ConnectionRecord(
            user_email=f"{user}@example.com",
            state=State.ACTIVE,
            grant="g1",
            generation=1,
            create_time=now,
            consent_time=now,
            update_time=now,
            refresh_time=now,
            tokens=TokenPair(user, "", "bearer", "s", "", now, now),
        )
        assert await connections.write(replace(make_tombstone(record, now, revoke=True), rev=0))
    disconnector = Disconnector(
        connections=connections,
        drop_token=lambda _: None,
        revoker=Revoker(zoom, ConcurrencyLimit(Limit.REFRESHES, 100, clock, Metrics("0"))),  # type: ignore[arg-type] - the only method in use
        clock=clock,
        audit=lambda _: None,
        max_consecutive_failures=1,
        timing=Timing(retry_interval=0.0),
    )
    with store.intercept("page", record_pass):
        retries = asyncio.create_task(disconnector.retry_revocations())
        while len(steps) < 8:
            await asyncio.sleep(0)
        retries.cancel()
    assert steps[:8] == ["pass", "basil", "pass", "monica", "pass", "omar", "pass", "basil"]
