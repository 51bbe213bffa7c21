"""The simulator's clock, which a test can move forward."""

from collections.abc import Callable
from datetime import UTC, datetime

FIRST, LAST = 0.0, 4_102_444_800.0
"""The clock can be set from 1970 up to 2100; seconds since 1970."""


class Clock:
    """Seconds since 1970, as the simulator sees them. It goes forward only.

    Args:
        source: The clock that it follows.
        standing: Stands still at this moment instead, until it is moved.
    """

    def __init__(self, source: Callable[[], float], standing: float | None = None) -> None:
        self._source = source
        self._standing = standing
        self._ahead = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return (self._source() if self._standing is None else self._standing) + self._ahead

    def followed(self) -> float:
        """Tell the time of the clock that it follows, wherever it stands or was moved."""
        return self._source()

    @property
    def stands(self) -> bool:
        """Whether it moves only when told."""
        return self._standing is not None

    def advance(self, seconds: float) -> None:
        """Go forward.

        Raises:
            ValueError: It would go back, or beyond 2100.
        """
        if not (seconds >= 0 and self() + seconds <= LAST):  # false for a NaN too
            raise ValueError("the clock goes forward only, and up to 2100")
        self._ahead += seconds

    def reset(self) -> None:
        """Go back to where it was at the start."""
        self._ahead = 0.0


def parse(text: str) -> float:
    """Read a moment such as `2026-01-01T00:00:00Z`.

    Raises:
        ValueError: It is none, has no `Z` or offset, or is not between 1970 and 2100.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("it has no Z at its end")
    seconds = moment.timestamp()
    if not FIRST <= seconds <= LAST:
        raise ValueError("it is not between 1970 and 2100")
    return seconds


def text(seconds: float) -> str:
    """Write a moment as Zoom does."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
