"""The breaker: when nothing more is asked of the token endpoint, and when it is again."""

from zoomgate_server.connections.refresh.circuit_breaker import (
    LONGEST_THROTTLE_SECONDS,
    OUR_FAULT_SECONDS,
    OUR_FAULTS,
    PROBE_SECONDS,
    SILENCES,
    THROTTLINGS,
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


class StandingClock:
    """A clock that moves when told."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class World:
    """A breaker, its clock, and what it said."""

    def __init__(self) -> None:
        self.clock = StandingClock()
        self.said: list[bool] = []
        self.breaker = CircuitBreaker(self.clock, self.said.append)

    def note(self, outcome: TokenOutcome, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.record(outcome)


def test_our_own_fault_in_a_row_opens_it_and_a_success_closes_it() -> None:
    """Refusals of the app's credentials open it for everybody; after its time one more refusal does so at once, and a success ends it."""
    world = World()
    world.note(AppRejected("invalid_client"), OUR_FAULTS - 1)
    assert world.breaker.open_for() is None
    world.note(AppRejected("invalid_client"))
    assert world.breaker.open_for() == (AppRejected("invalid_client"), OUR_FAULT_SECONDS)
    world.clock.now += OUR_FAULT_SECONDS
    assert world.breaker.open_for() is None
    world.note(AppRejected("invalid_client"))
    assert world.breaker.open_for() is not None
    world.note(ISSUED)
    assert world.breaker.open_for() is None
    assert world.said == [True, False]


def test_users_who_are_refused_say_nothing_about_the_app() -> None:
    """However many users are refused, nobody else waits; and a refusal in between starts the count anew."""
    world = World()
    world.note(Rejected("invalid_grant"), 100)
    world.note(Unknown("lost"), SILENCES - 1)
    world.note(Rejected("invalid_grant"))
    world.note(NotSent("lost"), SILENCES - 1)
    assert world.breaker.open_for() is None
    assert world.said == []


def test_patience_is_kept_for_as_long_as_zoom_asks_within_reason() -> None:
    """One request for patience may be one user's; the second in a row holds everybody for its time, 15 minutes at most."""
    world = World()
    world.note(Throttled(86_400.0), THROTTLINGS - 1)
    assert world.breaker.open_for() is None
    world.note(Throttled(86_400.0))
    assert world.breaker.open_for() == (Throttled(86_400.0), LONGEST_THROTTLE_SECONDS)


def test_silence_opens_it_too() -> None:
    """Requests that fail or whose answers are lost, in a row, stop further ones for a while."""
    world = World()
    world.note(Unknown("lost"), SILENCES - 1)
    world.note(NotSent("refused"))
    assert world.breaker.open_for() is not None


def test_after_its_time_one_at_a_time_finds_out() -> None:
    """Who comes first after the pause may ask Zoom; everybody else waits until that one knows, or long enough for another try."""
    world = World()
    world.note(Unknown("lost"), SILENCES)
    for _ in range(3):
        waiting = world.breaker.open_for()
        assert waiting is not None
        world.clock.now += waiting[1]
        assert world.breaker.open_for() is None
        assert world.breaker.open_for() == (Unknown("lost"), PROBE_SECONDS)
    world.note(ISSUED)
    assert [world.breaker.open_for() for _ in range(3)] == [None, None, None]
