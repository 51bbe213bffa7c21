"""The interface to the system clocks; components receive it through their constructors."""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for timestamps that are stored or shown, and monotonic time for intervals."""

    def wall(self) -> float:
        """Return the seconds since 1970; may jump."""
        ...

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary moment; never decreases."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def wall(self) -> float:
        """Return the seconds since 1970; may jump."""
        return time.time()

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary moment; never decreases."""
        return time.monotonic()
