"""The interface to the system clocks; components receive it through their constructors."""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for timestamps that are stored or shown, and monotonic time for intervals."""

    def wall(self) -> float:
        """Return the Unix time in seconds; the value may jump."""
        ...

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary moment; the value never decreases."""
        ...


class SystemClock:
    """The clocks of the operating system."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
