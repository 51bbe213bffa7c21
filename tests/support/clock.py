"""A clock that tests advance."""

from zoomgate_server.clock import SystemClock


class AdvancingClock(SystemClock):
    """The system clock, set forward by a number of seconds.

    Attributes:
        ahead: Seconds by which both the wall time and the monotonic time are ahead.
    """

    ahead = 0.0

    def wall(self) -> float:
        return super().wall() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead
