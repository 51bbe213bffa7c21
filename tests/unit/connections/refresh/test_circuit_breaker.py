"""Tests for the circuit breaker of Zoom's token endpoint."""

from zoomgate_server.connections.refresh.circuit_breaker import (
    APP_REJECTION_PAUSE_SECONDS,
    MAX_APP_REJECTIONS,
    MAX_THROTTLED,
    MAX_THROTTLED_PAUSE_SECONDS,
    MAX_UNREACHABLE,
    PROBE_INTERVAL_SECONDS,
    CircuitBreaker,
)
from zoomgate_server.zoom.token_outcome import (
    AppRejected,
    Issued,
    NotSent,
    Rejected,
    Throttled,
    TokenOutcome,
    Unknown,
)

ISSUED = Issued("a", "r", "bearer", "", "", 3600.0)


class ManualClock:
    """A manually controlled clock."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class World:
    """A circuit breaker, its clock, and the state changes that it reported."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.changes: list[bool] = []
        self.breaker = CircuitBreaker(self.clock, self.changes.append)

    def record(self, outcome: TokenOutcome, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.record(outcome)


def test_consecutive_app_rejections_open_the_breaker_and_a_success_closes_it() -> None:
    """After the pause, a single further rejection opens the breaker again."""
    world = World()
    world.record(AppRejected("invalid_client"), MAX_APP_REJECTIONS - 1)
    assert world.breaker.open_for() is None
    world.record(AppRejected("invalid_client"))
    assert world.breaker.open_for() == (AppRejected("invalid_client"), APP_REJECTION_PAUSE_SECONDS)
    world.clock.now += APP_REJECTION_PAUSE_SECONDS
    assert world.breaker.open_for() is None
    world.record(AppRejected("invalid_client"))
    assert world.breaker.open_for() is not None
    world.record(ISSUED)
    assert world.breaker.open_for() is None
    assert world.changes == [True, False]


def test_rejected_users_never_open_the_breaker_and_reset_the_count() -> None:
    world = World()
    world.record(Rejected("invalid_grant"), 100)
    world.record(Unknown("lost"), MAX_UNREACHABLE - 1)
    world.record(Rejected("invalid_grant"))
    world.record(NotSent("lost"), MAX_UNREACHABLE - 1)
    assert world.breaker.open_for() is None
    assert world.changes == []


def test_second_consecutive_429_opens_the_breaker_for_at_most_15_minutes() -> None:
    world = World()
    world.record(Throttled(86_400.0), MAX_THROTTLED - 1)
    assert world.breaker.open_for() is None
    world.record(Throttled(86_400.0))
    assert world.breaker.open_for() == (Throttled(86_400.0), MAX_THROTTLED_PAUSE_SECONDS)


def test_consecutive_failed_requests_and_lost_responses_open_the_breaker() -> None:
    world = World()
    world.record(Unknown("lost"), MAX_UNREACHABLE - 1)
    world.record(NotSent("connection refused"))
    assert world.breaker.open_for() is not None


def test_one_probe_at_a_time_is_allowed_after_the_pause() -> None:
    """Other callers wait until the probe has an outcome, or until the next probe is due."""
    world = World()
    world.record(Unknown("lost"), MAX_UNREACHABLE)
    for _ in range(3):
        opened = world.breaker.open_for()
        assert opened is not None
        world.clock.now += opened[1]
        assert world.breaker.open_for() is None
        assert world.breaker.open_for() == (Unknown("lost"), PROBE_INTERVAL_SECONDS)
    world.record(ISSUED)
    assert [world.breaker.open_for() for _ in range(3)] == [None, None, None]
