"""Tests for the backoff of users whose refreshes fail."""

from zoomgate_server.connections.refresh.protocol import Timing
from zoomgate_server.connections.refresh.user_backoff import UserBackoff
from zoomgate_server.zoom.token_outcome import NotSent, Throttled, TokenOutcome, Unknown

MONICA, OMAR = "monica@example.com", "omar@example.com"


class ManualClock:
    """A manually controlled clock."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


def pauses(backoff: UserBackoff, clock: ManualClock, *outcomes: TokenOutcome) -> list[float]:
    """Let Monica's refreshes fail with these outcomes, each at the end of the previous pause. Return the pauses."""
    seconds = []
    for outcome in outcomes:
        backoff.record_failure(MONICA, outcome)  # type: ignore[arg-type] - only failures
        remaining = backoff.remaining(MONICA)
        assert remaining is not None
        assert remaining[0] == outcome
        seconds.append(remaining[1])
        clock.now += remaining[1]
        assert backoff.remaining(MONICA) is None
    return seconds


def test_pauses_double_from_one_second_to_five_minutes() -> None:
    """A success resets the pause."""
    clock = ManualClock()
    backoff = UserBackoff(clock, Timing())
    expected = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert pauses(backoff, clock, *(Unknown("lost") for _ in expected)) == expected
    backoff.reset(MONICA)
    assert pauses(backoff, clock, NotSent("refused")) == [1]


def test_pause_is_at_least_as_long_as_zoom_requests() -> None:
    clock = ManualClock()
    failures = Throttled(60.0), Throttled(1.0), Throttled(1.0)
    assert pauses(UserBackoff(clock, Timing()), clock, *failures) == [60.0, 2.0, 4.0]


def test_failures_of_one_user_delay_no_other_user() -> None:
    backoff = UserBackoff(ManualClock(), Timing())
    for _ in range(10):
        backoff.record_failure(MONICA, Unknown("lost"))
    assert backoff.remaining(OMAR) is None


def test_user_whose_failure_is_the_oldest_is_forgotten_first() -> None:
    backoff = UserBackoff(ManualClock(), Timing(), capacity=2)
    for user in (MONICA, OMAR, MONICA, "basil@example.com"):
        backoff.record_failure(user, Unknown("lost"))
    assert backoff.remaining(OMAR) is None
    assert backoff.remaining(MONICA) == (Unknown("lost"), 2.0)
