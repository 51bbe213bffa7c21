"""Tests for the circuit breaker of Zoom's token endpoint."""

from itertools import count

import pytest

from zoomgate_server.connections.refresh.circuit_breaker import (
    APP_REJECTION_PAUSE_SECONDS,
    APP_REJECTION_USERS,
    MAX_THROTTLED_PAUSE_SECONDS,
    PROBE_INTERVAL_SECONDS,
    THROTTLED_USERS,
    UNREACHABLE_USERS,
    CircuitBreaker,
)
from zoomgate_server.zoom.token_outcome import (
    AppRejected,
    Issued,
    NotSent,
    Rejected,
    Throttled,
    TokenOutcome,
    UnexplainedRejection,
    Unknown,
)

ISSUED = Issued("a", "r", "", 3600.0)


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
        self._numbers = count()

    def record(self, outcome: TokenOutcome, users: int = 1) -> None:
        """Record an outcome for each of this number of users who had no outcome before."""
        for _ in range(users):
            self.breaker.record(f"user{next(self._numbers)}@example.com", outcome)


def test_consecutive_app_rejections_open_the_breaker_and_a_success_closes_it() -> None:
    """After the pause, a single further rejection opens the breaker again."""
    world = World()
    world.record(AppRejected("invalid_client"), APP_REJECTION_USERS - 1)
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
    world.record(Unknown("lost"), UNREACHABLE_USERS - 1)
    world.record(Rejected("invalid_grant"))
    world.record(NotSent("lost"), UNREACHABLE_USERS - 1)
    assert world.breaker.open_for() is None
    assert world.changes == []


def test_unexplained_rejections_neither_count_nor_reset_the_count() -> None:
    """They do not show whether Zoom accepts the app."""
    world, rejection = World(), UnexplainedRejection("access_denied", "The account is locked", 400)
    world.record(rejection, 100)
    world.record(AppRejected("invalid_client"), APP_REJECTION_USERS - 1)
    world.record(rejection)
    assert world.breaker.open_for() is None
    world.record(AppRejected("invalid_client"))
    assert world.breaker.open_for() is not None
    world.record(rejection)
    assert world.breaker.open_for() is not None


@pytest.mark.parametrize(
    "outcome", [AppRejected("redirect 302"), Throttled(2.0), NotSent("refused"), Unknown("lost")], ids=repr
)
def test_failures_of_one_user_never_open_the_breaker(outcome: TokenOutcome) -> None:
    """They count as much as a single failure."""
    world = World()
    for _ in range(100):
        world.breaker.record("monica@example.com", outcome)
    assert world.breaker.open_for() is None
    world.record(outcome, max(APP_REJECTION_USERS, THROTTLED_USERS, UNREACHABLE_USERS))
    assert world.breaker.open_for() is not None


def test_429_of_a_second_user_opens_the_breaker_for_at_most_15_minutes() -> None:
    world = World()
    world.record(Throttled(86_400.0), THROTTLED_USERS - 1)
    assert world.breaker.open_for() is None
    world.record(Throttled(86_400.0))
    assert world.breaker.open_for() == (Throttled(86_400.0), MAX_THROTTLED_PAUSE_SECONDS)


def test_consecutive_failed_requests_and_lost_responses_open_the_breaker() -> None:
    world = World()
    world.record(Unknown("lost"), UNREACHABLE_USERS - 1)
    world.record(NotSent("connection refused"))
    assert world.breaker.open_for() is not None


def test_one_probe_at_a_time_is_sent_after_the_pause() -> None:
    """Other tokens are not sent until the probe has an outcome, or until the next probe is due."""
    world = World()
    world.record(Unknown("lost"), UNREACHABLE_USERS)
    for _ in range(3):
        opened = world.breaker.open_for()
        assert opened is not None
        assert world.breaker.admit() == opened[0]
        world.clock.now += opened[1]
        assert world.breaker.admit() is None
        assert isinstance(world.breaker.admit(), NotSent)
        assert world.breaker.open_for() == (world.breaker.admit(), PROBE_INTERVAL_SECONDS)
    world.record(ISSUED)
    assert [world.breaker.admit() for _ in range(3)] == [None, None, None]


def test_refresh_that_sends_nothing_leaves_the_probe_to_others() -> None:
    world = World()
    world.record(Unknown("lost"), UNREACHABLE_USERS)
    world.clock.now += 3600.0
    assert [world.breaker.open_for() for _ in range(3)] == [None, None, None]
    assert world.breaker.admit() is None
