"""A service process that listens on no port, and a token endpoint that rotates refresh tokens."""

import time

from support.effect_driver import create_driver, create_repository
from zoomgate_server.clock import SystemClock
from zoomgate_server.concurrency_limit import ConcurrencyLimit, Limit
from zoomgate_server.connections.record import ConnectionRecord, State
from zoomgate_server.connections.refresh.protocol import Config
from zoomgate_server.connections.refresh.refresher import Refresher
from zoomgate_server.connections.token_pair import TokenPair
from zoomgate_server.encryption.cipher import Key, KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import RecordStore
from zoomgate_server.telemetry.metrics import Metrics
from zoomgate_server.zoom.token_outcome import Issued, Rejected, TokenOutcome

OLD, NEW = "0a0a0a0a", "0b0b0b0b"
"""IDs of the two keys in the key rings that `ring` returns."""


def ring(primary: str) -> KeyRing:
    """Return a key ring with the keys `OLD` and `NEW`, one of which is the primary key."""
    return KeyRing(
        [
            Key(key_id, bytes.fromhex(key_id) + bytes(range(start, start + 28)), key_id == primary)
            for key_id, start in ((OLD, 1), (NEW, 50))
        ]
    )


class RotatingZoom:
    """A token endpoint that accepts each refresh token once.

    Attributes:
        valid_tokens: The valid refresh tokens.
        calls: The number of refresh requests, including rejected ones.
    """

    def __init__(self) -> None:
        self.valid_tokens: set[str] = set()
        self.calls = 0

    def issue(self, user: str) -> TokenPair:
        """Issue the first token pair of a user."""
        self.valid_tokens.add(f"{user}-r0")
        now = time.time()
        return TokenPair(f"{user}-a0", f"{user}-r0", "s", now, now)

    async def refresh(self, token: str) -> TokenOutcome:
        """Exchange a refresh token for a new pair."""
        self.calls += 1
        if token not in self.valid_tokens:
            return Rejected("invalid_grant")
        self.valid_tokens.remove(token)
        user, _, number = token.rpartition("-r")
        next_number = int(number) + 1
        self.valid_tokens.add(f"{user}-r{next_number}")
        return Issued(f"{user}-a{next_number}", f"{user}-r{next_number}", "s", 3600.0)


def zoom_user_id(user: str) -> str:
    """Return the ID of the Zoom user with an email address."""
    return f"zoom-{user}"


class Process:
    """A service process.

    Attributes:
        connections: The process's connection repository.
    """

    def __init__(self, store: RecordStore, envelope: Envelope, zoom: RotatingZoom) -> None:
        clock = SystemClock()
        self.connections = create_repository(store, clock, envelope)
        self._zoom = zoom
        metrics = Metrics("0", [])
        self._refresher = Refresher(
            driver=create_driver(store, clock, zoom, envelope=envelope),
            clock=clock,
            metrics=metrics,
            audit=lambda _event: None,
            limit=ConcurrencyLimit(Limit.REFRESHES, 100, clock, metrics),
            config=Config(forced_interval=0.0, max_refreshes=10_000),
        )

    async def connect(self, user: str) -> None:
        """Store a new connection with the first token pair of a user."""
        now = time.time()
        record = ConnectionRecord(
            zoom_user_id=zoom_user_id(user),
            user_email=user,
            state=State.ACTIVE,
            grant="g1",
            generation=1,
            create_time=now,
            consent_time=now,
            update_time=now,
            refresh_time=now,
            tokens=self._zoom.issue(user),
        )
        assert await self.connections.write(record)

    async def refresh(self, user: str) -> ConnectionRecord:
        """Refresh a connection, and return the stored record."""
        record, _ = await self.connections.find(user)
        assert record is not None
        return await self._refresher.refresh(
            record.zoom_user_id,
            seen_generation=record.generation,
            deadline=SystemClock().monotonic() + 30,
            forced=True,
        )

    async def has_valid_token(self, user: str) -> bool:
        """Return whether the stored refresh token is valid."""
        record, _ = await self.connections.find(user)
        assert record is not None
        assert record.tokens is not None
        return record.tokens.refresh_token in self._zoom.valid_tokens
