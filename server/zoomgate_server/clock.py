"""Time, as everybody here receives it through a constructor."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one for times that are stored or shown, one for intervals."""

    def wall(self) -> float:
        """Seconds since 1970; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def wall(self) -> float:
        """Seconds since 1970; may jump."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()
