"""The simulator's clock, which tests can move forward."""

from collections.abc import Callable
from datetime import UTC, datetime

FIRST, LAST = 0.0, 4_102_444_800.0
"""The range of the clock, 1970 to 2100, in seconds since 1970."""


class Clock:
    """The simulator's clock, in seconds since 1970, which only moves forward.

    Args:
        source: The underlying clock.
        frozen_at: If set, the clock is frozen at this time until it is advanced.

    Attributes:
        ahead: The sum of all advances, in seconds.
    """

    def __init__(self, source: Callable[[], float], frozen_at: float | None = None) -> None:
        self._source = source
        self._frozen_at = frozen_at
        self.ahead = 0.0

    def __call__(self) -> float:
        """Return the current time."""
        return (self._source() if self._frozen_at is None else self._frozen_at) + self.ahead

    def source_time(self) -> float:
        """Return the time of the underlying clock, ignoring freezes and advances."""
        return self._source()

    @property
    def frozen(self) -> bool:
        """Whether the clock moves only when it is advanced."""
        return self._frozen_at is not None

    def advance(self, seconds: float) -> None:
        """Move the clock forward.

        Raises:
            ValueError: The result would be in the past or after 2100.
        """
        self.check_advance(seconds)
        self.ahead += seconds

    def check_advance(self, seconds: float) -> None:
        """Check that the clock can move forward by this time.

        Raises:
            ValueError: The result would be in the past or after 2100.
        """
        if not (seconds >= 0 and self() + seconds <= LAST):  # also rejects NaN
            raise ValueError("the clock only moves forward, up to 2100")

    def reset(self) -> None:
        """Undo all advances."""
        self.ahead = 0.0


def parse(text: str) -> float:
    """Parse a timestamp such as `2026-01-01T00:00:00Z`.

    Raises:
        ValueError: The text is not a timestamp, contains no `Z` or UTC offset, or is not between 1970 and 2100.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("the timestamp contains no time zone; append Z")
    seconds = moment.timestamp()
    if not FIRST <= seconds <= LAST:
        raise ValueError("the timestamp is not between 1970 and 2100")
    return seconds


def text(seconds: float) -> str:
    """Format a timestamp as Zoom does."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
